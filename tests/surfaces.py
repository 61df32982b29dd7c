"""Surfaces known by formula, as a camera sees them: exact depth and exact normals of every pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from omniloom.modalities import geometry

WIDTH, HEIGHT = 256, 192
K = geometry.intrinsics(310.0, 300.0, 127.3, 90.2)

Seen = tuple[np.ndarray, np.ndarray]
"""z float64 (H, W), NaN where nothing is; normals float64 (H, W, 3), facing the camera."""


def plane(normal: tuple[float, float, float], distance: float) -> Seen:
    """All points P with n.P = -distance, n made unit length."""
    n = np.array(normal) / np.linalg.norm(normal)
    z = -distance / (geometry.rays(K, WIDTH, HEIGHT) @ n)
    return z, np.broadcast_to(n, (*z.shape, 3))


def sphere(center: tuple[float, float, float], radius: float) -> Seen:
    rays = geometry.rays(K, WIDTH, HEIGHT)
    return _first_hit(rays, rays, np.array(center), np.array(center), radius)


def cylinder(center: tuple[float, float, float], axis: tuple[float, float, float], radius: float) -> Seen:
    """Endless, around the line through `center` along `axis`."""
    along = np.array(axis) / np.linalg.norm(axis)
    across = np.eye(3) - np.outer(along, along)  # what is left of a vector without its part along the axis
    rays = geometry.rays(K, WIDTH, HEIGHT)
    return _first_hit(rays, rays @ across, np.array(center), across @ np.array(center), radius)


def hills(waves: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Seen:
    """The height field z = h(x, y), with `waves` giving h and its slopes; shallow enough to be seen whole."""
    rays = geometry.rays(K, WIDTH, HEIGHT)
    x, y = rays[..., 0], rays[..., 1]
    z, _, _ = waves(np.zeros_like(x), np.zeros_like(x))
    for _ in range(50):  # Newton
        height, along_x, along_y = waves(x * z, y * z)
        z = z - (z - height) / (1 - along_x * x - along_y * y)
    _, along_x, along_y = waves(x * z, y * z)
    n = np.stack([along_x, along_y, -np.ones_like(z)], axis=-1)
    return z, n / np.linalg.norm(n, axis=-1, keepdims=True)


def front(near: Seen, far: Seen) -> Seen:
    """One in front of the other."""
    hides = ~(near[0] >= far[0])
    hides &= np.isfinite(near[0])
    return np.where(hides, near[0], far[0]), np.where(hides[..., None], near[1], far[1])


def degrees_apart(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(H, W), NaN where either is unknown."""
    # By the chord: the arc cosine of numbers near 1 has no digits left.
    chord = np.linalg.norm(got.astype(np.float64) - wanted, axis=-1)
    return np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def edges(z: np.ndarray, radius: int) -> np.ndarray:
    """Pixels with another surface or none within `radius`: bool (H, W)."""
    jump = np.zeros(z.shape, bool)
    ratio = np.log(z)
    for axis in (0, 1):
        here = np.abs(np.diff(ratio, axis=axis)) > 0.05
        here |= np.isnan(np.diff(ratio, axis=axis))
        for side in (slice(None, -1), slice(1, None)):
            at = [slice(None), slice(None)]
            at[axis] = side
            jump[tuple(at)] |= here
    grown = np.zeros_like(jump)
    padded = np.pad(jump, radius)
    for dv in range(2 * radius + 1):
        for du in range(2 * radius + 1):
            grown |= padded[dv : dv + z.shape[0], du : du + z.shape[1]]
    return grown


def _first_hit(
    rays: np.ndarray, across: np.ndarray, center: np.ndarray, center_across: np.ndarray, radius: float
) -> Seen:
    """Where |t across - center_across| = radius first: of spheres and cylinders alike."""
    a = (across**2).sum(-1)
    b = across @ center_across
    inside = b**2 - a * (center_across @ center_across - radius**2)
    z = (b - np.sqrt(np.where(inside > 0, inside, np.nan))) / a
    n = (z[..., None] * across - center_across) / radius
    return z, n
