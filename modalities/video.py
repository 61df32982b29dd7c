"""A movie of every frame of the clip with its sound, to look at and for dense video: H.264 at 256 pixels, or a copy.

Presentation times survive: variable frame rate stays variable, and every frame's time is also in the facts, exact.
Lossy: on smooth pictures `read` returns the pictures within 12 % of the range; copied, it returns the source's own.
What training reads is `frames`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from omniloom.modalities import mp4, remux
from omniloom.modalities.base import (
    AnyRecorder,
    Ask,
    Codec,
    FactType,
    Footage,
    Frames,
    Made,
    Stem,
    Waveform,
    Window,
)
from omniloom.modalities.base import all_facts as narrow
from omniloom.modalities.base import no_models as models
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.sample import NS_PER_S, Fact, Part, Rejected

if TYPE_CHECKING:
    import av
    import av.audio
    import av.container
    import av.video

__all__ = ["models", "narrow", "pieces"]

suffix = "video.mp4"
codec: Codec = "mp4"
letter = ""
needs: tuple[str, ...] = ()
facts: Mapping[str, FactType] = {
    "pts_ns": "list<int64>",
    "width": "int64",
    "height": "int64",
    "codec": "string",
    "has_audio": "bool",
    "skip": "int64",
    "after": "int64",
    "audio_offset_ns": "int64",
    "pixel_aspect": "double",
}
stem = Stem("none")
tolerance = 0.12

_TICK = Fraction(1, mp4.TICKS_PER_S)
_ENCODERS = {
    "h264": ("libx264", {"preset": "veryfast", "flags": "+bitexact"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "0", "flags": "+bitexact"}),
}
_SOUND = {"h264": "aac", "vp9": "libopus"}


@dataclass(frozen=True, slots=True)
class Config:
    """How the movie is made.

    h264, vp9   encoded anew, small
    copy        the source's own packets, as large as they are; no cost to speak of
    none        no movie
    """

    codec: Literal["h264", "vp9", "copy", "none"] = "h264"
    short_side: int = 256
    """Pixels; smaller sources are not enlarged."""
    crf: int = 28
    """Quality at constant rate factor: lower is better and larger."""

    def __post_init__(self) -> None:
        if self.codec not in {*_ENCODERS, "copy", "none"}:
            raise ValueError(f"video.codec is h264, vp9, copy or none, got {self.codec!r}")
        if not 0 <= self.crf <= 51 or self.short_side < 2:
            raise ValueError(f"video needs 0 <= crf <= 51 and short_side >= 2, got {self.crf = }, {self.short_side = }")


@dataclass(frozen=True, slots=True)
class Movie:
    """An encoded movie, or one read back: `data` or `rgb` is None, unless both are known."""

    pts_ns: np.ndarray
    """int64 (T,), of the clip's own pictures, from its start."""
    width: int
    height: int
    """Of the upright picture."""
    codec: str
    has_audio: bool
    skip: int = 0
    """Pictures that a decoder gives before the clip's own: copied ones begin at a keyframe. Players hide them."""
    after: int = 0
    """Pictures that it gives after them."""
    audio_offset_ns: int = 0
    """When the first sound in the file is heard, from the clip's start; players hide what is before it."""
    pixel_aspect: float = 1.0
    """Width of a pixel over its height: encoded movies have square ones."""
    rgb: np.ndarray | None = None
    """uint8 (T, H, W, 3)."""
    data: bytes | None = field(default=None, repr=False, compare=False)


def recorder(config: Config) -> AnyRecorder | None:
    """Encodes the frames as they are decoded, or copies their packets; None if no movie is wanted."""
    if config.codec == "none":
        return None
    return _Copier() if config.codec == "copy" else _Encoder(config)


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """What the recorder made; None for a clip without pictures."""
    movie = footage.recorded.get("video")
    return None if movie is None else Made(movie, model="measured")


