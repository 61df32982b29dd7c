"""The samples a loader goes through, and where their parts lie: rows of sidecars, read unit by unit when needed.

To plan an epoch it is enough to know how many samples each unit has; where the parts of a sample lie is read when
the sample's turn comes. Units that were looked at last stay in memory, up to a bound.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import xxhash

from omniloom.modalities import Clip, Modality, SourceId, load, short_name
from omniloom.pipeline.corpus import Corpus
from omniloom.pipeline.joined import tar_of
from omniloom.pipeline.movies import IN_MOVIES
from omniloom.pipeline.outline import Outline
from omniloom.pipeline.permutation import Ints, derangement

pc: Any = pyarrow.compute  # its functions are made when it is imported: type checkers do not see them

_OF_MOVIES = ("video", "start_ns", "end_ns")
_READERS = 8
"""Threads that read sidecars."""
_KEPT_BYTES = 1 << 30
"""Of units' rows held in memory."""


@dataclass(frozen=True, slots=True)
class Member:
    """One part in its shard: the modality's struct of the sidecar row."""

    tar: Path
    column: Mapping[str, Any]
    movie: Clip | None = None
    """Of the sample, where the part is its movie and the modality is to be taken from that: see `movies.py`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one sample's parts lie; None for a modality that it lacks."""

    key: str
    source: str
    corpus: Path
    members: Mapping[str, Member | None]


