"""Makes a file appear whole or not at all: written under a hidden name, flushed to the disk, then renamed.

The order that survives a power cut: write -> fsync the file -> rename -> fsync its folder. A writer holds a lock on its
unfinished file, so the unfinished files of dead writers are those that can be locked, whatever machine they ran on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

_SUFFIX = ".part"


class Unfinished:
    """A file being written; use it as a context manager, and `finish` then `publish` it inside.

    Leaving the block without `publish` removes it.
    """

    def __init__(self, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        self.final = final
        self.path, self.file = _create_locked(final)
        self._published = False

    def finish(self) -> None:
        """Puts every byte on the disk, so that `publish` can only ever show a whole file."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def publish(self) -> None:
        """Gives the finished file its name, durably. Replaces a file of that name."""
        self.path.replace(self.final)
        sync_folder(self.final.parent)
        self._published = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._published:
            self.path.unlink(missing_ok=True)
        self.file.close()  # last: closing gives the lock up


@dataclass(frozen=True, slots=True)
class Link:
    """A name for a file that lies elsewhere and stays there."""

    final: Path
    target: Path

    def publish(self) -> None:
        """Makes the symbolic link, durably. Replaces a file of that name."""
        temporary = self.final.with_name(f".{self.final.name}.{secrets.token_hex(6)}.link")
        temporary.symlink_to(self.target)
        temporary.replace(self.final)
        sync_folder(self.final.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Writes a small file so that readers see the old bytes or the new ones, also after a power cut."""
    with Unfinished(path) as out:
        out.file.write(data)
        out.finish()
        out.publish()


@contextmanager
def replace_file(path: Path) -> Generator[Path]:
    """Gives a path to write the new file at; it takes the old one's place when the block ends without an error."""
    with Unfinished(path) as out:
        yield out.path
        out.finish()
        out.publish()


def sync_folder(folder: Path) -> None:
    """Puts the folder's list of names on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems cannot, and need not
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Waits until no other process is inside the same lock. A dead holder lets go at once."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unfinished_files(folder: Path) -> list[Path]:
    """Every unfinished file in the folder, of living writers and dead ones."""
    return sorted(folder.glob(f".*{_SUFFIX}"))


def remove_dead(folder: Path) -> list[Path]:
    """Removes the unfinished files whose writers no longer live, and returns their paths."""
    removed: list[Path] = []
    for path in unfinished_files(folder):
        try:
            file = path.open("r+b")
        except FileNotFoundError:  # its writer finished meanwhile
            continue
        with file:
            if _try_lock(file):
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


def _create_locked(final: Path) -> tuple[Path, BinaryIO]:
    while True:
        path = final.parent / f".{final.name}.{secrets.token_hex(6)}{_SUFFIX}"
        file = path.open("xb")
        # Between creating and locking, `remove_dead` of another process may have taken it for a dead one's.
        if _try_lock(file) and os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
