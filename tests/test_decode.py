"""Pictures are the same wherever decoding begins, and those nobody wants are left out without changing the others."""

from __future__ import annotations

import gc
import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import psutil
import pytest

from omniloom.pipeline.decode import Damage, Picture, first_picture, pictures
from omniloom.pipeline.picture import Scaler
from omniloom.pipeline.probe import probe
from tests.media import make_clip

VARIABLE = sorted({*np.cumsum(np.random.default_rng(5).choice([0.02, 0.04, 0.1, 0.3], 150)).round(3).tolist(), 0.0})
CODECS = {
    "plain.mp4": ["-c:v", "libx264", "-g", "30", "-bf", "3"],
    "open.mp4": ["-c:v", "libx264", "-g", "24", "-bf", "3", "-x264-params", "open-gop=1"],
    "open.ts": ["-c:v", "libx264", "-g", "24", "-bf", "3", "-x264-params", "open-gop=1"],
    "refresh.mkv": ["-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=25"],
    "hevc.mkv": ["-c:v", "libx265", "-preset", "fast", "-g", "24", "-x265-params", "log-level=0:bframes=3"],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "25"],
    "mpeg2.mpg": ["-c:v", "mpeg2video", "-bf", "2", "-g", "15"],
    "late.mkv": ["-c:v", "libx264", "-g", "30", "-bf", "3", "-output_ts_offset", "7.3"],
    "edited.mp4": ["-c:v", "libx264", "-g", "30", "-bf", "3"],
}


@pytest.fixture(scope="module", params=[*CODECS, "variable.mp4"])
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds of every kind of stream."""
    path = tmp_path_factory.mktemp("films") / str(request.param)
    if request.param == "variable.mp4":
        return make_clip(path, seconds=VARIABLE[-1], picture_times=VARIABLE, tone=False, options={"bf": "3"}, gop=20)
    source = "testsrc2=size=160x120:rate=25:duration=12"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source, "-vf", "noise=alls=9:allf=t"]
    options = [*CODECS[request.param], "-pix_fmt", "yuv420p"]
    if request.param != "edited.mp4":
        subprocess.run([*ffmpeg, *options, str(path)], check=True)
        return path
    whole = path.with_name("whole.mp4")
    subprocess.run([*ffmpeg, *options, str(whole)], check=True)
    cut = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", "0.7", "-i", str(whole), "-c", "copy", str(path)]
    subprocess.run(cut, check=True)
    return path


def _seen(items: Iterator[Picture | Damage]) -> list[tuple[int, int, str | None]]:
    """(start, end, digest of the pixels or None) of every picture."""
    seen: list[tuple[int, int, str | None]] = []
    for item in items:
        assert isinstance(item, Picture), item
        pixels = None if item.frame is None else hashlib.md5(item.frame.to_ndarray().tobytes()).hexdigest()
        seen.append((item.start_ns, item.end_ns, pixels))
    return seen


def test_beginning_in_the_middle_gives_the_pictures_that_the_whole_gives(film: Path) -> None:
    info = probe(str(film))
    whole = _seen(pictures(str(film), info))
    for at in (len(whole) // 3, len(whole) // 2, len(whole) - 2):
        from_ns = (whole[at][0] + whole[at][1]) // 2
        part = _seen(pictures(str(film), info, from_ns=from_ns, before=9))
        first = len(whole) - len(part)
        assert first <= at - 9, "as many pictures ahead as were asked for"
        assert part[at - first :] == whole[at:]
        assert [times[:2] for times in part] == [times[:2] for times in whole[first:]]


def test_pictures_that_nobody_wants_keep_their_times_and_the_others_their_pixels(film: Path) -> None:
    info = probe(str(film))
    whole = _seen(pictures(str(film), info))
    asked: list[tuple[int, int]] = []

    def wants(start_ns: int, end_ns: int) -> bool:
        asked.append((start_ns, end_ns))
        return len(asked) % 12 == 1

    some = _seen(pictures(str(film), info, wants=wants))
    assert [times[:2] for times in some] == [times[:2] for times in whole]
    assert asked == [times[:2] for times in whole[: len(asked)]], "each once, in order, with its true times"
    for at, (_, _, pixels) in enumerate(some):
        assert pixels == whole[at][2] or (pixels is None and at % 12 != 0)
    if film.name in ("plain.mp4", "open.mp4", "mpeg2.mpg"):
        skipped = sum(pixels is None for _, _, pixels in some)
        assert skipped > len(whole) // 4, "B-frames that nobody refers to are not decoded"


def test_the_first_picture_is_the_first(film: Path) -> None:
    info = probe(str(film))
    first: Any = first_picture(str(film), info)
    assert first.start_ns == next(iter(pictures(str(film), info))).start_ns  # type: ignore[union-attr]


def test_every_packet_is_shown_before_its_picture(film: Path) -> None:
    info = probe(str(film))
    shown: set[int] = set()
    for item in pictures(str(film), info, packets=lambda packet: shown.add(packet.pts)):
        assert isinstance(item, Picture)
        assert item.frame is not None
        assert item.frame.pts in shown


def test_pictures_that_were_looked_at_do_not_stay_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    source = "testsrc2=size=1920x1080:rate=25:duration=3"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p"]
    subprocess.run([*ffmpeg, "-c:v", "libx264", "-preset", "ultrafast", str(path)], check=True)
    scaler = Scaler()
    gc.disable()  # it would hide frames that are kept by a cycle until it comes round: a gigabyte, of larger ones
    try:
        held: list[int] = []
        for item in pictures(str(path), probe(str(path))):
            assert isinstance(item, Picture)
            assert item.frame is not None
            scaler.yuv(item.frame, scaler.size(item.frame, 128))
            scaler.rgb(item.frame, scaler.size(item.frame, 128))
            held.append(psutil.Process().memory_info().rss)
    finally:
        gc.enable()
    assert held[-1] - held[20] < 20 * 1920 * 1080 * 3 // 2, "fewer than 20 of the 55 pictures"
