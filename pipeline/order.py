"""The order of one corpus's samples: which row at which place of which epoch, as a function.

Without further wishes a whole epoch is one shuffle. Three wishes change it, and none needs an order in memory:

classes   Samples that may share a micro-batch: those with the same modalities, of like length or shape. Each class has
          a shuffle of its own, cut into micro-batches, and the micro-batches of all classes are shuffled together.
blocks    Shards far away are better read a few at a time. Units are shuffled and taken `open_units` at a time; only the
          samples of those are shuffled together. Classes go through their units at the same pace.
sources   Clips of one source apart, or together, within a micro-batch. A class sorted by source is cut into as many
          strips as a micro-batch has places, and each place takes its sample from a strip of its own (only a source
          that lies across two strips may meet itself); or micro-batches are stretches of that sorted class.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from threading import Lock
from typing import Literal

import numpy as np

from omniloom.pipeline.permutation import Ints, key_of, shuffled

PADDING = -1
"""In place of a row where a micro-batch cannot be filled."""

Shuffle = Literal["none", "global", "blocks"]
Sources = Literal["any", "apart", "together"]

_EPOCHS_KEPT = 2
_MICRO, _UNITS, _ROWS, _STRIP, _TURN = range(5)
"""What a shuffle is of: one seed each."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How the samples of a corpus are to follow one another."""

    shuffle: Shuffle = "global"
    open_units: int = 256
    """Units whose samples are shuffled together, for `shuffle="blocks"`."""
    micro_batch: int = 1
    """Samples that stay side by side, all of one class. The places of an epoch are a multiple of it."""
    sources: Sources = "any"
    """Whether the clips of a source are kept apart or brought together in micro-batches, as far as there are enough."""
    pad: bool = False
    """The last micro-batch of each class is filled with `PADDING`; otherwise an epoch leaves its samples out, others
    in each epoch."""

    def __post_init__(self) -> None:
        if self.micro_batch < 1 or self.open_units < 1:
            raise ValueError(f"micro_batch and open_units are at least 1, got {self.micro_batch}, {self.open_units}")
        if self.sources != "any" and self.shuffle != "global":
            raise ValueError(f"sources={self.sources!r} needs shuffle='global', got shuffle={self.shuffle!r}")


def _in_one_block(units: Ints, wishes: Wishes) -> bool:
    return wishes.shuffle == "blocks" and len(units) <= wishes.open_units


