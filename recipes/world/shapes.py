"""Where a ray meets a shape, and which way the surface faces there: closed forms, in the shape's own axes.

A shape sits at the origin with a radius of about one, y pointing down. All rays of a call start at one point (the eye)
and are not unit vectors: the parameter t of origin + t * direction is handed in and back in the caller's scale.
"""

from __future__ import annotations

import numpy as np

from omniloom.recipes.world.scene import Shape

CYLINDER_RADIUS, CYLINDER_HALF = 0.75, 0.9
CONE_RADIUS, CONE_HALF = 1.0, 0.95
TORUS_RING, TORUS_TUBE = 0.75, 0.3
CAPSULE_RADIUS, CAPSULE_HALF = 0.55, 0.55


def _unit(rows: list[tuple[float, float, float]]) -> np.ndarray:
    planes = np.array(rows, np.float64)
    return planes / np.linalg.norm(planes, axis=1, keepdims=True)


_CUBE = _unit([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)])
_EIGHT = _unit([(x, 0.8 * y, z) for x in (1, -1) for y in (1, -1) for z in (1, -1)])
_PYRAMID = _unit([(0, 1, 0), (1.7, -0.95, 0), (-1.7, -0.95, 0), (0, -0.95, 1.7), (0, -0.95, -1.7)])
PLANES: dict[Shape, tuple[np.ndarray, np.ndarray]] = {
    "cube": (_CUBE, np.full(6, 0.8)),
    "diamond": (_EIGHT, np.full(8, 0.96 / np.sqrt(2.64))),
    # Apex at y = -0.85, square base of half side 0.95 at y = 0.85.
    "pyramid": (_PYRAMID, np.concatenate([[0.85], np.full(4, 0.85 * 0.95 / np.hypot(1.7, 0.95))])),
}
"""Flat-faced shapes as the points p with normals @ p <= offsets: (faces, 3) and (faces,)."""

REACH: dict[Shape, float] = {
    "sphere": 1.0, "cube": 1.39, "cylinder": 1.18, "cone": 1.39, "torus": 1.06, "pyramid": 1.6, "capsule": 1.11,
    "diamond": 1.21,
}  # fmt: skip
"""Radius of a ball about the origin that holds the whole shape."""


def hit(shape: Shape, origin: np.ndarray, rays_3N: np.ndarray) -> np.ndarray:
    """Parameter t of the first point where each ray enters the shape, (N,), inf where it misses.

    Args:
        shape: which shape.
        origin: (3,), outside the shape.
        rays_3N: directions, float32 for pictures or float64 for exact depth; t has their dtype.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        match shape:
            case "sphere":
                return _enter(*_ball(origin, rays_3N, 1.0))
            case "cube" | "pyramid" | "diamond":
                return _enter(*_faces(shape, origin, rays_3N))
            case "cylinder":
                return _tube(origin, rays_3N, CYLINDER_RADIUS, CYLINDER_HALF)
            case "capsule":
                above, below = origin.copy(), origin.copy()
                above[1] += CAPSULE_HALF
                below[1] -= CAPSULE_HALF
                ends = [_enter(*_ball(end, rays_3N, CAPSULE_RADIUS)) for end in (above, below)]
                return np.minimum(np.minimum(*ends), _tube(origin, rays_3N, CAPSULE_RADIUS, CAPSULE_HALF))
            case "cone":
                return _cone(origin, rays_3N)
            case "torus":
                return _torus(origin, rays_3N)


def normal(shape: Shape, points_3N: np.ndarray) -> np.ndarray:
    """Outward unit normals (3, N) at points on the surface."""
    x, y, z = points_3N
    match shape:
        case "sphere":
            out = points_3N
        case "cube" | "pyramid" | "diamond":
            normals, offsets = (a.astype(points_3N.dtype) for a in PLANES[shape])
            return normals[np.argmax(normals @ points_3N - offsets[:, None], axis=0)].T
        case "cylinder":
            side = np.abs(y) < CYLINDER_HALF - 1e-3
            out = np.stack([x * side, np.where(side, 0, y), z * side])
        case "capsule":
            out = np.stack([x, y - np.clip(y, -CAPSULE_HALF, CAPSULE_HALF), z])
        case "cone":
            side = y < CONE_HALF - 1e-3
            slope = CONE_RADIUS / (2 * CONE_HALF)
            out = np.stack([x * side, np.where(side, -slope * np.hypot(x, z), 1), z * side])
        case "torus":
            ring = 1 - TORUS_RING / np.maximum(np.hypot(x, y), 1e-6)
            out = np.stack([x * ring, y * ring, z])
    return out / np.maximum(np.sqrt((out * out).sum(0)), 1e-6)


def _enter(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Entry of a convex body from the stretch of t inside it; nan, a root that does not exist, is a miss."""
    return np.where((first <= last) & (first > 0), first, np.inf)


