"""Decoded frames made upright, small and square-pixelled: one scaler serves a whole source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from omniloom.modalities.sample import Rejected
from omniloom.pipeline.hdr import Look, ToneMap, curve, look_of

if TYPE_CHECKING:
    from av import VideoFrame

_BT709 = 1  # AVCOL_SPC_BT709, AVCOL_TRC_BT709, AVCOL_PRI_BT709 and SWS_CS_ITU709 alike
_BT601 = 5
_BT2020 = 9
_SWS_MATRIX = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: _BT2020, 10: _BT2020}
_UNSPECIFIED = (0, 2)
_FULL_RANGE = 2
_LIMITED_RANGE = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """How a coded picture becomes upright: transposed first, then mirrored."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The image (H, W) or (H, W, C), upright and contiguous."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1])


UPRIGHT = Turn()


def turn_of(frame: VideoFrame) -> Turn:
    """The turn that the frame's display matrix asks for, to the nearest quarter; mirror images too.

    The matrix maps (x, y) to (a x + c y, b x + d y), in the order a b u, c d v, x y w of ISO 14496-12.
    """
    if not frame.rotation and not any("DISPLAYMATRIX" in str(data.type) for data in cast("Any", frame.side_data)):
        return UPRIGHT
    matrix = next(data for data in cast("Any", frame.side_data) if "DISPLAYMATRIX" in str(data.type))
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)


def fit(width: float, height: float, short_side: int) -> tuple[int, int]:
    """Even (width, height) with the given short side and the same shape; never larger, except that 2 x 2 is least."""
    scale = min(1.0, short_side / min(width, height))
    return _even(width, scale), _even(height, scale)


