"""Writes a plain tar as a stream: the same members always give the same bytes."""

from __future__ import annotations

import hashlib
import tarfile
from typing import BinaryIO

_BLOCK = 512
_MAX_NAME = 100
"""Of a USTAR header. Longer names need PAX records, which DALI and others read differently."""


class TarWriter:
    """Appends members to an open file, hashing what it writes. Needs no seek, holds nothing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0
        """Bytes written so far."""

    def add(self, name: str, data: bytes) -> int:
        """Writes one member and returns the offset of its first data byte. Owner, mode and time are fixed."""
        if len(name.encode()) > _MAX_NAME:
            raise ValueError(
                f"member names have at most {_MAX_NAME} bytes, got {name!r}: shorten the key or the suffix"
            )
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset

    def finish(self) -> str:
        """Writes the end mark and returns the sha256 of the whole file, 64 hex digits."""
        self._write(bytes(2 * _BLOCK))
        return self._sha256.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.size += len(data)
