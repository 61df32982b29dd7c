"""Which files a build reads: paths, folders, globs and lists, resolved to media files with stable ids."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omniloom.modalities.sample import Drop, Rejected, SourceId
from omniloom.pipeline import moments

_SUFFIXES = """
    3g2 3gp aac aif aiff asf avi caf f4v flac flv m2ts m4a m4v mkv mka mov mp3 mp4 mpeg mpg mts mxf oga ogg ogv opus
    ts vob wav webm wma wmv
"""
MEDIA_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""What a folder is searched for. A file named on its own or in a list is taken whatever its name."""

LIST_SUFFIXES = frozenset({".csv", ".txt", ".jsonl", ".parquet"})

_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """A media file that a build was pointed to: its absolute path and what the list says of it, if it came from one.

    row: see `pipeline/moments.py` where several rows of the list are about it.
    """

    path: str
    row: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Source:
    """One raw media file, known by its content."""

    path: str
    id: SourceId
    row: Mapping[str, str] = field(default_factory=dict[str, str])


def find_sources(args: Sequence[str]) -> tuple[list[Found], list[Drop]]:
    """Media files behind the arguments, each path once (the first wins), in the order given; folders in sorted order.

    An argument is a file, a folder (searched for `MEDIA_SUFFIXES`, links to folders followed once), a glob ("**" goes
    deep), or a list: csv, jsonl and parquet with a column `path` and any others (caption, captions, start, end, split,
    label, question, answer, depth, ...), txt with one path a line and "#" for comments. Rows of one path are about the
    same file. Relative paths in a list, those of `depth` too, start at the list.

    What cannot be a source becomes a Drop of stage "list": not-found, unreadable, not-a-file (FIFO, device, socket),
    link-loop, bad-row, overlapping-clip. Raises ValueError for an argument that is not usable at all: nothing there, a
    list without `path`, a URL.
    """
    found: dict[str, Found] = {}
    drops: list[Drop] = []
    for arg in args:
        for item in _expand(arg):
            if isinstance(item, Drop):
                drops.append(item)
            else:
                found.setdefault(item.path, item)
    return list(found.values()), drops


def identify(path: str) -> SourceId:
    """sha256 of the file's bytes, read in 4 MiB pieces. Raises Rejected("list", ...) if it is no readable file."""
    drop = _fault(path)
    if drop is not None:
        raise Rejected("list", drop.reason, drop.detail)
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise Rejected("list", "unreadable", error.strerror or str(error)) from error
    return SourceId(digest.hexdigest())


def _expand(arg: str) -> Iterator[Found | Drop]:
    if "://" in arg:
        raise ValueError(f"{arg}: reading from URLs is not built yet: download it first, then name the file or folder")
    path = _absolute(Path(arg).expanduser())
    if path.is_dir():
        yield from _walk(path, [])
    elif path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        yield from _listed(path)
    elif os.path.lexists(path):
        yield _check(str(path), {})
    elif glob.has_magic(arg):
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute patterns, and hidden rules
        if not matches:
            raise ValueError(f"{arg}: the pattern matches nothing")
        for match in matches:
            if not Path(match).is_dir():
                yield _check(match, {})
    else:
        raise ValueError(f"{arg}: no such file or folder")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and lose the name people gave


def _walk(folder: Path, above: list[tuple[int, int]]) -> Iterator[Found | Drop]:
    try:
        info = folder.stat()
        inside = sorted(folder.iterdir())
    except OSError as error:
        yield Drop(str(folder), "list", "unreadable", error.strerror or str(error))
        return
    here = (info.st_dev, info.st_ino)
    if here in above:
        yield Drop(str(folder), "list", "link-loop", "the folder links back to one above it")
        return
    for path in inside:
        if path.is_dir():
            yield from _walk(path, [*above, here])
        elif path.suffix.lower() in MEDIA_SUFFIXES:
            yield _check(str(path), {})


def _check(path: str, row: Mapping[str, str]) -> Found | Drop:
    return _fault(path) or Found(path, row)


def _fault(path: str) -> Drop | None:
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return Drop(path, "list", "not-found", "a link to nowhere" if Path(path).is_symlink() else "no such file")
    except OSError as error:
        reason = "link-loop" if error.errno == errno.ELOOP else "unreadable"
        return Drop(path, "list", reason, error.strerror or str(error))
    if not stat.S_ISREG(mode):
        return Drop(path, "list", "not-a-file", f"mode {stat.S_IFMT(mode):o}, not a regular file")
    if not os.access(path, os.R_OK):
        return Drop(path, "list", "unreadable", "no permission to read")
    return None


def _listed(path: Path) -> Iterator[Found | Drop]:
    rows_of: dict[str, list[dict[str, str]]] = {}
    for number, row in enumerate(_rows(path), start=1):
        name = row.pop("path", "").strip()
        if not name or "\0" in name:
            yield Drop(str(path), "list", "bad-row", f"row {number} has no path")
        elif "://" in name:
            yield Drop(name, "list", "not-found", f"row {number}: URLs are not read yet, download first")
        else:
            if "depth" in row:
                row["depth"] = str(_absolute(path.parent / row["depth"]))
            rows_of.setdefault(str(_absolute(path.parent / name)), []).append(row)
    for name, rows in rows_of.items():
        if (drop := _fault(name)) is not None:
            yield drop
            continue
        for item in moments.merged(name, rows):
            yield item if isinstance(item, Drop) else Found(name, item)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a list as text; missing values are left out."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            rows: list[Any] = pq.read_table(path).to_pylist()
        else:
            text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
            if suffix == ".txt":
                lines = (line.strip() for line in text.splitlines())
                rows = [{"path": line} for line in lines if line and not line.startswith("#")]
            elif suffix == ".jsonl":
                rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            else:
                rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (ValueError, OSError) as error:  # pyarrow's and json's errors are ValueErrors
        raise ValueError(f"{path}: cannot read this list: {error}") from error
    if rows and not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: each line must be an object with a `path`")
    if rows and not any("path" in row for row in rows):
        columns = ", ".join(str(key) for key in rows[0])
        raise ValueError(f"{path}: the list has no column `path` (it has {columns}): name the column of files `path`")
    for row in rows:
        yield {
            str(key): value if isinstance(value, str) else json.dumps(value)
            for key, value in row.items()
            if key is not None and value is not None and value != ""
        }