class Rows:
    """The samples of one corpus, or of one split of it, numbered unit by unit. Threads may share it."""

    def __init__(
        self,
        corpus: Corpus,
        names: Sequence[str],
        split: str | None,
        *,
        by_key: bool,
        permute: Sequence[str],
        seed: int,
    ) -> None:
        """names: short names; those the corpus lacks are absent from every sample. by_key: sorted, not as written.

        permute: modalities to be read from another sample, of another source where possible.
        Raises ValueError if there is no sample, or nothing to permute.
        """
        self.corpus = corpus
        self.modules: dict[str, Modality] = {
            short_name(name): load(name) for name in corpus.modalities if short_name(name) in names
        }
        self._stored = tuple(self.modules)
        self._from_movies = _from_movies(corpus, names)
        self.modules |= {name: load(name) for name in self._from_movies}
        self._names = tuple(names)
        self._split = split
        self._starts = np.concatenate([[0], np.cumsum([record.samples for record in corpus.records], dtype=np.int64)])
        self._outline = Outline(corpus)
        self._chosen: Ints | None = None
        """Row numbers in the whole corpus, where they are not all of them in their order."""
        if split is not None:
            self._chosen = np.flatnonzero(pc.equal(self._outline.read(["split"])["split"], split).to_numpy())
        if not len(self):
            where = f"split {split!r} of {corpus.path}" if split is not None else str(corpus.path)
            raise ValueError(f"{where} holds no samples: `omniloom stats {corpus.path}` shows what there is")
        if by_key:
            order = pc.array_sort_indices(self.of("key").combine_chunks()).to_numpy().astype(np.int64)
            self._chosen = order if self._chosen is None else self._chosen[order]
        unknown = [name for name in permute if name not in names]
        if unknown:
            raise ValueError(
                f"permute names {', '.join(unknown)}, which is not among the modalities {', '.join(names)}"
            )
        for name in set(self._stored) & corpus.columns.keys():
            self.has(name)  # reads all of its sidecars: damage is to be known before training begins, not days later
        self._donors = {name: self._deranged(name, seed) for name in permute if name in self.modules}
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        self._kept_bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._chosen is None else len(self._chosen)

    @property
    def per_unit(self) -> Ints:
        """int64 (units,): how many of the rows lie in each unit; only where rows are in the order of units."""
        if self._chosen is None:
            return np.diff(self._starts)
        return np.diff(np.searchsorted(self._chosen, self._starts))

    @cached_property
    def digest(self) -> str:
        """Hash of what the rows are, and of their order: of the shards' own hashes and of the split."""
        shards = [(record.unit, record.samples, record.tar_sha256) for record in self.corpus.records]
        chosen = xxhash.xxh3_64_hexdigest(self._chosen.tobytes()) if self._chosen is not None else ""
        return xxhash.xxh3_64_hexdigest(f"{shards} {self._split} {chosen}".encode())

    def of(self, field: str) -> pa.ChunkedArray:
        """A sidecar column, or one field of a struct ("frames.size"), of all rows."""
        return self._of_all([field])[field]

    def has(self, name: str) -> np.ndarray:
        """Which of the rows have the modality: bool (rows,). A movie counts for the sound that it may have."""
        return self._present(name, self._of_all(self._sizes(name)))

    def classes(self, share: Sequence[str], buckets: Mapping[str, Sequence[float]]) -> Ints | None:
        """int64 (rows,): equal for samples that may share a micro-batch, 0 and up; None if all may.

        share: modalities that they all have or all lack. buckets: by sidecar field, as "duration_ns" or
        "caption.size", the edges between which they lie; samples without it are a bucket of their own.
        Raises ValueError for a field that no sidecar has.
        """
        if not share and not buckets:
            return None
        for field in buckets:
            if field not in self.corpus.numbers:
                known = ", ".join(self.corpus.numbers)
                raise ValueError(f"no number {field!r} to make buckets of: sidecars have {known}")
        # Together: to open a sidecar takes longer than to read another field of it.
        columns = self._of_all([*buckets, *(size for name in share for size in self._sizes(name))])
        code = np.zeros(len(self), np.int64)
        for name in share:
            code = 2 * code + self._present(name, columns)
        for field, edges in buckets.items():
            values = columns[field].cast(pa.float64()).to_numpy()
            bucket = np.where(np.isnan(values), len(edges) + 1, np.digitize(values, edges))
            code = (len(edges) + 2) * code + bucket
        return np.unique(code, return_inverse=True)[1]

    @cached_property
    def sources(self) -> Ints:
        """int64 (rows,): a number for the source of each."""
        codes = self.of("source_id").combine_chunks().dictionary_encode().indices
        return codes.to_numpy().astype(np.int64)

    def take(self, rows: Ints) -> list[Entry]:
        """Entries at row numbers int64 (n,). About 0.1 ms a sample, and a few more for the first of a unit."""
        names = [column for name in self.modules if name not in self._donors for column in self._columns(name)]
        also = _OF_MOVIES[1:] if self._from_movies else ()
        here = self._read(rows, ["key", "source_id", *also, *dict.fromkeys(names)])
        swapped = {
            name: self._read(donors[rows], [*also, *self._columns(name)]) for name, donors in self._donors.items()
        }
        entries: list[Entry] = []
        for place, (unit, row) in enumerate(here):
            members: dict[str, Member | None] = dict.fromkeys(self._names)
            for name in self.modules:
                origin, columns = swapped[name][place] if name in swapped else (unit, row)
                members[name] = self._member(origin, columns, name)
            entries.append(Entry(row["key"], row["source_id"], self.corpus.path, members))
        return entries

    def _read(self, rows: Ints, names: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
        """(unit, its row) for each row number."""
        numbers = rows if self._chosen is None else self._chosen[rows]
        places = np.searchsorted(self._starts, numbers, side="right") - 1
        new = [int(place) for place in np.unique(places) if int(place) not in self._tables]
        read: dict[int, pa.Table] = {}
        if len(new) > 1:  # the first batch after a seek is of as many units as samples
            with ThreadPoolExecutor(min(_READERS, len(new))) as pool:
                read = dict(zip(new, pool.map(self._table, new), strict=True))
        found: list[tuple[int, dict[str, Any]]] = []
        for number, place in zip(numbers, places, strict=True):
            table = (read[int(place)] if int(place) in read else self._table(int(place))).select(names)
            row = int(number - self._starts[place])
            found.append((self.corpus.units[place], table.slice(row, 1).to_pylist()[0]))
        return found

    def _table(self, place: int) -> pa.Table:
        """The rows of a unit."""
        with self._lock:
            table = self._tables.get(place)
            if table is not None:
                self._tables.move_to_end(place)
                return table
        unit = self.corpus.units[place]
        also = _OF_MOVIES if self._from_movies else ()
        wanted = list(dict.fromkeys(["key", "source_id", *also, *self._stored]))
        table = self.corpus.fields(wanted, [unit]).combine_chunks()
        with self._lock:
            if place not in self._tables:  # another thread may have read it meanwhile
                self._tables[place] = table
                self._kept_bytes += table.nbytes
            while len(self._tables) > 1 and self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= self._tables.popitem(last=False)[1].nbytes
        return table

    def _member(self, unit: int, row: Mapping[str, Any], name: str) -> Member | None:
        column, clip = row.get(name), None
        if column is None and name in self._from_movies and row["video"] is not None:
            name, column, clip = "video", row["video"], Clip(SourceId(""), row["start_ns"], row["end_ns"])
        return None if column is None else Member(tar_of(self.corpus.path, unit, name, column), column, clip)

    def _of_all(self, fields: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        """By field, as `of`."""
        columns = self._outline.read(list(dict.fromkeys(fields)))
        if self._chosen is None:
            return columns
        chosen = pa.array(self._chosen)
        return {field: column.take(chosen) for field, column in columns.items()}

    def _sizes(self, name: str) -> list[str]:
        """Fields that are null where a sample has none of the modality."""
        return [f"{stored}.size" for stored in self._columns(name)]

    def _present(self, name: str, columns: Mapping[str, pa.ChunkedArray]) -> np.ndarray:
        there = np.zeros(len(self), bool)
        for size in self._sizes(name):
            there |= columns[size].is_valid().to_numpy()
        return there

    def _columns(self, name: str) -> list[str]:
        """Sidecar columns that tell where the modality lies."""
        own = [name] if name in self._stored else []
        return [*own, "video"] if name in self._from_movies and name != "video" else own

    def _deranged(self, name: str, seed: int) -> Ints:
        """For each row the one to read `name` from. Samples that lack it keep lacking it: they take from themselves."""
        present = np.flatnonzero(self.has(name))
        sources = self.sources[present]
        donors = np.arange(len(self), dtype=np.int64)
        donors[present] = present[derangement(sources, seed)]
        return donors


def _from_movies(corpus: Corpus, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that are taken from movies where a sample lacks the part.

    Not what a build was to make: if a sample lacks it, there is none.
    """
    stored = {short_name(name) for name in corpus.modalities}
    if "video" not in stored:
        return ()
    return tuple(name for name in IN_MOVIES if name in names and (corpus.is_indexed or name not in stored))
