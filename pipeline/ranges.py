"""Spans of shards that lie elsewhere: near ones in one request, many requests at once, each span kept in the cache.

What is asked for is the spans themselves, not blocks around them: of a sample's audio no other byte is read.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TypeAlias, cast

import xxhash

from omniloom.pipeline.cache import SpanCache, SpanKey, open_cache
from omniloom.pipeline.mirror import origin_of
from omniloom.pipeline.remote import Patience, RemoteError, Store, TooShortError
from omniloom.pipeline.sidecar import DamagedError

_PARALLEL = 32
"""Requests of this process under way at once: what hides the latency of an object store."""
_GAP_BYTES = 64 << 10
"""Spans of one sample that are no further apart become one request: the gap costs less time than a request does."""
_REQUEST_BYTES = 8 << 20
"""Spans are not joined beyond this."""
_COPIED_AT_ONCE = 8
_DEPTH = 4
"""Folders above a shard that may be its corpus: columns/depth/000012.tar has two."""

Span: TypeAlias = tuple[int, int, int | None]
"""Offset and size in a shard, and the hash (xxh3-64) that the bytes must have, where it is known."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that lies elsewhere."""

    path: Path
    """Where it would lie in the mirror."""
    store: Store
    name: str
    """In the store."""

    @property
    def url(self) -> str:
        return f"{self.store.url}/{self.name}"


@dataclass(frozen=True, slots=True)
class Coming:
    """Spans under way. `get` waits for them, and raises what went wrong."""

    spans: Sequence[Span]
    future: Future[list[bytes]]

    def get(self) -> list[bytes]:
        return self.future.result()


class RemoteShards:
    """The shards of mirrored corpora. Safe to share between threads."""

    def __init__(self, cache: SpanCache | None, patience: Patience | None) -> None:
        """cache, patience: by default what the environment sets, once anything is read."""
        self._given_cache, self._patience = cache, patience
        self._folders: dict[Path, tuple[Path, Store] | None] = {}
        self._stores: dict[Path, Store] = {}
        self._lock = threading.Lock()
        self._cache = cache

    @property
    def stores(self) -> list[Store]:
        return list(self._stores.values())

    def find(self, path: Path) -> Shard | None:
        """The shard of that path in a mirror; None if it lies in none."""
        folder = path.parent
        try:
            place = self._folders[folder]
        except KeyError:
            place = self._look(folder)
        return None if place is None else Shard(path, place[1], path.relative_to(place[0]).as_posix())

    def begin(self, shard: Shard, spans: Iterable[Span]) -> list[Coming]:
        """Begins to read spans, in as few requests as their gaps allow. Cheap: other threads do the work."""
        return [Coming(request, _submit(self._read, shard, request)) for request in joined(spans)]

    def _look(self, folder: Path) -> tuple[Path, Store] | None:
        place = None
        for above in (folder, *folder.parents)[:_DEPTH]:
            if origin := origin_of(above):
                with self._lock:
                    if above not in self._stores:
                        self._stores[above] = Store(origin.url, self._patience)
                    if self._cache is None:
                        self._cache = open_cache()
                place = (above, self._stores[above])
                break
        self._folders[folder] = place
        return place

    def _read(self, shard: Shard, spans: Sequence[Span]) -> list[bytes]:
        """Spans of one request: those that the cache has from there, the others from the store."""
        assert self._cache is not None
        read: dict[Span, bytes] = {}
        for span in spans:
            if (key := _key(shard, span)) and (data := self._cache.get(key)) is not None:
                read[span] = data
        for request in joined(span for span in spans if span not in read):
            for span, data in zip(request, _fetched(shard, request), strict=True):
                read[span] = data
                if key := _key(shard, span):
                    self._cache.put(key, data)
        return [read[span] for span in spans]


