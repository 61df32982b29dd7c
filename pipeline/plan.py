"""Which sample at which step: a pure function of (seed, epoch, position), the same on any number of machines.

Positions count samples from the start of training, over all ranks. How many ranks and threads there are decides only
who takes which position, so resuming seeks, and goes on with any other number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omniloom.pipeline.order import Order
from omniloom.pipeline.permutation import Ints, key_of, shuffled

SLOTS = 1000
"""A mixture repeats its corpora in blocks of this many micro-batches, so weights are kept to 0.1 %."""


@dataclass(frozen=True, slots=True)
class Pick:
    """Where positions lead: which corpus, which epoch of it and which of its rows. Each int64, shaped alike.

    `row` is `order.PADDING` where there is no sample to fill a micro-batch.
    """

    corpus: Ints
    epoch: Ints
    row: Ints


@dataclass(frozen=True, slots=True)
class Plan:
    """The global order of samples.

    One corpus: epochs one after another without a gap. Several: each block of 1000 micro-batches holds every corpus by
    its weight exactly, and each corpus goes through its own epochs.
    """

    orders: tuple[Order, ...]
    """Of each corpus."""
    weights: tuple[float, ...]
    """Share of each corpus in the mixture; they need not sum to one."""
    seed: int
    micro_batch: int = 1
    """As of the orders: samples of one micro-batch are of one corpus."""

    def __post_init__(self) -> None:
        if len(self.orders) != len(self.weights) or not self.orders:
            raise ValueError(f"a plan needs one weight a corpus, got {len(self.orders)} corpora, {self.weights = }")
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise ValueError(f"weights of a mixture are above zero, got {self.weights = }")
        if len(self.orders) > 1 and min(_quotas(self.weights)) < 1:
            raise ValueError(f"a corpus of a mixture needs a weight of at least 1 in {SLOTS}, got {self.weights = }")

    @property
    def length(self) -> int:
        """Positions of one epoch of every corpus."""
        return sum(order.length for order in self.orders)

    def at(self, position: Ints, retry: int = 0) -> Pick:
        """What lies at global positions int64 (n,). `retry` 1, 2, ... gives substitutes, for samples that are bad."""
        micro, slot = np.divmod(np.asarray(position, np.int64), self.micro_batch)
        corpus, index = self._slot(micro)
        length = np.array([order.length for order in self.orders], np.int64)[corpus]
        epoch, place = np.divmod(index * self.micro_batch + slot, length)
        row = np.empty(len(place), np.int64)
        for number, order in enumerate(self.orders):
            mine = np.flatnonzero(corpus == number)
            if len(mine):
                row[mine] = order.at(place[mine], epoch[mine], retry)
        return Pick(corpus, epoch, row)

    def _slot(self, micro: Ints) -> tuple[Ints, Ints]:
        """Which corpus is up at each micro-batch, and how often it was before: two int64 (n,)."""
        if len(self.orders) == 1:
            return np.zeros_like(micro), micro
        quotas = np.asarray(_quotas(self.weights), np.int64)
        block = micro // SLOTS
        slot = shuffled(micro % SLOTS, SLOTS, key_of(self.seed), block)
        corpus = np.searchsorted(np.cumsum(quotas), slot, side="right").astype(np.int64)
        first = np.cumsum(quotas) - quotas
        return corpus, block * quotas[corpus] + slot - first[corpus]


def _quotas(weights: Sequence[float]) -> list[int]:
    """Slots of each corpus in a block, by largest remainder: they sum to SLOTS."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * SLOTS
    quota = np.floor(exact).astype(np.int64)
    short = SLOTS - int(quota.sum())
    quota[np.argsort(quota - exact, kind="stable")[:short]] += 1
    return [int(count) for count in quota]
