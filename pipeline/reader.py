"""Reads spans of bytes out of shards, checks them, and counts them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

import xxhash

from omniloom.pipeline.sidecar import DamagedError

_MAX_OPEN = 64
"""Shards held open; a training run touches them all in random order."""


class ShardReader:
    """Random access to the shards of one corpus, safe to share between threads.

    Reads with `pread`: it never seeks, and a shard that is cut short while it is open gives an error, not a crash.
    """

    def __init__(self) -> None:
        self.bytes_read = 0
        """Since it was made, over all threads."""
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, _Handle] = OrderedDict()

    def read(self, path: Path, offset: int, size: int, xxh3: int | None) -> bytes:
        """The span's bytes. Raises `DamagedError` if the file is short or gone, or the span's hash is not `xxh3`."""
        try:
            handle = self._handle(path)
        except FileNotFoundError as error:
            raise DamagedError(
                f"{_named(path)} is missing, though its sidecar is there: restore it, or remove the sidecar"
            ) from error
        data = _pread(handle.fd, offset, size)
        with self._lock:
            self.bytes_read += len(data)
        if len(data) != size:
            raise DamagedError(f"{_named(path)} ends inside bytes {offset}..{offset + size}: it was cut short")
        if xxh3 is not None and xxhash.xxh3_64_intdigest(data) != xxh3:
            raise DamagedError(
                f"{_named(path)} is damaged in bytes {offset}..{offset + size}: they do not match their hash"
            )
        return data

    def _handle(self, path: Path) -> _Handle:
        with self._lock:
            handle = self._open.get(path)
            if handle is None:
                handle = self._open[path] = _Handle(path)
                if len(self._open) > _MAX_OPEN:
                    self._open.popitem(last=False)  # closed when the last thread that reads it lets go
            self._open.move_to_end(path)
            return handle


class _Handle:
    """An open file that closes when nobody refers to it."""

    def __init__(self, path: Path) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _named(path: Path) -> str:
    """Like "depth/000012.tar": the shards and each column use the same numbers."""
    return f"{path.parent.name}/{path.name}"


def _pread(fd: int, offset: int, size: int) -> bytes:
    """Like `os.pread`, which may return less than asked for (at most 2 GB at a time)."""
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    blocks = [data]
    while (missing := size - sum(map(len, blocks))) and (block := os.pread(fd, missing, offset + size - missing)):
        blocks.append(block)
    return b"".join(blocks)
