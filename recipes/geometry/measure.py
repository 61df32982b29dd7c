"""How far depth and normals are from the truth, and what a predictor knows that never looks at the picture.

Depth is z, (H, W), in any unit; truth is finite and positive where it is known. Pixels where either is unknown are left
out. A network's depth is measured after the freedom that its kind leaves: see `aligned`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["metric-z", "relative", "relative-inverse"]
FEWEST = 16
"""A picture with fewer known pixels says nothing: its measures are NaN."""


def known(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where both are finite and the truth is positive, bool (H, W)."""
    return np.isfinite(predicted) & np.isfinite(truth) & (truth > 0)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two arrays of one shape, in [-1, 1]; equal values share a rank, a constant array gives 0."""
    if a.size < FEWEST:
        return float("nan")
    x, y = _ranks(a.ravel()), _ranks(b.ravel())
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse.ravel()]


def depth_spearman(predicted: np.ndarray, truth: np.ndarray, kind: Kind = "relative") -> float:
    """Spearman with true depth: 1 is the right order everywhere. Inverse depth counts with its sign turned."""
    at = known(predicted, truth)
    sign = -1.0 if kind == "relative-inverse" else 1.0
    return spearman(sign * predicted[at].astype(np.float64), truth[at].astype(np.float64))


def aligned(predicted: np.ndarray, truth: np.ndarray, kind: Kind = "relative") -> np.ndarray:
    """Predicted depth in the truth's unit: what a kind leaves open is taken from the truth.

    "metric-z" as it is; "relative" times the one factor that brings the medians of log depth together;
    "relative-inverse" by the scale and shift of inverse depth with the least squares, weighted for relative error, as
    usual for such networks (Ranftl and others, 2020), clipped to the truth's range of inverse depth.
    """
    at = known(predicted, truth)
    if kind == "metric-z" or at.sum() < FEWEST:
        return predicted.astype(np.float64)
    if kind == "relative":
        positive = np.maximum(predicted, 1e-9)
        return positive * float(np.exp(np.median(np.log(truth[at])) - np.median(np.log(positive[at]))))
    p, q = predicted[at].astype(np.float64), 1 / truth[at].astype(np.float64)
    terms = np.stack([p, np.ones_like(p)], axis=1) / q[:, None]
    (scale, shift), *_ = np.linalg.lstsq(terms, np.ones_like(p), rcond=None)
    return 1 / np.clip(scale * predicted + shift, q.min(), q.max())


def abs_rel(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean of |predicted - truth| / truth."""
    at = known(predicted, truth)
    return float(np.mean(np.abs(predicted[at] - truth[at]) / truth[at])) if at.sum() >= FEWEST else float("nan")


def delta(predicted: np.ndarray, truth: np.ndarray, within: float = 1.25) -> float:
    """The part of the pixels whose depth is right within a factor."""
    at = known(predicted, truth)
    if at.sum() < FEWEST:
        return float("nan")
    return float(np.mean(np.maximum(predicted[at], truth[at]) < within * np.minimum(predicted[at], truth[at])))


def point_error(predicted: np.ndarray, truth: np.ndarray, k: np.ndarray) -> float:
    """Median distance between unprojected and true points, over the true point's distance from the camera.

    Both lie on one ray, so this is the relative depth error's median: K scales neither.
    """
    from omniloom.modalities.geometry import unproject

    at = known(predicted, truth)
    if at.sum() < FEWEST:
        return float("nan")
    ours, true = unproject(predicted, k)[at], unproject(truth, k)[at]
    return float(np.median(np.linalg.norm(ours - true, axis=-1) / np.linalg.norm(true, axis=-1)))


def normal_angles(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Degrees between normals (..., 3) where both are known (finite, not 0), float64 (N,)."""
    a, b = (np.asarray(n, np.float64) for n in (predicted, truth))
    size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    at = np.isfinite(size) & (size > 0)
    # The tangent keeps its digits near 0 degrees, where arccos loses them.
    sine = np.linalg.norm(np.cross(a[at], b[at]), axis=-1)
    return np.degrees(np.arctan2(sine, np.einsum("nd,nd->n", a[at], b[at])))


def normal_error(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Median of `normal_angles`, degrees."""
    angles = normal_angles(predicted, truth)
    return float(np.median(angles)) if angles.size >= FEWEST else float("nan")


def flicker(depth: np.ndarray) -> float:
    """Mean change of log depth from frame to frame of a scene that stands still; depth (T, H, W) in one unit, > 0.

    0.01 reads: from one frame to the next a place jumps by 1 % of its distance. No frame is aligned to another.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.abs(np.diff(np.log(depth), axis=0))
    change = change[np.isfinite(change)]
    return float(change.mean()) if change.size else float("nan")


def normal_flicker(normals: np.ndarray) -> float:
    """Mean angle in degrees between the normals (T, H, W, 3) of frames that follow each other in a still scene."""
    angles = normal_angles(normals[1:], normals[:-1])
    return float(angles.mean()) if angles.size else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class PositionOnly:
    """The predictor to beat: the mean log depth and mean normal of each pixel's position, whatever the picture."""

    depth: np.ndarray
    """float64 (H, W), kind "relative"."""
    normal: np.ndarray
    """float64 (H, W, 3), unit."""

    @classmethod
    def fitted(cls, pictures: Iterable[tuple[np.ndarray, np.ndarray]]) -> PositionOnly:
        """From depth (H, W) and normals (H, W, 3) of training pictures; each counts by its depth over its median.

        A picture's sky counts as twice the depth of its farthest percent.
        """
        total: np.ndarray | None = None
        normals = np.zeros(())
        count = 0
        for z, normal in pictures:
            seen = np.isfinite(z) & (z > 0)
            if seen.sum() < FEWEST:
                continue
            log = np.log(np.where(seen, z, 1.0))
            far = float(np.quantile(log[seen], 0.99)) + np.log(2.0)
            log = np.where(seen, log, far) - float(np.median(log[seen]))
            if total is None:
                total, normals = np.zeros(z.shape), np.zeros((*z.shape, 3))
            total += log
            normals = normals + np.nan_to_num(normal)
            count += 1
        if total is None:
            raise ValueError("a position-only predictor needs at least one picture with known depth")
        size = np.linalg.norm(normals, axis=-1, keepdims=True)
        return cls(np.exp(total / count), normals / np.where(size > 0, size, 1))
