"""One sample of a corpus as a model sees it: sidecar row -> bytes -> pieces -> array."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import xxhash

from omniloom.modalities import Modality, codecs, load, short_name
from omniloom.modalities.base import Codec, Window
from omniloom.pipeline.corpus import Corpus
from omniloom.pipeline.joined import part_facts, tar_of
from omniloom.pipeline.plan import Ints, derangement
from omniloom.pipeline.ranges import Span
from omniloom.pipeline.reader import Ahead, ShardReader, SpanReader
from omniloom.pipeline.remote import RemoteError

if TYPE_CHECKING:
    from omniloom.pipeline.dali import DaliDecoder

View: TypeAlias = Mapping[str, "np.ndarray | str | None"]
"""By modality: the array or text that its stem describes; None where the sample lacks it."""


class BadSampleError(ValueError):
    """A sample could not be read: its bytes are damaged, or not what its modality writes."""

    def __init__(self, entry: Entry, modality: str, what: str) -> None:
        member = entry.members[modality]
        self.key = entry.key
        self.shard = member.tar.relative_to(entry.corpus).as_posix() if member else ""
        self.modality = modality
        self.what = what
        super().__init__(
            f"sample {entry.key} of {self.shard} has bad {modality}: {what}; run `omniloom check {entry.corpus}`,"
            " or go on without it with on_bad='skip'"
        )


@dataclass(frozen=True, slots=True)
class Member:
    """One part in its shard: the modality's struct of the sidecar row."""

    tar: Path
    column: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one sample's parts lie; None for a modality that it lacks."""

    key: str
    source: str
    corpus: Path
    members: Mapping[str, Member | None]


class Rows:
    """The samples of one corpus that a loader goes through, and where their parts lie."""

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
        self._names = tuple(names)
        table = corpus.table(["key", "unit", "source_id", *self.modules], split)
        if not len(table):
            where = f"split {split!r} of {corpus.path}" if split is not None else str(corpus.path)
            raise ValueError(f"{where} holds no samples: `omniloom stats {corpus.path}` shows what there is")
        table = table.sort_by("key") if by_key else table
        self._table = table.combine_chunks()  # taking rows of many chunks would join them each time
        unknown = [name for name in permute if name not in names]
        if unknown:
            raise ValueError(
                f"permute names {', '.join(unknown)}, which is not among the modalities {', '.join(names)}"
            )
        self._donors = {name: self._deranged(name, seed) for name in permute if name in self.modules}

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def digest(self) -> str:
        """Hash of the keys in their order."""
        return xxhash.xxh3_64_hexdigest("\n".join(self._table["key"].to_pylist()).encode())

    def take(self, rows: Ints) -> list[Entry]:
        """Entries at row numbers int64 (n,). About 20 us a sample."""
        taken = self._table.take(pa.array(rows)).to_pylist()
        swapped = {
            name: self._table.select(["unit", name]).take(pa.array(donors[rows])).to_pylist()
            for name, donors in self._donors.items()
        }
        entries: list[Entry] = []
        for place, row in enumerate(taken):
            origin = {name: swapped[name][place] if name in swapped else row for name in self.modules}
            members = {name: self._member(origin[name], name) if name in origin else None for name in self._names}
            entries.append(Entry(row["key"], row["source_id"], self.corpus.path, members))
        return entries

    def _member(self, row: Mapping[str, Any], name: str) -> Member | None:
        column = row[name]
        return None if column is None else Member(tar_of(self.corpus.path, row["unit"], name, column), column)

    def _deranged(self, name: str, seed: int) -> Ints:
        """For each row the one to read `name` from. Samples that lack it keep lacking it: they take from themselves."""
        present = np.flatnonzero(self._table[name].is_valid().to_numpy())
        sources = np.asarray(self._table["source_id"].to_pylist(), np.str_)[present]
        donors = np.arange(len(self._table), dtype=np.int64)
        donors[present] = present[derangement(sources, seed)]
        return donors


class Decoder:
    """Codec and pieces -> arrays: DALI where asked for and able, our own codecs for the rest. Counts who did what."""

    def __init__(self, backend: Literal["auto", "dali", "cpu"], threads: int) -> None:
        self.dali = _dali(backend, threads)
        self._ran: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def report(self, codecs_used: Sequence[str]) -> str:
        """For example "jpeg: dali (cpu) 96 pieces; json: cpu 24 pieces"."""
        lines: list[str] = []
        for codec in codecs_used:
            ran = [f"{who} {count} pieces" for (name, who), count in sorted(self._ran.items()) if name == codec]
            lines.append(f"{codec}: {', '.join(ran) or 'nothing decoded yet'}")
        return "; ".join(lines)

    def decode(self, codec: Codec, pieces: Sequence[bytes]) -> list[Any]:
        """On the CPU, by our own codecs. Raises ValueError for damaged bytes."""
        self._count(codec, "cpu", len(pieces))
        return [codecs.decode(codec, piece) for piece in pieces]

    def _count(self, codec: Codec, who: str, pieces: int) -> None:
        with self._lock:
            self._ran[codec, who] += pieces

    def decode_many(self, samples: Sequence[dict[str, Any]], modules: Mapping[str, Modality]) -> None:
        """Replaces, in samples as `fetch` gave them, pieces by their arrays: all of one codec in one call to DALI."""
        assert self.dali is not None
        by_codec: dict[Codec, list[tuple[list[Any], int]]] = {}
        for sample in samples:
            for name, fetched in sample.items():
                if fetched is not None:
                    places = by_codec.setdefault(modules[name].codec, [])
                    places += ((fetched.pieces, position) for position in range(len(fetched.pieces)))
        for codec, places in by_codec.items():
            arrays = self.dali.decode(codec, [pieces[position] for pieces, position in places])
            for (pieces, position), array in zip(places, arrays, strict=True):
                if array is not None:
                    pieces[position] = array
                    self._count(codec, self.dali.name, 1)
                    continue
                try:
                    [pieces[position]] = self.decode(codec, [pieces[position]])
                except ValueError as error:
                    pieces[position] = error  # of one sample: `finish` raises it


