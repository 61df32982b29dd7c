"""What DALI shows of whole parts is what our own codecs and modalities show, within stated tolerances."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from omniloom import open_corpus
from omniloom.modalities import Part, audio, codecs, depth, frames, geometry, load, names, normal, points, video
from omniloom.modalities.base import Frames, Waveform, Window
from omniloom.modalities.sample import Clip
from omniloom.pipeline import Loader
from omniloom.pipeline.corpus import create_corpus
from omniloom.pipeline.device import LeftToCpuError, feed_of
from omniloom.pipeline.index import index
from omniloom.pipeline.movies import coding_of, frames_in
from omniloom.pipeline.rows import Member
from omniloom.pipeline.shard import write_unit
from omniloom.pipeline.view import Decoder, Fetched, Shown
from omniloom.trainer.stems import MelImages
from tests.media import make_clip
from tests.shards import make_corpus, make_sample, source_id
from tests.test_index import write_tar

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

from omniloom.pipeline import dali as dali_module
from omniloom.pipeline.dali import DaliDecoder

LEVEL = 2 / 255
"""One of 256 levels of colour, of a range from -1 to 1."""
TOLERANCES = {
    "frames": (4.5 * LEVEL, 0.3 * LEVEL),
    "audio": (0.0, 0.0),
    "depth": (1e-5, 1e-6),
    "normal": (1e-6, 1e-7),
    "points": (1e-5, 1e-6),
}
"""Largest and mean difference, in the unit of the array. Pillow rounds to whole levels between its two passes."""
GPU_TOLERANCES = {**TOLERANCES, "frames": (24 * LEVEL, 1.5 * LEVEL)}
"""nvJPEG's inverse transform and colours are not libjpeg's."""
MOVIE_TOLERANCE = (2.5 if torch.cuda.is_available() else 1) * LEVEL
"""Mean, on smooth pictures: each decoder has its own way from half the colours to all of them."""
ALL = ("frames", "audio", "depth", "normal", "points", "caption")
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.fixture(params=[pytest.param(None, id="cpu"), pytest.param(0, id="gpu", marks=ON_GPU)])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return on_device(request.param)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """What is left to the CPU is told by warnings: tests that want to hear them catch them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def on_device(device_id: int | None) -> Decoder:
    made = Decoder("cpu", 2)
    made.dali = DaliDecoder(device_id, 2)
    return made


def fetched(name: str, part: Part, window: Window) -> Fetched:
    module = load(name)
    facts = module.narrow(part.facts, window)
    spans = module.pieces(facts, len(part.data))
    cut = {(offset, size): part.data[offset : offset + size] for offset, size in spans}
    return Fetched(facts, [cut[tuple(span)] for span in spans])


def by_cpu(name: str, part: Part, window: Window) -> np.ndarray:
    module, item = load(name), fetched(name, part, window)
    return np.asarray(
        module.tensor(module.assemble(Decoder("cpu", 1).decode(module.codec, item.pieces), item.facts), window)
    )


def by_dali(decoder: Decoder, name: str, part: Part, window: Window) -> np.ndarray:
    sample = {name: fetched(name, part, window)}
    decoder.decode_many([sample], [window], {name: load(name)})
    assert isinstance(sample[name], Shown), sample[name].pieces
    row = sample[name].row
    assert decoder.dali is not None
    assert row.device.type == ("cpu" if decoder.dali.device_id is None else "cuda")
    return row.cpu().numpy()


