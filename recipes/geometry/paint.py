"""Materials and light drawn at random for the scenes that are trained on."""

from __future__ import annotations

import colorsys

import numpy as np

from omniloom.recipes.geometry.scene import Light, Material
from omniloom.recipes.geometry.shapes import TAU
from omniloom.recipes.geometry.textures import pick

Rng = np.random.Generator


def colour(rng: Rng, low: float = 0.05, high: float = 0.9, saturation: float = 0.9) -> np.ndarray:
    """A colour, linear float (3,); greyish ones are frequent, as around us."""
    hue, much = rng.random(), saturation * rng.random() ** 2.2
    return np.array(colorsys.hsv_to_rgb(hue, much, 1.0)) * rng.uniform(low, high)


def paint(
    rng: Rng,
    *patterns: str,
    tint: np.ndarray | None = None,
    size_m: tuple[float, float] = (0.3, 3.0),
    contrast: float = 1.0,
    polish: float = 0.3,
    glow: float = 0.0,
) -> Material:
    """A material with one of these patterns (any without), about the colour `tint`; `polish`: how many shine."""
    first = colour(rng) if tint is None else tint * rng.uniform(0.7, 1.3)
    second = (
        colour(rng)
        if rng.random() < 0.5 * contrast
        else np.minimum(first * rng.choice([rng.uniform(0.25, 0.7), rng.uniform(1.3, 2.2)]), 1.0)
    )
    third = (colour(rng) - first) * rng.uniform(0, 0.5)
    strength = contrast * rng.uniform(0.4, 1.0)
    mix = np.stack([strength * (second - first), strength * rng.uniform(0.2, 0.8) * first, strength * third], axis=1)
    gloss, mirror = 0.0, 0.0
    if rng.random() < polish:
        gloss = rng.uniform(0.1, 1.0)
        mirror = rng.uniform(0, 0.35) if rng.random() < 0.35 else 0.0
    repeat_m = float(np.exp(rng.uniform(*np.log(size_m))))
    number = pick(
        rng, *(patterns or ("leaves", "noise", "plain", "letters", "stains", "dots", "grain", "checks", "stripes"))
    )
    return Material(first * (1 - 0.2 * strength), mix, number, repeat_m, gloss, mirror, glow)


def daylight(rng: Rng, *, haze_m: tuple[float, float] | None = (60.0, 3000.0)) -> Light:
    """Sun and sky, from noon to dusk or overcast."""
    height, around = rng.uniform(0.08, 1.5), rng.uniform(0, TAU)
    towards = np.array([np.cos(height) * np.cos(around), np.cos(height) * np.sin(around), np.sin(height)])
    overcast = rng.random() < 0.3
    warm = np.exp(-3 * height)
    sun = rng.uniform(0.8, 3.0) * np.array([1.0, 1 - 0.4 * warm, 1 - 0.75 * warm]) * (0.0 if overcast else 1.0)
    grey = rng.uniform(0.6, 1.0) if overcast else rng.uniform(0, 0.3)
    above = (1 - grey) * np.array([0.25, 0.45, 0.9]) + grey * 0.7
    horizon = (1 - grey) * np.array([0.65 + 0.3 * warm, 0.75, 0.95 - 0.3 * warm]) + grey * 0.8
    below = colour(rng, 0.1, 0.4)
    fog = float(np.exp(rng.uniform(*np.log(haze_m)))) if haze_m is not None and rng.random() < 0.5 else np.inf
    return Light(sun, towards, above, horizon, below, (), fog, pick(rng, "noise", "stains"))


def lamplight(rng: Rng, low: np.ndarray, high: np.ndarray, *, window: bool = False) -> Light:
    """Lamps between two corners of a room, a little light from everywhere, and perhaps the sun through a window."""
    count = int(rng.integers(1, 4))
    warm = np.array([1.0, rng.uniform(0.75, 1.0), rng.uniform(0.5, 1.0)])
    room = float(np.linalg.norm(high - low))
    lamps = tuple(
        (
            low + (high - low) * [*rng.uniform(0.15, 0.85, 2), rng.uniform(0.6, 0.97)],
            warm * rng.uniform(0.3, 1.5) * room**1.4 / 8,
        )
        for _ in range(count)
    )
    dim = rng.uniform(0.1, 0.6)
    day = daylight(rng, haze_m=None)
    sun = day.sun * (2.0 if window else 0.0)
    sky = (2.0, 2.0) if window else (1.0, 1.0)
    return Light(sun, day.towards_sun, dim * np.ones(3), sky[0] * day.horizon, dim * colour(rng, 0.3, 0.8), lamps)
