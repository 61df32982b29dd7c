"""Runs one job of the loader benchmark in an interpreter of its own, and watches its memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniloom.benchmarks.loader_child import START
from omniloom.benchmarks.loader_meter import memory_mb

TIMEOUT_S = 180
_WATCH_S = 0.7
"""Between looks at memory: each costs milliseconds of the cores that are measured."""
_PACKAGE = Path(__file__).absolute().parents[1]


@dataclass(frozen=True, slots=True)
class Failed:
    """A job without an answer."""

    why: str


def answer_of(python: str, job: Mapping[str, Any]) -> dict[str, Any] | Failed:
    """The job's answer with `peak_mb`, memory of the whole tree, and `said`, what it wrote to standard error."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    words = [python, "-c", START, _package(), json.dumps({**job, "began": time.time()})]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            words, stdout=out, stderr=said, env={**os.environ, **threads}, start_new_session=True
        )
        deadline, peak_mb = time.monotonic() + TIMEOUT_S, 0.0
        try:
            while process.poll() is None and time.monotonic() < deadline:
                peak_mb = max(peak_mb, memory_mb(process.pid))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_WATCH_S)
        finally:
            with suppress(ProcessLookupError):  # its workers too, whatever became of them
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        said.seek(0)
        lines, told = out.read().decode(errors="replace").splitlines(), said.read().decode(errors="replace")
    if process.returncode or not lines:
        last = (told.strip().splitlines() or ["it said nothing"])[-1]
        late = time.monotonic() >= deadline
        return Failed(f"no end after {TIMEOUT_S} s" if late else f"status {process.returncode}: {last[:300]}")
    return {**json.loads(lines[-1]), "peak_mb": peak_mb, "said": told}


def _package() -> str:
    """The folder of omniloom, whose parts may be links to elsewhere: found by the import, not by this file."""
    import omniloom

    return str(Path(omniloom.__file__ or _PACKAGE).parent)
