"""Clips are cut from a stream of pictures: half-open, on pictures, on a grid that does not drift, nothing lost."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline.clips import PLANNED, Clipper, ClipsConfig, Close, Edge, Open, Show
from omniloom.pipeline.sampling import FrameSampler, sample_times
from omniloom.pipeline.spans import DAWN, DUSK, Span

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


def test_overlapping_clips_begin_every_step_and_are_all_as_long() -> None:
    closes = _closes(ClipsConfig(length_s=4, overlap_s=3, min_s=4), _steady(25 * 8, 25))
    kept = [(c.start_ns // NS_PER_S, c.end_ns // NS_PER_S) for c in closes if not c.too_short]
    assert kept == [(0, 4), (1, 5), (2, 6), (3, 7), (4, 8)]
    assert [c.start_ns // NS_PER_S for c in closes if c.too_short] == [5, 6, 7], "what the end cuts off is told"


def test_fixed_clips_that_may_not_cross_a_cut_are_parted_there() -> None:
    config = ClipsConfig(length_s=4, min_s=1, cross_cuts=False)
    closes = _closes(config, _steady(25 * 10, 25), cuts=(75, 110, 185))  # at 3 s, 4.4 s and 7.4 s
    assert [round(c.end_ns / NS_PER_S, 3) for c in closes] == [3, 4, 4.4, 7.4, 8, 10]
    assert [c.too_short for c in closes] == [False, False, True, False, True, False]


def test_where_a_cut_parts_overlapping_clips_only_the_youngest_goes_on() -> None:
    config = ClipsConfig(length_s=4, overlap_s=2, min_s=1, cross_cuts=False)
    closes = _closes(config, _steady(25 * 6, 25), cuts=(75,))
    assert [(c.start_ns // NS_PER_S, c.end_ns // NS_PER_S) for c in closes] == [(0, 3), (2, 3), (3, 6), (4, 6)]


def test_intervals_become_clips_and_what_lies_between_them_is_shown_to_nobody() -> None:
    intervals = [(-NS_PER_S, 2 * NS_PER_S), (2 * NS_PER_S + 5, 5 * NS_PER_S), (7_010_000_000, 20 * NS_PER_S)]
    clipper = Clipper(ClipsConfig(by="captions"), intervals=intervals)
    edges = [edge for span in _steady(250, 25) for edge in clipper.picture(*span)]
    edges += clipper.finish()
    closes = [(e.start_ns / NS_PER_S, e.end_ns / NS_PER_S) for e in edges if isinstance(e, Close)]
    assert closes == [(0, 2), (2, 5), (7, 10)]
    assert sum(e.end_ns - e.start_ns for e in edges if isinstance(e, Show)) == 8 * NS_PER_S
    assert clipper.done


def test_a_source_in_which_nobody_speaks_needs_no_pictures() -> None:
    assert Clipper(ClipsConfig(by="speech"), intervals=[]).done


def test_a_span_is_done_when_its_last_clip_is() -> None:
    clipper = Clipper(ClipsConfig(length_s=10), origin_ns=0, span=Span(10 * NS_PER_S, 15 * NS_PER_S))
    seen: list[Edge] = []
    for span in _steady(25 * 60, 25, 8 * NS_PER_S):
        if clipper.done:
            break
        seen += clipper.picture(*span)
    assert span[0] == 20 * NS_PER_S + 40_000_000
    assert [(e.start_ns, e.end_ns) for e in seen if isinstance(e, Close)] == [(10 * NS_PER_S, 20 * NS_PER_S)]


def test_a_shot_that_began_before_the_pictures_did_belongs_to_another_span() -> None:
    for cut, expected in ((False, []), (True, [(10, 14)])):
        clipper = Clipper(ClipsConfig(by="shots"), origin_ns=0, span=Span(10 * NS_PER_S, 20 * NS_PER_S))
        edges: list[Edge] = []
        for index, span in enumerate(_steady(100, 25, 10 * NS_PER_S)):
            edges += clipper.picture(*span, cut=cut and index == 0)
        edges += clipper.finish()
        assert [(e.start_ns // NS_PER_S, e.end_ns // NS_PER_S) for e in edges if isinstance(e, Close)] == expected


@dataclass(frozen=True)
class _Material:
    config: ClipsConfig
    pictures: Screen
    cuts: frozenset[int]
    intervals: list[tuple[int, int]] | None
    declared_end_ns: int | None

    def flags(self, index: int) -> tuple[bool, bool]:
        """Whether a shot begins with the picture, and whether it is in the margin of a cut."""
        start_ns, end_ns = self.pictures[index]
        margin_ns = round(self.config.margin_s * NS_PER_S)
        times = [self.pictures[cut][0] for cut in self.cuts]
        return index in self.cuts, any(start_ns < t + margin_ns and end_ns > t - margin_ns for t in times)

    def clips(self, span: Span | None = None, lead: int = 0) -> list[tuple[Close, tuple[tuple[int, int], ...]]]:
        """The clips and what is shown in them, in order; of a span, from pictures that begin `lead` before it."""
        first = 0
        if span is not None:
            standing = [k for k, (start_ns, _) in enumerate(self.pictures) if start_ns <= span.start_ns]
            first = max(0, max(standing, default=0) - lead)
        clipper = Clipper(
            self.config,
            self.declared_end_ns,
            origin_ns=None if span is None or span.start_ns == DAWN else self.pictures[0][0],
            span=span,
            intervals=self.intervals,
        )
        made: list[tuple[Close, tuple[tuple[int, int], ...]]] = []
        shown: dict[int, list[tuple[int, int]]] = {}
        for index in range(first, len(self.pictures)):
            if clipper.done:
                break
            self._take(clipper.picture(*self.pictures[index], *self.flags(index)), shown, made)
        self._take(clipper.finish(), shown, made)
        assert clipper.done
        assert not shown, "a clip was never closed"
        return made

    @staticmethod
    def _take(edges: Any, shown: dict[int, list[tuple[int, int]]], made: list[Any]) -> None:
        for edge in edges:
            if isinstance(edge, Open):
                assert edge.start_ns not in shown, "two clips of one name"
                assert edge.start_ns <= edge.soonest_ns <= edge.latest_ns
                shown[edge.start_ns] = []
            elif isinstance(edge, Show):
                shown[edge.clip_ns].append((edge.start_ns, edge.end_ns))
            else:
                made.append((edge, tuple(shown.pop(edge.start_ns))))


@st.composite
def _materials(draw: st.DrawFn) -> _Material:
    by = draw(st.sampled_from(["fixed", "shots", *PLANNED]))
    if draw(st.booleans()):
        fps = draw(st.sampled_from([5, 24000 / 1001, 25, 60]))
        pictures = _steady(draw(st.integers(1, 120)), fps, draw(st.integers(-3, 3)) * 777_777_777)
    else:
        gaps = draw(st.lists(st.integers(1, 2500), min_size=1, max_size=80))
        times = (draw(st.integers(-3000, 3000)) + np.concatenate([[0], np.cumsum(gaps)])).astype(int) * 1_000_000
        pictures = [(int(a), int(b)) for a, b in pairwise(times)]
    if by != "fixed" and draw(st.booleans()):  # a grid begins anew behind a hole, so such sources are never split
        hole = draw(st.integers(0, len(pictures)))
        pictures = pictures[:hole] + [(a + 3_210_000_000, b + 3_210_000_000) for a, b in pictures[hole:]]
    cross_cuts = draw(st.booleans())
    length_s = draw(st.sampled_from([0.3, 1, 2.34567, 6]))
    config = ClipsConfig(
        by=by,
        length_s=length_s,
        max_s=length_s,
        min_s=draw(st.sampled_from([0.1, 0.3, length_s])),
        overlap_s=draw(st.sampled_from([0, 0.1, length_s / 2, length_s - 0.15])) if by == "fixed" else 0,
        cross_cuts=cross_cuts,
        margin_s=draw(st.sampled_from([0, 0.04, 0.5, 2])) if by == "shots" or not cross_cuts else 0,
    )
    intervals = None
    if by in PLANNED:
        ticks = sorted(draw(st.sets(st.integers(-5000, 90_000), max_size=24)))
        at_ns = [pictures[0][0] + tick * 1_000_123 for tick in ticks]
        intervals = list(pairwise(at_ns)) if draw(st.booleans()) else list(zip(at_ns[::2], at_ns[1::2], strict=False))
    cuts = draw(st.sets(st.integers(1, len(pictures)), max_size=6)) & set(range(1, len(pictures)))
    declared_end_ns = draw(st.sampled_from([None, pictures[-1][1], pictures[-1][1] - NS_PER_S]))
    return _Material(config, pictures, frozenset(cuts), intervals, declared_end_ns)


@settings(deadline=None, max_examples=150)
@given(material=_materials(), data=st.data())
def test_spans_split_anywhere_give_the_clips_of_the_whole(material: _Material, data: st.DataObject) -> None:
    first_ns, end_ns = material.pictures[0][0], material.pictures[-1][1]
    whole = material.clips()
    edges = [moment for picture in material.pictures for moment in picture]
    moment = st.one_of(st.integers(first_ns - NS_PER_S, end_ns + NS_PER_S), st.sampled_from(edges))
    for count in (1, 2, 7):
        borders = sorted(data.draw(st.sets(moment, min_size=count - 1, max_size=count - 1)))
        spans = [Span(a, b) for a, b in pairwise([DAWN, *borders, DUSK])]
        lead = data.draw(st.integers(1, 5))
        assert [clip for span in spans for clip in material.clips(span, lead)] == whole


@settings(deadline=None, max_examples=200)
@given(material=_materials())
def test_clips_keep_to_their_shots_and_to_their_length(material: _Material) -> None:
    config, pictures = material.config, material.pictures
    whole = material.clips()
    times = [pictures[cut][0] for cut in material.cuts]
    margin_ns = round(config.margin_s * NS_PER_S)
    length_ns = round(config.length_s * NS_PER_S)
    starts = [close.start_ns for close, _ in whole]
    assert starts == sorted(set(starts)), "in order, and each start is one clip's"
    for close, shown in whole:
        assert close.start_ns == shown[0][0]
        assert close.end_ns == shown[-1][1]
        assert all(a[1] == b[0] for a, b in pairwise(shown)), "no hole inside a clip"
        longest_ns = min(max(b - a for a, b in pictures), NS_PER_S)
        assert close.too_short or close.end_ns - close.start_ns >= config.min_s * NS_PER_S - longest_ns
        if config.needs_cuts:
            assert not any(close.start_ns < at_ns < close.end_ns for at_ns in times)
            assert not any(close.start_ns < t + margin_ns and close.end_ns > t - margin_ns for t in times)
        if config.by not in PLANNED:
            assert close.end_ns - close.start_ns <= length_ns + longest_ns
            if not config.needs_cuts and close.end_ns < pictures[-1][1]:
                assert close.end_ns - close.start_ns >= length_ns - longest_ns
                assert not close.too_short
    seen = [moment for _, shown in whole for moment in shown]
    for index, (start_ns, end_ns) in enumerate(pictures):
        times_shown = sum(min(b, end_ns) - max(a, start_ns) for a, b in seen if a < end_ns and b > start_ns)
        if config.needs_cuts and material.flags(index)[1]:
            assert times_shown == 0
        elif material.intervals is None:
            assert times_shown == end_ns - start_ns if not config.overlap_s else times_shown >= end_ns - start_ns
        elif any(a <= start_ns and b >= end_ns for a, b in material.intervals):
            assert times_shown == end_ns - start_ns
        elif not any(a < end_ns + NS_PER_S and b > start_ns - NS_PER_S for a, b in material.intervals):
            assert times_shown == 0


@pytest.mark.parametrize(
    ("bad", "repair"),
    [
        ({"by": "scenes"}, r"clips\.by is fixed, shots, transcript, captions, speech or list"),
        ({"length_s": 0}, r"clips\.length_s"),
        ({"min_s": -1}, r"clips\.min_s"),
        ({"min_s": 20}, r"clips\.min_s .* exceeds clips\.length_s"),
        ({"max_s": 1, "by": "shots"}, r"exceeds clips\.max_s"),
        ({"overlap_s": 10}, r"clips\.overlap_s .* below clips\.length_s"),
        ({"overlap_s": -1}, r"clips\.overlap_s is at least 0"),
        ({"overlap_s": 1, "by": "shots"}, r"clips\.overlap_s .* or clips\.by to fixed"),
        ({"margin_s": 0.5}, r"clips\.cross_cuts=false"),
        ({"margin_s": 5, "by": "shots"}, r"clips\.margin_s"),
        ({"detector": "best"}, r"clips\.detector is builtin, pyscenedetect or transnetv2"),
    ],
)
def test_a_bad_recipe_names_the_key_and_the_repair(bad: dict[str, Any], repair: str) -> None:
    with pytest.raises(ValueError, match=repair):
        ClipsConfig(**bad)


def test_cuts_are_looked_for_only_where_they_count() -> None:
    assert not ClipsConfig().needs_cuts
    assert ClipsConfig(cross_cuts=False, margin_s=0.5).needs_cuts
    assert ClipsConfig(by="shots").needs_cuts
    assert not ClipsConfig(by="speech").needs_cuts
