"""What a build costs beside one FFmpeg process and beside a chain of operators, in D.

    omniloom bench decode [--runs 3] [--seconds 60] [--quick] [--out DIR]

D is the processor time of one single-threaded decode of the same file. Costs are user plus system time of whole
processes and their children. The steps of a round follow each other, D among them, and ratios are taken within a
round, so that a machine that drifts drifts for all. Every step's outputs are counted.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omniloom.benchmarks import Options, peers
from omniloom.benchmarks.figure import as_markdown, draw
from omniloom.benchmarks.media import Media, every_source, generated, repeated
from omniloom.benchmarks.timing import Step, StepCost, cost_of, machine, say, spend, spread, versions

MINUTES = 13
"""When this much time is spent no further round begins: a default run ends within a quarter of an hour on two cores."""
WALL_S = 2400
"""Length of the file whose wall time is taken: several spans of a source."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what it costs is the sum of its steps."""

    name: str
    group: str
    steps: tuple[str, ...]


_LONG = "360p generated, VFR"
_SECOND = " of a second"
FRAMES, PROXY = "[frames,audio]", "[frames,video,audio]"
"""Modalities of a build without and with a movie of every picture."""

FLOOR_BARE = "ffmpeg, one pass: frames, sound"
FLOOR = "ffmpeg, one pass: frames, sound, signals"
FLOOR_SHOTS = "ffmpeg, one pass: frames, sound, signals, cuts looked for"
FLOOR_PROXY = "ffmpeg, one pass: frames, sound, signals, proxy"
OURS_BARE = "omniloom: frames, sound; pictures that are not sampled stay undecoded"
OURS = "omniloom: frames, sound, signals"
OURS_SHOTS = "omniloom: frames, sound, signals, by shots"
OURS_COPY = "omniloom: frames, sound, signals, stream copy"
OURS_PROXY = "omniloom: frames, sound, signals, proxy"
CHAIN = "chain: frames, sound"
CHAIN_PROXY = "chain: frames, sound, proxy"
CHAIN_FULL = "chain: clips at full size, frames, sound, proxy"
_SEEK = ("frames of spans", "sound of spans", "proxy of spans")
_AGAIN = ("frames of clips", "sound of clips", "proxy of clips")

ROWS = (
    Row("ffmpeg: one decode (D)", "floor", ("decode",)),
    Row(FLOOR_BARE, "floor", ("one pass",)),
    Row(FLOOR, "floor", ("one pass, signals",)),
    Row(FLOOR_SHOTS, "floor", ("one pass, signals, shots",)),
    Row(FLOOR_PROXY, "floor", ("one pass, proxy, signals",)),
    Row("omniloom: one second of it", "ours", (f"frames{_SECOND}",)),
    Row(OURS_BARE, "ours", ("frames, no signals",)),
    Row(OURS, "ours", ("frames",)),
    Row(OURS_SHOTS, "ours", ("frames, shots",)),
    Row(OURS_COPY, "ours", ("frames, copy",)),
    Row(OURS_PROXY, "ours", ("frames, proxy",)),
    Row("omniloom: frames, sound, signals, proxy, by shots", "ours", ("frames, proxy, shots",)),
    Row(CHAIN, "chain", ("probe", "find cuts", *_SEEK[:2])),
    Row(CHAIN_PROXY, "chain", ("probe", "find cuts", *_SEEK)),
    Row(CHAIN_FULL, "chain", ("probe", "find cuts", "transcode", *_AGAIN)),
)


@dataclass(frozen=True, slots=True)
class Claim:
    """Ours over a peer's, taken within a round."""

    name: str
    ours: str
    peer: str


CLAIMS = (
    Claim("frames, sound / one pass", OURS_BARE, FLOOR_BARE),
    Claim("with signals / one pass with signals", OURS, FLOOR),
    Claim("the same by shots / one pass that looks for cuts", OURS_SHOTS, FLOOR_SHOTS),
    Claim("with signals, proxy / one pass with both", OURS_PROXY, FLOOR_PROXY),
    Claim("with signals / one pass without", OURS, FLOOR_BARE),
    Claim("with stream copy / the same without", OURS_COPY, OURS),
    Claim("frames, sound, signals / chain without signals", OURS, CHAIN),
    Claim("with proxy / chain", OURS_PROXY, CHAIN_PROXY),
    Claim("with proxy / chain with clips at full size", OURS_PROXY, CHAIN_FULL),
)


