"""The Parquet file beside each shard: one row a sample, sealed so that any changed byte is found on reading.

Parquet's page checksums leave its footer open to silent damage, so each file also carries, in its footer, a hash of
itself taken with the hash's own digits set to zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from omniloom.modalities import load, short_name
from omniloom.modalities.base import FactType
from omniloom.pipeline.signals import SIGNALS

FORMAT_VERSION = 1

CORE_FACTS: Mapping[str, pa.DataType] = {
    "audio_offset_ns": pa.int64(),
    "av_check": pa.string(),
    "language": pa.string(),
    "split": pa.string(),
    "width": pa.int64(),
    "height": pa.int64(),
    "status": pa.string(),
}
"""Facts about a sample that every corpus has a column for; others share the `facts` column, as JSON."""

_MEMBER = (("offset", pa.int64()), ("size", pa.int64()), ("xxh3", pa.uint64()))
_PART = (*_MEMBER, ("pieces_xxh3", pa.list_(pa.uint64())), ("model", pa.string()), ("revision", pa.string()))
_MEMBER_OF_OTHERS = (("member", pa.string()),)
_PART_OF_OTHERS = (*_MEMBER_OF_OTHERS, ("stored_as", pa.string()))
"""Beside tars that other people wrote: the member's name there, and its codec where it is not the modality's own."""
PART_FIELDS = frozenset(name for name, _ in _PART) | {"params", "member", "added"}
"""Fields of a modality's struct that are no facts of its own; "added" is there after joining (`joined.py`)."""

