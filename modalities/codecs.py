"""Arrays to bytes and back, by codec name: what one piece of a member is made of.

Every function is deterministic (the same input and library versions give the same bytes, whatever the machine) and
every decoder raises ValueError, and nothing else, for bytes that are damaged or of another format.

    jpeg  uint8 (H, W, 3), lossy           flac  int16 (N,), mono, lossless
    png   uint8 (H, W, 3) or uint16 (H, W)  npy   any numeric array, never a pickle
    json  any JSON value                    mp4   Frames(rgb uint8 (T, H, W, 3), pts_ns int64 (T,))

picture, sound, movie and text read what other people wrote: see `others.py`.
"""

from __future__ import annotations

import ast
import io
import json
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from omniloom.modalities import others
from omniloom.modalities.base import Codec, Frames
from omniloom.modalities.sample import NS_PER_S

if TYPE_CHECKING:
    import av
    import av.container
    import av.video

JPEG_QUALITY = 90
"""Measured on real frames: visually clean, and 4:2:0 as the sources themselves are."""

_MAX_PIXELS = 256_000_000
_MAX_SAMPLES = 1 << 31
"""A day and a half at 16 kHz."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_GRAY, _PNG_COLOUR, _FILTER_UP = 0, 2, 2
BITEXACT = {"fflags": "+bitexact"}
"""Container option: no time stamps, no library versions in the file."""


def encode(codec: Codec, value: Any) -> bytes:
    """One piece as bytes. Raises ValueError if the codec cannot hold such a value."""
    if codec not in _ENCODERS:
        raise ValueError(f"codec {codec!r} has no encoder of single pieces: known are {', '.join(sorted(_ENCODERS))}")
    return _ENCODERS[codec](value)


def decode(codec: Codec, data: bytes) -> Any:
    """The value of one piece. Raises ValueError for damaged bytes, naming the codec."""
    if codec not in _DECODERS:
        raise ValueError(f"unknown codec {codec!r}: known are {', '.join(sorted(_DECODERS))}")
    return _DECODERS[codec](data)


# --- pictures -------------------------------------------------------------------------------------------------


def encode_jpeg(rgb: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """Baseline JPEG, 4:2:0, of uint8 (H, W, 3)."""
    from PIL import Image

    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"a JPEG holds uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return out.getvalue()


def encode_png(array: np.ndarray) -> bytes:
    """Lossless PNG (W3C PNG, third edition) of uint8 (H, W, 3) colour or uint16 (H, W) gray.

    Each row is stored as its difference from the one above. zlib takes five times as long for the same bytes of depth,
    which was more than all else of a generated column but its network; libdeflate's are the same on every machine.
    """
    import deflate

    colour = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    gray16 = array.ndim == 2 and array.dtype == np.uint16
    if not (colour or gray16):
        raise ValueError(f"a PNG holds uint8 (H, W, 3) or uint16 (H, W) here, got {array.dtype} {array.shape}")
    height, width = array.shape[:2]
    rows = np.ascontiguousarray(array if colour else array.astype(">u2")).view(np.uint8).reshape(height, -1)
    lines = np.empty((height, 1 + rows.shape[1]), np.uint8)
    lines[:, 0] = _FILTER_UP
    lines[:1, 1:] = rows[:1]
    np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
    bits, kind = (8, _PNG_COLOUR) if colour else (16, _PNG_GRAY)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", deflate.zlib_compress(lines.ravel(), 1)), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _decode_jpeg(data: bytes) -> np.ndarray:
    """By libjpeg-turbo without what Pillow does around it, which takes a third of the time; the same pixels."""
    try:
        import simplejpeg
    except ImportError:  # building and looking do not install it
        return _decode_picture(data, "JPEG")
    try:
        height, width = map(int, simplejpeg.decode_jpeg_header(data)[:2])
        if 0 < width * height <= _MAX_PIXELS:
            return simplejpeg.decode_jpeg(data)
    except ValueError:
        pass  # it also refuses what is odd and whole: bytes between segments, as some cameras leave them
    return _decode_picture(data, "JPEG")


def _decode_png(data: bytes) -> np.ndarray:
    ours = _decode_own_png(data)
    return _decode_picture(data, "PNG") if ours is None else ours


def _decode_own_png(data: bytes) -> np.ndarray | None:
    """What `encode_png` wrote, in a third of Pillow's time; None for any other PNG. Raises ValueError for damage."""
    if len(data) < 57 or data[:8] != _PNG_SIGNATURE or data[12:16] != b"IHDR" or data[37:41] != b"IDAT":
        return None
    width, height, bits, kind, *rest = struct.unpack_from(">IIBBBBB", data, 16)
    size = struct.unpack_from(">I", data, 33)[0]
    if (bits, kind) not in {(8, _PNG_COLOUR), (16, _PNG_GRAY)} or any(rest) or 41 + size + 16 != len(data):
        return None
    if not 0 < width * height <= _MAX_PIXELS:
        raise ValueError(f"damaged PNG: {(width, height)} pixels")
    try:
        import deflate
    except ImportError:  # training alone does not install it
        return None
    view = memoryview(data)
    for start, end in ((12, 29), (37, 41 + size)):
        if deflate.crc32(view[start:end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ValueError("damaged PNG: its bytes do not match their checksum")
    across = width * (3 if kind == _PNG_COLOUR else 2)
    try:
        lines = np.frombuffer(deflate.zlib_decompress(view[41 : 41 + size], height * (1 + across)), np.uint8)
    except (deflate.DeflateError, ValueError) as error:
        raise ValueError(f"damaged PNG: {error}") from error
    if lines.size != height * (1 + across):
        raise ValueError(f"damaged PNG: {lines.size} bytes for {width}x{height}")
    lines = lines.reshape(height, 1 + across)
    if (lines[:, 0] != _FILTER_UP).any():
        return None
    rows = lines[:, 1:]
    _add_down(rows)
    return rows.reshape(height, width, 3) if kind == _PNG_COLOUR else rows.view(">u2").astype(np.uint16)


def _add_down(rows: np.ndarray) -> None:
    """Adds to each row of uint8 (H, N) the one above, from the top: `np.add.accumulate`, which takes ten times as long.

    The square root of H groups of rows side by side, each then raised by the last row of the one before: a thousand
    small calls would have threads wait for each other.
    """
    deep = math.isqrt(len(rows))
    count = len(rows) // deep
    groups = rows[: count * deep].reshape(count, deep, -1)
    for row in range(1, deep):
        groups[:, row] += groups[:, row - 1]
    for above, group in pairwise(groups):
        np.add(group, above[-1], out=group)
    for above, row in pairwise(rows[count * deep - 1 :]):
        np.add(row, above, out=row)


def _decode_picture(data: bytes, kind: str) -> np.ndarray:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=(kind,))
            if math.prod(picture.size) > _MAX_PIXELS:
                raise ValueError(f"damaged {kind}: {picture.size} pixels")
            gray16 = kind == "PNG" and picture.mode in {"I;16", "I"}
            array = np.asarray(picture if gray16 or picture.mode == "RGB" else picture.convert("RGB"))
    # Pillow's own list of what broken files raise, SyntaxError included.
    except (OSError, SyntaxError, EOFError, IndexError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(f"damaged {kind}: {error}") from error
    return array.astype(np.uint16) if gray16 else array


# --- sound ----------------------------------------------------------------------------------------------------


def encode_flac(samples: np.ndarray, sample_rate_hz: int = 16_000) -> bytes:
    """FLAC of int16 (N,) mono, N > 0, whose header states its length: DALI's reader needs that."""
    import av

    if samples.ndim != 1 or samples.dtype != np.int16 or not len(samples):
        raise ValueError(f"FLAC holds int16 (N,) with N > 0 here, got {samples.dtype} {samples.shape}")
    # A BytesIO can seek: the muxer goes back and writes the length and the checksum of the samples.
    out = io.BytesIO()
    options = {**BITEXACT, "metadata_header_padding": "0"}  # by default 8 KB of nothing
    with av.open(out, "w", format="flac", options=options) as container:
        stream = container.add_stream("flac", rate=sample_rate_hz, layout="mono", format="s16")
        stream.codec_context.options = {"flags": "+bitexact"}
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None, :], format="s16", layout="mono")
        frame.sample_rate = sample_rate_hz
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def _decode_flac(data: bytes) -> np.ndarray:
    ours = _decode_own_flac(data)
    return _decode_any_flac(data) if ours is None else ours


