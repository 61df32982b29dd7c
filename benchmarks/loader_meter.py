"""Counts what a loop over batches gives and what it takes: rate, processor time, bytes read, memory of a whole tree.

Linux only: figures of processes come from /proc, those of ended children through the parents that waited for them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

Batches = Iterator[tuple[list[str], dict[str, tuple[int, ...]]]]
"""Keys of a batch, and the shape of each of its tensors or lists."""

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MIN_BATCHES = 12
"""Counted at least: with fewer, a batch that lay ready at the start would show in the rate."""


@dataclass(frozen=True, slots=True)
class Used:
    """By a process and all under it, since they began."""

    cpu_s: float
    read_bytes: int
    """Through read calls, pipes and sockets included; not through memory maps."""


def tree(root: int) -> list[int]:
    """Ids of the process and of all that descend from it."""
    parents: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            parents[int(entry.name)] = int(stat[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def used(root: int) -> Used:
    """Processor time and bytes read so far."""
    ticks = read = 0
    for pid in tree(root):
        if stat := _stat(pid):
            ticks += sum(map(int, stat[11:15]))  # utime, stime and those of children that were waited for
            read += _number(pid, "io", "rchar:")
    return Used(ticks / _TICKS_PER_S, read)


def memory_mb(root: int) -> float:
    """Resident memory, pages that processes share counted once (PSS)."""
    return sum(_number(pid, "smaps_rollup", "Pss:") for pid in tree(root)) / 1024


def measure(begin: Callable[[], Batches], seconds: float, workers: int) -> dict[str, Any]:
    """Runs an endless loop for `seconds` of steady state, after as many batches as fill its pipes.

    Counts whole rounds of the workers, since they give their batches in turn.
    """
    started = time.perf_counter()
    batches = begin()
    keys, shapes = next(batches)
    first_batch_s = time.perf_counter() - started
    seen = set(keys)
    for keys, _ in islice(batches, 2 * workers + 1):
        seen |= set(keys)
    before, began = used(os.getpid()), time.perf_counter()
    samples = count = 0
    for keys, shape in batches:
        assert shape.keys() == shapes.keys(), f"batches of {shapes} and {shape}"
        seen |= set(keys)
        samples, count = samples + len(keys), count + 1
        elapsed_s = time.perf_counter() - began
        if elapsed_s >= seconds and count >= _MIN_BATCHES and count % max(1, workers) == 0:
            break
    else:
        raise RuntimeError(f"the loop ended after {count} batches")
    after = used(os.getpid())
    return {
        "samples": samples,
        "seconds": elapsed_s,
        "cpu_s": after.cpu_s - before.cpu_s,
        "read_bytes": after.read_bytes - before.read_bytes,
        "first_batch_s": first_batch_s,
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "distinct": len(seen),
    }


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the name, which may hold anything; None if the process is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _number(pid: int, file: str, label: str) -> int:
    try:
        lines = (_PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(label)), 0)
