"""Verifies a corpus: every byte against its hash, and every record against the others."""

from __future__ import annotations

import hashlib
import json
import math
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from omniloom.pipeline.columns import PRESENT, Column, column_names, open_column, removed_folders
from omniloom.pipeline.commit import unfinished_files
from omniloom.pipeline.corpus import Corpus, open_corpus
from omniloom.pipeline.joined import part_facts, sample_facts, sample_signals
from omniloom.pipeline.ranges import open_shard
from omniloom.pipeline.shard import shard_paths, text_of
from omniloom.pipeline.sidecar import Record, read_column, read_drops, read_sidecar
from omniloom.pipeline.untar import Listed, members

_CHUNK = 1 << 20

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is not as it was written."""

    shard: str
    """The file, relative to the corpus."""
    key: str
    """The sample, or "" where the fault is the whole shard's."""
    what: str


@dataclass(frozen=True, slots=True)
class _Tar:
    """A tar, of a shard or of a column, and what its sidecar says of it."""

    path: Path
    name: str
    record: Record
    rows: Sequence[Row]
    suffixes: Mapping[str, str]
    """Of its members, by the struct in the rows that says where they lie."""
    says: tuple[str, Callable[[Row], Mapping[str, Any]]] | None
    """Which of them is JSON, and what it must say, given the row; None for a tar that other people wrote."""


def check(corpus: Corpus | Path | str, on_progress: Callable[[int, int], None] | None = None) -> list[Fault]:
    """Every fault of the committed shards and columns; an empty list means that all is as it was written.

    Reads each tar once. A tar without a sidecar is no fault but the remains of an interrupted build (`leftovers`).
    on_progress(done, total) is called after each shard and its columns.
    """
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    faults: list[Fault] = []
    columns: list[tuple[Column, set[int]]] = []
    for name in column_names(corpus.path):
        try:
            column = open_column(corpus.path, name)
        except ValueError as error:
            faults.append(Fault(f"columns/{name}/column.json", "", str(error)))
            continue
        columns.append((column, column.committed()))
        strays = map(column.sidecar, sorted(columns[-1][1] - set(corpus.units)))
        faults += (Fault(_name(corpus, path), "", "has no shard: restore it, or remove this") for path in strays)
    first_shard: dict[str, str] = {}
    for done, unit in enumerate(corpus.units, start=1):
        rows, found = _shard_faults(corpus, unit)
        faults += found
        for row in rows or ():
            shard = f"shards/{unit:06d}.parquet"
            other = first_shard.setdefault(row["key"], shard)
            if other != shard:
                faults.append(Fault(shard, row["key"], f"the same key is in {other}"))
        for column, units in columns:
            if unit in units:
                faults += _column_faults(corpus, column, unit, rows)
        if on_progress:
            on_progress(done, len(corpus.units))
    return faults


def leftovers(corpus: Corpus | Path | str) -> list[Path]:
    """Remains of interrupted builds, which readers do not see and the next build replaces."""
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    columns = [corpus.path / "columns" / name for name in column_names(corpus.path)]
    folders = [corpus.path / "shards", *columns]
    tars = (path for folder in folders for path in sorted(folder.glob("*.tar")))
    orphans = [path for path in tars if path.stem.isdigit() and not path.with_suffix(".parquet").exists()]
    unfinished = chain.from_iterable(map(unfinished_files, [*folders, corpus.path / "drops"]))
    return [*orphans, *unfinished, *removed_folders(corpus.path)]


def _shard_faults(corpus: Corpus, unit: int) -> tuple[list[Row] | None, list[Fault]]:
    """The rows of a unit, or None if its sidecar cannot be read, and the faults of its shard."""
    suffixes: dict[str, str] = corpus.description["suffixes"]
    paths = shard_paths(corpus.path, unit)
    sidecar = _name(corpus, paths.sidecar)
    faults = list(_drops_faults(paths.drops))
    try:
        table, record = read_sidecar(paths.sidecar)
    except (ValueError, OSError) as error:
        return None, [*faults, Fault(sidecar, "", str(error))]
    rows: list[Row] = table.to_pylist()
    faults += _record_faults(sidecar, record, rows, unit)
    if any(row["unit"] != unit for row in rows):
        faults.append(Fault(sidecar, "", "has rows of another unit"))
    tar = _Tar(
        path=paths.tar,
        name=_name(corpus, paths.tar),
        record=record,
        rows=rows,
        suffixes={**suffixes, "json": "json"},
        says=None if corpus.is_indexed else ("json", lambda row: _json_of(row, list(suffixes))),
    )
    faults += _tar_faults(tar)
    for row in rows:
        faults += (Fault(sidecar, row["key"], what) for what in _duration_faults(row))
        for name in suffixes:
            faults += (Fault(sidecar, row["key"], what) for what in _part_faults(name, row[name], _length_ns(row)))
    return rows, faults


