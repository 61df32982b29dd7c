"""A corpus on disk: make one, open one, look at its samples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute

from omniloom.modalities import Clip, Part, Sample, SourceId, load, short_name
from omniloom.pipeline.commit import write_durably
from omniloom.pipeline.reader import ShardReader
from omniloom.pipeline.shard import PROVENANCE, committed_units, known, shard_paths
from omniloom.pipeline.sidecar import (
    CORE_FACTS,
    DROPS_SCHEMA,
    FORMAT_VERSION,
    PART_FIELDS,
    DamagedError,
    Record,
    canonical_json,
    read_drops,
    read_sidecar,
    schema_of,
)

if TYPE_CHECKING:
    from omniloom.pipeline.check import Fault

GEOMETRY = {
    "axes": "OpenCV camera: x right, y down, z forward",
    "points": "X = (u - cx) Z / fx, Y = (v - cy) Z / fy, in the unit of the depth",
    "normals": "camera frame, facing the camera; a horizontal flip negates x",
    "intrinsics": "after resize and crop",
    "time": "integer nanoseconds of presentation time; pts_ns count from the clip's start",
}
pc: Any = pyarrow.compute
"""Its functions are made when it is imported: type checkers do not see them."""
_FORMAT = "omniloom-corpus"
_READERS = 8
"""Threads that read sidecars: enough to hide a network disk's latency."""


def create_corpus(path: Path | str, *, modalities: Sequence[str], recipe: Mapping[str, Any]) -> Corpus:
    """Makes an empty corpus, or opens the one that is there if it was made by the same recipe.

    modalities: names, or module paths of modalities outside this package. recipe: plain values, kept in corpus.json.
    Raises ValueError if a corpus of another recipe lies there: one corpus holds one kind of sample.
    """
    path = Path(path)
    description = {
        "format": _FORMAT,
        "version": FORMAT_VERSION,
        "modalities": list(modalities),
        "suffixes": {short_name(name): load(name).suffix for name in modalities},
        "geometry": GEOMETRY,
        "recipe": json.loads(canonical_json(recipe)),
    }
    if (path / "corpus.json").exists():
        corpus = open_corpus(path)
        differing = [name for name, value in description.items() if corpus.description.get(name) != value]
        if differing:
            raise ValueError(
                f"{path} was built by another recipe (it differs in {', '.join(_differing_keys(corpus, description))}):"
                " build to another folder, or use the same settings"
            )
        return corpus
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: give a folder for the corpus")
    (path / "shards").mkdir(parents=True, exist_ok=True)
    write_durably(path / "corpus.json", (json.dumps(description, indent=1, sort_keys=True) + "\n").encode())
    return Corpus(path, description)


