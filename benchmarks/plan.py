"""Ten million samples: how long a loader takes to start and to seek, and what memory its plan and rows take.

    omniloom bench plan [--quick] [--out DIR]

Writes the sidecars of so many samples (10 GB and the better part of an hour on two cores; quick: of a hundredth), no
tars, and measures loaders over them, each in a fresh process.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omniloom.benchmarks import Options
from omniloom.benchmarks.long import most_mb
from omniloom.benchmarks.plan_corpus import PER_UNIT, write_corpus
from omniloom.benchmarks.timing import as_row, machine, say, versions
from omniloom.pipeline.corpus import open_corpus
from omniloom.pipeline.loader import Loader

SAMPLES = 10_000_000
SEEKS = 16
"""Of a batch each: together 1,024 samples."""
BATCH = 64
GOALS = {"start_s": 60.0, "peak_mb": 2000.0, "seek_s": 1.0}
CASES: Mapping[str, Mapping[str, Any]] = {
    "one order": {},
    "one order, all shards open": {"shuffle": "global"},
    "a split": {"split": "train"},
    "share and buckets": {
        "share": ("audio", "caption", "depth"),
        "buckets": {"duration_ns": [4e9, 8e9]},
        "micro_batch": 8,
    },
    "evaluation, by key": {"train": False},
}
"""What each loader is asked for, beside frames, audio, captions and depth."""


def run(options: Options) -> dict[str, Any]:
    """Writes the sidecars to a temporary folder and measures. Raises RuntimeError if a loader fails."""
    samples = SAMPLES // 100 if options.quick else SAMPLES
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "corpus"
        say(f"writing sidecars of {samples} samples to {folder}")
        write_corpus(folder, samples // PER_UNIT * PER_UNIT)
        report = measured(folder, Path(scratch) / "cache")
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "plan.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.folder / "plan.md").write_text(as_markdown(report))
    return report


def measured(corpus: Path, cache: Path, cases: Sequence[str] = tuple(CASES)) -> dict[str, Any]:
    """Every case twice, each time in a fresh process: the first finds nothing kept from before."""
    sidecars = list((corpus / "shards").glob("*.parquet"))
    report: dict[str, Any] = {
        "benchmark": "plan",
        "machine": machine(),
        "load": [round(number, 2) for number in os.getloadavg()],
        "versions": versions("omniloom", "pyarrow", "numpy"),
        "units": len(sidecars),
        "gigabytes": round(sum(path.stat().st_size for path in sidecars) / 1e9, 2),
        "goals": GOALS,
        "cases": {},
    }
    for name in cases:
        for again in ("", ", again"):
            say(f"{name}{again}")
            command = [sys.executable, "-m", "omniloom.benchmarks.plan", str(corpus), name]
            environment = {**os.environ, "OMNILOOM_CACHE": str(cache)}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise RuntimeError(f"the loader of {name!r} failed: {done.stderr.strip()[-2000:]}")
            report["cases"][name + again] = json.loads(done.stdout.splitlines()[-1])
        report["kept_mb"] = round(sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e6, 1)
    report["samples"] = next(iter(report["cases"].values()))["samples"]
    return report


def child(corpus: str, case: str) -> dict[str, Any]:
    """Starts one loader, lets it seek, and says what that took."""
    rng = random.Random(0)
    before_mb, began, cpu_s = most_mb(os.getpid()), time.perf_counter(), time.process_time()
    options: dict[str, Any] = {"epochs": 1, **CASES[case]}
    opened = open_corpus(corpus)
    loader = Loader(opened, ("frames", "audio", "caption", "depth"), BATCH, workers=2, **options)
    start_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    assert loader.num_steps is not None
    first_s = _timed(loader, 0)
    state = loader.state_dict()
    seeks_s: list[float] = []
    seeks_cpu_s = time.process_time()
    for _ in range(SEEKS):
        step = rng.randrange(loader.num_steps)
        began = time.perf_counter()
        loader.load_state_dict({**state, "position": step * BATCH})
        seeks_s.append(time.perf_counter() - began + _timed(loader, step))
    return {
        "samples": len(opened),
        "start_s": round(start_s, 2),
        "start_cpu_s": round(cpu_s, 2),
        "first_keys_s": round(first_s, 3),
        "seek_cpu_s": round((time.process_time() - seeks_cpu_s) / SEEKS, 4),
        "seek_s": {"median": round(sorted(seeks_s)[SEEKS // 2], 4), "max": round(max(seeks_s), 4)},
        "import_mb": round(before_mb),
        "peak_mb": round(most_mb(os.getpid())),
    }


def _timed(loader: Loader, step: int) -> float:
    began = time.perf_counter()
    assert all(loader.keys_at(step))
    return time.perf_counter() - began


def as_markdown(report: Mapping[str, Any]) -> str:
    """What each loader took, beside the goals."""
    goals = report["goals"]
    lines = [
        "# A plan for ten million samples",
        "",
        f"{report['samples']} samples in {report['units']} units, whose sidecars have {report['gigabytes']} GB; there"
        f" are no tars. Each loader reads frames, audio, captions and depth in batches of {BATCH}, in a fresh process;"
        f' "again" finds what the process before it kept, {report["kept_mb"]} MB for all. Start: until the loader is'
        f" made, modules imported. A seek: `load_state_dict` to one of {SEEKS} positions drawn at random, and the keys"
        " and places of the parts of the batch there. Memory: the most that was resident, the interpreter and its"
        " modules included.",
        "",
        f"{report['machine']}; load {report['load'][0]} at the beginning;"
        f" {', '.join(f'{name} {version}' for name, version in report['versions'].items())}.",
        "",
        as_row(["", "start, s", "its CPU s", "first keys, s", "seek, s: median", "longest", "CPU s", "peak MB"]),
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        as_row(
            ["goal", f"< {goals['start_s']:g}", "", "", "", f"< {goals['seek_s']:g}", "", f"< {goals['peak_mb']:g}"]
        ),
    ]
    for name, case in report["cases"].items():
        seek = case["seek_s"]
        figures = [case["first_keys_s"], seek["median"], seek["max"], case["seek_cpu_s"], case["peak_mb"]]
        lines.append(as_row([name, case["start_s"], case["start_cpu_s"], *figures]))
    return "\n".join([*lines, "", "Made by `omniloom bench plan`.", ""])


if __name__ == "__main__":
    print(json.dumps(child(*sys.argv[1:])))
