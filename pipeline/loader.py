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
from omniloom.pipeline.reader import ShardReader
from omniloom.pipeline.rows import Entry, Rows
from omniloom.pipeline.threads import Threads, Watch
from omniloom.pipeline.view import BadSampleError, Decoder, View, fetch, finish, read_ahead

U = TypeVar("U")

OnBad = Literal["raise", "skip", "quarantine"]
Backend = Literal["auto", "dali", "cpu"]
Tail = Literal["drop", "pad", "partial"]

_BATCHES_AHEAD = 2
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

    Threads decode, since the codecs release Python's lock; nothing forks, so CUDA may be in use. A Loader is for one
    iteration at a time. A file system that does not answer ends the iteration with a TimeoutError that names the shard,
    after `OMNILOOM_TIMEOUT_S` (180); with workers=0 the caller itself hangs, as in any read.
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

        batch_size: samples a rank. workers: threads; 0 decodes in the caller's. backend: "auto" takes DALI where there
        is a GPU and DALI; the tensors that it makes are on the GPU then. on_bad: "raise" a `BadSampleError`; "skip"
        takes another sample for it in training and leaves it out in evaluation; "quarantine" also lists it in the
        corpus' quarantine.jsonl; both raise once more than `max_bad` samples are bad. mixture: corpora and their
        weights, in place of `corpus`. window: how much of a sample a batch shows. split: only samples of that split.
        permute: modalities read from another sample of another source, by a fixed derangement: the control of an
        experiment.

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
            coordinators = pool = None
            if self._workers:
                pool = _executor(stack, self._workers, self._reader.watch)
                coordinators = _executor(stack, _BATCHES_AHEAD, self._reader.watch)
            queue: deque[tuple[int, Callable[[], Batch]]] = deque()
            start = self._position
            while True:
                while len(queue) <= (_BATCHES_AHEAD if self._workers else 0) and not self._is_over(start):
                    positions = self._slice(start // self._global_batch)
                    made = self._later(coordinators, positions, pool)
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

    def _later(self, coordinators: Executor | None, positions: Ints, pool: Executor | None) -> Callable[[], Batch]:
        """Starts making a batch, and returns how to get it; without threads it is made when asked for."""
        if coordinators is None:
            return lambda: self._make(positions, None)
        future: Future[Batch] = coordinators.submit(self._make, positions, pool)
        return lambda: self._reader.watch.result(future)

    def _make(self, positions: Ints, pool: Executor | None) -> Batch:
        with self._decoder.lane():
            return self._made(positions, pool)

    def _made(self, positions: Ints, pool: Executor | None) -> Batch:
        found = self._entries(self._pick(positions))
        tensors = self._zeros(len(found))
        rows = [{name: tensor[place].numpy() for name, tensor in tensors.items()} for place in range(len(found))]
        places = [place for place, item in enumerate(found) if item is not None]
        views = self._views([item for item in found if item is not None], [rows[place] for place in places], pool)
        samples: dict[int, tuple[Entry, View] | None] = dict.fromkeys(range(len(found)))
        for place, (entry, view) in zip(places, views, strict=True):
            if not isinstance(view, BadSampleError):
                samples[place] = entry, view
                continue
            self._note(entry, view)
            if self._train:
                samples[place] = self._substitute(positions[place], rows[place])
            else:
                del samples[place]
        if len(samples) < len(found):
            tensors = {name: tensor[list(samples)] for name, tensor in tensors.items()}
        return self._batch(list(samples.values()), tensors)

    def _views(
        self,
        entries: Sequence[tuple[Entry, Window]],
        rows: Sequence[Mapping[str, np.ndarray]],
        pool: Executor | None,
    ) -> list[tuple[Entry, View | BadSampleError]]:
        """Reads and decodes samples to rows of a batch; those that are bad come back as the error they gave."""
        reader = read_ahead(entries, self._modules, self._reader)

        def read(item: tuple[Entry, Window]) -> dict[str, Any] | BadSampleError:
            try:
                return fetch(item[0], item[1], self._modules, reader, None if self._decoder.dali else self._decoder)
            except BadSampleError as error:
                return error

        def show(
            item: tuple[Entry, Window], fetched: dict[str, Any] | BadSampleError, row: Mapping[str, np.ndarray]
        ) -> tuple[Entry, View | BadSampleError]:
            entry, window = item
            if isinstance(fetched, BadSampleError):
                return entry, fetched
            try:
                return entry, _placed(finish(entry, window, self._modules, fetched, self._decoder), row)
            except BadSampleError as error:
                return entry, error

        if not self._decoder.dali:
            return _map(pool, lambda item, row: show(item, read(item), row), entries, rows)
        fetched = _map(pool, read, entries)
        good = [(item, window) for item, (_, window) in zip(fetched, entries, strict=True) if isinstance(item, dict)]
        self._decoder.decode_many([item for item, _ in good], [window for _, window in good], self._modules)
        return _map(pool, show, entries, fetched, rows)

    def _substitute(self, position: int, row: Mapping[str, np.ndarray]) -> tuple[Entry, View]:
        """Another sample for a bad one, so that every rank's batch stays full: chosen by position alone."""
        retry = 0
        while True:
            retry += 1
            [item] = self._entries(self._pick(np.array([position], np.int64), retry))
            assert item is not None, "a substitute is a sample"
            [(entry, view)] = self._views([item], [row], None)
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

    def _zeros(self, count: int) -> dict[str, torch.Tensor]:
        """Rows for a batch's arrays, in memory that a GPU copies from while it computes, where there is one.

        DALI makes most of its arrays elsewhere: rows that nobody writes to cost nothing, unless they are pinned.
        """
        stems = {name: module.stem for name, module in self._modules.items() if module.stem.kind != "text"}
        shapes = {name: (count, *_shape(stem.kind, stem.channels, self._window)) for name, stem in stems.items()}
        if torch.cuda.is_available() and not self._decoder.dali:
            return {name: torch.zeros(shape, pin_memory=True) for name, shape in shapes.items()}
        # NumPy asks for large pages and PyTorch does not: writing to new ones takes a quarter of the time.
        return {name: torch.from_numpy(np.zeros(shape, np.float32)) for name, shape in shapes.items()}

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
            elif self._decoder.dali and torch.cuda.is_available():
                tensors[name] = tensors[name].pin_memory()
        keys = [item[0].key if item else "" for item in samples]
        sources = [item[0].source if item else "" for item in samples]
        return Batch(keys, sources, tensors, present, texts)


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


def _placed(view: View, row: Mapping[str, np.ndarray]) -> View:
    """The view with its arrays copied to a row of the batch: by the thread that made them and has them in its cache."""
    there: dict[str, np.ndarray] = {}
    for name, value in view.items():
        if isinstance(value, np.ndarray):
            there[name] = row[name]
            there[name][...] = value
    return {**view, **there}


def _map(pool: Executor | None, function: Callable[..., U], *items: Sequence[Any]) -> list[U]:
    return list(map(function, *items) if pool is None else pool.map(function, *items))


def _executor(stack: ExitStack, threads: int, watch: Watch) -> Executor:
    """A pool that is told to stop when the stack unwinds, also when the consumer stops early."""
    executor = Threads(threads, hopeless=watch.hangs)
    stack.callback(executor.shutdown, wait=True, cancel_futures=True)
    return executor
