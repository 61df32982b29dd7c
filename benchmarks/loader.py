"""How fast batches come, from our layout and from peers', beside a bare decode loop over the same bytes.

    omniloom bench loader [--runs 3] [--peers-python PATH] [--quick] [--gpu] [--out DIR]

The same clips for all, built once and written once as each peer wants them. Each measurement is an interpreter of its
own that runs one loop for a few seconds of steady state; the loops of a round follow each other, and ratios are taken
within a round. Peers are loaded by the interpreter given, or by this one, and left out where neither has them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omniloom.benchmarks import Options
from omniloom.benchmarks.loader_child import NEEDS
from omniloom.benchmarks.loader_corpus import FULL, PLAIN, Data, copied, damage, make_corpus, sizes, write_tars
from omniloom.benchmarks.loader_peers import Spec
from omniloom.benchmarks.loader_report import as_markdown, draw
from omniloom.benchmarks.loader_spawn import Failed, answer_of
from omniloom.benchmarks.loader_work import TASKS, WINDOW, Layout, Video
from omniloom.benchmarks.timing import machine, say, spread, versions

MINUTES = 9
"""When this much time is spent no further round begins, unless so many were asked for."""
SECONDS = 2.5
"""Of steady state, a measurement."""
CLIPS, FULL_CLIPS = 64, 16
"""Of ten seconds; fewer with depth, normals and points, which a network takes seconds a clip to make."""
BATCH, MAX_WORKERS = 8, 4
DAMAGED = 0.01
FRACTIONS = (0.0, 0.1, 0.5, 0.9)
BARE, OURS = "bare loop", "omniloom"


@dataclass(frozen=True, slots=True)
class Row:
    """A loop that is measured, over one layout of the clips, in some of the tasks."""

    name: str
    loader: str
    layout: Layout
    tasks: tuple[str, ...]
    does: str
    """What it does, in a table's words."""
    video: Video = "pyav"
    kind: str = ""
    """Of a bare loop."""
    skip_bad: bool = False
    processes: bool = True
    """Of our own loader."""

    @property
    def things(self) -> tuple[str, ...]:
        """Of `NEEDS`, what its interpreter must have."""
        own = "ours" if self.loader in {"ours", "bare"} else self.loader
        decodes = self.loader != "dali" and (self.layout == "h264" or self.video == "torchcodec")
        return (own, self.video) if decodes else (own,)

    @property
    def is_ours(self) -> bool:
        return self.loader in {"ours", "bare"}


_MOST = ("frames", "audio", "all")
_WDS = f"reads its tars from end to end; shards and a buffer of {100} shuffled"
_ENERGON = f"the same tars with an index, only the members asked for; shards and a buffer of {100} shuffled"
_LIT = "chunks of 64 MB with all members; shuffled within and across chunks"
_MDS = "shards with all members; shuffled over the epoch"
_SLICED = "Pillow, the eight JPEGs that are shown"
ROWS = (
    Row(BARE, "bare", "ours", (*_MOST, "corrupt"), "a process a core, spans known before; no shuffle", kind="arrays"),
    Row("bare loop, codecs alone", "bare", "ours", _MOST, "no square is cut, no float made", kind="decode"),
    Row("bare loop, H.264", "bare", "h264", ("frames",), "PyAV up to the last picture shown", kind="movie"),
    Row(OURS, "ours", "ours", _MOST, "spans of members, each checked; shuffled over the epoch"),
    Row("omniloom, threads", "ours", "ours", _MOST, "the same with processes=False", processes=False),
    Row("omniloom, skip", "ours", "ours", ("corrupt",), "the same with on_bad='skip'", skip_bad=True),
    Row("webdataset + PyAV", "webdataset", "h264", _MOST, f"{_WDS}; PyAV up to the last picture shown"),
    Row("webdataset + torchcodec", "webdataset", "h264", _MOST, f"{_WDS}; torchcodec by index", video="torchcodec"),
    Row("energon + PyAV", "energon", "h264", _MOST, f"{_ENERGON}; PyAV as above"),
    Row("litdata + PyAV", "litdata", "h264", _MOST, f"{_LIT}; PyAV as above"),
    Row("mosaicml-streaming + PyAV", "streaming", "h264", _MOST, f"{_MDS}; PyAV as above"),
    Row("webdataset, our layout", "webdataset", "ours", ("frames", "all"), f"{_WDS}; {_SLICED}"),
    Row(
        "webdataset + torchcodec, our layout",
        "webdataset",
        "ours",
        ("frames",),
        f"{_WDS}; torchcodec by index",
        video="torchcodec",
    ),
    Row("energon, our layout", "energon", "ours", ("frames", "all"), f"{_ENERGON}; {_SLICED}"),
    Row("litdata, our layout", "litdata", "ours", ("frames", "all"), f"{_LIT}; {_SLICED}"),
    Row("mosaicml-streaming, our layout", "streaming", "ours", ("frames", "all"), f"{_MDS}; {_SLICED}"),
    Row("DALI, its own reader", "dali", "h264", ("audio",), "threads; tars through a map; a buffer of 100 shuffled"),
    Row(
        "webdataset + PyAV, skip",
        "webdataset",
        "h264",
        ("corrupt",),
        f"{_WDS}; handler=warn_and_continue",
        skip_bad=True,
    ),
)