def open_corpus(path: Path | str) -> Corpus:
    """Opens a corpus, also one that is still being built: it then holds what is committed.

    Raises ValueError, naming the repair, if the folder holds none, a damaged one, or one of a later format.
    """
    path = Path(path)
    try:
        description = json.loads((path / "corpus.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"{path} is no corpus, it has no corpus.json: make one with `omniloom build SOURCE --out {path}`"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{path / 'corpus.json'} is damaged ({error}): restore it, or build the same recipe again"
        ) from error
    if not isinstance(description, dict) or cast("dict[str, Any]", description).get("format") != _FORMAT:
        raise ValueError(
            f"{path / 'corpus.json'} describes no omniloom corpus: give the folder that `omniloom build` wrote"
        )
    values = cast("dict[str, Any]", description)
    if values["version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {values['version']}, this omniloom reads up to {FORMAT_VERSION}: upgrade omniloom"
        )
    return Corpus(path, values)


class Corpus:
    """The committed samples of a corpus. Opening one reads nothing but corpus.json; the rest is read when asked for."""

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        self.path = path
        self.description = description
        """What corpus.json says."""
        self._reader = ShardReader()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities its samples may have, as the recipe wrote them."""
        return tuple(self.description["modalities"])

    @cached_property
    def units(self) -> tuple[int, ...]:
        """Ids of the committed units, rising, as of the first time this is asked."""
        return tuple(sorted(committed_units(self.path)))

    @cached_property
    def shards(self) -> tuple[Path, ...]:
        """Tars of the committed units; a unit whose every clip was dropped has none."""
        tars = (shard_paths(self.path, unit).tar for unit in self.units)
        return tuple(tar for tar in tars if tar.exists())

    def __len__(self) -> int:
        """Number of samples. Raises `DamagedError` if a sidecar is."""
        return sum(record.samples for record in self._records)

    def count_readable(self) -> int:
        """Number of samples in sidecars that are not damaged: `len`, where that would raise."""
        count = 0
        for unit in self.units:
            try:
                count += self._sidecar(unit, ["key"])[1].samples
            except (DamagedError, FileNotFoundError):
                continue
        return count

    def __iter__(self) -> Iterator[Sample]:
        return self.samples()

    def samples(self) -> Iterator[Sample]:
        """Every sample, unit by unit. The parts' bytes are read, and checked against their hashes, when looked at."""
        for unit in self.units:
            rows, _ = self._sidecar(unit)
            for batch in rows.to_batches(max_chunksize=256):
                yield from (self._sample(row) for row in batch.to_pylist())

    def __getitem__(self, key: str) -> Sample:
        """The sample of that key. Raises KeyError if there is none."""
        index = pc.index(self._keys["key"], pa.scalar(key)).as_py()
        if index < 0:
            raise KeyError(f"{self.path} has no sample {key!r}")
        rows, _ = self._sidecar(self._keys["unit"][index].as_py())
        return self._sample(rows.filter(pc.equal(rows["key"], key)).to_pylist()[0])

    def table(self, columns: Sequence[str] | None = None, split: str | None = None) -> pa.Table:
        """All sidecars as one table, in the order of units: one row a sample, or only those of one split.

        Raises ValueError if a column is unknown, or if a sidecar is damaged.
        """
        schema = schema_of(self.modalities)
        wanted = list(schema.names if columns is None else columns)
        unknown = [name for name in wanted if name not in schema.names]
        if unknown:
            raise ValueError(f"no column {', '.join(unknown)} in {self.path}: it has {', '.join(schema.names)}")
        table = self._read(wanted if split is None or "split" in wanted else [*wanted, "split"])
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        if "signals" in wanted and "signals" not in table.column_names:  # the first corpora had none
            kind = schema.field("signals").type
            table = table.append_column("signals", pa.nulls(len(table), kind))
        return table.select(wanted)

    def drops(self) -> pa.Table:
        """Every rejected clip or source of the committed units, and of the search for sources: see `DROPS_SCHEMA`."""
        committed = set(self.units)
        paths = sorted((self.path / "drops").glob("*.parquet"))
        chosen = [path for path in paths if not path.stem.isdigit() or int(path.stem) in committed]
        return pa.concat_tables([DROPS_SCHEMA.empty_table(), *(read_drops(path) for path in chosen)])

    def stats(self) -> dict[str, Any]:
        """Counts: samples, hours, shards, drops {reason: n}, splits {name: n}, modalities {name: {present, bytes}}."""
        names = [short_name(name) for name in self.modalities]
        table = self._read(["duration_ns", "split", *(f"{name}.size" for name in names)])
        sizes = {name: pc.struct_field(table[name], "size") for name in names}
        modalities = {
            name: {"present": len(size) - size.null_count, "bytes": pc.sum(size).as_py() or 0}
            for name, size in sizes.items()
        }
        return {
            "samples": len(table),
            "hours": (pc.sum(table["duration_ns"]).as_py() or 0) / 3.6e12,
            "shards": sum(record.tar_size > 0 for record in self._records),
            "splits": {
                str(name): count for name, count in sorted(Counter(table["split"].to_pylist()).items(), key=str)
            },
            "modalities": modalities,
            "drops": dict(sorted(Counter(self.drops()["reason"].to_pylist()).items())),
        }

    def check(self) -> list[Fault]:
        """Verifies every byte, count, time and geometry record; an empty list means that all is as it was written."""
        from omniloom.pipeline.check import check

        return check(self)

    def _read(self, columns: Sequence[str]) -> pa.Table:
        """Columns, or "column.field"s, of all sidecars."""
        if not self.units:
            return schema_of(self.modalities).empty_table()
        with ThreadPoolExecutor(_READERS) as pool:
            return pa.concat_tables(
                [rows for rows, _ in pool.map(lambda unit: self._sidecar(unit, columns), self.units)]
            )

    @cached_property
    def _keys(self) -> pa.Table:
        return self.table(["key", "unit"])

    @cached_property
    def _records(self) -> tuple[Record, ...]:
        with ThreadPoolExecutor(_READERS) as pool:
            return tuple(record for _, record in pool.map(lambda unit: self._sidecar(unit, ["key"]), self.units))

    def _sidecar(self, unit: int, columns: Sequence[str] | None = None) -> tuple[pa.Table, Record]:
        return read_sidecar(shard_paths(self.path, unit).sidecar, columns)

    def _sample(self, row: Mapping[str, Any]) -> Sample:
        names = [name for name in map(short_name, self.modalities) if row[name] is not None]
        tar = shard_paths(self.path, row["unit"]).tar
        return Sample(
            key=row["key"],
            clip=Clip(SourceId(row["source_id"]), row["start_ns"], row["end_ns"]),
            path=row["source_path"],
            time_base=row["time_base"],
            parts=LazyParts(tar, {name: row[name] for name in names}, self._reader),
            facts=sample_facts(row),
            signals=sample_signals(row),
        )


class LazyParts(Mapping[str, Part]):
    """The parts of one sample, each read and checked when it is looked up. Raises `DamagedError` then."""

    def __init__(self, tar: Path, columns: Mapping[str, Mapping[str, Any]], reader: ShardReader) -> None:
        self._tar, self._columns, self._reader = tar, columns, reader

    def __getitem__(self, name: str) -> Part:
        column = self._columns[name]
        data = self._reader.read(self._tar, column["offset"], column["size"], column["xxh3"])
        return Part(data, part_facts(column, provenance=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


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


def _differing_keys(corpus: Corpus, description: Mapping[str, Any]) -> list[str]:
    """Which settings of the recipe differ, or which other entries of corpus.json."""
    before, now = corpus.description.get("recipe", {}), description["recipe"]
    keys = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return keys or [name for name, value in description.items() if corpus.description.get(name) != value]
