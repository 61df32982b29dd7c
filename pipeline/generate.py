"""Adds modalities to a corpus as columns beside its shards, from what the corpus holds; no shard is rewritten.

A task owns a unit, as in a build: it looks at every sample once and commits each column of the unit when it is whole.
So a run that was cut off is finished by the same command, and a corpus that grew gets its new units by it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omniloom.modalities import load, short_name
from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import family_of
from omniloom.pipeline.cluster import cluster
from omniloom.pipeline.columns import Column, create_column, remove_column
from omniloom.pipeline.corpus import Corpus, open_corpus
from omniloom.pipeline.fill import Filled, Job, Wish, fill_unit, with_reads
from omniloom.pipeline.mirror import refuse_remote
from omniloom.pipeline.recipe import hash_of, in_order, params_hash

_SEEN = ("frames", "audio", "video")
"""Parts of which any gives something to look at or to listen to."""


@dataclass(slots=True)
class ColumnReport:
    """What one column came to in this run."""

    modality: str
    model: str = ""
    """What made its parts; of several the most frequent."""
    revision: str = ""
    licence: str = ""
    """Of the networks that were asked; "" if unknown."""
    samples: int = 0
    """Parts made in this run."""
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    """Rejected samples by reason."""
    bytes: int = 0
    seconds: float = 0.0
    """On the clock, of the run: all its columns are made at the same time."""
    busy_seconds: float = 0.0
    """Spent on this column by all threads, waiting for models included."""
    cpu_seconds: float = 0.0
    """Of the run: of the processes that decode, write and run models; not of Ray's own."""
    units: int = 0
    """Committed in this run."""
    skipped_committed: int = 0
    """Units that earlier runs had committed."""
    corpus_samples: int = 0
    """Samples of the whole corpus that have the modality now, in a shard or in the column."""


@dataclass(frozen=True, slots=True)
class GenerateProgress:
    """Where a run stands, for whoever shows it."""

    done_samples: int
    all_samples: int
    made: Mapping[str, int]
    """Parts by modality."""
    dropped: int


def generate(
    corpus: Path,
    modalities: Sequence[str],
    config: Mapping[str, Any],
    *,
    replace: bool = False,
    address: str | None = None,
    workers: int | None = None,
    on_progress: Callable[[GenerateProgress], None] | None = None,
) -> list[ColumnReport]:
    """Gives every sample the modalities that it lacks, all in one pass; one report a modality, in the order made.

    config: by short name the `Config` of each modality, and that of frames, by which they are sampled where a corpus
    has only movies; defaults otherwise. replace: a column that was made otherwise is removed and begun again. address,
    workers: as of `build`. Raises ValueError before anything is changed: for a modality that is unknown or needs
    another one, for a model that is missing, and for a column made otherwise without `replace`.
    """
    began = time.perf_counter()
    refuse_remote(corpus, "generate")
    opened = open_corpus(corpus)
    if replace:
        _remove_damaged(corpus, modalities)
    wishes = _wishes(opened, modalities, config)
    refs = {wish.name: tuple(dict.fromkeys(load(wish.modality).models(wish.section))) for wish in wishes}
    for wish in wishes:
        if getattr(wish.section, "model", None) == "given" and not refs[wish.name]:
            raise ValueError(
                f"{wish.name}.model=given takes what lies beside the sources, which a corpus does not hold: let"
                f" {wish.name}.model name a network, as `omniloom generate` does by itself"
            )
    for ref in dict.fromkeys(ref for asked in refs.values() for ref in asked):
        family_of(ref).check(ref)
    frames = config.get("frames", load("frames").Config())
    columns = _columns(opened, wishes, refs, frames, replace)

    sizes = Counter(opened.table(["unit"])["unit"].to_pylist())
    committed = {name: column.committed() for name, column in columns.items()}
    lacking = {unit: [name for name in columns if unit not in committed[name]] for unit in opened.units}
    todo = [(unit, names) for unit, names in lacking.items() if names]
    reports = {
        name: ColumnReport(
            modality=column.modality,
            licence=column.licence,
            skipped_committed=len(committed[name].intersection(opened.units)),
        )
        for name, column in columns.items()
    }
    all_samples, done = sum(sizes[unit] for unit, _ in todo), 0
    progress = on_progress or (lambda _: None)
    models: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in columns}
    cpu_seconds = 0.0
    progress(GenerateProgress(0, all_samples, dict.fromkeys(columns, 0), 0))
    if todo:
        asked = tuple(
            dict.fromkeys(ref for _, names in todo for name in with_reads(names, wishes) for ref in refs[name])
        )
        job = Job(opened.path, tuple(opened.description["modalities"]), wishes, frames)
        with cluster(address, workers, asked) as pool:
            for result in pool.run(fill_unit, todo, job):
                done += sizes[result.unit]
                cpu_seconds += result.cpu_seconds
                for name, filled in result.columns.items():
                    _add(reports[name], filled)
                    models[name] += filled.models
                made = {name: report.samples for name, report in reports.items()}
                dropped = sum(sum(report.dropped.values()) for report in reports.values())
                progress(GenerateProgress(done, all_samples, made, dropped))
            cpu_seconds += pool.model_cpu_seconds()

    has = open_corpus(corpus).stats()["modalities"]
    for name, report in reports.items():
        most = models[name].most_common(1)
        report.model, report.revision = most[0][0] if most else _described(columns[name])
        report.seconds, report.cpu_seconds = time.perf_counter() - began, cpu_seconds
        report.corpus_samples = has[name]["present"]
    return list(reports.values())


