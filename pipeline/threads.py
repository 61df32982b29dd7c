"""Threads that read and decode; one that hangs in a read is known, and can be left behind.

A read from a file system over the network may never return, and nothing can interrupt it. The standard library's
executors wait for their threads, at the latest when the interpreter ends: a process whose disk hangs would never end.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LOOK_S = 1.0
"""How often those who wait look whether there is still hope."""


class Watch:
    """What each thread reads at this moment, and since when."""

    def __init__(self, limit_s: float) -> None:
        """limit_s: a read that takes longer hangs."""
        self.limit_s = limit_s
        self._under_way: dict[int, tuple[float, Path, str]] = {}

    @contextmanager
    def reading(self, path: Path, what: str = "") -> Generator[None]:
        """While the calling thread reads the file."""
        thread = threading.get_ident()
        self._under_way[thread] = time.monotonic(), path, what
        try:
            yield
        finally:
            del self._under_way[thread]

    def hangs(self) -> str | None:
        """Which read takes longer than the limit, if one does."""
        now = time.monotonic()
        for began, path, what in list(self._under_way.values()):
            if now - began > self.limit_s:
                return f"{what}{path}, {now - began:.0f} s ago"
        return None

    def result(self, future: Future[T]) -> T:
        """What the future returns or raises. Raises TimeoutError, naming the file, if a read hangs meanwhile."""
        while not wait([future], timeout=min(LOOK_S, self.limit_s)).done:
            if hanging := self.hangs():
                raise hung(hanging)
        return future.result()


def hung(what: str) -> TimeoutError:
    """To be raised for a read that `Watch.hangs` tells of."""
    return TimeoutError(
        f"a read hangs that began with {what}: its disk or network file system does not answer (OMNILOOM_TIMEOUT_S"
        " says how long is waited); run again when it does, nothing is lost"
    )


class Threads(Executor):
    """A pool of daemon threads, stopped before the interpreter ends: in the middle of a codec they would crash."""

    def __init__(self, number: int, hopeless: Callable[[], object]) -> None:
        """hopeless: whether to wait no longer for threads at the end."""
        self._hopeless = hopeless
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_over = False
        self._threads = [
            threading.Thread(target=self._serve, daemon=True, name=f"loader-{index}") for index in range(number)
        ]
        for thread in self._threads:
            thread.start()
        _pools.add(self)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._is_over:
                raise RuntimeError("this pool of threads was shut down")
            self._work.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads after their present work, or, with `wait`, once that is done or hopeless."""
        with self._lock:
            self._is_over = True
            with suppress(queue.Empty):
                while cancel_futures:
                    if item := self._work.get_nowait():
                        item[0].cancel()
            for _ in self._threads:
                self._work.put(None)
        for thread in self._threads:
            while wait and thread.is_alive() and not self._hopeless():
                thread.join(LOOK_S)

    def _serve(self) -> None:
        while item := self._work.get():
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001  raised in the thread that waits
                    future.set_exception(error)
            del item, future, call  # a result is as large as a batch


_pools: weakref.WeakSet[Threads] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for pool in list(_pools):
        pool.shutdown(cancel_futures=True)
