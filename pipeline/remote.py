"""Reads from where a URL points: lists folders, reads files and ranges of files, tries again, gives up in time.

The only file that imports fsspec, which has a file system for each kind of URL: http and https itself, s3 with s3fs,
gs with gcsfs and so on. Credentials and end points are those that these find in their usual places.
"""

from __future__ import annotations

import errno
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_MARKS = ("etag", "md5", "md5hash", "content-md5", "generation", "lastmodified", "last-modified", "last_modified")
_TIMES = ("updated", "modified", "mtime", "created")
_RETRIED_STATUS = frozenset({408, 425, 429})
"""Answers of a server that blame the client, and pass all the same."""
_PAST_THE_END = 416
"""What servers answer to a range that begins where the file has ended; s3fs makes EINVAL of it."""


class RemoteError(OSError):
    """A store did not give what was asked for: it is away, slow, or refuses. The bytes may be fine."""


class TooShortError(RemoteError):
    """A store gave fewer bytes than asked for, however often."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a read is waited for, and how often it is tried."""

    timeout_s: float = 60.0
    """Of one attempt, beside a second for each MiB."""
    attempts: int = 8
    deadline_s: float = 180.0
    """No attempt begins later than this after the first."""
    wait_s: float = 0.25
    """Before the second attempt; twice as long before each further one, up to `longest_wait_s`; each jittered."""
    longest_wait_s: float = 10.0
    spare_attempts: int = 200
    """Budget of a store: so many attempts may be second ones, and a tenth of all. A store that is down is not asked
    again by every reader until its patience ends.
    """

    @staticmethod
    def from_env() -> Patience:
        """The default, with `OMNILOOM_TIMEOUT_S` for both `timeout_s` and `deadline_s`."""
        text = os.environ.get("OMNILOOM_TIMEOUT_S")
        if text is None:
            return Patience()
        seconds = positive(text, "OMNILOOM_TIMEOUT_S")
        return Patience(timeout_s=seconds, deadline_s=seconds)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file or folder as a store lists it."""

    name: str
    """Without its folder."""
    is_folder: bool
    size: int | None
    mark: str
    """Differs once the content does (a hash, a version, a time); "" if the listing does not tell."""


def url_of(path: Path | str) -> str | None:
    """The URL that a path is, without a slash at its end; None if it is a path on this machine.

    Also of a `Path` that was made of a URL, which has lost a slash.
    """
    match = _URL.fullmatch(str(path))
    if match is None or (isinstance(path, str) and "://" not in path):
        return None
    scheme, rest = match.groups()
    return f"{scheme}://{'/' if scheme in {'file', 'local'} else ''}{rest.rstrip('/')}"


def positive(text: str, name: str) -> float:
    """The number that an environment variable holds. Raises ValueError if it is none, or below zero."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ValueError(f"{name} is a number from 0 up, got {text!r}")
    return value


