"""What a clip's sampled frames look like in numbers: light, colour, movement, sharpness, black bars, a hash.

Everything but the bars is measured inside them. Means over frames count each by how long it stands.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from omniloom.modalities.base import Frames
from omniloom.modalities.sample import NS_PER_S, Fact

_LUMA = (54, 183, 19)
"""BT.709 weights of red, green and blue, of 256."""
_BLACK_LEVEL = 25
"""A pixel up to here is black, and so is a picture of 98 % such pixels: the defaults of FFmpeg's blackdetect."""
_BLACK_SHARE = 0.98
_BAR_LEVEL = 20
_BAR_SPECKS = 0.01
"""Share of a bar's row that may be brighter."""
_EDGE_SHARE = 0.3
"""A bar ends at a straight edge: this share of one of the next rows is brighter, in one frame or another."""
_BLOCK = 4
"""Pixels, of every second one: blocks of 8 x 8."""
_STILL_LEVELS = 6.0
"""A picture stands still while no block's mean changes by this much: above what encoders do to a still (5), below what
the slowest footage at hand does (14)."""
_MOST_BLURS = 3
_STEEP_SHARE = 0.05
_CLIMB = 5
"""Pixels over which an edge's climb is measured."""
_MIN_CLIMB_LEVELS = 4
"""Where the steepest twentieth climbs less, there is nothing to be sharp or blurred."""
_HASH_SIDE = 32


class Bars(NamedTuple):
    """Rows and columns of black around the picture, in pixels."""

    top: int
    bottom: int
    left: int
    right: int


