"""Depth frames become clean points in space: what floats between surfaces is left out, what frames agree on is joined.

Flying pixels are a camera's or a network's mixture of near and far at an edge. Frames are joined where their poses are
known; a point through which another frame looks, because it moved or was never there, is left out. The rest is thinned
to one point a voxel, cleared of lone ones (Open3D's statistical test), and spread evenly by farthest-point sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_GRAZING = 14.3
"""Tangent of 86 degrees: a surface seen at a flatter angle than that, on both sides of a pixel, is none."""
_IN_FRONT = 0.05
"""A point nearer by this share than what another frame sees behind it is contradicted."""
_CANDIDATES = 4
"""Random points looked at, for each one kept."""
_SPARE = 1.5
"""Voxels wanted, for each point kept: farthest-point sampling chooses among them."""


@dataclass(frozen=True, slots=True)
class View:
    """One frame: z float32 (H, W), NaN for no point; rgb uint8 (H, W, 3) of them; pose (4, 4), camera to world."""

    z: np.ndarray
    rgb: np.ndarray
    pose: np.ndarray


def solid(z: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Pixels of depth (..., H, W) that are no flying pixels: bool (..., H, W), False where depth is unknown.

    Along its row and along its column a pixel needs a neighbour that lies on one surface with it.
    """
    known = np.isfinite(z) & (z > 0)
    padded = np.pad(np.where(known, z, np.inf), [(0, 0)] * (z.ndim - 2) + [(1, 1), (1, 1)], constant_values=np.inf)
    here = np.where(known, z, 0)
    kept = known.copy()
    for focal, first, second in (
        (k[0, 0], padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]),
        (k[1, 1], padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]),
    ):
        nearest = np.minimum(np.abs(first - here), np.abs(second - here))
        # One pixel is z / f wide there.
        kept &= nearest <= _GRAZING * here / focal
    return kept


def fused(views: list[View], reference: int, k: np.ndarray, count: int) -> np.ndarray:
    """float32 (N, 6), N <= count: x y z in the reference view's axes, r g b in 0..1; the same for equal input."""
    rng = np.random.Generator(np.random.Philox(key=0))
    to_reference = np.linalg.inv(views[reference].pose)
    # The reference first: where views overlap, its points are the ones kept.
    order = [reference, *(index for index in range(len(views)) if index != reference)]
    clouds: list[np.ndarray] = []
    area = 0.0
    for index in order:
        view = views[index]
        rows, columns = np.nonzero(np.isfinite(view.z))
        share = _CANDIDATES * count if index == reference else _CANDIDATES * count // max(len(views) - 1, 1)
        chosen = np.unique(rng.integers(0, max(len(rows), 1), share)) if share < len(rows) else np.arange(len(rows))
        rows, columns = rows[chosen], columns[chosen]
        z = view.z[rows, columns].astype(np.float64)
        if index == reference and len(z):
            area = float((z**2).mean()) / (k[0, 0] * k[1, 1]) * float(np.isfinite(view.z).sum())
        points = np.stack([(columns - k[0, 2]) / k[0, 0] * z, (rows - k[1, 2]) / k[1, 1] * z, z], axis=-1)
        keep = np.ones(len(points), bool)
        if index != reference:
            for other in range(len(views)):
                if other != index:
                    keep &= ~_seen_through(
                        _moved(points, np.linalg.inv(views[other].pose) @ view.pose), views[other], k
                    )
            points = _moved(points, to_reference @ view.pose)
        colours = view.rgb[rows, columns] / 255
        clouds.append(np.concatenate([points, colours], axis=1)[keep])
    return _thinned(np.concatenate(clouds), count, area)


def _seen_through(points: np.ndarray, view: View, k: np.ndarray) -> np.ndarray:
    """Which points (N, 3), in the view's camera axes, it looks through at something behind: bool (N,)."""
    height, width = view.z.shape
    z = points[:, 2]
    ahead = z > 1e-6
    depth = np.where(ahead, z, 1)
    u = np.rint(np.clip(points[:, 0] / depth * k[0, 0] + k[0, 2], -1, width)).astype(np.int64)
    v = np.rint(np.clip(points[:, 1] / depth * k[1, 1] + k[1, 2], -1, height)).astype(np.int64)
    inside = ahead & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    behind = view.z[np.where(inside, v, 0), np.where(inside, u, 0)]
    return inside & (z < (1 - _IN_FRONT) * behind)  # False where nothing is known


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _thinned(xyzrgb: np.ndarray, count: int, area: float) -> np.ndarray:
    from omniloom.modalities.models._open3d import open3d

    o3d = open3d()
    xyzrgb = xyzrgb.astype(np.float32)
    voxel = float(np.sqrt(max(area, 1e-12) / (_SPARE * count)))
    kept = _one_a_voxel(xyzrgb, voxel)
    while len(kept) < min(_SPARE * count, len(xyzrgb)) and len(kept) < len(xyzrgb):
        voxel *= 0.7
        kept = _one_a_voxel(xyzrgb, voxel)
    xyzrgb = xyzrgb[kept[: 2 * _CANDIDATES * count]]
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyzrgb[:, :3].astype(np.float64)))
    cloud.colors = o3d.utility.Vector3dVector(xyzrgb[:, 3:].astype(np.float64))
    if len(xyzrgb) > 32:
        cloud, _ = cloud.remove_statistical_outlier(16, 2.0)
    if len(cloud.points) > count:
        cloud = cloud.farthest_point_down_sample(count)
    return np.concatenate([np.asarray(cloud.points), np.asarray(cloud.colors)], axis=1).astype(np.float32)


def _one_a_voxel(xyzrgb: np.ndarray, voxel: float) -> np.ndarray:
    """Indices of the first point in each cube of that side, ascending: the points themselves, not their means."""
    cell = np.floor((xyzrgb[:, :3] - xyzrgb[:, :3].min(axis=0)) / voxel).astype(np.int64)
    cell = np.minimum(cell, (1 << 20) - 1)
    return np.sort(np.unique(cell @ np.array([1, 1 << 20, 1 << 40]), return_index=True)[1])
