"""Brings relative depth of a clip to metres: by measured depth of some of its pixels, or by where the camera stood.

Either way two numbers are sought for the frames that are on one scale: 1 / z = a + b v, with v inverse depth as it is,
or a = 0 and v = 1 / depth. Measured depth gives them by robust least squares. Poses give them by trial: of all a and b
those under which each frame, moved as the camera moved and seen through its depth, looks most like the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omniloom.modalities import geometry
from omniloom.modalities.models.estimate import Kind
from omniloom.modalities.motion import Look, look, unlikeness

_NEAR_M = np.geomspace(0.2, 30, 33)
"""Distances of the near end (the 98th percentile of v) that are tried."""
_FAR_SHARES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
"""1 / z of the far end (the 2nd percentile) over that of the near one, tried for inverse depth."""
_TELLING = 0.97
"""Moved frames must differ from each other by no more than this share of what frames infinitely far away would."""


@dataclass(frozen=True, slots=True)
class Line:
    """1 / z = a + b v, z in metres."""

    a: float
    b: float

    def metres(self, v: np.ndarray) -> np.ndarray:
        """Depth float32, NaN where the line leaves the world."""
        inverse = self.a + self.b * v
        return (1 / np.where(inverse > 1e-4, inverse, np.nan)).astype(np.float32)


def to_metres(
    z: np.ndarray,
    kind: Kind,
    groups: np.ndarray,
    measured: np.ndarray | None,
    seen: tuple[np.ndarray, np.ndarray, np.ndarray | None],
) -> tuple[np.ndarray, str] | None:
    """Depth (T, H, W) in metres and how it was got, or None if nothing tells. What nothing tells of a group is NaN.

    measured: z (T, H, W) in metres, NaN where unknown. seen: rgb (T, H, W, 3), K of its pixels, poses (T, 4, 4).
    """
    rgb, k, poses = seen
    v = as_v(z, kind)
    metric, how = np.full(z.shape, np.nan, np.float32), set[str]()
    for group in np.unique(groups):
        mine = groups == group
        line = by_measured(v[mine], kind, measured[mine]) if measured is not None else None
        way = "measured depth"
        if line is None and poses is not None:
            line, way = by_poses(v[mine], kind, rgb[mine], k, poses[mine]), "camera poses"
        if line is not None:
            metric[mine] = line.metres(v[mine])
            how.add(way)
    return (metric, f"{kind} to metres by {' and '.join(sorted(how))}") if how else None


def as_v(z: np.ndarray, kind: Kind) -> np.ndarray:
    """What is linear in 1 / z: float64, of relative depth in the sense of `kind`."""
    return z.astype(np.float64) if kind == "relative-inverse" else 1 / np.where(z > 0, z, np.nan).astype(np.float64)


def by_measured(v: np.ndarray, kind: Kind, measured: np.ndarray) -> Line | None:
    """The line through measured z (T, H, W) in metres, NaN where unknown; None if fewer than 100 pixels have both."""
    both = np.isfinite(v) & np.isfinite(measured) & (measured > 0)
    if both.sum() < 100:
        return None
    x, y = v[both], 1 / measured[both].astype(np.float64)
    if kind != "relative-inverse":
        return Line(0.0, float(np.median(y / x)))
    columns = np.stack([np.ones_like(x), x], axis=1)
    weight, line = np.ones_like(x), np.zeros(2)
    for _ in range(10):
        line = np.linalg.lstsq(columns * weight[:, None], y * weight, rcond=None)[0]
        off = columns @ line - y
        weight = 1 / np.sqrt(1 + (off / max(2 * 1.48 * float(np.median(np.abs(off))), 1e-6)) ** 2)
    return Line(float(line[0]), float(line[1])) if line[1] > 0 else None


def by_poses(v: np.ndarray, kind: Kind, rgb: np.ndarray, k: np.ndarray, poses: np.ndarray) -> Line | None:
    """The line under which frames rgb (T, H, W, 3), with K of their pixels, fit their poses (T, 4, 4), zeros unknown.

    None if the camera did not move enough to tell, or nothing is to be seen.
    """
    known = [index for index in range(len(v)) if poses[index].any()]
    looks: dict[int, Look] = {index: look(rgb[index], k) for index in known}
    pairs = _pairs(known, poses)
    finite = v[np.isfinite(v)]
    if not pairs or not finite.size:
        return None
    small, _ = geometry.resize_nearest(v, k, next(iter(looks.values())).gray[0].shape[::-1])
    low, high = (float(end) for end in np.percentile(finite, [2, 98]))
    inverse_kind = kind == "relative-inverse"

    def line(near: float, share: float) -> Line:
        if not inverse_kind:
            return Line(0.0, 1 / (near * high))
        b = (1 - share) / near / max(high - low, 1e-9)
        return Line(1 / near - b * high, b)

    def cost(trial: Line | None) -> float:
        total = 0.0
        for first, second in pairs:
            inverse = np.zeros_like(small[first]) if trial is None else np.maximum(trial.a + trial.b * small[first], 0)
            moved = np.linalg.inv(poses[second]) @ poses[first]
            total += unlikeness(looks[first], looks[second], inverse, moved[:3, :3], moved[:3, 3])
        return total / len(pairs)

    shares = _FAR_SHARES if inverse_kind else (0.0,)
    trials = [(near, share) for near in _NEAR_M for share in shares]
    costs = [cost(line(*trial)) for trial in trials]
    best = int(np.argmin(costs))
    if costs[best] > _TELLING * cost(None):
        return None
    (near, share), lowest = trials[best], costs[best]
    step, wide = 0.08, 0.06
    for _ in range(8):
        sideways = (-1, 0, 1) if inverse_kind else (0,)
        around = [(near * np.exp(i * step), share + j * wide) for i in (-1, 0, 1) for j in sideways]
        around = [trial for trial in around if trial[1] >= 0]
        found = [cost(line(*trial)) for trial in around]
        if min(found) < lowest:
            lowest, (near, share) = min(found), around[int(np.argmin(found))]
        else:
            step, wide = step / 2, wide / 2
    return line(near, share)


def _pairs(known: list[int], poses: np.ndarray) -> list[tuple[int, int]]:
    """Up to six pairs of frames between which the camera went farthest."""
    far = sorted(
        (-float(np.linalg.norm(poses[a, :3, 3] - poses[b, :3, 3])), a, b) for a in known for b in known if a != b
    )
    return [(a, b) for away, a, b in far[:6] if away < -1e-3]
