"""A waiting room: pictures leave it in order, once it is known where the shots end around them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

import numpy as np

P = TypeVar("P")


class Detector(Protocol):
    """What is needed of a `ShotDetector`: answers in order, one a picture, sooner or later."""

    def picture(self, thumbnail: np.ndarray) -> list[bool]: ...

    def finish(self) -> list[bool]: ...


class Cuts(Generic[P]):
    """Tells of every picture whether a shot begins with it, and whether it is near a cut.

    A picture is near a cut when it is on screen at any time less than `margin_ns` before or after the cut. It is held
    back until the detector has answered for it and for all that come on screen within the margin: memory holds the
    pictures of the margin and those the detector looks ahead, never more.

    Answers are those of the whole source if the pictures begin `margin_ns` and the detector's `reach` before the
    first that matters.
    """

    def __init__(self, detector: Detector, margin_ns: int = 0) -> None:
        self._detector = detector
        self._margin_ns = margin_ns
        self._waiting: deque[tuple[P, int, int]] = deque()
        self._answers: deque[bool] = deque()
        """For the first of those that wait."""
        self._cuts_ns: deque[int] = deque()
        """Times of the cuts that are still near some waiting picture, or may be."""

    def take(self, picture: P, start_ns: int, end_ns: int, thumbnail: np.ndarray) -> Iterator[tuple[P, bool, bool]]:
        """Takes the next picture, on screen during [start_ns, end_ns), and its thumbnail as the detector wants it.

        Gives (picture, cut, near_cut) of those about which all is now known; times are any whose starts never fall.
        """
        self._waiting.append((picture, start_ns, end_ns))
        self._answered(self._detector.picture(thumbnail))
        yield from self._leave(end_ns)

    def finish(self) -> Iterator[tuple[P, bool, bool]]:
        """The pictures that still wait, once the last has come."""
        self._answered(self._detector.finish())
        assert len(self._answers) == len(self._waiting), "a detector answers once for each picture"
        yield from self._leave(None)

    def _answered(self, answers: list[bool]) -> None:
        for cut in answers:
            if cut:
                self._cuts_ns.append(self._waiting[len(self._answers)][1])
            self._answers.append(cut)

    def _leave(self, seen_ns: int | None) -> Iterator[tuple[P, bool, bool]]:
        """Those whose margin ends before the first picture that may yet turn out to begin a shot."""
        if seen_ns is not None and len(self._answers) < len(self._waiting):
            seen_ns = self._waiting[len(self._answers)][1]
        while self._answers and (seen_ns is None or self._waiting[0][2] + self._margin_ns <= seen_ns):
            picture, start_ns, end_ns = self._waiting.popleft()
            while self._cuts_ns and self._cuts_ns[0] + self._margin_ns <= start_ns:
                self._cuts_ns.popleft()
            near = bool(self._cuts_ns) and self._cuts_ns[0] - self._margin_ns < end_ns
            yield picture, self._answers.popleft(), near
