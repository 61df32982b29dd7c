"""Makes a corpus of other people's WebDataset tars by writing sidecars for them; no tar is copied or changed.

corpus/corpus.json           says that it is indexed
corpus/plan.parquet          which tar is which unit, with the size and time it had when it was indexed
corpus/shards/000012.tar     a link to the tar
corpus/shards/000012.parquet its sidecar: where each member lies, its hash, and the facts to read it by; written last
corpus/drops/000012.parquet  members that are bad, and holes in the tar
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from omniloom.modalities import Drop
from omniloom.modalities.base import Ask
from omniloom.pipeline.adopt import MODALITIES, Adopted, Group, adopt, groups
from omniloom.pipeline.cluster import cluster
from omniloom.pipeline.commit import Link, Unfinished, locked, remove_dead, write_durably
from omniloom.pipeline.corpus import create_corpus, open_corpus
from omniloom.pipeline.memory import give_back_free_memory
from omniloom.pipeline.shard import (
    LOCK,
    ShardPaths,
    committed_units,
    drop_row,
    publish_unit,
    shard_paths,
    text_of,
    write_drops,
)
from omniloom.pipeline.sidecar import (
    FORMAT_VERSION,
    Record,
    drops_bytes,
    read_sealed,
    sealed_bytes,
    sidecar_bytes,
)
from omniloom.pipeline.untar import Hole, Listed, members

_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")
"""Packed ones are looked for too, to be told of: none is read."""
_OUR_FOLDERS = ("shards", "columns", "drops")
_CHUNK = 1 << 20
_PLAN = pa.schema([("unit", pa.int64()), ("path", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64())])


@dataclass(slots=True)
class IndexReport:
    """What indexing did."""

    tars: int = 0
    """Found."""
    samples: int = 0
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    """Members, and whole tars, that are bad, by reason."""
    left_out: dict[str, int] = field(default_factory=dict[str, int])
    """Members that a corpus has no place for, by suffix, and entries of json members."""
    shards: int = 0
    """Tars that gave samples."""
    bytes: int = 0
    """Of the tars that were read."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of the processes that read; not of Ray's own."""
    skipped_committed: int = 0
    """Tars that earlier runs had indexed, and that are as they were."""
    removed: int = 0
    """Tars that earlier runs had indexed, and that are gone: their samples are no longer in the corpus."""
    corpus_samples: int = 0
    """In the whole corpus, earlier runs included."""


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """Where a run stands, for whoever shows it."""

    done_tars: int
    all_tars: int
    samples: int
    dropped: int


@dataclass(frozen=True, slots=True)
class _Tar:
    """One tar, as the plan states it. path: relative to the corpus if it lies inside, else absolute."""

    unit: int
    path: str
    size: int
    mtime_ns: int

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class _Result:
    samples: int
    dropped: Counter[str]
    left_out: Counter[str]
    bytes: int
    cpu_seconds: float
    fault: Drop | None = None
    """Why the tar could not be read this time: it is tried again by the next run."""