def large(name: str, rng: np.random.Generator) -> Sequence[Any]:
    """Values of the sizes that corpora have; noisy, so that a pixel more or less would be seen."""
    pts_ns = np.arange(6, dtype=np.int64) * 500_000_000
    y, x = np.mgrid[0:144, 0:256]
    k = geometry.assumed_intrinsics(256, 144)
    if name == "frames":
        waves = np.sin(x / rng.uniform(3, 20)) * np.cos(y / rng.uniform(3, 9))
        rgb = 127 + 60 * waves[None, ..., None] * rng.random((6, 1, 1, 3)) + rng.normal(0, 20, (6, 144, 256, 3))
        return [Frames(np.clip(rgb, 0, 255).astype(np.uint8), pts_ns)]
    if name == "depth":
        z = (2 + np.sin(x / 30) + y / 100 + rng.random((6, 144, 256))).astype(np.float32)
        z[:, 10:40, 50:90] = np.nan
        unknown = np.full_like(z, np.nan)
        return [
            depth.Depth(z, pts_ns, "metric-z", k, "given", step_m=0.001),
            depth.Depth(z, pts_ns, "relative", k, "given"),
            depth.Depth(z - 3, pts_ns, "relative-inverse", k, "given"),  # which may be negative
            depth.Depth(unknown, pts_ns, "relative", k, "given"),
        ]
    if name == "normal":
        slopes = np.stack([np.sin(x / 20) / 2, np.cos(y / 9) / 2, -np.ones(x.shape)], -1) + rng.normal(
            0, 0.1, (6, 144, 256, 3)
        )
        n = (slopes / np.linalg.norm(slopes, axis=-1, keepdims=True)).astype(np.float32)
        n[:, 50:70, 60:99] = np.nan
        return [normal.Normals(n, pts_ns, "metric-z")]
    if name == "audio":
        return [Waveform(rng.integers(-32768, 32768, count).astype(np.int16)) for count in (50_000, 16_000, 100)]
    clouds = [
        np.concatenate([rng.normal(size=(count, 3)) * 5 + [3, -1, 40], rng.random((count, 3))], 1)
        for count in (2048, 70)
    ]
    return [points.Cloud(cloud.astype(np.float32), 0, "m", "given") for cloud in clouds]


@pytest.mark.parametrize("px", [64, 224])
@pytest.mark.parametrize("name", TOLERANCES)
def test_every_modality_is_shown_as_our_own_code_shows_it(
    name: str, px: int, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decoder.dali is not None
    most, mean = (TOLERANCES if decoder.dali.device_id is None else GPU_TOLERANCES)[name]
    module = load(name)
    view_of = geometry.view_of
    seen: set[bytes] = set()
    for seed in range(2):
        values = [*large(name, np.random.default_rng(seed)), module.example(np.random.default_rng(seed))]
        for train, flip in ((False, False), (True, False), (True, True)):
            monkeypatch.setattr(geometry, "view_of", lambda window, flip=flip: replace(view_of(window), flip=flip))
            window = Window(4, px, 16_000, 300, train=train, seed=seed)
            for value in values:
                part = module.encode(value)
                shown, expected = by_dali(decoder, name, part, window), by_cpu(name, part, window)
                assert shown.shape == expected.shape
                assert shown.dtype == expected.dtype == np.float32
                apart = np.abs(shown - expected)
                assert apart.max() <= most * max(1, np.abs(expected).max()), (seed, train, flip)
                assert apart.mean() <= mean * max(1, np.abs(expected).max()), (seed, train, flip)
                seen.add(shown.tobytes())
    assert len(seen) > 2 * len(values), "windows, flips and seeds change what is seen"


def test_every_modality_for_training_has_a_graph_or_is_text() -> None:
    for name in names():
        module = load(name)
        if module.stem.kind not in {"text", "none"}:
            assert name in TOLERANCES, f"{name} is only decoded by DALI: say in `pipeline/device.py` how it is shown"


# --- batches --------------------------------------------------------------------------------------------------


def test_batches_of_all_modalities_are_the_same_from_both_backends(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=2, per_unit=12, modalities=ALL)
    window = Window(num_frames=3, image_px=32, num_samples=1600, num_points=200)
    ours, dalis = (Loader(corpus, ALL, 5, backend=backend, workers=2, window=window) for backend in ("cpu", "dali"))
    steps = 0
    for a, b in islice(zip(ours, dalis, strict=False), 8):
        assert a.keys == b.keys
        assert a.texts == b.texts
        for name in TOLERANCES:
            assert torch.equal(a.present[name], b.present[name])
            assert a.tensors[name].shape == b.tensors[name].shape
            assert b.tensors[name].is_cuda == torch.cuda.is_available()
            apart = (a.tensors[name] - b.tensors[name].cpu()).abs()
            assert apart.max() <= GPU_TOLERANCES[name][0], name
            if not a.present[name].all():
                assert not b.tensors[name][~b.present[name]].any()
        steps += 1
    assert steps == 8
    assert "left to the cpu" not in dalis.backend_report


def test_a_sample_is_shown_alike_whoever_else_is_in_its_batch(tmp_path: Path) -> None:
    """Also of other sizes and other ranks: nothing but its seed enters."""
    corpus = make_corpus(tmp_path, units=2, per_unit=8, modalities=ALL)
    window = Window(num_frames=3, image_px=32, num_samples=1600, num_points=200)

    def shown(batch_size: int, world_size: int) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for rank in range(world_size):
            loader = Loader(
                corpus, ALL, batch_size, backend="dali", window=window, rank=rank, world_size=world_size, epochs=1
            )
            for batch in loader:
                for row, key in enumerate(batch.keys):
                    found[key] = b"".join(batch.tensors[name][row].cpu().numpy().tobytes() for name in TOLERANCES)
        return found

    assert shown(16, 1) == shown(4, 2)
    assert shown(16, 1) == shown(2, 1)


def test_samples_that_have_the_same_modalities_share_a_pipeline(decoder: Decoder) -> None:
    window = Window(num_frames=2, image_px=16, num_samples=800, num_points=64, train=True, seed=5)
    having = [ALL[:5]] * 10 + [("frames", "audio")] * 4 + [("frames", "depth")] + [("audio", "points")]
    parts = {name: load(name).encode(load(name).example(np.random.default_rng(1))) for name in ALL[:5]}
    samples: list[dict[str, Any]] = [{name: fetched(name, parts[name], window) for name in has} for has in having]
    decoder.decode_many(samples, [window] * 16, {name: load(name) for name in parts})
    assert all(isinstance(item, Shown) for sample in samples for item in sample.values())
    assert decoder.dali is not None
    groups = [tuple(name for name, _ in key) for key in decoder.dali._pipelines]
    whole = [group for group in groups if len(group) > 1]
    # What few samples have goes by itself, and together with the like of other few.
    assert sorted(whole) == [("audio", "depth", "frames", "normal", "points"), ("audio", "frames")]
    assert sorted(group for group in groups if len(group) == 1) == [("audio",), ("depth",), ("frames",), ("points",)]
    assert (
        len({samples[0]["frames"].row.cpu().numpy().tobytes(), samples[14]["frames"].row.cpu().numpy().tobytes()}) == 1
    )


def test_pipelines_are_few_and_are_closed_when_an_iteration_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dali_module, "_MAX_PIPELINES", 2)
    corpus = make_corpus(tmp_path, units=1, per_unit=12, modalities=ALL)
    window = Window(num_frames=2, image_px=16, num_samples=800, num_points=64)
    loader = Loader(corpus, ALL, 3, backend="dali", window=window, epochs=1)
    held = loader._decoder.dali
    assert held is not None
    counts = [len(held._pipelines) for _ in loader]
    assert max(counts) in {1, 2}
    assert not held._pipelines
    assert len(list(loader)) == len(counts)  # and built again


