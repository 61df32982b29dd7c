"""Materials of the held-out scenes: textures that fill space, computed where a ray hits, and light by a few presets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from omniloom.recipes.geometry.scene import Light, Material, Solid

Rng = np.random.Generator
PALETTE = np.array([
    [0.62, 0.58, 0.50], [0.80, 0.78, 0.72], [0.35, 0.30, 0.25], [0.45, 0.14, 0.10],
    [0.12, 0.22, 0.36], [0.20, 0.34, 0.16], [0.66, 0.50, 0.22], [0.10, 0.10, 0.11],
    [0.52, 0.53, 0.55], [0.75, 0.40, 0.18], [0.30, 0.16, 0.08], [0.55, 0.62, 0.66],
])  # fmt: skip
_PRIMES = (73856093, 19349663, 83492791)


def lattice_noise(places: np.ndarray, seed: int) -> np.ndarray:
    """Smooth noise float32 (N,) in [0, 1] at places (N, 3): random values at whole numbers, blended between."""
    low = np.floor(places).astype(np.int64)
    part = (places - low).astype(np.float32)
    part = part * part * (3 - 2 * part)
    # Each axis' two multiples and two weights serve all eight corners.
    keys = [[(low[:, axis] + step) * prime for step in (0, 1)] for axis, prime in enumerate(_PRIMES)]
    shares = [[1 - part[:, axis], part[:, axis]] for axis in range(3)]
    total = np.zeros(len(places), np.float32)
    for x, y, z in np.ndindex(2, 2, 2):
        total += shares[0][x] * shares[1][y] * shares[2][z] * _mixed(keys[0][x] ^ keys[1][y] ^ keys[2][z], seed)
    return total


def _hash(cells: np.ndarray, seed: int) -> np.ndarray:
    first, second, third = (cells[:, axis] * prime for axis, prime in enumerate(_PRIMES))
    return _mixed(first ^ second ^ third, seed)


def _mixed(keys: np.ndarray, seed: int) -> np.ndarray:
    mixed = keys ^ seed * 2654435761
    mixed = (mixed ^ mixed >> 13) * 1274126177 & 0x7FFFFFFF
    return ((mixed ^ mixed >> 15) & 0xFFFF).astype(np.float32) / 65535


def rough(places: np.ndarray, footprint: np.ndarray, seed: int, octaves: int = 4) -> np.ndarray:
    """Octaves of lattice noise; those finer than a pixel fade into their mean, so that far surfaces do not sparkle."""
    out = np.full(len(places), 0.5, np.float32)
    for octave in range(octaves):
        size = 2.0**octave
        fade = np.clip(1.5 - 2 * footprint * size, 0, 1)
        out += fade * (lattice_noise(places * size + 17 * octave, seed + octave) - 0.5) / size**0.7
    return np.clip(out, 0, 1)


def _mottled(seed: int, size_m: float) -> Solid:
    def at(places: np.ndarray, footprint_m: np.ndarray) -> np.ndarray:
        field = rough(places / size_m, footprint_m / size_m, seed)
        return np.stack(
            [field, rough(places / size_m * 3.1, footprint_m / size_m * 3.1, seed + 50, 2), 1 - field], axis=1
        )

    return at


def _veined(seed: int, size_m: float) -> Solid:
    def at(places: np.ndarray, footprint_m: np.ndarray) -> np.ndarray:
        bend = rough(places / size_m, footprint_m / size_m, seed)
        line = 0.5 + 0.5 * np.sin(2 * np.pi * (places @ [0.7, 0.4, 0.6] / size_m + 3 * bend))
        fade = np.clip(1.5 - 4 * footprint_m / size_m, 0, 1)
        return np.stack([0.3 + fade * (line**3 - 0.3), bend, line], axis=1)

    return at


def _ringed(seed: int, size_m: float) -> Solid:
    """Wood: rings around an axis, stretched along it."""

    def at(places: np.ndarray, footprint_m: np.ndarray) -> np.ndarray:
        stretched = places / size_m * [1, 0.1, 1]
        wobble = rough(stretched, footprint_m / size_m, seed, 3)
        radius = np.hypot(places[:, 0] + 0.3, places[:, 2] - 0.2) / size_m * 6 + 2 * wobble
        fade = np.clip(1.5 - 10 * footprint_m / size_m, 0, 1)
        return np.stack([0.5 + fade * (radius % 1 - 0.5), wobble, wobble], axis=1)

    return at


def _celled(seed: int, size_m: float) -> Solid:
    """Flagstones or leather: the nearest of scattered points, and the seams between their realms."""

    def at(places: np.ndarray, footprint_m: np.ndarray) -> np.ndarray:
        scaled = places / size_m
        low = np.floor(scaled).astype(np.int64)
        first, second, value = (np.full(len(scaled), 9.0) for _ in range(3))
        for step in np.ndindex(3, 3, 3):
            cell = low + np.array(step) - 1
            point = cell + np.stack([_hash(cell, seed + axis) for axis in range(3)], axis=1)
            away = np.linalg.norm(point - scaled, axis=1)
            nearer = away < first
            second = np.where(nearer, first, np.minimum(second, away))
            first = np.where(nearer, away, first)
            value = np.where(nearer, _hash(cell, seed + 9), value)
        seam = np.clip(1 - (second - first) * 12, 0, 1) * np.clip(1.5 - 3 * footprint_m / size_m, 0, 1)
        return np.stack([seam, value, 1 - value], axis=1)

    return at


def _slabs(seed: int, size_m: float) -> Solid:
    """Panels of random length in courses, cut from a block: on every side of a solid they show as joints."""

    def at(places: np.ndarray, footprint_m: np.ndarray) -> np.ndarray:
        scaled = places / size_m + 0.013
        course = np.floor(scaled[:, 2:] * 2)
        along = scaled[:, :2] + 0.37 * course
        cell = np.concatenate([np.floor(along), course], axis=1).astype(np.int64)
        inside = np.concatenate([along % 1, scaled[:, 2:] * 2 % 1], axis=1)
        gap = 1 - np.clip(np.minimum(inside, 1 - inside).min(axis=1) * 25 - 0.5, 0, 1)
        fade = np.clip(1.5 - 3 * footprint_m / size_m, 0, 1)
        return np.stack([gap * fade, _hash(cell, seed), rough(scaled * 5, footprint_m / size_m * 5, seed, 2)], axis=1)

    return at


_SORTS: dict[str, Callable[[int, float], Solid]] = {
    "mottled": _mottled, "veined": _veined, "ringed": _ringed, "celled": _celled, "slabs": _slabs,
}  # fmt: skip


def stuff(
    rng: Rng,
    sort: str | None = None,
    size_m: float = 0.5,
    tint: np.ndarray | None = None,
    gloss: float = 0.0,
    mirror: float = 0.0,
) -> Material:
    """A material of one of the sorts, coloured from a palette of paints, stones and cloths."""
    name = sort or str(rng.choice(list(_SORTS)))
    colour = PALETTE[int(rng.integers(len(PALETTE)))] if tint is None else np.asarray(tint)
    colour = np.clip(colour * rng.uniform(0.75, 1.25) * (1 + 0.08 * rng.normal(size=3)), 0.02, 0.95)
    other = PALETTE[int(rng.integers(len(PALETTE)))] if rng.random() < 0.3 else colour * rng.uniform(0.4, 0.75)
    mix = np.stack([(other - colour) * rng.uniform(0.4, 0.9), 0.4 * colour, -0.15 * colour], axis=1)
    solid = _SORTS[name](int(rng.integers(1 << 16)), size_m * rng.uniform(0.7, 1.4))
    return Material(colour * 0.85, mix, solid, 1.0, gloss, mirror)


def outdoors(rng: Rng, fog_m: float = np.inf) -> Light:
    """One of: clear noon, low sun, thin cloud, grey sky."""
    heights = {"noon": 1.1, "low": 0.3, "thin": 0.8, "grey": 1.0}
    name = str(rng.choice(list(heights)))
    height, around = heights[name] + 0.1 * rng.normal(), rng.uniform(0, 6.283)
    towards = np.array([np.cos(height) * np.cos(around), np.cos(height) * np.sin(around), np.sin(height)])
    sun = {"noon": [2.2, 2.1, 1.9], "low": [2.4, 1.5, 0.8], "thin": [1.1, 1.1, 1.0], "grey": [0.0, 0, 0]}[name]
    above = {"noon": [0.2, 0.36, 0.75], "low": [0.24, 0.3, 0.5], "thin": [0.55, 0.62, 0.75], "grey": [0.75, 0.78, 0.8]}[
        name
    ]
    horizon = {"noon": [0.6, 0.72, 0.9], "low": [0.95, 0.7, 0.5], "thin": [0.8, 0.82, 0.86], "grey": [0.7, 0.72, 0.73]}[
        name
    ]
    return Light(
        np.array(sun), towards, np.array(above), np.array(horizon), np.array([0.18, 0.16, 0.13]), (), fog_m, 17
    )


def indoors(rng: Rng, lamps: np.ndarray, reach_m: float, *, ambient: float = 0.25) -> Light:
    """Equal lamps at places (N, 3) that light `reach_m` metres."""
    tone = np.array([[1.0, 0.93, 0.82], [1.0, 1.0, 1.0], [1.0, 0.78, 0.55]])[int(rng.integers(3))]
    each = tone * reach_m**2 * 0.9 / len(lamps)
    up = np.array([0.0, 0.0, 1.0])
    grey = ambient * np.ones(3)
    return Light(np.zeros(3), up, grey, 1.5 * grey, grey * 0.7, tuple((lamp, each) for lamp in lamps))