class Scaler:
    """Scales the frames of one source; keeps one swscale context a target, since making one costs like a frame.

    All shrinking is by area: of swscale's filters it is the cheapest, and within 59 dB of exact area averaging.
    """

    def __init__(self, pixel_aspect: float = 1.0) -> None:
        self._pixel_aspect = pixel_aspect
        self._contexts: dict[object, Any] = {}
        self._turn: tuple[int, Turn] | None = None
        self._tones: dict[Look, ToneMap] = {}
        self._points: dict[object, np.ndarray] = {}

    def size(self, frame: VideoFrame, short_side: int) -> tuple[int, int]:
        """Upright (width, height) that `rgb` and `yuv` give this frame: even, square pixels, never enlarged."""
        # Oblong pixels: the long side shrinks, rather than the other being enlarged.
        width = frame.width * min(1.0, self._pixel_aspect)
        height = frame.height / max(1.0, self._pixel_aspect)
        return fit(height, width, short_side) if self.turn(frame).transpose else fit(width, height, short_side)

    def upright(self, frame: VideoFrame) -> tuple[int, int]:
        """(width, height) as coded, but upright."""
        return (frame.height, frame.width) if self.turn(frame).transpose else (frame.width, frame.height)

    def turn(self, frame: VideoFrame) -> Turn:
        """How this frame becomes upright. The matrix is the stream's: it is read again when the angle changes.

        Reading it makes PyAV tie the frame into a reference cycle: done for every frame, memory fills with frames.
        """
        angle = frame.rotation
        if self._turn is None or self._turn[0] != angle:
            self._turn = angle, turn_of(frame)
        return self._turn[1]

    def rgb(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """Upright uint8 (H, W, 3), full range, in BT.709 (sRGB primaries): as coded, or toned (`pipeline/hdr.py`)."""
        turn = self.turn(frame)
        look = look_of(frame)
        small = self._toned(frame, look, _coded(size, turn)) if look else frame
        if not look and _is_yuv(frame.format.name):
            # Straight to RGB, swscale would halve the resolution of colours, and take longer.
            small = self._scale(small, _coded(size, turn), "yuv444p")
        return turn.apply(self._scale(small, _coded(size, turn), "rgb24").to_ndarray())

    def yuv(self, frame: VideoFrame, size: tuple[int, int]) -> VideoFrame:
        """Upright yuv420p frame, limited range, tagged with its matrix: the source's own, BT.709 if toned."""
        turn = self.turn(frame)
        look = look_of(frame)
        small = self._toned(frame, look, _coded(size, turn)) if look else frame
        scaled = self._scale(small, _coded(size, turn), "yuv420p")
        return scaled if turn == UPRIGHT else _turned(scaled, turn)

    def thumbnail(
        self,
        frame: VideoFrame,
        width: int = 64,
        height: int = 36,
        format: str = "yuv444p",  # noqa: A002
    ) -> np.ndarray:
        """A tiny picture for comparing, as it is coded (not turned): picks points, so that it costs next to nothing.

        yuv444p         uint8 (H, W, 3) of Y, U, V: limited range
        gray            uint8 (H, W): 0 is black and 255 white, whatever the range
        rgb24, bgr24    uint8 (H, W, 3): full range

        HDR keeps its chroma; its luma is toned as if it were grey.
        """
        if format in ("rgb24", "bgr24"):
            return self._scale(frame, (width, height), format, "POINT").to_ndarray()
        if format not in ("yuv444p", "gray"):
            raise ValueError(f"thumbnails come as yuv444p, gray, rgb24 or bgr24, got {format!r}")
        name = frame.format.name
        bits = _planar_bits(name)
        if not bits:  # packed, or no YUV: swscale brings it to planes
            frame = self._scale(frame, (width, height), "yuv444p", "POINT")
            name, bits = "yuv444p", 8
        full = _is_full(frame.color_range, name)
        look = look_of(frame)
        planes = frame.planes
        luma_tone = _luma_table(bits, full, format == "gray", look)
        if format == "gray":
            return self._pick(planes[0], bits, width, height, luma_tone)
        picture = np.empty((height, width, 3), np.uint8)
        picture[..., 0] = self._pick(planes[0], bits, width, height, luma_tone)
        if len(planes) < 3:
            picture[..., 1:] = 128
            return picture
        chroma_tone = _chroma_table(bits, full)
        for channel in (1, 2):
            picture[..., channel] = self._pick(planes[channel], bits, width, height, chroma_tone)
        return picture

    def _pick(self, plane: Any, bits: int, width: int, height: int, table: np.ndarray | None) -> np.ndarray:
        """uint8 (height, width): the plane's values at the middles of the cells of a grid, by way of the table."""
        values = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)
        stride = plane.line_size // values.itemsize
        key = (plane.width, plane.height, stride, width, height)
        points = self._points.get(key)
        if points is None:
            rows = (2 * np.arange(height) + 1) * plane.height // (2 * height)
            columns = (2 * np.arange(width) + 1) * plane.width // (2 * width)
            points = self._points[key] = rows[:, None] * stride + columns
        picked = values.take(points)
        return picked if table is None else table.take(picked, mode="clip")

    def _toned(self, frame: VideoFrame, look: Look, size: tuple[int, int]) -> VideoFrame:
        """The frame at that size in BT.709, gbrp16le: shrunk first, so that toning costs little."""
        if look not in self._tones:
            self._tones[look] = ToneMap(look)
        toned = self._tones[look].apply(self._scale(frame, size, "gbrp16le"))
        toned.colorspace = toned.color_trc = toned.color_primaries = _BT709
        return toned

    def _scale(self, frame: VideoFrame, size: tuple[int, int], pix_fmt: str, algorithm: str = "AREA") -> VideoFrame:
        from av.video.reformatter import Interpolation, VideoReformatter

        key = (size, pix_fmt, algorithm, frame.format.name)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = VideoReformatter()
        # Both named, and the same: from an untold matrix to an untold one swscale would convert, which costs double.
        matrix = _matrix_of(frame)
        return context.reformat(
            frame,
            width=size[0],
            height=size[1],
            format=pix_fmt,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            # Bit-exact: else pixels depend on whether the processor has AVX2. It costs 8 %.
            interpolation=Interpolation[algorithm] | Interpolation.BITEXACT,
            dst_color_range=_LIMITED_RANGE if pix_fmt.startswith("yuv") else _FULL_RANGE,
            threads=1,
        )