# --- bad and rare parts ---------------------------------------------------------------------------------------


def corpus_of(folder: Path, damage: Mapping[int, tuple[str, bytes]], count: int = 8) -> Any:
    """A corpus whose samples of these numbers have other bytes, with the right hash: damaged before it was written."""
    create_corpus(folder, modalities=ALL, recipe={"clips": {"length_s": 2.0}})
    made = [make_sample(number, ALL) for number in range(count)]
    for number, (name, data) in damage.items():
        parts = {**made[number].parts, name: replace(made[number].parts[name], data=data)}
        made[number] = replace(made[number], parts=parts)
    write_unit(folder, 0, iter(made), ALL)
    return open_corpus(folder)


def test_one_bad_sample_never_fails_its_batch(tmp_path: Path) -> None:
    whole = make_sample(3, ALL).parts
    png = bytearray(whole["depth"].data)
    png[60] ^= 4
    sound = whole["audio"].data[:-200]
    corpus = corpus_of(tmp_path, {3: ("depth", bytes(png)), 5: ("audio", sound)})
    window = Window(num_frames=2, image_px=16, num_samples=800, num_points=64)
    batches = {}
    for backend in ("cpu", "dali"):
        loader = Loader(corpus, ALL, 8, backend=backend, window=window, train=False, on_bad="skip")
        [batches[backend]] = list(loader)
        assert {(bad.key, bad.modality) for bad in loader.bad} == {
            (make_sample(3, ALL).key, "depth"),
            (make_sample(5, ALL).key, "audio"),
        }
    assert batches["cpu"].keys == batches["dali"].keys
    assert len(batches["dali"]) == 6
    for name in TOLERANCES:
        apart = (batches["cpu"].tensors[name] - batches["dali"].tensors[name].cpu()).abs().max()
        assert apart <= GPU_TOLERANCES[name][0], name