@dataclass(frozen=True, slots=True)
class Fetched:
    """One part's pieces, and the facts of just those."""

    facts: Mapping[str, Any]
    pieces: list[Any]
    """Bytes, or what they decode to."""


def fetch(
    entry: Entry, window: Window, modules: Mapping[str, Modality], reader: SpanReader, decoder: Decoder | None
) -> dict[str, Any]:
    """Reads, checks and (given a decoder) decodes the pieces that the window shows: `Fetched` or None, by modality.

    Raises BadSampleError, naming the modality; RemoteError if a store does not answer: that is no fault of the sample.
    """
    fetched: dict[str, Any] = {}
    for name, module in modules.items():
        member = entry.members[name]
        if member is None:
            fetched[name] = None
            continue
        try:
            facts, pieces = _read_pieces(member, module, window, reader)
            fetched[name] = Fetched(facts, pieces if decoder is None else decoder.decode(module.codec, pieces))
        except ValueError as error:
            raise BadSampleError(entry, name, str(error)) from error
        except RemoteError as error:
            raise RemoteError(f"sample {entry.key}, its {name}: {error}") from error
    return fetched


def read_ahead(
    items: Sequence[tuple[Entry, Window]], modules: Mapping[str, Modality], reader: ShardReader
) -> SpanReader:
    """Begins to read what samples of corpora elsewhere will show, all at once; gives what `fetch` should read with."""
    remote = {corpus for corpus in {entry.corpus for entry, _ in items} if reader.is_remote(corpus)}
    if not remote:
        return reader
    return Ahead(reader, (_parts(entry, window, modules) for entry, window in items if entry.corpus in remote))


def _parts(entry: Entry, window: Window, modules: Mapping[str, Modality]) -> Iterator[tuple[Path, Sequence[Span]]]:
    for name, module in modules.items():
        if member := entry.members[name]:
            with suppress(ValueError):  # `fetch` says what is wrong with it
                yield member.tar, _spans(member, module, window)[1]


def finish(entry: Entry, window: Window, modules: Mapping[str, Modality], fetched: Mapping[str, Any]) -> View:
    """Decoded pieces to the arrays a model reads. Raises BadSampleError, naming the modality."""
    view: dict[str, np.ndarray | str | None] = {}
    for name, module in modules.items():
        item: Fetched | None = fetched[name]
        if item is None:
            view[name] = None
            continue
        try:
            for piece in item.pieces:
                if isinstance(piece, ValueError):
                    raise piece
            view[name] = module.tensor(module.assemble(item.pieces, item.facts), window)
        except ValueError as error:
            raise BadSampleError(entry, name, str(error)) from error
    return view


def _read_pieces(
    member: Member, module: Modality, window: Window, reader: SpanReader
) -> tuple[Mapping[str, Any], list[Any]]:
    shown, spans = _spans(member, module, window)
    wanted = list(dict.fromkeys(spans))  # a frame may be shown twice
    read = dict(zip(wanted, reader.read_many(member.tar, wanted), strict=True))
    return shown, [read[span] for span in spans]


def _spans(member: Member, module: Modality, window: Window) -> tuple[Mapping[str, Any], list[Span]]:
    """Facts of the pieces that the window shows, and where in the tar these lie."""
    column = member.column
    facts = part_facts(column)
    shown = module.narrow(facts, window)
    hashes = {(0, column["size"]): column["xxh3"]}
    if column["pieces_xxh3"] is not None:
        hashes |= zip(module.pieces(facts, column["size"]), column["pieces_xxh3"], strict=True)
    pieces = module.pieces(shown, column["size"])
    return shown, [(column["offset"] + offset, size, hashes.get((offset, size))) for offset, size in pieces]


def _dali(backend: Literal["auto", "dali", "cpu"], threads: int) -> DaliDecoder | None:
    if backend not in {"auto", "dali", "cpu"}:
        raise ValueError(f"backend is auto, dali or cpu, got {backend!r}")
    if backend == "cpu":
        return None
    import torch

    from omniloom.pipeline import dali

    gpu = torch.cuda.is_available()
    if backend == "auto" and not (gpu and dali.installed()):
        return None
    return dali.DaliDecoder(device_id=torch.cuda.current_device() if gpu else None, num_threads=threads)