def run(options: Options) -> dict[str, Any]:
    """Measures every source and returns the figures; with a folder to write to, also a table and a plot."""
    began = time.monotonic()
    runs = options.runs or (1 if options.quick else 3)
    seconds = options.seconds or (5 if options.quick else 60)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        say(f"making the sources, {seconds:g} s each")
        if options.quick:
            sources = [generated(folder, "360p generated", (640, 360), seconds, thorough=True)]
        else:
            sources = every_source(folder, seconds)
        compile_modules(sources[0], folder / "made")
        rounds = _measure(sources, folder, runs, 2.5 if options.quick else 10, began)
        report: dict[str, Any] = {
            "benchmark": "decode",
            "machine": machine(),
            "load": [round(load, 2) for load in os.getloadavg()],
            "versions": versions("omniloom", "av", "numpy", "scenedetect", "scenedetect-headless"),
            "chain_finds_cuts_with": peers.finder_of_cuts(),
            "sources": [_figures(media, rounds[media.name]) for media in sources],
        }
        report["claims"] = {
            f"{source['name']}: {name}": figures["median"]
            for source in report["sources"]
            for name, figures in source["claims"].items()
        }
        report["minutes"] = round((time.monotonic() - began) / 60, 1)
        _write(report, options.folder)
        if not options.quick:  # last, and written apart: should Ray not start, the figures above are kept
            report["wall"] = _wall(next(media for media in sources if media.name == _LONG), folder)
            report["minutes"] = round((time.monotonic() - began) / 60, 1)
            _write(report, options.folder)
    return report


def _write(report: dict[str, Any], folder: Path | None) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "decode.json").write_text(json.dumps(report, indent=2) + "\n")
        (folder / "decode.md").write_text(as_markdown(report))
        draw(report, folder / "decode.png")


def _measure(
    sources: Sequence[Media], folder: Path, runs: int, clip_s: float, began: float
) -> dict[str, list[dict[str, StepCost | str]]]:
    """Rounds of each source: the first has all its steps, later ones those whose spread is wanted."""
    rounds: dict[str, list[dict[str, StepCost | str]]] = {media.name: [] for media in sources}
    for number in range(runs):
        for media in sources:
            if number and (not media.thorough or time.monotonic() - began > 60 * MINUTES):
                continue
            steps = _steps(media, folder / "made", clip_s, chain=not number)
            costs: dict[str, StepCost | str] = {}
            for step in steps:
                # The chain's later steps read its earlier ones' clips; all others begin with an empty folder.
                if not step.name.endswith(" of clips"):
                    shutil.rmtree(folder / "made", ignore_errors=True)
                    (folder / "made").mkdir()
                costs[step.name] = cost_of(step)
            rounds[media.name].append(costs)
            elapsed = f"{(time.monotonic() - began) / 60:.1f} min"
            say(f"{elapsed}  round {number + 1} of {runs}  {media}: {_headline(costs)}")
    return rounds


