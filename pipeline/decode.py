"""The pictures of a file in presentation time, each decoded once, from its beginning or from the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile
from typing import TYPE_CHECKING, Any, Literal

from omniloom.modalities.sample import NS_PER_S, Rejected, to_ns
from omniloom.pipeline.foresight import Foresight, Wants
from omniloom.pipeline.probe import MAX_PIXELS, Media, VideoInfo, open_media, say

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

MAX_DURATION_NS = 24 * 3600 * NS_PER_S
ENTERABLE = frozenset({"mov", "matroska", "webm", "mpegts", "flv"})
"""Containers whose packets carry presentation times, and in which one can begin anywhere."""
MAX_STILL_NS = 60 * NS_PER_S
"""A longer hole between two pictures is a jump of the clock, unless the container says the picture lasts that long."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A video frame, on screen during [start_ns, end_ns). Not yet upright: see `pipeline/picture.py`."""

    frame: av.VideoFrame | None
    """None: not decoded, since nobody wanted it."""
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Something at about this time could not be decoded, or was flagged as corrupt by the decoder."""

    track: Literal["video", "audio"]
    at_ns: int
    detail: str


def pictures(
    path: Media,
    info: VideoInfo,
    *,
    from_ns: int | None = None,
    before: int = 0,
    wants: Wants | None = None,
    packets: Callable[[av.Packet], None] | None = None,
) -> Iterator[Picture | Damage]:
    """The file's pictures, in presentation order, without a gap: each lasts until the next one.

    With `from_ns` decoding begins at a keyframe, at least a second and `before` pictures ahead of the one on screen at
    that time, where the file has as many: from there on the pictures are those that decoding from the start gives.

    With `wants`, pictures that it refuses are left undecoded where no other picture is made from them, which saves
    about half of the work on usual H.264. `packets` is shown every coded packet before its picture comes.

    Raises Rejected("decode", reason): encrypted, no-video-frames, too-long, too-large-picture.
    """
    import av.error

    track = info.video
    assert track is not None
    landing = None if from_ns is None else _landing(path, info, from_ns, before)
    with open_media(path) as container:
        stream = only(container, track.index)
        if landing is not None:
            container.seek(landing.seek_pts, stream=stream)
        first_pts = None if landing is None else landing.key_pts
        counts = "avi" in info.format
        screen = _Screen(track.frame_ns, counts, None if first_pts is None else to_ns(first_pts, stream.time_base))
        foresight = None if wants is None or counts else Foresight(wants, stream.time_base, first_pts)
        coded = demux(container, stream)
        if first_pts is not None:
            coded = dropwhile(lambda packet: getattr(packet, "pts", first_pts) != first_pts, coded)
        at_ns = track.start_ns or 0
        errors = 0
        for packet, wanted in foresight.packets(coded) if foresight else ((packet, True) for packet in coded):
            if isinstance(packet, Damage):
                yield packet
                break
            if packet.pts is not None:
                at_ns = to_ns(packet.pts, stream.time_base)
            if not packet.size and packet.dts is not None:
                continue  # "the picture before once more", in AVI and Theora; to the decoder it would mean the end
            screen.packet(packet.dts)
            if packet.size and packet.has_sidedata("encryption_info"):
                raise Rejected("decode", "encrypted", "the video stream is encrypted")
            if packets is not None and packet.size:
                packets(packet)
            if foresight is not None:
                stream.codec_context.skip_frame = "DEFAULT" if wanted else "NONREF"
            try:
                frames: list[av.VideoFrame] = packet.decode()
            except av.error.EOFError:
                break
            except (av.error.FFmpegError, MemoryError) as error:
                errors += 1
                yield Damage("video", at_ns, say(error))
                continue
            for frame in frames:
                if frame.width * frame.height > MAX_PIXELS:
                    raise Rejected("decode", "too-large-picture", f"a frame of {frame.width}x{frame.height}")
                if foresight is not None:
                    if frame.interlaced_frame:  # its fields are told apart by its neighbours: all are wanted
                        foresight.give_up()
                    for pts in foresight.skipped_before(frame.pts):
                        yield from screen.skipped(to_ns(pts, stream.time_base))
                yield from screen.frame(frame)
        for pts in foresight.skipped_before(None) if foresight else ():
            yield from screen.skipped(to_ns(pts, stream.time_base))
        yield from screen.finish()
        if not screen.decoded:
            raise Rejected(
                "decode", "no-video-frames", f"{errors} packets failed, {screen.corrupt} frames were corrupt"
            )


def first_picture(path: Media, info: VideoInfo) -> Picture | None:
    """The first picture of the file, if one can be decoded. Raises Rejected as `pictures` does."""
    return next((item for item in pictures(path, info) if isinstance(item, Picture)), None)


class _Screen:
    """Turns decoded frames into pictures with a time on screen: each lasts until the next one.

    `counts`: the container (AVI) numbers packets as they are stored and knows neither presentation times nor durations.
    Then the numbers are taken in the order in which frames leave the decoder, less the decoder's delay.
    """

    def __init__(self, frame_ns: int, counts: bool, from_ns: int | None) -> None:
        self._gap_ns = frame_ns
        self._counts = counts
        self._from_ns = from_ns
        """Frames before it are left over from pictures that were not decoded."""
        self._first_dts: int | None = None
        self._delay: int | None = None
        self._holds = False
        self._held: av.VideoFrame | None = None
        self._held_ns = self._held_for_ns = self._first_ns = 0
        self._shown = self._backwards = 0
        self.decoded = 0
        self.corrupt = 0

    def packet(self, dts: int | None) -> None:
        if self._first_dts is None:
            self._first_dts = dts

    def frame(self, frame: av.VideoFrame) -> Iterator[Picture | Damage]:
        base = frame.time_base or Fraction(1, NS_PER_S)
        ticks = frame.pts if frame.pts is not None else frame.dts
        if self._counts:
            if frame.dts is not None and self._delay is None:
                self._delay = frame.dts - (self._first_dts or 0)
            ticks = frame.dts - (self._delay or 0) if frame.dts is not None else None
        # Elementary streams carry no times at all: then frames follow each other at the stream's rate.
        start_ns = to_ns(ticks, base) if ticks is not None else self._held_ns + (self._gap_ns if self._shown else 0)
        if self._from_ns is not None and start_ns < self._from_ns:
            return
        if frame.is_corrupt:
            self.corrupt += 1
            yield Damage("video", start_ns, "the decoder flags this frame as corrupt")
            return
        self.decoded += 1
        yield from self._show(frame, start_ns, to_ns(frame.duration, base) if frame.duration else 0)

    def skipped(self, start_ns: int) -> Iterator[Picture | Damage]:
        """A picture that was left undecoded."""
        yield from self._show(None, start_ns, 0)

    def finish(self) -> Iterator[Picture]:
        if self._holds:
            yield Picture(self._held, self._held_ns, self._held_ns + min(self._held_for_ns, MAX_STILL_NS))
            self._holds = False

    def _show(self, frame: av.VideoFrame | None, start_ns: int, lasts_ns: int) -> Iterator[Picture | Damage]:
        if not self._holds:
            self._first_ns = start_ns
        else:
            gap_ns = start_ns - self._held_ns
            if gap_ns <= 0:
                self._backwards += 1
                if self._backwards == 3:  # one or two are a muxer's slip, more are a clock that was set back
                    yield Damage("video", self._held_ns, "timestamps run backwards")
                return
            jumps = gap_ns > MAX_STILL_NS and 2 * gap_ns > 3 * self._held_for_ns
            yield Picture(self._held, self._held_ns, self._held_ns + (self._held_for_ns if jumps else gap_ns))
            if not jumps:  # where packets are counted a longer gap is a repeated picture
                self._gap_ns = min(gap_ns, self._gap_ns) if self._counts and self._shown > 1 else gap_ns
        if start_ns - self._first_ns > MAX_DURATION_NS:
            raise Rejected(
                "decode", "too-long", f"a picture {(start_ns - self._first_ns) // NS_PER_S} s after the first"
            )
        self._held, self._held_ns, self._holds = frame, start_ns, True
        self._held_for_ns = lasts_ns if lasts_ns and not self._counts else self._gap_ns
        self._backwards = 0
        self._shown += 1


@dataclass(frozen=True, slots=True)
class _Landing:
    """Where to begin in the middle, in ticks of the stream: where to seek to, and the keyframe found there."""

    seek_pts: int
    key_pts: int


def _landing(path: Media, info: VideoInfo, from_ns: int, before: int) -> _Landing | None:
    """The latest place found from which the pictures from `from_ns` on decode exactly; None: the file's beginning."""
    import av.error

    track = info.video
    assert track is not None
    ahead_ns = NS_PER_S
    latest_pts = _ticks(from_ns - ahead_ns, track.time_base)
    while from_ns - ahead_ns > (track.start_ns or 0):
        with open_media(path) as container:
            stream = only(container, track.index)
            seek_pts = _ticks(from_ns - ahead_ns, track.time_base)
            try:
                container.seek(seek_pts, stream=stream)
                key_pts, count = _look_ahead(container, stream, from_ns)
            except av.error.FFmpegError:
                return None
            if key_pts is not None and key_pts <= latest_pts and count >= before:
                return _Landing(seek_pts, key_pts)
        ahead_ns *= 4
    return None


