"""Which sample at which step: a pure function of (seed, epoch, position), the same on any number of machines.

Positions count samples from the start of training, over all ranks. The shuffle is a Feistel cipher on row numbers, so
the sample at any position is found in constant time and memory: resuming seeks, it does not replay. A network with
rounds of hashes is a permutation whatever the hashes are (Luby and Rackoff, 1988); row numbers outside the table
are encrypted again until they fall inside it ("cycle walking", Black and Rogaway, 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]

_ROUNDS = 6
_MIN_HALF_BITS = 4
"""Smaller halves shuffle poorly; tables under 256 rows walk a few cycles more instead."""
SLOTS = 1000
"""A mixture repeats its corpora in blocks of this many positions, so weights are kept to 0.1 %."""


def shuffled(index: Ints, size: int, seed: int, epoch: Ints | int = 0) -> Ints:
    """Row numbers int64, shaped like `index`: a permutation of range(size) for each seed and epoch.

    index: int64 in [0, size). epoch: one for all, or one for each index. Cost: about 0.3 us an index.
    """
    if size < 1:
        raise ValueError(f"there is nothing to shuffle, got {size = }")
    half_bits = max(_MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    keys = _mix(_u64(epoch) ^ _mix(_u64(seed)))
    out = np.asarray(index, np.int64).astype(np.uint64)
    keys = np.broadcast_to(keys, out.shape)
    outside = np.ones(out.shape, bool)
    while outside.any():
        out[outside] = _encrypt(out[outside], half_bits, keys[outside])
        outside &= out >= np.uint64(size)
    return out.astype(np.int64)


def derangement(groups: Sequence[str] | NDArray[np.str_], seed: int = 0) -> Ints:
    """For each of n items another one, never itself and, where possible, never one of its own group: int64 (n,).

    A permutation, the same for the same groups and seed. Groups are sources: clips of one source share what they show.
    Possible when no group holds more than half of the items. Raises ValueError for fewer than two items.
    """
    labels, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(group) < 2:
        raise ValueError(f"swapping a modality between samples needs two samples that have it, got {len(group)}")
    rng = np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), 0]))
    group_order = rng.permutation(len(labels))
    order = np.lexsort((rng.random(len(group)), group_order[group]))  # groups side by side, shuffled inside
    largest = int(np.bincount(group).max())
    shift = largest if 2 * largest <= len(group) else 1
    donor = np.empty(len(group), np.int64)
    donor[order] = np.roll(order, -shift)
    return donor


@dataclass(frozen=True, slots=True)
class Pick:
    """Where positions lead: which corpus, which epoch of it and which of its rows. Each int64, shaped alike."""

    corpus: Ints
    epoch: Ints
    row: Ints


@dataclass(frozen=True, slots=True)
class Plan:
    """The global order of samples.

    One corpus, shuffled: every row once an epoch, epochs one after another without a gap. Several: each block of 1000
    positions holds every corpus by its weight exactly, and each corpus goes through its own epochs.
    """

    sizes: tuple[int, ...]
    """Rows of each corpus."""
    weights: tuple[float, ...]
    """Share of each corpus in the mixture; they need not sum to one."""
    seed: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.weights) or not self.sizes:
            raise ValueError(f"a plan needs one weight a corpus, got {self.sizes = }, {self.weights = }")
        if min(self.sizes) < 1:
            raise ValueError(f"every corpus of a plan needs at least one sample, got {self.sizes = }")
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise ValueError(f"weights of a mixture are above zero, got {self.weights = }")
        if len(self.sizes) > 1 and min(_quotas(self.weights)) < 1:
            raise ValueError(f"a corpus of a mixture needs a weight of at least 1 in {SLOTS}, got {self.weights = }")

    def at(self, position: Ints, retry: int = 0) -> Pick:
        """What lies at global positions int64 (n,). `retry` 1, 2, ... gives substitutes, for samples that are bad."""
        position = np.asarray(position, np.int64)
        corpus, index = self._slot(position)
        size = np.asarray(self.sizes, np.int64)[corpus]
        epoch, row = index // size, index % size
        if self.shuffle or retry:
            for number, rows in enumerate(self.sizes):
                mine = corpus == number
                if mine.any():
                    row[mine] = shuffled(row[mine], rows, self.seed + (retry << 32) + (number << 48), epoch[mine])
        return Pick(corpus, epoch, row)

    def _slot(self, position: Ints) -> tuple[Ints, Ints]:
        """Which corpus is up at each position, and how often it was before: two int64 (n,)."""
        if len(self.sizes) == 1:
            return np.zeros_like(position), position
        quotas = np.asarray(_quotas(self.weights), np.int64)
        block = position // SLOTS
        slot = shuffled(position % SLOTS, SLOTS, ~self.seed, block)
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


def _encrypt(value: NDArray[np.uint64], half_bits: int, key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = value >> shift, value & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mix(right ^ (key + np.uint64(number << half_bits))) & mask)
    return (left << shift) | right


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every input bit moves every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _u64(value: Ints | int) -> NDArray[np.uint64]:
    """As uint64 with a golden-ratio offset, for which zero is no fixed point of `_mix`."""
    if isinstance(value, int):
        value_u = np.asarray([value & (2**64 - 1)], np.uint64)
    else:
        value_u = np.asarray(value).astype(np.uint64)
    return value_u * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
