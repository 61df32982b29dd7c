"""Our own loader as a loop to be measured, and the bare loop: the same bytes, codecs and arrays without a loader.

Bare is what the cores can do: as many processes as the loader has threads, each reading at offsets that were looked up
before the clock started, decoding and throwing away. It shuffles, checks and stacks nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omniloom.benchmarks.loader_meter import Used, used
from omniloom.benchmarks.loader_peers import Batch, Spec
from omniloom.benchmarks.loader_work import KEY, TASKS, WINDOW, arrays_of_movie
from omniloom.modalities import codecs, load
from omniloom.pipeline.corpus import open_corpus
from omniloom.pipeline.joined import part_facts, tar_of
from omniloom.pipeline.loader import Loader

_VIEWS = 16
"""Windows of each clip that the bare loop goes through: as many as it takes that none of them is always cached."""


class Ours:
    """The loader of this package, over a corpus as `omniloom build` wrote it."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._loader = self._made(once=False)

    def batches(self, once: bool) -> Iterator[Batch]:
        loader = self._made(once) if once else self._loader
        for batch in loader:
            yield {KEY: batch.keys, **batch.tensors, **batch.texts}
        for bad in loader.bad:  # where the loader keeps what it left out: peers write it to standard error
            print(f"left out: {bad}", file=sys.stderr)

    def state(self) -> Any:
        return self._loader.state_dict()

    def restore(self, state: Any) -> None:
        self._loader.load_state_dict(state)

    def _made(self, once: bool) -> Loader:
        """Once: in the order of keys, so that every sample is seen whatever the size of a batch."""
        spec = self._spec
        return Loader(
            spec.data,
            TASKS[spec.task],
            spec.batch,
            workers=spec.workers,
            processes=spec.processes and spec.workers > 0,
            backend="cpu",
            window=WINDOW,
            train=not once,
            on_bad="skip" if spec.skip_bad else "raise",
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one sample shows of one modality: where it lies, and how it is decoded."""

    name: str
    tar: str
    spans: tuple[tuple[int, int], ...]
    facts: Mapping[str, Any]


def bare(spec: Spec, kind: str, seconds: float) -> dict[str, Any]:
    """Rate of the bare loop. kind: "arrays" as a batch holds them, "decode" for the codecs alone, "movie" for H.264."""
    clips = _clips(spec, movie=kind == "movie")
    context = multiprocessing.get_context("fork")
    number = max(1, spec.workers)
    ready, results = context.Barrier(number), context.Queue()
    processes = [
        context.Process(target=_decode, args=(clips, kind, seconds, seed, ready, results)) for seed in range(number)
    ]
    for process in processes:
        process.start()
    told = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return {
        "samples": sum(samples for samples, _, _ in told),
        "seconds": max(elapsed_s for _, elapsed_s, _ in told),
        "cpu_s": sum(spent.cpu_s for _, _, spent in told),
        "read_bytes": sum(spent.read_bytes for _, _, spent in told),
        "rate": sum(samples / elapsed_s for samples, elapsed_s, _ in told),
        "distinct": len(clips),
    }


def _decode(clips: Sequence[Sequence[_Piece]], kind: str, seconds: float, seed: int, ready: Any, results: Any) -> None:
    rng = random.Random(seed)
    opened: dict[str, int] = {}
    one = _movie_of if kind == "movie" else _shown if kind == "arrays" else _decoded
    chosen = [clips[rng.randrange(len(clips))] for _ in range(4096)]
    for clip in chosen[:4]:
        _try(one, clip, opened)
    ready.wait()
    before, began, samples = used(os.getpid()), time.perf_counter(), 0
    while (elapsed_s := time.perf_counter() - began) < seconds:
        samples += _try(one, chosen[samples % len(chosen)], opened)
    after = used(os.getpid())
    results.put((samples, elapsed_s, Used(after.cpu_s - before.cpu_s, after.read_bytes - before.read_bytes)))


def _try(one: Callable[[_Piece, Sequence[bytes]], None], clip: Sequence[_Piece], opened: dict[str, int]) -> int:
    """1, also for a damaged sample: it took its time."""
    for piece in clip:
        if piece.tar not in opened:
            opened[piece.tar] = os.open(piece.tar, os.O_RDONLY)
        data = [os.pread(opened[piece.tar], size, offset) for offset, size in piece.spans]
        try:
            one(piece, data)
        except ValueError:
            continue
    return 1


def _decoded(piece: _Piece, data: Sequence[bytes]) -> None:
    for item in data:
        codecs.decode(load(piece.name).codec, item)


def _shown(piece: _Piece, data: Sequence[bytes]) -> None:
    module = load(piece.name)
    window = replace(WINDOW, seed=piece.facts["window"])
    module.tensor(module.assemble([codecs.decode(module.codec, item) for item in data], piece.facts), window)


def _movie_of(piece: _Piece, data: Sequence[bytes]) -> None:
    arrays_of_movie(data[0], piece.facts, replace(WINDOW, seed=piece.facts["window"]))


def _clips(spec: Spec, movie: bool) -> list[list[_Piece]]:
    """Several views of every clip, each with the spans that it reads."""
    names = ["video"] if movie else list(TASKS[spec.task])
    rows = open_corpus(spec.data).table(["key", "unit", *names]).to_pylist()
    return [
        [_piece(Path(spec.data), row["unit"], name, row[name], seed) for name in names]
        for seed in range(_VIEWS)
        for row in rows
    ]


def _piece(corpus: Path, unit: int, name: str, column: Mapping[str, Any], seed: int) -> _Piece:
    module = load(name)
    window = replace(WINDOW, seed=seed)
    facts = module.narrow(part_facts(column), window)
    start = column["offset"]
    spans = tuple((start + offset, size) for offset, size in module.pieces(facts, column["size"]))
    return _Piece(name, str(tar_of(corpus, unit, name, column)), spans, {**facts, "window": seed})
