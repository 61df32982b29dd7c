"""Decoded frames made upright, small and square-pixelled: one scaler serves a whole source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame

_BT709 = 1
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
    """Scales the frames of one source; keeps one swscale context a target, since making one costs like a frame."""

    def __init__(self, pixel_aspect: float = 1.0) -> None:
        self._pixel_aspect = pixel_aspect
        self._contexts: dict[object, Any] = {}

    def size(self, frame: VideoFrame, short_side: int) -> tuple[int, int]:
        """Upright (width, height) that `rgb` and `yuv` give this frame: even, square pixels, never enlarged."""
        # Oblong pixels: the long side shrinks, rather than the other being enlarged.
        width = frame.width * min(1.0, self._pixel_aspect)
        height = frame.height / max(1.0, self._pixel_aspect)
        return fit(height, width, short_side) if turn_of(frame).transpose else fit(width, height, short_side)

    def rgb(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """Upright uint8 (H, W, 3), sRGB as coded, full range; shrunk by area, which costs half of bicubic."""
        turn = turn_of(frame)
        scaled = self._scale(frame, _coded(size, turn), "rgb24", "AREA", full_range=True)
        return turn.apply(scaled.to_ndarray())

    def yuv(self, frame: VideoFrame, size: tuple[int, int]) -> VideoFrame:
        """Upright yuv420p frame, limited range."""
        turn = turn_of(frame)
        scaled = self._scale(frame, _coded(size, turn), "yuv420p", "AREA", full_range=False)
        return scaled if turn == UPRIGHT else _turned(scaled, turn)

    def thumbnail(self, frame: VideoFrame, width: int = 64, height: int = 36) -> np.ndarray:
        """uint8 (H, W, 3) of Y, U and V: for comparing pictures; picks points, so that it costs next to nothing."""
        scaled = self._scale(frame, (width, height), "yuv444p", "POINT", full_range=False)
        return scaled.to_ndarray().transpose(1, 2, 0)

    def _scale(
        self, frame: VideoFrame, size: tuple[int, int], pix_fmt: str, algorithm: str, full_range: bool
    ) -> VideoFrame:
        from av.video.reformatter import Interpolation, VideoReformatter

        # Videos that do not state their matrix are meant as players take them: BT.709 from 720 lines up.
        untold = frame.colorspace in _UNSPECIFIED and (frame.height >= 720 or frame.width >= 1280)
        key = (size, pix_fmt, algorithm)
        if key not in self._contexts:
            self._contexts[key] = VideoReformatter()
        return self._contexts[key].reformat(
            frame,
            width=size[0],
            height=size[1],
            format=pix_fmt,
            src_colorspace=_BT709 if untold and _is_yuv(frame.format.name) else None,
            interpolation=Interpolation[algorithm],
            dst_color_range=_FULL_RANGE if full_range else _LIMITED_RANGE,
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


@cache
def _is_yuv(pix_fmt: str) -> bool:
    return pix_fmt.startswith(("yuv", "nv", "p0", "y2"))
