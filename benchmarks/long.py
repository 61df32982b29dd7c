"""A ten-hour file is built, killed at half and continued: peak memory of a worker, and what was decoded twice.

    omniloom bench long [--seconds 36000] [--quick] [--out DIR]

Tiny pictures, so that ten hours take minutes: memory and the work done over again depend on the length, if on anything.
Beside it the same file is built whole, as one unit and without a break; both must hold the same samples.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from omniloom.benchmarks import Options
from omniloom.benchmarks.media import length_of, repeated
from omniloom.benchmarks.timing import FFMPEG, as_row, machine, say, versions
from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline.corpus import open_corpus
from omniloom.pipeline.shard import committed_units
from omniloom.pipeline.units import UnitsConfig

WORKERS = 2
_OVERRIDES = ("modalities=[frames,audio]", "clips.length_s=10", "frames.per_second=0.4", "frames.at_least=4")


def run(options: Options) -> dict[str, Any]:
    """Builds the file twice, once with a kill, and compares. Raises RuntimeError if samples differ or work is lost."""
    seconds = options.seconds or (120 if options.quick else 36_000)
    span_s = min(UnitsConfig().span_s, seconds / 8)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = generate(folder, seconds)
        say(f"building {source} in spans of {span_s:g} s, and whole")
        parts, whole_corpus = folder / "parts", folder / "whole"
        with ExitStack() as running:
            killed = running.enter_context(Watched(source, parts, span_s, WORKERS))
            killed.wait_until(committed=0)
            whole = running.enter_context(Watched(source, whole_corpus, span_s=0, workers=0))
            killed.wait_until(committed=killed.units() // 2)
            killed.kill()
            before = _spans(parts)
            say(f"killed with {len(before)} of {killed.units()} spans committed")
            resumed = running.enter_context(Watched(source, parts, span_s, WORKERS))
            resumed.finish()
            say(f"continued to the end in {resumed.wall_s:.0f} s")
            whole.finish()
        decoded = {
            "committed before the kill": round(_media_s(parts, set(before)), 3),
            "after it": round(resumed.report["decoded_seconds"], 3),
            "whole, without a break": round(whole.report["decoded_seconds"], 3),
        }
        report: dict[str, Any] = {
            "benchmark": "long",
            "machine": machine(),
            "versions": versions("omniloom", "av", "ray"),
            "source": f"{length_of(source):.0f} s, 96x54 H.264 at 5 a second, {source.stat().st_size / 1e6:.0f} MB",
            "span_s": span_s,
            "spans": resumed.units(),
            "spans_committed_before_the_kill": len(before),
            "spans_rewritten": sum(_spans(parts)[unit] != stamp for unit, stamp in before.items()),
            "decoded_s": decoded,
            "samples": len(open_corpus(parts)),
            "same_samples": samples(parts) == samples(whole_corpus),
            "runs": {
                "whole": whole.summary(),
                "spans, until the kill": killed.summary(),
                "spans, continued": resumed.summary(),
            },
        }
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "long.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.folder / "long.md").write_text(as_markdown(report))
    twice_s = decoded["committed before the kill"] + decoded["after it"] - decoded["whole, without a break"]
    if not report["same_samples"] or report["spans_rewritten"] or abs(twice_s) > 0.01:
        raise RuntimeError(f"the continued build is not the uninterrupted one: {json.dumps(report)}")
    return report


def generate(folder: Path, seconds: float) -> Path:
    """Ten minutes of a moving card and a sweeping tone, repeated by stream copy."""
    piece = folder / "piece.mp4"
    length_s = min(600.0, seconds)
    picture = f"testsrc2=size=96x54:rate=5:duration={length_s}"
    sound = f"aevalsrc=0.3*sin(2*PI*(200+4*t)*t):sample_rate=8000:duration={length_s}"
    coding = ["-c:v", "libx264", "-preset", "veryfast", "-g", "50", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "16k"]
    inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound]
    subprocess.run([FFMPEG, "-v", "error", "-y", *inputs, *coding, str(piece)], check=True)
    return repeated(folder, "long", piece, seconds).path


@dataclass
class Watched:
    """A build in a process of its own, whose memory and that of its workers is looked at as it runs."""

    source: Path
    out: Path
    span_s: float
    workers: int
    """0: the process itself does the work."""
    peak_mb: dict[int, float] = field(default_factory=dict[int, float])
    """Of each worker, by process: the most that was resident."""
    report: Mapping[str, Any] = field(default_factory=dict[str, Any])
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        self._began = time.perf_counter()
        words = [str(self.source), str(self.out), str(self.span_s), str(self.workers)]
        command = [sys.executable, "-m", "omniloom.benchmarks.long", *words]
        self._log = (self.out.parent / f"{self.out.name}-{time.monotonic_ns()}.log").open("w+")
        self._process = psutil.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def units(self) -> int:
        """How many the source was planned in."""
        from omniloom.pipeline.sidecar import read_sealed

        return len(read_sealed(self.out / "plan.parquet", ["unit"])[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()
        self._log.close()

    def wait_until(self, committed: int) -> None:
        """Returns when the source is planned and so many units lie there. Raises RuntimeError if it ends first."""
        while not (self.out / "plan.parquet").exists() or len(committed_units(self.out)) < committed:
            time.sleep(0.1)
            if self._process.poll() is not None:
                raise RuntimeError(f"the build ended before it could be killed:\n{self._said()}")

    def kill(self) -> None:
        """SIGKILL to the build and everything it started, at once; its workers are in the middle of their spans."""
        family = [self._process, *self._process.children(recursive=True)]
        texts = " ".join(word for process in family for word in _command(process))
        for process in family:
            if process.is_running():  # of that number and that birth: no stranger
                process.kill()
        self._watch.join()
        for folder in set(re.findall(r"/tmp/loom-\w+", texts)):  # Ray's own: nobody is left to remove it
            shutil.rmtree(folder, ignore_errors=True)

    def finish(self) -> None:
        """Waits for the build's end and reads its report. Raises RuntimeError if it failed."""
        self._watch.join()
        if self._process.returncode:
            raise RuntimeError(f"the build failed:\n{self._said()}")
        self.report = json.loads(self._said().strip().splitlines()[-1])

    def summary(self) -> dict[str, Any]:
        """What the run took."""
        return {
            "wall_s": round(self.wall_s),
            "cpu_s": round(self.report["cpu_seconds"]) if self.report else None,
            "peak_mb_of_a_worker": round(max(self.peak_mb.values(), default=0)),
            "workers": max(1, self.workers),
        }

    def _look(self) -> None:
        """Notes the workers' memory until the build ends."""
        while self._process.poll() is None:
            try:
                for process in [self._process, *self._process.children(recursive=True)]:
                    if not self.workers or any(word.startswith("ray::") for word in _command(process)):
                        self.peak_mb[process.pid] = max(self.peak_mb.get(process.pid, 0.0), most_mb(process.pid))
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.3)
        self.wall_s = time.perf_counter() - self._began

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()


