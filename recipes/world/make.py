"""A world on disk: many scenes written by a few worker processes."""

from __future__ import annotations

import csv
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from omniloom.recipes.world.files import write_scene
from omniloom.recipes.world.scene import Split, compose

OnDone = Callable[[int, int], None]


def make_world(
    out: Path | str,
    *,
    num_train: int,
    num_test: int,
    seed: int = 0,
    jobs: int | None = None,
    on_done: OnDone | None = None,
) -> None:
    """Write raw videos with exact truth beside them, and `sources.csv` (path, split), which lists them.

    Each `train/000000.mp4` (4 s, H.264, mostly with AAC) has a `.depth.npz` and a `.json` with captions and labels.
    A clip's bytes depend on `seed`, its split and its number alone. What the test split holds out: see `scene`.

    Args:
        out: folder, made when missing; files of the same names are replaced.
        num_train: clips in `out/train`.
        num_test: clips in `out/test`.
        seed: of the whole world.
        jobs: worker processes; all cores by default, 1 works in this process.
        on_done: called with (clips written, clips in all) after each.
    """
    if num_train < 0 or num_test < 0 or num_train + num_test == 0:
        raise ValueError(f"a world needs clips, got {num_train = }, {num_test = }")
    out = Path(out)
    counts: dict[Split, int] = {"train": num_train, "test": num_test}
    clips: Sequence[tuple[Split, int]] = [(split, index) for split, count in counts.items() for index in range(count)]
    for split in counts:
        (out / split).mkdir(parents=True, exist_ok=True)
    jobs = min(jobs or os.cpu_count() or 1, len(clips))
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    for done, _ in enumerate(_write_all(out, seed, clips, jobs), 1):
        if on_done is not None:
            on_done(done, len(clips))
    part = out / "sources.csv.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "split"])
        rows.writerows((f"{split}/{index:06d}.mp4", split) for split, index in clips)
    part.replace(out / "sources.csv")


def _write_all(out: Path, seed: int, clips: Sequence[tuple[Split, int]], jobs: int) -> Iterator[None]:
    if jobs == 1:
        for clip in clips:
            yield _write(out, seed, clip)
        return
    # Fresh processes: a fork would copy the threads' locks of whatever the caller has loaded.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_be_nice) as pool:
        share = max(1, min(4, len(clips) // (4 * jobs)))
        yield from pool.map(_write, repeat(out), repeat(seed), clips, chunksize=share)


def _be_nice() -> None:
    os.nice(10)


def _write(out: Path, seed: int, clip: tuple[Split, int]) -> None:
    split, index = clip
    write_scene(compose(seed, split, index), out / split)