_H264 = tuple(row.name for row in ROWS if row.layout == "h264" and not row.is_ours and "frames" in row.tasks)


@dataclass(frozen=True, slots=True)
class Claim:
    """Our rate over another's, or over the best of several, taken within a round."""

    name: str
    task: str
    ours: str
    others: tuple[str, ...]
    goal: float


CLAIMS = (
    Claim("frames / bare loop", "frames", OURS, (BARE,), 0.9),
    Claim("audio / bare loop", "audio", OURS, (BARE,), 0.9),
    Claim("all / bare loop", "all", OURS, (BARE,), 0.9),
    Claim("corrupt, skipped / bare loop", "corrupt", "omniloom, skip", (BARE,), 0.9),
    Claim("frames / best peer from H.264", "frames", OURS, _H264, 5),
    Claim("all / best peer from H.264", "all", OURS, _H264, 2),
    Claim("audio / DALI's own reader", "audio", OURS, ("DALI, its own reader",), 1),
)


def run(options: Options) -> dict[str, Any]:
    """Measures every loop that can run here; with a folder to write to, also a table and a plot."""
    return measured(options, ROWS)


def measured(options: Options, wanted: Sequence[Row]) -> dict[str, Any]:
    """The same of some rows, each in its tasks."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise ValueError("the loader benchmark reads what processes cost from Linux' /proc: run it on Linux")
    began = time.monotonic()
    runs = options.runs or (1 if options.quick else 3)
    seconds = options.seconds or (0.2 if options.quick else SECONDS)
    workers = min(MAX_WORKERS, len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as scratch:
        interpreters, found, notes = _interpreters(wanted, options.peers_python)
        rows = [row for row in wanted if row.name in interpreters]
        say("building the clips")
        made, costs = _data(Path(scratch), rows, interpreters, quick=options.quick, workers=workers)
        plain = made["plain"]
        data = {task: made.get("full", plain) if task == "all" else plain for task in _MOST}
        bench = _Bench(interpreters, workers, seconds, data)
        damaged = bench.damage(Path(scratch), plain, rows)
        if options.gpu:
            from omniloom.benchmarks.loader_gpu import measure

            gpu = measure(plain, interpreters, seconds, workers)
        else:
            gpu = {"left_out": "asked for by --gpu, on a machine with an NVIDIA GPU"}
        rates = bench.rounds(rows, runs, None if options.runs else began)
        report: dict[str, Any] = {
            "benchmark": "loader",
            "machine": machine(),
            "load": [round(load, 2) for load in os.getloadavg()],
            "versions": {**versions("omniloom", "av", "numpy", "pillow", "soundfile"), **found},
            "workers": workers,
            "batch": BATCH,
            "window": asdict(WINDOW),
            "clips": {name: one.clips for name, one in made.items()},
            **costs,
            "rows": {row.name: {"layout": row.layout, "does": row.does} for row in rows},
            "tasks": _figures(rows, rates),
            "claims": _claims(rates),
            "corrupt": bench.corrupt(rows, damaged),
            "resume": bench.resume(rows),
            "gpu": gpu,
            "notes": [*notes, *bench.notes],
            "rounds": max((len(taken) for taken in rates.values()), default=0),
        }
        report["minutes"] = round((time.monotonic() - began) / 60, 1)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "loader.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.folder / "loader.md").write_text(as_markdown(report))
        draw(report, options.folder / "loader.png")
    return report


# --- what there is to run -------------------------------------------------------------------------------------


def _interpreters(wanted: Sequence[Row], peers_python: Path | None) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """By row the interpreter that can run it; versions; and for each row that is left out, why."""
    candidates = [sys.executable] if peers_python is None else [str(peers_python), sys.executable]
    probed: dict[str, dict[str, Any]] = {}
    for python in candidates:
        answer = answer_of(python, {"do": "probe", "things": list(NEEDS)})
        probed[python] = {} if isinstance(answer, Failed) else answer
    chosen: dict[str, str] = {}
    found: dict[str, str] = {}
    notes: list[str] = []
    for row in wanted:
        able = [
            python
            for python in ([sys.executable] if row.is_ours else candidates)
            if all(isinstance(probed[python].get(thing), dict) for thing in row.things)
        ]
        if able:
            chosen[row.name] = able[0]
            for thing in row.things:
                found |= {name: version for name, version in probed[able[0]][thing].items() if name not in found}
            continue
        missing = next(thing for thing in row.things if not isinstance(probed[candidates[0]].get(thing), dict))
        reason = probed[candidates[0]].get(missing, "the interpreter did not start")
        notes.append(
            f"{row.name}: left out, {missing}: {reason}; make an environment with `pip install 'omniloom[peers]'`"
            " (DALI: 'omniloom[dali]'; torchcodec also needs FFmpeg's libraries) and give its python as --peers-python"
        )
    return chosen, found, notes


def _data(
    folder: Path, rows: Sequence[Row], interpreters: Mapping[str, str], *, quick: bool, workers: int
) -> tuple[dict[str, Data], dict[str, Any]]:
    """The clips without depth and, if a task shows it, with, for every loader that runs; and what making them cost."""
    found: dict[str, Data] = {}
    cost: dict[str, Any] = {}
    counts = (max(4, workers), 4) if quick else (CLIPS, FULL_CLIPS)
    kinds = [("plain", counts[0], PLAIN), ("full", counts[1], FULL)]
    for name, clips, modalities in kinds if any("all" in row.tasks for row in rows) else kinds[:1]:
        began = time.monotonic()
        corpus = make_corpus(folder / name, clips, modalities)
        cost[f"build, {name}"] = round(time.monotonic() - began, 1)
        folders: dict[tuple[str, str], Path] = {("ours", "ours"): corpus}
        layouts: list[Layout] = list(dict.fromkeys(row.layout for row in rows if not row.is_ours))
        for layout in layouts:
            began = time.monotonic()
            tars = folder / name / f"tars-{layout}"
            write_tars(corpus, tars, layout)
            cost[f"plain tars, {name}, {layout}"] = round(time.monotonic() - began, 1)
            for row in rows:
                place = (row.loader, layout)
                if row.is_ours or row.layout != layout or place in folders:
                    continue
                folders[place] = tars
                if row.loader in {"webdataset", "dali"}:
                    continue
                folders[place] = folder / name / f"{row.loader}-{layout}"
                began = time.monotonic()
                job = {"do": "convert", "loader": row.loader, "tars": str(tars), "out": str(folders[place])}
                answer = answer_of(interpreters[row.name], job)
                if isinstance(answer, Failed):
                    raise RuntimeError(f"the files of {row.name} could not be written: {answer.why}")
                cost[f"{row.loader}, {name}, {layout}"] = round(time.monotonic() - began, 1)
        found[name] = Data(corpus, clips, folders)
    megabytes = {name: sizes(data.corpus) for name, data in found.items()}
    return found, {"conversion_s": cost, "megabytes": megabytes}


# --- measuring ------------------------------------------------------------------------------------------------


class _Bench:
    """Runs jobs of rows, and notes those that fail."""

    def __init__(self, interpreters: Mapping[str, str], workers: int, seconds: float, data: Mapping[str, Data]) -> None:
        self._interpreters, self._workers, self._seconds, self._data = interpreters, workers, seconds, dict(data)
        self.notes: list[str] = []

    def damage(self, folder: Path, data: Data, rows: Sequence[Row]) -> list[str]:
        """Copies of all that is read, with the same bytes changed; returns the keys of samples that they damage."""
        folders = {
            place: copied(path, folder / "damaged" / "-".join(place))
            for place, path in data.folders.items()
            if any(place == _place(row) for row in rows)
        }
        self._data["corrupt"] = Data(folders["ours", "ours"], data.clips, folders)
        return damage(data.corpus, list(folders.values()), DAMAGED)

    def rounds(
        self, rows: Sequence[Row], runs: int, began: float | None
    ) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """By task and row, what each round measured. began: since when `MINUTES` count; None: all rounds are run."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for number in range(runs):
            if number and began is not None and time.monotonic() - began > 60 * MINUTES:
                self.notes.append(f"{number} of {runs} rounds: {MINUTES} minutes were over")
                break
            for task in TASKS:
                for row in (row for row in rows if task in row.tasks):
                    answer = self._ask(row, task, "rate", seconds=self._seconds, kind=row.kind)
                    if isinstance(answer, Failed):
                        self._note(f"{row.name}, {task}: {answer.why}")
                        continue
                    rate = answer.get("rate") or answer["samples"] / answer["seconds"]
                    found.setdefault((task, row.name), []).append({**answer, "rate": rate})
                    say(f"round {number + 1} of {runs}  {task}: {row.name} {rate:.1f} samples/s")
        return found

    def corrupt(self, rows: Sequence[Row], damaged: Sequence[str]) -> dict[str, Any]:
        """By row, what became of one epoch with damaged members."""
        found: dict[str, Any] = {}
        chosen = [row for row in rows if row.loader != "bare" and ("frames" in row.tasks or "corrupt" in row.tasks)]
        for row in chosen:
            answer = self._ask(row, "corrupt", "epoch")
            if isinstance(answer, Failed):
                found[row.name] = {"outcome": f"failed: {answer.why}"}
                continue
            keys, fault = answer["keys"], answer["fault"]
            told = fault + answer["said"]
            found[row.name] = {
                "outcome": f"stops: {_first_line(fault)}" if fault else "goes on",
                "samples": len(set(keys)),
                "damaged_samples_given": len(set(keys) & set(damaged)),
                "damaged_samples_named": sum(key in told for key in damaged),
            }
            say(f"corrupt: {row.name} {found[row.name]}")
        return {"damaged": len(damaged), "of": self._data["corrupt"].clips, "rows": found}

    def resume(self, rows: Sequence[Row]) -> dict[str, Any]:
        """By row, seconds from a state to the first batch at fractions of an epoch."""
        batches = self._data["frames"].clips // self._batch("frames")
        steps = [int(fraction * batches) for fraction in FRACTIONS]
        found: dict[str, Any] = {}
        for row in (row for row in rows if row.loader != "bare" and "frames" in row.tasks and row.video == "pyav"):
            if row.layout == "ours" and not row.is_ours:
                continue
            answer = self._ask(row, "frames", "resume", steps=steps)
            if isinstance(answer, Failed):
                self._note(f"{row.name}, resuming: {answer.why}")
                continue
            found[row.name] = {
                f"{fraction:.0%}": answer[str(step)] for fraction, step in zip(FRACTIONS, steps, strict=True)
            }
            say(f"resume: {row.name} {[round(at['seconds'], 2) for at in found[row.name].values()]}")
        return found

    def _ask(self, row: Row, task: str, what: str, **more: Any) -> dict[str, Any] | Failed:
        folder = self._data[task].folders[_place(row)]
        batch = self._batch(task)
        spec = Spec(
            row.loader, task, row.layout, row.video, str(folder), self._workers, batch, row.skip_bad, row.processes
        )
        return answer_of(self._interpreters[row.name], {"do": what, "spec": asdict(spec), **more})

    def _batch(self, task: str) -> int:
        """Samples; fewer in a quick run, so that its few clips hold a batch for every worker."""
        return max(1, min(BATCH, self._data[task].clips // max(1, self._workers)))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            say(text)


def _place(row: Row) -> tuple[str, str]:
    return ("ours", "ours") if row.is_ours else (row.loader, row.layout)


def _first_line(text: str) -> str:
    """What an error says, without the traceback of the worker it comes from."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if len(lines) < 2 or "Caught" not in lines[0] else lines[-1])[:300] if lines else ""


# --- figures --------------------------------------------------------------------------------------------------


def _figures(
    rows: Sequence[Row], rates: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """By task and row: medians and ranges over rounds, and what was counted."""
    found: dict[str, dict[str, Any]] = {}
    for task in TASKS:
        for row in rows:
            taken = rates.get((task, row.name))
            if not taken:
                continue
            figures: dict[str, Any] = {
                "samples_per_s": spread([one["rate"] for one in taken]),
                "cpu_ms_per_sample": spread([1000 * one["cpu_s"] / one["samples"] for one in taken]),
                "read_kb_per_sample": spread([one["read_bytes"] / one["samples"] / 1000 for one in taken]),
                "peak_mb": round(max(one["peak_mb"] for one in taken)),
                "runs": len(taken),
                "distinct": min(one["distinct"] for one in taken),
                "samples": sum(one["samples"] for one in taken),
            }
            if "first_batch_s" in taken[0]:
                figures["first_batch_s"] = spread([one["first_batch_s"] for one in taken])
                figures["shapes"] = taken[0]["shapes"]
            found.setdefault(task, {})[row.name] = figures
    return found


def _claims(rates: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Our rate over the other's, or over the highest of the others', of each round."""
    found: dict[str, Any] = {}
    for claim in CLAIMS:
        ours = [one["rate"] for one in rates.get((claim.task, claim.ours), ())]
        others = [[one["rate"] for one in rates.get((claim.task, name), ())] for name in claim.others]
        best = [max(at) for at in zip(*(taken for taken in others if taken), strict=False)]
        if ours and best:
            ratios = [mine / other for mine, other in zip(ours, best, strict=False)]
            found[claim.name] = {**spread(ratios), "goal": claim.goal}
    return found
