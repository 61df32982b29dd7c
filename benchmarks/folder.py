"""What a folder of short files costs in one build, beside a process of FFmpeg's for each file.

    omniloom bench folder [--runs 3] [--seconds 60] [--quick] [--out DIR]

`decode` takes files one by one, so that each pays for the start of a Python process; people give a build a folder.
Costs are user plus system time of whole processes, the start among them. D is the time of one single-threaded decode of
all files. Ratios are taken within a round; builds that are compared follow each other, now one first, now the other.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omniloom.benchmarks import Options, peers
from omniloom.benchmarks.decode import (
    FLOOR,
    FLOOR_PROXY,
    FRAMES,
    OURS,
    OURS_COPY,
    OURS_PROXY,
    PROXY,
    build,
    compile_modules,
)
from omniloom.benchmarks.media import Media, every_source, generated
from omniloom.benchmarks.timing import Step, StepCost, as_row, cost_of, machine, say, spread, versions

_CLIP_S = 10
_D = "ffmpeg: one decode (D)"
_GOALS = {OURS: (FLOOR, 1.15), OURS_PROXY: (FLOOR_PROXY, 1.15)}
"""Build -> the peer, and at most how many times its cost."""
_COPY_GOAL_D = 0.1
_ORDER = (_D, FLOOR, FLOOR_PROXY, OURS, OURS_COPY, OURS_PROXY)
_QUICK = (("360p generated", False), ("360p generated, VFR", True))
"""Name, and whether pictures are left out."""


def run(options: Options) -> dict[str, Any]:
    """Measures the folder in rounds and returns the figures; with a folder to write to, also a table."""
    began = time.monotonic()
    seconds = options.seconds or (5 if options.quick else 60)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        say(f"making the sources, {seconds:g} s each, of variable frame rate half of it")
        if options.quick:
            sources = [generated(folder, name, (640, 360), seconds, drop=drop) for name, drop in _QUICK]
        else:
            sources = every_source(folder, seconds)
        compile_modules(sources[0], folder / "made")
        rounds = [
            _round(sources, folder / "made", number) for number in range(options.runs or (1 if options.quick else 3))
        ]
    report: dict[str, Any] = {
        "benchmark": "folder",
        "machine": machine(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "versions": versions("omniloom", "av", "numpy"),
        "sources": [str(media) for media in sources],
        "rounds": len(rounds),
        "rows": {
            name: {
                "cpu_s": spread([costs[name] for costs in rounds]),
                "D": spread([costs[name] / costs[_D] for costs in rounds]),
            }
            for name in sorted(rounds[0], key=_ORDER.index)
        },
        "claims": _claims(rounds),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "folder.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.folder / "folder.md").write_text(_as_markdown(report))
    return report


def _round(sources: Sequence[Media], made: Path, number: int) -> dict[str, float]:
    """CPU seconds by row, each over all the files."""

    def ours(name: str, modalities: str, *words: str) -> Step:
        files = [media.path for media in sources]
        return build(name, files, made / "corpus", modalities, f"clips.length_s={_CLIP_S}", *words)

    pair = [ours(OURS, FRAMES), ours(OURS_COPY, PROXY, "video.codec=copy")]
    steps: list[tuple[str, list[Step]]] = [
        (_D, [peers.one_decode(media.path) for media in sources]),
        (FLOOR, [peers.one_pass(media.path, made, _CLIP_S, signals=True) for media in sources]),
        *((step.name, [step]) for step in (pair if number % 2 == 0 else reversed(pair))),
        (FLOOR_PROXY, [peers.one_pass(media.path, made, _CLIP_S, signals=True, proxy=True) for media in sources]),
        (OURS_PROXY, [ours(OURS_PROXY, PROXY)]),
    ]
    costs: dict[str, float] = {}
    made_of: dict[str, dict[str, int]] = {}
    for name, commands in steps:
        costs[name] = 0.0
        for step in commands:
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            cost = cost_of(step)
            assert isinstance(cost, StepCost), cost
            costs[name] += cost.cpu_s
            total = made_of.setdefault(name, {})
            total.update({what: total.get(what, 0) + count for what, count in cost.made.items()})
        say(f"round {number + 1}, {name}: {costs[name]:.2f} CPU s")
    for mine, (peer, _) in _GOALS.items():
        same(made_of[mine], made_of[peer])
    return costs


def same(ours: dict[str, int], theirs: dict[str, int]) -> None:
    """Raises RuntimeError unless both made about the same: a tail shorter than a clip may go to neither or either."""
    for what, count in ours.items():
        if abs(count - theirs[what]) > 0.03 * theirs[what] + 2:
            raise RuntimeError(f"the build made {ours}, FFmpeg {theirs}: their costs cannot be compared")


def _claims(rounds: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    claims = {
        f"{mine} / one pass a file": {**spread([costs[mine] / costs[peer] for costs in rounds]), "goal": goal}
        for mine, (peer, goal) in _GOALS.items()
    }
    added = [(costs[OURS_COPY] - costs[OURS]) / costs[_D] for costs in rounds]
    return {**claims, "stream copy adds, D": {**spread(added), "goal": _COPY_GOAL_D}}


def _as_markdown(report: dict[str, Any]) -> str:
    lines = [
        "# A folder of files in one build",
        "",
        "Costs are user plus system time of whole processes, start and imports included: one build of all files, and",
        "one process of FFmpeg's for each file that makes the same outputs in one decode. D is one single-threaded",
        f"decode of all files. Medians (ranges) over {report['rounds']} rounds.",
        "",
        *(f"- {source}" for source in report["sources"]),
        "",
        f"{report['machine']}; load {report['load'][0]} at the end; "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        + f"; {report['minutes']} minutes in all.",
        "",
        as_row(["", "measured", "goal, at most"]),
        "|---|---:|---:|",
        *(as_row([name, _cell(figures), figures["goal"]]) for name, figures in report["claims"].items()),
        "",
        as_row(["", "CPU s", "D"]),
        "|---|---:|---:|",
        *(as_row([name, _cell(row["cpu_s"]), _cell(row["D"])]) for name, row in report["rows"].items()),
        "",
        "Made by `omniloom bench folder`.",
        "",
    ]
    return "\n".join(lines)


def _cell(figures: dict[str, float]) -> str:
    return f"{figures['median']:.2f} ({figures['min']:.2f} to {figures['max']:.2f})"
