"""`python -m omniloom.recipes.world --out DIR --train N --test M`: make a demo world."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from omniloom.recipes.world.make import make_world


def main() -> None:
    """Read the arguments, make the world, say how long it took."""
    parser = argparse.ArgumentParser(prog="python -m omniloom.recipes.world", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=500, help="clips to learn from")
    parser.add_argument("--test", type=int, default=200, help="clips that show unseen combinations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=None, help="worker processes (all cores)")
    args = parser.parse_args()
    start = time.monotonic()
    make_world(
        args.out, num_train=args.train, num_test=args.test, seed=args.seed, jobs=args.jobs,
        on_done=lambda done, total: print(f"\r{done}/{total} clips", end="", file=sys.stderr, flush=True),  # noqa: T201
    )  # fmt: skip
    print(f"\r{args.train + args.test} clips in {time.monotonic() - start:.1f} s: {args.out}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
