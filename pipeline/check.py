"""Verifies a corpus: every byte against its hash, and every record against the others."""

from __future__ import annotations

import hashlib
import json
import math
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from omniloom.pipeline.commit import unfinished_files
from omniloom.pipeline.corpus import Corpus, open_corpus
from omniloom.pipeline.joined import part_facts, sample_facts, sample_signals
from omniloom.pipeline.shard import ShardPaths, shard_paths
from omniloom.pipeline.sidecar import Record, read_drops, read_sidecar

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is not as it was written."""

    shard: str
    """The file, relative to the corpus."""
    key: str
    """The sample, or "" where the fault is the whole shard's."""
    what: str


def check(corpus: Corpus | Path | str, on_progress: Callable[[int, int], None] | None = None) -> list[Fault]:
    """Every fault of the committed shards; an empty list means that all is as it was written.

    Reads each tar once. A tar without a sidecar is no fault but the remains of an interrupted build (`leftovers`).
    on_progress(done, total) is called after each shard.
    """
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    suffixes: dict[str, str] = {**corpus.description["suffixes"], "json": "json"}
    units = corpus.units
    faults: list[Fault] = []
    first_shard: dict[str, str] = {}
    for done, unit in enumerate(units, start=1):
        paths = shard_paths(corpus.path, unit)
        faults += _drops_faults(paths)
        try:
            table, record = read_sidecar(paths.sidecar)
        except (ValueError, OSError) as error:
            faults.append(Fault(_name(paths.sidecar), "", str(error)))
            continue
        rows = table.to_pylist()
        faults += _record_faults(paths, record, rows, unit)
        faults += _tar_faults(paths, record, rows, suffixes)
        for row in rows:
            faults += (Fault(_name(paths.sidecar), row["key"], what) for what in _row_faults(row, suffixes))
            other = first_shard.setdefault(row["key"], _name(paths.sidecar))
            if other != _name(paths.sidecar):
                faults.append(Fault(_name(paths.sidecar), row["key"], f"the same key is in {other}"))
        if on_progress:
            on_progress(done, len(units))
    return faults


def leftovers(corpus: Corpus | Path | str) -> list[Path]:
    """Files of interrupted builds, which readers do not see and the next build replaces."""
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    folder = corpus.path / "shards"
    orphans = [
        path
        for path in sorted(folder.glob("*.tar"))
        if path.stem.isdigit() and not path.with_suffix(".parquet").exists()
    ]
    return [*orphans, *unfinished_files(folder), *unfinished_files(corpus.path / "drops")]


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _drops_faults(paths: ShardPaths) -> Iterator[Fault]:
    try:
        read_drops(paths.drops)
    except FileNotFoundError:
        yield Fault(_name(paths.drops), "", "missing")
    except (ValueError, OSError) as error:
        yield Fault(_name(paths.drops), "", str(error))


def _record_faults(paths: ShardPaths, record: Record, rows: Sequence[Mapping[str, Any]], unit: int) -> Iterator[Fault]:
    if record.unit != unit or any(row["unit"] != unit for row in rows):
        yield Fault(_name(paths.sidecar), "", f"is of unit {record.unit}: the file was renamed")
    if record.samples != len(rows):
        yield Fault(_name(paths.sidecar), "", f"has {len(rows)} rows for {record.samples} samples")
    if len({row["key"] for row in rows}) != len(rows):
        yield Fault(_name(paths.sidecar), "", "names a key twice")


def _tar_faults(
    paths: ShardPaths, record: Record, rows: Sequence[Mapping[str, Any]], suffixes: Mapping[str, str]
) -> Iterator[Fault]:
    shard = _name(paths.tar)
    if not record.samples:
        if paths.tar.exists():
            yield Fault(shard, "", "exists though its sidecar has no samples")
        return
    try:
        with paths.tar.open("rb") as file:
            yield from _content_faults(shard, file, record, rows, suffixes)
    except FileNotFoundError:
        yield Fault(shard, "", "missing: restore it, or remove its sidecar and build again")
    except OSError as error:
        yield Fault(shard, "", f"cannot be read: {error.strerror}")


def _content_faults(
    shard: str, file: BinaryIO, record: Record, rows: Sequence[Mapping[str, Any]], suffixes: Mapping[str, str]
) -> Iterator[Fault]:
    sha256, size = hashlib.sha256(), 0
    while block := file.read(_CHUNK):
        sha256.update(block)
        size += len(block)
    if size != record.tar_size:
        yield Fault(shard, "", f"has {size} bytes, its sidecar states {record.tar_size}")
    if sha256.hexdigest() != record.tar_sha256:
        yield Fault(shard, "", "is damaged: its sha256 is not the one its sidecar states")
    expected: dict[str, tuple[int, int]] = {}
    for row in rows:
        for column, suffix in suffixes.items():
            member = row[column]
            if member is None:
                continue
            expected[f"{row['key']}.{suffix}"] = (member["offset"], member["size"])
            file.seek(member["offset"])
            data = file.read(member["size"])
            if xxhash.xxh3_64_intdigest(data) != member["xxh3"]:
                yield Fault(shard, row["key"], f"{suffix} does not match its hash")
            elif column == "json":
                yield from (Fault(shard, row["key"], what) for what in _json_faults(row, data, suffixes))
    yield from _listing_faults(shard, file, expected)


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


def _json_faults(row: Mapping[str, Any], data: bytes, suffixes: Mapping[str, str]) -> Iterator[str]:
    """The sample's own record against its row: they are written from the same facts."""
    stored = json.loads(data)
    from_row = {
        "key": row["key"],
        "source": row["source_id"],
        "start_ns": row["start_ns"],
        "end_ns": row["end_ns"],
        "time_base": row["time_base"],
        "facts": sample_facts(row),
        "signals": sample_signals(row),
        "parts": {
            name: part_facts(row[name], provenance=True)
            for name in suffixes
            if name != "json" and row[name] is not None
        },
    }
    stored.setdefault("signals", {})  # there were none in the first corpora
    for name, value in from_row.items():
        if stored.get(name) != value:
            yield f"json and sidecar disagree about {name}"


def _row_faults(row: Mapping[str, Any], suffixes: Mapping[str, str]) -> Iterator[str]:
    duration_ns = row["end_ns"] - row["start_ns"]
    if duration_ns <= 0:
        yield f"ends at {row['end_ns']} ns, before it starts at {row['start_ns']} ns"
    if row["duration_ns"] != duration_ns:
        yield f"states a duration of {row['duration_ns']} ns, its times give {duration_ns} ns"
    for name in suffixes:
        if name == "json" or row[name] is None:
            continue
        facts = part_facts(row[name])
        yield from (f"{name}: {what}" for what in (*_time_faults(facts, duration_ns), *_geometry_faults(facts)))


def _time_faults(facts: Mapping[str, Any], duration_ns: int) -> Iterator[str]:
    """A frame on screen when the clip starts may have begun before it; none begins after its end."""
    times: int | Sequence[int] = facts.get("pts_ns", ())
    pts_ns = [times] if isinstance(times, int) else times
    if any(later < earlier for earlier, later in pairwise(pts_ns)):
        yield "times of frames run backwards"
    if pts_ns and pts_ns[-1] >= duration_ns:
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
