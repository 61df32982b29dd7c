"""Spans of remote shards on this machine's disk, under a bound in bytes, shared by any number of processes.

A file a span, named by a hash of where the span lies and of what it holds. Its bytes are checked against the span's
own hash whenever they are read, so a file that is half there, or damaged, is one that is not there. Full, it keeps
most of what it has and lets a quarter of the new spans in, each in the place of spans chosen by chance: for epochs in
ever new orders that serves more reads than removing the oldest would (docs/design/019-remote-corpora.md).
"""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from omniloom.pipeline.remote import positive

_FOLDERS = 256
_GROUP_BYTES = 128 << 20
"""Folders are joined to groups of about this many bytes; each group keeps its share of the bound by itself."""
_BLOCK_BYTES = 4096
"""What a file takes on disk is a multiple of this."""
_ADMITTED = 0.25
_ROOM = 1 / 16
"""Share of a group that is made free at once."""
_STALE_S = 600
"""An unfinished file this old belongs to a writer that died."""
_DEFAULT_GB = 32.0


@dataclass(frozen=True, slots=True)
class SpanKey:
    """What a span is known by."""

    url: str
    offset: int
    size: int
    xxh3: int


class SpanCache:
    """Spans by key. Safe among threads and processes, also those that are killed.

    Processes that run at the same time should have the same bound; those that come later may have another.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """max_bytes: of all files together, counted in blocks of 4 KiB; 0 keeps nothing."""
        self._folder, self._max_bytes = folder, max_bytes
        self._groups = max(1, min(_FOLDERS, max_bytes // _GROUP_BYTES))
        while _FOLDERS % self._groups:
            self._groups -= 1
        self._works = max_bytes > 0
        self._counted: set[int] = set()

    def get(self, key: SpanKey) -> bytes | None:
        """The span's bytes, as they were read from the shard; None if they are not here."""
        if not self._works:
            return None
        path = self._path(_name(key))
        try:
            data = path.read_bytes()
        except OSError:  # not here, or removed just now
            return None
        if len(data) == key.size and xxhash.xxh3_64_intdigest(data) == key.xxh3:
            return data
        path.unlink(missing_ok=True)
        return None

    def put(self, key: SpanKey, data: bytes) -> None:
        """Keeps a span, unless there is no room for it. A disk that fails is said once and not used again."""
        if not self._works:
            return
        name = _name(key)
        path = self._path(name)
        try:
            if path.exists() or not self._reserve(name, len(data)):
                return
            path.parent.mkdir(exist_ok=True)
            part = path.with_name(f".{name}.{secrets.token_hex(4)}")
            try:
                part.write_bytes(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            self._works = False
            warnings.warn(f"{self._folder} keeps no more of what is read: {error}", RuntimeWarning, stacklevel=2)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def _reserve(self, name: str, size: int) -> bool:
        """Counts a file that is about to be written; False if it is not to be."""
        wanted, share = _on_disk(size), self._max_bytes // self._groups
        if wanted > share:
            return False
        group = int(name[:2], 16) * self._groups // _FOLDERS
        counter = self._folder / f".used-{self._groups}-{group}"
        with _locked(counter) as handle:
            used = self._used(handle, group)
            if used + wanted > share:
                if random.random() >= _ADMITTED:
                    return False
                used = self._make_room(group, share - max(wanted, int(share * _ROOM)))
            os.pwrite(handle, b"%020d" % (used + wanted), 0)
        return True

    def _used(self, counter: int, group: int) -> int:
        """Bytes of a group, as its processes have counted them: each looks for itself first, then adds.

        A process that died has counted too many at most.
        """
        text = os.pread(counter, 20, 0)
        if group in self._counted and text.isdigit():
            return int(text)
        self._counted.add(group)
        return sum(size for _, size in self._files(group))

    def _make_room(self, group: int, down_to: int) -> int:
        """Removes files by chance until no more than so many bytes are left, and returns how many are."""
        files = list(self._files(group))
        random.shuffle(files)
        total, now = sum(size for _, size in files), time.time()
        for path, size in files:
            is_part = path.name.startswith(".")
            if total <= down_to and not is_part:
                continue
            try:
                if is_part and now - path.stat().st_mtime < _STALE_S:
                    continue
                path.unlink()
            except FileNotFoundError:
                pass
            total -= size
        return total

    def _files(self, group: int) -> Iterator[tuple[Path, int]]:
        """Files of a group, unfinished ones too, and what each takes on disk."""
        width = _FOLDERS // self._groups
        for number in range(group * width, (group + 1) * width):
            try:
                with os.scandir(self._folder / f"{number:02x}") as entries:
                    found = list(entries)
            except FileNotFoundError:
                continue
            for entry in found:
                try:
                    yield Path(entry.path), _on_disk(entry.stat().st_size)
                except FileNotFoundError:
                    continue


@contextmanager
def _locked(counter: Path) -> Generator[int]:
    """The open file, while no other thread or process has it. It is never cut: ext4 flushes files that are."""
    try:
        handle = os.open(counter, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        counter.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(counter, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)  # gives the lock up


def cache_folder() -> Path:
    """Where what was read from elsewhere is kept: `OMNILOOM_CACHE`, or omniloom's folder in the user's cache."""
    if chosen := os.environ.get("OMNILOOM_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "omniloom"


def open_cache() -> SpanCache:
    """The cache of this machine, bounded by `OMNILOOM_CACHE_GB` (10^9 bytes each)."""
    gb = positive(os.environ.get("OMNILOOM_CACHE_GB", str(_DEFAULT_GB)), "OMNILOOM_CACHE_GB")
    return SpanCache(cache_folder() / "spans", int(gb * 1e9))


def _name(key: SpanKey) -> str:
    return xxhash.xxh3_128_hexdigest(f"{key.url}:{key.offset}:{key.size}:{key.xxh3}".encode())


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