def encode(value: Movie) -> Part:
    """The movie's own bytes. Raises ValueError for one that was read back: it has none."""
    if value.data is None:
        raise ValueError("this movie was decoded and holds pictures only: encode one that a recorder made")
    return Part(
        value.data,
        {
            "pts_ns": [int(pts) for pts in value.pts_ns],
            "width": value.width,
            "height": value.height,
            "codec": value.codec,
            "has_audio": value.has_audio,
            "skip": value.skip,
            "after": value.after,
            "audio_offset_ns": value.audio_offset_ns,
            "pixel_aspect": value.pixel_aspect,
        },
    )


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Movie:
    """The clip's own pictures, at the times the facts state. Raises ValueError if the file has more or fewer."""
    pictures = cast(Frames, pieces[0])
    pts_ns = np.array(facts["pts_ns"], np.int64)
    skip, after = cast(int, facts["skip"]), cast(int, facts["after"])
    if skip + len(pts_ns) + after != len(pictures.rgb):
        raise ValueError(f"damaged MP4: {len(pictures.rgb)} pictures, its facts state {skip} + {len(pts_ns)} + {after}")
    rgb = pictures.rgb[skip : skip + len(pts_ns)]
    return Movie(
        pts_ns,
        rgb.shape[2],
        rgb.shape[1],
        str(facts["codec"]),
        bool(facts["has_audio"]),
        skip,
        after,
        cast(int, facts["audio_offset_ns"]),
        cast(float, facts["pixel_aspect"]),
        rgb=rgb,
    )


def tensor(value: Movie, window: Window) -> np.ndarray:
    """Empty: movies are for looking."""
    return np.empty(0, np.float32)