def _column_faults(corpus: Corpus, column: Column, unit: int, shard: Sequence[Row] | None) -> Iterator[Fault]:
    """Of one unit of a column; shard: rows of its shard, where they could be read."""
    name, sidecar = column.name, _name(corpus, column.sidecar(unit))
    try:
        table, record, made_by = read_column(column.sidecar(unit))
    except (ValueError, OSError) as error:
        yield Fault(sidecar, "", str(error))
        return
    rows: list[Row] = table.to_pylist()
    if made_by != column.digest:
        yield Fault(sidecar, "", "was made with other settings than column.json states: remove it and generate again")
    yield from _record_faults(sidecar, record, rows, unit)
    if Counter(row["reason"] for row in rows if row["reason"]) != dict(record.dropped):
        yield Fault(sidecar, "", f"has other reasons than the {sum(record.dropped.values())} that it states")
    yield from _tar_faults(
        _Tar(
            path=column.tar(unit),
            name=_name(corpus, column.tar(unit)),
            record=record,
            rows=rows,
            suffixes={name: column.suffix, "facts_json": f"{name}.facts.json"},
            says=("facts_json", lambda row: {"key": row["key"], "parts": _facts_of(row, [name])}),
        )
    )
    for row in rows:
        if (row[name] is None) == (row["reason"] is None) or (row[name] is None) != (row["facts_json"] is None):
            yield Fault(sidecar, row["key"], f"has neither a {name} nor a reason, or both")
    if shard is None:
        yield from (Fault(sidecar, row["key"], what) for row in rows for what in _part_faults(name, row[name], None))
        return
    if [row["key"] for row in rows] != [row["key"] for row in shard]:
        yield Fault(sidecar, *_first_difference(rows, shard))
        return
    for row, of_shard in zip(rows, shard, strict=True):
        if (of_shard.get(name) is not None) != (row["reason"] == PRESENT):
            yield Fault(sidecar, row["key"], f"is wrong about whether its shard has a {name}")
        yield from (Fault(sidecar, row["key"], what) for what in _part_faults(name, row[name], _length_ns(of_shard)))


def _first_difference(rows: Sequence[Row], shard: Sequence[Row]) -> tuple[str, str]:
    """A key and how a column's rows differ from its shard's there."""
    keys, expected = [row["key"] for row in rows], [row["key"] for row in shard]
    if sorted(keys) == sorted(expected):
        return next(key for key, other in zip(keys, expected, strict=True) if key != other), "is out of order"
    for key in expected:
        if key not in keys:
            return key, "is missing, its shard has it"
    return next((key for key in keys if key not in expected), ""), "is not in its shard"


def _name(corpus: Corpus, path: Path) -> str:
    return path.relative_to(corpus.path).as_posix()


def _drops_faults(path: Path) -> Iterator[Fault]:
    name = f"{path.parent.name}/{path.name}"
    try:
        read_drops(path)
    except FileNotFoundError:
        yield Fault(name, "", "missing")
    except (ValueError, OSError) as error:
        yield Fault(name, "", str(error))


def _record_faults(sidecar: str, record: Record, rows: Sequence[Row], unit: int) -> Iterator[Fault]:
    if record.unit != unit:
        yield Fault(sidecar, "", f"is of unit {record.unit}: the file was renamed")
    if record.samples != len(rows):
        yield Fault(sidecar, "", f"has {len(rows)} rows for {record.samples} samples")
    if len({row["key"] for row in rows}) != len(rows):
        yield Fault(sidecar, "", "names a key twice")


def _tar_faults(tar: _Tar) -> Iterator[Fault]:
    if not any(row[struct] is not None for row in tar.rows for struct in tar.suffixes):
        if tar.path.exists():
            yield Fault(tar.name, "", "exists though its sidecar lists nothing in it")
        return
    try:
        with open_shard(tar.path) as file:
            yield from _content_faults(tar, file)
    except FileNotFoundError:
        yield Fault(tar.name, "", "missing: restore it, or remove its sidecar and build again")
    except OSError as error:
        yield Fault(tar.name, "", f"cannot be read: {error.strerror or error}")


def _content_faults(tar: _Tar, file: BinaryIO) -> Iterator[Fault]:
    sha256, size = hashlib.sha256(), 0
    while block := file.read(_CHUNK):
        sha256.update(block)
        size += len(block)
    if size != tar.record.tar_size:
        yield Fault(tar.name, "", f"has {size} bytes, its sidecar states {tar.record.tar_size}")
    if sha256.hexdigest() != tar.record.tar_sha256:
        yield Fault(tar.name, "", "is damaged: its sha256 is not the one its sidecar states")
    expected: dict[str, tuple[int, int]] = {}
    for row in tar.rows:
        for suffix, struct in sorted((suffix, struct) for struct, suffix in tar.suffixes.items()):
            member = row[struct]
            if member is None:
                continue
            expected[member.get("member") or f"{row['key']}.{suffix}"] = (member["offset"], member["size"])
            file.seek(member["offset"])
            data = file.read(member["size"])
            if xxhash.xxh3_64_intdigest(data) != member["xxh3"]:
                yield Fault(tar.name, row["key"], f"{suffix} does not match its hash")
            elif tar.says is not None and struct == tar.says[0]:
                yield from (Fault(tar.name, row["key"], what) for what in _json_faults(suffix, data, tar.says[1](row)))
    if tar.says is None:
        # Members that no part is made of are none of ours, and of a name that is there twice the first counts.
        there = {(text_of(item.name), item.offset, item.size) for item in members(file) if isinstance(item, Listed)}
        lost = {(name, *where) for name, where in expected.items()} - there
        yield from (Fault(tar.name, "", f"{name} is no longer at byte {offset}") for name, offset, _ in sorted(lost))
        return
    yield from _listing_faults(tar.name, file, expected)