class Store:
    """A folder behind a URL. Safe to share between threads; names are relative to the folder, with slashes.

    Every call raises FileNotFoundError where nothing is, and `RemoteError` (an OSError) where the store did not answer
    in time or in order, however often it was asked.
    """

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        """Opens nothing yet. Raises ValueError, naming the repair, if no installed package knows such URLs."""
        self.url = url
        self.requests = 0
        """Ranges asked for so far, each attempt counted."""
        self.bytes_fetched = 0
        """Bytes of ranges that came so far."""
        self._patience = patience or Patience.from_env()
        self._fs, self._root = _file_system(url)
        self._lock = threading.Lock()
        self._tries = self._second_tries = 0

    def listing(self, folder: str = "") -> list[Listed]:
        """What lies in a folder; nothing if there is no such folder. Raises as the class says."""
        path = self._path(folder) + ("/" if self.url.startswith("http") else "")
        try:
            found = self._patiently(
                f"the listing of {self.url}/{folder}", 0, lambda: self._call("ls", path, detail=True)
            )
        except FileNotFoundError:
            return []
        listed: list[Listed] = []
        for info in found:
            name = str(info["name"]).rstrip("/").rpartition("/")[2]
            if name and "?" not in name:  # an index page has links that sort it
                is_folder = info["type"] == "directory"
                listed.append(Listed(name, is_folder, info.get("size"), "" if is_folder else _mark(info)))
        return listed

    def mark(self, name: str) -> str:
        """As `Listed.mark`, asked for the one file."""
        try:
            return _mark(self._patiently(f"{self.url}/{name}", 0, lambda: self._call("info", self._path(name))))
        except FileNotFoundError:  # also of servers that answer no such question
            return ""

    def size(self, name: str) -> int | None:
        """Of a file, where the store tells."""
        return self._patiently(f"{self.url}/{name}", 0, lambda: self._call("info", self._path(name))).get("size")

    def read(self, name: str) -> bytes:
        """A whole file."""
        return self._patiently(f"{self.url}/{name}", 0, lambda: self._call("cat_file", self._path(name)))

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on. Raises `TooShortError` if the file ends before."""
        what = f"bytes {offset}..{offset + size} of {self.url}/{name}"
        path = self._path(name)

        def ask() -> bytes:
            with self._lock:
                self.requests += 1
            data = self._call("cat_file", path, start=offset, end=offset + size, timeout_s=self._timeout_s(size))
            with self._lock:
                self.bytes_fetched += len(data)
            if len(data) > size:
                raise ValueError(_no_ranges(self.url))
            if len(data) < size:
                raise TooShortError(f"got {len(data)} bytes")
            return data

        return self._patiently(what, size, ask)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _timeout_s(self, size: int) -> float:
        return self._patience.timeout_s + size / (1 << 20)

    def _call(self, method: str, path: str, timeout_s: float | None = None, **options: Any) -> Any:
        """A method of the file system, in limited time."""
        timeout_s = self._timeout_s(0) if timeout_s is None else timeout_s
        if getattr(self._fs, "async_impl", False):
            from fsspec.asyn import sync  # cancels what takes too long

            return sync(self._fs.loop, getattr(self._fs, f"_{method}"), path, timeout=timeout_s, **options)
        return _within(timeout_s, lambda: getattr(self._fs, method)(path, **options))

    def _patiently(self, what: str, size: int, ask: Callable[[], T]) -> T:
        """What `ask` returns, asked again after failures that may pass. The error names `what`."""
        patience, began, attempt = self._patience, time.monotonic(), 0
        while True:
            attempt += 1
            with self._lock:
                self._tries += 1
            try:
                return ask()
            except (FileNotFoundError, ValueError):
                raise
            except Exception as error:  # stores raise classes of their own
                if getattr(error, "status", None) == _PAST_THE_END or getattr(error, "errno", None) == errno.EINVAL:
                    raise TooShortError(f"{what} could not be read: it ends before") from error
                if not _may_pass(error):
                    raise RemoteError(f"{what} could not be read: {_said(error, 0)}") from error
                wait_s = min(patience.wait_s * 2 ** (attempt - 1), patience.longest_wait_s) * random.uniform(0.5, 1.5)
                ends = time.monotonic() + wait_s - began >= patience.deadline_s
                if attempt >= patience.attempts or ends or not self._may_try_again():
                    times = f"{attempt} attempt{'s' * (attempt > 1)} in {time.monotonic() - began:.1f} s"
                    kind = TooShortError if isinstance(error, TooShortError) else RemoteError
                    raise kind(f"{what} could not be read, {times}: {_said(error, self._timeout_s(size))}") from error
            time.sleep(wait_s)

    def _may_try_again(self) -> bool:
        with self._lock:
            self._second_tries += 1
            return self._second_tries <= self._patience.spare_attempts + self._tries // 10


def check_ranges(store: Store, name: str) -> None:
    """Raises ValueError if the store answers with whole files where a part was asked for."""
    store.read_range(name, 0, 1)


def _file_system(url: str) -> tuple[Any, str]:
    scheme = url.partition("://")[0]
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(
            f"{url} is not on this machine: `pip install 'omniloom[remote]'` reads such corpora"
        ) from error
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
        needs = package.get(scheme)
        raise ValueError(
            f"{url} needs {f'the package {needs}: `pip install {needs}`' if needs else f'another package: {error}'}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{url}: fsspec knows no {scheme}:// ({error})") from error


def _no_ranges(url: str) -> str:
    return (
        f"the server of {url} ignores Range requests and sends whole files: serve the corpus with one that knows them"
        " (nginx, Apache, caddy and every object store do), or copy it here"
    )


def _mark(info: Mapping[str, Any]) -> str:
    """What a store knows of a file that changes with its content; times count only where there is no hash."""
    known = {name.lower(): value for name, value in info.items()}
    for names in (_MARKS, _TIMES):
        if found := [f"{name}={known[name]}" for name in names if known.get(name) not in {None, ""}]:
            return f"{'; '.join(found)}; {known.get('size')}"
    return ""


def _may_pass(error: Exception) -> bool:
    """Whether the same call may do better later."""
    status = getattr(error, "status", getattr(error, "code", None))  # of aiohttp; of gcsfs
    if isinstance(status, int) and 400 <= status < 500:
        return status in _RETRIED_STATUS
    lasting = (PermissionError, IsADirectoryError, NotADirectoryError, TypeError, AttributeError, NotImplementedError)
    return not isinstance(error, (*lasting, ImportError, MemoryError))


def _said(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError) or type(error).__name__ == "FSTimeoutError":
        return f"no answer within {timeout_s:.1f} s"
    return f"{type(error).__name__}: {error}" if not isinstance(error, RemoteError) else str(error)


def _within(timeout_s: float, call: Callable[[], T]) -> T:
    """What `call` returns. Raises TimeoutError if it takes longer; its thread is then left behind."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:  # noqa: BLE001  raised below, in the thread that asked
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True, name="remote-read")
    thread.start()
    thread.join(timeout_s)
    if failure:
        raise failure[0]
    if not result:
        raise TimeoutError
    return result[0]
