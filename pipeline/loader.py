"""Plan -> bytes -> decoded batch: streams a corpus to a model, the same samples in the same order on any machines."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import xxhash

from omniloom.modalities import short_name
from omniloom.modalities.base import Window
from omniloom.pipeline.batch import Batch
from omniloom.pipeline.corpus import Corpus, open_corpus
from omniloom.pipeline.device import stacked as stacked_on_device
from omniloom.pipeline.order import PADDING, Order, Sources, Wishes
from omniloom.pipeline.permutation import Ints, key_of
from omniloom.pipeline.plan import Pick, Plan
from omniloom.pipeline.processes import Processes, Told, prepare
from omniloom.pipeline.reader import ShardReader
from omniloom.pipeline.rows import Entry, Rows
from omniloom.pipeline.slabs import Shapes, Slab, Slabs
from omniloom.pipeline.threads import Threads, Watch
from omniloom.pipeline.view import BadSampleError, Decoder, View, fetch, finish, placed, read_ahead, view_in

U = TypeVar("U")

OnBad = Literal["raise", "skip", "quarantine"]
Backend = Literal["auto", "dali", "cpu"]
Tail = Literal["drop", "pad", "partial"]

_BATCHES_AHEAD = 2
_THREADS = 4
"""Workers that are threads if nothing is said. The fifth makes nothing faster: all of them wait for Python's lock."""
_SUBSTITUTES = 8
"""Samples tried in place of a bad one before giving up."""
_MANY = 1_000_000
"""Samples whose sidecars would not stay in memory: shuffled in blocks of shards, unless told otherwise."""
_STATE = 2
"""Version of `state_dict`."""


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that could not be read."""

    key: str
    shard: str
    modality: str
    what: str


class Loader:
    """Iterates over batches of a corpus.

    Training (`train=True`): endless, or `epochs` long; shuffled by the seed; full batches only, unless `tail` says
    otherwise. Epochs follow one another without a gap, so that the order does not depend on the batch size.
    Evaluation: every sample once, in the order of keys, with a smaller last batch. Global batch s holds positions
    s * world_size * batch_size and on; rank r takes the r-th part of it. All order and all randomness are functions of
    (seed, epoch, key).

    Batches can be asked to hold like samples. A micro-batch is `micro_batch` samples side by side in one rank's batch:
    all of them have and lack the same modalities of `share`, lie in the same of the `buckets`, and their clips are of
    different sources, or of one, as `sources` says. All that is decided from sidecars, before anything is decoded.

    Only the bytes of the asked modalities are read, of members in pieces only the pieces shown; each is checked
    against its hash. A sample without a modality has a row of zeros, or "", and `present` False.

    Threads decode, since the codecs release Python's lock, or processes, which write to memory that the batch is made
    of; nothing forks, so CUDA may be in use. A Loader is for one iteration at a time. A file system that does not
    answer ends the iteration with a TimeoutError that names the shard, after `OMNILOOM_TIMEOUT_S` (180); with
    workers=0 the caller itself hangs, as in any read.
    """

    def __init__(
        self,
        corpus: Corpus | Path | str | None,
        modalities: Sequence[str],
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        processes: bool | None = None,
        backend: Backend = "auto",
        on_bad: OnBad = "raise",
        max_bad: int = 100,
        mixture: Mapping[Corpus | Path | str, float] | None = None,
        window: Window | None = None,
        train: bool = True,
        split: str | None = None,
        epochs: int | None = None,
        permute: Sequence[str] = (),
        micro_batch: int | None = None,
        share: Sequence[str] = (),
        buckets: Mapping[str, Sequence[float]] | None = None,
        sources: Sources = "any",
        shuffle: Literal["auto", "global", "blocks"] = "auto",
        open_shards: int = 256,
        tail: Tail | None = None,
    ) -> None:
        """Reads the sidecars' columns of the asked modalities, and no tar.

        batch_size: samples a rank. workers: cores to decode with; 0 decodes in the caller's thread. processes: whether
        workers are processes, which take seconds to start, or threads, of which more than four or five gain nothing;
        None: processes for more than four workers without DALI. backend: "auto" takes DALI where there is a GPU and
        DALI; the tensors that it makes are on the GPU then. on_bad: "raise" a `BadSampleError`; "skip" takes another
        sample for it in training and leaves it out in evaluation; "quarantine" also lists it in the corpus'
        quarantine.jsonl; both raise once more than `max_bad` samples are bad. mixture: corpora and their weights, in
        place of `corpus`. window: how much of a sample a batch shows. split: only samples of that split. permute:
        modalities read from another sample of another source, by a fixed derangement: the control of an experiment.

        micro_batch: if samples are to be alike; it divides batch_size and is batch_size if nothing else is said. The
        sequence depends on it, so state it when the number of ranks may change. share: modalities that a micro-batch
        has or lacks as one. buckets: edges by sidecar field, as {"duration_ns": [5e9, 10e9]}. sources: "apart" or
        "together". shuffle: "global" over all samples, or in "blocks" of `open_shards` shards, for shards far away
        and corpora of more than a million samples. tail: of the epochs' last batch, and with micro-batches of each
        class: "drop" it, "pad" it with rows for which `Batch.real` is False, or give each rank its "partial" share,
        perhaps an empty batch, so that all ranks take equally many steps.

        Raises ValueError for arguments that cannot be, naming what can.
        """
        if (corpus is None) == (mixture is None):
            raise ValueError("give a corpus, or None and a mixture of corpora with their weights")
        if batch_size < 1 or not 0 <= rank < world_size or workers < 0:
            raise ValueError(
                f"needs batch_size >= 1, 0 <= rank < world_size and workers >= 0,"
                f" got {batch_size = }, {rank = }, {world_size = }, {workers = }"
            )
        if processes and not workers:
            raise ValueError("processes=True needs workers, and workers=0 decodes in the caller's thread")
        shares = dict(mixture) if mixture is not None else {corpus: 1.0}
        corpora = [item if isinstance(item, Corpus) else open_corpus(item) for item in shares if item is not None]
        names = tuple(short_name(name) for name in modalities)
        self._rows = [Rows(item, names, split, by_key=not train, permute=permute, seed=seed) for item in corpora]
        self._modules = _modules(self._rows, names)
        alike = bool(share or buckets or sources != "any")
        size = micro_batch or (batch_size if alike else 1)
        if batch_size % size or (alike and not train):
            raise ValueError(
                f"micro_batch divides batch_size, got {size} and {batch_size}"
                if train
                else "share, buckets and sources are for training: evaluation goes by keys"
            )
        self._tail: Tail = tail or ("drop" if train else "partial")
        self._reader = ShardReader()
        far = sum(map(len, self._rows)) > _MANY or any(self._reader.is_remote(item.path) for item in corpora)
        chosen = ("blocks" if far and sources == "any" else "global") if shuffle == "auto" else shuffle
        wishes = Wishes(chosen if train else "none", open_shards, size, sources, pad=self._tail != "drop")
        orders = [
            _order(rows, key_of(seed, number), wishes, share, buckets or {}) for number, rows in enumerate(self._rows)
        ]
        self._plan = Plan(tuple(orders), tuple(shares.values()), seed, size)
        self._wishes = f"{[order.wishes for order in orders]} {sorted(share)} {sorted((buckets or {}).items())}"
        self._window = replace(window or Window(), train=train)
        self._batch_size, self._rank, self._world_size, self._workers = batch_size, rank, world_size, workers
        self._on_bad, self._max_bad, self._train, self._seed = on_bad, max_bad, train, seed
        self._position = 0
        self._total = self._count(epochs)
        self._decoder = Decoder(backend, threads=max(1, workers))
        if processes and self._decoder.dali:
            raise ValueError("DALI decodes in the process that trains: leave processes=True, or say backend='cpu'")
        self._processes = workers > _THREADS and not self._decoder.dali if processes is None else processes
        if self._processes:
            prepare()
        # Enough to do for all workers, also where a batch is smaller than their number.
        self._ahead = max(_BATCHES_AHEAD, -(-workers // batch_size)) if workers else 0
        self._bad: dict[str, BadSample] = {}
        self._lock = threading.Lock()

    # --- what it will do, and what it did ---------------------------------------------------------------------

    @property
    def num_steps(self) -> int | None:
        """Batches from the first to the last, or None if there is no last one."""
        return None if self._total is None else -(-self._total // self._global_batch)

    @property
    def bad(self) -> list[BadSample]:
        """Samples that could not be read so far, each once."""
        with self._lock:
            return list(self._bad.values())

    @property
    def bytes_read(self) -> int:
        """From tars, so far."""
        return self._reader.bytes_read

    @property
    def backend_report(self) -> str:
        """Which decoder ran for which codec, how many pieces it decoded, and what DALI left to the CPU, and why."""
        return self._decoder.report(sorted({module.codec for module in self._modules.values()}))

    def keys_at(self, step: int) -> list[str]:
        """Keys that this rank's batch holds at a step, if none of its samples is bad; "" for padding. Reads no tar."""
        return [entry[0].key if entry else "" for entry in self._entries(self._pick(self._slice(step)))]

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, and the bad samples this rank has met: small. Any rank's serves all of them.

        Batches decoded ahead do not count.
        """
        bad = [asdict(sample) for sample in self.bad]
        return {"version": _STATE, "position": self._position, "seed": self._seed, "order": self._order, "bad": bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state_dict` was taken, at once, also with another batch size or number of ranks.

        Raises ValueError if seed, samples or micro-batches are others than then: the sequence could not be continued.
        """
        if state.get("version") != _STATE:
            raise ValueError(
                f"this state has version {state.get('version')}, this omniloom continues version {_STATE}: begin the"
                " run again, or go on with the omniloom that wrote it"
            )
        if state["seed"] != self._seed or state["order"] != self._order:
            raise ValueError(
                "this state belongs to another sequence: continue with the same corpus, split, mixture, micro-batches"
                f" and seed (it had seed {state['seed']}, this loader has {self._seed}), or start a new run"
            )
        self._position = int(state["position"])
        with self._lock:
            self._bad = {sample["key"]: BadSample(**sample) for sample in state["bad"]}

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the present position; after the last one, from the start."""
        if self._total is not None and self._position >= self._total:
            self._position = 0
        with ExitStack() as stack:
            stack.callback(self._decoder.close)
            crew = self._crew(stack)
            coordinators = _executor(stack, self._ahead, self._reader.watch) if self._ahead else None
            queue: deque[tuple[int, Callable[[], Batch]]] = deque()
            start = self._position
            while True:
                while len(queue) <= self._ahead and not self._is_over(start):
                    positions = self._slice(start // self._global_batch)
                    made = self._later(coordinators, positions, crew)
                    queue.append((start + self._global_batch, made))
                    start += self._global_batch
                if not queue:
                    return
                end, batch_of = queue.popleft()
                batch = batch_of()
                self._position = end
                if len(batch) or self._world_size > 1:  # ranks that take unequally many steps wait for ever
                    batch.hand_over()
                    yield batch

    # --- order ------------------------------------------------------------------------------------------------

    @property
    def _global_batch(self) -> int:
        return self._batch_size * self._world_size

    @property
    def _order(self) -> str:
        """Hash of everything that the sequence depends on beside seed and position."""
        rows = "".join(rows.digest for rows in self._rows)
        return xxhash.xxh3_64_hexdigest(f"{rows}:{self._plan.weights}:{self._wishes}".encode())

    def _count(self, epochs: int | None) -> int | None:
        """Positions to go through in all."""
        if not self._train and (len(self._rows) > 1 or epochs not in {None, 1}):
            raise ValueError("evaluation goes once through one corpus: give no mixture and no epochs, or train=True")
        if self._train and epochs is None:
            return None
        total = (epochs or 1) * self._plan.length
        if self._tail == "drop":
            total -= total % self._global_batch
        if not total:
            raise ValueError(
                f"{epochs = } of {self._plan.length} samples hold no full batch of {self._global_batch}: lower"
                " batch_size, or say tail='partial' or tail='pad'"
            )
        return total

    def _is_over(self, start: int) -> bool:
        return self._total is not None and start >= self._total

    def _slice(self, step: int) -> Ints:
        """This rank's positions of a global batch: int64, at most (batch_size,); beyond the last if it is padded."""
        start = step * self._global_batch
        left = self._global_batch if self._total is None else min(self._global_batch, self._total - start)
        if self._tail == "pad" or left == self._global_batch:
            first = start + self._rank * self._batch_size
            return np.arange(first, first + self._batch_size, dtype=np.int64)
        # What is left, to all ranks alike and in whole micro-batches.
        micros, size = left // self._plan.micro_batch, self._plan.micro_batch
        first, last = (size * (micros * rank // self._world_size) for rank in (self._rank, self._rank + 1))
        return np.arange(start + first, start + last, dtype=np.int64)

    def _pick(self, positions: Ints, retry: int = 0) -> Pick:
        """What lies at positions; padding at those beyond the last."""
        if self._total is None:
            return self._plan.at(positions, retry)
        pick = self._plan.at(np.minimum(positions, self._total - 1), retry)
        pick.row[positions >= self._total] = PADDING
        return pick

    def _entries(self, pick: Pick) -> list[tuple[Entry, Window] | None]:
        """What lies at picked places, with the window each is seen through; None for padding."""
        found: list[tuple[Entry, Window] | None] = [None] * len(pick.row)
        for number, rows in enumerate(self._rows):
            places = np.flatnonzero((pick.corpus == number) & (pick.row != PADDING))
            with self._reader.watch.reading(rows.corpus.path, "the sidecars of "):
                entries = rows.take(pick.row[places])
            for place, entry in zip(places, entries, strict=True):
                seed = xxhash.xxh3_64_intdigest(f"{self._seed}:{pick.epoch[place]}:{entry.key}".encode())
                found[place] = (entry, replace(self._window, seed=seed))
        return found

    # --- making a batch ---------------------------------------------------------------------------------------

    def _crew(self, stack: ExitStack) -> _Crew:
        """Starts what decodes, which ends when the stack unwinds."""
        watch = self._reader.watch
        if not self._processes:
            return _Crew(_executor(stack, self._workers, watch) if self._workers else None)
        slabs = Slabs(self._ahead + 1)
        processes = Processes(self._workers, self._modules, watch.limit_s, slabs)
        stack.callback(processes.close)
        return _Crew(_executor(stack, self._workers, watch), processes, slabs)

    def _later(self, coordinators: Executor | None, positions: Ints, crew: _Crew) -> Callable[[], Batch]:
        """Starts making a batch, and returns how to get it; without threads it is made when asked for."""
        if coordinators is None:
            return lambda: self._make(positions, crew)
        future: Future[Batch] = coordinators.submit(self._make, positions, crew)
        return lambda: self._reader.watch.result(future)

    def _make(self, positions: Ints, crew: _Crew) -> Batch:
        with self._decoder.lane():
            return self._made(positions, crew)

    def _made(self, positions: Ints, crew: _Crew) -> Batch:
        found = self._entries(self._pick(positions))
        sheet = self._sheet(len(found), crew)
        places = [place for place, item in enumerate(found) if item is not None]
        views = self._views([item for item in found if item is not None], places, sheet, crew)
        samples: dict[int, tuple[Entry, View] | None] = dict.fromkeys(range(len(found)))
        for place, (entry, view) in zip(places, views, strict=True):
            if not isinstance(view, BadSampleError):
                samples[place] = entry, view
                continue
            self._note(entry, view)
            if self._train:
                samples[place] = self._substitute(positions[place], place, sheet, crew)
            else:
                del samples[place]
        sheet.blank([place for place, item in samples.items() if item is None])
        tensors = sheet.tensors
        if len(samples) < len(found):
            tensors = {name: tensor[list(samples)] for name, tensor in tensors.items()}
        return self._batch(list(samples.values()), tensors)

    def _views(
        self, items: Sequence[tuple[Entry, Window]], places: Sequence[int], sheet: _Sheet, crew: _Crew
    ) -> list[tuple[Entry, View | BadSampleError]]:
        """Reads and decodes samples to rows of a sheet; those that are bad come back as the error they gave."""
        if crew.processes:
            views = self._by_processes(items, places, sheet, crew)
        elif self._decoder.dali:
            views = self._by_dali(items, places, sheet, crew.threads)
        else:
            reader = read_ahead(items, self._modules, self._reader)
            modules, decoder, used = self._modules, self._decoder, sheet.slab is not None

            def show(item: tuple[Entry, Window], place: int) -> View | BadSampleError:
                return view_in(sheet.row(place), *item, modules, reader, decoder, used=used)

            views = _map(crew.threads, show, items, places)
        return [(entry, view) for (entry, _), view in zip(items, views, strict=True)]

    def _by_processes(
        self, items: Sequence[tuple[Entry, Window]], places: Sequence[int], sheet: _Sheet, crew: _Crew
    ) -> list[View | BadSampleError]:
        """One piece of the batch to each process: the first batch is there as soon as can be."""
        processes, slab = crew.processes, sheet.slab
        assert processes is not None
        assert slab is not None
        size = max(1, -(-len(items) // self._workers))
        starts = range(0, len(items), size)

        def show(start: int) -> Told:
            part = slice(start, start + size)
            return processes.show(items[part], places[part], slab, sheet.shapes)

        views: list[View | BadSampleError] = []
        for told in _map(crew.threads, show, starts):
            self._reader.count(told.bytes_read)
            self._decoder.note(told.decoded)
            views += told.views
        return views

    def _by_dali(
        self,
        items: Sequence[tuple[Entry, Window]],
        places: Sequence[int],
        sheet: _Sheet,
        threads: Executor | None,
    ) -> list[View | BadSampleError]:
        """Threads read, DALI decodes a batch at once, threads do what it left."""
        reader = read_ahead(items, self._modules, self._reader)

        def read(item: tuple[Entry, Window]) -> dict[str, Any] | BadSampleError:
            try:
                return fetch(*item, self._modules, reader, None)
            except BadSampleError as error:
                return error

        def show(
            item: tuple[Entry, Window], fetched: dict[str, Any] | BadSampleError, place: int
        ) -> View | BadSampleError:
            if isinstance(fetched, BadSampleError):
                return fetched
            try:
                return placed(finish(*item, self._modules, fetched, self._decoder), sheet.row(place), used=False)
            except BadSampleError as error:
                return error

        fetched = _map(threads, read, items)
        good = [(item, window) for item, (_, window) in zip(fetched, items, strict=True) if isinstance(item, dict)]
        self._decoder.decode_many([item for item, _ in good], [window for _, window in good], self._modules)
        return _map(threads, show, items, fetched, places)

    def _substitute(self, position: int, place: int, sheet: _Sheet, crew: _Crew) -> tuple[Entry, View]:
        """Another sample for a bad one, so that every rank's batch stays full: chosen by position alone."""
        retry = 0
        while True:
            retry += 1
            [item] = self._entries(self._pick(np.array([position], np.int64), retry))
            assert item is not None, "a substitute is a sample"
            [(entry, view)] = self._views([item], [place], sheet, crew)
            if not isinstance(view, BadSampleError):
                return entry, view
            self._note(entry, view)
            if retry == _SUBSTITUTES:
                raise view

    def _note(self, entry: Entry, error: BadSampleError) -> None:
        """Raises, counts or writes down a bad sample."""
        if self._on_bad == "raise":
            raise error
        bad = BadSample(entry.key, error.shard, error.modality, error.what)
        with self._lock:
            if entry.key in self._bad:
                return
            self._bad[entry.key] = bad
            if len(self._bad) > self._max_bad:
                raise ValueError(
                    f"more than {self._max_bad} samples are bad, the last is {entry.key} ({error}): run `omniloom check"
                    f" {entry.corpus}` and repair the corpus, or raise max_bad"
                ) from error
            if self._on_bad == "quarantine":
                line = json.dumps(asdict(bad)) + "\n"
                handle = os.open(entry.corpus / "quarantine.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                with os.fdopen(handle, "wb", buffering=0) as file:  # one write: ranks append to the same file
                    file.write(line.encode())

    def _sheet(self, count: int, crew: _Crew) -> _Sheet:
        """Rows for a batch's arrays. With a GPU they are in memory that it copies from while it computes.

        DALI makes most of its arrays elsewhere: rows that nobody writes to cost nothing, unless they are pinned.
        """
        stems = {name: module.stem for name, module in self._modules.items() if module.stem.kind != "text"}
        shapes = {name: (count, *_shape(stem.kind, stem.channels, self._window)) for name, stem in stems.items()}
        if crew.slabs:
            slab, arrays = crew.slabs.take(shapes)
            return _Sheet({name: torch.from_numpy(array) for name, array in arrays.items()}, shapes, slab)
        if torch.cuda.is_available() and not self._decoder.dali:
            return _Sheet({name: torch.zeros(shape, pin_memory=True) for name, shape in shapes.items()}, shapes)
        # NumPy asks for large pages and PyTorch does not: writing to new ones takes a quarter of the time.
        arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        return _Sheet({name: torch.from_numpy(array) for name, array in arrays.items()}, shapes)

    def _batch(self, samples: Sequence[tuple[Entry, View] | None], tensors: dict[str, torch.Tensor]) -> Batch:
        """None is padding."""
        texts: dict[str, list[str]] = {}
        present: dict[str, torch.Tensor] = {}
        for name in self._modules:
            values = [item[1][name] if item else None for item in samples]
            present[name] = torch.tensor([value is not None for value in values], dtype=torch.bool)
            if name not in tensors:
                texts[name] = [value if isinstance(value, str) else "" for value in values]
                continue
            if any(isinstance(value, torch.Tensor) for value in values):
                tensors[name] = stacked_on_device(values, tuple(tensors[name].shape[1:]))
            elif torch.cuda.is_available() and not tensors[name].is_pinned():
                tensors[name] = tensors[name].pin_memory()
        keys = [item[0].key if item else "" for item in samples]
        sources = [item[0].source if item else "" for item in samples]
        return Batch(keys, sources, tensors, present, texts)


@dataclass(frozen=True, slots=True)
class _Crew:
    """Who decodes: the caller's thread, threads, or processes, to each of which a thread speaks."""

    threads: Executor | None
    processes: Processes | None = None
    slabs: Slabs | None = None


@dataclass(frozen=True, slots=True)
class _Sheet:
    """The arrays of a batch in the making, a row a sample."""

    tensors: dict[str, torch.Tensor]
    shapes: Shapes
    slab: Slab | None = None
    """What processes write to; anything may stand there. All other sheets begin with zeros."""

    def row(self, place: int) -> dict[str, np.ndarray]:
        return {name: tensor[place].numpy() for name, tensor in self.tensors.items()}

    def blank(self, places: Sequence[int]) -> None:
        """Makes rows zeros, of padding."""
        for tensor in self.tensors.values() if self.slab and places else ():
            tensor[places] = 0


def _order(
    rows: Rows, seed: int, wishes: Wishes, share: Sequence[str], buckets: Mapping[str, Sequence[float]]
) -> Order:
    """The order of one corpus's rows. In evaluation they are in order already."""
    units = rows.per_unit if wishes.shuffle != "none" else np.array([len(rows)], np.int64)
    sources = rows.sources if wishes.sources != "any" else None
    return Order(units, seed, wishes, classes=rows.classes(share, buckets), sources=sources)


def _modules(rows: Sequence[Rows], names: Sequence[str]) -> dict[str, Any]:
    """The modality modules by short name. Raises ValueError if no corpus has one, or it is not for training."""
    found = {name: module for item in reversed(rows) for name, module in item.modules.items()}
    known = sorted({short_name(name) for item in rows for name in item.corpus.modalities})
    for name in names:
        if name not in found:
            raise ValueError(f"the corpus has no modality {name!r}: it has {', '.join(known)}")
        if found[name].stem.kind == "none":
            raise ValueError(f"{name!r} is for looking, not for training: ask for others of {', '.join(known)}")
    if not names:
        raise ValueError(f"name the modalities to read: the corpus has {', '.join(known)}")
    return {name: found[name] for name in names}


def _shape(kind: str, channels: int, window: Window) -> tuple[int, ...]:
    """Of one sample's array, as the stem declares it."""
    shapes = {
        "image": (window.num_frames, channels, window.image_px, window.image_px),
        "mel": (window.num_samples,),
        "points": (window.num_points, channels),
    }
    return shapes[kind]


def _map(pool: Executor | None, function: Callable[..., U], *items: Sequence[Any]) -> list[U]:
    return list(map(function, *items) if pool is None else pool.map(function, *items))


def _executor(stack: ExitStack, threads: int, watch: Watch) -> Executor:
    """A pool that is told to stop when the stack unwinds, also when the consumer stops early."""
    executor = Threads(threads, hopeless=watch.hangs)
    stack.callback(executor.shutdown, wait=True, cancel_futures=True)
    return executor
