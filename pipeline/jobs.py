"""Builds a corpus from raw media: one task a work unit, wherever tasks run (`pipeline/cluster.py`).

A task owns its unit from the first byte read to the commit, so that exactly-once needs no coordination: a unit is
committed or it is done again.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omniloom.modalities import Drop, Sample
from omniloom.modalities.base import Ask
from omniloom.modalities.models import ask_here, family_of
from omniloom.pipeline.cluster import Cluster, cluster
from omniloom.pipeline.corpus import create_corpus, open_corpus
from omniloom.pipeline.extract import weave
from omniloom.pipeline.memory import give_back_free_memory, give_back_large_blocks
from omniloom.pipeline.mirror import refuse_remote
from omniloom.pipeline.moments import has_clips
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.shard import committed_units, write_drops, write_unit
from omniloom.pipeline.shots import detector_of
from omniloom.pipeline.sources import find_sources
from omniloom.pipeline.units import Identified, Reading, Unit, UnitsConfig, plan_units

READ_BATCH = 64
READ_BATCH_BYTES = 1024 * 1024 * 1024
"""Files that one task reads and hashes: at most so many, and together no larger than this unless it is one."""


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
    made by another recipe, when a model is missing, when nothing was found, or when a list states clips that the
    recipe would cut otherwise.
    """
    began = time.perf_counter()
    refuse_remote(out, "build")
    for ref in recipe.models():
        family_of(ref).check(ref)
    found, drops = find_sources(sources)
    if recipe.clips.by != "list" and any(has_clips(item.row) for item in found):
        raise ValueError("the list states where clips start and end: set clips.by=list, or leave those columns out")
    create_corpus(out, modalities=list(recipe.modalities), recipe=recipe.as_dict())
    progress = on_progress or (lambda _: None)

    with cluster(address, workers, recipe.models()) as pool:
        units = units or UnitsConfig()
        reading = Reading(recipe.streams, units.span_s if _is_splittable(recipe) else 0.0)
        planned, listing_drops = plan_units(out, found, lambda paths: _identified(pool, paths, reading), units)
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
        for result in pool.run(_do_unit, todo, recipe, out):
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


def _identified(pool: Cluster, paths: Sequence[str], reading: Reading) -> Iterator[Identified | Drop]:
    return itertools.chain.from_iterable(pool.each(_read_each, list(_batches(paths)), reading))


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