DROPS_SCHEMA = pa.schema(
    [
        ("unit", pa.int64()),
        ("path", pa.string()),
        ("source_id", pa.string()),
        ("start_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

_ARROW: Mapping[FactType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "list<int64>": pa.list_(pa.int64()),
    "list<double>": pa.list_(pa.float64()),
    "list<string>": pa.list_(pa.string()),
}
_RECORD = b"omniloom"
_SEAL_MARK = b"omniloom-seal-xxh3-128="
_SEAL_DIGITS = 32
_RECORD_MARK = b"\x18\x08" + _RECORD + b"\x18"


class DamagedError(ValueError):
    """Stored bytes are not what was written; the message says which."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a sidecar says about its shard as a whole. A unit without samples has no tar: sha256 "" and size 0."""

    unit: int
    samples: int
    tar_size: int
    tar_sha256: str
    dropped: Mapping[str, int]
    """Count of the unit's drops, by reason."""


def schema_of(modalities: Sequence[str]) -> pa.Schema:
    """Columns of a sidecar: the same for every shard of a corpus. A struct is null where there is none of it."""
    return pa.schema(
        [
            ("key", pa.string()),
            ("unit", pa.int64()),
            ("source_id", pa.string()),
            ("source_path", pa.string()),
            ("start_ns", pa.int64()),
            ("end_ns", pa.int64()),
            ("duration_ns", pa.int64()),
            ("time_base", pa.string()),
            *CORE_FACTS.items(),
            ("facts", pa.string()),
            ("signals", pa.struct(_fields(SIGNALS))),
            ("json", pa.struct(_MEMBER)),
            *((short_name(name), part_type(name)) for name in modalities),
        ]
    )


def part_type(modality: str) -> pa.StructType:
    """What a sidecar says of a part of that modality."""
    return pa.struct([*_PART, ("params", pa.string()), *_fields(load(modality).facts)])


def indexed_schema(modalities: Sequence[str]) -> pa.Schema:
    """Columns of a sidecar beside a tar that other people wrote: see `pipeline/index.py`."""
    schema = schema_of(modalities)
    for name, fields in {
        "json": _MEMBER_OF_OTHERS,
        **dict.fromkeys(map(short_name, modalities), _PART_OF_OTHERS),
    }.items():
        place = schema.get_field_index(name)
        schema = schema.set(place, pa.field(name, pa.struct([*schema.field(place).type, *fields])))
    return schema


def column_schema(modality: str) -> pa.Schema:
    """Columns of the sidecar of a column. Where the part is null, `reason` says why."""
    return pa.schema(
        [
            ("key", pa.string()),
            (short_name(modality), part_type(modality)),
            ("facts_json", pa.struct(_MEMBER)),
            ("reason", pa.string()),
            ("detail", pa.string()),
        ]
    )


def sidecar_bytes(
    rows: Sequence[Mapping[str, Any]], modalities: Sequence[str], record: Record, *, indexed: bool = False
) -> bytes:
    """A sealed Parquet file of the rows. The same rows give the same bytes. indexed: of a tar that others wrote."""
    schema = indexed_schema(modalities) if indexed else schema_of(modalities)
    table = pa.Table.from_pylist(list(rows), schema=schema)
    return sealed_bytes(table, {"format": FORMAT_VERSION, **asdict(record)})


def column_bytes(rows: Sequence[Mapping[str, Any]], modality: str, record: Record, column: str) -> bytes:
    """A sealed Parquet file of a column's rows; `column` is the digest of what made them."""
    table = pa.Table.from_pylist(list(rows), schema=column_schema(modality))
    return sealed_bytes(table, {"format": FORMAT_VERSION, **asdict(record), "column": column})


def drops_bytes(rows: Sequence[Mapping[str, Any]], unit: int | None) -> bytes:
    """A sealed Parquet file of drops: of a unit, or of none."""
    return sealed_bytes(pa.Table.from_pylist(list(rows), schema=DROPS_SCHEMA), {"format": FORMAT_VERSION, "unit": unit})


def read_sidecar(path: Path, columns: Sequence[str] | None = None) -> tuple[pa.Table, Record]:
    """Rows and record of a sidecar. Raises `DamagedError` if a byte of it changed, FileNotFoundError if it is gone."""
    table, values = read_sealed(path, columns)
    values.pop("format")
    return table, Record(**values)


def read_record(path: Path) -> tuple[Record, str]:
    """Record and seal (32 hex digits, of all its bytes) of a sidecar, a column's too. Raises as `read_sidecar`.

    Twenty times as fast as that: the file is read and hashed, but its footer is not taken apart.
    """
    data = path.read_bytes()
    seal = _checked_seal(path, data)
    # In the footer, written last, stand pairs of a name and a value, each with its length before it (Thrift's compact
    # protocol: a byte for "string", the length in sevens of bits, the characters).
    start = data.rfind(_RECORD_MARK) + len(_RECORD_MARK)
    size = shift = 0
    while True:
        byte = data[start]
        size |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            break
    values = json.loads(data[start : start + size])
    _check_format(path, values)
    return Record(**{name: values[name] for name in Record.__dataclass_fields__}), seal


def read_column(path: Path, columns: Sequence[str] | None = None) -> tuple[pa.Table, Record, str]:
    """Rows, record and column digest of a column's sidecar. Raises as `read_sidecar`."""
    table, values = read_sealed(path, columns)
    values.pop("format")
    column = values.pop("column")
    return table, Record(**values), column


def read_drops(path: Path) -> pa.Table:
    """Drops of one unit. Raises `DamagedError` if a byte of the file changed, FileNotFoundError if it is gone."""
    return read_sealed(path, None)[0]


def _fields(facts: Mapping[str, FactType]) -> list[tuple[str, pa.DataType]]:
    return [(name, _ARROW[kind]) for name, kind in facts.items()]


def sealed_bytes(table: pa.Table, record: Mapping[str, Any]) -> bytes:
    """The table as a Parquet file that carries `record` (with its "format") and a hash of itself."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table)
        values = {_RECORD: canonical_json(record), b"omniloom.seal": _SEAL_MARK + b"0" * _SEAL_DIGITS}
        writer.add_key_value_metadata({name.decode(): value.decode() for name, value in values.items()})
    data = bytearray(sink.getvalue().to_pybytes())
    start = data.rfind(_SEAL_MARK) + len(_SEAL_MARK)
    data[start : start + _SEAL_DIGITS] = xxhash.xxh3_128_hexdigest(data).encode()
    return bytes(data)


def read_sealed(path: Path, columns: Sequence[str] | None) -> tuple[pa.Table, dict[str, Any]]:
    """Table and record of such a file. Raises `DamagedError` if a byte of it changed."""
    data = path.read_bytes()
    _checked_seal(path, data)
    with pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)), page_checksum_verification=True) as file:
        values = json.loads(file.metadata.metadata[_RECORD])
        table = file.read(None if columns is None else list(columns), use_threads=False)
    _check_format(path, values)
    return table.replace_schema_metadata(None), values


def _checked_seal(path: Path, data: bytes) -> str:
    """The file's hash of itself. Raises `DamagedError` if its bytes have another."""
    view = memoryview(data)
    start = data.rfind(_SEAL_MARK) + len(_SEAL_MARK)
    end = start + _SEAL_DIGITS
    hashed = xxhash.xxh3_128(view[:start])
    hashed.update(b"0" * len(view[start:end]))
    hashed.update(view[end:])
    if data[start:end] != hashed.hexdigest().encode():
        raise DamagedError(f"{path.name} is damaged: its bytes do not match its own hash; remove it and build again")
    return hashed.hexdigest()


def _check_format(path: Path, values: Mapping[str, Any]) -> None:
    if values["format"] > FORMAT_VERSION:
        raise ValueError(
            f"{path.name} has format {values['format']}, this omniloom reads up to {FORMAT_VERSION}: upgrade it"
        )


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces; NumPy numbers count as numbers. Raises ValueError for NaN and infinity."""
    text = json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
        default=lambda number: number.item(),
    )
    return text.encode()
