"""A camera's faults: exposure, blur, noise, tone and compression turn light into the bytes a video has."""

from __future__ import annotations

import io

import numpy as np


def expose(
    linear: np.ndarray,
    rng: np.random.Generator,
    *,
    faults: float = 1.0,
    frame: np.random.Generator | None = None,
    gain: float = 1.0,
) -> np.ndarray:
    """Light float32 (H, W, 3) -> uint8 sRGB-like (H, W, 3).

    Args:
        linear: see `render.Picture`.
        rng: of what the camera is like.
        faults: 0 a clean camera to 1 the usual spread of them.
        frame: of the noise, which no two frames of a camera share; `rng` without one.
        gain: of the exposure; 1.02 is two per cent brighter.
    """
    grey = linear.mean(axis=2)
    middle = float(np.exp(np.log(grey + 1e-3).mean()))
    out = linear * (0.2 * gain * np.exp(rng.normal() * 0.35 * faults) / middle)
    out = out * (1 + faults * 0.06 * rng.normal(size=3))
    if rng.random() < 0.5 * faults:
        v, u = np.mgrid[-1 : 1 : out.shape[0] * 1j, -1 : 1 : out.shape[1] * 1j]
        out = out * (1 - rng.uniform(0, 0.4) * (u * u + v * v)[..., None] / 2)
    sigma = faults * rng.choice([0.0, 0.35, 0.5, 0.7, 1.0])
    if sigma > 0:
        out = blurred(out, float(sigma))
    noise = faults * np.exp(rng.normal() * 0.8) * 0.008
    shot = (frame or rng).standard_normal((*out.shape[:2], 3), np.float32)
    out = out + shot * (noise * np.sqrt(np.maximum(out, 0) + 0.05))
    # Filmic shoulder or a hard clip, then gamma.
    shoulder = rng.random() < 0.5
    out = np.maximum(out, 0)
    out = out * (1 + out / 4) / (1 + out) * 1.1 if shoulder else out
    out = np.minimum(out, 1) ** (1 / (2.2 + 0.15 * faults * rng.normal()))
    picture = np.round(255 * out).astype(np.uint8)
    return compressed(picture, int(rng.integers(35, 96))) if rng.random() < 0.6 * faults else picture


def blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W, C) over 5x5 pixels."""
    taps = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (2, 2)
        wide = np.pad(values, pad, mode="edge")
        n = values.shape[axis]
        values = sum(tap * np.take(wide, np.arange(i, i + n), axis=axis) for i, tap in enumerate(taps))  # type: ignore[assignment]
    return values


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (H, W, 3) through JPEG and back."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))
