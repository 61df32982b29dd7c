"""Work units: which sources make which shard, written down once and never changed (`plan.parquet`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from omniloom.modalities import Drop, SourceId
from omniloom.pipeline.commit import write_durably
from omniloom.pipeline.sidecar import FORMAT_VERSION, read_sealed, sealed_bytes
from omniloom.pipeline.sources import Found, Source

SCHEMA = pa.schema(
    [
        ("unit", pa.int64()),
        ("source_id", pa.string()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("row", pa.string()),
    ]
)


@dataclass(frozen=True)
class UnitsConfig:
    """How sources are grouped. It does not change a sample, only which shard it lies in."""

    max_sources: int = 16
    max_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Unit:
    """The sources of one shard. Its id never changes, however many sources come later."""

    id: int
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    unit: int
    source: Source
    size: int
    mtime_ns: int


def plan_units(
    corpus: Path,
    found: Sequence[Found],
    identify_all: Callable[[Sequence[str]], Iterable[SourceId | Drop]],
    config: UnitsConfig | None = None,
) -> tuple[list[Unit], list[Drop]]:
    """Units of the found sources: the known ones as they were, new sources in new units after them.

    A file is known by path, size and modification time, so that a second run hashes nothing; a file that was moved is
    known by its content. The same content twice is one source: the second path is a Drop ("duplicate-content").
    `identify_all` hashes many files, in order, wherever it likes.
    """
    config = config or UnitsConfig()
    path = corpus / "plan.parquet"
    entries = _read(path)
    by_stat = {(entry.source.path, entry.size, entry.mtime_ns): entry.source.id for entry in entries}
    unit_of = {entry.source.id: entry.unit for entry in entries}

    drops: list[Drop] = []
    stats: dict[str, tuple[int, int]] = {}
    for item in found:
        try:
            stat = Path(item.path).stat()
        except OSError as error:
            drops.append(Drop(item.path, "list", "unreadable", error.strerror or str(error)))
            continue
        stats[item.path] = (stat.st_size, stat.st_mtime_ns)
    unknown = [path for path, (size, mtime_ns) in stats.items() if (path, size, mtime_ns) not in by_stat]
    ids = {path: by_stat[path, *stat] for path, stat in stats.items() if (path, *stat) in by_stat}
    for path_, identity in zip(unknown, identify_all(unknown), strict=True):
        if isinstance(identity, Drop):
            drops.append(identity)
        else:
            ids[path_] = identity

    first_path: dict[SourceId, str] = {}
    new: list[_Entry] = []
    wanted: set[int] = set()
    unit = max(unit_of.values(), default=-1) + 1
    count = total = 0
    for item in found:
        identity = ids.get(item.path)
        if identity is None:
            continue
        if identity in first_path:
            drops.append(
                Drop(
                    item.path, "list", "duplicate-content", f"the same bytes as {first_path[identity]}", source=identity
                )
            )
            continue
        first_path[identity] = item.path
        if identity in unit_of:
            wanted.add(unit_of[identity])
            continue
        size, mtime_ns = stats[item.path]
        if count and (count == config.max_sources or total + size > config.max_bytes):
            unit, count, total = unit + 1, 0, 0
        count, total = count + 1, total + size
        new.append(_Entry(unit, Source(item.path, identity, item.row), size, mtime_ns))
        wanted.add(unit)

    if new:
        entries = [*entries, *new]
        _write(path, entries)
    members: dict[int, list[Source]] = {}
    for entry in entries:
        # A moved file is read from where it is now.
        where = first_path.get(entry.source.id, entry.source.path)
        members.setdefault(entry.unit, []).append(Source(where, entry.source.id, entry.source.row))
    return [Unit(number, tuple(members[number])) for number in sorted(wanted)], drops


def _read(path: Path) -> list[_Entry]:
    if not path.exists():
        return []
    rows = read_sealed(path, None)[0].to_pylist()
    return [
        _Entry(
            row["unit"],
            Source(row["path"], SourceId(row["source_id"]), json.loads(row["row"])),
            row["size"],
            row["mtime_ns"],
        )
        for row in rows
    ]


def _write(path: Path, entries: Sequence[_Entry]) -> None:
    table = pa.Table.from_pylist(
        [
            {
                "unit": entry.unit,
                "source_id": entry.source.id,
                "path": entry.source.path,
                "size": entry.size,
                "mtime_ns": entry.mtime_ns,
                "row": json.dumps(dict(entry.source.row), sort_keys=True),
            }
            for entry in entries
        ],
        schema=SCHEMA,
    )
    write_durably(path, sealed_bytes(table, {"format": FORMAT_VERSION}))