def _decode_own_flac(data: bytes) -> np.ndarray | None:
    """16-bit mono of a stated length, by dr_flac in three fifths of libsndfile's time; None for all that it refuses.

    It passes over frames whose checksum is wrong: then samples are missing.
    """
    try:
        import miniaudio
    except ImportError:  # building and looking do not install it
        return None
    if len(data) < 42 or data[:4] != b"fLaC" or data[4] & 0x7F:
        return None
    # STREAMINFO (RFC 9639, 8.2): after sizes and 20 bits of rate come channels - 1, bits - 1 and the number of samples.
    facts = int.from_bytes(data[18:26], "big")
    channels, bits, stated = 1 + (facts >> 41 & 7), 1 + (facts >> 36 & 31), facts & (1 << 36) - 1
    if (channels, bits) != (1, 16) or not 0 < stated <= _MAX_SAMPLES:
        return None
    try:
        sound = miniaudio.flac_read_s16(data)
    except (miniaudio.MiniaudioError, MemoryError):
        return None
    samples = np.frombuffer(sound.samples, np.int16)
    return samples if len(samples) == stated else None


def _decode_any_flac(data: bytes) -> np.ndarray:
    import soundfile

    try:
        with _in_memory(data) as held, soundfile.SoundFile(held, closefd=False) as file:
            if (file.format, file.subtype, file.channels) != ("FLAC", "PCM_16", 1):
                raise ValueError(
                    f"FLAC here is 16-bit mono, got {file.format} {file.subtype}, {file.channels} channels"
                )
            stated = file.frames
            samples: np.ndarray = file.read(dtype="int16")
    except (soundfile.SoundFileError, RuntimeError, MemoryError) as error:
        raise ValueError(f"damaged FLAC: {error}") from error
    if not stated or len(samples) != stated:
        raise ValueError(f"damaged FLAC: {len(samples)} samples, its header states {stated}")
    return samples