def index(
    folder: Path | str,
    out: Path | str | None = None,
    *,
    test_fraction: float = 0.1,
    address: str | None = None,
    workers: int | None = None,
    on_progress: Callable[[IndexProgress], None] | None = None,
) -> IndexReport:
    """Indexes every tar under a folder, and makes or continues the corpus at `out` (default: in the folder itself).

    Tars that are indexed and have their size and time are skipped, those that changed are indexed again, those that
    went take their samples with them. test_fraction: held out, by a hash of the source, where a sample's json names no
    `split`. address, workers: as of `build`. Raises ValueError, naming the repair, if there is no tar, if `out`
    cannot be written or holds something else.
    """
    began = time.perf_counter()
    folder = Path(folder).absolute()
    out = folder if out is None else Path(out).absolute()
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction is a share in [0, 1), got {test_fraction}")
    found = list(_tars_in(folder, out))
    if not found:
        raise ValueError(f"no .tar under {folder}: give the folder of a WebDataset")
    _check_out(out)
    create_corpus(out, modalities=MODALITIES, recipe={"index": {"test_fraction": test_fraction}})
    drops = [Drop(str(path), "list", "compressed-tar", "unpack it") for path in found if path.suffix != ".tar"]
    tars = [path for path in found if path.suffix == ".tar"]
    planned, removed = _plan(out, tars, drops)
    done = committed_units(out)
    todo = [tar for tar in planned if tar.unit not in done]
    report = IndexReport(tars=len(found), skipped_committed=len(planned) - len(todo), removed=removed)
    dropped, left_out = Counter(drop.reason for drop in drops), Counter[str]()
    progress = on_progress or (lambda _: None)
    progress(IndexProgress(0, len(todo), 0, dropped.total()))
    with cluster(address, workers, ()) as pool:
        for number, result in enumerate(pool.run(_index_tar, todo, out, folder, test_fraction), start=1):
            report.samples += result.samples
            report.shards += result.samples > 0
            report.bytes += result.bytes
            report.cpu_seconds += result.cpu_seconds
            dropped += result.dropped
            left_out += result.left_out
            if result.fault is not None:
                drops.append(result.fault)
                dropped[result.fault.reason] += 1
            progress(IndexProgress(number, len(todo), report.samples, dropped.total()))
    write_drops(out, "listing", drops)
    report.dropped, report.left_out = dict(sorted(dropped.items())), dict(sorted(left_out.items()))
    report.corpus_samples = len(open_corpus(out))
    report.seconds = time.perf_counter() - began
    return report


# --- which tars -----------------------------------------------------------------------------------------------


def _tars_in(folder: Path, out: Path) -> Iterator[Path]:
    """Tars under the folder in the order of their names, but for the links that indexing makes."""
    ours = {str(out / name) for name in _OUR_FOLDERS} if (out / "corpus.json").exists() else set[str]()
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != "." and str(Path(where) / name) not in ours)
        yield from (Path(where) / name for name in sorted(files) if name.endswith(_ENDINGS) and name[0] != ".")


