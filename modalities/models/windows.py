"""Speech in windows: what a network that hears half a minute at once is given of ten minutes of sound.

Pure functions of where somebody speaks. A window holds whole stretches of speech and the pauses between them, long
pauses shortened, so that it is filled with speech and ends where nobody speaks. Every word lies in one window only,
and each window's times are read off the sound itself, so that nothing drifts, whatever the length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Region = tuple[float, float]
"""(start, end) in seconds."""

RATE_HZ = 16_000
LONGEST_S = 29.0
"""Whisper hears 30 s; the rest stays silent, which tells it that the last word is over."""

_PAD_S = 0.3
"""Sound kept before and after speech: consonants begin before a voice detector is sure, and vowels ring on."""
_REST_S = 1.0
"""Longer pauses are shortened to what the pads leave of them."""
_LATEST = 0.4
"""A cut in a window too long to be heard at once lies in the longest pause of its last six tenths."""


@dataclass(frozen=True, slots=True)
class Window:
    """Pieces of sound, in order, heard as one; `islands` are the stretches of speech in them."""

    pieces: tuple[Region, ...]
    islands: tuple[Region, ...]

    @property
    def duration_s(self) -> float:
        return sum(end - start for start, end in self.pieces)

    def samples(self, sound: np.ndarray) -> np.ndarray:
        """The pieces of `sound` (N,) at RATE_HZ, one after the other."""
        return np.concatenate([sound[round(start * RATE_HZ) : round(end * RATE_HZ)] for start, end in self.pieces])

    def moment(self, seconds: float) -> float:
        """When in the sound the window's `seconds` are heard; past the end: its end."""
        for start, end in self.pieces:
            if seconds < end - start:
                return start + max(seconds, 0.0)
            seconds -= end - start
        return self.pieces[-1][1]

    def halves(self) -> tuple[Window, Window] | None:
        """The window parted in the longest pause of its middle; None if it has no pause."""
        if len(self.islands) < 2:
            return None
        middle = (self.islands[0][0] + self.islands[-1][1]) / 2
        span = self.islands[-1][1] - self.islands[0][0]
        # A pause counts the less the farther from the middle it lies.
        worth = [
            (after[0] - before[1]) * (1 - abs((after[0] + before[1]) / 2 - middle) / span)
            for before, after in pairwise(self.islands)
        ]
        at = int(np.argmax(worth)) + 1
        return self.only(self.islands[:at]), self.only(self.islands[at:])

    def only(self, islands: Sequence[Region]) -> Window:
        """A window of some of its islands, one after the other."""
        return _window(islands, self.pieces[0][0], self.pieces[-1][1], self.islands)


def windows(islands: Sequence[Region], duration_s: float) -> list[Window]:
    """Windows of at most LONGEST_S that hold every island once, in order. Islands too long are cut evenly."""
    every = [part for island in islands for part in _cut(island)]
    whole = every
    found: list[Window] = []
    while whole:
        number = 1
        while number < len(whole) and _window(whole[: number + 1], 0.0, duration_s, every).duration_s <= LONGEST_S:
            number += 1
        if number < len(whole):
            first = max(1, int(number * _LATEST))
            pauses = [whole[at][0] - whole[at - 1][1] for at in range(first, number + 1)]
            number = first + max(range(len(pauses)), key=lambda at: (pauses[at], at))
        found.append(_window(whole[:number], 0.0, duration_s, every))
        whole = whole[number:]
    return found


def _window(islands: Sequence[Region], first_s: float, last_s: float, neighbours: Iterable[Region]) -> Window:
    """A window of these islands within [first_s, last_s], whose pads reach halfway to the neighbours at most."""
    before = max((end for _, end in neighbours if end <= islands[0][0]), default=None)
    after = min((start for start, _ in neighbours if start >= islands[-1][1]), default=None)
    start = max(first_s, islands[0][0] - _PAD_S, 0.0 if before is None else (before + islands[0][0]) / 2)
    pieces: list[Region] = []
    for left, right in pairwise(islands):
        if right[0] - left[1] > _REST_S:
            pieces.append((start, left[1] + _PAD_S))
            start = right[0] - _PAD_S
    end = islands[-1][1]
    pieces.append((start, min(last_s, end + _PAD_S, last_s if after is None else (end + after) / 2)))
    return Window(tuple(pieces), tuple(islands))


def _cut(island: Region) -> list[Region]:
    """An island that fits into a window with its pads, or equal parts of one that does not."""
    start, end = island
    number = int(np.ceil((end - start) / (LONGEST_S - 2 * _PAD_S)))
    step = (end - start) / max(number, 1)
    return [(start + step * at, start + step * (at + 1)) for at in range(number)]
