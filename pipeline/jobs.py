"""Runs a build on Ray: one task a work unit, one pool of actors a model. The only file that imports ray.

A task owns its unit from the first byte read to the commit, so that exactly-once needs no coordination: a unit is
committed or it is done again. Models live in actors, loaded once each, on a fraction of a GPU where there is one. What
crosses between them is what a model eats (sampled frames, 16 kHz sound) and what it answers.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omniloom.modalities import Drop, Sample
from omniloom.modalities.base import Ask, ModelRef
from omniloom.modalities.models import ask_here, family_of
from omniloom.pipeline.corpus import create_corpus, open_corpus
from omniloom.pipeline.extract import weave
from omniloom.pipeline.memory import give_back_free_memory, give_back_large_blocks
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.shard import committed_units, write_drops, write_unit
from omniloom.pipeline.shots import detector_of
from omniloom.pipeline.sources import find_sources
from omniloom.pipeline.units import Identified, Reading, Unit, UnitsConfig, plan_units

READ_BATCH = 64
READ_BATCH_BYTES = 1024 * 1024 * 1024
"""Files that one task reads and hashes: at most so many, and together no larger than this unless it is one."""
UNIT_RETRIES = 2
"""Times a unit is tried again when its worker dies (killed, out of memory, lost node)."""


@dataclass(slots=True)
class BuildReport:
    """What a build did. `dropped` counts every rejection by its reason code."""

    sources: int = 0
    clips: int = 0
    samples: int = 0
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    shards: int = 0
    bytes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of the processes that decode, write and run models; not of Ray's own."""
    decoded_seconds: float = 0.0
    """Seconds of media that this run decoded; 0 when everything was committed before."""
    skipped_committed: int = 0
    """Sources of which earlier runs had committed everything."""
    corpus_samples: int = 0
    """In the whole corpus, earlier runs included."""


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """Where a build stands, for whoever shows it."""

    done_sources: int
    all_sources: int
    samples: int
    dropped: int


@dataclass(frozen=True, slots=True)
class _UnitResult:
    unit: int
    samples: int
    dropped: dict[str, int]
    bytes: int
    cpu_seconds: float
    decoded_seconds: float


def build(
    recipe: BuildRecipe,
    sources: Sequence[str],
    out: Path,
    *,
    address: str | None = None,
    workers: int | None = None,
    units: UnitsConfig | None = None,
    on_progress: Callable[[BuildProgress], None] | None = None,
) -> BuildReport:
    """Builds or continues the corpus at `out` from files, folders, globs and lists.

    `address` joins a Ray cluster; without one Ray is started here with `workers` processes (default: one a core) and
    ended with the build. `workers=0` runs in this process, without Ray. Raises ValueError when the corpus at `out` was
    made by another recipe, when a model is missing, or when nothing was found.
    """
    began = time.perf_counter()
    for ref in recipe.models():
        family_of(ref).check(ref)
    found, drops = find_sources(sources)
    create_corpus(out, modalities=list(recipe.modalities), recipe=recipe.as_dict())
    progress = on_progress or (lambda _: None)

    with _pool(address, workers, recipe) as pool:
        units = units or UnitsConfig()
        reading = Reading(recipe.streams, units.span_s if _is_splittable(recipe) else 0.0)
        planned, listing_drops = plan_units(out, found, lambda paths: pool.identify_all(paths, reading), units)
        drops = [*drops, *listing_drops]
        write_drops(out, "listing", drops)
        done = committed_units(out)
        todo = [unit for unit in planned if unit.id not in done]
        left = Counter(source.id for unit in todo for source in unit.sources)
        report = BuildReport(
            sources=len(found) + len({drop.path for drop in drops} - {item.path for item in found}),
            dropped=dict(Counter(drop.reason for drop in drops)),
            skipped_committed=len({source.id for unit in planned for source in unit.sources} - set(left)),
        )
        all_sources, finished = len(left), 0
        by_id = {unit.id: unit for unit in todo}
        progress(BuildProgress(0, all_sources, 0, sum(report.dropped.values())))
        for result in pool.run(recipe, out, todo):
            for source in by_id[result.unit].sources:  # a source is done with its last span
                left[source.id] -= 1
                finished += left[source.id] == 0
            _add(report, result)
            dropped = sum(report.dropped.values())
            progress(BuildProgress(finished, all_sources, report.samples, dropped))
        report.cpu_seconds += pool.model_cpu_seconds()

    report.corpus_samples = len(open_corpus(out))
    report.seconds = time.perf_counter() - began
    return report


