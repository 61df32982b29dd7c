"""Sample <-> tar: writes one work unit as a shard that appears whole or not at all.

shards/000012.tar       members <key>.<suffix>, for any WebDataset reader
drops/000012.parquet    what was rejected
shards/000012.parquet   the sidecar, written last: no sidecar, no shard
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from omniloom.modalities import Drop, Modality, Part, Sample, load, short_name
from omniloom.pipeline.commit import Link, Unfinished, locked, remove_dead, write_durably
from omniloom.pipeline.sidecar import (
    CORE_FACTS,
    FORMAT_VERSION,
    PART_FIELDS,
    Record,
    canonical_json,
    drops_bytes,
    read_sidecar,
    sidecar_bytes,
)
from omniloom.pipeline.signals import SIGNALS
from omniloom.pipeline.tar import TarWriter

_KEY = re.compile(r"[0-9A-Za-z_-]{1,64}")
_SIDECAR = re.compile(r"(\d+)\.parquet")
LOCK = ".lock"
"""In the corpus: held while names appear in it or go."""
PROVENANCE = ("model", "revision", "params")
"""Facts of every part: what made it. "" where nothing did."""


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What one unit came to."""

    samples: int
    dropped: Mapping[str, int]
    """Count by reason."""
    bytes: int
    """Size of the tar; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class ShardPaths:
    """Where the files of one unit lie."""

    tar: Path
    sidecar: Path
    drops: Path


def shard_paths(corpus: Path, unit: int) -> ShardPaths:
    stem = f"{unit:06d}"
    shards = corpus / "shards"
    return ShardPaths(shards / f"{stem}.tar", shards / f"{stem}.parquet", corpus / "drops" / f"{stem}.parquet")


def committed_units(corpus: Path) -> set[int]:
    """Ids of the units whose sidecar is there: all that a reader may see, all that need not be built again."""
    return sidecars_in(corpus / "shards")


def sidecars_in(folder: Path) -> set[int]:
    """Ids of the units that have a sidecar there."""
    names = (_SIDECAR.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return {int(name[1]) for name in names if name}


def write_unit(corpus: Path, unit: int, outcomes: Iterable[Sample | Drop], modalities: Sequence[str]) -> UnitReport:
    """Writes a unit's samples and drops as they come, holding one sample at a time, and commits them together.

    A unit that is committed already, before or meanwhile by another process, stays as it is and its report is returned;
    in the first case `outcomes` is not touched. A unit without samples commits a sidecar of no rows and no tar.
    Interrupted at any point it leaves nothing that readers see. Raises OSError if the disk fails or is full, ValueError
    for a sample that the format cannot hold.
    """
    corpus = Path(corpus)
    paths = shard_paths(corpus, unit)
    if paths.sidecar.exists():
        return _report(read_sidecar(paths.sidecar, columns=["key"])[1])
    modules = {short_name(name): load(name) for name in modalities}
    rows: list[dict[str, Any]] = []
    drops: list[dict[str, Any]] = []
    seen: set[str] = set()
    with ExitStack() as stack:
        tar_file, sidecar_file, drops_file = (
            stack.enter_context(Unfinished(path)) for path in (paths.tar, paths.sidecar, paths.drops)
        )
        for folder in (paths.tar.parent, paths.drops.parent):
            remove_dead(folder)
        tar = TarWriter(tar_file.file)
        for outcome in outcomes:
            if isinstance(outcome, Drop):
                drops.append(drop_row(outcome, unit))
                continue
            if outcome.key in seen:
                raise ValueError(f"two samples of unit {unit} have the key {outcome.key}: keys must differ")
            seen.add(outcome.key)
            rows.append(_add_sample(tar, outcome, unit, modules))
        sha256 = tar.finish()
        record = Record(
            unit=unit,
            samples=len(rows),
            tar_size=tar.size if rows else 0,
            tar_sha256=sha256 if rows else "",
            dropped=dict(sorted(Counter(row["reason"] for row in drops).items())),
        )
        drops_file.file.write(drops_bytes(drops, unit))
        sidecar_file.file.write(sidecar_bytes(rows, modalities, record))
        for out in (tar_file, drops_file, sidecar_file):
            out.finish()
        if not publish_unit(corpus, tar_file if rows else paths.tar, [drops_file], sidecar_file):
            return _report(read_sidecar(paths.sidecar, columns=["key"])[1])
    return _report(record)


def publish_unit(
    corpus: Path,
    tar: Unfinished | Link | Path,
    others: Sequence[Unfinished],
    sidecar: Unfinished,
    still_wanted: Callable[[], None] | None = None,
) -> bool:
    """Gives a unit's finished files their names, the sidecar last; False if another writer committed it meanwhile.

    tar: where it would lie, if the unit has none. still_wanted: called inside the lock, raises if it is not.
    """
    # Two writers of a unit must not mix the tar of one with the sidecar of the other: the first here wins.
    with locked(corpus / LOCK):
        if still_wanted:
            still_wanted()
        if sidecar.final.exists():
            return False
        if isinstance(tar, Path):  # of an earlier run that died before its sidecar
            tar.unlink(missing_ok=True)
        else:
            tar.publish()
        for out in (*others, sidecar):
            out.publish()
    return True


def write_drops(corpus: Path, name: str, drops: Iterable[Drop]) -> None:
    """Records drops that belong to no unit, as drops/<name>.parquet, in place of those it held before."""
    if name.isdigit():
        raise ValueError(f"numbers name the drops of units, got {name!r}: give a word")
    rows = [drop_row(drop, None) for drop in drops]
    write_durably(Path(corpus) / "drops" / f"{name}.parquet", drops_bytes(rows, None))


def sample_json(sample: Sample) -> bytes:
    """The `json` member: all that is known about a sample, except where its source lay."""
    return canonical_json(
        {
            "format": FORMAT_VERSION,
            "key": sample.key,
            "source": sample.clip.source,
            "start_ns": sample.clip.start_ns,
            "end_ns": sample.clip.end_ns,
            "time_base": sample.time_base,
            "facts": _own_facts(sample),
            "signals": known(sample.signals),
            "parts": {name: known(part.facts) for name, part in sample.parts.items()},
        }
    )


def known(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without those that say nothing: None, or a model, revision or params of ""."""
    return {name: value for name, value in facts.items() if value is not None and (value or name not in PROVENANCE)}


