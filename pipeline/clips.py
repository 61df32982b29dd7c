"""Where clips begin and end, decided while the pictures stream by, so that one decode serves every clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline.spans import DAWN, DUSK, Span

SNAP_NS = NS_PER_S
"""A clip boundary moves back to the picture on screen at that time, unless that one has stood longer than this."""

MAX_MARGIN_S = 2.0
"""Pictures wait in memory, as large as they were decoded, until it is known that no cut follows within the margin."""

_NEAR_NS = NS_PER_S // 1000
"""Times this close are equal: Matroska and FLV round theirs to the millisecond."""

_LEAST_STEP_S = 0.1

ALIGNED = ("transcript", "captions", "speech")
"""Values of `clips.by` whose clips are planned from what is said, before any picture is decoded."""

PLANNED = (*ALIGNED, "list")
"""Values of `clips.by` whose clips are known before any picture is decoded."""


@dataclass(frozen=True, slots=True)
class ClipsConfig:
    """How sources are cut into clips.

    fixed       `length_s` long, one every `length_s - overlap_s` from the first picture on; a clip that the source's
                end cuts off is kept if it lasts `min_s` (`min_s` = `length_s`: whole clips only)
    shots       from cut to cut; a longer shot is cut every `max_s`
    transcript  whole sentences of what Whisper hears, as many as fit in `max_s`
    captions    whole sentences of the cues of a subtitle stream, likewise
    speech      stretches in which somebody speaks, parted in pauses, likewise
    list        as the source list states in its columns `start` and `end`; a source of which it states none is one
                clip. One that the source has nothing of is a Drop ("not-in-source")

    A clip shorter than `min_s`, a whole source too, is never lost silently: it becomes a Drop ("too-short").
    """

    by: Literal["fixed", "shots", "transcript", "captions", "speech", "list"] = "fixed"
    length_s: float = 10.0
    """Of fixed clips."""
    min_s: float = 2.0
    max_s: float = 30.0
    """Longest clip when not cutting by `length_s` or by the list."""
    overlap_s: float = 0.0
    """Of fixed clips: how long a clip goes on after the next one has begun."""
    margin_s: float = 0.0
    """Pictures on screen less than this before or after a cut belong to no clip: dissolves, and detectors' errors."""
    detector: Literal["builtin", "pyscenedetect", "transnetv2"] = "builtin"
    """Who finds the cuts, if cuts count."""
    cross_cuts: bool = True
    """Whether clips may go across a cut (those by shots never do); if not, they are parted there."""
    audio_only: bool = False
    """Make samples of sources that have sound and no picture, cut by `length_s` (by=shots: `max_s`); else they drop."""

    def __post_init__(self) -> None:
        if self.by not in ("fixed", "shots", *PLANNED):
            raise ValueError(f"clips.by is fixed, shots, {', '.join(PLANNED[:-1])} or {PLANNED[-1]}, got {self.by!r}")
        if self.detector not in ("builtin", "pyscenedetect", "transnetv2"):
            raise ValueError(f"clips.detector is builtin, pyscenedetect or transnetv2, got {self.detector!r}")
        for name in ("length_s", "min_s", "max_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise ValueError(f"clips.{name} is in seconds, above 0 and at most 3600, got {getattr(self, name)!r}")
        longest = "length_s" if self.by == "fixed" else "max_s"
        if self.min_s > getattr(self, longest):
            raise ValueError(
                f"clips.min_s ({self.min_s}) exceeds clips.{longest} ({getattr(self, longest)}): no clip could be kept"
            )
        if getattr(self, longest) < _LEAST_STEP_S:
            raise ValueError(f"clips.{longest} is at least {_LEAST_STEP_S} s, got {getattr(self, longest)!r}")
        if self.overlap_s and self.by != "fixed":
            raise ValueError(
                f"clips.overlap_s is for clips.by=fixed only: set it to 0, or clips.by to fixed (got {self.by!r})"
            )
        if self.overlap_s < 0 or (self.overlap_s and self.overlap_s > self.length_s - _LEAST_STEP_S):
            raise ValueError(
                f"clips.overlap_s is at least 0 and {_LEAST_STEP_S} s below clips.length_s ({self.length_s}), "
                f"got {self.overlap_s!r}: every clip must begin after the one before"
            )
        if not 0 <= self.margin_s <= MAX_MARGIN_S:
            raise ValueError(f"clips.margin_s is between 0 and {MAX_MARGIN_S} seconds, got {self.margin_s!r}")
        if self.margin_s and not self.needs_cuts:
            raise ValueError(
                f"clips.margin_s keeps clips away from cuts, and with clips.by={self.by} none are looked for: "
                "set clips.cross_cuts=false too, or clips.margin_s=0"
            )

    @property
    def needs_cuts(self) -> bool:
        """Whether a shot detector has to look at the pictures."""
        return self.by == "shots" or not self.cross_cuts


@dataclass(frozen=True, slots=True)
class Open:
    """A clip begins; it will end within [soonest_ns, latest_ns], as far as can be foreseen."""

    start_ns: int
    soonest_ns: int
    latest_ns: int


@dataclass(frozen=True, slots=True)
class Show:
    """The picture at hand is on screen during [start_ns, end_ns) in the open clip that began at `clip_ns`."""

    clip_ns: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Close:
    """The open clip that began at `start_ns` ends."""

    start_ns: int
    end_ns: int
    too_short: bool


Edge = Open | Show | Close


@dataclass(slots=True)
class _Run:
    """A cell of the grid, an interval or a shot that has begun: clips are made of it, one after another."""

    ours: bool
    """Whether it begins in our span. Those of other spans are followed all the same: they decide who comes next."""
    end_ns: int
    """Where the clip at hand, or the next, is planned to end."""
    length_ns: int
    """How long that clip is by plan, before its edges move to pictures."""
    begun_ns: int
    """When it, or in a shot that is split its last piece, came on screen."""
    clip_ns: int | None = None
    """Start of the open clip."""
    whole: bool = True
    """Whether the open clip began where it was planned to."""


class Clipper:
    """Cuts one source. Feed it every picture's time on screen, in order, then call `finish`.

    Boundaries fall on pictures: clips are half-open, a picture lies in a clip or outside (one that stands for longer
    than `SNAP_NS` may be parted), and the grid of fixed clips does not drift. Where the clock jumps, every clip ends
    and a grid begins anew. The last clip ends where its last picture leaves the screen. With `still` there are no
    pictures (sound only) and boundaries fall where the grid has them.

    A clip is known by its start: several may be open at once when they overlap, but no two begin together. Where a
    cut parts overlapping clips, only the youngest goes on behind it, since it holds what is left of the others.

    origin_ns   time of the source's first picture, if the pictures given do not begin with that
    span        make only the clips of runs that begin in it, as they are in the whole source: fixed, at a time of the
                grid; shots, with the shot's first picture; aligned, with the interval. The pictures must begin with
                the one on screen at the span's start, or one before
    intervals   for `PLANNED` clips: [start, end) in order, none beginning before the last has ended. An interval in
                which there is no picture gives no clip
    """

    def __init__(
        self,
        config: ClipsConfig,
        declared_end_ns: int | None = None,
        *,
        still: bool = False,
        origin_ns: int | None = None,
        span: Span | None = None,
        intervals: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        assert (intervals is not None) == (config.by in PLANNED), "intervals are for clips that are planned"
        self._snap_ns = -1 if still else SNAP_NS
        self._by_shots = config.by == "shots"
        self._heeds_cuts = config.needs_cuts
        self._length_ns = round((config.max_s if self._by_shots else config.length_s) * NS_PER_S)
        self._step_ns = self._length_ns - round(config.overlap_s * NS_PER_S)
        self._min_ns = round(config.min_s * NS_PER_S)
        self._declared_end_ns = declared_end_ns
        self._origin_ns = origin_ns
        self._span = span or Span(DAWN, DUSK)
        self._intervals = intervals
        self._next = 0
        """Which cell of the grid, or interval, begins next."""
        self._live: list[_Run] = []
        """Runs that have begun and not ended, in order; of shots there is one at most."""
        self._parted = True
        """Nothing is open, and the next picture that may be shown begins a clip in the youngest run."""
        self._end_ns: int | None = None
        self._finished = False

    @property
    def done(self) -> bool:
        """No clip of the span is open and none will be: the pictures to come are needed by nobody."""
        if any(run.ours for run in self._live):
            return False
        if self._finished:
            return True
        if self._by_shots:
            return self._end_ns is not None and self._end_ns >= self._span.end_ns
        planned = self._planned()
        return self._intervals is not None if planned is None else planned[0] >= self._span.end_ns

    def picture(self, start_ns: int, end_ns: int, cut: bool = False, near_cut: bool = False) -> Iterator[Edge]:
        """What a picture on screen during [start_ns, end_ns) means.

        `cut` says that a new shot begins with it, `near_cut` that it lies in the margin of a cut; where clips may go
        across cuts neither means anything.
        """
        cut, near_cut = cut and self._heeds_cuts, near_cut and self._heeds_cuts
        first = self._end_ns is None
        jumped = self._end_ns is not None and start_ns > self._end_ns  # nothing spans the hole
        if jumped:
            yield from self._part(self._end_ns or 0)
        elif cut or near_cut:
            yield from self._part(start_ns)
        self._end_ns = end_ns
        if self._by_shots:
            self._begin_shot(start_ns, first, cut or jumped)
        elif self._intervals is None and (first or jumped):
            self._lay_grid(start_ns, anew=jumped)
        while (planned := self._planned()) and planned[0] + _NEAR_NS < start_ns:  # while no picture was shown to us
            self._begin(planned, planned[0])
        yield from self._boundaries(start_ns, end_ns, hidden=near_cut)
        for run in self._live:
            if run.clip_ns is not None and run.ours:
                yield Show(run.clip_ns, max(start_ns, run.clip_ns), end_ns)

    def finish(self) -> Iterator[Close]:
        """The clips that are still open, at the end of the last picture."""
        yield from self._part(self._end_ns or 0)
        self._live = []
        self._finished = True

    # --- what begins and ends within one picture ------------------------------------------------------------------

    def _boundaries(self, start_ns: int, end_ns: int, hidden: bool) -> Iterator[Edge]:
        """The clips that end and begin while the picture stands, in order of time; if it is hidden, none begins."""
        begun = False
        while True:
            ending, beginning = DUSK * 2, DUSK * 2
            if self._live and _falls(self._live[0].end_ns, start_ns, end_ns):
                run = self._live[0]
                ending = self._moved(run.end_ns, start_ns, run.begun_ns < start_ns)
            planned = self._planned()
            if planned and _falls(planned[0], start_ns, end_ns):
                beginning = self._moved(planned[0], start_ns, not begun)
            at_ns = min(ending, beginning)
            if self._parted and not hidden and at_ns > start_ns:
                yield from self._resume(start_ns)
            elif at_ns == DUSK * 2:
                return
            elif ending <= beginning:
                yield from self._end(self._live[0], at_ns, start_ns)
            else:
                assert planned is not None
                begun = True
                run = self._begin(planned, at_ns)
                if not hidden:
                    self._parted = False
                    yield from self._open(run, at_ns)

    def _moved(self, time_ns: int, start_ns: int, moves: bool) -> int:
        """A boundary's place in the picture on screen at that time: its start, but not twice, and not from far."""
        return start_ns if moves and time_ns - start_ns <= self._snap_ns else max(time_ns, start_ns)

    def _end(self, run: _Run, at_ns: int, start_ns: int) -> Iterator[Edge]:
        """The run's clip ends as planned. A shot goes on in another clip; everything else is over."""
        if run.clip_ns is not None:
            if run.ours and at_ns > max(start_ns, run.clip_ns):
                yield Show(run.clip_ns, max(start_ns, run.clip_ns), at_ns)
            yield from self._close(run, at_ns, whole=run.whole)
        if self._by_shots:
            run.begun_ns, run.end_ns = at_ns, at_ns + self._length_ns
            yield from self._open(run, at_ns)
        else:
            self._live.pop(0)

    def _resume(self, at_ns: int) -> Iterator[Edge]:
        """After a cut, a margin or a hole: the youngest run's next clip begins, and the others are over."""
        self._parted = False
        del self._live[:-1]
        for run in self._live:
            if self._by_shots:
                run.begun_ns, run.end_ns = at_ns, at_ns + self._length_ns
            else:
                run.whole = False
            yield from self._open(run, at_ns)

    def _part(self, at_ns: int) -> Iterator[Close]:
        """Every open clip ends."""
        for run in self._live:
            if run.clip_ns is not None:
                yield from self._close(run, at_ns, whole=False)
            if self._by_shots:
                run.end_ns = DUSK  # until its next clip begins
        self._parted = True

    # --- runs -----------------------------------------------------------------------------------------------------

    def _planned(self) -> tuple[int, int] | None:
        """[begin, end) of the run that begins next, if that can be told ahead."""
        if self._intervals is not None:
            return self._intervals[self._next] if self._next < len(self._intervals) else None
        if self._by_shots or self._origin_ns is None:
            return None
        begin_ns = self._origin_ns + self._next * self._step_ns
        return begin_ns, begin_ns + self._length_ns

    def _begin(self, planned: tuple[int, int], at_ns: int) -> _Run:
        begin_ns, end_ns = planned
        run = _Run(self._span.start_ns <= begin_ns < self._span.end_ns, end_ns, end_ns - begin_ns, at_ns)
        self._live.append(run)
        self._next += 1
        return run

    def _lay_grid(self, start_ns: int, anew: bool) -> None:
        if anew or self._origin_ns is None:
            self._live.clear()
            self._origin_ns = start_ns
        self._next = max(0, (start_ns - self._origin_ns) // self._step_ns)

    def _begin_shot(self, start_ns: int, first: bool, parted: bool) -> None:
        """A shot begins with this picture, if one does; if it began before the first we see, it is not ours."""
        if first:
            whole = self._origin_ns is None and self._span.start_ns == DAWN
            parted = parted or whole or start_ns == self._origin_ns
        if first or parted:
            ours = parted and self._span.start_ns <= start_ns < self._span.end_ns
            self._live = [_Run(ours, DUSK, self._length_ns, start_ns)]

    # --- clips ----------------------------------------------------------------------------------------------------

    def _open(self, run: _Run, start_ns: int) -> Iterator[Open]:
        run.clip_ns = start_ns
        if run.ours:
            yield Open(start_ns, *self._foreseen(start_ns, run.end_ns))

    def _foreseen(self, start_ns: int, latest_ns: int) -> tuple[int, int]:
        """The soonest and the latest end, so that few frames are kept for lengths that do not come about."""
        least_ns = start_ns + self._min_ns
        if self._by_shots:
            return least_ns, latest_ns
        soonest_ns = max(least_ns, latest_ns - NS_PER_S // 5)
        if self._declared_end_ns is None or self._heeds_cuts:
            soonest_ns = least_ns
        elif self._declared_end_ns < latest_ns + NS_PER_S:
            latest_ns = max(least_ns, min(latest_ns, self._declared_end_ns + NS_PER_S // 10))
            soonest_ns = max(least_ns, min(soonest_ns, self._declared_end_ns - NS_PER_S // 5))
        return min(soonest_ns, latest_ns), latest_ns

    def _close(self, run: _Run, end_ns: int, whole: bool) -> Iterator[Close]:
        assert run.clip_ns is not None
        start_ns, run.clip_ns = run.clip_ns, None
        if run.ours:
            yield Close(start_ns, end_ns, (run.length_ns if whole else end_ns - start_ns) < self._min_ns)


def _falls(time_ns: int, start_ns: int, end_ns: int) -> bool:
    """Whether the boundary lies in a picture on screen during [start_ns, end_ns), or was due before it."""
    return time_ns + _NEAR_NS < end_ns or time_ns == start_ns