def open_shard(path: Path) -> BinaryIO:
    """A shard as a file to read from its start: itself, or a copy, gone once closed, of one that lies elsewhere.

    Raises FileNotFoundError if it is neither here nor there, RemoteError if the store does not answer.
    """
    shards = RemoteShards(None, None)
    shard = shards.find(path)
    if shard is None:
        return path.open("rb")
    size = shard.store.size(shard.name)
    if size is None:
        raise RemoteError(f"{shard.url} cannot be copied: its server does not tell its size")
    file = TemporaryFile()  # noqa: SIM115  the caller closes it
    spans: list[Span] = [
        (offset, min(_REQUEST_BYTES, size - offset), None) for offset in range(0, size, _REQUEST_BYTES)
    ]
    for first in range(0, len(spans), _COPIED_AT_ONCE):
        for coming in shards.begin(shard, spans[first : first + _COPIED_AT_ONCE]):
            file.writelines(coming.get())
    file.seek(0)
    return cast("BinaryIO", file)


def joined(spans: Iterable[Span]) -> list[list[Span]]:
    """Spans in the order they lie in, each once, those in one list that are read by one request."""
    requests: list[list[Span]] = []
    end = 0
    for span in sorted(set(spans), key=lambda span: span[:2]):
        offset, size, _ = span
        if requests and offset - end <= _GAP_BYTES and max(end, offset + size) - requests[-1][0][0] <= _REQUEST_BYTES:
            requests[-1].append(span)
        else:
            requests.append([span])
            end = 0
        end = max(end, offset + size)
    return requests


def _fetched(shard: Shard, spans: Sequence[Span]) -> list[bytes]:
    """Spans in one request; one whose hash is not right is asked for once more, by itself."""
    first, last = spans[0][0], max(offset + size for offset, size, _ in spans)
    try:
        data = shard.store.read_range(shard.name, first, last - first)
    except TooShortError as error:
        if len(spans) > 1:  # those that lie before the end can be had
            return [_fetched(shard, [span])[0] for span in spans]
        there = shard.store.size(shard.name)
        if there is not None and there < last:
            raise DamagedError(f"{shard.url} ends at {there} inside bytes {first}..{last}: it was cut short") from error
        raise RemoteError(str(error)) from error
    except FileNotFoundError as error:
        raise DamagedError(
            f"{shard.url} is missing, though its sidecar is there: restore it, or remove the sidecar"
        ) from error
    return [_checked(shard, span, data[span[0] - first : span[0] - first + span[1]]) for span in spans]


def _checked(shard: Shard, span: Span, data: bytes) -> bytes:
    offset, size, xxh3 = span
    if xxh3 is None or xxhash.xxh3_64_intdigest(data) == xxh3:
        return data
    again = shard.store.read_range(shard.name, offset, size)  # it may have been damaged on the way
    if xxhash.xxh3_64_intdigest(again) != xxh3:
        raise DamagedError(
            f"{shard.url} is damaged in bytes {offset}..{offset + size}: they do not match their hash; if the corpus"
            " was replaced there, open it again"
        )
    return again


def _key(shard: Shard, span: Span) -> SpanKey | None:
    """None for a span that cannot be checked: it is not kept."""
    offset, size, xxh3 = span
    return None if xxh3 is None else SpanKey(shard.url, offset, size, xxh3)


# --- threads that wait for stores: a few for the whole process, which ends without waiting for them ---------------

_work: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()
_threads: list[threading.Thread] = []
_idle = threading.Semaphore(0)
_starting = threading.Lock()


def _submit(function: Callable[..., list[bytes]], *args: Any) -> Future[list[bytes]]:
    future: Future[list[bytes]] = Future()
    _work.put((future, function, args))
    if not _idle.acquire(blocking=False):
        with _starting:
            if len(_threads) < _PARALLEL:
                _threads.append(threading.Thread(target=_serve, daemon=True, name=f"ranges-{len(_threads)}"))
                _threads[-1].start()
    return future


def _serve() -> None:
    while True:
        try:
            future, function, args = _work.get_nowait()
        except queue.Empty:
            _idle.release()
            future, function, args = _work.get()
        try:
            future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001  raised in the thread that waits
            future.set_exception(error)
        del future, function, args  # a result is as large as what was read


def _forget_threads() -> None:
    """In a forked child, which has none of them."""
    global _work, _idle, _starting
    _work, _idle, _starting = queue.SimpleQueue(), threading.Semaphore(0), threading.Lock()
    _threads.clear()


os.register_at_fork(after_in_child=_forget_threads)
