"""A corpus on disk: make one, open one, look at its samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from omniloom.modalities import Sample, short_name
from omniloom.pipeline.columns import Column
from omniloom.pipeline.description import describe, differing_settings, read_description, write_description
from omniloom.pipeline.joined import JoinedRows, sample_of
from omniloom.pipeline.mirror import mirror, origin_of, refuse_remote
from omniloom.pipeline.reader import ShardReader
from omniloom.pipeline.remote import url_of
from omniloom.pipeline.shard import committed_units, shard_paths
from omniloom.pipeline.sidecar import DROPS_SCHEMA, DamagedError, Record, read_column, read_drops, schema_of

if TYPE_CHECKING:
    from omniloom.pipeline.check import Fault

_READERS = 8
"""Threads that read sidecars: enough to hide a network disk's latency."""


def create_corpus(path: Path | str, *, modalities: Sequence[str], recipe: Mapping[str, Any]) -> Corpus:
    """Makes an empty corpus, or opens the one that is there if it was made by the same recipe.

    modalities: names, or module paths of modalities outside this package. recipe: plain values, kept in corpus.json.
    Raises ValueError if a corpus of another recipe lies there: one corpus holds one kind of sample.
    """
    refuse_remote(path, "build")
    path = Path(path)
    description = describe(modalities, recipe)
    if (path / "corpus.json").exists():
        corpus = open_corpus(path)
        if any(corpus.description.get(name) != value for name, value in description.items()):
            differing = ", ".join(differing_settings(corpus.description, description))
            raise ValueError(
                f"{path} was built by another recipe (it differs in {differing}): build to another folder, or use the"
                " same settings"
            )
        return corpus
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: give a folder for the corpus")
    (path / "shards").mkdir(parents=True, exist_ok=True)
    write_description(path, description)
    return Corpus(path, description)


def open_corpus(path: Path | str) -> Corpus:
    """Opens a corpus, also one that is still being built: it then holds what is committed.

    path: a folder, or a URL of one that fsspec can read (https://, s3://, gs://, ...). Of a corpus behind a URL all but
    the tars is copied to this machine's cache, and brought up to date whenever it is opened by its URL; of the tars
    those ranges are read that are asked for. Raises ValueError, naming the repair, if the folder holds none, a damaged
    one, or one of a later format; RemoteError, an OSError, if a store does not answer.
    """
    path = mirror(url) if (url := url_of(path)) else Path(path)
    return Corpus(path, read_description(path))