def _add(report: BuildReport, result: _UnitResult) -> None:
    report.samples += result.samples
    report.clips += result.samples + sum(result.dropped.values())
    report.shards += result.samples > 0
    report.bytes += result.bytes
    report.cpu_seconds += result.cpu_seconds
    report.decoded_seconds += result.decoded_seconds
    report.dropped = dict(Counter(report.dropped) + Counter(result.dropped))


def _do_unit(recipe: BuildRecipe, out: Path, unit: Unit, ask: Ask) -> _UnitResult:
    """Everything a unit needs, in the process that runs it; the commit is its last act."""
    give_back_large_blocks()
    cpu_before = time.process_time()
    decoded_ns = 0

    def outcomes() -> Iterator[Sample | Drop]:
        nonlocal decoded_ns
        for source in unit.sources:
            until_ns: int | None = None
            for outcome in weave(source, recipe, ask, span=unit.span):
                if outcome.clip is not None:  # clips may overlap; what they share was decoded once
                    start_ns, end_ns = outcome.clip.start_ns, outcome.clip.end_ns
                    decoded_ns += max(0, end_ns - (start_ns if until_ns is None else max(start_ns, until_ns)))
                    until_ns = end_ns if until_ns is None else max(until_ns, end_ns)
                yield outcome

    written = write_unit(out, unit.id, outcomes(), list(recipe.modalities))
    give_back_free_memory()
    return _UnitResult(
        unit=unit.id,
        samples=written.samples,
        dropped=dict(written.dropped),
        bytes=written.bytes,
        cpu_seconds=time.process_time() - cpu_before,
        decoded_seconds=decoded_ns / 1e9,
    )


def _is_splittable(recipe: BuildRecipe) -> bool:
    """Whether clips of a part can be told without the rest: some detectors' cuts depend on all that came before."""
    if not recipe.clips.needs_cuts:
        return True
    return detector_of(recipe.clips.detector, ask_here()).reach is not None


def _read_each(paths: Sequence[str], reading: Reading) -> list[Identified | Drop]:
    return [reading.read(path) for path in paths]


