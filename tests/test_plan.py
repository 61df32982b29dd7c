"""The order of samples is a pure function of (seed, epoch, position)."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from omniloom.pipeline.order import PADDING, Order, Shuffle, Sources, Wishes
from omniloom.pipeline.permutation import derangement, shuffled
from omniloom.pipeline.plan import SLOTS, Plan


def plan_of(*sizes: int, weights: tuple[float, ...] = (1.0,), seed: int = 0) -> Plan:
    orders = tuple(Order(np.array([size]), seed + number, Wishes()) for number, size in enumerate(sizes))
    return Plan(orders, weights, seed)


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
    pick = plan_of(30, seed=3).at(np.arange(90))
    assert np.array_equal(pick.epoch, np.repeat([0, 1, 2], 30))
    for epoch in range(3):
        assert np.array_equal(np.sort(pick.row[epoch * 30 : epoch * 30 + 30]), np.arange(30))


def test_a_position_far_into_training_is_found_at_once() -> None:
    plan = plan_of(10**9, seed=1)
    far = np.arange(10**15, 10**15 + 256)
    began = time.perf_counter()
    rows = plan.at(far).row
    assert time.perf_counter() - began < 1
    assert np.array_equal(rows[100:], plan.at(far[100:]).row)


def test_a_mixture_keeps_its_weights_and_each_corpus_its_epochs() -> None:
    plan = plan_of(10, 7000, weights=(1.0, 3.0))
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
            plan_of(*sizes, weights=weights)


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


# --- micro-batches of like samples, blocks of shards ------------------------------------------------------------


def rows_of(order: Order, epoch: int) -> np.ndarray:
    """A whole epoch, in micro-batches: int64 (micro-batches, micro_batch)."""
    size = order.wishes.micro_batch
    return order.at(np.arange(order.length), np.full(order.length, epoch)).reshape(-1, size)


@given(
    units=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    kinds=st.integers(1, 5),
    micro_batch=st.integers(1, 6),
    shuffle=st.sampled_from(["global", "blocks"]),
    sources=st.sampled_from(["any", "apart", "together"]),
    open_units=st.integers(1, 5),
    pad=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None)
def test_an_epoch_of_micro_batches_holds_every_sample_once_and_like_with_like(
    units: list[int],
    kinds: int,
    micro_batch: int,
    shuffle: Shuffle,
    sources: Sources,
    open_units: int,
    pad: bool,
    seed: int,
) -> None:
    total = sum(units)
    assume(total)
    assume(sources == "any" or shuffle == "global")
    rng = np.random.default_rng(seed)
    label, source = rng.integers(0, kinds, total), np.sort(rng.integers(0, max(1, total // 3), total))
    wishes = Wishes(shuffle, open_units, micro_batch, sources, pad)
    label = np.unique(label, return_inverse=True)[1]
    made = lambda: Order(np.array(units), seed, wishes, classes=label, sources=source)  # noqa: E731
    if not pad and max(np.bincount(label)) < micro_batch:
        with pytest.raises(ValueError, match="lower micro_batch"):
            made()
        return
    order = made()
    for epoch in range(3):
        rows = rows_of(order, epoch)
        real = rows[rows != PADDING]
        assert len(np.unique(real)) == len(real), "no sample twice"
        assert len(real) + order.left_out == total
        assert not pad or not order.left_out
        for micro in rows:
            assert len({label[row] for row in micro if row != PADDING}) <= 1
        shuffled_places = rng.permutation(order.length)
        again = made().at(shuffled_places, np.full(order.length, epoch))
        assert np.array_equal(again, rows.reshape(-1)[shuffled_places]), "a place does not depend on what was asked"


def test_blocks_that_hold_all_units_are_the_global_order() -> None:
    units = np.array([5, 8, 13])
    orders = [Order(units, 4, Wishes(shuffle, open_units=3)) for shuffle in ("global", "blocks")]
    assert np.array_equal(rows_of(orders[0], 2), rows_of(orders[1], 2))
    assert not np.array_equal(rows_of(orders[0], 2), rows_of(Order(units, 4, Wishes("blocks", open_units=2)), 2))


@pytest.mark.parametrize("wishes", [Wishes(), Wishes("blocks", 2), Wishes(micro_batch=2, sources="apart", pad=True)])
def test_substitutes_are_all_the_other_samples_of_a_class_before_any_comes_again(wishes: Wishes) -> None:
    label = np.repeat([0, 1], [9, 12])
    order = Order(np.full(7, 3), 0, wishes, classes=label, sources=np.arange(21) // 2)
    for place in range(order.length):
        met = [int(order.at(np.array([place]), np.array([2]), retry)[0]) for retry in range(9)]
        if met[0] != PADDING:
            assert len(set(met)) == 9
            assert len(set(label[met])) == 1


def test_what_an_epoch_leaves_out_the_others_show() -> None:
    label = np.repeat([0, 1, 2], [10, 11, 13])
    for sources in ("any", "apart", "together"):
        wishes = Wishes(micro_batch=4, sources=sources)
        order = Order(np.array([34]), 0, wishes, classes=label, sources=np.arange(34) // 3)
        assert order.left_out == 2 + 3 + 1
        assert len(np.unique([rows_of(order, epoch) for epoch in range(40)])) == 34


def test_blocks_hold_few_units_open_and_visit_all_of_them_in_another_order_each_epoch() -> None:
    units = np.full(40, 25)
    order = Order(units, 1, Wishes("blocks", open_units=4, micro_batch=5), classes=np.arange(1000) % 3)
    met: list[tuple[int, ...]] = []
    for epoch in range(2):
        unit = rows_of(order, epoch).reshape(-1) // 25
        open_now = [len(np.unique(unit[start : start + 100])) for start in range(0, 900, 50)]
        assert max(open_now) <= 12, "a window over a border sees two blocks, and classes differ by a little"
        assert len(np.unique(unit)) == 40
        met.append(tuple(dict.fromkeys(unit.tolist())))
    assert met[0] != met[1]


def test_blocks_of_one_class_are_shuffled_as_well_as_their_size_allows() -> None:
    order = Order(np.full(20, 50), 0, Wishes("blocks", open_units=5))
    place = np.arange(1000)
    moved = np.array([order.at(place, np.full(1000, epoch)) for epoch in range(200)])
    assert np.array_equal(np.sort(moved[7]), place)
    early = np.array([(np.argsort(rows)[:50] < 250).mean() for rows in moved])  # of unit 0: is it in the first block?
    assert 0.1 < early.mean() < 0.4
    neighbours = np.abs(np.diff(moved, axis=1)) == 1
    assert neighbours.mean() < 0.012, "2 of 249 rows of a block are next to a row"


def test_clips_of_a_source_are_kept_apart_or_brought_together() -> None:
    source = np.repeat(np.arange(200), 10)
    share = {}
    for sources in ("any", "apart", "together"):
        order = Order(np.array([2000]), 3, Wishes(micro_batch=10, sources=sources), sources=source)
        rows = np.concatenate([source[rows_of(order, epoch)] for epoch in range(5)])
        share[sources] = np.mean([10 - len(np.unique(micro)) for micro in rows]) / 10
    assert share["apart"] < 0.005 < 0.015 < share["any"] < 0.03
    assert share["together"] >= 0.8


def test_ten_million_samples_are_planned_at_once_and_any_place_is_found() -> None:
    units = np.full(10_000, 1000)
    label = np.arange(10**7) % 7
    began = time.perf_counter()
    plan = Plan((Order(units, 0, Wishes(micro_batch=16), classes=label),), (1.0,), 0, micro_batch=16)
    assert time.perf_counter() - began < 60
    began = time.perf_counter()
    far = plan.at(np.arange(9 * 10**6, 9 * 10**6 + 512))
    assert time.perf_counter() - began < 1
    assert len(np.unique(far.row)) == 512
    blocks = Order(units, 0, Wishes("blocks", open_units=256))
    began = time.perf_counter()
    blocks.at(np.arange(9 * 10**6, 9 * 10**6 + 512), np.full(512, 3))
    assert time.perf_counter() - began < 1
