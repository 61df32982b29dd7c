"""Makes freed memory go back to the system, so that a worker needs what it holds and not what it once held."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 4 * 1024 * 1024


def give_back_large_blocks() -> None:
    """Lets the C library map large blocks one by one for the rest of the process; without effect where it is not glibc.

    By itself glibc raises its threshold to 32 MB with the first large block that is freed. From then on ten minutes of
    sound come out of the heap of whichever thread asks, and stay there: a worker grew to 1.2 GB over fifteen spans.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back_free_memory() -> None:
    """Returns what is free in the heaps now, after work that needed much: smaller blocks add up too."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