def _steps(media: Media, folder: Path, clip_s: float, *, chain: bool) -> list[Step]:
    """What a round of one source runs, in order."""
    source, second = media.path, media.second

    def floor(path: Path = source, *, of: str = "", **asked: bool) -> Step:
        step = peers.one_pass(path, folder, clip_s, **asked)
        return replace(step, name=step.name + of)

    def ours(name: str, modalities: str, *words: str, path: Path = source) -> Step:
        return build(name, [path], folder / "corpus", modalities, f"clips.length_s={clip_s:g}", *words)

    a_second = "clips.min_s=0.5"
    silent = ("signals.picture=false", "signals.sound=false", "signals.sync=false")
    by_shots = ("clips.by=shots", f"clips.max_s={clip_s:g}", f"clips.min_s={min(2, clip_s):g}")
    steps = [
        peers.one_decode(source),
        floor(),
        ours("frames, no signals", FRAMES, *silent),
        floor(signals=True),
        ours("frames", FRAMES),
        floor(signals=True, proxy=True),
        ours("frames, proxy", PROXY),
        ours("frames, copy", PROXY, "video.codec=copy"),
        replace(peers.one_decode(second), name=f"decode{_SECOND}"),
        floor(second, of=_SECOND),
        ours(f"frames, no signals{_SECOND}", FRAMES, *silent, a_second, path=second),
        floor(second, signals=True, of=_SECOND),
        ours(f"frames{_SECOND}", FRAMES, a_second, path=second),
        floor(second, signals=True, proxy=True, of=_SECOND),
        ours(f"frames, proxy{_SECOND}", PROXY, a_second, path=second),
        ours(f"frames, copy{_SECOND}", PROXY, "video.codec=copy", a_second, path=second),
    ]
    if media.thorough:
        steps += [
            floor(signals=True, shots=True),
            ours("frames, shots", FRAMES, *by_shots),
            ours("frames, proxy, shots", PROXY, *by_shots),
        ]
    if media.thorough and chain:
        steps += peers.chain(source, folder, clip_s, media.seconds)
    return steps


def build(name: str, sources: Sequence[Path], corpus: Path, modalities: str, *words: str) -> Step:
    """One process that builds a corpus of the sources; refused where the recipe does not know a word yet."""
    start = (sys.executable, "-m", "omniloom.recipes.cli", "build", *map(str, sources), "--out", str(corpus), "--json")
    # No voice detector: it is a network, and the floor has none.
    recipe = (f"modalities={modalities}", "require=[frames]", "frames.at_least=1", "signals.speech=false", *words)
    return Step(name, ((*start, "--workers", "0", *recipe),), lambda: _made(corpus), optional=True)


def compile_modules(media: Media, folder: Path) -> None:
    """A build whose cost is not counted: Python keeps what it compiled."""
    cost_of(build("", [media.second], folder, PROXY, "clips.min_s=0.5"))
    shutil.rmtree(folder)


