"""Reads spans of bytes out of shards, here or elsewhere, checks them, and counts them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import xxhash

from omniloom.pipeline.cache import SpanCache
from omniloom.pipeline.ranges import Coming, RemoteShards, Span
from omniloom.pipeline.remote import Patience
from omniloom.pipeline.sidecar import DamagedError
from omniloom.pipeline.threads import Watch

_MAX_OPEN = 64
"""Shards held open; a training run touches them all in random order."""


class SpanReader(Protocol):
    """What gives the bytes of spans: a `ShardReader`, or an `Ahead` that has them coming."""

    def read_many(self, path: Path, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of spans of one shard, in the order asked for."""
        ...


class ShardReader:
    """Random access to the shards of any corpora, safe to share between threads.

    Reads with `pread`: it never seeks, and a shard that is cut short while it is open gives an error, not a crash.
    Shards of a mirrored corpus (`mirror.py`) are read from where they lie, in ranges (`ranges.py`).
    """

    def __init__(self, cache: SpanCache | None = None, patience: Patience | None = None) -> None:
        """cache, patience: for shards that lie elsewhere; by default those that the environment sets."""
        self.bytes_read = 0
        """Given to those who asked since it was made, over all threads."""
        self.watch = Watch((patience or Patience.from_env()).deadline_s)
        """Over reads from this machine's file systems."""
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, _Handle] = OrderedDict()
        self._remote = RemoteShards(cache, patience)

    @property
    def bytes_fetched(self) -> int:
        """Read from elsewhere: less than `bytes_read` where the cache had it, more where spans were joined."""
        return sum(store.bytes_fetched for store in self._remote.stores)

    @property
    def requests(self) -> int:
        """Ranges asked for elsewhere."""
        return sum(store.requests for store in self._remote.stores)

    def read_many(self, path: Path, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of spans of one shard, in the order asked for. Raises as `read`."""
        shard = self._remote.find(path)
        if shard is None:
            return [self.read(path, *span) for span in spans]
        read = {
            span: data
            for coming in self._remote.begin(shard, spans)
            for span, data in zip(coming.spans, coming.get(), strict=True)
        }
        self.count(sum(span[1] for span in spans))
        return [read[span] for span in spans]

    def is_remote(self, corpus: Path) -> bool:
        """Whether the corpus in that folder is the mirror of one elsewhere."""
        return self._remote.find(corpus / "corpus.json") is not None

    def read(self, path: Path, offset: int, size: int, xxh3: int | None) -> bytes:
        """The span's bytes. Raises `DamagedError` if the file is short or gone, or the span's hash is not `xxh3`.

        Raises `RemoteError`, an OSError, if the file lies elsewhere and is not to be had from there.
        """
        try:
            with self.watch.reading(path, f"bytes {offset}..{offset + size} of "):
                data = _pread(self._handle(path).fd, offset, size)
        except FileNotFoundError as error:
            if self._remote.find(path):
                return self.read_many(path, [(offset, size, xxh3)])[0]
            raise DamagedError(
                f"{_named(path)} is missing, though its sidecar is there: restore it, or remove the sidecar"
            ) from error
        with self._lock:
            self.bytes_read += len(data)
        if len(data) != size:
            raise DamagedError(f"{_named(path)} ends inside bytes {offset}..{offset + size}: it was cut short")
        if xxh3 is not None and xxhash.xxh3_64_intdigest(data) != xxh3:
            raise DamagedError(
                f"{_named(path)} is damaged in bytes {offset}..{offset + size}: they do not match their hash"
            )
        return data

    def begin(self, parts: Iterable[tuple[Path, Sequence[Span]]]) -> Iterator[tuple[Path, Coming]]:
        """Begins to read what of it lies elsewhere, the spans of each shard together."""
        wanted: dict[Path, list[Span]] = {}
        for path, spans in parts:
            wanted.setdefault(path, []).extend(spans)
        for path, spans in wanted.items():
            if shard := self._remote.find(path):
                yield from ((path, coming) for coming in self._remote.begin(shard, spans))

    def count(self, size: int) -> None:
        """Adds to `bytes_read`."""
        with self._lock:
            self.bytes_read += size

    def _handle(self, path: Path) -> _Handle:
        with self._lock:
            handle = self._open.get(path)
        if handle is None:
            handle = _Handle(path)  # outside the lock: a file system that hangs holds up who asks for its files only
        with self._lock:
            handle = self._open.setdefault(path, handle)
            self._open.move_to_end(path)
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)  # closed when the last thread that reads it lets go
            return handle


class Ahead:
    """What samples will ask for, already on its way from elsewhere; each span is given once, and then forgotten.

    Holds no more than the bytes of those samples. What it does not have is read when asked for.
    """

    def __init__(self, reader: ShardReader, samples: Iterable[Iterable[tuple[Path, Sequence[Span]]]]) -> None:
        """samples: of each its parts' tars and spans. Near spans of a sample are read together, whichever part's."""
        self._reader = reader
        self._coming: dict[tuple[Path, Span], Coming] = {}
        for parts in samples:
            for path, coming in reader.begin(parts):
                self._coming |= {(path, span): coming for span in coming.spans}

    def read_many(self, path: Path, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of spans of one shard, in the order asked for. Raises as `ShardReader.read`."""
        read: dict[Span, bytes] = {}
        for span in spans:
            coming = self._coming.pop((path, span), None)
            if coming is not None:
                read[span] = coming.get()[coming.spans.index(span)]
                self._reader.count(span[1])
        late = [span for span in dict.fromkeys(spans) if span not in read]
        if late:
            read |= zip(late, self._reader.read_many(path, late), strict=True)
        return [read[span] for span in spans]


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
