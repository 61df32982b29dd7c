"""Questions that wait for one network are answered with one call: their frames joined, the answers parted again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, cast

import numpy as np

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import family_of
from omniloom.modalities.models.estimate import Estimate


def at_once(ref: ModelRef) -> int:
    """Most frames that one call of the model should be given; 1 for families that do not say: each asks alone."""
    known: Callable[[ModelRef], int] | None = getattr(family_of(ref), "at_once", None)
    return known(ref) if known else 1


@dataclass(slots=True, eq=False)
class _Question:
    inputs: tuple[Any, ...]
    answer: Any = None
    error: Exception | None = None
    is_answered: bool = False

    def settle(self, answer: Any = None, error: Exception | None = None) -> None:
        self.answer, self.error, self.is_answered = answer, error, True


class Together:
    """A loaded model that threads ask at will; it works on one call at a time.

    Nobody is kept waiting for company: whoever comes first is answered at once and alone, and those that came while
    the model was busy are answered next, together, as far as their frames have one size and fit in `frames`.
    An answer can be parted if it is an `Estimate`, unless its intrinsics belong to all of its frames, or a list with an
    item for each frame, or for each clip where whole clips are asked about: uint8 (B, T, H, W, 3).
    """

    def __init__(self, model: Callable[..., Any], frames: int) -> None:
        self._model = model
        self._frames = frames
        self._turn = Lock()
        self._waiting: list[_Question] = []
        self._guard = Lock()

    def __call__(self, *inputs: Any) -> Any:
        question = _Question(inputs)
        with self._guard:
            self._waiting.append(question)
        with self._turn:
            if not question.is_answered:  # by somebody who had the turn before
                self._answer(self._company(question))
        if question.error is not None:
            raise question.error
        return question.answer

    def _company(self, first: _Question) -> list[_Question]:
        """The question and those that can be asked with it, taken out of the queue."""
        with self._guard:
            self._waiting.remove(first)
            chosen = [first]
            room = self._frames - _length(first)
            for other in list(self._waiting):
                if _length(other) <= room and _go_together(first, other):
                    self._waiting.remove(other)
                    chosen.append(other)
                    room -= _length(other)
        return chosen

    def _answer(self, questions: Sequence[_Question]) -> None:
        if len(questions) > 1 and self._answered_as_one(questions):
            return
        for question in questions:
            try:
                question.settle(self._model(*question.inputs))
            except Exception as error:  # noqa: BLE001 - raised by the one who asked
                question.settle(error=error)

    def _answered_as_one(self, questions: Sequence[_Question]) -> bool:
        first = questions[0].inputs
        lengths = [_length(question) for question in questions]
        try:
            whole = self._model(np.concatenate([question.inputs[0] for question in questions]), *first[1:])
        except Exception:  # noqa: BLE001 - whose fault it is shows when each is asked alone
            return False
        if isinstance(whole, list) and len(cast("list[Any]", whole)) == sum(lengths):
            parted: Callable[[slice], Any] = cast("list[Any]", whole).__getitem__
        elif isinstance(whole, Estimate) and (whole.k is None or whole.ks is not None):
            parted = partial(_part, whole)
        else:
            self._frames = 1
            return False
        stops = np.cumsum(lengths)
        for question, stop, length in zip(questions, stops, lengths, strict=True):
            question.settle(parted(slice(int(stop) - length, int(stop))))
        return True


def _length(question: _Question) -> int:
    """Frames or clips in a question; one that is about neither fills any room."""
    frames = question.inputs[0] if question.inputs else None
    return len(frames) if isinstance(frames, np.ndarray) and frames.ndim in {4, 5} else 2**31


def _go_together(one: _Question, other: _Question) -> bool:
    """Whether all but the number of frames is equal."""
    (mine, *my_rest), (theirs, *their_rest) = one.inputs, other.inputs
    if mine.shape[1:] != theirs.shape[1:] or mine.dtype != theirs.dtype or len(my_rest) != len(their_rest):
        return False
    return all(
        (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
        for a, b in zip(my_rest, their_rest, strict=True)
    )


def _part(whole: Estimate, frames: slice) -> Estimate:
    return whole.frames(frames.start, frames.stop)
