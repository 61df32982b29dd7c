"""Pictures leave the waiting room in order, each with the truth about the cuts around it, once that is known."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline.cuts import Cuts
from omniloom.pipeline.shots_builtin import Builtin

MS = 1_000_000


class Late:
    """A detector that knows the cuts, and answers `late` pictures later, `batch` at a time."""

    def __init__(self, cuts: set[int], late: int, batch: int) -> None:
        self._cuts, self._late, self._batch = cuts, late, batch
        self._seen = self._answered = 0

    def picture(self, thumbnail: np.ndarray) -> list[bool]:
        self._seen += 1
        ready = (self._seen - self._late) // self._batch * self._batch
        return self._until(max(ready, 0))

    def finish(self) -> list[bool]:
        return self._until(self._seen)

    def _until(self, count: int) -> list[bool]:
        answers = [k in self._cuts for k in range(self._answered, count)]
        self._answered = max(self._answered, count)
        return answers


def _through(cuts: Cuts[int], screen: list[tuple[int, int]]) -> Iterator[tuple[int, bool, bool]]:
    nothing = np.zeros((1, 1, 3), np.uint8)
    for index, (start_ns, end_ns) in enumerate(screen):
        yield from cuts.take(index, start_ns, end_ns, nothing)
    yield from cuts.finish()


@settings(deadline=None, max_examples=300)
@given(
    gaps_ms=st.lists(st.integers(1, 900), min_size=1, max_size=60),
    cuts=st.sets(st.integers(0, 59), max_size=8),
    late=st.integers(0, 12),
    batch=st.integers(1, 9),
    margin_ms=st.sampled_from([0, 1, 40, 500, 2000]),
    hole_ms=st.sampled_from([0, 5000]),
)
def test_every_picture_leaves_once_with_the_truth_about_it(
    gaps_ms: list[int], cuts: set[int], late: int, batch: int, margin_ms: int, hole_ms: int
) -> None:
    times = np.concatenate([[0], np.cumsum(gaps_ms)]) * MS
    screen = [(int(a), int(b)) for a, b in pairwise(times)]
    half = len(screen) // 2
    screen = screen[:half] + [(a + hole_ms * MS, b + hole_ms * MS) for a, b in screen[half:]]
    margin_ns = margin_ms * MS
    at_ns = [screen[cut][0] for cut in cuts if cut < len(screen)]
    expected = [
        (k, k in cuts, any(a < t + margin_ns and b > t - margin_ns for t in at_ns)) for k, (a, b) in enumerate(screen)
    ]
    assert list(_through(Cuts(Late(cuts, late, batch), margin_ns), screen)) == expected


def test_no_picture_waits_longer_than_the_detector_and_the_margin_need() -> None:
    screen = [(k * 40 * MS, (k + 1) * 40 * MS) for k in range(1000)]
    for late, margin_ms, most in ((0, 0, 0), (5, 0, 5), (5, 400, 15), (0, 400, 10)):
        cuts: Cuts[int] = Cuts(Late({100, 500}, late, 1), margin_ms * MS)
        left = waiting = 0
        for index, span in enumerate(screen):
            left += len(list(cuts.take(index, *span, np.zeros((1, 1, 3), np.uint8))))
            waiting = max(waiting, index + 1 - left)
        assert waiting == most


def test_without_a_margin_no_picture_is_near_a_cut() -> None:
    screen = [(k * 40 * MS, (k + 1) * 40 * MS) for k in range(30)]
    assert [k for k, cut, near in _through(Cuts(Late({3, 20}, 2, 1)), screen) if cut or near] == [3, 20]
    assert not any(near for _, _, near in _through(Cuts(Late({3, 20}, 2, 1)), screen))


def test_the_builtin_detector_finds_the_cuts_that_the_room_tells_of() -> None:
    rng = np.random.default_rng(0)
    shots = [rng.integers(0, 255, (36, 64, 3), dtype=np.uint8).astype(np.float32) for _ in range(3)]
    cuts: Cuts[int] = Cuts(Builtin(), NS_PER_S // 10)
    told: list[tuple[int, bool, bool]] = []
    for index in range(90):
        thumbnail = np.clip(shots[index // 30] + rng.normal(0, 3, (36, 64, 3)), 0, 255).astype(np.uint8)
        told += cuts.take(index, index * 40 * MS, (index + 1) * 40 * MS, thumbnail)
    told += cuts.finish()
    assert [index for index, cut, _ in told if cut] == [30, 60]
    assert [index for index, _, near in told if near] == [27, 28, 29, 30, 31, 32, 57, 58, 59, 60, 61, 62]