@contextmanager
def _in_memory(data: bytes) -> Iterator[int | io.BytesIO]:
    """What libsndfile can read data from: a descriptor, where the system has some without a file.

    Of a Python object it would ask two hundred times a clip, and threads would wait for each other each time.
    """
    if not hasattr(os, "memfd_create"):
        yield io.BytesIO(data)
        return
    with os.fdopen(os.memfd_create("sound"), "wb+") as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


# --- arrays and records ---------------------------------------------------------------------------------------


def encode_npy(array: np.ndarray) -> bytes:
    """NumPy's format, version 1, of a numeric array."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return out.getvalue()


def _decode_npy(data: bytes) -> np.ndarray:
    # NumPy's own reader repairs headers by guessing, allocates what they ask for, and fails in a dozen ways.
    start = 10 + int.from_bytes(data[8:10], "little")
    try:
        if data[:8] != b"\x93NUMPY\x01\x00":
            raise ValueError("not version 1 of the format")
        header = ast.literal_eval(data[10:start].decode("latin-1").strip())
        dtype, shape = str(header["descr"]), tuple(int(side) for side in header["shape"])
        if not re.fullmatch(r"[<|][fiub][1248]", dtype) or header["fortran_order"] or min(shape, default=0) < 0:
            raise ValueError(f"an array of {dtype} {shape}")
        if math.prod(shape) * np.dtype(dtype).itemsize != len(data) - start:
            raise ValueError(f"{len(data) - start} bytes for {dtype} {shape}")
        return np.frombuffer(data, dtype, offset=start).reshape(shape)
    except (ValueError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"damaged NPY: {error}") from error


def encode_json(value: Any) -> bytes:
    """UTF-8 JSON on one line with a newline; keys stay in their order. Raises ValueError for NaN."""
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()


def _decode_json(data: bytes) -> Any:
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged JSON: {error}") from error


# --- video ----------------------------------------------------------------------------------------------------


def _decode_mp4(data: bytes) -> Frames:
    """Every picture of the first video stream, upright, and its presentation time in the file.

    Also those that the file's edit list hides, which `modalities/remux.py` leaves there: they lie before time 0.
    """
    import av

    try:
        with av.open(io.BytesIO(data), "r", format="mov", options={"advanced_editlist": "0"}) as container:
            rgb, pts_ns = pictures_of(container, container.streams.video[0])
    except (av.FFmpegError, IndexError, UnicodeDecodeError, MemoryError) as error:
        raise ValueError(f"damaged MP4: {error}") from error
    if not rgb or len({picture.shape for picture in rgb}) != 1:
        raise ValueError(f"damaged MP4: {len(rgb)} pictures of {len({picture.shape for picture in rgb})} sizes")
    return Frames(np.stack(rgb), np.array(pts_ns, np.int64))


def pictures_of(
    container: av.container.InputContainer, stream: av.video.VideoStream
) -> tuple[list[np.ndarray], list[int]]:
    """Every picture of the stream, uint8 (H, W, 3) and upright, with its time in ns. Raises ValueError for damage."""
    # One thread: with slice threads FFmpeg hides damage, and pixels can depend on their number.
    stream.codec_context.thread_count = 1
    rgb: list[np.ndarray] = []
    pts_ns: list[int] = []
    matrix: tuple[int, int, int, int] | None = None
    for frame in container.decode(stream):
        if matrix is None:  # the stream's: and reading it of every frame would keep them all in memory
            matrix = _display_matrix(frame)
        if frame.is_corrupt or frame.pts is None or frame.time_base is None:
            raise ValueError(f"damaged {container.format.name}: picture {len(rgb)} is corrupt")
        rgb.append(_upright(frame.to_ndarray(format="rgb24"), *matrix))
        pts_ns.append(round(frame.pts * frame.time_base * NS_PER_S))
    return rgb, pts_ns


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d of how players show it: x' = a x + c y, y' = b x + d y."""
    for data in cast("Any", frame.side_data):
        if "DISPLAYMATRIX" in str(data.type):
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            return a, b, c, d
    return 1, 0, 0, 1


def _upright(rgb: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """uint8 (H, W, 3), turned and mirrored as the display matrix says."""
    if abs(b) + abs(c) > abs(a) + abs(d):
        rgb, a, d = rgb.swapaxes(0, 1), c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


_ENCODERS: Mapping[str, Callable[[Any], bytes]] = {
    "jpeg": encode_jpeg,
    "png": encode_png,
    "flac": encode_flac,
    "npy": encode_npy,
    "json": encode_json,
}
_DECODERS = cast(
    "Mapping[str, Callable[[bytes], Any]]",
    {
        "jpeg": _decode_jpeg,
        "png": _decode_png,
        "flac": _decode_flac,
        "npy": _decode_npy,
        "json": _decode_json,
        "mp4": _decode_mp4,
        "picture": others.decode_picture,
        "sound": others.decode_sound,
        "movie": others.decode_movie,
        "text": others.decode_text,
    },
)
