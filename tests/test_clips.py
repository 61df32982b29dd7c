"""Clips are cut from a stream of pictures: half-open, on pictures, on a grid that does not drift, nothing lost."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline.clips import Clipper, ClipsConfig, Close, Edge, Open, Show
from omniloom.pipeline.sampling import FrameSampler, sample_times

Screen = list[tuple[int, int]]


def _edges(config: ClipsConfig, pictures: Screen, cuts: tuple[int, ...] = (), end_ns: int | None = None) -> list[Edge]:
    clipper = Clipper(config, end_ns)
    edges = [edge for k, span in enumerate(pictures) for edge in clipper.picture(*span, cut=k in cuts)]
    return [*edges, *clipper.finish()]


def _closes(*args: object, **more: object) -> list[Close]:
    return [edge for edge in _edges(*args, **more) if isinstance(edge, Close)]  # type: ignore[arg-type]


def _steady(count: int, fps: float, start_ns: int = 0) -> Screen:
    ticks = [start_ns + round(k * NS_PER_S / fps) for k in range(count + 1)]
    return list(pairwise(ticks))


def test_fixed_clips_follow_the_grid_without_drift() -> None:
    closes = _closes(ClipsConfig(length_s=10), _steady(30 * 600, 30000 / 1001))
    assert len(closes) == 61
    for k, close in enumerate(closes[:-1]):
        assert abs(close.end_ns - (k + 1) * 10 * NS_PER_S) <= 1001 / 30000 * NS_PER_S
        assert not close.too_short
    assert closes[-1].too_short, "0.6 s are left over"


def test_whole_seconds_at_a_whole_rate_are_cut_exactly() -> None:
    closes = _closes(ClipsConfig(length_s=2), _steady(30 * 6, 30))
    assert [(c.start_ns, c.end_ns) for c in closes] == [(k * 2 * NS_PER_S, (k + 1) * 2 * NS_PER_S) for k in range(3)]


def test_a_source_shorter_than_the_least_is_one_short_span() -> None:
    (close,) = _closes(ClipsConfig(), _steady(30, 30))
    assert close.too_short
    assert (close.start_ns, close.end_ns) == (0, NS_PER_S)


def test_shots_end_at_cuts_and_long_ones_are_split() -> None:
    closes = _closes(ClipsConfig(by="shots", max_s=5, min_s=1), _steady(300, 25), cuts=(30, 40))
    assert [round(c.end_ns / NS_PER_S, 3) for c in closes] == [1.2, 1.6, 6.6, 11.6, 12.0]
    assert [c.too_short for c in closes] == [False, True, False, False, True]


def test_a_picture_that_stands_long_is_shown_in_every_clip_it_covers() -> None:
    edges = _edges(ClipsConfig(length_s=10), [(0, 5 * NS_PER_S), (5 * NS_PER_S, 25 * NS_PER_S)])
    shows = [(e.start_ns // NS_PER_S, e.end_ns // NS_PER_S) for e in edges if isinstance(e, Show)]
    assert shows == [(0, 5), (5, 10), (10, 20), (20, 25)]


def test_a_jump_of_the_clock_ends_a_clip_and_nothing_spans_the_hole() -> None:
    closes = _closes(ClipsConfig(length_s=10, min_s=2), _steady(75, 25) + _steady(75, 25, 3600 * NS_PER_S))
    assert [(c.start_ns // NS_PER_S, c.end_ns // NS_PER_S) for c in closes] == [(0, 3), (3600, 3603)]


@settings(deadline=None)  # machines are busy
@given(
    gaps_ms=st.lists(st.integers(1, 3000), min_size=1, max_size=80),
    length_s=st.floats(0.2, 7),
    cuts=st.sets(st.integers(0, 79)),
    by=st.sampled_from(["fixed", "shots"]),
    start_ms=st.integers(-5000, 5000),
)
def test_clips_tile_the_source_and_never_cross_a_cut(
    gaps_ms: list[int], length_s: float, cuts: set[int], by: str, start_ms: int
) -> None:
    times = (start_ms + np.concatenate([[0], np.cumsum(gaps_ms)])).astype(int) * 1_000_000
    pictures: Screen = [(int(a), int(b)) for a, b in pairwise(times)]
    config = ClipsConfig(by=by, length_s=length_s, min_s=min(0.2, length_s), max_s=length_s)  # type: ignore[arg-type]
    edges = _edges(config, pictures, tuple(cuts), int(times[-1]))
    closes = [edge for edge in edges if isinstance(edge, Close)]
    opens = [edge for edge in edges if isinstance(edge, Open)]
    assert [o.start_ns for o in opens] == [c.start_ns for c in closes]
    assert closes[0].start_ns == times[0]
    assert closes[-1].end_ns == times[-1]
    assert all(a.end_ns == b.start_ns and a.end_ns > a.start_ns for a, b in pairwise(closes))
    shown = sum(e.end_ns - e.start_ns for e in edges if isinstance(e, Show))
    assert shown == times[-1] - times[0], "every moment is shown once"
    assert all(c.end_ns - c.start_ns <= (length_s + 1.01) * NS_PER_S for c in closes)
    if by == "shots":
        for cut in cuts:
            if 0 < cut < len(pictures):
                assert not any(c.start_ns < pictures[cut][0] < c.end_ns for c in closes)


@settings(deadline=None)  # machines are busy
@given(
    gaps_ms=st.lists(st.integers(5, 400), min_size=2, max_size=150),
    soonest_ms=st.integers(0, 3000),
    slack_ms=st.integers(0, 30_000),
    per_second=st.sampled_from([0.5, 1.0, 2.0, 3.7]),
    at_least=st.integers(1, 12),
)
def test_the_frames_chosen_while_streaming_are_those_on_screen_at_the_sample_times(
    gaps_ms: list[int], soonest_ms: int, slack_ms: int, per_second: float, at_least: int
) -> None:
    times = np.concatenate([[0], np.cumsum(gaps_ms)]).astype(int) * 1_000_000 + 77
    start_ns, end_ns = int(times[0]), int(times[-1])
    soonest_ns = min(start_ns + soonest_ms * 1_000_000, end_ns)
    sampler = FrameSampler(start_ns, soonest_ns, max(end_ns, soonest_ns + slack_ms * 1_000_000), per_second, at_least)
    for k, (a, b) in enumerate(pairwise(times)):
        if sampler.wants(int(a), int(b)):
            sampler.keep(int(a), np.full((2, 2, 3), k, np.uint8))
    rgb, pts_ns = sampler.choose(end_ns)
    wanted = [
        int(np.searchsorted(times[:-1], t, side="right")) - 1
        for t in sample_times(start_ns, end_ns, per_second, at_least)
    ]
    assert rgb[:, 0, 0, 0].tolist() == [k % 256 for k in wanted]
    assert pts_ns.tolist() == [int(times[k]) - start_ns for k in wanted]


def test_sampling_keeps_little_more_than_it_needs_when_the_end_is_foreseen() -> None:
    kept = 0
    sampler = FrameSampler(0, 9_800_000_000, 10_000_000_000, 2.0, 8)
    for a, b in _steady(250, 25):
        if sampler.wants(a, b):
            sampler.keep(a, np.zeros((2, 2, 3), np.uint8))
            kept += 1
    assert kept <= 22
    assert len(sampler.choose(10 * NS_PER_S)[1]) == 20


@pytest.mark.parametrize(
    "bad",
    [
        {"by": "transcript"},
        {"by": "scenes"},
        {"length_s": 0},
        {"min_s": -1},
        {"min_s": 20},
        {"max_s": 1, "by": "shots"},
    ],
)
def test_a_bad_recipe_names_the_key(bad: dict[str, object]) -> None:
    key = "clips." + next(iter(bad))
    with pytest.raises(ValueError, match=key):
        ClipsConfig(**bad)  # type: ignore[arg-type]
