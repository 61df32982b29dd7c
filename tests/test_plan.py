"""The order of samples is a pure function of (seed, epoch, position)."""

from __future__ import annotations

import time

import numpy as np
import pytest

from omniloom.pipeline.plan import SLOTS, Plan, derangement, shuffled


@pytest.mark.parametrize("size", [1, 2, 3, 7, 255, 256, 257, 1000, 65_537])
def test_a_shuffle_is_a_permutation(size: int) -> None:
    for seed in (0, 1, 2**63, -5):
        assert np.array_equal(np.sort(shuffled(np.arange(size), size, seed, 3)), np.arange(size))


def test_every_row_comes_to_every_place_about_equally_often() -> None:
    size, epochs = 10, 4000
    rows = shuffled(np.tile(np.arange(size), epochs), size, 7, np.repeat(np.arange(epochs), size)).reshape(epochs, size)
    counts = np.array([np.bincount(rows[:, place], minlength=size) for place in range(size)])
    chi2 = ((counts - epochs / size) ** 2 / (epochs / size)).sum()
    assert chi2 < 140  # 81 degrees of freedom: 1 in 20,000 for a fair shuffle
    pairs = np.array([np.bincount(rows[:, 0] * size + rows[:, 1], minlength=size * size)])
    assert pairs.reshape(size, size)[~np.eye(size, dtype=bool)].min() > 0


def test_epochs_and_seeds_give_other_orders() -> None:
    orders = {tuple(shuffled(np.arange(50), 50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_an_epoch_holds_every_row_once_and_follows_the_last_without_a_gap() -> None:
    pick = Plan((30,), (1.0,), seed=3).at(np.arange(90))
    assert np.array_equal(pick.epoch, np.repeat([0, 1, 2], 30))
    for epoch in range(3):
        assert np.array_equal(np.sort(pick.row[epoch * 30 : epoch * 30 + 30]), np.arange(30))


def test_a_position_far_into_training_is_found_at_once() -> None:
    plan = Plan((10**9,), (1.0,), seed=1)
    far = np.arange(10**15, 10**15 + 256)
    began = time.perf_counter()
    rows = plan.at(far).row
    assert time.perf_counter() - began < 1
    assert np.array_equal(rows[100:], plan.at(far[100:]).row)


def test_a_mixture_keeps_its_weights_and_each_corpus_its_epochs() -> None:
    plan = Plan((10, 7000), (1.0, 3.0), seed=0)
    pick = plan.at(np.arange(100 * SLOTS))
    assert np.bincount(pick.corpus).tolist() == [25_000, 75_000]
    seen = np.bincount(pick.row[pick.corpus == 1])
    assert set(seen) == {10, 11}
    for block in range(0, 100 * SLOTS, SLOTS):
        assert np.count_nonzero(pick.corpus[block : block + SLOTS]) == 750
    first = pick.corpus[:SLOTS]
    assert 100 < np.count_nonzero(first[:250]) < 250  # mixed, not one after the other


def test_impossible_plans_are_refused() -> None:
    for sizes, weights in [((), ()), ((1, 2), (1.0,)), ((0,), (1.0,)), ((1,), (0.0,)), ((5, 5), (1.0, 1e-9))]:
        with pytest.raises(ValueError):
            Plan(sizes, weights, seed=0)


def test_a_derangement_moves_everything_to_another_source() -> None:
    rng = np.random.Generator(np.random.Philox(2))
    for count in (2, 5, 40):
        sources = [f"source-{number}" for number in rng.integers(0, max(2, count // 3), count)]
        donors = derangement(sources)
        assert np.array_equal(np.sort(donors), np.arange(count))
        assert not np.any(donors == np.arange(count))
        if max(sources.count(source) for source in sources) * 2 <= count:
            assert all(sources[place] != sources[donor] for place, donor in enumerate(donors))
    with pytest.raises(ValueError, match="two samples"):
        derangement(["alone"])
