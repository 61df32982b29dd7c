"""Finds where shots end without trained weights: hard cuts, dissolves, and fades through one colour."""

from __future__ import annotations

import math

import numpy as np

from omniloom.pipeline.peaks import Peaks

SIZE = (64, 36)
"""(width, height) of the thumbnails, in yuv444p."""
_BLOCK = 4
_LUMA = (SIZE[0] // _BLOCK) * (SIZE[1] // _BLOCK)
"""Blocks of one plane; a picture is the block means of Y, U and V, one plane after the other."""

_CLOSE = 5
"""Pictures on each side that say how much change is usual, and in which an old picture may come back."""
_JUMPS = 1.5
"""A hard cut is this much stronger than the second largest of those changes."""
_HALVES = np.array((4, 6, 9, 13, 18))
"""Half lengths, in pictures, of the dissolves looked for: up to 1.4 s at 25 pictures a second."""
_DEEPEST = 12
"""Half the length of the longest stretch of one colour that counts as a fade's middle; a longer one is a shot."""
_CUT = 1000.0
"""Added to the strength of hard cuts: where one stands, nothing gradual is reported beside it."""


class Builtin:
    """Compares 16 x 9 blocks of the pictures; the unit of all changes is the mean of |Y|, |U| and |V|, 0..255.

    **Hard cut**: the change from the picture before is at least `floor` and `ratio` times what is usual around it (the
    median of five changes on each side, plus 2); no two of those ten come near it, as they do in cartoons; and the old
    picture does not come back within five, as it does after a flash.

    **Dissolve**: its middle picture is the mean of the two `h` pictures before and after, to `mix` of their difference,
    and the pictures at its quarters are mixtures of the two as well. It has less contrast than they have: a mixture of
    unlike pictures has about 0.7 of it, while a moving camera and changing light keep nearly all. The two are unlike,
    and no single picture made most of the change.

    **Fade**: a short stretch of one colour, with unlike pictures before and after.

    The first picture of the new shot is the picture after a hard cut and the middle one of a gradual change. Of two
    hard cuts less than five pictures apart, and of two gradual changes within twelve, the stronger stands. Dissolves
    shorter than eight pictures or longer than forty, wipes, and shots that differ only in detail are not found.
    Thresholds were chosen on one half of `benchmarks/shots.py` and are reported on the other. After Zhang, Kankanhalli
    and Smoliar 1993 (change over a longer distance) and Alattar 1993 (the dip of variance), in blocks.
    """

    size = SIZE
    pix_fmt = "yuv444p"
    reach = int(_HALVES[-1]) + _DEEPEST + 1

    def __init__(
        self,
        floor: float = 4.0,
        ratio: float = 2.1,
        least: float = 9.0,
        mix: float = 0.25,
        dip: float = 0.82,
        alike: float = 0.6,
        step: float = 0.4,
        bend: float = 0.3,
        shade: float = 4.0,
    ) -> None:
        """The thresholds.

        Args:
            floor: change of a hard cut, at least.
            ratio: the same, in units of the usual change plus 2.
            least: change between the ends of a gradual transition.
            mix: how far a dissolve's middle may be from the mixture, as a part of that change.
            bend: the same for the pictures at its quarters.
            dip: contrast of its middle at most, as a part of the mean contrast of its ends.
            alike: correlation of the ends' luma blocks at most.
            step: change that one picture may make, as a part of the whole.
            shade: standard deviation of luma below which a picture is of one colour.
        """
        self._floor, self._ratio = floor, ratio
        self._least, self._mix, self._dip, self._alike = least, mix, dip, alike
        self._step, self._bend, self._shade = step, bend, shade
        width, height = (side // _BLOCK for side in SIZE)
        # Sums of up to 16 bytes, divided by 16, and all sums of their differences are exact in float32.
        self._rows = np.kron(np.eye(height), np.full(_BLOCK, 1 / _BLOCK)).astype(np.float32)
        self._columns = np.kron(np.eye(width), np.full((_BLOCK, 1), 1 / _BLOCK)).astype(np.float32)
        self._blocks = np.zeros((256, 3 * _LUMA), np.float32)
        self._first = 0
        """Number of the picture in row 0 of the blocks."""
        self._contrast: list[float] = []
        """Standard deviation of luma, of the pictures in the rows; below, their change from the one before."""
        self._change: list[float] = []
        self._seen = 0
        self._scored = 0
        self._peaks = Peaks(lambda strength: _CLOSE - 1 if strength >= _CUT else _DEEPEST, _DEEPEST)

    def picture(self, thumbnail: np.ndarray) -> list[bool]:
        self._take(thumbnail)
        answers: list[bool] = []
        while self._scored + int(_HALVES[-1]) < self._seen:
            answers += self._score()
        return answers

    def finish(self) -> list[bool]:
        answers: list[bool] = []
        while self._scored < self._seen:
            answers += self._score()
        return answers + self._peaks.finish()

    def _take(self, thumbnail: np.ndarray) -> None:
        if self._seen - self._first == len(self._blocks):
            self._forget(self._scored - self.reach)
        row = self._seen - self._first
        planes = thumbnail.transpose(2, 0, 1).astype(np.float32)
        blocks = self._blocks[row]
        blocks.reshape(3, len(self._rows), -1)[...] = self._rows @ planes @ self._columns
        luma = planes[0].ravel().astype(np.float64)
        variance = float(luma @ luma) / len(luma) - (float(blocks[:_LUMA].sum()) / _LUMA) ** 2
        self._contrast.append(math.sqrt(max(variance, 0.0)))
        self._change.append(_difference(blocks, self._blocks[row - 1]) if row else 0.0)
        self._seen += 1

    def _forget(self, before: int) -> None:
        surplus = before - self._first
        kept = len(self._blocks) - surplus
        self._blocks[:kept] = self._blocks[surplus:].copy()
        del self._contrast[:surplus], self._change[:surplus]
        self._first = before

    def _score(self) -> list[bool]:
        """Settles how likely the next picture is to begin a shot."""
        row, last = self._scored - self._first, self._seen - self._first - 1
        strength = self._cut(row, last) or max(self._dissolve(row, last), self._fade(row, last))
        self._scored += 1
        return self._peaks.add(strength)

    def _cut(self, row: int, last: int) -> float:
        change = self._change[row]
        if change < self._floor or row == 0:
            return 0.0
        begin, end = max(row - _CLOSE, 1), min(row + _CLOSE, last) + 1  # the first picture of all has no change
        around = sorted(self._change[begin:row] + self._change[row + 1 : end])
        usual = (around[len(around) // 2] + around[(len(around) - 1) // 2]) / 2 if around else 0.0
        bar = self._ratio * (usual + 2.0)
        # Cartoons hold each drawing for two to four pictures: the usual change is none, and yet jumps are usual.
        jump = around[-2] if len(around) == 2 * _CLOSE else max(around, default=0.0)
        if change < max(bar, _JUMPS * jump):
            return 0.0
        comes_back = np.abs(self._blocks[row + 1 : end] - self._blocks[row - 1]).mean(1)
        was_there = np.abs(self._blocks[max(row - _CLOSE - 1, 0) : row - 1] - self._blocks[row]).mean(1)
        if (comes_back < 0.35 * change).any() or (was_there < 0.35 * change).any():
            return 0.0
        return _CUT + change / bar

    def _dissolve(self, row: int, last: int) -> float:
        halves = _HALVES
        if row < halves[-1] or row + halves[-1] > last:
            halves = halves[(halves <= row) & (halves <= last - row)]
        before, after = self._blocks[row - halves], self._blocks[row + halves]
        whole = _means(after - before)
        wide = whole >= self._least
        if not wide.any():
            return 0.0
        away = _means((before + after) * np.float32(0.5) - self._blocks[row])
        best = 0.0
        for at in np.flatnonzero(wide & (away < self._mix * whole)).tolist():
            strength = float(whole[at]) - 2 * float(away[at])
            if strength > best and self._mixes(row, int(halves[at]), before[at], after[at], float(whole[at])):
                best = strength
        return best

    def _mixes(self, row: int, half: int, before: np.ndarray, after: np.ndarray, whole: float) -> bool:
        dull, bright = sorted((self._contrast[row - half], self._contrast[row + half]))
        if self._contrast[row] > self._dip * (dull + bright) / 2:
            return False
        if max(self._change[row - half + 1 : row + half + 1]) > self._step * whole:
            return False
        if dull > self._shade and _likeness(before, after) > self._alike:
            return False
        way = after - before
        for quarter, low, high in ((row - half // 2, -0.5, 0.5), (row + half // 2, 0.5, 1.5)):
            gone = self._blocks[quarter] - before
            part = float(gone @ way) / float(way @ way)
            if not low < part < high or float(np.abs(gone - np.float32(part) * way).mean()) > self._bend * whole:
                return False
        return True

    def _fade(self, row: int, last: int) -> float:
        if self._contrast[row] >= self._shade:
            return 0.0
        begin = end = row
        while begin > 0 and self._contrast[begin - 1] < self._shade and row - begin < _DEEPEST:
            begin -= 1
        while end < last and self._contrast[end + 1] < self._shade and end - row < _DEEPEST:
            end += 1
        if row != (begin + end + 1) // 2 or row - begin >= _DEEPEST or end - row >= _DEEPEST:
            return 0.0
        # The nearest pictures that show something: beside a flash they are of one shot, however fast it moves.
        before, after, shows = begin - 1, end + 1, 2.5 * self._shade
        while before >= max(row - int(_HALVES[-1]), 0) and self._contrast[before] < shows:
            before -= 1
        while after <= min(row + int(_HALVES[-1]), last) and self._contrast[after] < shows:
            after += 1
        if before < max(row - int(_HALVES[-1]), 0) or after > min(row + int(_HALVES[-1]), last):
            return 0.0
        if _likeness(self._blocks[before], self._blocks[after]) > self._alike:
            return 0.0
        return 256.0 + _difference(self._blocks[before], self._blocks[after])


def _difference(blocks: np.ndarray, others: np.ndarray) -> float:
    gap = blocks - others
    return float(np.add.reduce(np.abs(gap, out=gap))) / len(gap)


def _means(gaps: np.ndarray) -> np.ndarray:
    """Mean of the absolute values in each row."""
    return np.add.reduce(np.abs(gaps, out=gaps), axis=1) / np.float32(gaps.shape[1])


def _likeness(before: np.ndarray, after: np.ndarray) -> float:
    """Correlation of the luma blocks, -1..1."""
    one, other = before[:_LUMA] - before[:_LUMA].mean(), after[:_LUMA] - after[:_LUMA].mean()
    size = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / size if size else 0.0
