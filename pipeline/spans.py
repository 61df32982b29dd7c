"""Parts of a long source that are built apart, and together give the samples that the whole would give."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from omniloom.modalities.sample import NS_PER_S, Rejected, to_ns
from omniloom.pipeline.decode import ENTERABLE, MAX_DURATION_NS, MAX_STILL_NS
from omniloom.pipeline.probe import VideoInfo, VideoTrack, open_media

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAWN = -(2**62)
DUSK = 2**62
"""Times in nanoseconds before and after everything: where the first span begins and the last one ends."""

_MAX_KEYFRAME_GAP_NS = 60 * NS_PER_S
"""A span begins to decode at the keyframe before it: what lies between is decoded twice."""
_MAX_PICTURES = 20_000_000
_CHANGES = ("new_extradata", "param_change", "encryption_info")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The runs (grid cells, shots, sentences) of a source that begin in [start_ns, end_ns) of presentation time.

    A run belongs to the span in which it begins, however far it reaches beyond.
    """

    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.end_ns <= self.start_ns:
            raise ValueError(f"a span needs end_ns > start_ns, got {self.start_ns = }, {self.end_ns = }")

    def __str__(self) -> str:
        """For messages: "from 900 s to 1800 s", "up to 900 s", "from 900 s"."""
        start = f"from {self.start_ns / NS_PER_S:g} s" if self.start_ns != DAWN else ""
        end = f"{'to' if start else 'up to'} {self.end_ns / NS_PER_S:g} s" if self.end_ns != DUSK else ""
        return f"{start} {end}".strip() or "the whole"


def split(path: str, info: VideoInfo, length_s: float) -> list[Span] | None:
    """Spans of `length_s` from the first picture on, or None if the source is to be built whole.

    The first span begins at `DAWN` and the last one ends at `DUSK`; a remainder of less than half a length belongs to
    the span before it. Only a source whose packets promise that any part can be decoded by itself is split: a plain
    clock (every packet has its time, no time twice, no hole of a minute), keyframes, no change of parameters, no
    damage, and a container that finds the borders when asked for them. Packets are read, not decoded: ten
    hours at 30 a second take 13 CPU-seconds, at 5 a second 2.7.
    Sources shorter than one and a half lengths are not even read. Never raises for bad media.
    """
    import av.error

    length_ns = round(length_s * NS_PER_S)
    track = info.video
    if length_ns <= 0 or track is None or info.cut_short or not ENTERABLE.intersection(info.format.split(",")):
        return None
    if info.duration_ns is not None and 2 * info.duration_ns < 3 * length_ns:
        return None
    try:
        scan = _scan(path, track)
        if scan is None:
            return None
        count = (scan.end_ns - scan.start_ns + length_ns // 2) // length_ns
        borders = [scan.start_ns + number * length_ns for number in range(1, count)]
        if not borders or not _can_begin_at(path, track, borders, scan.keyframes_ns):
            return None
    except (av.error.FFmpegError, OSError, MemoryError, UnicodeDecodeError, Rejected):
        return None
    return [Span(*edges) for edges in pairwise([DAWN, *borders, DUSK])]


@dataclass(frozen=True, slots=True)
class _Scan:
    start_ns: int
    end_ns: int
    keyframes_ns: Sequence[int]


def _scan(path: str, track: VideoTrack) -> _Scan | None:
    """What the packets of a stream say of its pictures; None if they do not promise a plain clock."""
    from av.stream import Discard

    shown, hidden, keyframes = array("q"), array("q"), array("q")
    last_dts: int | None = None
    last_ticks = 0
    with open_media(path) as container:
        for stream in container.streams:
            if stream.index != track.index:
                stream.discard = Discard.all
        for packet in container.demux(container.streams[track.index]):
            pts, dts = packet.pts, packet.dts
            if not packet.size and pts is None and dts is None:
                continue  # the end
            if pts is None or not packet.size or packet.is_corrupt or len(shown) > _MAX_PICTURES:
                return None
            if dts is not None:
                if last_dts is not None and dts <= last_dts:
                    return None
                last_dts = dts
            if shown and any(map(packet.has_sidedata, _CHANGES)):
                return None
            if packet.is_keyframe:
                keyframes.append(pts)
            if packet.is_discard:
                hidden.append(pts)
            else:
                shown.append(pts)
                last_ticks = packet.duration or last_ticks
    if not shown or not keyframes:
        return None
    times, keys = np.sort(_ticks(shown)), np.sort(_ticks(keyframes))
    first, last = times[0], times[-1]
    tick_ns = float(NS_PER_S * track.time_base)
    gaps_ns = tick_ns * np.diff(times)
    # After a hole the grid of clips begins anew: what follows would depend on what came before.
    if np.any(gaps_ns <= 0) or np.any(gaps_ns > MAX_STILL_NS) or tick_ns * (last - first) > MAX_DURATION_NS:
        return None
    if np.any(tick_ns * np.diff([first, *keys[keys > first], last]) > _MAX_KEYFRAME_GAP_NS):
        return None
    if np.any((_ticks(hidden) > first) & (_ticks(hidden) < last)):
        return None  # an edit list takes a piece out of the middle
    start_ns, end_ns = (to_ns(int(ticks), track.time_base) for ticks in (first, last + last_ticks))
    return _Scan(start_ns, end_ns, [to_ns(int(key), track.time_base) for key in keys])


def _can_begin_at(path: str, track: VideoTrack, borders_ns: Sequence[int], keyframes_ns: Sequence[int]) -> bool:
    """Whether the container, opened afresh, leads to a keyframe close before each border.

    A fragmented file without an index leads to its beginning: every span would read all that lies before it.
    """
    with open_media(path) as container:
        stream: Any = container.streams[track.index]
        for border_ns in borders_ns:
            container.seek(int(border_ns / NS_PER_S / track.time_base), stream=stream)
            packet = next(container.demux(stream))
            if packet.pts is None:
                return False
            found_ns = to_ns(packet.pts, track.time_base)
            # The keyframe before the border or one of the two around it: the decoder steps back further where it must.
            near = bisect_right(keyframes_ns, border_ns)
            if found_ns < keyframes_ns[max(0, near - 3)] - NS_PER_S:
                return False
    return True


def _ticks(times: array[int]) -> NDArray[np.int64]:
    return np.frombuffer(times, np.int64)