def example(rng: np.random.Generator) -> Movie:
    """Nine frames of a moving gradient, 64 x 48, at uneven times, with a tone."""
    import av

    y, x = np.mgrid[0:48, 0:64] / 64
    pts_ns = np.array([0, 33, 66, 100, 250, 283, 316, 500, 533], np.int64) * 1_000_000
    waves = [
        np.stack([np.sin(3 * x + 2 * y + c + float(rng.uniform(0, 0.1)) + t / 6) for c in range(3)]) for t in range(9)
    ]
    rgb = (127.5 + 100 * np.array(waves)).astype(np.uint8).transpose(0, 2, 3, 1)
    encoder = _Encoder(Config(crf=16))
    for picture, pts in zip(rgb, pts_ns, strict=True):
        encoder.picture(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"), int(pts))
    tone = (6000 * np.sin(2 * np.pi * 440 * np.arange(9000) / 16_000)).astype(np.int16)
    made = cast(Movie, encoder.finish(Waveform(tone)))
    return replace(made, rgb=rgb)


class _Encoder:
    """Sees each frame once and keeps only the compressed movie."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pts_ns: list[int] = []
        self._ticks: list[int] = []
        self._packets: list[av.Packet] = []
        self._out = io.BytesIO()
        self._container: av.container.OutputContainer | None = None
        self._stream: av.video.VideoStream | None = None

    def picture(self, frame: av.VideoFrame, pts_ns: int) -> None:
        # 4:2:0 holds even sizes only; a row or column fewer is less harm than a stretched picture.
        width, height = max(2, frame.width & ~1), max(2, frame.height & ~1)
        if self._container is None or self._stream is None:
            self._container, self._stream = self._open(width, height)
            if frame.format.name == "yuv420p":
                _tell_colours(self._stream.codec_context, frame)
        width, height = self._stream.width, self._stream.height  # a stream may change its size midway
        if (frame.width, frame.height, frame.format.name) != (width, height, "yuv420p"):
            frame = frame.reformat(width=width, height=height, format="yuv420p")
        ticks = (2 * pts_ns * mp4.TICKS_PER_S + NS_PER_S) // (2 * NS_PER_S)
        frame.pts = ticks = max(self._ticks[-1] + 1, ticks) if self._ticks else ticks
        frame.time_base = _TICK
        # The source's picture types are its own; here the encoder decides.
        frame.pict_type = 0
        self._packets += self._stream.encode(frame)
        self._pts_ns.append(pts_ns)
        self._ticks.append(ticks)

    def finish(self, audio: Waveform | None) -> Movie | None:
        if self._container is None or self._stream is None:
            return None
        self._packets += self._stream.encode(None)
        width, height = self._stream.width, self._stream.height
        end = self._set_durations(audio)
        packets = self._packets
        has_audio = audio is not None and len(audio.samples) > 0
        if audio is not None and has_audio:
            packets = packets + mp4.encoded_sound(self._container, audio, _SOUND[self._config.codec])
        data = mp4.end_at(mp4.write_movie(self._container, self._out, packets), end)
        self._packets = []
        return Movie(np.array(self._pts_ns, np.int64), width, height, self._config.codec, has_audio, data=data)

    def _set_durations(self, audio: Waveform | None) -> int:
        """Each picture stays until the next, the last one to the end of the sound or as long as the one before.

        The movie's end in ns. Without a duration the last picture would lie outside the movie and not be played.
        """
        ticks, packets = self._ticks, self._packets
        end = 2 * ticks[-1] - ticks[-2] if len(ticks) > 1 else ticks[-1] + 3000
        if audio is not None and len(audio.samples):
            heard = len(audio.samples) * mp4.TICKS_PER_S // audio.sample_rate_hz
            end = heard if heard > ticks[-1] else end
        for packet, after in pairwise(packets):
            packet.duration = (after.dts or 0) - (packet.dts or 0)
        for packet in packets:
            if packet.pts == ticks[-1]:
                packet.duration = end - ticks[-1]
        packets[-1].duration = end - (packets[-1].dts or 0)
        return -(-end * NS_PER_S // mp4.TICKS_PER_S)

    def _open(self, width: int, height: int) -> tuple[av.container.OutputContainer, av.video.VideoStream]:
        container = mp4.open_movie(self._out)
        name, options = _ENCODERS[self._config.codec]
        stream = cast("av.video.VideoStream", container.add_stream(name, rate=30))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = _TICK
        stream.codec_context.gop_size = 60
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {**options, "crf": str(self._config.crf)}
        return container, stream


def _tell_colours(context: Any, frame: av.VideoFrame) -> None:
    """The movie states its frames' matrix: untold, players and `codecs` would guess it from its size."""
    context.colorspace, context.color_range = frame.colorspace, frame.color_range
    context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc


class _Copier:
    """Keeps the clip's packets as they lie in the file."""

    wants_packets: Literal[True] = True

    def __init__(self) -> None:
        self._cut: remux.Cut | None = None
        self._fault = ""

    def coded(
        self,
        video: av.video.VideoStream,
        pictures: Sequence[av.Packet],
        audio: av.audio.AudioStream | None,
        sounds: Sequence[av.Packet],
        start_ns: int,
        end_ns: int,
    ) -> None:
        try:
            self._cut = remux.cut(video, pictures, audio, sounds, start_ns, end_ns)
        except remux.CannotCopyError as error:
            self._fault = str(error)

    def finish(self, audio: Waveform | None) -> Movie | None:
        if self._fault:
            raise Rejected("extract", "codec-not-copyable", f"{self._fault}: build with video.codec=h264")
        cut, self._cut = self._cut, None
        if cut is None:
            return None
        data, offset_ns = remux.movie_of(cut, audio)
        width, height = cut.coded_size[::-1] if mp4.lies_on_its_side(data) else cut.coded_size
        return Movie(
            np.array(cut.pts_ns, np.int64),
            width,
            height,
            cut.codec,
            offset_ns is not None,
            cut.skip,
            len(cut.coded) - cut.skip - len(cut.pts_ns),
            offset_ns or 0,
            cut.pixel_aspect,
            data=data,
        )