def _wishes(corpus: Corpus, modalities: Sequence[str], config: Mapping[str, Any]) -> tuple[Wish, ...]:
    """What is asked for, in an order in which it can be made. Raises ValueError for what cannot be."""
    if not modalities:
        raise ValueError("name the modalities to generate, such as depth normal points")
    known = {short_name(name): name for name in corpus.modalities}
    paths = {short_name(name): name if "." in name else known.get(name, name) for name in modalities}
    ordered = in_order(list(paths.values()))
    if not {*_SEEN} & {*known}:
        raise ValueError(
            f"{corpus.path} holds none of {', '.join(_SEEN)}, so there is nothing to look at: build it with one of them"
        )
    for name, modality in ordered.items():
        if getattr(modality, "recorder", None) is not None:
            raise ValueError(
                f"{name} is made of every picture of the source, which a corpus does not hold: name it among the"
                " modalities of a build"
            )
        lacking = [need for need in modality.needs if not (need in ordered or need in known or _shown(need, known))]
        if lacking:
            raise ValueError(
                f"{name} is made from {', '.join(lacking)}, which {corpus.path} lacks: name {' '.join(lacking)} too"
            )
    for name, column in corpus.columns.items():
        needing = [other for other, modality in ordered.items() if name in modality.needs and name not in ordered]
        if needing and not column.committed().issuperset(corpus.units):
            raise ValueError(
                f"{needing[0]} is made from {name}, of which some units are not made yet: name {name} too, or first run"
                f" `omniloom generate {corpus.path} {name}`"
            )
    return tuple(Wish(paths[name], config.get(name, modality.Config())) for name, modality in ordered.items())


def _shown(need: str, known: Mapping[str, str]) -> bool:
    """Whether frames or sound can be taken from the clips' movies."""
    return need in {"frames", "audio"} and "video" in known


def _columns(
    corpus: Corpus, wishes: Sequence[Wish], refs: Mapping[str, Sequence[ModelRef]], frames: Any, replace: bool
) -> dict[str, Column]:
    """The columns to fill, made or opened, by name.

    A column's models state the networks it asks and, likewise, the modalities it is made from and how those were made:
    when one of them is replaced, the column is no longer what it says.
    """
    there = corpus.columns
    planned: dict[str, Column] = {}
    for wish in wishes:
        module = load(wish.modality)
        sources = [*module.needs]
        if "frames" not in {*_built(corpus), *sources}:
            sources.append("frames")
        models = [_network(ref) for ref in refs[wish.name]]
        models += [_source(corpus, need, {**there, **planned}, frames) for need in sources if need != wish.name]
        planned[wish.name] = Column(corpus.path, wish.modality, module.suffix, asdict(wish.section), tuple(models))
    replaced = [name for name, column in planned.items() if name in there and there[name].digest != column.digest]
    if replace and replaced:
        left = [name for name in there if name not in planned and {*load(there[name].modality).needs} & {*replaced}]
        if left:
            raise ValueError(
                f"{', '.join(left)} of {corpus.path} was made from {' and '.join(replaced)}, to be replaced: name"
                f" {' '.join(left)} too"
            )
        for name in replaced:
            remove_column(corpus.path, name)
    return {
        name: create_column(corpus.path, column.modality, column.config, column.models)
        for name, column in planned.items()
    }


def _network(ref: ModelRef) -> dict[str, Any]:
    family = family_of(ref)
    name, revision = family.describe(ref)
    licence: Callable[[ModelRef], str] | None = getattr(family, "licence", None)
    return {"name": name, "revision": revision, "licence": licence(ref) if licence else ""}


def _source(corpus: Corpus, need: str, columns: Mapping[str, Column], frames: Any) -> dict[str, Any]:
    """How a modality that another is made from was made: by a column, by the build, or sampled from movies."""
    if need in columns:
        return {"name": need, "revision": columns[need].digest, "licence": columns[need].licence}
    if need in _built(corpus):
        return {"name": need, "revision": hash_of(corpus.description["recipe"].get(need)), "licence": ""}
    return {"name": f"{need} from video", "revision": params_hash(frames) if need == "frames" else "", "licence": ""}


def _built(corpus: Corpus) -> set[str]:
    return {short_name(name) for name in corpus.description["modalities"]}


def _remove_damaged(corpus: Path, modalities: Sequence[str]) -> None:
    """Removes those of the columns whose column.json can no longer be read, so that they can be made again."""
    for name in {short_name(name) for name in modalities}:
        path = corpus / "columns" / name / "column.json"
        try:
            json.loads(path.read_bytes())["models"]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, KeyError, TypeError):
            remove_column(corpus, name)


def _described(column: Column) -> tuple[str, str]:
    """Model and revision of a column of which this run made nothing."""
    return (str(column.models[0]["name"]), str(column.models[0]["revision"])) if column.models else ("", "")


def _add(report: ColumnReport, filled: Filled) -> None:
    report.samples += filled.samples
    report.dropped = dict(Counter(report.dropped) + Counter(filled.dropped))
    report.bytes += filled.bytes
    report.busy_seconds += filled.busy_seconds
    report.units += 1