def _batches(paths: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    total = 0
    for path in paths:
        try:
            size = Path(path).stat().st_size
        except OSError:  # gone since it was found: the task says so
            size = 0
        if batch and (len(batch) == READ_BATCH or total + size > READ_BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(path)
        total += size
    if batch:
        yield batch


def share_out(gpus: float, wanted: Sequence[float], cpus: int) -> list[tuple[float, int]]:
    """(fraction of a GPU, number of actors) for each model, given the fraction that each asks for.

    Together they never ask for more than there is: an actor that no node can hold would be waited for, for ever.
    Without GPUs each model gets an actor a core.
    """
    if not gpus:
        return [(0.0, cpus) for _ in wanted]
    each = gpus / max(1, len(wanted))
    # Ray counts in ten-thousandths, and an actor's GPU lies on one card.
    shares = [min(ask, math.floor(1e4 * each) / 1e4, 1.0) for ask in wanted]
    return [(share, max(1, int(each / share))) for share in shares]


# --- where the work runs --------------------------------------------------------------------------------------


class _Here:
    """Runs everything in this process: for debugging, and for a handful of files."""

    def identify_all(self, paths: Sequence[str], reading: Reading) -> Iterable[Identified | Drop]:
        return _read_each(paths, reading)

    def run(self, recipe: BuildRecipe, out: Path, units: Sequence[Unit]) -> Iterator[_UnitResult]:
        ask = ask_here()
        for unit in units:
            yield _do_unit(recipe, out, unit, ask)

    def model_cpu_seconds(self) -> float:
        return 0.0  # counted with the units: it is the same process


class _OnRay:
    """Runs units as tasks and models as actors of a Ray cluster."""

    def __init__(self, recipe: BuildRecipe) -> None:
        import ray

        resources = ray.cluster_resources()
        self._cpus = max(1, int(resources.get("CPU", 1)))
        refs = recipe.models()
        shares = share_out(resources.get("GPU", 0.0), [family_of(ref).GPUS for ref in refs], self._cpus)
        self._actors = {ref: self._start_actors(ref, *share) for ref, share in zip(refs, shares, strict=True)}

    @staticmethod
    def _start_actors(ref: ModelRef, gpus: float, count: int) -> list[Any]:
        import ray

        # On CPUs an actor claims no slot: the task that waits for its answer leaves its own core idle meanwhile.
        actor = ray.remote(_ModelActor).options(num_cpus=0, num_gpus=gpus, max_restarts=3, max_task_retries=3)
        return [actor.remote(ref) for _ in range(count)]

    def identify_all(self, paths: Sequence[str], reading: Reading) -> Iterable[Identified | Drop]:
        import ray

        task = ray.remote(_read_each)
        return itertools.chain.from_iterable(ray.get([task.remote(batch, reading) for batch in _batches(paths)]))

    def model_cpu_seconds(self) -> float:
        import ray

        actors = itertools.chain.from_iterable(self._actors.values())
        return sum(ray.get([actor.cpu_seconds.remote() for actor in actors]))

    def run(self, recipe: BuildRecipe, out: Path, units: Sequence[Unit]) -> Iterator[_UnitResult]:
        import ray
        from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

        task = ray.remote(_do_unit).options(num_cpus=1, max_retries=UNIT_RETRIES)
        recipe_ref = ray.put(recipe)
        waiting = iter(units)
        # Two units a core in flight keep every core fed; more would only queue.
        running: dict[Any, Unit] = {}
        while True:
            for unit in itertools.islice(waiting, 2 * self._cpus - len(running)):
                ask = _AskActors(self._actors, turn=unit.id)
                running[task.remote(recipe_ref, out, unit, ask)] = unit
            if not running:
                return
            ready, _ = ray.wait(list(running), num_returns=1)
            for ref in ready:
                unit = running.pop(ref)
                try:
                    yield ray.get(ref)
                except RayTaskError as error:
                    raise error.cause from None  # what went wrong there, not how it travelled
                except (WorkerCrashedError, OutOfMemoryError) as error:
                    raise RuntimeError(
                        f"the worker of unit {unit.id} died {UNIT_RETRIES + 1} times ({type(error).__name__});"
                        f" all other units keep what they committed. Free memory, or leave these out: {unit}"
                    ) from error


class _ModelActor:
    """One loaded model; Ray calls it from many tasks, one question at a time."""

    def __init__(self, ref: ModelRef) -> None:
        self._cpu_before = time.process_time()
        self._model = family_of(ref).load(ref)

    def answer(self, *inputs: Any) -> Any:
        return self._model(*inputs)

    def cpu_seconds(self) -> float:
        return time.process_time() - self._cpu_before


class _AskActors:
    """An `Ask` that a task carries: takes the actors of a model in turn and waits for the answer."""

    def __init__(self, actors: dict[ModelRef, list[Any]], turn: int) -> None:
        self._actors = actors
        self._turn = itertools.count(turn)

    def __call__(self, ref: ModelRef, *inputs: Any) -> Any:
        import ray

        actors = self._actors[ref]
        return ray.get(actors[next(self._turn) % len(actors)].answer.remote(*inputs))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_AskActors, (self._actors, next(self._turn)))


@contextmanager
def _pool(address: str | None, workers: int | None, recipe: BuildRecipe) -> Iterator[_Here | _OnRay]:
    if workers == 0 and address is None:
        yield _Here()
        return
    with ray_session(address, workers):
        yield _OnRay(recipe)


@contextmanager
def ray_session(address: str | None = None, workers: int | None = None) -> Iterator[None]:
    """Joins the cluster at `address`, or starts a private Ray here and ends it afterwards, and only it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():  # the caller's own session: use it, leave it
        yield
        return
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
        return
    # A short path: Ray's sockets live in it, and their names are limited to 107 bytes.
    scratch = tempfile.mkdtemp(prefix="loom-", dir="/tmp" if Path("/tmp").is_dir() else None)
    try:
        ray.init(
            address="local",
            num_cpus=workers or os.cpu_count(),
            include_dashboard=False,
            object_store_memory=512 * 1024 * 1024,
            _temp_dir=scratch,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
