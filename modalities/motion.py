"""How the camera moved from one frame to another, told from both pictures and the depth of the first.

Direct alignment: the motion under which the second picture, seen through the first one's depth, looks most like the
first (Steinbruecker, Sturm, Cremers: Real-time visual odometry from dense RGB-D images, 2011), coarse to fine, with
weights that pass over what moves by itself. Depth need only be right up to a factor. Exposure may change: pictures are
compared less their local mean. NumPy alone, some 20 ms a pair of frames.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from omniloom.modalities import geometry

LONG_SIDE = 128
"""Pixels, at which frames are compared."""
_LEVELS = 3
_STEPS = 12
_PIXELS = 2000
"""Of each level, that are compared while the motion is sought."""
_REACH = 4
"""Pixels of the coarsest level by which the whole picture may have shifted: an eighth of it, either way."""
_FLAT = 1.0
"""Levels of 255: neighbourhoods with less contrast prove nothing."""
_REST = 0.03
"""Share of the pixels by which a moved camera must explain more than a resting one."""
_SURE = 0.8
"""Share that leaves nothing to look for."""
_TURN_RAD, _SHIFT = 0.3, 0.2
"""How much a camera usually turns and moves (in typical depths) between frames: where pictures say nothing."""


@dataclass(frozen=True, slots=True)
class Look:
    """A frame as motion is told from: `gray` levels, finest first, float32 (h, w), and K of the finest one's pixels."""

    gray: list[np.ndarray]
    k: np.ndarray


@dataclass(frozen=True, slots=True)
class Motion:
    """Where each pixel of the first frame's finest level lies in the second."""

    rotation: np.ndarray
    """float64 (3, 3): from the first camera's axes to the second's."""
    translation: np.ndarray
    """float64 (3,), in units of 1 / inverse depth as it was given."""
    at: np.ndarray
    """float64 (h, w, 2): (u, v) in the second frame's finest level."""
    stretch: np.ndarray
    """float64 (h, w): z in the second camera over z in the first."""
    agrees: np.ndarray
    """bool (h, w): the second picture looks there as the first does here."""
    certainty: float
    """Share, of the pixels with something to be seen, that agree; 0 if there is too little to be seen."""


@dataclass(frozen=True, slots=True)
class _Pixels:
    """N pixels of the first frame: gray (N,), contrast around each (N,), rays (N, 3), inverse depth (N,)."""

    gray: np.ndarray
    contrast: np.ndarray
    rays: np.ndarray
    q: np.ndarray


