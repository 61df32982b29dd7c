"""The times of a file's pictures and sounds, read by another program than ours: the `ffmpeg` binary of imageio_ffmpeg.

That binary is built from other sources and of another version than the libraries inside PyAV, is run as
a user would run it: `-f framecrc` prints the presentation time of every picture in ticks of the stream's time base, and
the place of every block of samples. `-copyts` keeps both as the container has them; without it the program would move
the file's start to zero. Nothing here imports PyAV or omniloom.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import imageio_ffmpeg
import numpy as np

WHITE = 180
"""Mean luma above which a picture is a flash; the fixtures' other pictures stay below 110."""

_COMMAND = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", "-nostdin", "-threads", "1", "-copyts", "-i"]
_PACKET = re.compile(r"^0, *-?\d+, *(-?\d+), *(\d+), *\d+, 0x", re.MULTILINE)
_LUMA = re.compile(r"YAVG=([\d.]+)")


@dataclass(frozen=True, slots=True)
class Shown:
    """The pictures of a video stream, in the order in which they are shown."""

    pts_ns: list[int]
    """Presentation time, each rounded from ticks to the nearest nanosecond."""
    is_white: list[bool]

    @property
    def flashes_ns(self) -> list[int]:
        """When white pictures came on screen after others."""
        return onsets(self.pts_ns, self.is_white)


@dataclass(frozen=True, slots=True)
class Heard:
    """The samples of an audio stream at its own rate, the loudest of the channels at each moment."""

    samples: np.ndarray
    """float32 (N,), from `first` on; 0 where the stream has none."""
    first: int
    """Of the first sample: its place counted in samples from presentation time 0."""
    rate_hz: int

    @property
    def beeps_s(self) -> list[float]:
        """When tones began, in seconds of presentation time."""
        return [self.first / self.rate_hz + at_s for at_s in beeps(self.samples, self.rate_hz)]


def pictures(path: Path, stream: str = "v:0") -> Shown:
    """Every picture of a stream ("v:0": the first video, "3": the file's fourth) that a player would show."""
    measure = "signalstats,metadata=print:key=lavfi.signalstats.YAVG:file=pipe\\\\:2"
    table, lumas = _run(
        path, f"-map 0:{stream} -fps_mode passthrough -enc_time_base demux -vf", measure, "-f framecrc pipe:1"
    )
    lines = table.decode()
    tick = Fraction(_header(lines, "tb"))
    is_white = [float(luma) > WHITE for luma in _LUMA.findall(lumas)]
    pts_ns = [round(int(pts) * tick * 10**9) for pts, _ in _PACKET.findall(lines)]
    assert len(pts_ns) == len(is_white), path
    return Shown(pts_ns, is_white)


def sound(path: Path, stream: str = "a:0") -> Heard:
    """Every sample of the stream, decoded by ffmpeg and laid where its timestamps say."""
    raw, lines = _run(
        path, f"-map 0:{stream} -c:a pcm_f32le -f f32le pipe:1 -map 0:{stream} -c:a pcm_f32le -f framecrc pipe:2"
    )
    rate_hz = int(_header(lines, "sample_rate"))
    assert Fraction(_header(lines, "tb")) == Fraction(1, rate_hz)
    blocks = [(int(pts), int(count)) for pts, count in _PACKET.findall(lines)]
    samples = np.frombuffer(raw, np.float32)
    channels, rest = divmod(len(samples), sum(count for _, count in blocks))
    assert not rest, path
    loudest = np.abs(samples.reshape(-1, channels)).max(axis=1)
    first = min(pts for pts, _ in blocks)
    laid = np.zeros(max(pts + count for pts, count in blocks) - first, np.float32)
    taken = 0
    for pts, count in blocks:
        laid[pts - first : pts - first + count] = loudest[taken : taken + count]
        taken += count
    return Heard(laid, first, rate_hz)


def onsets(times_ns: list[int], is_on: list[bool]) -> list[int]:
    """The times at which something came on: at the start, or after having been off."""
    if not times_ns:
        return []
    first = times_ns[:1] if is_on[0] else []
    changes = zip(pairwise(is_on), times_ns[1:], strict=True)
    return [*first, *(time_ns for (before, now), time_ns in changes if now and not before)]


def beeps(samples: np.ndarray, rate_hz: int) -> list[float]:
    """Seconds from the first sample at which tones begin, after at least 100 ms of quiet: numbers (N,) in.

    A tone has begun when it reaches half of the loudest sample's height. What lossy codecs smear ahead of a tone is
    fainter, and a sine of 880 Hz is that high a tenth of a millisecond after it began.
    """
    height = np.abs(samples.astype(np.float32))
    loud = np.flatnonzero(height > height.max(initial=0) / 2)
    if not len(loud):
        return []
    starts = loud[np.concatenate([[True], np.diff(loud) > rate_hz // 10])]
    return [float(start) / rate_hz for start in starts]


def _header(lines: str, name: str) -> str:
    found = re.search(rf"^#{name} 0: (\S+)$", lines, re.MULTILINE)
    assert found, f"ffmpeg says nothing of {name}: {lines[:500]!r}"
    return found[1]


def _run(path: Path, *arguments: str) -> tuple[bytes, str]:
    """What ffmpeg writes to standard output, and to standard error; arguments are split where they have spaces."""
    command = [*_COMMAND, str(path), *" ".join(arguments).split()]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}"
    return done.stdout, done.stderr.decode(errors="replace")
