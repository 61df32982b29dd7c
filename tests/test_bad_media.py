"""Broken, hostile and odd files end in drops with stable reasons, or in correct samples; never in an exception."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from omniloom.modalities import Drop, Rejected, Sample, load
from omniloom.modalities.base import read
from omniloom.pipeline.clips import ClipsConfig
from omniloom.pipeline.extract import weave
from omniloom.pipeline.picture import Scaler, fit, turn_of
from omniloom.pipeline.probe import open_media, probe
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.sources import Source, identify
from tests.media import make_clip


def _never(ref: object, *inputs: object) -> object:
    raise AssertionError(f"no model is asked here, but {ref} was")


def _weave(path: Path, modalities: tuple[str, ...] = ("frames", "audio"), **clips: object) -> list[Sample | Drop]:
    recipe = BuildRecipe(modalities=modalities, clips=ClipsConfig(**clips))  # type: ignore[arg-type]
    return list(weave(Source(str(path), identify(str(path))), recipe, _never))


def _reason(path: Path) -> tuple[str, str]:
    (drop,) = _weave(path)
    assert isinstance(drop, Drop)
    assert drop.source == identify(str(path))
    return drop.stage, drop.reason


def test_a_text_named_mp4_is_not_media(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("this is not a film\n" * 200)
    assert _reason(path) == ("probe", "not-media")


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    assert _reason(path) == ("probe", "empty-file")


def test_random_bytes_are_not_media(tmp_path: Path) -> None:
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(200_000))
    assert _reason(path) == ("probe", "not-media")


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
        '<?xml version="1.0"?><MPD type="static"><Period><BaseURL>{}</BaseURL></Period></MPD>',
    ],
)
def test_a_playlist_posing_as_media_does_not_lead_to_another_file(tmp_path: Path, text: str) -> None:
    secret = make_clip(tmp_path / "secret.ts", seconds=3)
    path = tmp_path / "list.mp4"
    path.write_text(text.format(secret))
    assert _reason(path) == ("probe", "playlist")


def test_an_mp4_cut_before_its_index_says_so(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert _reason(path) == ("probe", "moov-missing")


@pytest.mark.parametrize("name", ["whole.mp4", "whole.mkv"])
def test_a_file_that_breaks_off_keeps_its_whole_clips_and_drops_the_last(tmp_path: Path, name: str) -> None:
    options = {"movflags": "+faststart"} if name.endswith("mp4") else {}
    path = make_clip(tmp_path / name, seconds=12, fps=10, container_options=options)
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    whole = _weave(path, length_s=4.0)
    broken = _weave(cut, length_s=4.0)
    assert [type(outcome) for outcome in whole] == [Sample] * 3
    kept = [outcome for outcome in broken if isinstance(outcome, Sample)]
    assert 1 <= len(kept) < 3
    for ours, theirs in zip(kept, whole, strict=False):
        assert isinstance(theirs, Sample)
        assert {n: p.data for n, p in ours.parts.items()} == {n: p.data for n, p in theirs.parts.items()}
    last = broken[-1]
    assert isinstance(last, Drop)
    assert (last.stage, last.reason) == ("decode", "truncated")
    assert last.clip is not None
    assert len(broken) == len(kept) + 1


def test_a_clip_with_damaged_pictures_is_dropped_and_its_neighbours_stay(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", seconds=12, fps=10, size=(320, 240), gop=10)
    with av.open(str(path)) as container:
        spans = [(p.pos, p.size) for p in container.demux(video=0) if p.pts is not None and 5000 <= p.pts < 6000]
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for pos, size in spans[1:]:
        first = pos + 24
        data[first : pos + size] = rng.bytes(len(data[first : pos + size]))
    hurt = tmp_path / "hurt.mkv"
    hurt.write_bytes(bytes(data))
    outcomes = _weave(hurt, length_s=4.0)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Sample", "Drop", "Sample"]
    assert isinstance(outcomes[1], Drop)
    assert (outcomes[1].stage, outcomes[1].reason) == ("decode", "damaged-video")


def test_sound_without_pictures_is_a_drop_unless_audio_only_is_asked_for(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "sound.m4a", seconds=7, video=False)
    assert _reason(path) == ("probe", "no-video")
    outcomes = _weave(path, audio_only=True, length_s=3.0, min_s=1.0)
    samples = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
    assert [sample.clip.start_ns for sample in samples] == [0, 3_000_000_000, 6_000_000_000]
    assert all(set(sample.parts) == {"audio"} for sample in samples)


def test_pictures_without_sound_are_a_sample_without_audio(tmp_path: Path) -> None:
    (sample,) = _weave(make_clip(tmp_path / "mute.mp4", tone=False))
    assert isinstance(sample, Sample)
    assert set(sample.parts) == {"frames"}
    assert sample.facts["av_check"] == "no-audio"
    assert sample.facts["audio_offset_ns"] is None


def test_a_container_with_a_header_and_no_frames_has_a_reason_of_its_own(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", tone=False, seconds=2)
    data = path.read_bytes()
    cluster = data.index(b"\x1f\x43\xb6\x75")
    (tmp_path / "headers.mkv").write_bytes(data[: cluster + 60])  # a cluster begins, no frame is whole
    assert _reason(tmp_path / "headers.mkv") == ("decode", "no-video-frames")


def test_an_encrypted_file_is_said_to_be_encrypted(tmp_path: Path) -> None:
    clear = make_clip(tmp_path / "clear.mp4")
    sealed = tmp_path / "sealed.mp4"
    keys = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "0" * 32, "-encryption_kid", "1" * 32]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(clear), "-c", "copy", *keys, str(sealed)]
    subprocess.run(command, check=True)
    stage, reason = _reason(sealed)
    assert reason == "encrypted", (stage, reason)


def test_fifos_and_folders_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    with pytest.raises(Rejected, match="not-a-file"):
        probe(str(tmp_path / "fifo.mp4"))
    with pytest.raises(Rejected, match="not-a-file"):
        open_media(str(tmp_path))
    with pytest.raises(Rejected, match="unreadable"):
        probe(str(tmp_path / "gone.mp4"))


def test_a_name_that_looks_like_a_protocol_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "a.mp4").rename(tmp_path / "http:x.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe("http:x.mp4").video is not None


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_video_comes_out_upright(tmp_path: Path, degrees: int) -> None:
    def corner(_index: int, _time: float) -> np.ndarray:
        image = np.zeros((96, 128, 3), np.uint8)
        image[:32, :32] = (250, 20, 20)  # top left as coded
        return image

    path = make_clip(tmp_path / "turned.mp4", rotation_deg=degrees, picture=corner, tone=False)
    (sample,) = _weave(path, ("frames", "video"))
    assert isinstance(sample, Sample)
    expected = np.rot90(corner(0, 0), degrees // 90)
    assert (sample.facts["width"], sample.facts["height"]) == (expected.shape[1], expected.shape[0])
    for name in ("frames", "video"):
        image = read(load(name), sample.parts[name]).rgb[0].astype(int)
        assert image.shape == expected.shape, name
        red = image[..., 0] > 128
        overlap = (red & (expected[..., 0] > 128)).sum() / (red | (expected[..., 0] > 128)).sum()
        assert overlap > 0.9, name


@pytest.mark.parametrize(
    ("size", "pix_fmt"), [((127, 95), "yuv444p"), ((2, 96), "yuv420p"), ((642, 362), "yuv420p10le")]
)
def test_odd_sizes_and_depths_are_fitted_to_even_sizes_and_never_enlarged(
    tmp_path: Path, size: tuple[int, int], pix_fmt: str
) -> None:
    path = make_clip(tmp_path / "odd.mkv", size=size, pix_fmt=pix_fmt, tone=False)
    (sample,) = _weave(path)
    assert isinstance(sample, Sample), sample
    width, height = sample.parts["frames"].facts["width"], sample.parts["frames"].facts["height"]
    assert isinstance(width, int)
    assert isinstance(height, int)
    assert width % 2 == height % 2 == 0
    assert width <= size[0]
    assert height <= size[1]
    assert min(width, height) <= 256


def test_sizes_fit_the_short_side() -> None:
    assert fit(1280, 720, 256) == (456, 256)
    assert fit(720, 1280, 256) == (256, 456)
    assert fit(101, 75, 256) == (100, 74)
    assert fit(1, 4000, 256) == (2, 4000)


def test_full_range_and_limited_range_video_give_the_same_colours(tmp_path: Path) -> None:
    def grey(_index: int, _time: float) -> np.ndarray:
        return np.full((96, 128, 3), 200, np.uint8)

    shown: list[float] = []
    for name, pix_fmt, codec in (("a.mp4", "yuv420p", "libx264"), ("b.avi", "yuvj420p", "mjpeg")):
        path = make_clip(tmp_path / name, picture=grey, pix_fmt=pix_fmt, video_codec=codec, tone=False)
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            assert turn_of(frame).transpose is False
            shown.append(float(Scaler().rgb(frame, (64, 48)).mean()))
    assert shown == pytest.approx([200, 200], abs=3)


def test_a_picture_size_that_changes_midway_gives_frames_of_one_size(tmp_path: Path) -> None:
    small = make_clip(tmp_path / "small.ts", seconds=2, size=(128, 96), tone=False)
    large = make_clip(tmp_path / "large.ts", seconds=2, size=(320, 180), tone=False)
    joined = tmp_path / "joined.ts"
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    pair = f"concat:{small}|{large}"
    subprocess.run([exe, "-v", "error", "-i", pair, "-c", "copy", str(joined)], check=True)
    outcomes = _weave(joined)
    for outcome in outcomes:
        if isinstance(outcome, Sample):
            rgb = read(load("frames"), outcome.parts["frames"]).rgb
            assert rgb.shape[1] % 2 == 0
    assert any(isinstance(outcome, Sample) for outcome in outcomes)


def test_a_damaged_packet_of_sound_makes_the_audio_of_its_clip_absent_and_no_other(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", seconds=12, fps=5, audio_codec="flac")
    with av.open(str(path)) as container:
        spans = [(p.pos, p.size) for p in container.demux(audio=0) if p.pts is not None and 5000 <= p.pts < 5400]
    data = bytearray(path.read_bytes())
    for pos, size in spans:
        data[pos + 12 : pos + size] = bytes(size - 12)
    hurt = tmp_path / "hurt.mkv"
    hurt.write_bytes(bytes(data))
    samples = [outcome for outcome in _weave(hurt, length_s=4.0) if isinstance(outcome, Sample)]
    assert ["audio" in sample.parts for sample in samples] == [True, False, True]
    assert samples[1].facts["av_check"] == "audio-damaged"