def test_damage_is_never_shown_as_something_else(decoder: Decoder) -> None:
    """Where both can read a damaged part they show the same; a damaged PNG DALI never shows."""
    rng = np.random.default_rng(7)
    window = Window(num_frames=2, image_px=16, num_samples=800, num_points=64)
    assert decoder.dali is not None
    for name in TOLERANCES:
        part = load(name).encode(load(name).example(rng))
        for trial in range(24):
            data = bytearray(part.data)
            at = int(rng.integers(len(data)))
            data[at : at + 1 + 15 * (trial % 2)] = bytes(rng.integers(0, 256, 1 + 15 * (trial % 2), np.uint8))
            bad = Part(bytes(data[: len(part.data)]), part.facts)
            try:
                expected = by_cpu(name, bad, window)
            except ValueError:
                expected = None
            sample: dict[str, Any] = {name: fetched(name, bad, window)}
            decoder.decode_many([sample], [window], {name: load(name)})
            decoder.dali._strikes.clear()
            if expected is None:
                assert load(name).codec != "png" or not isinstance(sample[name], Shown)
            elif isinstance(sample[name], Shown):
                most = GPU_TOLERANCES[name][0] * max(1, np.nanmax(np.abs(expected)))
                assert np.allclose(sample[name].row.cpu().numpy(), expected, rtol=0, atol=most, equal_nan=True)


def test_what_dali_fails_on_again_and_again_is_no_longer_given_to_it(decoder: Decoder) -> None:
    """JPEGs: libjpeg passes over bytes between segments; nvImageCodec does not."""
    window = Window(num_frames=1, image_px=16)
    jpeg = codecs.encode_jpeg(large("frames", np.random.default_rng(0))[0].rgb[0])
    scan = jpeg.index(b"\xff\xda")
    odd = jpeg[:scan] + b"abc" + jpeg[scan:]
    for step in range(5):
        pieces = [jpeg, odd]
        samples = [{"frames": Fetched({"pts_ns": [0]}, [piece])} for piece in pieces]
        decoder.decode_many(samples, [window] * 2, {"frames": load("frames")})
        for sample in samples:
            assert isinstance(sample["frames"].pieces[0], np.ndarray if step < 3 else bytes)
    report = decoder.report([])
    assert "frames: left to the cpu 6 times: batches with a part that it cannot read" in report
    assert "frames: left to the cpu 4 times: parts that DALI failed on though they are whole" in report


def test_damage_is_not_held_against_dali(decoder: Decoder) -> None:
    window = Window(num_frames=1, image_px=16)
    part = load("depth").encode(load("depth").example(np.random.default_rng(0)))
    png = bytearray(part.data)
    png[60] ^= 4
    for _ in range(5):
        samples: list[dict[str, Any]] = [
            {"depth": fetched("depth", one, window)} for one in (part, replace(part, data=bytes(png)))
        ]
        decoder.decode_many(samples, [window] * 2, {"depth": load("depth")})
        assert isinstance(samples[0]["depth"].pieces[0], np.ndarray)
        assert isinstance(samples[1]["depth"].pieces[0], ValueError)
    by_dali(decoder, "depth", part, window)


def test_the_loader_says_once_what_is_left_to_the_cpu(tmp_path: Path) -> None:
    for number in range(4):
        out = io.BytesIO()
        Image.fromarray(large("frames", np.random.default_rng(number))[0].rgb[0]).save(out, "WEBP", lossless=True)
        jpeg = codecs.encode_jpeg(large("frames", np.random.default_rng(number))[0].rgb[0])
        write_tar(
            tmp_path / f"{number}.tar",
            [{"__key__": f"a{number}", "webp": out.getvalue()}, {"__key__": f"b{number}", "jpg": jpeg}],
        )
    index(tmp_path, None, workers=0)
    window = Window(num_frames=1, image_px=32)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        loader = Loader(tmp_path, ["frames"], 2, backend="dali", window=window, train=False)
        batches = list(loader)
    said = [str(warning.message) for warning in heard if "DALI" in str(warning.message)]
    assert said == ["DALI leaves frames to the CPU where there are pictures other than JPEG and PNG"]
    assert "frames: left to the cpu 4 times: pictures other than JPEG and PNG" in loader.backend_report
    expected = list(Loader(tmp_path, ["frames"], 2, backend="cpu", window=window, train=False))
    for batch, other in zip(batches, expected, strict=True):
        assert (batch.tensors["frames"].cpu() - other.tensors["frames"]).abs().max() <= GPU_TOLERANCES["frames"][0]


