"""Which of several possible cuts close together is the cut."""

from __future__ import annotations

from collections.abc import Callable


class Peaks:
    """Of several cuts found close together, the strongest stands; decided from the neighbours alone.

    A picture of strength s > 0 stands if none within `radius(s)` pictures is stronger, nor as strong and earlier. What
    beats it need not stand itself: otherwise a chain of cuts would make answers depend on where the chain began.
    """

    def __init__(self, radius: Callable[[float], int], widest: int) -> None:
        self._radius = radius
        self._widest = widest
        """The largest value that `radius` gives."""
        self._strengths: list[float] = []
        self._at = 0
        """Index in `strengths` of the picture to be answered next."""

    def add(self, strength: float) -> list[bool]:
        """The strength of the next picture, 0 for no cut; gives the answer now certain, if there is one."""
        self._strengths.append(strength)
        return [self._answer()] if len(self._strengths) - self._at > self._widest else []

    def finish(self) -> list[bool]:
        """The answers still owed."""
        return [self._answer() for _ in range(len(self._strengths) - self._at)]

    def _answer(self) -> bool:
        at, strength = self._at, self._strengths[self._at]
        stands = strength > 0
        if stands:
            radius = self._radius(strength)
            before, after = self._strengths[max(at - radius, 0) : at], self._strengths[at + 1 : at + 1 + radius]
            stands = all(other < strength for other in before) and all(other <= strength for other in after)
        self._at += 1
        if self._at > self._widest:
            del self._strengths[0]
            self._at -= 1
        return stands