def _own_facts(sample: Sample) -> dict[str, Any]:
    """Facts about the sample, without its duration: the clip says that."""
    return {name: value for name, value in known(sample.facts).items() if name != "duration_ns"}


def _add_sample(tar: TarWriter, sample: Sample, unit: int, modules: Mapping[str, Modality]) -> dict[str, Any]:
    if not _KEY.fullmatch(sample.key):
        raise ValueError(
            f"a key is 1 to 64 letters, digits, - and _ (WebDataset splits names at dots), got {sample.key!r}"
        )
    unknown = sorted(set(sample.parts) - set(modules))
    if unknown:
        raise ValueError(
            f"sample {sample.key} has parts {unknown} that the corpus does not list: add them to its modalities"
        )
    undeclared = sorted(set(sample.signals) - set(SIGNALS))
    if undeclared:
        raise ValueError(
            f"sample {sample.key} has signals {undeclared}: declare them in SIGNALS of pipeline/signals.py"
        )
    members: dict[str, tuple[str, bytes]] = {
        modules[name].suffix: (name, part.data) for name, part in sample.parts.items()
    }
    members["json"] = ("json", sample_json(sample))
    columns = {
        name: add_member(tar, f"{sample.key}.{suffix}", data) for suffix, (name, data) in sorted(members.items())
    }
    for name, part in sample.parts.items():
        columns[name] |= part_columns(name, part, modules[name])
    facts = _own_facts(sample)
    core: dict[str, Any] = {name: facts.pop(name, None) for name in CORE_FACTS}
    return {
        "key": sample.key,
        "unit": unit,
        "source_id": sample.clip.source,
        "source_path": text_of(sample.path),
        "start_ns": sample.clip.start_ns,
        "end_ns": sample.clip.end_ns,
        "duration_ns": sample.clip.duration_ns,
        "time_base": sample.time_base,
        **core,
        "facts": canonical_json(facts).decode() if facts else None,
        "signals": known(sample.signals) or None,
        **columns,
    }


def add_member(tar: TarWriter, name: str, data: bytes) -> dict[str, Any]:
    """Writes a member; where it lies and its hash, as a sidecar says it."""
    return {"offset": tar.add(name, data), "size": len(data), "xxh3": xxhash.xxh3_64_intdigest(data)}


def part_columns(name: str, part: Part, modality: Modality) -> dict[str, Any]:
    """What a sidecar says of a part beside where it lies. Raises ValueError for facts that its modality lacks."""
    facts = known(part.facts)
    undeclared = sorted(set(facts) - set(modality.facts) - set(PROVENANCE))
    if undeclared or PART_FIELDS & set(modality.facts):
        raise ValueError(
            f"modality {name!r} records {undeclared}: declare them in its `facts`, apart from {sorted(PART_FIELDS)}"
        )
    spans = modality.pieces(facts, len(part.data))
    # Of members that are read in pieces: so that a reader of some pieces can tell that they are whole.
    pieces = None if list(spans) == [(0, len(part.data))] else [piece_hash(part.data, *span) for span in spans]
    return {"pieces_xxh3": pieces, **{field: facts.pop(field, "") for field in PROVENANCE}, **facts}


def piece_hash(data: bytes, offset: int, size: int) -> int:
    """xxh3 of a part of a member, uint64."""
    return xxhash.xxh3_64_intdigest(memoryview(data)[offset : offset + size])


def drop_row(drop: Drop, unit: int | None) -> dict[str, Any]:
    return {
        "unit": unit,
        "path": text_of(drop.path),
        "source_id": drop.source,
        "start_ns": drop.clip.start_ns if drop.clip else None,
        "end_ns": drop.clip.end_ns if drop.clip else None,
        "stage": drop.stage,
        "reason": drop.reason,
        "detail": text_of(drop.detail),
    }


def text_of(value: str) -> str:
    r"""File names need not be UTF-8, columns must be: stray bytes are written out as \udcff."""
    return value.encode(errors="backslashreplace").decode()


def _report(record: Record) -> UnitReport:
    return UnitReport(record.samples, record.dropped, record.tar_size)
