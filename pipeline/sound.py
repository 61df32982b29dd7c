"""The sound of a source, 16 kHz mono, readable at any time of its presentation clock."""

from __future__ import annotations

import itertools
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omniloom.modalities.base import SoundBlock
from omniloom.modalities.sample import NS_PER_S, Rejected, to_ns
from omniloom.pipeline.decode import ENTERABLE, MAX_DURATION_NS, Damage, demux, only
from omniloom.pipeline.probe import AudioTrack, Media, VideoInfo, open_media, say
from omniloom.pipeline.tape import SAMPLE_RATE_HZ, Mend, Sound, Tape, sample_at

STRETCH_NS = 600 * NS_PER_S
"""Sound is decoded in stretches of this length, counted from where the source begins."""
_RUN_UP_NS = NS_PER_S
"""Each stretch but the first is begun this much early: codecs and resamplers need less to forget how they began."""
_HELD = 4
"""Stretches kept in memory, at 19 MB each: sources of the usual length are decoded once."""
_OVERRUN_NS = 60 * NS_PER_S
_SEARCH_NS = 20 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Heard:
    """The sound of a span of time: exactly as long as it, silent where there is none."""

    samples: np.ndarray
    """int16 (N,)."""
    present: np.ndarray
    """bool (N,): where the source has sound, be it silent."""
    drift_ms: float
    """By how much timestamps and samples drifted apart in this span; taken out. Above 0: the samples ran slow."""
    overlap_ms: float
    """Sound that was cut because it claimed a time that had sound already."""
    damage: tuple[Damage, ...]


@dataclass(slots=True)
class _Stretch:
    blocks: list[Sound] = field(default_factory=list[Sound])
    mends: list[Mend] = field(default_factory=list[Mend])
    damage: list[Damage] = field(default_factory=list[Damage])
    packets: list[Any] = field(default_factory=list[Any])
    packets_ns: array[int] = field(default_factory=lambda: array("q"))
    """When each packet begins to sound, and when the one after it has sounded: (start, end), (start, end), ..."""
    ended: bool = False
    """Whether the source has no sound after this stretch."""

    def keep(self, event: Mend | _Hurt | _Coded) -> None:
        if isinstance(event, Mend):
            self.mends.append(event)
        elif isinstance(event, _Hurt):
            self.damage.append(event.damage)
        else:
            self.packets.append(event.packet)
            self.packets_ns.extend((event.start_ns, event.end_ns))


