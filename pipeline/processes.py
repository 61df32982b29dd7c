"""Processes that read and decode samples straight into the rows of a batch, in memory that they share with the loader.

Threads have one lock between them. Codecs let go of it, what stands between their calls does not, and beyond four or
five cores nothing gets faster; each process has a lock of its own. They are no forks of the caller's process, so CUDA
and its threads may be in use there: one process is started that imports what is needed, and forks the others. All
of them end when the other end of their socket closes, also because the loader was killed.
"""

from __future__ import annotations

import mmap
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.modalities import Modality
from omniloom.modalities.base import Window
from omniloom.pipeline.reader import ShardReader
from omniloom.pipeline.rows import Entry
from omniloom.pipeline.slabs import Shapes, Slab, Slabs, arrays_in
from omniloom.pipeline.threads import LOOK_S, hung
from omniloom.pipeline.view import BadSampleError, Decoder, View, read_ahead, view_in

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 28), "MALLOC_TRIM_THRESHOLD_": str(1 << 28)}
"""For glibc: arrays of some megabytes come and go all the time; given back to the system, each costs its pages anew."""
_IN_ITS_ROW = np.empty(0, np.float32)

Items = Sequence[tuple[Entry, Window]]


@dataclass(frozen=True, slots=True)
class Told:
    """What a process says of samples that it was given."""

    views: list[View | BadSampleError]
    """Arrays are in their rows; here an empty one stands for each."""
    bytes_read: int
    decoded: Counter[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What a process is told first: the world as its loader sees it."""

    path: list[str]
    environment: dict[str, str]
    folder: str
    modules: Mapping[str, str]
    """By short name: where the modality is imported from."""
    limit_s: float


@dataclass(frozen=True, slots=True)
class _Task:
    items: Items
    places: Sequence[int]
    """Row of each item."""
    shapes: Shapes
    slab: int
    size: int
    """Of the slab, where the process does not have it yet: its descriptor follows."""
    gone: list[int]
    """Slabs that will not be used again."""


# --- the loader's side ------------------------------------------------------------------------------------------------


class Processes:
    """A number of processes, each busy with one piece of work at a time. Threads may share it: one a process."""

    def __init__(self, number: int, modules: Mapping[str, Modality], limit_s: float, slabs: Slabs) -> None:
        """modules: by short name. limit_s: after which a read hangs."""
        self._slabs = slabs
        self._lines: list[_Line] = []
        self._idle: queue.SimpleQueue[_Line] = queue.SimpleQueue()
        beginning = _Beginning(
            sys.path,
            dict(os.environ),
            str(Path.cwd()),
            {name: str(vars(module)["__name__"]) for name, module in modules.items()},
            limit_s,
        )
        nursery = _nursery()
        for _ in range(number):
            line = _Line(nursery.born(), set())
            line.connection.send(beginning)
            self._lines.append(line)
            self._idle.put(line)

    def show(self, items: Items, places: Sequence[int], slab: Slab, shapes: Shapes) -> Told:
        """Has samples read and decoded into their rows of a slab, and waits for it.

        Raises what a process raised that is no fault of a sample: RemoteError, OSError, TimeoutError; RuntimeError
        if it died.
        """
        line = self._idle.get()
        try:
            return self._asked(line, items, places, slab, shapes)
        finally:
            self._idle.put(line)

    def _asked(self, line: _Line, items: Items, places: Sequence[int], slab: Slab, shapes: Shapes) -> Told:
        if line.lost:
            raise line.lost
        new = slab.number not in line.slabs
        gone = line.slabs - self._slabs.numbers()
        line.slabs = (line.slabs - gone) | {slab.number}
        size = len(slab.memory) if new else 0
        try:
            line.connection.send(_Task(items, places, shapes, slab.number, size, sorted(gone)))
            if new:
                send_handle(line.connection, slab.fd, None)
            answer = line.connection.recv()
        except (EOFError, ConnectionError) as error:
            line.lost = RuntimeError(
                f"a decoding process ended while it read {', '.join(entry.key for entry, _ in items)}: if nothing is"
                " said above, the system killed it, most likely for want of memory; lower `workers` or batch_size"
            )
            raise line.lost from error
        if isinstance(answer, TimeoutError):
            line.lost = answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Ends the processes after what they are at."""
        for line in self._lines:
            line.connection.close()


@dataclass(slots=True)
class _Line:
    """To one process."""

    connection: Connection
    slabs: set[int]
    """Numbers of those that the process has mapped."""
    lost: Exception | None = None
    """Why there is no process any more."""


class _Nursery:
    """The process that the others are forked from."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._ours = Connection(ours.detach())
        with theirs:
            command = [sys.executable, "-c", f"from {__name__} import nurse; nurse({theirs.fileno()})"]
            path = os.pathsep.join(item or str(Path.cwd()) for item in sys.path)
            environment = {**os.environ, **_ONE_THREAD, **_KEEPS_MEMORY, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )

    def born(self) -> Connection:
        """The line to a new process."""
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            self._ours.send_bytes(b"one more")
            send_handle(self._ours, theirs.fileno(), None)
        return Connection(ours.detach())


_nurseries: list[_Nursery] = []
_lock = threading.Lock()


def prepare() -> None:
    """Starts what `Processes` will need, and does not wait for it."""
    _nursery()


def _nursery() -> _Nursery:
    """One for all loaders of this process: to import PyTorch takes a second, to fork some milliseconds."""
    with _lock:
        if not _nurseries or _nurseries[0].owner != os.getpid() or _nurseries[0].process.poll() is not None:
            _nurseries[:] = [_Nursery()]
        return _nurseries[0]


# --- the other side ---------------------------------------------------------------------------------------------------


def nurse(handle: int) -> None:
    """Forks a process for each line that it is sent, until there is nobody to ask for another."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the loader's process is interrupted, and ends the others
    signal.signal(signal.SIGCHLD, _bury)
    torch.set_num_threads(1)
    asked = Connection(handle)
    with suppress(EOFError, ConnectionError):
        while asked.recv_bytes():
            line = recv_handle(asked)
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                asked.close()
                with suppress(EOFError, ConnectionError):
                    _serve(Connection(line))
                os._exit(0)
            os.close(line)


def _bury(*_: Any) -> None:
    """Says of processes that ended which of them were killed."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if os.WIFSIGNALED(ended[1]):
                name = signal.Signals(os.WTERMSIG(ended[1])).name
                sys.stderr.write(f"a decoding process was killed by {name}\n")


def _serve(line: Connection) -> None:
    """Does one task after the other."""
    beginning: _Beginning = line.recv()
    sys.path[:] = beginning.path
    os.environ.clear()
    os.environ.update({**beginning.environment, **_ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""})
    with suppress(OSError):
        os.chdir(beginning.folder)
    modules: dict[str, Any] = {name: import_module(path) for name, path in beginning.modules.items()}
    reader, decoder, lock = ShardReader(), Decoder("cpu", threads=1), threading.Lock()
    reader.watch.limit_s = beginning.limit_s
    threading.Thread(target=_watch, args=(line, reader, lock), daemon=True).start()
    slabs: dict[int, np.ndarray] = {}
    while True:
        task: _Task = line.recv()
        for number in task.gone:
            slabs.pop(number, None)
        if task.size:
            slabs[task.slab] = _mapped(recv_handle(line), task.size)
        answer = _done(task, arrays_in(slabs[task.slab], task.shapes), modules, reader, decoder)
        with lock:
            line.send_bytes(_pickled(answer))


def _done(
    task: _Task,
    arrays: Mapping[str, np.ndarray],
    modules: Mapping[str, Modality],
    reader: ShardReader,
    decoder: Decoder,
) -> Told | Exception:
    bytes_read, ran = reader.bytes_read, decoder.ran
    try:
        ahead = read_ahead(task.items, modules, reader)
        views: list[View | BadSampleError] = []
        for (entry, window), place in zip(task.items, task.places, strict=True):
            row = {name: array[place] for name, array in arrays.items()}
            view = view_in(row, entry, window, modules, ahead, decoder, used=True)
            if isinstance(view, BadSampleError):
                _say_where(view)
            else:
                view = {name: _IN_ITS_ROW if isinstance(value, np.ndarray) else value for name, value in view.items()}
            views.append(view)
    except Exception as error:  # noqa: BLE001  raised in the loader
        _say_where(error)
        return error
    return Told(views, reader.bytes_read - bytes_read, decoder.ran - ran)


def _say_where(error: Exception) -> None:
    """Causes and tracebacks do not travel; text does."""
    error.add_note(f"in a decoding process:\n{''.join(traceback.format_exception(error))}")


def _pickled(answer: Told | Exception) -> bytes:
    """The answer, or the text of an error that cannot travel."""
    try:
        return pickle.dumps(answer)
    except Exception:  # noqa: BLE001  whatever a foreign error's own code raises
        return pickle.dumps(RuntimeError(f"{type(answer).__name__}: {answer}"))


def _watch(line: Connection, reader: ShardReader, lock: threading.Lock) -> None:
    """Answers for a process that hangs in a read, and ends it."""
    while not (hanging := reader.watch.hangs()):
        time.sleep(min(LOOK_S, reader.watch.limit_s))
    with lock, suppress(OSError):
        line.send_bytes(_pickled(hung(hanging)))
    os._exit(1)


def _mapped(descriptor: int, size: int) -> np.ndarray:
    try:
        return np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
    finally:
        os.close(descriptor)