def samples(corpus: Path) -> dict[str, dict[str, Any]]:
    """Every sample's row, with the hashes of its parts, but not where it lies."""
    found: dict[str, dict[str, Any]] = {}
    for row in open_corpus(corpus).table().to_pylist():
        row.pop("unit")
        for part in row.values():
            if isinstance(part, dict):
                part.pop("offset", None)
        found[row["key"]] = row
    return found


def _spans(corpus: Path) -> dict[int, int]:
    """When each committed unit was written."""
    return {unit: (corpus / "shards" / f"{unit:06d}.parquet").stat().st_mtime_ns for unit in committed_units(corpus)}


def _media_s(corpus: Path, units: set[int]) -> float:
    opened = open_corpus(corpus)
    rows = [*opened.table(["unit", "start_ns", "end_ns"]).to_pylist(), *opened.drops().to_pylist()]
    mine = [row for row in rows if row["unit"] in units and row["start_ns"] is not None]
    return sum(row["end_ns"] - row["start_ns"] for row in mine) / NS_PER_S


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def most_mb(pid: int) -> float:
    """The most memory that was ever resident in a living process, as Linux counts it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def as_markdown(report: Mapping[str, Any]) -> str:
    decoded, runs = report["decoded_s"], report["runs"]
    lines = [
        "# A long source, killed in the middle and continued",
        "",
        f"Source: {report['source']}. Machine: {report['machine']}. Spans of {report['span_s']:g} s:"
        f" {report['spans']}; "
        f"{report['spans_committed_before_the_kill']} were committed when the build and all its workers were killed"
        f" (SIGKILL), and {report['spans_rewritten']} of those were written again by the same command.",
        "",
        f"Decoded: {decoded['committed before the kill']} s of media committed before the kill and"
        f" {decoded['after it']} s after it; {decoded['whole, without a break']} s in one unit without a break."
        f" Both corpora hold {report['samples']} samples, {'the same' if report['same_samples'] else 'NOT the same'}:"
        " keys, bytes of every part, facts and signals.",
        "",
        as_row(["run", "workers", "peak memory of a worker, MB", "CPU s of the workers", "wall s"]),
        as_row(["---", "---:", "---:", "---:", "---:"]),
    ]
    for name, one in runs.items():
        cpu = "" if one["cpu_s"] is None else one["cpu_s"]
        lines.append(as_row([name, one["workers"], one["peak_mb_of_a_worker"], cpu, one["wall_s"]]))
    note = "The whole build is one process without Ray and went on beside the others: times are no claim."
    return "\n".join([*lines, "", note, "", "Made by `omniloom bench long`.", ""])


def _build(source: str, out: str, span_s: str, workers: str) -> None:
    """One build, in this process's own Ray; the last line on standard output is its report."""
    from omniloom.pipeline.jobs import build
    from omniloom.recipes.config import build_recipe

    recipe = build_recipe(None, list(_OVERRIDES))
    report = build(recipe, [source], Path(out), workers=int(workers), units=UnitsConfig(span_s=float(span_s)))
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    _build(*sys.argv[1:])
