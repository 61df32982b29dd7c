"""What a command costs: processor time of the whole process and its children, side by side with others."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
USAGE = 2
"""Exit status of a command that refuses what it was asked: a recipe key that this version does not know."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one process and the children it waited for."""

    status: int
    cpu_s: float
    """User plus system."""
    wall_s: float
    peak_mb: float | None
    """Resident memory of the largest of the processes; None below this process's own, with which a child begins."""
    said: str
    """The last line it wrote to standard error."""


@dataclass(frozen=True, slots=True)
class Step:
    """Processes that run one after the other and make something countable."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    made: Callable[[], dict[str, int]]
    """Counts what the processes left behind; raises if they left nothing."""
    optional: bool = False
    """May be refused with status 2: then it is left out, with a note."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step cost, and what it made."""

    cpu_s: float
    wall_s: float
    peak_mb: float | None
    made: dict[str, int]


def spend(command: Sequence[str]) -> Spent:
    """Runs a process to its end. One thread of BLAS, so that nothing spins while it waits.

    Modules are compiled once, as on anyone's machine, also where this process was told to keep no bytecode.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_mb = round(usage.ru_maxrss / 1024) if usage.ru_maxrss > own else None
    return Spent(process.returncode, usage.ru_utime + usage.ru_stime, wall_s, peak_mb, lines[-1] if lines else "")


def cost_of(step: Step) -> StepCost | str:
    """What the step cost, or why it was refused. Raises RuntimeError if a process fails or makes nothing."""
    cpu_s = wall_s = 0.0
    peaks_mb: list[float] = []
    for command in step.commands:
        spent = spend(command)
        if spent.status == USAGE and step.optional:
            return spent.said
        if spent.status:
            raise RuntimeError(f"status {spent.status} from {' '.join(command)}: {spent.said}")
        cpu_s, wall_s = cpu_s + spent.cpu_s, wall_s + spent.wall_s
        peaks_mb += [] if spent.peak_mb is None else [spent.peak_mb]
    made = step.made()
    if not all(made.values()):
        raise RuntimeError(f"{step.name} made {made}")
    return StepCost(cpu_s, wall_s, max(peaks_mb, default=None), made)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range, to four digits."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return {name: float(f"{value:.4g}") for name, value in (("median", middle), ("min", low), ("max", high))}


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def versions(*packages: str) -> dict[str, str]:
    """Of this Python, FFmpeg and the packages that are installed."""
    banner = subprocess.run([FFMPEG, "-version"], capture_output=True, text=True, check=True).stdout
    found = {"python": platform.python_version(), "ffmpeg": banner.split()[2]}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """The processor, as far as the system names it, and how many cores there are."""
    names = [line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def as_row(cells: Sequence[Any]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
