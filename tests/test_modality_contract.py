"""Every modality keeps the contract of modalities/base.py, by its mere existence as a file."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omniloom.modalities import Clip, load, names
from omniloom.modalities.base import Footage, Modality, Window, read, recorder_of
from omniloom.modalities.models import family_of

THERMAL = '''
"""Surface temperature, made up: one float16 grid a frame."""
from dataclasses import dataclass
import numpy as np
from omniloom.modalities import Part, codecs, geometry
from omniloom.modalities.base import Made, Stem, all_facts as narrow, no_models as models, whole_member as pieces

suffix, codec, letter, needs = "thermal.npy", "npy", "x", ("frames",)
facts = {"num_frames": "int64", "unit": "string"}
stem = Stem("image", 1)
tolerance = 1e-3

@dataclass(frozen=True)
class Config:
    offset_c: float = 0.0

@dataclass(frozen=True)
class Thermal:
    celsius: np.ndarray

def extract(footage, config, ask):
    frames = footage.made.get("frames")
    return Made(Thermal(frames.rgb.mean(axis=3) + config.offset_c), "made up") if frames else None

def encode(value):
    return Part(codecs.encode_npy(value.celsius.astype(np.float16)), {"num_frames": len(value.celsius), "unit": "C"})

def assemble(pieces, facts):
    return Thermal(pieces[0].astype(np.float32))

def tensor(value, window):
    shown = value.celsius[window.choose(len(value.celsius))]
    return np.float32(geometry.show_nearest(shown, geometry.view_of(window), window.image_px)[:, None])

def example(rng):
    return Thermal(rng.uniform(0, 40, (3, 8, 10)).astype(np.float32))
'''

WINDOWS = [
    Window(),
    Window(num_frames=7, image_px=40, num_samples=1000, num_points=5000),
    Window(num_frames=2, image_px=16, num_samples=500, num_points=64, train=True, seed=5),
    Window(num_frames=1, image_px=24, num_samples=5000, num_points=200, train=True, seed=2**63 + 11),
]


@pytest.fixture(params=[*names(), "mylab.thermal"])
def modality(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Modality]:
    if request.param != "mylab.thermal":
        yield load(request.param)
        return
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "thermal.py").write_text(THERMAL)
    monkeypatch.syspath_prepend(str(tmp_path))
    load.cache_clear()
    yield load("mylab.thermal")
    load.cache_clear()
    for name in ("mylab.thermal", "mylab"):
        sys.modules.pop(name, None)


@pytest.fixture
def value(modality: Modality) -> Any:
    return modality.example(np.random.default_rng(7))


def test_reading_undoes_encoding(modality: Modality, value: Any) -> None:
    assert_close(read(modality, modality.encode(value)), value, getattr(modality, "tolerance", 0.0))


def test_encoding_what_was_read_gives_the_same_value_again(modality: Modality, value: Any) -> None:
    once = read(modality, modality.encode(value))
    if getattr(once, "data", b"") is None:
        with pytest.raises(ValueError, match="decoded"):
            modality.encode(once)
        return
    assert_close(read(modality, modality.encode(once)), once, getattr(modality, "tolerance", 0.0))


def test_encoding_is_deterministic(modality: Modality) -> None:
    first, second = (modality.encode(modality.example(np.random.default_rng(3))) for _ in range(2))
    assert first == second
    assert first != modality.encode(modality.example(np.random.default_rng(4)))


def test_facts_are_the_declared_columns_of_the_declared_types(modality: Modality, value: Any) -> None:
    facts = modality.encode(value).facts
    assert set(facts) == set(modality.facts)
    python = {"string": str, "int64": int, "double": float, "bool": bool}
    for name, declared in modality.facts.items():
        stored, inner = facts[name], declared.removeprefix("list<").removesuffix(">")
        for item in stored if declared.startswith("list<") else [stored]:
            assert type(item) is python[inner], f"{name} is declared {declared}, got {stored!r}"


@pytest.mark.parametrize("window", WINDOWS)
def test_tensors_are_shaped_as_the_stem_says(modality: Modality, value: Any, window: Window) -> None:
    shown = modality.tensor(value, window)
    if modality.stem.kind == "text":
        assert isinstance(shown, str)
        return
    shapes = {
        "image": (window.num_frames, modality.stem.channels, window.image_px, window.image_px),
        "mel": (window.num_samples,),
        "points": (window.num_points, modality.stem.channels),
        "none": (0,),
    }
    assert isinstance(shown, np.ndarray)
    assert shown.shape == shapes[modality.stem.kind]
    assert shown.dtype == np.float32
    assert np.isfinite(shown).all()
    if modality.stem.kind == "mel":
        assert np.abs(shown).max() <= 1


@pytest.mark.parametrize("window", WINDOWS)
def test_equal_windows_give_equal_tensors_and_leave_the_value_alone(modality: Modality, window: Window) -> None:
    first, second = (modality.example(np.random.default_rng(9)) for _ in range(2))
    shown = modality.tensor(first, window)
    assert np.array_equal(shown, modality.tensor(second, window))
    assert np.array_equal(shown, modality.tensor(first, window)), "tensor() changed the value"


@pytest.mark.parametrize("window", WINDOWS)
def test_reading_only_what_a_window_shows_gives_the_same_tensor(modality: Modality, value: Any, window: Window) -> None:
    part = modality.encode(value)
    narrowed = modality.narrow(part.facts, window)
    assert set(narrowed) - {"shown"} == set(part.facts)
    some = read(modality, dataclasses.replace(part, facts=narrowed))
    assert np.array_equal(modality.tensor(some, window), modality.tensor(read(modality, part), window))


def test_pieces_lie_inside_the_member(modality: Modality, value: Any) -> None:
    part = modality.encode(value)
    for offset, size in modality.pieces(part.facts, len(part.data)):
        assert 0 <= offset < offset + size <= len(part.data)


def test_damaged_bytes_raise_value_error(modality: Modality, value: Any) -> None:
    part = modality.encode(value)
    for data in (b"", b"\0" * len(part.data), bytes(reversed(part.data)), part.data[: len(part.data) // 3]):
        with pytest.raises(ValueError):
            read(modality, dataclasses.replace(part, data=data))


def test_config_is_a_frozen_dataclass_with_defaults(modality: Modality) -> None:
    config = modality.Config()
    assert dataclasses.is_dataclass(config)
    assert modality.Config.__dataclass_params__.frozen
    assert config == modality.Config(**dataclasses.asdict(config))


def test_needs_and_models_are_known(modality: Modality) -> None:
    assert set(modality.needs) <= set(names())
    for ref in modality.models(modality.Config()):
        family = family_of(ref)
        assert 0 < family.GPUS <= 1
        family.check(ref)
        model, revision = family.describe(ref)
        assert model
        assert isinstance(revision, str)


def test_suffix_and_letter_are_its_own(modality: Modality) -> None:
    others = [load(name) for name in names() if load(name) is not modality]
    assert modality.suffix not in {other.suffix for other in others}
    assert modality.letter == "" or modality.letter not in {other.letter for other in others}
    assert (modality.letter == "") == (modality.stem.kind == "none")


def test_an_empty_clip_has_none_of_it(modality: Modality, tmp_path: Path) -> None:
    footage = Footage(Clip("0" * 64, 0, 10**9), str(tmp_path / "none.mp4"), frames=None, audio=None)

    def ask(*_: object) -> None:
        raise AssertionError("nothing to ask a network about")

    assert modality.extract(footage, modality.Config(), ask) is None
    recorder = recorder_of(modality, modality.Config())
    assert recorder is None or recorder.finish(None) is None


def test_it_says_in_a_sentence_what_it_is(modality: Modality) -> None:
    doc = inspect.getdoc(modality)
    assert doc
    assert len(doc.splitlines()[0]) > 20


def assert_close(got: Any, wanted: Any, tolerance: float, name: str = "value") -> None:
    """Equal, but for numbers of arrays, that may differ by a fraction of the array's range. NaN equals NaN."""
    lossy = isinstance(wanted, np.ndarray) and (wanted.dtype.kind == "f" or wanted.dtype == np.uint8)
    if lossy and tolerance:
        assert got.shape == wanted.shape, name
        assert got.dtype == wanted.dtype, name
        unknown = np.isnan(wanted)
        assert np.array_equal(np.isnan(got), unknown), name
        known = wanted[~unknown].astype(np.float64)
        bound = tolerance * max(np.ptp(known), 1e-9)
        assert np.abs(got[~unknown].astype(np.float64) - known).max() <= bound, name
    elif isinstance(wanted, np.ndarray):
        assert got.dtype == wanted.dtype, name
        assert np.array_equal(got, wanted), name
    elif dataclasses.is_dataclass(wanted):
        assert type(got) is type(wanted), name
        for field in dataclasses.fields(wanted):
            if field.compare:
                assert_close(getattr(got, field.name), getattr(wanted, field.name), tolerance, f"{name}.{field.name}")
    else:
        assert got == wanted, name