def _coded(size: tuple[int, int], turn: Turn) -> tuple[int, int]:
    return (size[1], size[0]) if turn.transpose else size


def _turned(frame: VideoFrame, turn: Turn) -> VideoFrame:
    from av import VideoFrame as Frame

    planes = frame.to_ndarray()
    height, width = frame.height, frame.width
    luma = planes[:height]
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    parts = [turn.apply(luma), turn.apply(chroma[0]), turn.apply(chroma[1])]
    new_width = height if turn.transpose else width
    stacked = np.concatenate([part.ravel() for part in parts]).reshape(-1, new_width)
    turned = Frame.from_ndarray(stacked, format="yuv420p")
    turned.pts, turned.time_base = frame.pts, frame.time_base
    turned.colorspace, turned.color_range = frame.colorspace, frame.color_range
    return turned


def _even(length: float, scale: float) -> int:
    return max(2, min(int(length) // 2 * 2, round(length * scale / 2) * 2))


def _matrix_of(frame: VideoFrame) -> int:
    """The frame's YUV matrix, in swscale's numbers; of RGB the one that YUV made from it gets.

    Raises Rejected("decode", "unknown-colours") for YCgCo, ICtCp and others that swscale cannot read.
    """
    matrix = frame.colorspace
    if matrix in _SWS_MATRIX:
        return _SWS_MATRIX[matrix]
    if matrix not in (*_UNSPECIFIED, 3) and _is_yuv(frame.format.name):
        raise Rejected("decode", "unknown-colours", f"YUV matrix {matrix} of ITU-T H.273 cannot be read")
    if frame.color_primaries == _BT2020 and _is_yuv(frame.format.name):
        return _BT2020
    # Videos that do not state their matrix are meant as players take them: BT.709 from 720 lines up.
    return _BT709 if frame.height >= 720 or frame.width >= 1280 else _BT601


@cache
def _is_yuv(pix_fmt: str) -> bool:
    return pix_fmt.startswith(("yuv", "nv", "p0", "p2", "p4", "y2", "uyv", "yvyu", "gray", "ayuv", "vuy", "xv", "v30"))


def _is_full(color_range: int, pix_fmt: str) -> bool:
    """Whether luma runs from 0 to 255: as swscale decides it, which takes all grey for full."""
    return color_range == _FULL_RANGE or pix_fmt.startswith(("yuvj", "gray"))


@cache
def _planar_bits(pix_fmt: str) -> int:
    """Bits a value if the format is planar YUV or grey, each plane apart and in this machine's order; else 0."""
    found = re.fullmatch(r"(?:yuv[ja]?(?:420|422|444|440|411|410)p|gray)(|(?:9|10|12|14|16)le)", pix_fmt)
    return 0 if found is None else int(found[1][:-2] or 8)


@cache
def _luma_table(bits: int, full: bool, to_full: bool, look: Look | None) -> np.ndarray | None:
    """uint8 (2^bits,): 8-bit luma, full range or limited; None where it is the value itself."""
    if bits == 8 and full == to_full and look is None:
        return None
    one = 2 ** (bits - 8)
    values = np.arange(2**bits) / one
    light = np.clip(values * one / (2**bits - 1) if full else (values - 16) / 219, 0, 1)
    if look is not None:
        light = np.interp(light, np.linspace(0, 1, 4096), curve(look))
    elif not (full or to_full):
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)  # as coded, footroom and all
    return np.rint(255 * light if to_full else 16 + 219 * light).astype(np.uint8)


@cache
def _chroma_table(bits: int, full: bool) -> np.ndarray | None:
    """uint8 (2^bits,): 8-bit chroma of limited range; None where it is the value itself."""
    if bits == 8 and not full:
        return None
    away = np.arange(2**bits) / 2 ** (bits - 8) - 128
    return np.clip(np.rint(128 + away * (224 / 255 if full else 1)), 0, 255).astype(np.uint8)
