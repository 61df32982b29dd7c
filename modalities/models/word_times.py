"""Which word is said in which stretch of speech: word times by attention, corrected by where somebody speaks.

Whisper's cross attention says within about 0.1 s when a word is said amid others, but not where pauses are: what is
silent goes to the word before or after, so that the first word after a pause begins up to a second off. A voice
detector knows pauses to 0.03 s and no words. So the words are dealt out to the stretches of speech, in order, each
stretch taking as many as fit its length and lie near it; the first word of a stretch begins with it, the last one ends
with it, and words between keep the times that attention gave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from omniloom.modalities.models.windows import Region


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word as it is written, with its leading space where it has one; seconds."""

    word: str
    start: float
    end: float
    probability: float


# Chosen on the tuning half of `benchmarks/text_material.py`.
_MISFIT = 0.3
"""Seconds that a word lies off per second that a stretch is longer or shorter than its words should take."""
_UNSAID = 0.05
"""Of a stretch without words: a breath, a laugh. Seconds off, beside its length."""
_LETTER_S, _WORD_S = 0.055, 0.08
"""How long a word takes, before it is scaled to the speaker's pace."""
_LEAST_S = 0.04
_PASSED_OVER_S = 0.8


def place(words: Sequence[TimedWord], islands: Sequence[Region]) -> list[TimedWord]:
    """The words with times within the islands of speech, in order; as they are where there is no island.

    Starts never decrease, and no word ends before it starts or after the next one starts.
    """
    if not words or not islands:
        return list(words)
    placed: list[TimedWord] = []
    for island, (first, last) in zip(islands, _deal(words, islands), strict=True):
        if last > first:
            placed += _within(words[first:last], island)
    return placed


def unsaid(words: Sequence[TimedWord], islands: Sequence[Region]) -> list[list[Region]]:
    """Runs of islands without a word, together longer than `_PASSED_OVER_S`: the network may have stopped early."""
    runs: list[list[Region]] = [[]]
    for island in islands:
        if any(island[0] <= word.start < island[1] for word in words):
            runs.append([])
        else:
            runs[-1].append(island)
    return [run for run in runs if sum(end - start for start, end in run) >= _PASSED_OVER_S]


def _deal(words: Sequence[TimedWord], islands: Sequence[Region]) -> list[tuple[int, int]]:
    """[first, last) of the words of each island, by dynamic programming over all ways to deal them out in order."""
    number = len(words)
    lengths = np.array([_WORD_S + _LETTER_S * sum(c.isalnum() for c in word.word) for word in words])
    spoken_s = sum(end - start for start, end in islands)
    lengths *= np.clip(spoken_s / lengths.sum(), 0.6, 1.8)
    until = np.concatenate([[0.0], np.cumsum(lengths)])
    taken = until[None, :] - until[:, None]
    """(first, last): how long those words take."""
    starts, ends = np.array([word.start for word in words]), np.array([word.end for word in words])
    costs = np.full(number + 1, np.inf)
    costs[0] = 0.0
    choices: list[np.ndarray] = []
    rows, columns = np.arange(number + 1)[:, None], np.arange(number + 1)[None, :]
    for start, end in islands:
        off = np.maximum(0.0, np.maximum(start - ends, starts - end))
        off += np.maximum(0.0, np.maximum(start - starts, ends - end)) * 0.1
        far = np.concatenate([[0.0], np.cumsum(off)])
        cost = (far[None, :] - far[:, None]) + _MISFIT * np.abs(taken - (end - start))
        cost = np.where(columns > rows, cost, np.where(columns == rows, (end - start) * _MISFIT + _UNSAID, np.inf))
        total = costs[:, None] + cost
        choices.append(total.argmin(0))
        costs = total.min(0)
    dealt: list[tuple[int, int]] = []
    last = number
    for choice in reversed(choices):
        first = int(choice[last])
        dealt.append((first, last))
        last = first
    return dealt[::-1]


def _within(words: Sequence[TimedWord], island: Region) -> list[TimedWord]:
    """The words of one island: from its start to its end, those between as near to their own times as order allows."""
    first_s, last_s = island
    least = min(_LEAST_S, (last_s - first_s) / (2 * len(words)))
    starts = [first_s]
    for at, word in enumerate(words[1:], 1):
        latest = last_s - least * (len(words) - at)
        starts.append(min(max(word.start, starts[-1] + least), latest))
    ends = [*starts[1:], last_s]
    return [replace(w, start=start, end=end) for w, start, end in zip(words, starts, ends, strict=True)]