def _roots(a: np.ndarray, b: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Both t with a t^2 + 2 b t + c = 0, the one with the smaller numerator first; nan where there are none."""
    root = np.sqrt(b * b - a * c)
    return (-b - root) / a, (-b + root) / a


def _ball(o: np.ndarray, d: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    return _roots((d * d).sum(0), _along(o, d), float(o @ o) - radius * radius)


def _faces(shape: Shape, o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    normals, offsets = PLANES[shape]
    speed, room = normals.astype(d.dtype) @ d, (offsets - normals @ o).astype(d.dtype)
    t = room[:, None] / speed
    return np.where(speed < 0, t, -np.inf).max(0), np.where(speed > 0, t, np.inf).min(0)


def _tube(o: np.ndarray, d: np.ndarray, radius: float, half: float) -> np.ndarray:
    """A solid cylinder about y: the stretch inside the endless one, cut by the slab between its lids."""
    flat = d[0] * d[0] + d[2] * d[2]
    first, last = _roots(flat, float(o[0]) * d[0] + float(o[2]) * d[2], float(o[0] ** 2 + o[2] ** 2) - radius * radius)
    lids = (float(-half - o[1]) / d[1], float(half - o[1]) / d[1])
    return _enter(np.maximum(first, np.minimum(*lids)), np.minimum(last, np.maximum(*lids)))


def _cone(o: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Apex up (y = -half), base down. Roots on the mirrored cone above the apex are told apart by their height."""
    k = (CONE_RADIUS / (2 * CONE_HALF)) ** 2
    up = float(o[1]) + CONE_HALF
    a = d[0] * d[0] + d[2] * d[2] - d[1] * d[1] * d.dtype.type(k)
    b = float(o[0]) * d[0] + float(o[2]) * d[2] - d.dtype.type(k * up) * d[1]
    best = float(CONE_HALF - o[1]) / d[1]
    x, z = float(o[0]) + best * d[0], float(o[2]) + best * d[2]
    best = np.where((x * x + z * z <= CONE_RADIUS**2) & (best > 0), best, np.inf)
    for t in _roots(a, b, float(o[0] ** 2 + o[2] ** 2) - k * up * up):
        y = float(o[1]) + t * d[1]
        best = np.where((np.abs(y) <= CONE_HALF) & (t > 0), np.minimum(best, t), best)
    return best


def _torus(o: np.ndarray, d: np.ndarray) -> np.ndarray:
    """A ring that faces z: sphere tracing steps into it, halving and Newton's steps find where the ray went in."""
    first, last = _ball(o, d, REACH["torus"])
    out = np.full(d.shape[1], np.inf, d.dtype)
    live = np.flatnonzero(first <= last)
    t, end, ray = first[live], last[live], d[:, live]
    stride = 1 / np.sqrt((ray * ray).sum(0))
    gap = _ring_gap(o, ray, t)[0]
    low, high, into, index = [t[:0]], [t[:0]], [ray[:, :0]], [live[:0]]
    for _ in range(400):
        # Never less than a small step, or a ray that skims the flat of the ring would take for ever.
        before, t = t, t + np.maximum(gap, 4e-3) * stride
        gap = _ring_gap(o, ray, t)[0]
        inside = gap < 0
        low.append(before[inside])
        high.append(t[inside])
        into.append(ray[:, inside])
        index.append(live[inside])
        keep = ~inside & (t < end)
        t, end, ray, stride, live, gap = t[keep], end[keep], ray[:, keep], stride[keep], live[keep], gap[keep]
        if not live.size:
            break
    lo, hi, ray, found = np.concatenate(low), np.concatenate(high), np.concatenate(into, axis=1), np.concatenate(index)
    for _ in range(5):
        middle = (lo + hi) / 2
        outside = _ring_gap(o, ray, middle)[0] > 0
        lo, hi = np.where(outside, middle, lo), np.where(outside, hi, middle)
    t = (lo + hi) / 2
    for _ in range(4):
        gap, slope = _ring_gap(o, ray, t)
        t = np.clip(t - gap / np.minimum(slope, -1e-9), lo, hi)
    # What has not converged only grazes the ring.
    good = np.abs(_ring_gap(o, ray, t)[0]) < (1e-8 if d.dtype == np.float64 else 1e-4)
    out[found[good]] = t[good]
    return out


def _ring_gap(o: np.ndarray, d: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the torus at t, and its rate of change along the ray."""
    x, y, z = (float(o[i]) + t * d[i] for i in range(3))
    round_ = np.sqrt(x * x + y * y) + d.dtype.type(1e-12)
    across = round_ - d.dtype.type(TORUS_RING)
    tube = np.sqrt(across * across + z * z) + d.dtype.type(1e-12)
    return tube - d.dtype.type(TORUS_TUBE), (across * (x * d[0] + y * d[1]) / round_ + z * d[2]) / tube


def _along(vector: np.ndarray, d: np.ndarray) -> np.ndarray:
    return float(vector[0]) * d[0] + float(vector[1]) * d[1] + float(vector[2]) * d[2]
