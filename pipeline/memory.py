"""Makes freed memory go back to the system, so that a worker needs what it holds and not what it once held."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 4 * 1024 * 1024


def give_back_large_blocks() -> None:
    """Lets the C library map large blocks one by one for the rest of the process; without effect off Linux.

    By itself glibc raises its threshold to 32 MB with the first large block that is freed. From then on ten minutes of
    sound come out of the heap of whichever thread asks, and stay there: a worker grew to 1.2 GB over fifteen spans.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # musl has none, and no such threshold
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