def _made(corpus: Path) -> dict[str, int]:
    """Clips, and the sampled frames, movie pictures and sound (ms) in them."""
    from omniloom import open_corpus

    rows = open_corpus(corpus).table().to_pylist()
    made = {"clips": len(rows), "frames": sum(len(row["frames"]["pts_ns"]) for row in rows)}
    if rows and "video" in rows[0]:
        made["pictures"] = sum(len(row["video"]["pts_ns"]) for row in rows)
    return {**made, "sound_ms": sum(row["audio"]["num_samples"] for row in rows) // 16}


def _wall(media: Media, folder: Path) -> dict[str, Any]:
    """Seconds on the clock of a long source with one and two workers, beside what Ray needs to start."""
    film = repeated(folder, "film", media.path, WALL_S)
    report: dict[str, Any] = {"source": str(film), **_of_a_film(film, folder)}
    for workers in (1, 2):
        for what, path in (("second", film.second), ("film", film.path)):
            shutil.rmtree(folder / "made", ignore_errors=True)
            (command,) = build("", [path], folder / "made", FRAMES, "clips.min_s=0.5").commands
            spent = spend([*command, "--workers", str(workers)])
            if spent.status:
                raise RuntimeError(f"status {spent.status} from {' '.join(command)}: {spent.said}")
            report[f"{what}, {workers} workers"] = round(spent.wall_s, 2)
            say(f"wall time of a {what} with {workers} workers: {spent.wall_s:.1f} s")
    one, two = (report[f"film, {workers} workers"] - report[f"second, {workers} workers"] for workers in (1, 2))
    report["speed-up without the start"] = round(one / two, 2)
    return report


def _of_a_film(film: Media, folder: Path) -> dict[str, float]:
    """CPU seconds of whole processes on a source as long as films are: the start is a small part of them."""
    costs: dict[str, StepCost] = {}
    for step in (
        replace(peers.one_pass(film.path, folder / "made", 10, signals=True), name=FLOOR),
        build(OURS, [film.path], folder / "made" / "corpus", FRAMES),
    ):
        shutil.rmtree(folder / "made", ignore_errors=True)
        (folder / "made").mkdir()
        cost = cost_of(step)
        assert isinstance(cost, StepCost), cost
        costs[step.name] = cost
        say(f"the film, {step.name}: {cost.cpu_s:.1f} CPU s")
    report = {f"CPU s of the film, {name}": round(cost.cpu_s, 1) for name, cost in costs.items()}
    return {**report, "the same outputs / one pass": round(costs[OURS].cpu_s / costs[FLOOR].cpu_s, 2)}


def _figures(media: Media, rounds: Sequence[dict[str, StepCost | str]]) -> dict[str, Any]:
    """One source's rows in CPU-seconds and in D, and the claims; everything a median and a range over its rounds."""
    first = rounds[0]
    rows: dict[str, Any] = {}
    by_round: dict[str, list[float]] = {}
    notes: list[str] = []
    for row in ROWS:
        refused = {str(first[step]) for step in row.steps if isinstance(first.get(step), str)}
        notes += [f"{row.name}: left out ({reason})" for reason in sorted(refused)]
        counted = [costs for costs in rounds if all(isinstance(costs.get(step), StepCost) for step in row.steps)]
        if not counted:
            continue
        spent = [_sum(costs, row.steps) for costs in counted]
        decode = [_sum(costs, ("decode",)) for costs in counted]
        by_round[row.name] = spent
        rows[row.name] = {
            "group": row.group,
            "runs": len(counted),
            "cpu_s": spread(spent),
            "D": spread([mine / base for mine, base in zip(spent, decode, strict=True)]),
            "peak_mb": max(_cost(costs, step).peak_mb or 0 for costs in counted for step in row.steps) or None,
            "made": {name: count for step in row.steps for name, count in _cost(first, step).made.items()},
        }
        if f"{row.steps[0]}{_SECOND}" in first:
            per_second = [_slope(costs, row.steps[0]) / _slope(costs, "decode") for costs in counted]
            rows[row.name]["D_in_the_limit"] = spread(per_second)
    claims: dict[str, Any] = {}
    for claim in CLAIMS:
        if claim.ours in by_round and claim.peer in by_round:
            pairs = zip(by_round[claim.ours], by_round[claim.peer], strict=False)
            claims[claim.name] = spread([mine / peer for mine, peer in pairs])
            limits = [rows[name].get("D_in_the_limit") for name in (claim.ours, claim.peer)]
            if all(limits):
                claims[f"{claim.name}, in the limit"] = {"median": round(limits[0]["median"] / limits[1]["median"], 3)}
    return {
        "name": media.name,
        "seconds": media.seconds,
        "mbit_per_s": round(media.mbit_per_s, 2),
        "thorough": media.thorough,
        "rows": rows,
        "claims": claims,
        "steps": {name: asdict(cost) for name, cost in first.items() if isinstance(cost, StepCost)},
        "notes": notes,
    }


def _slope(costs: dict[str, StepCost | str], step: str) -> float:
    """What all but the first second of the file costs."""
    return _cost(costs, step).cpu_s - _cost(costs, f"{step}{_SECOND}").cpu_s


def _sum(costs: dict[str, StepCost | str], steps: Sequence[str]) -> float:
    return sum(_cost(costs, step).cpu_s for step in steps)


def _cost(costs: dict[str, StepCost | str], step: str) -> StepCost:
    cost = costs[step]
    assert isinstance(cost, StepCost), f"{step} was refused: {cost}"
    return cost


def _headline(costs: dict[str, StepCost | str]) -> str:
    decode = _sum(costs, ("decode",))
    shown = {
        "one pass": "one pass, signals",
        "ours": "frames",
        "one pass with proxy": "one pass, proxy, signals",
        "ours with proxy": "frames, proxy",
    }
    return f"D {decode:.2f} s, " + ", ".join(
        f"{name} {_sum(costs, (step,)) / decode:.2f}" for name, step in shown.items()
    )