def _ticks(time_ns: int, time_base: Fraction) -> int:
    return time_ns * time_base.denominator // (time_base.numerator * NS_PER_S)


def _look_ahead(container: InputContainer, stream: Any, until_ns: int) -> tuple[int | None, int]:
    """(time of the keyframe that decoding here begins with, number of pictures from there until a time).

    None where the first picture to come out is another one: streams with gradual refresh need a longer run-up.
    """
    key_pts: int | None = None
    first: Any = None
    count = 0
    for packet in demux(container, stream):
        pts = getattr(packet, "pts", None)
        if pts is None:
            break
        if key_pts is None:
            if not packet.is_keyframe:
                continue  # MPEG-TS has no index: one lands amid a group of pictures
            key_pts = pts
        if first is None:
            first = next((frame for frame in packet.decode() if frame.pts is None or frame.pts >= key_pts), None)
        if key_pts <= pts and not packet.is_discard and to_ns(pts, stream.time_base) < until_ns:
            count += 1
        elif first is not None and to_ns(packet.dts if packet.dts is not None else pts, stream.time_base) >= until_ns:
            break
    return (key_pts if first is not None and first.pts == key_pts and not first.is_corrupt else None), count


def demux(container: InputContainer, stream: Any) -> Iterator[Any]:
    """Packets of the stream, then at most one Damage if the file breaks off."""
    import av.error

    last = 0
    try:
        for packet in container.demux(stream):
            last = last if packet.pts is None else packet.pts
            yield packet
    except (av.error.FFmpegError, OSError) as error:
        yield Damage(stream.type, to_ns(last, stream.time_base), say(error))


def only(container: InputContainer, index: int) -> Any:
    """The stream, ready to decode on one thread; the demuxer skips the others.

    One thread, because slice threads hide damage and make pixels depend on their number; workers run side by side.
    """
    from av.stream import Discard

    for stream in container.streams:
        if stream.index != index:
            stream.discard = Discard.all
    chosen: Any = container.streams[index]
    chosen.codec_context.thread_count = 1
    chosen.codec_context.thread_type = "NONE"
    return chosen