def _listing_faults(shard: str, file: BinaryIO, expected: Mapping[str, tuple[int, int]]) -> Iterator[Fault]:
    """What a tar reader finds, against what the sidecar says lies there."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            found = {member.name: (member.offset_data, member.size) for member in tar}
    except (tarfile.TarError, EOFError, ValueError) as error:
        yield Fault(shard, "", f"is no tar: {error}")
        return
    for name in sorted(set(found) ^ set(expected)):
        where = "the tar" if name in found else "the sidecar"
        yield Fault(shard, name.partition(".")[0], f"{name} is only in {where}")
    for name in sorted(set(found) & set(expected)):
        if found[name] != expected[name]:
            yield Fault(
                shard, name.partition(".")[0], f"{name} lies at {found[name]}, its sidecar states {expected[name]}"
            )
    if found.keys() == expected.keys() and list(found) != list(expected):
        yield Fault(shard, "", "its members are not in the order of its sidecar's rows")


def _json_of(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """What the `json` member says of a sample: it and the row are written from the same facts."""
    return {
        "key": row["key"],
        "source": row["source_id"],
        "start_ns": row["start_ns"],
        "end_ns": row["end_ns"],
        "time_base": row["time_base"],
        "facts": sample_facts(row),
        "signals": sample_signals(row),
        "parts": _facts_of(row, names),
    }


def _facts_of(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {name: part_facts(row[name], provenance=True) for name in names if row[name] is not None}


def _json_faults(suffix: str, data: bytes, expected: Mapping[str, Any]) -> Iterator[str]:
    stored = {"signals": {}, **json.loads(data)}  # there were none in the first corpora
    for name, value in expected.items():
        if stored.get(name) != value:
            yield f"{suffix} and sidecar disagree about {name}"


def _length_ns(row: Row) -> int:
    return row["end_ns"] - row["start_ns"]


def _duration_faults(row: Row) -> Iterator[str]:
    if _length_ns(row) <= 0:
        yield f"ends at {row['end_ns']} ns, before it starts at {row['start_ns']} ns"
    if row["duration_ns"] != _length_ns(row):
        yield f"states a duration of {row['duration_ns']} ns, its times give {_length_ns(row)} ns"


def _part_faults(name: str, part: Mapping[str, Any] | None, duration_ns: int | None) -> Iterator[str]:
    """Of what a sidecar says of one part; duration_ns: of its clip, where known."""
    if part is not None:
        facts = part_facts(part)
        yield from (f"{name}: {what}" for what in (*_time_faults(facts, duration_ns), *_geometry_faults(facts)))


def _time_faults(facts: Mapping[str, Any], duration_ns: int | None) -> Iterator[str]:
    """A frame on screen when the clip starts may have begun before it; none begins after its end."""
    times: int | Sequence[int] = facts.get("pts_ns", ())
    pts_ns = [times] if isinstance(times, int) else times
    if any(later < earlier for earlier, later in pairwise(pts_ns)):
        yield "times of frames run backwards"
    if pts_ns and duration_ns is not None and pts_ns[-1] >= duration_ns:
        yield f"a frame begins at {pts_ns[-1]} ns of a clip of {duration_ns} ns"
    lengths = {len(facts[name]) for name in ("pts_ns", "offsets", "sizes") if isinstance(facts.get(name), list)}
    lengths |= {facts["num_frames"]} if "num_frames" in facts else set()
    if len(lengths) > 1:
        yield f"states {' and '.join(map(str, sorted(lengths)))} frames at once"


def _geometry_faults(facts: Mapping[str, Any]) -> Iterator[str]:
    """Facts of the names that geometry.py and depth.py give them, whichever modality records them."""
    for name, value in facts.items():
        numbers: Sequence[Any] = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            yield f"{name} is not a finite number"
    for name in ("fx", "fy", "scale_m", "width", "height"):
        if name in facts and not facts[name] > 0:
            yield f"{name} is above zero, got {facts[name]}"
    for centre, side in (("cx", "width"), ("cy", "height")):
        if centre in facts and side in facts and not -facts[side] <= facts[centre] <= 2 * facts[side]:
            yield f"{centre} = {facts[centre]} is far off a picture of {side} {facts[side]}: K is of another size"