def test_pictures_turned_by_exif_are_shown_upright(decoder: Decoder) -> None:
    rgb = large("frames", np.random.default_rng(0))[0].rgb[0]
    window = Window(num_frames=1, image_px=64, train=True, seed=3)
    for orientation in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        out = io.BytesIO()
        Image.fromarray(rgb).save(out, "JPEG", quality=95, exif=exif)
        facts: dict[str, Any] = {"pts_ns": [0], "stored_as": "picture"}
        sample: dict[str, Any] = {"frames": Fetched(facts, [out.getvalue()])}
        decoder.decode_many([sample], [window], {"frames": load("frames")})
        expected = frames.tensor(frames.assemble([codecs.decode("picture", out.getvalue())], facts), window)
        apart = np.abs(sample["frames"].row.cpu().numpy() - expected)
        assert apart.mean() <= GPU_TOLERANCES["frames"][1], orientation


def test_headers_that_are_not_as_the_facts_say_are_left_to_our_codecs() -> None:
    window = Window(num_frames=1, image_px=16)
    sound = audio.encode(Waveform(np.zeros(900, np.int16)))
    feed = feed_of(load("audio"), [sound.data], sound.facts, window, None, gpu=False)
    assert feed is not None
    assert feed.branch.graph == "wave"
    for facts in ({**sound.facts, "num_samples": 901}, {**sound.facts, "stored_as": "sound"}):
        with pytest.raises(LeftToCpuError):
            feed_of(load("audio"), [sound.data], facts, window, None, gpu=False)
    wide = load("depth").encode(load("depth").example(np.random.default_rng(0)))
    with pytest.raises(LeftToCpuError, match="damaged"):
        feed_of(load("depth"), [wide.data], {**wide.facts, "height": 23}, window, None, gpu=False)


# --- movies ---------------------------------------------------------------------------------------------------


def movie(codec: Any, matrix: int, size: tuple[int, int] = (160, 96), count: int = 30) -> Part:
    """Coloured stripes over a gradient, another at each time: red is where matrices differ most."""
    encoder = video._Encoder(video.Config(codec=codec, crf=8))
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / size[0]
    for number in range(count):
        rgb = np.stack([127 + 90 * np.sin(5 * x + 3 * y + channel + number / 4) for channel in range(3)], -1)
        rgb[10:40, 10 + 3 * number : 40 + 3 * number] = (220, 40, 40)
        frame = av.VideoFrame.from_ndarray(rgb.astype(np.uint8), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=1)
        frame.colorspace, frame.color_range = matrix, 1
        encoder.picture(frame, number * 40_000_000 + number % 3 * 7_000_000)
    made = encoder.finish(None)
    assert made is not None
    return video.encode(made)


def frames_of(part: Part, decoder: Decoder, window: Window, tmp_path: Path) -> tuple[Any, np.ndarray]:
    clip = Clip(source_id(0), 0, 1_200_000_000)
    member = Member(tmp_path, {**part.facts, "offset": 0, "size": len(part.data), "xxh3": None}, clip)
    sample: dict[str, Any] = {"frames": Fetched(part.facts, [part.data], member)}
    decoder.decode_many([sample], [window], {"frames": load("frames")})
    value = frames_in(part.data, part.facts, clip, frames.Config(), window)
    return sample["frames"], frames.tensor(value, window)


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("codec", ["vp9", pytest.param("h264", marks=ON_GPU)])
def test_frames_of_movies_are_chosen_by_time_and_have_their_colours(
    codec: str, matrix: int, decoder: Decoder, tmp_path: Path
) -> None:
    part = movie(codec, matrix)
    for seed in range(3):
        window = Window(num_frames=4, image_px=64, train=seed > 0, seed=seed)
        shown, expected = frames_of(part, decoder, window, tmp_path)
        if codec == "h264" and decoder.dali is not None and decoder.dali.device_id is None:
            assert not isinstance(shown, Shown)
            continue
        row = shown.row.cpu().numpy()
        for place in range(4):
            apart = [np.abs(row[place] - picture).mean() for picture in expected]
            assert np.argmin(apart) == place
            assert apart[place] < MOVIE_TOLERANCE
    coding = coding_of(part.data, part.facts)
    assert not isinstance(coding, str)
    assert coding.matrix == ("bt709" if matrix == 1 else "bt601")


