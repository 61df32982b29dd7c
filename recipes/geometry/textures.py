"""A bank of pattern pictures that the scenes for training are papered with.

Each is 256x256x3, repeats without a seam and says how much of a material's three colours a place takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

SIDE = 256
LEVELS = 7
"""Sizes 256, 128 ... 4: far surfaces take their colours from the smaller ones."""
_VARIANTS = 12

Rng = np.random.Generator


def clouds(rng: Rng, slope: float, side: int = SIDE, stretch: float = 1.0) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power `slope`, float (side, side) within [0, 1], seamless."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None] * stretch
    frequency = np.sqrt(fx * fx + fy * fy)
    frequency[0, 0] = 1
    wave = np.fft.fft2(rng.normal(size=(side, side))) * frequency**-slope
    wave[0, 0] = 0
    out = np.fft.ifft2(wave).real
    return np.clip(0.5 + out / (5 * out.std()), 0, 1)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:SIDE, :SIDE]
    return x, y


def _stack(*channels: np.ndarray) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*channels), axis=-1)


def _plain(rng: Rng) -> np.ndarray:
    return _stack(0.08 * clouds(rng, 1.5), 0.5 + 0.15 * (clouds(rng, 0.6) - 0.5), 0.1 * clouds(rng, 2))


def _noise(rng: Rng) -> np.ndarray:
    slope = rng.uniform(0.3, 2.2)
    return _stack(clouds(rng, slope), clouds(rng, slope * 0.7), clouds(rng, slope))


def _grain(rng: Rng) -> np.ndarray:
    lines = clouds(rng, 1.2, stretch=rng.choice([6.0, 12.0, 0.12]))
    return _stack(lines, clouds(rng, 1.0, stretch=8), clouds(rng, 1.8))


def _stains(rng: Rng) -> np.ndarray:
    field = clouds(rng, 1.8)
    return _stack(np.clip((field - rng.uniform(0.4, 0.6)) * 12 + 0.5, 0, 1), clouds(rng, 0.8), clouds(rng, 1.5))


def _checks(rng: Rng) -> np.ndarray:
    x, y = _grid()
    n = 2 * int(rng.integers(1, 5))
    flags = ((x * n // SIDE) + (y * n // SIDE)) % 2
    return _stack(flags, 0.3 + 0.4 * clouds(rng, 1.0), 0.3 * clouds(rng, 1.5))


def _stripes(rng: Rng) -> np.ndarray:
    x, _ = _grid()
    edges = np.sort(rng.integers(0, SIDE, 2 * int(rng.integers(1, 6))))
    band = (np.searchsorted(edges, x) % 2).astype(float)
    out = _stack(band, 0.3 + 0.4 * clouds(rng, 1.0), np.zeros_like(band))
    return out if rng.random() < 0.5 else out.swapaxes(0, 1)


def _bricks(rng: Rng) -> np.ndarray:
    x, y = _grid()
    rows, columns = int(rng.choice([4, 8, 16])), int(rng.choice([2, 4, 8]))
    row = y * rows // SIDE
    shifted = (x + (row % 2) * (SIDE // columns // 2) * (rng.random() < 0.8)) % SIDE
    column = shifted * columns // SIDE
    joint = max(1, SIDE // rows // int(rng.integers(6, 14)))
    mortar = (y % (SIDE // rows) < joint) | (shifted % (SIDE // columns) < joint)
    each = rng.random((rows, columns))[row, column]
    return _stack(np.where(mortar, 1.0, 0.15 * each), 0.2 + 0.4 * each + 0.4 * clouds(rng, 0.8), each)


def _planks(rng: Rng) -> np.ndarray:
    x, y = _grid()
    n = int(rng.choice([2, 4, 8]))
    row = y * n // SIDE
    shift = rng.integers(0, SIDE, n)
    each = rng.random((n, 2))[row, ((x + shift[row]) % SIDE) * 2 // SIDE]
    gap = (y % (SIDE // n) < 2) | ((x + shift[row]) % (SIDE // 2) < 2)
    wood = clouds(rng, 1.2, stretch=10)
    return _stack(np.where(gap, 1.0, 0.2 * each), 0.6 * wood + 0.3 * each, each)


def _tiles(rng: Rng) -> np.ndarray:
    x, y = _grid()
    n = int(rng.choice([2, 4, 8]))
    cell = SIDE // n
    grout = (x % cell < max(1, cell // 16)) | (y % cell < max(1, cell // 16))
    each = rng.random((n, n))[y // cell, x // cell]
    return _stack(np.where(grout, 1.0, 0.0), 0.4 + 0.3 * each + 0.2 * clouds(rng, 0.7), each)


def _dots(rng: Rng) -> np.ndarray:
    return _leaves(rng, count=int(rng.integers(15, 70)), small=6, large=24)[..., :1] * [1, 0.5, 0.2]


def _leaves(rng: Rng, count: int = 900, small: float = 2.0, large: float = 60.0) -> np.ndarray:
    """Discs and boxes over each other, sizes by a power law: the statistics of photographs (Lee and others, 2001)."""
    out = np.zeros((SIDE, SIDE, 3)) + rng.random(3) * (count > 100)
    size = (large**-2 + rng.random(count) * (small**-2 - large**-2)) ** -0.5
    for radius in size:
        r = int(np.ceil(radius))
        square = np.mgrid[-r : r + 1, -r : r + 1]
        angle, thin = rng.uniform(0, np.pi), rng.uniform(0.4, 1)
        u = square[1] * np.cos(angle) + square[0] * np.sin(angle)
        v = (square[0] * np.cos(angle) - square[1] * np.sin(angle)) / thin
        inside = (
            (u * u + v * v <= radius * radius) if rng.random() < 0.6 else (np.maximum(abs(u), abs(v)) < 0.8 * radius)
        )
        rows, columns = (square[0] + rng.integers(SIDE)) % SIDE, (square[1] + rng.integers(SIDE)) % SIDE
        colour = np.clip(rng.random(3) * 0.5 + rng.random() * 0.6, 0, 1) if count > 100 else np.ones(3)
        out[rows[inside], columns[inside]] = colour
    return out * (0.8 + 0.4 * clouds(rng, 0.8)[..., None]) if count > 100 else out


def _strokes(rng: Rng) -> np.ndarray:
    """Grass, straw, bark: short lines in about one direction."""
    out = np.full((SIDE, SIDE), 0.3)
    lean = rng.uniform(-0.6, 0.6)
    for _ in range(1400):
        length = int(rng.integers(6, 30))
        t = np.arange(length)
        rows = (rng.integers(SIDE) + t) % SIDE
        columns = (rng.integers(SIDE) + (t * (lean + rng.normal() * 0.35)).astype(int)) % SIDE
        out[rows, columns] = rng.random()
    return _stack(out, 0.3 + 0.5 * clouds(rng, 0.9), clouds(rng, 1.6))


def _windows(rng: Rng) -> np.ndarray:
    x, y = _grid()
    n, m = int(rng.choice([2, 4])), int(rng.choice([2, 4]))
    cx, cy = x % (SIDE // n) / (SIDE // n), y % (SIDE // m) / (SIDE // m)
    w, h = rng.uniform(0.2, 0.38), rng.uniform(0.22, 0.42)
    pane = (abs(cx - 0.5) < w) & (abs(cy - 0.5) < h)
    frame = pane & ~((abs(cx - 0.5) < w - 0.05) & (abs(cy - 0.5) < h - 0.05))
    each = rng.random((m, n))[y * m // SIDE, x * n // SIDE]
    return _stack(np.where(frame, 0.3, pane), np.where(pane & ~frame, each, 0.4 + 0.3 * clouds(rng, 1.0)), pane * each)


def _letters(rng: Rng) -> np.ndarray:
    """A printed page or poster: lines of small marks and a picture."""
    out = np.zeros((SIDE, SIDE))
    step = int(rng.integers(8, 20))
    for top in range(step, SIDE - step, step):
        marks = np.repeat(rng.random(SIDE // 4) < 0.6, 4)
        out[top : top + step // 2] = marks * (rng.random((step // 2, SIDE // 2)) < 0.7).repeat(2, axis=1)
    picture = _leaves(rng, 150)
    top, left = rng.integers(0, SIDE // 2, 2)
    page = _stack(out, 0.5 + 0 * out, 0 * out)
    page[top : top + SIDE // 2, left : left + SIDE // 2] = picture[: SIDE // 2, : SIDE // 2]
    return page


def _ridges(rng: Rng) -> np.ndarray:
    field = clouds(rng, 1.7)
    return _stack(np.exp(-(((field - 0.5) * 30) ** 2)), 0.3 + 0.4 * clouds(rng, 0.8), clouds(rng, 1.2))


PATTERNS: dict[str, Callable[[Rng], np.ndarray]] = {
    "plain": _plain, "noise": _noise, "grain": _grain, "stains": _stains, "checks": _checks, "stripes": _stripes,
    "bricks": _bricks, "planks": _planks, "tiles": _tiles, "dots": _dots, "leaves": _leaves, "strokes": _strokes,
    "windows": _windows, "letters": _letters, "ridges": _ridges,
}  # fmt: skip
_NAMES = tuple(PATTERNS)


def pick(rng: Rng, *names: str) -> int:
    """The number of a texture of one of these patterns; of any without names."""
    name = str(rng.choice(names)) if names else _NAMES[int(rng.integers(len(_NAMES)))]
    return _NAMES.index(name) * _VARIANTS + int(rng.integers(_VARIANTS))


@lru_cache(maxsize=1)
def _bank() -> tuple[np.ndarray, np.ndarray]:
    """All textures in all sizes as one list of texels float32 (N, 3), and where each size begins."""
    full = np.stack([
        np.clip(draw(np.random.default_rng([20, kind, variant])), 0, 1).astype(np.float32)
        for kind, draw in enumerate(PATTERNS.values()) for variant in range(_VARIANTS)
    ])  # fmt: skip
    sizes = [full]
    for _ in range(LEVELS - 1):
        n, side = sizes[-1].shape[:2]
        sizes.append(sizes[-1].reshape(n, side // 2, 2, side // 2, 2, 3).mean(axis=(2, 4)))
    starts = np.cumsum([0, *(size.shape[0] * size.shape[1] ** 2 for size in sizes)])
    return np.concatenate([size.reshape(-1, 3) for size in sizes]), starts[:-1]


def sample(number: np.ndarray, uv: np.ndarray, texel_footprint: np.ndarray) -> np.ndarray:
    """Texture values float32 (N, 3) at uv (N, 2) in repeats, bilinear, from the size whose texels fill a pixel.

    Args:
        number: int (N,), which texture.
        uv: float (N, 2); the fraction counts.
        texel_footprint: float (N,), how many texels of the largest size a pixel covers.
    """
    texels, starts = _bank()
    level = np.clip(np.log2(np.maximum(texel_footprint, 1)) + 0.3, 0, LEVELS - 1).astype(np.int64)
    side = SIDE >> level
    place = (uv - np.floor(uv)) * side[:, None] - 0.5
    low = np.floor(place).astype(np.int64)
    part = (place - low).astype(np.float32)
    start = starts[level] + number * side * side
    mask = side - 1
    x0, x1 = low[:, 0] & mask, (low[:, 0] + 1) & mask
    y0, y1 = start + (low[:, 1] & mask) * side, start + ((low[:, 1] + 1) & mask) * side
    fx, fy = part[:, :1], part[:, 1:]
    above = texels[y0 + x0] * (1 - fx) + texels[y0 + x1] * fx
    below = texels[y1 + x0] * (1 - fx) + texels[y1 + x1] * fx
    return above * (1 - fy) + below * fy
