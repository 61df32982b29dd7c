"""Work units: which sources, or which part of a long one, make which shard; written down once (`plan.parquet`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from omniloom.modalities import Drop, Rejected, SourceId
from omniloom.pipeline.commit import write_durably
from omniloom.pipeline.probe import StreamsConfig, probe
from omniloom.pipeline.sidecar import FORMAT_VERSION, read_sealed, sealed_bytes
from omniloom.pipeline.sources import Found, Source, identify
from omniloom.pipeline.spans import Span, split

SCHEMA = pa.schema(
    [
        ("unit", pa.int64()),
        ("source_id", pa.string()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("row", pa.string()),
        # Null where the unit takes the whole source. Plans of earlier versions lack both.
        ("span_start_ns", pa.int64()),
        ("span_end_ns", pa.int64()),
    ]
)


@dataclass(frozen=True)
class UnitsConfig:
    """How sources are grouped and split. It does not change a sample, only which shard it lies in."""

    max_sources: int = 16
    max_bytes: int = 256 * 1024 * 1024
    span_s: float = 1200.0
    """A source of at least one and a half times this is split into parts of about this length, each a unit; 0: none.

    Twice the ten minutes in which sound is decoded: other spans decode the sound at their borders once more.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.span_s <= 24 * 3600:
            raise ValueError(f"units.span_s is in seconds, 0 (never split) to 86400, got {self.span_s!r}")


@dataclass(frozen=True, slots=True)
class Identified:
    """A file whose bytes were read: its id, and its spans where it is to be split (none: it is built whole)."""

    id: SourceId
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read once, before it is planned: for its id and, while its bytes are in memory, for its spans."""

    streams: StreamsConfig
    span_s: float = 0.0
    """Of the parts that long sources are split into; 0: none."""

    def read(self, path: str) -> Identified | Drop:
        """The file's id and spans, or why it cannot be read. Media that turns out bad is not split, that is all."""
        import av.error

        try:
            identity = identify(path)
        except Rejected as rejected:
            return Drop(path, rejected.stage, rejected.reason, rejected.detail)
        if not self.span_s:
            return Identified(identity)
        try:
            spans = split(path, probe(path, self.streams), self.span_s)
        except (Rejected, av.error.FFmpegError, OSError, UnicodeDecodeError):
            spans = None  # the build meets the same fault, and says so in a Drop
        return Identified(identity, tuple(spans or ()))


@dataclass(frozen=True, slots=True)
class Unit:
    """What makes one shard: some sources, or one span of one. Its id never changes, however many sources come later."""

    id: int
    sources: tuple[Source, ...]
    span: Span | None = None

    def __str__(self) -> str:
        """Its files for messages, and which part of them."""
        names = ", ".join(source.path for source in self.sources)
        return f"{names} ({self.span})" if self.span else names


@dataclass(frozen=True, slots=True)
class _Entry:
    unit: int
    source: Source
    size: int
    mtime_ns: int
    span: Span | None = None


def plan_units(
    corpus: Path,
    found: Sequence[Found],
    identify_all: Callable[[Sequence[str]], Iterable[Identified | Drop]],
    config: UnitsConfig | None = None,
) -> tuple[list[Unit], list[Drop]]:
    """Units of the found sources: the known ones as they were, new sources in new units after them.

    A file is known by path, size and modification time, so that a second run hashes nothing; a file that was moved is
    known by its content. The same content twice is one source: the second path is a Drop ("duplicate-content").
    A source that `identify_all` splits has a unit for each span; a known one keeps the spans that it was planned with.
    `identify_all` reads many files, in order, wherever it likes.
    """
    config = config or UnitsConfig()
    path = corpus / "plan.parquet"
    entries = _read(path)
    by_stat = {(entry.source.path, entry.size, entry.mtime_ns): entry.source.id for entry in entries}
    units_of: dict[SourceId, set[int]] = {}
    for entry in entries:
        units_of.setdefault(entry.source.id, set()).add(entry.unit)

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
    ids = {path: Identified(by_stat[path, *stat]) for path, stat in stats.items() if (path, *stat) in by_stat}
    for path_, identity in zip(unknown, identify_all(unknown), strict=True):
        if isinstance(identity, Drop):
            drops.append(identity)
        else:
            ids[path_] = identity

    first_path: dict[SourceId, str] = {}
    new: list[_Entry] = []
    wanted: set[int] = set()
    grouper = _Grouper(config, 1 + max((entry.unit for entry in entries), default=-1))
    for item in found:
        identity = ids.get(item.path)
        if identity is None:
            continue
        if identity.id in first_path:
            why = f"the same bytes as {first_path[identity.id]}"
            drops.append(Drop(item.path, "list", "duplicate-content", why, source=identity.id))
            continue
        first_path[identity.id] = item.path
        if identity.id in units_of:
            wanted |= units_of[identity.id]
            continue
        size, mtime_ns = stats[item.path]
        source = Source(item.path, identity.id, item.row)
        for span in identity.spans or (None,):
            unit = grouper.place(size) if span is None else grouper.alone()
            new.append(_Entry(unit, source, size, mtime_ns, span))
            wanted.add(unit)

    if new:
        entries = [*entries, *new]
        _write(path, entries)
    members: dict[int, list[Source]] = {}
    for entry in entries:
        # A moved file is read from where it is now.
        where = first_path.get(entry.source.id, entry.source.path)
        members.setdefault(entry.unit, []).append(Source(where, entry.source.id, entry.source.row))
    spans = {entry.unit: entry.span for entry in entries}
    return [Unit(number, tuple(members[number]), spans[number]) for number in sorted(wanted)], drops


class _Grouper:
    """Gives unit numbers: one to several small sources together, one to each span."""

    def __init__(self, config: UnitsConfig, first: int) -> None:
        self._config = config
        self._next = first
        self._group = 0
        self._count = self._bytes = 0

    def place(self, size: int) -> int:
        """The unit of a whole source of that many bytes."""
        full = self._count == self._config.max_sources or self._bytes + size > self._config.max_bytes
        if not self._count or full:
            self._group, self._count, self._bytes = self.alone(), 0, 0
        self._count, self._bytes = self._count + 1, self._bytes + size
        return self._group

    def alone(self) -> int:
        """A unit that nothing else joins."""
        self._next += 1
        return self._next - 1


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
            None if row.get("span_start_ns") is None else Span(row["span_start_ns"], row["span_end_ns"]),
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
                "span_start_ns": entry.span.start_ns if entry.span else None,
                "span_end_ns": entry.span.end_ns if entry.span else None,
            }
            for entry in entries
        ],
        schema=SCHEMA,
    )
    write_durably(path, sealed_bytes(table, {"format": FORMAT_VERSION}))
