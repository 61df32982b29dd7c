"""A run's folder: its recipe, and whether the one there may be continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAY_CHANGE = frozenset(
    f"train.{name}"
    for name in (
        # How long and how often.
        "steps",
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
        "log_to",
        # Where and on how many ranks: with another number of these the same samples come in the same order.
        "device",
        "batch_size",
        "parallel",
        # What changes memory and time, but no result beyond rounding.
        "accumulate",
        "recompute",
        # What the guard asks to change when it stops a run.
        "guard",
        "optim",
    )
)


def prepare_run(recipe: Mapping[str, Any], run: Path) -> None:
    """Makes the run's folder with recipe.json, or makes sure that the one there is of this recipe.

    recipe: sections of plain values. Raises ValueError naming what differs that may not (`MAY_CHANGE`).
    """
    run.mkdir(parents=True, exist_ok=True)
    path = run / "recipe.json"
    now = json.loads(json.dumps(recipe))
    if path.exists():
        before = json.loads(path.read_text())
        differing = [
            f"{section}.{name}"
            for section, values in now.items()
            for name, value in values.items()
            # A key that did not exist when the run began had today's default.
            if before[section].get(name, value) != value and f"{section}.{name}" not in MAY_CHANGE
        ]
        if differing:
            raise ValueError(
                f"{run} was trained with another {', '.join(differing)}: use another --run, or the same recipe"
            )
    replace_text(path, json.dumps(now, indent=1) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all."""
    temporary = path.with_suffix(".writing")
    temporary.write_text(text)
    temporary.replace(path)
