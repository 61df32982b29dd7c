"""One row a sample, whichever sidecars list its parts: its shard's, or those of columns that were added later.

Where a shard has a part, that is the sample's; otherwise the column's is, with `added` true in its struct. That flag
is all that tells readers which tar to open (`tar_of`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from omniloom.modalities import Clip, Part, Sample, SourceId, short_name
from omniloom.pipeline.columns import Column, open_columns
from omniloom.pipeline.reader import ShardReader
from omniloom.pipeline.shard import PROVENANCE, known, shard_paths
from omniloom.pipeline.sidecar import (
    CORE_FACTS,
    PART_FIELDS,
    DamagedError,
    Record,
    part_type,
    read_column,
    read_record,
    read_sidecar,
    schema_of,
)

_ADDED = pa.field("added", pa.bool_())


@dataclass(frozen=True, slots=True)
class _Added:
    column: Column
    units: frozenset[int]


class JoinedRows:
    """The sidecars of a corpus as rows. A column's are read only where its modality is asked for.

    Which columns there are, and which units have them, is as of the first time that one is asked for.
    """

    def __init__(self, corpus: Path, modalities: Sequence[str]) -> None:
        """modalities: those that the corpus was built with."""
        self._corpus, self._built = corpus, tuple(modalities)

    @property
    def columns(self) -> Mapping[str, Column]:
        return {name: added.column for name, added in self._added.items()}

    @property
    def modalities(self) -> tuple[str, ...]:
        """As the recipe names them, then those of columns alone."""
        built = {short_name(name) for name in self._built}
        return (*self._built, *(column.modality for name, column in self.columns.items() if name not in built))

    @property
    def names(self) -> list[str]:
        """Of what `read` can be asked for."""
        return [*_core_names(), *map(short_name, self.modalities)]

    def unknown(self, wanted: Sequence[str]) -> list[str]:
        """Those names that `read` knows nothing of. Looks for columns only if a name is no shard's."""
        others = [name for name in wanted if name not in {*_core_names(), *map(short_name, self._built)}]
        return [name for name in others if name not in self._added]

    def units_of(self, column: str) -> frozenset[int]:
        """Units that have the column."""
        return self._added[column].units

    def schema(self) -> pa.Schema:
        """Of whole rows. Loads every modality."""
        schema = schema_of(self.modalities)
        for name, added in self._added.items():
            schema = schema.set(schema.get_field_index(name), pa.field(name, _joined_type(added.column.modality)))
        return schema

    def read(self, unit: int, wanted: Sequence[str] | None = None) -> tuple[pa.Table, Record]:
        """Rows of a unit and the record of its shard; wanted: names, or "name.field"s, in any order.

        Raises `DamagedError` if a sidecar is damaged, or a column's is of other samples.
        """
        sidecar = shard_paths(self._corpus, unit).sidecar
        if wanted is not None and all(_head(name) in _core_names() for name in wanted):
            return read_sidecar(sidecar, wanted)
        added = {
            name: [item for item in wanted or (name,) if _head(item) == name]
            for name in self._added
            if wanted is None or name in map(_head, wanted)
        }
        if not added:
            return read_sidecar(sidecar, wanted)
        rows, record = read_sidecar(sidecar, None if wanted is None else ["key", *wanted])
        for name, items in added.items():
            place = rows.column_names.index(name) if name in rows.column_names else len(rows.column_names)
            own = rows[name].combine_chunks() if name in rows.column_names else None
            late = self._late(name, unit, items, rows["key"])
            kind = _joined_type(self._added[name].column.modality)
            if name not in items:
                kind = pa.struct([*(kind.field(item.partition(".")[2]) for item in items), _ADDED])
            elif own is not None:  # of other people's tars: what their members are called, and how they are stored
                kind = pa.struct([*kind, *(field for field in own.type if kind.get_field_index(field.name) < 0)])
            joined = _join(own, late, kind, len(rows))
            rows = (rows if own is None else rows.remove_column(place)).add_column(place, name, joined)
        return rows if wanted is None or "key" in wanted else rows.drop_columns("key"), record

    def record(self, unit: int) -> tuple[Record, str]:
        """The record of a unit's shard and its sidecar's seal. Raises `DamagedError`."""
        return read_record(shard_paths(self._corpus, unit).sidecar)

    def seals_of_columns(self, unit: int, names: Sequence[str]) -> list[str]:
        """Of the sidecars that columns of those names have of a unit, "" where they have none."""
        added = [item for name, item in self._added.items() if name in names]
        return [read_record(item.column.sidecar(unit))[1] if unit in item.units else "" for item in added]

    def _late(self, name: str, unit: int, items: Sequence[str], keys: pa.ChunkedArray) -> pa.Array | None:
        """The column's own parts of the unit, or None where it is not committed."""
        added = self._added[name]
        if unit not in added.units:
            return None
        path = added.column.sidecar(unit)
        try:
            rows, _, made_by = read_column(path, ["key", *items])
        except FileNotFoundError as error:
            raise DamagedError(f"columns/{name}/{path.name} went while it was read: open the corpus again") from error
        if made_by != added.column.digest or not rows["key"].equals(keys):
            what = "was made with other settings than column.json states"
            what = what if made_by != added.column.digest else "is of other samples than its shard"
            raise DamagedError(
                f"columns/{name}/{path.name} {what}: remove it and run `omniloom generate {self._corpus} {name}`"
            )
        return rows[name].combine_chunks()

    @cached_property
    def _added(self) -> Mapping[str, _Added]:
        found = open_columns(self._corpus)
        return {name: _Added(column, frozenset(column.committed())) for name, column in found.items()}