class Soundtrack:
    """Random access to the sound of one source; silent throughout if it has none. Threads may share it.

    The sound is decoded in stretches of ten minutes, each begun afresh a second early. So wherever reading starts,
    a stretch comes out the same, and a long source can be cut into spans whose samples are those of the whole.
    """

    def __init__(self, path: Media, info: VideoInfo, *, keep_packets: bool = False) -> None:
        self._path = path
        self._track = info.audio
        self._keep_packets = keep_packets
        starts = [track.start_ns for track in (info.video, info.audio) if track is not None]
        self._origin_ns = next((start_ns for start_ns in starts if start_ns is not None), 0)
        self._restarts = not ENTERABLE.isdisjoint(info.format.split(","))
        """Others are read from their beginning."""
        self._held: dict[int, _Stretch] = {}
        self._lock = threading.Lock()
        self._last = 2**62
        """The stretch in which the sound ends, once known."""
        self._end_ns = 2**62
        """When the last sound ends, once known: that is when the stretch in which it ends has been decoded."""
        self._reel: tuple[int, Iterator[_Stretch]] | None = None
        """Of a source that cannot be entered in the middle: the stretches left to decode, and the index of the next."""
        self._quiet_ns: dict[int, int] = {}
        self._first_ns: int | None = None

    @property
    def first_ns(self) -> int | None:
        """When the first sound is heard; None if there is none."""
        if self._track is not None and self._first_ns is None:
            events = _hear(self._path, self._track, None, False)
            self._first_ns = next((event.start_ns for event in events if isinstance(event, Sound)), None)
        return self._first_ns

    def read(self, start_ns: int, end_ns: int) -> Heard:
        """The sound during [start_ns, end_ns). Raises Rejected("decode", "encrypted")."""
        first, end = sample_at(start_ns), sample_at(end_ns)
        samples, present = np.zeros(end - first, np.int16), np.zeros(end - first, bool)
        drift = overlap = 0
        damage: list[Damage] = []
        for index in self._indices(start_ns, end_ns):
            stretch = self._stretch(index)
            for block in stretch.blocks:
                start, stop = max(block.at, first), min(block.at + len(block.samples), end)
                if start < stop:
                    samples[start - first : stop - first] = block.samples[start - block.at : stop - block.at]
                    present[start - first : stop - first] = True
            mends = [mend for mend in stretch.mends if first <= mend.at < end]
            drift += sum(mend.samples for mend in mends if mend.kind == "drift")
            overlap += sum(mend.samples for mend in mends if mend.kind == "overlap")
            damage += [item for item in stretch.damage if start_ns <= item.at_ns < end_ns]
        to_ms = 1000 / SAMPLE_RATE_HZ
        return Heard(samples, present, drift * to_ms, overlap * to_ms, tuple(damage))

    def packets(self, start_ns: int, end_ns: int) -> list[Any]:
        """The coded packets that sound during [start_ns, end_ns), and the one before, if they are kept.

        From the one before, the first one's sound is made too (AAC, MP3, Opus).
        """
        found: list[Any] = []
        for index in self._indices(start_ns - _RUN_UP_NS, end_ns):
            stretch = self._stretch(index)
            begin_ns, done_ns = np.asarray(stretch.packets_ns).reshape(-1, 2).T
            # All are looked at, in one go: their times need not rise.
            found += [stretch.packets[at] for at in np.flatnonzero((begin_ns < end_ns) & (done_ns > start_ns))]
        return found

    def spans(self) -> Iterator[tuple[int, int]]:
        """(start_ns, end_ns) of everything that sounds, in pieces, in order. Raises Rejected: too-long, encrypted."""
        for index in itertools.count():
            stretch = self._stretch(index)
            for block in stretch.blocks:
                yield block.start_ns, block.end_ns
            if stretch.ended:
                return
            if (index + 1) * STRETCH_NS > MAX_DURATION_NS:
                raise Rejected("decode", "too-long", f"sound goes on after {MAX_DURATION_NS // NS_PER_S} s")

    def listening(self, start_ns: int, end_ns: int) -> Iterator[tuple[int, int]]:
        """Where the blocks to listen to lie that overlap [start_ns, end_ns): each ends at a quiet moment, amid no word.

        Borders lie up to 20 s before each stretch's end and a minute after it, the same wherever reading begins. The
        short block is there for clips that reach over the end of a span: they cost a minute of listening, not ten.
        """
        first_ns = self.first_ns
        # Two borders a stretch; those before the stretch ahead of the start lie before it.
        for number in itertools.count(max(0, 2 * ((start_ns - self._origin_ns) // STRETCH_NS) - 2)):
            begin_ns = self._border(number)
            if first_ns is None or begin_ns >= min(end_ns, self._end_ns):
                return
            begin_ns, until_ns = max(begin_ns, first_ns), min(self._border(number + 1), self._end_ns)
            if until_ns > max(start_ns, begin_ns):
                yield begin_ns, until_ns

    def block(self, begin_ns: int, until_ns: int) -> SoundBlock | None:
        """The sound of such a block, without the silence before and after; None if there is no sound."""
        heard = self.read(begin_ns, until_ns)
        if not heard.present.any():
            return None
        first = int(heard.present.argmax())
        last = len(heard.present) - int(heard.present[::-1].argmax())
        return SoundBlock(begin_ns + first * NS_PER_S // SAMPLE_RATE_HZ, heard.samples[first:last])

    def _border(self, number: int) -> int:
        """When the block with this number begins."""
        if not number:
            return -(2**62)
        stretches, short = divmod(number + 1, 2)
        nominal_ns = self._origin_ns + stretches * STRETCH_NS + short * _OVERRUN_NS
        if self._index(nominal_ns - _SEARCH_NS) > self._last:
            return nominal_ns
        if nominal_ns not in self._quiet_ns:
            tail = self.read(nominal_ns - _SEARCH_NS, nominal_ns).samples
            width = SAMPLE_RATE_HZ // 5
            windows = tail[: len(tail) // width * width].reshape(-1, width).astype(np.float32)
            quietest = int(np.square(windows).mean(1).argmin()) * width + width // 2
            self._quiet_ns[nominal_ns] = nominal_ns - _SEARCH_NS + quietest * NS_PER_S // SAMPLE_RATE_HZ
        return self._quiet_ns[nominal_ns]

    def _index(self, time_ns: int) -> int:
        return max(0, (time_ns - self._origin_ns) // STRETCH_NS)

    def _indices(self, start_ns: int, end_ns: int) -> range:
        return range(self._index(start_ns), min(self._index(end_ns - 1), self._last) + 1)

    def _stretch(self, index: int) -> _Stretch:
        with self._lock:
            if index not in self._held and self._track is not None and index <= self._last:
                for at, stretch in self._decoded(index):
                    self._held[at] = stretch
                    if stretch.ended:
                        self._last = at
                        self._end_ns = self._origin_ns + (at + 1) * STRETCH_NS
                        if stretch.blocks:
                            self._end_ns = stretch.blocks[-1].end_ns
                    if stretch.ended or at == index:
                        break
                while len(self._held) > _HELD:
                    del self._held[next(iter(self._held))]
            return self._held.get(index) or _Stretch(ended=True)

    def _decoded(self, index: int) -> Iterator[tuple[int, _Stretch]]:
        """Stretches up to the one with this index, and from there on, decoded as they are asked for."""
        assert self._track is not None
        if self._restarts:
            from_ns = self._origin_ns + index * STRETCH_NS - _RUN_UP_NS if index else None
            events = _hear(self._path, self._track, from_ns, self._keep_packets)
            return enumerate(_stretches(events, self._origin_ns, index), index)
        if self._reel is None or self._reel[0] > index:
            events = _hear(self._path, self._track, None, self._keep_packets)
            self._reel = 0, _stretches(events, self._origin_ns, 0)
        return self._unreel()

    def _unreel(self) -> Iterator[tuple[int, _Stretch]]:
        while self._reel is not None:
            at, reel = self._reel
            stretch = next(reel, None)
            if stretch is None:
                return
            self._reel = at + 1, reel
            yield at, stretch


def _stretches(events: Iterator[Any], origin_ns: int, index: int) -> Iterator[_Stretch]:
    """Sorts what was heard into stretches, from the one with this index on; the last one is marked."""
    first = sample_at(origin_ns + index * STRETCH_NS) if index else -(2**62)
    end = sample_at(origin_ns + (index + 1) * STRETCH_NS)
    stretch = _Stretch()
    for event in events:
        while event is not None:
            if event.at >= end:
                yield stretch
                index, first, stretch = index + 1, end, _Stretch()
                end = sample_at(origin_ns + (index + 1) * STRETCH_NS)
                continue
            event = _keep(stretch, event, first, end)  # noqa: PLW2901 - what reaches beyond the end
    stretch.ended = True
    yield stretch


def _keep(stretch: _Stretch, event: Any, first: int, end: int) -> Sound | None:
    """Puts what lies in [first, end) into the stretch and returns the sound after it."""
    if isinstance(event, Sound):
        last = event.at + len(event.samples)
        if last > first:
            start = max(event.at, first)
            stretch.blocks.append(Sound(start, event.samples[start - event.at : end - event.at]))
        return Sound(end, event.samples[end - event.at :]) if last > end else None
    if event.at >= first:
        stretch.keep(event)
    return None


@dataclass(frozen=True, slots=True)
class _Coded:
    at: int
    start_ns: int
    end_ns: int
    """Of the sound of this packet and of one more as long: from the one before, the first one's sound is made too."""
    packet: Any


@dataclass(frozen=True, slots=True)
class _Hurt:
    at: int
    damage: Damage


def _hear(path: Media, track: AudioTrack, from_ns: int | None, keep_packets: bool) -> Iterator[Any]:
    """Everything one pass over the sound gives: Sound, Mend, _Hurt, _Coded; from a time on, or from the beginning.

    The first packet decoded is the first at or after that time, wherever seeking lands.
    """
    import av.error

    heard = 0
    with open_media(path) as container:
        stream: Any = only(container, track.index)
        from_pts = None
        if from_ns is not None:
            from_pts = from_ns * track.time_base.denominator // (track.time_base.numerator * NS_PER_S)
            if not _seek(container, stream, from_pts):
                yield from _hear_beyond(path, track, from_ns, keep_packets)
                return
        tape = Tape(stream.time_base)
        pts: int = stream.start_time or 0
        for packet in demux(container, stream):
            if isinstance(packet, Damage):
                yield _Hurt(sample_at(packet.at_ns), packet)
                break
            pts = pts if packet.pts is None else packet.pts
            if from_pts is not None and packet.size and pts < from_pts:
                continue
            if packet.size and packet.has_sidedata("encryption_info"):
                raise Rejected("decode", "encrypted", "the audio stream is encrypted")
            at_ns = to_ns(pts, track.time_base)
            if keep_packets and packet.size and packet.pts is not None:
                lasts_ns = to_ns(packet.duration or 1, track.time_base)
                yield _Coded(sample_at(at_ns), at_ns, at_ns + 2 * lasts_ns, packet)
            try:
                frames: list[Any] = packet.decode()
                laid = [item for frame in frames for item in tape.frame(frame)]
            except av.error.EOFError:
                break
            except (av.error.FFmpegError, MemoryError, ValueError) as error:
                if heard:  # streams cut from a broadcast begin amid a packet: that is a late start, no damage
                    yield _Hurt(sample_at(at_ns), Damage("audio", at_ns, say(error)))
                continue
            heard += len(laid)
            yield from laid
        yield from tape.finish()


def _hear_beyond(path: Media, track: AudioTrack, from_ns: int, keep_packets: bool) -> Iterator[Any]:
    """As `_hear` from a time on, for a file that cannot be entered there: all of it is decoded."""
    first = sample_at(from_ns)
    return (event for event in _hear(path, track, None, keep_packets) if event.at >= first)


def _seek(container: Any, stream: Any, pts: int) -> bool:
    """Moves to a packet before a time. False if the file leads elsewhere."""
    import av.error

    try:
        container.seek(pts, stream=stream)
        first = next((packet for packet in demux(container, stream) if getattr(packet, "pts", None) is not None), None)
        if first is None or first.pts > pts:
            return False
        container.seek(pts, stream=stream)
    except av.error.FFmpegError:
        return False
    return True