class Order:
    """A function of (epoch, place), pure for equal arguments; threads may share it.

    Memory: 8 bytes a row with classes or sources, nothing without, and for blocks some numbers a unit.
    """

    def __init__(
        self,
        units: Ints,
        seed: int,
        wishes: Wishes,
        *,
        classes: Ints | None = None,
        sources: Ints | None = None,
    ) -> None:
        """units: int64 (U,), rows of each unit; rows are numbered unit by unit. classes: int64 (rows,), 0 and up.
        sources: int64 (rows,), equal for clips of one source; needed if the wishes name sources.

        Raises ValueError if no micro-batch can be filled.
        """
        self._seed = seed
        # Blocks that hold all units are no blocks: small corpora have one order wherever they lie.
        self.wishes = replace(wishes, shuffle="global") if _in_one_block(units, wishes) else wishes
        self._units = np.asarray(units, np.int64)
        self._num_rows = int(self._units.sum())
        if self._num_rows < 1:
            raise ValueError("there is nothing to put in order: the corpus has no samples")
        if classes is None and wishes.sources == "any":
            self._rows: Ints | None = None
            counts = np.array([self._num_rows], np.int64)
        else:
            if wishes.sources != "any" and sources is None:
                raise ValueError(f"sources={wishes.sources!r} needs to know the source of each sample")
            label = np.zeros(self._num_rows, np.int64) if classes is None else np.asarray(classes, np.int64)
            # Stable: within a class by source if that is asked for, and by unit.
            keys = (label,) if wishes.sources == "any" or sources is None else (sources, label)
            self._rows = np.lexsort(keys)
            counts = np.bincount(label)
        self._counts = counts
        size = wishes.micro_batch
        self._micros = -(-counts // size) if wishes.pad else counts // size
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._micro_starts = np.concatenate([[0], np.cumsum(self._micros)])
        if not self.length:
            raise ValueError(
                f"no {size} of the {self._num_rows} samples belong in one micro-batch (classes of"
                f" {', '.join(map(str, counts[:8]))}): lower micro_batch, ask for fewer buckets, or pad the tail"
            )
        self._kept: OrderedDict[tuple[str, int], Ints] = OrderedDict()
        self._lock = Lock()

    @property
    def length(self) -> int:
        """Places in an epoch: a multiple of micro_batch."""
        return int(self._micro_starts[-1]) * self.wishes.micro_batch

    @property
    def left_out(self) -> int:
        """Samples that an epoch has no place for."""
        return int(np.maximum(self._counts - self._micros * self.wishes.micro_batch, 0).sum())

    def at(self, place: Ints, epoch: Ints, retry: int = 0) -> Ints:
        """Rows int64 (n,) at places [0, length) of epochs, both int64 (n,); `PADDING` where nothing is.

        `retry` 1, 2, ... gives other samples of the same class, for those that are bad: each another one, far from it.
        """
        place, epoch = np.asarray(place, np.int64), np.asarray(epoch, np.int64)
        micro, slot = np.divmod(place, self.wishes.micro_batch)
        micro = self._scheduled(micro, epoch)
        label = np.searchsorted(self._micro_starts, micro, side="right") - 1
        within = micro - self._micro_starts[label]
        rows = np.empty(len(place), np.int64)
        for number in np.unique(label):
            mine = np.flatnonzero(label == number)
            rows[mine] = self._of_class(int(number), within[mine], slot[mine], epoch[mine], retry)
        return rows

    def _scheduled(self, micro: Ints, epoch: Ints) -> Ints:
        """Which micro-batch comes at each place, numbered class by class."""
        if len(self._counts) == 1 or self.wishes.shuffle == "none":
            return micro
        if self.wishes.shuffle == "global":
            return shuffled(micro, int(self._micro_starts[-1]), key_of(self._seed, _MICRO), epoch)
        turns = np.empty_like(micro)
        for number in np.unique(epoch):
            mine = np.flatnonzero(epoch == number)
            turns[mine] = self._keep("turns", int(number), self._turns)[micro[mine]]
        return turns

    def _turns(self, epoch: int) -> Ints:
        """All micro-batches so that every class is as far through its own as the others are."""
        rng = np.random.Generator(np.random.Philox(key=[key_of(self._seed, _TURN, epoch), 0]))
        label = np.repeat(np.arange(len(self._micros)), self._micros)
        within = np.arange(len(label)) - self._micro_starts[label]
        return np.argsort((within + rng.random(len(label))) / self._micros[label], kind="stable")

    def _of_class(self, label: int, micro: Ints, slot: Ints, epoch: Ints, retry: int) -> Ints:
        """Rows of a class's own micro-batches."""
        count, size = int(self._counts[label]), self.wishes.micro_batch
        place = micro * size + slot
        nothing = place >= count
        place = np.where(nothing, place % count, place)
        if self.wishes.shuffle == "blocks":
            index = np.empty_like(place)
            for number in np.unique(epoch):
                mine = np.flatnonzero(epoch == number)
                index[mine] = self._in_blocks(label, place[mine], int(number))
        elif self.wishes.shuffle == "none":
            index = place
        elif self.wishes.sources == "any":
            index = shuffled(place, count, key_of(self._seed, _ROWS, label), epoch)
        else:
            if self.wishes.sources == "apart":
                place = self._in_strips(label, micro, slot, epoch)
                nothing = place >= count
            # Each epoch begins elsewhere: what one leaves out, another shows.
            first = shuffled(np.zeros_like(epoch), count, key_of(self._seed, _TURN, label), epoch)
            index = (place + first) % count
        if retry:
            index = (index + retry * _stride(count)) % count
        rows = index if self._rows is None else self._rows[self._starts[label] + index]
        return rows if retry else np.where(nothing, PADDING, rows)

    def _in_strips(self, label: int, micro: Ints, slot: Ints, epoch: Ints) -> Ints:
        """Each slot from its own strip of the class, in a shuffle of its own."""
        long = int(self._micros[label])
        index = np.empty(len(micro), np.int64)
        for number in np.unique(slot):
            mine = np.flatnonzero(slot == number)
            key = key_of(self._seed, _STRIP, label, int(number))
            index[mine] = number * long + shuffled(micro[mine], long, key, epoch[mine])
        return index

    def _in_blocks(self, label: int, place: Ints, epoch: int) -> Ints:
        """Indices within the class: its units shuffled, and its rows within each block of units."""
        order = self._keep("units", epoch, self._units_of)
        ends = self._keep(f"ends {label}", epoch, lambda _: np.cumsum(self._per_unit[label][order]))
        edges = np.concatenate([[0], ends[self.wishes.open_units - 1 :: self.wishes.open_units], ends[-1:]])
        block = np.searchsorted(edges, place, side="right") - 1
        index = np.empty(len(place), np.int64)
        for number in np.unique(block):
            mine = np.flatnonzero(block == number)
            first, size = int(edges[number]), int(edges[number + 1] - edges[number])
            key = key_of(self._seed, _ROWS, label, int(number))
            index[mine] = first + shuffled(place[mine] - first, size, key, epoch)
        turn = np.searchsorted(ends, index, side="right")
        unit = order[turn]
        own = self._per_unit[label]
        before = np.concatenate([[0], np.cumsum(own)])
        return before[unit] + index - (ends[turn] - own[unit])

    def _units_of(self, epoch: int) -> Ints:
        units = len(self._units)
        return shuffled(np.arange(units), units, key_of(self._seed, _UNITS), epoch)

    @cached_property
    def _per_unit(self) -> Ints:
        """int64 (classes, U): rows of each class in each unit."""
        if self._rows is None:
            return self._units[None]
        unit = np.repeat(np.arange(len(self._units)), self._units)
        counted = np.zeros((len(self._counts), len(self._units)), np.int64)
        for label, (start, end) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            counted[label] = np.bincount(unit[self._rows[start:end]], minlength=len(self._units))
        return counted

    def _keep(self, what: str, epoch: int, make: Callable[[int], Ints]) -> Ints:
        """What `make` gives for an epoch, made once while the epoch is looked at."""
        with self._lock:
            if (what, epoch) not in self._kept:
                self._kept[what, epoch] = make(epoch)
                while len(self._kept) > _EPOCHS_KEPT * (2 + len(self._counts)):
                    self._kept.popitem(last=False)
            return self._kept[what, epoch]


def _stride(count: int) -> int:
    """A step through range(count) that comes by every number, and by none near those before."""
    step = max(1, round(0.618 * count))
    while gcd(step, count) > 1:
        step += 1
    return step
