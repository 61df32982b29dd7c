"""A small movie of every frame of the clip with its sound, to look at and for dense video: H.264 at 256 pixels.

Presentation times survive: variable frame rate stays variable, and every frame's time is also in the facts, exact.
Lossy: on smooth pictures `read` returns the pictures within 12 % of the range. What training reads is `frames`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from omniloom.modalities import codecs
from omniloom.modalities.base import Ask, Codec, FactType, Footage, Frames, Made, Recorder, Stem, Waveform, Window
from omniloom.modalities.base import all_facts as narrow
from omniloom.modalities.base import no_models as models
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.sample import NS_PER_S, Fact, Part

if TYPE_CHECKING:
    import av
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
}
stem = Stem("none")
tolerance = 0.12

_TICKS = Fraction(1, 90_000)
_ENCODERS = {
    "h264": ("libx264", {"preset": "veryfast", "flags": "+bitexact"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "0", "flags": "+bitexact"}),
}


@dataclass(frozen=True, slots=True)
class Config:
    """How the movie is made; `none` makes none and costs nothing."""

    codec: Literal["h264", "vp9", "copy", "none"] = "h264"
    short_side: int = 256
    """Pixels; smaller sources are not enlarged."""
    crf: int = 28
    """Quality at constant rate factor: lower is better and larger."""

    def __post_init__(self) -> None:
        if self.codec == "copy":
            raise ValueError("not yet: video.codec=copy (stream copy); use h264, vp9 or none")
        if self.codec not in {*_ENCODERS, "none"}:
            raise ValueError(f"video.codec is h264, vp9 or none, got {self.codec!r}")
        if not 0 <= self.crf <= 51 or self.short_side < 2:
            raise ValueError(f"video needs 0 <= crf <= 51 and short_side >= 2, got {self.crf = }, {self.short_side = }")


@dataclass(frozen=True, slots=True)
class Movie:
    """An encoded movie, or one read back: `data` or `rgb` is None, unless both are known."""

    pts_ns: np.ndarray
    """int64 (T,), from the clip's start."""
    width: int
    height: int
    codec: str
    has_audio: bool
    rgb: np.ndarray | None = None
    """uint8 (T, H, W, 3)."""
    data: bytes | None = field(default=None, repr=False, compare=False)


def recorder(config: Config) -> Recorder | None:
    """Encodes the frames as they are decoded; None if no movie is wanted."""
    return None if config.codec == "none" else _Encoder(config)


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
        },
    )


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Movie:
    """The pictures of the movie, at the times the facts state. Raises ValueError if there are more or fewer."""
    pictures = cast(Frames, pieces[0])
    pts_ns = np.array(facts["pts_ns"], np.int64)
    if len(pts_ns) != len(pictures.rgb):
        raise ValueError(f"damaged MP4: {len(pictures.rgb)} pictures, its facts state {len(pts_ns)}")
    height, width = pictures.rgb.shape[1:3]
    return Movie(pts_ns, width, height, str(facts["codec"]), bool(facts["has_audio"]), rgb=pictures.rgb)


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
    return Movie(made.pts_ns, made.width, made.height, made.codec, made.has_audio, rgb=rgb, data=made.data)


class _Encoder:
    """Sees each frame once and keeps only the compressed movie."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pts_ns: list[int] = []
        self._ticks = -1
        self._out = io.BytesIO()
        self._container: av.container.OutputContainer | None = None
        self._stream: av.video.VideoStream | None = None

    def picture(self, frame: av.VideoFrame, pts_ns: int) -> None:
        # 4:2:0 holds even sizes only; a row or column fewer is less harm than a stretched picture.
        width, height = max(2, frame.width & ~1), max(2, frame.height & ~1)
        if self._container is None or self._stream is None:
            self._container, self._stream = self._open(width, height)
        width, height = self._stream.width, self._stream.height  # a stream may change its size midway
        if (frame.width, frame.height, frame.format.name) != (width, height, "yuv420p"):
            frame = frame.reformat(width=width, height=height, format="yuv420p")
        ticks = max(self._ticks + 1, round(Fraction(pts_ns, NS_PER_S) / _TICKS))
        # As long as the one before: a last frame without a duration would lie outside the movie and not be played.
        frame.duration = ticks - self._ticks if self._pts_ns else 3000
        self._ticks = frame.pts = ticks
        frame.time_base = _TICKS
        # The source's picture types are its own; here the encoder decides.
        frame.pict_type = 0
        self._container.mux(self._stream.encode(frame))
        self._pts_ns.append(pts_ns)

    def finish(self, audio: Waveform | None) -> Movie | None:
        if self._container is None or self._stream is None:
            return None
        self._container.mux(self._stream.encode(None))
        width, height = self._stream.width, self._stream.height
        self._container.close()
        silent = self._out.getvalue()
        has_audio = audio is not None and len(audio.samples) > 0
        data = _with_sound(silent, audio, self._config.codec) if audio is not None and has_audio else silent
        return Movie(np.array(self._pts_ns, np.int64), width, height, self._config.codec, has_audio, data=data)

    def _open(self, width: int, height: int) -> tuple[av.container.OutputContainer, av.video.VideoStream]:
        import av

        container = av.open(self._out, "w", format="mp4", options=codecs.BITEXACT)
        name, options = _ENCODERS[self._config.codec]
        stream = cast("av.video.VideoStream", container.add_stream(name, rate=30))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = _TICKS
        stream.codec_context.gop_size = 60
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {**options, "crf": str(self._config.crf)}
        return container, stream


def _with_sound(movie: bytes, audio: Waveform, codec: str) -> bytes:
    """The same pictures and the sound beside them: AAC with H.264, Opus with VP9."""
    import av

    out = io.BytesIO()
    with (
        av.open(io.BytesIO(movie), "r", format="mov") as source,
        av.open(out, "w", format="mp4", options=codecs.BITEXACT) as container,
    ):
        pictures = source.streams.video[0]
        video_out = container.add_stream_from_template(pictures)
        name = "aac" if codec == "h264" else "libopus"
        sound = container.add_stream(name, rate=audio.sample_rate_hz, layout="mono")
        sound.codec_context.options = {"flags": "+bitexact"}
        sound.codec_context.bit_rate = 48_000
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio.samples)[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts = audio.sample_rate_hz, 0
        frame.time_base = Fraction(1, audio.sample_rate_hz)
        duration = 3000
        packets = [packet for packet in source.demux(pictures) if packet.dts is not None]
        for packet, after in zip(packets, [*packets[1:], None], strict=True):
            if after is not None and after.dts is not None and packet.dts is not None:
                duration = after.dts - packet.dts
            packet.stream, packet.duration = video_out, duration
            container.mux(packet)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return out.getvalue()
