"""Where clips begin and end, decided while the pictures stream by, so that one decode serves every clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from omniloom.modalities.sample import NS_PER_S

SNAP_NS = NS_PER_S
"""A clip boundary moves back to the picture on screen at that time, unless that one has stood longer than this."""

_NEAR_NS = NS_PER_S // 1000
"""Times this close are equal: Matroska and FLV round theirs to the millisecond."""


@dataclass(frozen=True, slots=True)
class ClipsConfig:
    """How sources are cut into clips.

    fixed   every `length_s` from the first picture; the remainder at the end is a clip if it lasts `min_s`
    shots   from cut to cut; a longer shot is cut every `max_s`

    A span shorter than `min_s`, a whole source too, is never lost silently: it becomes a Drop ("too-short").
    """

    by: Literal["fixed", "shots", "transcript"] = "fixed"
    length_s: float = 10.0
    """Of fixed clips."""
    min_s: float = 2.0
    max_s: float = 30.0
    """Longest clip when cutting by shots."""
    audio_only: bool = False
    """Make samples of sources that have sound and no picture, cut by `length_s`; otherwise they are drops."""

    def __post_init__(self) -> None:
        if self.by == "transcript":
            raise ValueError("clips.by=transcript is not built yet: use fixed or shots")
        if self.by not in ("fixed", "shots"):
            raise ValueError(f"clips.by is fixed or shots, got {self.by!r}")
        for name in ("length_s", "min_s", "max_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise ValueError(f"clips.{name} is in seconds, above 0 and at most 3600, got {getattr(self, name)!r}")
        if self.by == "fixed" and self.min_s > self.length_s:
            raise ValueError(
                f"clips.min_s ({self.min_s}) exceeds clips.length_s ({self.length_s}): no clip could be kept"
            )
        if self.by == "shots" and self.min_s > self.max_s:
            raise ValueError(f"clips.min_s ({self.min_s}) exceeds clips.max_s ({self.max_s}): no clip could be kept")


@dataclass(frozen=True, slots=True)
class Open:
    """A clip begins; it will end within [soonest_ns, latest_ns], as far as can be foreseen."""

    start_ns: int
    soonest_ns: int
    latest_ns: int


@dataclass(frozen=True, slots=True)
class Show:
    """The picture at hand is on screen in the open clip during [start_ns, end_ns)."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Close:
    """The open clip ends."""

    start_ns: int
    end_ns: int
    too_short: bool


Edge = Open | Show | Close


class Clipper:
    """Cuts one source. Feed it every picture's time on screen, in order, then call `finish`.

    Boundaries fall on pictures: clips are half-open, each picture opens or belongs to exactly one clip (a picture that
    stands for longer than `SNAP_NS` may be shown in several), and the grid of fixed clips does not drift. The last
    clip ends where its last picture leaves the screen. With `still` there are no pictures (sound only) and boundaries
    fall where the grid has them.
    """

    def __init__(self, config: ClipsConfig, declared_end_ns: int | None = None, *, still: bool = False) -> None:
        self._snap_ns = -1 if still else SNAP_NS
        self._by_shots = config.by == "shots"
        self._step_ns = round((config.max_s if self._by_shots else config.length_s) * NS_PER_S)
        self._min_ns = round(config.min_s * NS_PER_S)
        self._declared_end_ns = declared_end_ns
        self._start_ns: int | None = None
        self._end_ns = 0
        self._boundary_ns = 0

    def picture(self, start_ns: int, end_ns: int, cut: bool = False) -> Iterator[Edge]:
        """What a picture on screen during [start_ns, end_ns) means; `cut` says that a new shot begins with it."""
        if self._start_ns is not None and start_ns > self._end_ns:  # the clock jumped: nothing spans the hole
            yield self._close(self._end_ns)
            self._start_ns = None
        if self._start_ns is not None and cut and self._by_shots:
            yield self._close(start_ns)
            self._start_ns = None
        if self._start_ns is None:
            self._boundary_ns = start_ns
            yield self._open(start_ns)
            self._start_ns = start_ns
        clip_start_ns, shown_from_ns = self._start_ns, start_ns
        while self._boundary_ns + _NEAR_NS < end_ns:
            boundary_ns = self._boundary_ns
            if start_ns > clip_start_ns and boundary_ns - start_ns <= self._snap_ns:
                boundary_ns = max(start_ns, shown_from_ns)
            if boundary_ns > shown_from_ns:
                yield Show(shown_from_ns, boundary_ns)
            yield self._close(boundary_ns, whole=not self._by_shots)
            yield self._open(boundary_ns)
            shown_from_ns = clip_start_ns = boundary_ns
        yield Show(shown_from_ns, end_ns)
        self._end_ns = end_ns

    def finish(self) -> Iterator[Close]:
        """The last clip, if one is open."""
        if self._start_ns is not None:
            yield self._close(self._end_ns)
            self._start_ns = None

    def _open(self, start_ns: int) -> Open:
        self._start_ns = start_ns
        # The fixed grid stays where it was laid; a shot is measured from where it begins.
        self._boundary_ns = (start_ns if self._by_shots else self._boundary_ns) + self._step_ns
        latest_ns = self._boundary_ns
        if self._by_shots:
            return Open(start_ns, start_ns + self._min_ns, latest_ns)
        soonest_ns = max(start_ns + self._min_ns, latest_ns - NS_PER_S // 5)
        if self._declared_end_ns is None:
            soonest_ns = start_ns + self._min_ns
        elif self._declared_end_ns < latest_ns + NS_PER_S:
            latest_ns = max(start_ns + self._min_ns, min(latest_ns, self._declared_end_ns + NS_PER_S // 10))
            soonest_ns = max(start_ns + self._min_ns, min(soonest_ns, self._declared_end_ns - NS_PER_S // 5))
        return Open(start_ns, min(soonest_ns, latest_ns), latest_ns)

    def _close(self, end_ns: int, whole: bool = False) -> Close:
        assert self._start_ns is not None
        start_ns = self._start_ns
        return Close(start_ns, end_ns, too_short=not whole and end_ns - start_ns < self._min_ns)
