"""Questions that wait for one model are answered together, and each gets its own answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from omniloom.modalities.models.estimate import Estimate
from omniloom.pipeline.together import Together


def asked_at_once(
    model: Callable[..., Any], questions: Sequence[tuple[Any, ...]], frames: int = 64
) -> tuple[list[Any], list[int]]:
    """Answers (or errors) of questions asked by as many threads while the model is busy, and the sizes of its calls."""
    sizes: list[int] = []
    busy, free = threading.Event(), threading.Event()

    def slow(*inputs: Any) -> Any:
        if not sizes:
            busy.set()
            sizes.append(0)
            free.wait(5)
            return None
        sizes.append(len(inputs[0]))
        return model(*inputs)

    together = Together(slow, frames)
    answers: list[Any] = [None] * len(questions)

    def ask(place: int) -> None:
        try:
            answers[place] = together(*questions[place])
        except ValueError as error:
            answers[place] = error

    first = threading.Thread(target=together, args=(np.zeros((1, 1, 1, 3), np.uint8),))
    first.start()
    busy.wait(5)
    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(questions))]
    for thread in threads:
        thread.start()
    while len(together._waiting) < len(questions):
        time.sleep(0.001)
    free.set()
    for thread in (first, *threads):
        thread.join()
    return answers, sizes[1:]


def pictures(count: int, seed: int, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, width, 3)).astype(np.uint8)


def grey(rgb: np.ndarray, k: np.ndarray | None = None) -> Estimate:
    return Estimate(rgb.mean(axis=3).astype(np.float32))


def test_frames_of_clips_that_wait_are_asked_together_and_each_gets_its_own_answers() -> None:
    questions = [(pictures(count, seed), None) for seed, count in enumerate((3, 8, 1, 5))]
    questions += [(pictures(2, 9, width=8), None), (pictures(2, 10), np.eye(3))]  # of another size, of another camera
    answers, sizes = asked_at_once(grey, questions)
    for (rgb, k), answer in zip(questions, answers, strict=True):
        np.testing.assert_array_equal(answer.depth, grey(rgb, k).depth)
    assert sorted(sizes) == [2, 2, 17]
    assert max(asked_at_once(grey, questions, frames=9)[1]) <= 9
    alone = asked_at_once(grey, questions, frames=1)[1]  # in any order: threads wait for one lock
    assert sorted(alone) == sorted(len(rgb) for rgb, _ in questions)


def test_one_bad_question_spoils_no_other_and_answers_that_cannot_be_parted_are_asked_for_alone() -> None:
    def picky(rgb: np.ndarray, k: np.ndarray | None = None) -> Estimate:
        if (rgb == 7).all(axis=(1, 2, 3)).any():
            raise ValueError("seven")
        return grey(rgb)

    questions = [(pictures(3, 1), None), (np.full((2, 4, 6, 3), 7, np.uint8), None), (pictures(4, 2), None)]
    answers, _ = asked_at_once(picky, questions)
    assert [type(answer).__name__ for answer in answers] == ["Estimate", "ValueError", "Estimate"]

    def of_all(rgb: np.ndarray, k: np.ndarray | None = None) -> Estimate:
        return Estimate(rgb.mean(axis=3).astype(np.float32), k=np.eye(3) * len(rgb))

    def of_each(rgb: np.ndarray, k: np.ndarray | None = None) -> Estimate:
        depth = rgb.mean(axis=3).astype(np.float32)
        return Estimate(depth, ks=np.eye(3) * depth.mean(axis=(1, 2))[:, None, None].astype(np.float64))

    questions = [(pictures(count, count), None) for count in (2, 3, 4)]
    answers, sizes = asked_at_once(of_all, questions)
    assert [answer.k[0, 0] for answer in answers] == [2, 3, 4]
    assert sizes == [9, 2, 3, 4]
    answers, sizes = asked_at_once(of_each, questions)
    assert sizes == [9], "a camera a frame can be parted"
    assert [answer.k[0, 0] for answer in answers] == [of_each(*question).k[0, 0] for question in questions]
    assert asked_at_once(lambda text: text.upper(), [("a",), ("b",)])[0] == ["A", "B"]
