"""Pictures, sounds, movies and texts as other people store them: decoded to what our own codecs give.

Every decoder raises ValueError, and nothing else, for bytes that are damaged or no such thing.

    picture  JPEG, PNG or WebP   -> uint8 (H, W, 3), upright
    sound    any of `FORMATS`    -> int16 (N,), mono at 16 kHz
    movie    any of `FORMATS`    -> Frames(rgb uint8 (T, H, W, 3), pts_ns int64 (T,)), upright, from the first picture
    text     UTF-8, or what looks like UTF-16 or Latin-1 -> str
"""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from omniloom.modalities.base import Frames

if TYPE_CHECKING:
    from av.container import InputContainer
    from PIL.Image import Image

# Formats that are read. Playlists (HLS, DASH, concat, ...) are not among them, whatever a file is named: FFmpeg would
# follow them to other files and hosts. A protocol whitelist alone does not stop that.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,mxf,gxf,nut,ivf,dv,m4v,h264,hevc,"
    "wav,w64,flac,mp3,aac,aiff,caf,au,amr,ac3,eac3"
)
MAX_PIXELS = 7680 * 4320
"""Of one picture of a movie: 8K. A dimension bomb costs gigabytes before its first frame."""
MAX_STREAMS = 64
SAMPLE_RATE_HZ = 16_000

_PICTURES = ("JPEG", "PNG", "WEBP")
_MAX_STILL_PIXELS = 256_000_000
_OPEN_TIMEOUT_S = 60.0
_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, width and height are exchanged


def open_media_source(source: str | io.BytesIO, formats: str = FORMATS) -> InputContainer:
    """Opens a file by its absolute path, or one in memory: these formats only, nothing else is ever opened.

    Raises what PyAV raises.
    """
    import av

    options = {
        "format_whitelist": formats,
        "protocol_whitelist": "file" if isinstance(source, str) else "none",
        "max_streams": str(MAX_STREAMS),
        "max_pixels": str(MAX_PIXELS),
    }
    return av.open(source, "r", options=options, metadata_errors="replace", timeout=_OPEN_TIMEOUT_S)


def decode_picture(data: bytes) -> np.ndarray:
    """uint8 (H, W, 3), turned as its EXIF says; the first picture of an animation."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = _opened(data)
            if picture.mode.startswith("I"):  # 16-bit grey: Pillow would clip it, not scale it
                grey = np.clip(np.asarray(picture, np.int64) >> 8, 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            ImageOps.exif_transpose(picture, in_place=True)
            return np.asarray(picture.convert("RGB"))
        # Pillow's own list of what broken files raise, SyntaxError included.
        except (OSError, SyntaxError, EOFError, IndexError, TypeError, Image.DecompressionBombError) as error:
            raise ValueError(f"damaged picture: {error}") from error


def look_at_picture(data: bytes) -> tuple[int, int]:
    """(width, height) of the upright picture, from its header. One whose end is missing is decoded to tell."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = _opened(data)
            turned = picture.getexif().get(_ORIENTATION, 1) in range(5, 9)
        except (OSError, SyntaxError, EOFError, IndexError, TypeError, Image.DecompressionBombError) as error:
            raise ValueError(f"damaged picture: {error}") from error
    if not _is_whole(picture.format, data):
        decode_picture(data)
    return (picture.height, picture.width) if turned else (picture.width, picture.height)


def decode_sound(data: bytes) -> np.ndarray:
    """int16 (N,), mono at 16 kHz: all channels mixed, from the first sample that sounds."""
    import av
    from av.audio.resampler import AudioResampler

    samples: list[np.ndarray] = []
    try:
        with open_media_source(io.BytesIO(data)) as container:
            stream = container.streams.audio[0]
            stream.codec_context.thread_count = 1
            resampler: Any = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
            for frame in container.decode(stream):
                frame.pts = None  # it is to count, not to fill
                samples += (_samples(out) for out in resampler.resample(frame))
            samples += (_samples(out) for out in resampler.resample(None) if out is not None)
    except (av.FFmpegError, OSError, IndexError, ValueError, MemoryError) as error:
        raise ValueError(f"damaged sound: {error}") from error
    if not sum(map(len, samples)):
        raise ValueError("damaged sound: there is none in it")
    return np.concatenate(samples)


def decode_movie(data: bytes) -> Frames:
    """Every picture that a player shows of the largest video stream."""
    import av

    from omniloom.modalities.codecs import pictures_of

    try:
        with open_media_source(io.BytesIO(data)) as container:
            stream = max(container.streams.video, key=lambda s: s.width * s.height, default=None)
            if stream is None:
                raise ValueError("no video stream")
            rgb, pts_ns = pictures_of(container, stream)
    except (av.FFmpegError, OSError, IndexError, ValueError, MemoryError) as error:
        raise ValueError(f"damaged movie: {error}") from error
    if not rgb or len({picture.shape for picture in rgb}) != 1:
        raise ValueError(f"damaged movie: {len(rgb)} pictures of {len({picture.shape for picture in rgb})} sizes")
    times_ns = np.array(pts_ns, np.int64)
    return Frames(np.stack(rgb), times_ns - times_ns[0])


def decode_text(data: bytes) -> str:
    """UTF-16 and UTF-8 as their marks say, else UTF-8, else Latin-1, in which every byte but 0 means something."""
    if b"\0" in data and data[:2] not in {b"\xff\xfe", b"\xfe\xff"}:
        raise ValueError("not a text file: it has zero bytes")
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _opened(data: bytes) -> Image:
    from PIL import Image

    picture = Image.open(io.BytesIO(data), formats=_PICTURES)
    if math.prod(picture.size) > _MAX_STILL_PIXELS:
        raise ValueError(f"damaged picture: {picture.size} pixels")
    return picture


def _is_whole(kind: str | None, data: bytes) -> bool:
    """Whether it ends as such a file does."""
    if kind == "JPEG":
        return data.rstrip(b"\0\n\r")[-2:] == b"\xff\xd9"
    if kind == "PNG":
        return data[-12:-4] == b"\0\0\0\0IEND"
    return int.from_bytes(data[4:8], "little") + 8 <= len(data)


def _samples(frame: Any) -> np.ndarray:
    return np.frombuffer(memoryview(frame.planes[0]), np.int16)[: frame.samples].copy()