def look(frames: Frames) -> dict[str, Fact]:
    """The signals of the picture by name; None for those that cannot be told. At least one frame of one pixel."""
    height, width = frames.rgb.shape[1:3]
    shown = _shown(frames.pts_ns)
    coarse = frames.rgb[:, ::2, ::2]
    luma = luma_of(coarse)
    dark = np.mean(luma <= _BLACK_LEVEL, axis=(1, 2)) >= _BLACK_SHARE
    seen: dict[str, Fact] = {"black": float(shown[dark].sum())}
    bars = find_bars(frames.rgb)
    if bars is None:
        bars = Bars(0, 0, 0, 0)
    else:
        for side, pixels in bars._asdict().items():
            seen[f"crop_{side}"] = pixels / (height if side in ("top", "bottom") else width)
    rows = slice((bars.top + 1) // 2, (height - bars.bottom + 1) // 2)
    columns = slice((bars.left + 1) // 2, (width - bars.right + 1) // 2)
    inside = frames.rgb[:, bars.top : height - bars.bottom, bars.left : width - bars.right]
    luma, coarse = luma[:, rows, columns], coarse[:, rows, columns]
    some = np.unique(np.linspace(0, len(inside) - 1, _MOST_BLURS).round().astype(int))
    return {
        **seen,
        "brightness": float(shown @ luma.mean(axis=(1, 2)) / 255),
        "contrast": float(shown @ luma.std(axis=(1, 2)) / 255),
        "colourfulness": float(shown @ colourfulness(coarse[:, ::2, ::2])),
        **_changes(luma, frames.pts_ns),
        "blur": blur(luma_of(inside[some])),
        "phash": phash(luma_of(inside[_middle(frames.pts_ns)])),
    }


def luma_of(rgb: np.ndarray) -> np.ndarray:
    """BT.709 luma uint8 (..., H, W), 0 black to 255 white, of uint8 (..., H, W, 3)."""
    red, green, blue = _LUMA
    luma = rgb[..., 1].astype(np.uint16) * np.uint16(green)
    luma += rgb[..., 0].astype(np.uint16) * np.uint16(red)
    luma += rgb[..., 2].astype(np.uint16) * np.uint16(blue)
    luma += 128
    luma >>= 8
    return luma.astype(np.uint8)


def find_bars(rgb: np.ndarray) -> Bars | None:
    """Black bars that all frames uint8 (T, H, W, 3) share; None if every frame is black all over.

    A bar is black in every frame and ends at a straight edge, which a dark sky or a dark room does not.
    """
    bright = luma_of(rgb.max(axis=0)) > _BAR_LEVEL
    if not bright.any():
        return None
    left, right = _outer(np.any(bright, axis=0))
    top, bottom = _bars_along(bright[:, left : bright.shape[1] - right].mean(axis=1))
    left, right = _bars_along(bright[top : len(bright) - bottom].mean(axis=0))
    return Bars(top, bottom, left, right)


def colourfulness(rgb: np.ndarray) -> np.ndarray:
    """M3 of Hasler and Suesstrunk, "Measuring colourfulness in natural images" (2003), of each frame: float (T,).

    0 is grey, 15 slightly, 33 moderately, 59 quite, 109 extremely colourful. rgb: uint8 (T, H, W, 3).
    """
    red, green, blue = (rgb[..., channel].astype(np.float32) for channel in range(3))
    opponents = (red - green, (red + green) / 2 - blue)
    spread = np.sqrt(sum(np.square(axis.std(axis=(1, 2))) for axis in opponents))
    offset = np.sqrt(sum(np.square(axis.mean(axis=(1, 2))) for axis in opponents))
    return spread + 0.3 * offset


def blur(luma: np.ndarray) -> float | None:
    """How gradual the steepest edges are: 0 a step from pixel to pixel, 1 an even climb over five; None without edges.

    Edge width after Marziliano et al., "A no-reference perceptual blur metric" (2002), taken at the steepest twentieth
    of the picture, so that neither contrast nor flat background matter. luma: uint8 (T, H, W); the median over frames
    of the worse direction.
    """
    worse: list[float] = []
    for picture in luma.astype(np.int16):
        both = [found for axis in (0, 1) if (found := _blur_along(np.moveaxis(picture, axis, 0))) is not None]
        if both:
            worse.append(max(both))
    return float(np.median(worse)) if worse else None


def phash(luma: np.ndarray) -> int | None:
    """64-bit DCT hash of one picture, as a signed integer; None for a flat one. luma: uint8 (H, W).

    Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010): the picture shrunk to 32 x 32,
    the 8 x 8 lowest frequencies without the constant ones, each against their median. The Hamming distance of two
    hashes (xor, then count the ones) is small for the same picture scaled or encoded anew, about 32 for two others.
    """
    if luma.std() < 1:
        return None
    small = _shrink(_shrink(luma).T).T
    basis = np.cos(np.pi / _HASH_SIDE * np.arange(1, 9)[:, None] * (np.arange(_HASH_SIDE) + 0.5))
    low = basis @ small @ basis.T
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big", signed=True)


def _changes(luma: np.ndarray, pts_ns: np.ndarray) -> dict[str, Fact]:
    """Motion and frozen from luma uint8 (T, H/2, W/2); neither of a single frame."""
    apart_s = np.maximum(np.diff(pts_ns), 0) / NS_PER_S
    if not apart_s.sum():
        return {}
    change = np.abs(np.diff(_block_means(luma), axis=0))
    return {
        "motion": min(1.0, float(change.mean(axis=(1, 2)).sum() / 255 / apart_s.sum())),
        "frozen": float(apart_s[change.max(axis=(1, 2)) < _STILL_LEVELS].sum() / apart_s.sum()),
    }


def _block_means(luma: np.ndarray) -> np.ndarray:
    """float32 (T, rows, columns): means of whole blocks; of all pixels where the picture is smaller than a block."""
    height, width = luma.shape[1:]
    down, across = min(_BLOCK, height), min(_BLOCK, width)
    whole = luma[:, : height // down * down, : width // across * across]
    rows = np.add.reduce(whole.reshape(len(luma), -1, down, whole.shape[2]), axis=2, dtype=np.uint16)
    sums = np.add.reduceat(rows, np.arange(0, whole.shape[2], across), axis=2, dtype=np.uint16)
    return sums.astype(np.float32) / (down * across)


def _blur_along(picture: np.ndarray) -> float | None:
    """The blur along the first axis of int16 (H, W)."""
    if len(picture) <= _CLIMB:
        return None
    climb = np.abs(picture[_CLIMB:] - picture[:-_CLIMB])
    above = np.cumsum(np.bincount(climb.ravel(), minlength=256)[::-1])[::-1]
    steep = int(np.flatnonzero(above >= _STEEP_SHARE * climb.size)[-1])
    if steep < _MIN_CLIMB_LEVELS:
        return None
    at = np.flatnonzero(climb >= steep) + np.arange(_CLIMB + 1)[:, None] * picture.shape[1]
    points = np.ascontiguousarray(picture).ravel()[at]
    steepest = np.abs(np.diff(points, axis=0)).max(axis=0)
    share = float(steepest.sum()) / float(np.abs(points[-1] - points[0]).sum())
    return min(1.0, max(0.0, (1 - share) * _CLIMB / (_CLIMB - 1)))


def _shown(pts_ns: np.ndarray) -> np.ndarray:
    """Share of the clip for which each sampled frame stands; the last one for as long as is usual."""
    gaps = np.maximum(np.diff(pts_ns), 0).astype(np.float64)
    if not gaps.sum():
        return np.full(len(pts_ns), 1 / len(pts_ns))
    shown = np.append(gaps, np.median(gaps))
    return shown / shown.sum()


def _middle(pts_ns: np.ndarray) -> int:
    """The frame on screen halfway between the first frame and the last."""
    return int(np.searchsorted(pts_ns, (int(pts_ns[0]) + int(pts_ns[-1])) / 2, "right")) - 1


def _outer(some: Any) -> tuple[int, int]:
    """How many False lie before the first True of bool (N,), and after the last."""
    return int(some.argmax()), int(some[::-1].argmax())


def _bars_along(shares: np.ndarray) -> tuple[int, int]:
    """Rows of black before and after the picture, from the share of bright pixels in each row, float (N,)."""
    return _bar(shares), _bar(shares[::-1])


def _bar(shares: np.ndarray) -> int:
    first = int((shares > _BAR_SPECKS).argmax())
    edge = shares[first : first + max(2, len(shares) // 64)]
    return first if edge.max() >= _EDGE_SHARE else 0


def _shrink(lines: np.ndarray) -> np.ndarray:
    """Means of 32 equal spans of the first axis: float64 (32, M) of (N, M); no BLAS, whose threads cost more."""
    ends = np.concatenate([np.zeros((1, lines.shape[1])), np.cumsum(lines, axis=0, dtype=np.float64)])
    edges = np.linspace(0, len(lines), _HASH_SIDE + 1)
    whole = np.minimum(edges.astype(np.int64), len(lines) - 1)
    sums = ends[whole] + (edges - whole)[:, None] * lines[whole]
    return np.diff(sums, axis=0) * (_HASH_SIDE / len(lines))
