"""The demo world's scenes as shards of the geometry network's training set, with normals from their exact depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_PER_SHARD = 64
_HEIGHT, _WIDTH = 192, 256


def write_world(out: Path, *, shards: int, seed: int = 0) -> None:
    """Writes `world-<seed>.npz` and following: the first frame of one scene of the train split each.

    rgb uint8 (64, 192, 256, 3), z float32 metres (inf: sky), normal int8 x127 in OpenCV camera axes (0: unknown), k.
    """
    from omniloom.recipes.world.motion import HEIGHT, WIDTH, intrinsics
    from omniloom.recipes.world.render import exact_depth_m, frames, pixel_rays
    from omniloom.recipes.world.scene import compose

    out.mkdir(parents=True, exist_ok=True)
    rows = ((np.arange(_HEIGHT) + 0.5) * HEIGHT / _HEIGHT).astype(int)
    columns = ((np.arange(_WIDTH) + 0.5) * WIDTH / _WIDTH).astype(int)
    near = np.ix_(rows, columns)
    k = intrinsics()
    k[:2] *= _WIDTH / WIDTH
    rays = pixel_rays(np.float64).reshape(3, HEIGHT, WIDTH)
    for shard in range(seed, seed + shards):
        rgb = np.empty((_PER_SHARD, _HEIGHT, _WIDTH, 3), np.uint8)
        z = np.empty((_PER_SHARD, _HEIGHT, _WIDTH), np.float32)
        normal = np.empty((_PER_SHARD, _HEIGHT, _WIDTH, 3), np.int8)
        for number in range(_PER_SHARD):
            scene = compose(1000 + seed, "train", shard * _PER_SHARD + number)
            depth = exact_depth_m(scene, 0.0)
            rgb[number] = next(frames(scene))[near]
            z[number] = depth[near]
            normal[number] = np.rint(_normals(depth, rays)[near] * 127).astype(np.int8)
        np.savez(
            out / f"world-{shard:04d}.npz", rgb=rgb, z=z, normal=normal, k=np.stack([k] * _PER_SHARD), kind="world"
        )


def _normals(depth: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Unit normals (H, W, 3) from central differences; 0 at the border, in the sky and beside edges."""
    points = np.where(np.isfinite(depth), depth, 0) * rays
    across, down = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normal = np.cross(down, across, axis=0)
    length = np.linalg.norm(normal, axis=0)
    inverse = np.where(np.isfinite(depth), 1 / depth, 0)
    # On a plane inverse depth is linear in the picture, so its second difference tells an edge from a slope.
    middle = inverse[1:-1, 1:-1]
    bend = np.maximum(
        np.abs(inverse[1:-1, 2:] + inverse[1:-1, :-2] - 2 * middle),
        np.abs(inverse[2:, 1:-1] + inverse[:-2, 1:-1] - 2 * middle),
    )
    known = (middle > 0) & (bend < 0.02 * middle) & (length > 0)
    unit = np.where(known, normal / np.where(length > 0, length, 1), 0)
    out = np.zeros((*depth.shape, 3))
    out[1:-1, 1:-1] = np.moveaxis(unit, 0, -1)
    facing = (out * np.moveaxis(rays, 0, -1)).sum(-1, keepdims=True)
    return np.where(facing > 0, -out, out)
