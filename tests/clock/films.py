"""Films whose pictures flash as their sound beeps, in every way that a file can keep its time: one table."""

from __future__ import annotations

import shlex
import subprocess
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

from tests.media import make_clip

SECONDS = 5.0
BEATS = [(0.6, 0.8), (1.9, 2.1), (3.4, 3.6), (4.5, 4.7)]
"""When the picture is white and the tone sounds, in seconds of the film as it is put together."""

VARIABLE = sorted(
    {
        round(time_s, 3)
        for time_s in [0.0, *np.cumsum(np.random.default_rng(5).choice([0.02, 0.04, 0.1, 0.3], 100))]
        if time_s < SECONDS
    }
    | {edge for beat in BEATS for edge in beat}
)
"""Picture times of a variable rate; every beat begins and ends with a picture."""

B_FRAMES = {"preset": "medium", "bf": "3"}
VP8 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}


@dataclass(frozen=True)
class Film:
    """How a file is made, and where its flashes and beeps then are."""

    clip: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of `make_clip`."""
    mux: str = ""
    """Arguments of ffmpeg that make the film of {base}, a file by `make_clip`; "" if that file is the film."""
    base: str = "mov"
    edit: Callable[[Path], None] | None = None
    """Changes the file's bytes."""
    flash_s: float = 0.0
    """How much later than put together a player of the file shows each flash."""
    beep_s: float | None = None
    """How much later it sounds each beep; None: as much as the flash is later."""
    lossy: bool = True
    """Whether the sound's codec is: then a beep may lie 5 ms off, and otherwise 1 ms."""
    flashes: tuple[float, ...] = tuple(start for start, _ in BEATS)
    """Which are in the file while there are pictures, as put together."""
    beeps: tuple[float, ...] = tuple(start for start, _ in BEATS)

    @property
    def frame_s(self) -> float:
        """How long a picture is shown; at the beats of a film of a variable rate a picture begins."""
        return 0.0 if "picture_times" in self.clip else 1 / self.clip.get("fps", 25)

    @property
    def flashes_s(self) -> list[float]:
        return [start + self.flash_s for start in self.flashes]

    @property
    def beeps_s(self) -> list[float]:
        return [start + self.flash_s + self.apart_s for start in self.beeps]

    @property
    def apart_s(self) -> float:
        """How much later the beep of a beat is than its flash."""
        return 0.0 if self.beep_s is None else self.beep_s - self.flash_s

    @property
    def sound_tolerance_s(self) -> float:
        return 0.005 if self.lossy else 0.001


_LATE = {"audio_start_s": 1.5}
_HEARD_LATE = tuple(start for start, _ in BEATS if start > 1.5)
_PCM = {"audio_codec": "pcm_s16le"}
_OPUS = {"audio_codec": "libopus"}
_COPY = "-i {base} -c copy"
_NOW = " -muxdelay 0 -muxpreload 0"
_CUT = tuple(start for start, _ in BEATS if start > 1.3)
_PRIMED_TS_S = 1024 / 48_000
"""AAC begins with a block that is not heard; MPEG-TS cannot say so, and its muxer moves everything by as much."""

