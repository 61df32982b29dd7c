"""A training as it runs: a bar, the course of each loss and what the machine does; plain lines in a pipe."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from omniloom.recipes.show import bar, duration, err

if TYPE_CHECKING:
    from omniloom.trainer.metrics import StepReport

_LEVELS = "▁▂▃▄▅▆▇█"
_COLUMNS = 36
_PER_SECOND = 4


@contextmanager
def training_view(label: str) -> Iterator[Callable[[StepReport], None]]:
    """A function to call after each step; shows it live on a terminal, else in a line every few seconds."""
    if not err.is_terminal:
        with bar(label, "steps") as line:
            yield lambda at: line.update(at.step, at.steps, note(at))
        return
    view = TrainingView(label)
    with Live(view, console=err, refresh_per_second=_PER_SECOND):
        yield view.update


def note(at: StepReport) -> str:
    """The step in a few words."""
    skipped = f", {at.skipped} skipped" if at.skipped else ""
    return f"loss {at.loss:.3f}, {at.samples_per_second:.0f} samples/s{skipped}"


class TrainingView:
    """What rich draws: the last report and the course of the losses since this call began."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._began = time.monotonic()
        self._first = 0
        self._last: StepReport | None = None
        self._courses: dict[str, list[float]] = {}

    def update(self, at: StepReport) -> None:
        if self._last is None:
            self._first = at.step - 1
        for name, value in {"loss": at.loss, **at.losses}.items():
            if name != "temperature":
                self._courses.setdefault(name, []).append(value)
        self._last = at

    def __rich__(self) -> RenderableType:
        at = self._last
        if at is None:
            return Text(f"{self._label}: the first batch is on its way", style="dim")
        elapsed = time.monotonic() - self._began
        left = elapsed / (at.step - self._first) * (at.steps - at.step)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(self._label, style="bold"),
            ProgressBar(at.steps, at.step, width=_COLUMNS),
            f"{at.step:,}/{at.steps:,} steps",
            f"{duration(elapsed)}, {duration(left)} left",
        )
        losses = Table.grid(padding=(0, 2))
        for name, values in self._courses.items():
            losses.add_row(f"  {name}", f"{values[-1]:.4f}", Text(course(values), style="cyan"))
        facts = [
            f"{at.samples_per_second:,.1f} samples/s",
            f"data wait {at.data_wait_fraction:.1%}",
            f"lr {at.lr:.3g}",
            f"gradient {at.grad_norm:.3g}",
        ]
        if at.mfu is not None:
            facts.append(f"MFU {at.mfu:.1%}")
        elif at.tflops:
            facts.append(f"{at.tflops:.3g} TFLOP/s")
        if at.skipped:
            facts.append(f"{at.skipped} steps skipped")
        return Group(head, losses, Text("  " + " · ".join(facts), style="dim"))


def course(values: Sequence[float]) -> str:
    """Numbers as a row of at most 36 bars, each the mean of its stretch, from the smallest to the largest of them."""
    known = [value for value in values if math.isfinite(value)]
    count = min(_COLUMNS, len(known))
    edges = [len(known) * index // count for index in range(count + 1)] if count else [0]
    means = [sum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    if not means:
        return ""
    low, spread = min(means), max(means) - min(means)
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[round(top * (mean - low) / spread) if spread else 0] for mean in means)