def tar_of(corpus: Path, unit: int, name: str, part: Mapping[str, Any]) -> Path:
    """The tar that a part lies in; part: the modality's struct of a joined row."""
    tar = shard_paths(corpus, unit).tar
    return corpus / "columns" / name / tar.name if part.get(_ADDED.name) else tar


class LazyParts(Mapping[str, Part]):
    """The parts of one sample, each read and checked when it is looked up. Raises `DamagedError` then."""

    def __init__(self, corpus: Path, unit: int, columns: Mapping[str, Mapping[str, Any]], reader: ShardReader) -> None:
        self._corpus, self._unit, self._columns, self._reader = corpus, unit, columns, reader

    def __getitem__(self, name: str) -> Part:
        column = self._columns[name]
        tar = tar_of(self._corpus, self._unit, name, column)
        data = self._reader.read(tar, column["offset"], column["size"], column["xxh3"])
        return Part(data, part_facts(column, provenance=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def sample_of(row: Mapping[str, Any], corpus: Path, names: Sequence[str], reader: ShardReader) -> Sample:
    """The sample of a joined row, with those of the named modalities that it has."""
    return Sample(
        key=row["key"],
        clip=Clip(SourceId(row["source_id"]), row["start_ns"], row["end_ns"]),
        path=row["source_path"],
        time_base=row["time_base"],
        parts=LazyParts(corpus, row["unit"], {name: row[name] for name in names if row[name] is not None}, reader),
        facts=sample_facts(row),
        signals=sample_signals(row),
    )


def sample_facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about the sample as a whole, from its sidecar row."""
    return known({name: row[name] for name in CORE_FACTS}) | json.loads(row["facts"] or "{}")


def sample_signals(row: Mapping[str, Any]) -> dict[str, Any]:
    """Cheap measures of the sample, from its sidecar row; none in corpora from before they were taken."""
    return known(row.get("signals") or {})


def part_facts(column: Mapping[str, Any], provenance: bool = False) -> dict[str, Any]:
    """Facts of one part, from its struct in the sidecar row; with or without its model, revision and params."""
    own = {name: value for name, value in column.items() if name not in PART_FIELDS}
    if provenance:
        own |= {name: column[name] for name in PROVENANCE}
    return known(own)


def _join(own: pa.Array | None, late: pa.Array | None, kind: pa.StructType, length: int) -> pa.StructArray:
    """One struct array of two, the first where both have something; fields that an older file lacks are null."""
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported: type checkers do not see them
    nothing = pa.array([False] * length, pa.bool_())
    has_own = nothing if own is None else own.is_valid()
    has_late = nothing if late is None else pc.and_(late.is_valid(), pc.invert(has_own))

    def child(array: pa.Array | None, field: pa.Field) -> pa.Array:
        if array is None or array.type.get_field_index(field.name) < 0:
            return pa.nulls(length, field.type)
        return pc.struct_field(array, field.name).cast(field.type)

    def joined(field: pa.Field) -> pa.Array:
        if field.name == _ADDED.name:
            return has_late
        if own is None or late is None:
            return child(late if own is None else own, field)
        return pc.if_else(has_own, child(own, field), child(late, field))

    children = [joined(field) for field in kind]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=pc.invert(pc.or_(has_own, has_late)))


def _joined_type(modality: str) -> pa.StructType:
    return pa.struct([*part_type(modality), _ADDED])


@cache
def _core_names() -> tuple[str, ...]:
    return tuple(schema_of(()).names)


def _head(name: str) -> str:
    return name.partition(".")[0]