def _check_out(out: Path) -> None:
    if (out / "corpus.json").exists():
        return
    there = [name for name in _OUR_FOLDERS if (out / name).exists()]
    if there:
        raise ValueError(f"{out} has a folder {there[0]} of its own: give another place for the sidecars with --out")
    existing = next(path for path in (out, *out.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise ValueError(f"{existing} cannot be written: give a place for the sidecars with --out")


def _plan(out: Path, tars: Sequence[Path], drops: list[Drop]) -> tuple[list[_Tar], int]:
    """The tars as units, known ones under their numbers, and how many known ones are gone.

    Takes the sidecars of those that changed or went away, before the plan says anything else of them.
    """
    with locked(out / LOCK):
        known = {tar.path: tar for tar in _read_plan(out)}
        next_unit = 1 + max((tar.unit for tar in known.values()), default=-1)
        planned: dict[str, _Tar] = {}
        for path in tars:
            try:
                status = path.stat()
            except OSError as error:
                drops.append(Drop(str(path), "list", "unreadable", error.strerror or str(error)))
                continue
            name = _named(out, path)
            before = known.get(name)
            planned[name] = _Tar(before.unit if before else next_unit, name, status.st_size, status.st_mtime_ns)
            next_unit += before is None
        gone = [tar for name, tar in known.items() if name not in planned and not (out / name).exists()]
        changed = [tar for name, tar in known.items() if name in planned and planned[name] != tar]
        for tar in (*gone, *changed):
            _forget(shard_paths(out, tar.unit))
        elsewhere = {name: tar for name, tar in known.items() if name not in planned and tar not in gone}
        after = {**elsewhere, **planned}
        if after != known:
            rows = [
                {"unit": tar.unit, "path": tar.path, "size": tar.size, "mtime_ns": tar.mtime_ns}
                for tar in sorted(after.values(), key=lambda tar: tar.unit)
            ]
            table = pa.Table.from_pylist(rows, schema=_PLAN)
            write_durably(out / "plan.parquet", sealed_bytes(table, {"format": FORMAT_VERSION}))
    return sorted(planned.values(), key=lambda tar: tar.unit), len(gone)


def _named(out: Path, tar: Path) -> str:
    return str(tar.relative_to(out)) if tar.is_relative_to(out) else str(tar)


def _read_plan(out: Path) -> list[_Tar]:
    path = out / "plan.parquet"
    return [_Tar(**row) for row in read_sealed(path, None)[0].to_pylist()] if path.exists() else []


def _forget(paths: ShardPaths) -> None:
    """The sidecar first: without it there is no shard."""
    for path in (paths.sidecar, paths.tar, paths.drops):
        path.unlink(missing_ok=True)


# --- one tar --------------------------------------------------------------------------------------------------


def _index_tar(out: Path, folder: Path, test_fraction: float, tar: _Tar, _ask: Ask) -> _Result:
    """Reads a tar once through and writes its sidecar; the commit is its last act."""
    cpu_before = time.process_time()
    path = out / tar.path
    name = text_of(str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path))
    rows: list[dict[str, Any]] = []
    drops: list[Drop] = []
    left_out: Counter[str] = Counter()
    try:
        with path.open("rb") as file:
            sha256 = _sha256(file)
            for adopted in _adopted(file, name, tar.unit, test_fraction, left_out):
                rows += [adopted.row] if adopted.row is not None else []
                drops += adopted.drops
                left_out += adopted.left_out
            status = os.fstat(file.fileno())
    except OSError as error:
        return _failed(Drop(name, "list", "unreadable", error.strerror or str(error)), cpu_before)
    if (status.st_size, status.st_mtime_ns) != (tar.size, tar.mtime_ns):
        return _failed(Drop(name, "list", "changed-meanwhile", "it was written while it was read"), cpu_before)
    dropped = Counter(drop.reason for drop in drops)
    record = Record(
        unit=tar.unit,
        samples=len(rows),
        tar_size=tar.size if rows else 0,
        tar_sha256=sha256 if rows else "",
        dropped=dict(sorted(dropped.items())),
    )
    _commit(out, tar, rows, drops, record)
    give_back_free_memory()
    return _Result(len(rows), dropped, left_out, tar.size, time.process_time() - cpu_before)


def _failed(fault: Drop, cpu_before: float) -> _Result:
    return _Result(0, Counter(), Counter(), 0, time.process_time() - cpu_before, fault)


def _adopted(file: BinaryIO, name: str, unit: int, test_fraction: float, left_out: Counter[str]) -> Iterator[Adopted]:
    """What becomes of each sample of a tar, and of what is none."""
    listed: list[Listed] = []
    for item in members(file):
        if isinstance(item, Hole):
            yield Adopted(drops=[Drop(name, "list", item.reason, item.detail)])
        else:
            listed.append(item)

    def read(member: Listed) -> bytes:
        file.seek(member.offset)
        return file.read(member.size)

    known: set[str] = set()
    for item in groups(listed, left_out):
        if isinstance(item, Group):
            adopted = adopt(item, unit, name, read, known, test_fraction)
            known |= {adopted.row["key"]} if adopted.row is not None else set[str]()
            yield adopted
        else:
            yield Adopted(
                drops=[Drop(f"{name}/{item.name}", "list", "duplicate-key", "the first of the name is taken")]
            )


def _commit(out: Path, tar: _Tar, rows: Sequence[dict[str, Any]], drops: Sequence[Drop], record: Record) -> None:
    paths = shard_paths(out, tar.unit)
    path = Path(tar.path)
    # Inside the corpus the link is relative, so that both can be moved together; outside, the corpus can be moved.
    link = Link(paths.tar, path if path.is_absolute() else ".." / path) if rows else paths.tar
    with ExitStack() as stack:
        sidecar_file, drops_file = (stack.enter_context(Unfinished(path)) for path in (paths.sidecar, paths.drops))
        for folder in (paths.sidecar.parent, paths.drops.parent):
            remove_dead(folder)
        drops_file.file.write(drops_bytes([drop_row(_readable(drop), tar.unit) for drop in drops], tar.unit))
        sidecar_file.file.write(sidecar_bytes(rows, MODALITIES, record, indexed=True))
        for unfinished in (drops_file, sidecar_file):
            unfinished.finish()
        publish_unit(out, link, [drops_file], sidecar_file)


def _readable(drop: Drop) -> Drop:
    return replace(drop, detail=" ".join(drop.detail.split()))


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(_CHUNK):
        digest.update(block)
    return digest.hexdigest()
