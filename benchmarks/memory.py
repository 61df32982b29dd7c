"""How much memory the build of one long file takes, in one process.

    omniloom bench memory [--seconds 3600] [--quick] [--out DIR]

Ten pictures a second of 720p keep an hour to minutes; memory depends on the length, if on anything, not on the rate.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from omniloom.benchmarks import Options
from omniloom.benchmarks.decode import PROXY, build
from omniloom.benchmarks.media import generated
from omniloom.benchmarks.timing import StepCost, cost_of, machine, say, versions


def run(options: Options) -> dict[str, Any]:
    """Builds the file with every picture's proxy and returns the peak memory of the process."""
    seconds = options.seconds or (20 if options.quick else 3600)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        media = generated(folder, "720p generated", (1280, 720), seconds, rate=10)
        say(f"building {media}")
        cost = cost_of(build("build", [media.path], folder / "corpus", PROXY))
        assert isinstance(cost, StepCost), cost
        report = {
            "benchmark": "memory",
            "machine": machine(),
            "versions": versions("omniloom", "av"),
            "source": f"{media}, 1280x720 at 10 a second, {media.path.stat().st_size / 1e6:.0f} MB",
            "peak_mb": cost.peak_mb,
            "cpu_s": round(cost.cpu_s, 1),
            "made": cost.made,
        }
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "memory.json").write_text(json.dumps(report, indent=2) + "\n")
    return report
