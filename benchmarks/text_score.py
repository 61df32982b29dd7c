"""Words against words: how many are wrong, and how far from the truth those that are right begin."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SPELLED = {"mr": "mister", "mrs": "missus", "dr": "doctor", "&": "and", "%": "percent", "#": "pound", "ok": "okay"}


def plain(text: str) -> list[str]:
    """Lower-case words without punctuation; numbers and a few abbreviations as they are spoken. For English."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text.lower().replace("’", "'"))
    text = re.sub(r"([&%#])", r" \1 ", text)
    words: list[str] = []
    for word in re.split(r"[\s\-–—/]+", text):
        word = re.sub(r"[^\w'&%#]", "", word).strip("'")  # noqa: PLW2901 - the same word, cleaned
        if word.isdigit():
            words += _number(int(word)) if len(word) < 7 else [_SMALL[int(digit)] for digit in word]
        elif word:
            words.append(_SPELLED.get(word, word))
    return words


def _number(value: int) -> list[str]:
    if value < 20:
        return [_SMALL[value]]
    if value < 100:
        return [_TENS[value // 10], *(_number(value % 10) if value % 10 else [])]
    size, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    return [*_number(value // size), name, *(_number(value % size) if value % size else [])]


def matches(said: Sequence[str], heard: Sequence[str]) -> tuple[int, list[tuple[int, int]]]:
    """(errors, pairs of equal words): the fewest substitutions, deletions and insertions, and what they leave alone."""
    costs = np.zeros((len(said) + 1, len(heard) + 1), np.int64)
    costs[:, 0], costs[0] = np.arange(len(said) + 1), np.arange(len(heard) + 1)
    for i, word in enumerate(said, 1):
        for j, other in enumerate(heard, 1):
            costs[i, j] = min(costs[i - 1, j - 1] + (word != other), costs[i - 1, j] + 1, costs[i, j - 1] + 1)
    pairs: list[tuple[int, int]] = []
    i, j = len(said), len(heard)
    while i and j:
        if costs[i, j] == costs[i - 1, j - 1] + (said[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            if said[i] == heard[j]:
                pairs.append((i, j))
        elif costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return int(costs[-1, -1]), pairs[::-1]


def start_errors(
    text: str, starts_s: Sequence[float], heard: Sequence[tuple[str, float]]
) -> list[tuple[str, float, float]]:
    """(word, true start, heard start less true start) in seconds of every word that was heard right.

    `heard` are words as written with the time each begins; one written as several ("twenty-one") counts by its first.
    """
    said = [(word, at) for written, at in zip(text.split(), starts_s, strict=True) for word in plain(written)[:1]]
    found = [(word, at) for written, at in heard for word in plain(written)[:1]]
    _, pairs = matches([word for word, _ in said], [word for word, _ in found])
    return [(said[i][0], said[i][1], found[j][1] - said[i][1]) for i, j in pairs]


def summary(errors_s: Sequence[float]) -> dict[str, float]:
    """Of signed errors: median of the absolute ones, share within .12 s and .25 s, 90 %, and the signed median."""
    if not len(errors_s):
        return {"words": 0}
    errors = np.asarray(errors_s)
    distance = np.abs(errors)
    return {
        "words": len(errors),
        "median_s": float(np.median(distance)),
        "within_120ms": float((distance <= 0.12).mean()),
        "within_250ms": float((distance <= 0.25).mean()),
        "p90_s": float(np.quantile(distance, 0.9)),
        "bias_s": float(np.median(errors)),
    }
