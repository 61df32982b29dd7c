"""Lists the members of other people's tars as far as they can be read, past what is damaged."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = 512
_MAGIC, _MAGIC_AT = b"ustar", 257
_CHUNK = 1 << 20
_PACKED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass(frozen=True, slots=True)
class Listed:
    """A regular file in the tar, and where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Hole:
    """A place where the tar cannot be read; the members listed after it were found by their headers."""

    offset: int
    reason: str
    """A stable code: empty-file, compressed-tar, not-a-tar, damaged-tar, truncated."""
    detail: str


def members(file: BinaryIO) -> Iterator[Listed | Hole]:
    """Every member that lies in the file as a whole, in order, and every hole.

    tarfile ends without a word at the first header that is damaged, and so do loaders built on it. Here the next good
    one is looked for.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_BLOCK)
    if not size:
        yield Hole(0, "empty-file", "0 bytes")
        return
    if head[:2] in _PACKED and head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
        yield Hole(0, "compressed-tar", f"{_PACKED[head[:2]]}: members can be read alone only where they lie plain")
        return
    at: int | None = 0
    found = False
    while at is not None:
        end, fault = at, ""
        file.seek(at)
        try:
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                end = tar.offset
                for info in tar:
                    found = True
                    if info.offset_data + info.size > size:
                        missing = info.offset_data + info.size - size
                        yield Hole(info.offset_data, "truncated", f"{info.name} lacks its last {missing} bytes")
                        return
                    end = tar.offset
                    if info.isreg() and not info.issparse():
                        yield Listed(info.name, info.offset_data, info.size)
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            fault = str(error)
        file.seek(end)
        block = file.read(_BLOCK)
        if not fault and not block.strip(b"\0"):
            return  # the end mark, or the end of the file
        at = _next_header(file, end + _BLOCK, size)
        if not found and at is None:
            yield Hole(0, "not-a-tar", fault or "no header")
            return
        if end < size:
            where = "nothing can be read after it" if at is None else f"{at - end} bytes are passed over"
            yield Hole(end, "damaged-tar", f"no header at byte {end}: {where}")


def _next_header(file: BinaryIO, at: int, size: int) -> int | None:
    """Where the next block lies that is a header with a right checksum; None if there is none."""
    while at < size:
        file.seek(at)
        chunk = file.read(_CHUNK)
        place = chunk.find(_MAGIC)
        while place >= 0:
            start = place - _MAGIC_AT
            if start >= 0 and not start % _BLOCK and _is_header(chunk[start : start + _BLOCK]):
                return at + start
            place = chunk.find(_MAGIC, place + 1)
        at += _CHUNK
    return None


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return False
    return True
