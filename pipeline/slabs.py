"""Memory for batches that several processes write to, used again when nobody holds the batch any more.

A page of memory costs most when it is touched for the first time, in each process: slabs that come back save that.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from itertools import count

import numpy as np

_ALIGNED = 64
_NUMBERS = count()

Shapes = Mapping[str, tuple[int, ...]]
"""Of float32 arrays by name: the first axis counts samples."""


class Slab:
    """Anonymous shared memory: gone when the last process that maps it is."""

    def __init__(self, size: int) -> None:
        self.number = next(_NUMBERS)
        self.fd = _anonymous()
        os.ftruncate(self.fd, size)
        self.memory = mmap.mmap(self.fd, size)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class Slabs:
    """Gives slabs out and takes them back. Threads may share it."""

    def __init__(self, kept: int) -> None:
        """kept: how many may wait to be used again."""
        self._free: deque[Slab] = deque(maxlen=kept)
        self._living: weakref.WeakSet[Slab] = weakref.WeakSet()
        self._lock = threading.Lock()

    def take(self, shapes: Shapes) -> tuple[Slab, dict[str, np.ndarray]]:
        """Memory for a batch and its arrays, in which anything may stand; it comes back when all of them are gone."""
        size = size_of(shapes)
        slab = None
        while slab is None or len(slab.memory) < size:
            try:
                slab = self._free.pop()  # the last that came is likeliest to be in a cache
            except IndexError:
                slab = Slab(size)
                with self._lock:
                    self._living.add(slab)
        whole = np.frombuffer(slab.memory, np.uint8)  # what all arrays below refer to
        weakref.finalize(whole, self._free.append, slab).atexit = False
        return slab, arrays_in(whole, shapes)

    def numbers(self) -> set[int]:
        """Of the slabs that may be given out again."""
        with self._lock:
            return {slab.number for slab in self._living}


def size_of(shapes: Shapes) -> int:
    """Bytes for arrays of these shapes, at least one."""
    return max(1, sum(_bytes_of(shape) for shape in shapes.values()))


def arrays_in(memory: np.ndarray, shapes: Shapes) -> dict[str, np.ndarray]:
    """float32 arrays of these shapes, one after the other in the bytes of `memory`."""
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for name, shape in shapes.items():
        arrays[name] = memory[start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape)
        start += _bytes_of(shape)
    return arrays


def _bytes_of(shape: tuple[int, ...]) -> int:
    return -(-4 * math.prod(shape) // _ALIGNED) * _ALIGNED


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("omniloom")
    with tempfile.TemporaryFile() as file:  # macOS
        return os.dup(file.fileno())