def test_movies_that_dali_would_show_otherwise_are_left_to_our_own_decoder(tmp_path: Path) -> None:
    part = movie("vp9", 1, count=6)
    cases: dict[str, Part] = {
        "movies with pictures from outside the clip": replace(part, facts={**part.facts, "skip": 2}),
        "movies with oblong pixels": replace(part, facts={**part.facts, "pixel_aspect": 1.25}),
        "movies with more or fewer pictures than stated": replace(part, facts={**part.facts, "pts_ns": [0] * 5}),
        "damaged movies": replace(part, data=part.data[:90]),
    }
    made = {
        "movies that are turned": make_clip(tmp_path / "a.mp4", seconds=0.3, rotation_deg=180),
        "movies other than 8-bit 4:2:0": make_clip(tmp_path / "b.mp4", seconds=0.3, pix_fmt="yuv444p"),
        "movies that are no MP4": make_clip(tmp_path / "c.mkv", seconds=0.3),
    }
    cases |= {why: Part(path.read_bytes(), {**part.facts, "pts_ns": [0] * 8}) for why, path in made.items()}
    for why, case in cases.items():
        assert coding_of(case.data, case.facts) == why
    decoder = on_device(None)
    shown, _ = frames_of(movie("h264", 1, count=6), decoder, Window(num_frames=2, image_px=32), tmp_path)
    assert not isinstance(shown, Shown)
    assert "frames: left to the cpu 1 times: h264 movies" in decoder.report([])


def test_a_loader_shows_movies_alike_with_both_backends(tmp_path: Path) -> None:
    y, x = np.mgrid[0:64, 0:96] / 64

    def picture(number: int, time_s: float) -> np.ndarray:
        waves = [np.sin(4 * x + 3 * y + number / 3 + channel) for channel in range(3)]
        return (127 + 90 * np.stack(waves, -1)).astype(np.uint8)

    (tmp_path / "made").mkdir()
    for number, codec in enumerate(("libvpx-vp9", "libx264", "libvpx-vp9")):
        clip = make_clip(
            tmp_path / "made" / f"{number}.mp4", 2 + number, size=(96, 64), video_codec=codec, picture=picture
        )
        write_tar(tmp_path / "web" / f"{number}.tar", [{"__key__": f"{number}", "mp4": clip.read_bytes()}])
    index(tmp_path / "web", None, workers=0)
    window = Window(num_frames=4, image_px=32, num_samples=8000)
    ours, dalis = (
        Loader(tmp_path / "web", ["frames", "audio"], 3, backend=backend, window=window, train=False)
        for backend in ("cpu", "dali")
    )
    [expected], [shown] = list(ours), list(dalis)
    assert shown.keys == expected.keys
    assert torch.equal(shown.tensors["audio"].cpu(), expected.tensors["audio"])
    apart = (shown.tensors["frames"].cpu() - expected.tensors["frames"]).abs().mean((1, 2, 3, 4))
    assert (apart < MOVIE_TOLERANCE).all()
    assert "movie: dali" in dalis.backend_report
    if not torch.cuda.is_available():
        assert "frames: left to the cpu 1 times: h264 movies" in dalis.backend_report


# --- modalities from outside, and the device ----------------------------------------------------------------------


def test_a_modality_without_a_graph_is_decoded_by_dali_and_shown_by_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: Decoder
) -> None:
    (tmp_path / "dalilab").mkdir()
    (tmp_path / "dalilab" / "thermal.py").write_text(
        "from omniloom.modalities import frames\n"
        "globals().update({name: value for name, value in vars(frames).items() if name[0] != '_'})\n"
        "suffix = 'thermal.mov'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = load("dalilab.thermal")
    window = Window(num_frames=3, image_px=32, train=True, seed=2)
    part = module.encode(large("frames", np.random.default_rng(0))[0])
    sample: dict[str, Any] = {"thermal": fetched("dalilab.thermal", part, window)}
    decoder.decode_many([sample], [window], {"thermal": module})
    pieces = sample["thermal"].pieces
    assert all(isinstance(piece, np.ndarray) for piece in pieces)
    shown = module.tensor(module.assemble(pieces, sample["thermal"].facts), window)
    assert np.abs(shown - by_cpu("frames", part, window)).mean() < GPU_TOLERANCES["frames"][1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_spectrograms_of_batches_made_on_the_gpu_are_those_of_the_cpu(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=1, per_unit=8, modalities=ALL)
    window = Window(num_frames=2, image_px=32, num_samples=16_000, num_points=64)
    mel = MelImages(32, 2, 0.5)
    ours, dalis = (
        next(iter(Loader(corpus, ALL, 6, backend=backend, window=window))).tensors for backend in ("cpu", "dali")
    )
    assert all(tensor.is_cuda for tensor in dalis.values())
    assert (mel(ours["audio"]) - mel.cuda()(dalis["audio"]).cpu()).abs().max() < 1e-2