def look(rgb: np.ndarray, k: np.ndarray) -> Look:
    """A frame uint8 (H, W, 3) with K of its pixels, made ready."""
    from PIL import Image

    height, width = rgb.shape[:2]
    scale = min(1.0, LONG_SIDE / max(width, height))
    size = max(16, round(width * scale)), max(16, round(height * scale))
    gray = Image.fromarray(np.ascontiguousarray(rgb)).convert("L").resize(size, Image.Resampling.BOX)
    small_k = geometry.resized_intrinsics(k, (width, height), size)
    levels: list[np.ndarray] = []
    for _ in range(_LEVELS):
        values = np.asarray(gray, np.float32)
        levels.append(_mean(values, 1) - _mean(values, 5))
        gray = gray.resize((max(4, gray.width // 2), max(4, gray.height // 2)), Image.Resampling.BOX)
    return Look(levels, small_k)


def motion(first: Look, second: Look, inverse: np.ndarray) -> Motion:
    """The motion between two frames of one size. inverse: 1 / z of the first, (h, w) as its finest level, or NaN."""
    known = np.isfinite(inverse)
    unit = float(np.median(inverse[known])) if known.any() else 1.0
    unit = unit if unit > 0 else 1.0
    q = np.where(known, inverse, unit) / unit
    still = np.eye(3), np.zeros(3)
    best = _seen(first, second, q, known, *still)
    turned = _turned(first, second)
    for start in (np.eye(3), turned):
        if best.certainty > _SURE or (start is turned and np.array_equal(turned, np.eye(3))):
            break
        found = _seen(first, second, q, known, *_aligned(first, second, q, known, start))
        # A camera at rest explains more with less: what moves in front of it must not be taken for its own motion.
        if found.certainty > best.certainty + (_REST if best.rotation is still[0] else 0):
            best = found
    return dataclasses.replace(best, translation=best.translation / unit)


def unlikeness(first: Look, second: Look, inverse: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> float:
    """How unlike two frames look, 0 to 1, if the camera moved like that and 1 / z of the first is `inverse` (h, w)."""
    height, width = first.gray[0].shape
    known = np.isfinite(inverse)
    q = np.where(known, inverse, 0)
    at, stretch = _project(geometry.rays(first.k, width, height), q, rotation, translation, first.k)
    a, b = first.gray[0], second.gray[0]
    inside = (at[..., 0] >= 0) & (at[..., 0] <= width - 1) & (at[..., 1] >= 0) & (at[..., 1] <= height - 1)
    inside &= known & (stretch > 0)
    contrast = _contrast(a)
    off = np.where(inside, np.abs(a - _sample(b, at)) / np.sqrt(contrast**2 + _FLAT**2), 1)
    telling = known & (contrast > _FLAT)
    return float(np.minimum(off, 1)[telling].mean()) if telling.any() else 1.0


def _aligned(
    first: Look, second: Look, q: np.ndarray, known: np.ndarray, rotation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and translation found from that rotation on, coarse to fine."""
    translation = np.zeros(3)
    height, width = first.gray[0].shape
    for a, b in zip(reversed(first.gray), reversed(second.gray), strict=True):
        rows, columns = geometry.nearest_grid(height, a.shape[0]), geometry.nearest_grid(width, a.shape[1])
        contrast = _contrast(a)
        use = np.flatnonzero(known[rows[:, None], columns] & (contrast > _FLAT))
        if len(use) >= 24:
            use = use[np.linspace(0, len(use) - 1, min(_PIXELS, len(use))).astype(np.int64)]
            k = geometry.resized_intrinsics(first.k, (width, height), (a.shape[1], a.shape[0]))
            rays = geometry.rays(k, a.shape[1], a.shape[0]).reshape(-1, 3)
            here = q[rows[:, None], columns].ravel()
            seen = _Pixels(a.ravel()[use], contrast.ravel()[use], rays[use], here[use])
            rotation, translation = _refine(seen, b, k, rotation, translation)
    return rotation, translation


def _seen(
    first: Look, second: Look, q: np.ndarray, known: np.ndarray, rotation: np.ndarray, translation: np.ndarray
) -> Motion:
    """What of the first frame the second shows, if that is how the camera moved."""
    height, width = first.gray[0].shape
    at, stretch = _project(geometry.rays(first.k, width, height), q, rotation, translation, first.k)
    a, b = first.gray[0], second.gray[0]
    inside = (at[..., 0] >= 0) & (at[..., 0] <= width - 1) & (at[..., 1] >= 0) & (at[..., 1] <= height - 1)
    inside &= known & (stretch > 0)
    unlike = np.sqrt(_mean(np.where(inside, a - _sample(b, at), 0) ** 2, 1))
    contrast = _contrast(a)
    agrees = inside & (unlike < np.maximum(0.5 * contrast, _FLAT))
    telling = known & (contrast > 2 * _FLAT)
    # What left the picture counts against it: two frames of different places overlap nowhere.
    certainty = float((agrees & telling).sum() / telling.sum()) if telling.sum() >= 100 else 0.0
    return Motion(rotation, translation, at, stretch, agrees, certainty)


def _refine(
    seen: _Pixels, b: np.ndarray, k: np.ndarray, rotation: np.ndarray, translation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Newton on the difference between those pixels and the second picture, (h, w)."""
    a, rays, q = seen.gray, seen.rays, seen.q
    slope_v, slope_u = np.gradient(b)
    prior = np.diag([_TURN_RAD**-2] * 3 + [_SHIFT**-2] * 3)
    for _ in range(_STEPS):
        p = rays @ rotation.T + q[:, None] * translation
        ahead = p[:, 2] > 0.05
        pz = np.where(ahead, p[:, 2], 1)
        u, v = k[0, 0] * p[:, 0] / pz + k[0, 2], k[1, 1] * p[:, 1] / pz + k[1, 2]
        ahead &= (u >= 0) & (u <= b.shape[1] - 1) & (v >= 0) & (v <= b.shape[0] - 1)
        if ahead.sum() < 24:
            break
        p, pz, q_in = p[ahead], pz[ahead], q[ahead]
        at = np.stack([u[ahead], v[ahead]], axis=-1)
        off = _sample(b, at) - a[ahead]
        # By the contrast around: the faint ground counts like the bright ball that rolls over it.
        loud = np.sqrt(seen.contrast[ahead] ** 2 + _FLAT**2)
        off /= loud
        gx, gy = _sample(slope_u, at) * k[0, 0] / pz, _sample(slope_v, at) * k[1, 1] / pz
        by_p = np.stack([gx, gy, -(gx * p[:, 0] + gy * p[:, 1]) / pz], axis=-1) / loud[:, None]
        jacobian = np.empty((len(p), 6))
        for axis, (one, two) in enumerate(((1, 2), (2, 0), (0, 1))):  # p x by_p
            jacobian[:, axis] = p[:, one] * by_p[:, two] - p[:, two] * by_p[:, one]
        jacobian[:, 3:] = q_in[:, None] * by_p
        spread = max(1.48 * float(np.median(np.abs(off))), 0.1)
        weight = 1 / (1 + (off / (2 * spread)) ** 2) / spread**2 / 10  # neighbours say the same: a tenth counts
        normal = (jacobian * weight[:, None]).T @ jacobian + prior
        pull = np.concatenate([_angles(rotation), translation])
        step = -np.linalg.solve(normal, jacobian.T @ (weight * off) + prior @ pull)
        turn = _rotation(step[:3])
        rotation, translation = turn @ rotation, turn @ translation + step[3:]
        if np.abs(step).max() < 3e-4:
            break
    return rotation, translation


def _turned(first: Look, second: Look) -> np.ndarray:
    """The turn that the shift of the coarsest picture as a whole would be: where to begin."""
    a, b = first.gray[-1], second.gray[-1]
    height, width = a.shape
    reach = min(_REACH, width // 4, height // 4)
    inner = a[reach : height - reach, reach : width - reach]
    best, du, dv = np.inf, 0, 0
    for y in range(-reach, reach + 1):
        for x in range(-reach, reach + 1):
            moved = b[reach + y : height - reach + y, reach + x : width - reach + x]
            cost = float(np.abs(inner - moved).mean()) * (1 + 0.02 * np.hypot(x, y))
            if cost < best:
                best, du, dv = cost, x, y
    k = geometry.resized_intrinsics(first.k, first.gray[0].shape[::-1], (width, height))
    return _rotation(np.array([-dv / k[1, 1], du / k[0, 0], 0]))


def _project(
    rays: np.ndarray, q: np.ndarray, rotation: np.ndarray, translation: np.ndarray, k: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    p = rays @ rotation.T + q[..., None] * translation
    z = np.where(p[..., 2] > 0.05, p[..., 2], np.nan)
    at = np.stack([k[0, 0] * p[..., 0] / z + k[0, 2], k[1, 1] * p[..., 1] / z + k[1, 2]], axis=-1)
    return np.nan_to_num(at, nan=-1e6), np.nan_to_num(z, nan=-1.0)


def _sample(picture: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bilinear values of (h, w) at (..., 2) places (u, v); those outside take the border's."""
    height, width = picture.shape
    u = np.clip(at[..., 0], 0, width - 1.001)
    v = np.clip(at[..., 1], 0, height - 1.001)
    left, top = u.astype(np.int64), v.astype(np.int64)
    right, below = u - left, v - top
    flat = picture.ravel()
    here = top * width + left
    upper = flat[here] * (1 - right) + flat[here + 1] * right
    lower = flat[here + width] * (1 - right) + flat[here + width + 1] * right
    return upper * (1 - below) + lower * below


def _contrast(values: np.ndarray) -> np.ndarray:
    return np.sqrt(_mean(values**2, 2))


def _mean(values: np.ndarray, radius: int) -> np.ndarray:
    """Means over the square of 2 radius + 1 around each pixel, edges repeated: float32 (h, w)."""
    size = 2 * radius + 1
    for _ in range(2):
        total = np.pad(values, ((radius + 1, radius), (0, 0)), mode="edge").cumsum(axis=0, dtype=np.float64)
        values = ((total[size:] - total[:-size]) / size).T
    return values.astype(np.float32)


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of a rotation vector (3,), radians (Rodrigues)."""
    angle = float(np.linalg.norm(angles))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = angles / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def _angles(rotation: np.ndarray) -> np.ndarray:
    """The rotation vector of a small rotation."""
    skew = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    return skew / 2
