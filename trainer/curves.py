"""Learning curves: a run's metrics as one picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PANELS = (
    ("loss, nats", None),
    ("gradient norm", ("grad_norm",)),
    ("learning rate", ("lr",)),
    ("samples / s", ("samples_per_second",)),
    ("waiting for data, share", ("data_wait_fraction",)),
)
"""None: the loss and every other name that is no panel of its own."""
_OTHER = {"step", "skipped", "taken", "temperature", "tflops", "mfu"}
_SMOOTH = 50
"""Means over a fiftieth of the run lie over the single steps."""


def draw_curves(metrics: Path, path: Path) -> bool:
    """Draws RUN/metrics.jsonl as a PNG; False where matplotlib is not installed or nothing was logged."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    if not lines or find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    own = {name for _, names in _PANELS for name in names or ()}
    losses = ["loss", *sorted({name for line in lines for name in line} - own - _OTHER - {"loss"})]
    figure = Figure(figsize=(14, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 4)
    places = [grid[:, :2], grid[0, 2], grid[0, 3], grid[1, 2], grid[1, 3]]
    for place, (title, names) in zip(places, _PANELS, strict=True):
        panel = figure.add_subplot(place)
        for name in losses if names is None else names:
            _draw(panel, lines, name, smooth=names is None or name == "grad_norm")
        for line in lines:
            if not line.get("taken", True):
                panel.axvline(line["step"], color="#d9822b", linewidth=0.8, alpha=0.7)
        panel.set_title(title, fontsize=10, loc="left")
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e8e8e8", linewidth=0.6)
        if names is None:
            panel.set_xlabel("step", fontsize=9)
            panel.legend(fontsize=9, frameon=False)
        else:
            panel.set_ylim(0, 1.06 * panel.get_ylim()[1])
    skipped = lines[-1].get("skipped") or 0
    note = f", {skipped} skipped (orange)" if skipped else ""
    figure.suptitle(f"{metrics.parent.name}: {lines[-1]['step']:,} steps{note}", fontsize=11, x=0.01, ha="left")
    figure.savefig(path, dpi=110)
    return True


def _draw(panel: Any, lines: Sequence[Mapping[str, Any]], name: str, *, smooth: bool) -> None:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    points = [(step, value) for step, value in points if math.isfinite(value)]
    if not points:
        return
    steps, values = zip(*points, strict=True)
    width = max(1, len(values) // _SMOOTH) if smooth else 1
    (drawn,) = panel.plot(steps, values, linewidth=0.8, alpha=0.3 if width > 1 else 1.0)
    if width > 1:
        sums = [0.0]
        for value in values:
            sums.append(sums[-1] + value)
        means = [(sums[end] - sums[end - width]) / width for end in range(width, len(sums))]
        middle = (width - 1) // 2
        panel.plot(steps[middle : middle + len(means)], means, linewidth=1.6, color=drawn.get_color(), label=name)
    else:
        drawn.set_label(name)
