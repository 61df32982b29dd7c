"""Small media files for tests: pictures that flash and tones that beep at known times, muxed in known ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

Times = Sequence[tuple[float, float]]
"""Spans (start, end) in seconds of presentation time."""


def make_clip(
    path: Path,
    seconds: float = 3.0,
    fps: float = 25,
    size: tuple[int, int] = (128, 96),
    *,
    tone: bool | Times = True,
    tone_hz: float = 880.0,
    flashes: Times = (),
    cuts: Sequence[float] = (),
    audio_start_s: float = 0.0,
    audio_seconds: float | None = None,
    video_start_s: float = 0.0,
    picture_times: Sequence[float] | None = None,
    picture: Callable[[int, float], np.ndarray] | None = None,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    sample_rate_hz: int = 48_000,
    layout: str = "mono",
    tone_on: int | None = None,
    pix_fmt: str = "yuv420p",
    rotation_deg: int = 0,
    video: bool = True,
    gop: int = 12,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a media file and return its path; the container follows the file's name.

    size            (width, height) as coded
    tone            True: a tone throughout; spans: the tone in those spans of presentation time, silence elsewhere;
                    False: no audio stream
    flashes         spans in which the picture is white; elsewhere it is a dark moving gradient
    cuts            times at which the picture changes to another scene
    audio_start_s   presentation time of the first audio sample; the tone's spans do not move with it
    layout          of the channels: "mono", "stereo", "5.1", ...
    tone_on         the one channel that has the tone, by its number; None: all of them
    picture_times   presentation times of the frames, for a variable frame rate; instead of `fps`
    picture         (index, time) -> rgb uint8 (H, W, 3), instead of the gradient
    rotation_deg    counter-clockwise turn that players shall make, written as a display matrix (mp4 and mov)
    """
    width, height = size
    tick = Fraction(1, 90_000) if picture_times is not None else Fraction(1, 12_800)
    times = picture_times if picture_times is not None else [k / fps for k in range(round(seconds * fps))]
    with av.open(str(path), "w", container_options=container_options or {}) as out:
        pictures: Any = None
        if video:
            pictures = out.add_stream(video_codec, rate=Fraction(fps).limit_denominator(1001))
            pictures.width, pictures.height, pictures.pix_fmt = width, height, pix_fmt
            pictures.codec_context.time_base = tick
            pictures.gop_size = gop
            if video_codec == "libx264":
                pictures.options = {"preset": "ultrafast", "crf": "20", "threads": "1", **(options or {})}
            else:
                pictures.options = options or {}
            if rotation_deg:
                pictures.set_display_rotation(rotation_deg)
        sound: Any = None
        if tone is not False:
            sound = out.add_stream(audio_codec, rate=sample_rate_hz, layout=layout)
        waves = _tone_frames(
            tone,
            tone_hz,
            audio_start_s,
            seconds if audio_seconds is None else audio_seconds,
            sample_rate_hz,
            sound,
            tone_on,
        )
        pending = next(waves, None)
        for index, time_s in enumerate(times if video else ()):
            while pending is not None and pending[0] <= time_s:
                out.mux(sound.encode(pending[1]))
                pending = next(waves, None)
            rgb = picture(index, time_s) if picture else _gradient(index, time_s, width, height, flashes, cuts)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = round((time_s + video_start_s) / tick), tick
            out.mux(pictures.encode(frame))
        while pending is not None:
            out.mux(sound.encode(pending[1]))
            pending = next(waves, None)
        for stream in (pictures, sound):
            if stream is not None:
                out.mux(stream.encode(None))
    return path


def beep_onsets(samples: np.ndarray, sample_rate_hz: int = 16_000, level: int = 2_000) -> list[float]:
    """Times in seconds at which sound begins after at least 100 ms of quiet: int16 (N,) in."""
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > level)
    if not len(loud):
        return []
    starts = loud[np.concatenate([[True], np.diff(loud) > sample_rate_hz // 10])]
    return [float(start) / sample_rate_hz for start in starts]


def _gradient(index: int, time_s: float, width: int, height: int, flashes: Times, cuts: Sequence[float]) -> np.ndarray:
    if any(start - 1e-6 <= time_s < end - 1e-6 for start, end in flashes):
        return np.full((height, width, 3), 255, np.uint8)
    scene = sum(time_s >= cut - 1e-6 for cut in cuts)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ramp = (x * 60 // width + y * 40 // height + index) % 100
    rgb = np.stack([ramp, np.roll(ramp, 7, 1), ramp[:, ::-1]], axis=-1).astype(np.uint8)
    colours = [(0, 0, 0), (150, 0, 20), (0, 120, 60), (40, 30, 150), (130, 130, 0), (0, 100, 140)]
    return rgb + np.array(colours[scene % len(colours)], np.uint8)


def _tone_frames(
    tone: bool | Times, tone_hz: float, start_s: float, seconds: float, rate_hz: int, sound: Any, tone_on: int | None
) -> Any:
    """(time, frame) pairs of 20 ms from start_s to seconds."""
    if sound is None:
        return
    layout = sound.codec_context.layout
    channels = np.array([tone_on in (None, channel) for channel in range(layout.nb_channels)])
    step = rate_hz // 50
    for first in range(0, round((seconds - start_s) * rate_hz), step):
        time_s = start_s + (first + np.arange(step)) / rate_hz
        wave = 0.5 * np.sin(2 * np.pi * tone_hz * time_s)
        if tone is not True:
            wave *= sum(((time_s >= a) & (time_s < b)) for a, b in tone) if tone else 0
        samples = np.outer((wave * 32767).astype(np.int16), channels).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout.name)
        frame.sample_rate = rate_hz
        frame.time_base = Fraction(1, rate_hz)
        frame.pts = round(start_s * rate_hz) + first
        yield float(time_s[0]), frame
