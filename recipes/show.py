"""How a run looks to a person: a bar on a terminal, plain lines in a pipe, one JSON object for a script."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

err = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
out = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
PLAIN_EVERY_S = 5.0
"""Seconds between lines where there is no terminal."""


class Bar:
    """One line of progress: `update` as often as you like."""

    def __init__(self, label: str, unit: str, progress: Progress | None) -> None:
        self._label = label
        self._unit = unit
        self._progress = progress
        self._task = progress.add_task(label, total=None, note="") if progress else None
        self._began = self._shown = time.monotonic()

    def update(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units; `note` is what a person wants to know besides."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if now - self._shown < PLAIN_EVERY_S and done < total:
            return
        self._shown = now
        elapsed = now - self._began
        left = f", {duration(elapsed / done * (total - done))} left" if 0 < done < total else ""
        err.print(
            f"{self._label}: {done}/{total} {self._unit}, {duration(elapsed)}{left}{f', {note}' if note else ''}",
            markup=False,
        )


@contextmanager
def bar(label: str, unit: str) -> Iterator[Bar]:
    """A progress bar with a time estimate on a terminal; a line every few seconds elsewhere."""
    if not err.is_terminal:
        yield Bar(label, unit, None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("·"),
        TimeRemainingColumn(),
        TextColumn("left  {task.fields[note]}"),
    )
    with Progress(*columns, console=err) as progress:
        yield Bar(label, unit, progress)


def say(text: str) -> None:
    """A line for a person, on standard error."""
    err.print(text)


def emit(result: Any, as_json: bool) -> None:
    """The verb's result: one JSON object on standard output, or a small table for a person."""
    values = plain(result)
    if as_json:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()
        return
    grid = Table.grid(padding=(0, 2))
    for key, value in values.items():
        grid.add_row(f"[bold]{key.replace('_', ' ')}", _cell(value))
    out.print(grid)


def emit_columns(reports: Sequence[Any], as_json: bool) -> None:
    """What came of each column, `{"columns": [...]}`, or a table for a person. reports: `ColumnReport`s."""
    if as_json:
        emit({"columns": [plain(report) for report in reports]}, as_json)
        return
    rows = [
        (
            report.modality,
            f"{report.samples:,}",
            f"{report.corpus_samples:,}",
            f"{sum(report.dropped.values()):,}",
            duration(report.busy_seconds),
            report.model,
        )
        for report in reports
    ]
    out.print(table("", ("modality", "made", "in all", "dropped", "work", "by"), rows))


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are numbers."""
    shown = Table(title=title, title_justify="left", header_style="bold", title_style="bold")
    for index, name in enumerate(header):
        shown.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    return shown


def plain(value: Any) -> Any:
    """Dataclasses and mappings as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in dataclasses.asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6)
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)


def duration(seconds: float) -> str:
    """A span as people write it: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return f"{len(value)}: " + "; ".join(_cell(item) for item in value[:5]) if value else "none"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