FILMS: dict[str, Film] = {
    # --- constant rates
    "24.mp4": Film({"fps": 24}),
    "25.mp4": Film(),
    "29.97.mp4": Film({"fps": 30000 / 1001}),
    "30.mkv": Film({"fps": 30}),
    "50.mkv": Film({"fps": 50}),
    "59.94.mkv": Film({"fps": 60000 / 1001}),
    "60.mp4": Film({"fps": 60}),
    # --- variable rates
    "variable.mp4": Film({"picture_times": VARIABLE}),
    "variable-b.mp4": Film({"picture_times": VARIABLE, "options": B_FRAMES}),
    "variable.mkv": Film({"picture_times": VARIABLE, **_OPUS}),
    "variable.webm": Film({"picture_times": VARIABLE, "video_codec": "libvpx", "options": VP8, **_OPUS}),
    # --- sound that starts 1.5 s after the pictures
    "late.mp4": Film(_LATE, beeps=_HEARD_LATE),
    "late.mkv": Film(_LATE, beeps=_HEARD_LATE),
    "late.mov": Film({**_LATE, **_PCM}, lossy=False, beeps=_HEARD_LATE),
    "late.ts": Film(_LATE, beeps=_HEARD_LATE),
    "late.webm": Film({**_LATE, **_OPUS, "video_codec": "libvpx", "options": VP8}, beeps=_HEARD_LATE),
    # --- sound that starts 0.5 s before the pictures: an edit hides it (mp4), or the pictures come later (the others)
    "early.mp4": Film({"audio_start_s": -0.5}),
    "early.mov": Film({"audio_start_s": -0.5, "options": B_FRAMES, **_PCM}, lossy=False),
    "early.mkv": Film({"audio_start_s": -0.5}, flash_s=0.5),
    "early.ts": Film({"audio_start_s": -0.5, "options": B_FRAMES}, flash_s=0.5 + _PRIMED_TS_S),
    "negative.mkv": Film(
        {"audio_start_s": -0.5, "container_options": {"avoid_negative_ts": "disabled"}, **_PCM}, lossy=False
    ),
    # --- pictures that start late, and do not belong to the sound of their moment
    "late-pictures.mp4": Film({"video_start_s": 0.52}, flash_s=0.52, beep_s=0.0),
    "late-pictures.mkv": Film({"video_start_s": 0.52}, flash_s=0.52, beep_s=0.0),
    "late-pictures.ts": Film({"video_start_s": 0.52}, flash_s=0.52 + _PRIMED_TS_S, beep_s=_PRIMED_TS_S),
    # --- edit lists
    "b-frames.mp4": Film({"options": B_FRAMES}),
    "cut.mp4": Film({"options": B_FRAMES}, "-ss 1.3 " + _COPY, "mp4", flash_s=-1.3, flashes=_CUT, beeps=_CUT),
    "cut.mov": Film(_PCM, "-ss 1.3 " + _COPY, lossy=False, flash_s=-1.3, flashes=_CUT, beeps=_CUT),
    "delayed-pictures.mp4": Film(
        mux="-itsoffset 0.8 -i {base} -i {base} -map 0:v -map 1:a -c copy",
        base="mp4",
        flash_s=0.8,
        beep_s=0.0,
        beeps=(1.9, 3.4, 4.5),  # the first sounds before there are pictures
    ),
    "delayed-sound.mp4": Film(
        {"options": B_FRAMES},
        "-i {base} -itsoffset 0.8 -i {base} -map 0:v -map 1:a -c copy",
        "mp4",
        beep_s=0.8,
        beeps=(0.6, 1.9, 3.4),  # the last sounds when there are no more
    ),
    # --- pieces of a file, copied
    "cut.mkv": Film({}, "-ss 1.3 " + _COPY, "mkv", flash_s=-0.96, flashes=_CUT, beeps=_CUT),
    "cut.ts": Film({}, "-ss 1.3 " + _COPY + _NOW, "mp4", flash_s=-0.96, flashes=_CUT, beeps=_CUT),
    # --- rates and channels of sound
    "44100.mp4": Film({"sample_rate_hz": 44_100}),
    "44100.mkv": Film({"sample_rate_hz": 44_100, **_PCM}, lossy=False),
    "8000.mkv": Film({"sample_rate_hz": 8_000, **_PCM}, lossy=False),
    "stereo.mp4": Film({"layout": "stereo"}),
    "right.mkv": Film({"layout": "stereo", "tone_on": 1, **_PCM}, lossy=False),
    "5.1.mp4": Film({"layout": "5.1"}),
    "centre.mkv": Film({"layout": "5.1", "tone_on": 2, **_PCM}, lossy=False),
    "behind.ts": Film({"layout": "5.1", "tone_on": 4, "audio_codec": "ac3"}, flash_s=256 / 48_000),
    "behind.mp4": Film({"layout": "5.1", "tone_on": 5, "sample_rate_hz": 44_100}),
    # --- a clock that passes the end of its 33 bits before the film begins
    "wrapped.ts": Film({"container_options": {"output_ts_offset": "95440"}}, flash_s=95440 - 2**33 / 90_000),
}

_SOUNDS = {
    "mp4": "aac libmp3lame libopus flac ac3",
    "mkv": "aac libmp3lame libopus libvorbis flac pcm_s16le ac3",
    "mov": "aac pcm_s16le pcm_s24le",
    "ts": "aac libmp3lame ac3 mp2 libopus",
    "avi": "libmp3lame pcm_s16le ac3",
    "flv": "aac libmp3lame",
}
_PRIMING = {
    "aac": 1024 / 48_000,
    "libmp3lame": 1105 / 48_000,
    "ac3": 256 / 48_000,
    "mp2": 481 / 48_000,
    "libopus": 312 / 48_000,
}
"""Encoders begin ahead of the sound; these containers cannot say how much is not to be heard, and all comes later."""
for _container, _codecs in _SOUNDS.items():
    for _codec in _codecs.split():
        _command = f"-i {{base}} -c:v {'mpeg4' if _container == 'avi' else 'copy'} -c:a {_codec}{_NOW}"
        FILMS[f"{_codec.removeprefix('lib')}.{_container}"] = Film(
            _PCM,
            _command,
            lossy=not _codec.startswith(("pcm", "flac")),
            flash_s=_PRIMING.get(_codec, 0.0) if _container in ("ts", "avi", "flv") else 0.0,
        )


def make_film(folder: Path, name: str) -> Path:
    """The film of that name in the table, written into the folder."""
    film = FILMS[name]
    path = folder / name
    if not film.mux:
        _clip(path, film)
    else:
        base = folder / "bases" / f"{zlib.crc32(repr(film.clip).encode()):08x}.{film.base}"
        if not base.exists():
            base.parent.mkdir(exist_ok=True)
            _clip(base, film)
        command = shlex.split(film.mux.replace("{base}", shlex.quote(str(base))))
        subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", *command, str(path)], check=True
        )
    if film.edit is not None:
        film.edit(path)
    return path


def _clip(path: Path, film: Film) -> None:
    make_clip(path, SECONDS, size=(64, 48), flashes=BEATS, tone=BEATS, **film.clip)