class Corpus:
    """The committed samples of a corpus. Opening one reads nothing but corpus.json; the rest is read when asked for."""

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        self.path = path
        """Its folder; of one behind a URL, that of its copy without tars."""
        self.description = description
        """What corpus.json says."""
        self._reader = ShardReader()
        self._rows = JoinedRows(path, description["modalities"])

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities its samples may have: those of the recipe, as it wrote them, and of columns."""
        return self._rows.modalities

    @property
    def is_indexed(self) -> bool:
        """Whether its shards are links to other people's tars: see `pipeline/index.py`."""
        return "index" in self.description["recipe"]

    @property
    def columns(self) -> Mapping[str, Column]:
        """Modalities that were added later: what made them, and their licence. As of the first time any is asked."""
        return self._rows.columns

    @property
    def numbers(self) -> list[str]:
        """Numbers that sidecars have of each sample, by column, or column and field as "frames.width"."""
        named = [(field.name, field.type) for field in self._rows.schema()]
        inner = [
            (f"{name}.{field.name}", field.type) for name, kind in named if pa.types.is_struct(kind) for field in kind
        ]
        return [name for name, kind in (*named, *inner) if pa.types.is_integer(kind) or pa.types.is_floating(kind)]

    @cached_property
    def units(self) -> tuple[int, ...]:
        """Ids of the committed units, rising, as of the first time this is asked."""
        return tuple(sorted(committed_units(self.path)))

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """What each unit's sidecar says of its shard, in the order of `units`. Raises `DamagedError`."""
        return tuple(record for record, _ in self._sealed)

    @cached_property
    def shards(self) -> tuple[Path, ...]:
        """Tars of the committed units; a unit whose every clip was dropped has none."""
        tars = (shard_paths(self.path, unit).tar for unit in self.units)
        if origin := origin_of(self.path):
            return tuple(tar for tar in tars if tar.relative_to(self.path).as_posix() in origin.tars)
        return tuple(tar for tar in tars if tar.exists())

    def __len__(self) -> int:
        """Number of samples. Raises `DamagedError` if a sidecar is."""
        return sum(record.samples for record in self.records)

    def count_readable(self) -> int:
        """Number of samples in sidecars that are not damaged: `len`, where that would raise."""
        count = 0
        for unit in self.units:
            try:
                count += self._rows.read(unit, ["key"])[1].samples
            except (DamagedError, FileNotFoundError):
                continue
        return count

    def __iter__(self) -> Iterator[Sample]:
        return self.samples()

    def samples(self, modalities: Sequence[str] | None = None, units: Sequence[int] | None = None) -> Iterator[Sample]:
        """Every sample, unit by unit, or those of some units; with all its parts, or those of some modalities.

        The parts' bytes are read, and checked against their hashes, when looked at.
        """
        wanted = self._with_facts(modalities)
        for unit in self.units if units is None else units:
            yield from self._samples(self._rows.read(unit, wanted)[0], modalities)

    def __getitem__(self, key: str) -> Sample:
        """The sample of that key. Raises KeyError if there is none."""
        import pyarrow.compute

        place = pyarrow.compute.index(self._keys, pa.scalar(key)).as_py()
        if place < 0:
            raise KeyError(f"{self.path} has no sample {key!r}")
        for unit, keys in zip(self.units, self._keys.iterchunks(), strict=True):
            if place < len(keys):
                return next(self._samples(self._rows.read(unit)[0].slice(place, 1), None))
            place -= len(keys)
        raise AssertionError

    def table(self, columns: Sequence[str] | None = None, split: str | None = None) -> pa.Table:
        """All sidecars as one table, in the order of units: one row a sample, or only those of one split.

        Structs of modalities that have a column state with `added` whether the part lies in columns/, not in shards/.
        Raises ValueError if a column is unknown, or if a sidecar is damaged.
        """
        wanted = list(self._rows.names if columns is None else columns)
        if unknown := self._rows.unknown(wanted):
            raise ValueError(f"no column {', '.join(unknown)} in {self.path}: it has {', '.join(self._rows.names)}")
        table = self.fields(wanted if split is None or "split" in wanted else [*wanted, "split"])
        if split is not None:
            import pyarrow.compute

            table = table.filter(pyarrow.compute.field("split") == split)
        if "signals" in wanted and "signals" not in table.column_names:  # the first corpora had none
            table = table.append_column("signals", pa.nulls(len(table), schema_of(()).field("signals").type))
        return table.select(wanted)

    def drops(self) -> pa.Table:
        """Every rejected clip or source of the committed units, and of the search for sources: see `DROPS_SCHEMA`."""
        committed = set(self.units)
        paths = sorted((self.path / "drops").glob("*.parquet"))
        chosen = [path for path in paths if not path.stem.isdigit() or int(path.stem) in committed]
        return pa.concat_tables([DROPS_SCHEMA.empty_table(), *(read_drops(path) for path in chosen)])

    def stats(self) -> dict[str, Any]:
        """Counts: samples, hours, shards, drops {reason: n}, splits {name: n}, modalities {name: {present, bytes}}.

        columns {name: {units, of, missing {reason: n}, models, licence}}: what was added later, of how many units, and
        why samples of those have none of it ("present": their shard has).
        """
        import pyarrow.compute

        pc: Any = pyarrow.compute  # its functions are made when it is imported: type checkers do not see them
        names = [short_name(name) for name in self.modalities]
        table = self.fields(["duration_ns", "split", *(f"{name}.size" for name in names)])
        sizes = {name: pc.struct_field(table[name], "size") for name in names}
        modalities = {
            name: {"present": len(size) - size.null_count, "bytes": pc.sum(size).as_py() or 0}
            for name, size in sizes.items()
        }
        splits = Counter(table["split"].to_pylist())
        return {
            "samples": len(table),
            "hours": (pc.sum(table["duration_ns"]).as_py() or 0) / 3.6e12,
            "shards": sum(record.tar_size > 0 for record in self.records),
            "splits": {str(name): count for name, count in sorted(splits.items(), key=str)},
            "modalities": modalities,
            "columns": {name: self._column_stats(column) for name, column in self.columns.items()},
            "drops": dict(sorted(Counter(self.drops()["reason"].to_pylist()).items())),
        }

    def check(self) -> list[Fault]:
        """Verifies every byte, count, time and geometry record; an empty list means that all is as it was written."""
        from omniloom.pipeline.check import check

        return check(self)

    def fields(self, wanted: Sequence[str], units: Sequence[int] | None = None) -> pa.Table:
        """Columns, or single fields of them as "frames.size", of all sidecars or those of some units, in their order.

        Raises `DamagedError`.
        """
        units = self.units if units is None else units
        if not units:
            return self._rows.schema().empty_table()
        if len(units) == 1:
            return self._rows.read(units[0], wanted)[0]
        with ThreadPoolExecutor(_READERS) as pool:
            return pa.concat_tables([rows for rows, _ in pool.map(lambda unit: self._rows.read(unit, wanted), units)])

    def seals(self, names: Sequence[str]) -> list[str]:
        """For each unit a text that differs once its sidecar does, or that of a column of one of those names."""
        own = [seal for _, seal in self._sealed]
        if not any(name in self.columns for name in names):
            return own
        with ThreadPoolExecutor(_READERS) as pool:
            late = pool.map(lambda unit: self._rows.seals_of_columns(unit, names), self.units)
            return [" ".join([seal, *seals]) for seal, seals in zip(own, late, strict=True)]

    @cached_property
    def _sealed(self) -> tuple[tuple[Record, str], ...]:
        """Of each unit what its sidecar says of its shard, and the sidecar's seal."""
        with ThreadPoolExecutor(_READERS) as pool:
            return tuple(pool.map(self._rows.record, self.units))

    def _samples(self, rows: pa.Table, modalities: Sequence[str] | None) -> Iterator[Sample]:
        names = [short_name(name) for name in (self.modalities if modalities is None else modalities)]
        for batch in rows.to_batches(max_chunksize=256):
            yield from (sample_of(row, self.path, names, self._reader) for row in batch.to_pylist())

    def _with_facts(self, modalities: Sequence[str] | None) -> list[str] | None:
        """What to read for samples of some modalities: all that is known of them beside other parts."""
        if modalities is None:
            return None
        names = [short_name(name) for name in modalities]
        if unknown := self._rows.unknown(names):
            raise ValueError(f"no {', '.join(unknown)} in {self.path}: it has {', '.join(self.modalities)}")
        return [*schema_of(()).names, *names]

    def _column_stats(self, column: Column) -> dict[str, Any]:
        units = sorted(self._rows.units_of(column.name) & set(self.units))
        with ThreadPoolExecutor(_READERS) as pool:
            records = [
                record for _, record, _ in pool.map(lambda unit: read_column(column.sidecar(unit), ["key"]), units)
            ]
        missing = sum((Counter(record.dropped) for record in records), Counter[str]())
        return {
            "units": len(units),
            "of": len(self.units),
            "missing": dict(sorted(missing.items())),
            "models": [str(model.get("name", "")) for model in column.models],
            "licence": column.licence,
        }

    @cached_property
    def _keys(self) -> pa.ChunkedArray:
        """Of all samples, a chunk a unit."""
        with ThreadPoolExecutor(_READERS) as pool:
            tables = pool.map(lambda unit: self._rows.read(unit, ["key"])[0], self.units)
            return pa.chunked_array([table["key"].combine_chunks() for table in tables], pa.string())
