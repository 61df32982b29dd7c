"""Shards of rendered pictures: 64 pictures of one kind as arrays in one .npz, complete or absent."""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np

from omniloom.recipes.geometry.kinds import KINDS, TRAIN, View, views

PER_SHARD = 64


def write_shard(folder: Path, kind: str, seed: int, cameras: int = 2, pictures: int = PER_SHARD) -> Path:
    """Writes `<kind>-<seed>.npz`; its scenes are the `pictures / cameras` that begin at `seed * PER_SHARD`."""
    made = [view for n in range(pictures // cameras) for view in views(kind, seed * PER_SHARD + n, cameras)]
    return put(folder / f"{kind}-{seed:05d}.npz", kind, made)


def put(path: Path, kind: str, made: list[View]) -> Path:
    """A file of rgb uint8 (N, H, W, 3), z float32 (N, H, W), normal int8 x 127 (N, H, W, 3), k float64 (N, 3, 3)."""
    file = io.BytesIO()
    np.savez(
        file,
        rgb=np.stack([view.rgb for view in made]),
        z=np.stack([np.where(view.z < 60000, view.z, np.inf) for view in made]).astype(np.float32),
        normal=np.stack([np.round(127 * view.normal) for view in made]).astype(np.int8),
        k=np.stack([view.k for view in made]),
        kind=np.array(kind),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(file.getvalue())
    return part.replace(path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of `python -m omniloom.recipes.geometry render`."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--kinds", nargs="*", default=list(TRAIN), choices=list(KINDS), help="all that are trained on")
    parser.add_argument("--count", type=int, default=1, help="shards of each kind")
    parser.add_argument("--seed", type=int, default=0, help="number of the first shard")
    parser.add_argument("--cameras", type=int, default=2, help="pictures of one scene")
    parser.add_argument("--pictures", type=int, default=PER_SHARD, help="in each shard")
    parser.set_defaults(run=render)


def render(args: argparse.Namespace) -> None:
    """Writes shards, kind after kind, so that every kind grows at the same pace; those that exist are kept."""
    for seed in range(args.seed, args.seed + args.count):
        for kind in args.kinds:
            if (args.out / f"{kind}-{seed:05d}.npz").exists():
                continue
            start = time.process_time()
            path = write_shard(args.out, kind, seed, args.cameras, args.pictures)
            print(f"{path.name}: {1000 * (time.process_time() - start) / args.pictures:.0f} ms a picture", flush=True)  # noqa: T201
