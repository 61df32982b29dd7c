"""The guard: steps whose gradient is not finite, or far larger than usual, are skipped and counted."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """When a step is not taken."""

    spike: float = 10.0
    """Gradient norms above so many medians of the recent ones are skipped; 0 skips only what is not finite."""
    window: int = 100
    """Norms of how many steps the median is over."""
    after: int = 20
    """Steps before the first judgement by the median: norms fall fast in the beginning."""
    max_skips: int = 10
    """Steps skipped one after the other at which the run stops."""

    def __post_init__(self) -> None:
        if self.spike and self.spike <= 1:
            raise ValueError(f"train.guard.spike is a multiple of the usual norm, above 1, or 0; got {self.spike}")
        if not 1 <= self.after <= self.window or self.max_skips < 1:
            raise ValueError(
                f"train.guard needs 1 <= after <= window and max_skips >= 1, got {self.after = }, {self.window = },"
                f" {self.max_skips = }"
            )


class Guard:
    """Judges each step by its loss and gradient norm, which must be those of all ranks together."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.skipped = 0
        """Steps in all."""
        self._in_a_row = 0
        self._norms: deque[float] = deque(maxlen=config.window)

    def accepts(self, loss: float, norm: float) -> bool:
        """Whether to take the step. Raises FloatingPointError when too many in a row were not."""
        usual = median(self._norms) if len(self._norms) >= self.config.after else math.inf
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite and not (self.config.spike and norm > self.config.spike * usual):
            self._norms.append(norm)
            self._in_a_row = 0
            return True
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= self.config.max_skips:
            repair = (
                f"they are above {self.config.spike:g} times the usual {usual:.4g}: lower train.optim.lr, or raise"
                " train.guard.spike"
                if finite
                else "lower train.optim.lr, or look for samples that are not finite with `omniloom check`"
            )
            raise FloatingPointError(
                f"{self._in_a_row} steps in a row were skipped, the last with loss {loss:.4g} and gradient norm"
                f" {norm:.4g}: {repair}; the run's checkpoint is from before"
            )
        return False

    def state_dict(self) -> dict[str, Any]:
        """What JSON can hold, exactly."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row, "norms": list(self._norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.skipped, self._in_a_row = int(state["skipped"]), int(state["in_a_row"])
        self._norms = deque(state["norms"], maxlen=self.config.window)
