"""Cuts a clip out of a coded stream without decoding it: the movie holds the source's own packets.

Decoding can begin only at a keyframe, so a movie holds pictures from before its clip, and some from after it that
earlier ones refer to. Their number is in the facts, and the file's edit lists hide them from players.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from omniloom.modalities.base import Waveform
from omniloom.modalities.mp4 import (
    TICKS_PER_S,
    Coded,
    dts_of,
    encoded_sound,
    end_at,
    open_movie,
    packets_of,
    write_movie,
)
from omniloom.modalities.sample import NS_PER_S, to_ns

if TYPE_CHECKING:
    import av

_PICTURES = {
    "h264": "h264",
    "hevc": "hevc",
    "av1": "av1",
    "libdav1d": "av1",
    "libaom-av1": "av1",
    "vp9": "vp9",
    "libvpx-vp9": "vp9",
    "mpeg4": "mpeg4",
    "mpeg2video": "mpeg2video",
    "mjpeg": "mjpeg",
}
"""Decoders of what MP4 can hold, and the codec's name."""
_SOUNDS = frozenset({"aac", "mp3", "mp3float", "ac3", "eac3", "flac", "alac", "opus", "libopus"})
_PACKED = re.compile(rb"DivX\d+(?:[Bb]uild|b)\d+p")
"""What DivX writes into streams that hold two pictures in one packet and an empty packet after it."""


class CannotCopyError(ValueError):
    """The stream cannot be cut and stored without re-encoding; the message says why."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A clip's coded pictures and where the clip lies in them; times are from the clip's start."""

    codec: str
    coded: list[Coded]
    time_base: Fraction
    pts_ns: list[int]
    """Of the clip's own pictures, exact."""
    skip: int
    """Pictures that a decoder gives before the first of them."""
    coded_size: tuple[int, int]
    """(width, height) before the pictures are turned upright."""
    pixel_aspect: float
    duration_ns: int
    sound: list[Coded]
    sound_base: Fraction
    templates: Any
    """An MP4 muxer that writes nothing: it keeps the parameters of the streams beyond the closing of their file."""


def cut(
    video: Any,
    pictures: Sequence[av.Packet],
    audio: Any | None,
    sounds: Sequence[av.Packet],
    start_ns: int,
    end_ns: int,
) -> Cut:
    """What the clip [start_ns, end_ns) of an open file needs; the packets are left as they are.

    Raises CannotCopyError.
    """
    name = _PICTURES.get(video.codec_context.name)
    if name is None:
        raise CannotCopyError(f"MP4 cannot hold {video.codec_context.name}")
    coded, base, pts_ns, skip = _cut_pictures(video, pictures, start_ns, end_ns)
    templates = open_movie(io.BytesIO())
    templates.add_stream_from_template(video, opaque=True)
    sound: list[Coded] = []
    sound_base = Fraction(1)
    if audio is not None and audio.codec_context is not None and audio.codec_context.name in _SOUNDS:
        sound_base = Fraction(1, audio.codec_context.sample_rate)
        sound = _cut_sound(audio, sounds, sound_base, start_ns, end_ns)
        if sound:
            templates.add_stream_from_template(audio, opaque=True)
    aspect = float(video.sample_aspect_ratio or 1) or 1.0
    size = (video.codec_context.width, video.codec_context.height)
    return Cut(name, coded, base, pts_ns, skip, size, aspect, end_ns - start_ns, sound, sound_base, templates)


def movie_of(cut: Cut, audio: Waveform | None) -> tuple[bytes, int | None]:
    """The MP4, and when its first sound is heard, in ns from the clip's start; None if it has no sound.

    Without `audio` there is no sound. Where the source's could not be copied, `audio` is encoded as AAC.
    """
    out = io.BytesIO()
    container = open_movie(out)
    templates: list[Any] = list(cut.templates.streams)
    stream = container.add_stream_from_template(templates[0], opaque=True)
    packets = packets_of(cut.coded, stream, cut.time_base)
    offset_ns: int | None = None
    if audio is not None and len(audio.samples):
        if cut.sound:
            stream = container.add_stream_from_template(templates[1], opaque=True)
            packets += packets_of(cut.sound, stream, cut.sound_base)
            offset_ns = to_ns(cut.sound[0].pts, cut.sound_base)
        else:
            packets += encoded_sound(container, audio, "aac")
            offset_ns = 0
    return end_at(write_movie(container, out, packets), cut.duration_ns), offset_ns


def _shift(from_base: Fraction, to_base: Fraction, origin_ns: int = 0) -> Callable[[int], int]:
    """Moves ticks to another time base, counted from an origin, rounded to nearest.

    In whole numbers, for it is called for every packet: arithmetic of Fractions would cost more than muxing.
    """
    up = from_base.numerator * to_base.denominator * NS_PER_S
    down = from_base.denominator * to_base.numerator * NS_PER_S
    origin = origin_ns * from_base.denominator * to_base.denominator
    return lambda ticks: (2 * (ticks * up - origin) + down) // (2 * down)


def _cut_pictures(
    stream: Any, packets: Sequence[av.Packet], start_ns: int, end_ns: int
) -> tuple[list[Coded], Fraction, list[int], int]:
    """Coded pictures in decoding order, their time base, the times in ns of the clip's own, and how many to skip."""
    packets = [packet for packet in packets if packet.size]
    first = next((number for number, packet in enumerate(packets) if packet.is_keyframe), len(packets))
    packets = packets[first:]
    if not packets:
        raise CannotCopyError("no keyframe at or before the clip's start")
    if any(packet.has_sidedata("new_extradata") for packet in packets):
        raise CannotCopyError("the stream changes its parameters midway")
    headers = (stream.codec_context.extradata or b"") + bytes(packets[0])[:1000]
    if stream.codec_context.name == "mpeg4" and _PACKED.search(headers):
        raise CannotCopyError("two pictures are packed in one packet (DivX)")
    base = cast(Fraction, stream.time_base)
    ticks = _presentation(stream, packets)
    # Pictures that come after the keyframe in the stream and before it on screen refer to ones that are not there.
    kept = [number for number in range(len(packets)) if ticks[number] >= ticks[0]]
    if len({ticks[number] for number in kept}) < len(kept):
        raise CannotCopyError("several pictures have one time")
    order = sorted(kept, key=lambda number: ticks[number])
    shown = [number for number in order if not packets[number].is_discard and to_ns(ticks[number], base) < end_ns]
    begun = sum(to_ns(ticks[number], base) <= start_ns for number in shown)
    if not begun:
        raise CannotCopyError("no keyframe at or before the clip's start")
    own = shown[begun - 1 :]
    skip = order.index(own[0])
    if order[skip : skip + len(own)] != own:
        raise CannotCopyError("pictures that the file hides lie between those of the clip")
    kept = kept[: 1 + max(kept.index(number) for number in own)]
    # Coarse ticks (a frame, in AVI; a millisecond) are made finer: a clip may begin between two of them.
    fine = base if base.numerator == 1 and base.denominator >= 10_000 else Fraction(1, TICKS_PER_S)
    shift = _shift(base, fine, start_ns)
    times = {number: shift(ticks[number]) for number in kept}
    times[own[0]] = 0  # a still may have been on screen before the clip begins
    pts = [times[number] for number in kept]
    dts = dts_of(pts)
    end = max(round(Fraction(end_ns - start_ns, NS_PER_S) / fine), max(pts) + 1)
    lasts = [*np.diff(dts).tolist(), 0]
    lasts[pts.index(max(pts))] = end - max(pts)
    lasts[-1] = end - dts[-1]
    coded = [
        Coded(bytes(packets[number]), pts[i], dts[i], lasts[i], packets[number].is_keyframe)
        for i, number in enumerate(kept)
    ]
    return coded, fine, [max(0, to_ns(ticks[number], base) - start_ns) for number in own], skip


def _cut_sound(stream: Any, packets: Sequence[av.Packet], base: Fraction, start_ns: int, end_ns: int) -> list[Coded]:
    """Packets of sound that begin before the clip's end; none if their times make no sense."""
    from_base = cast(Fraction, stream.time_base)
    shift, last = _shift(from_base, base, start_ns), _shift(from_base, base)
    coded: list[Coded] = []
    for packet in packets:
        if not packet.size or packet.pts is None or to_ns(packet.pts, from_base) >= end_ns:
            continue
        at = shift(packet.pts)
        if coded and at <= coded[-1].pts:
            return []
        coded.append(Coded(bytes(packet), at, at, max(1, last(packet.duration or 1))))
    return coded


def _presentation(stream: Any, packets: Sequence[av.Packet]) -> list[int]:
    """Presentation times in ticks, of packets in decoding order."""
    if "avi" in stream.container.format.name:
        return _counted(stream, packets)
    ticks = [packet.pts for packet in packets]
    if None in ticks:
        raise CannotCopyError("packets without a presentation time (fields stored apart, or a broken index)")
    return cast("list[int]", ticks)


def _counted(stream: Any, packets: Sequence[av.Packet]) -> list[int]:
    """AVI numbers packets as they are stored; the n-th picture on screen has the n-th number.

    Which picture is the n-th only a decoder can tell, where pictures are reordered: these packets are decoded again.
    """
    import av

    numbers = [packet.dts for packet in packets]
    if None in numbers:
        raise CannotCopyError("packets without a number")
    slots = sorted(cast("list[int]", numbers))
    if not stream.codec_context.has_b_frames:
        return slots
    decoder: Any = av.CodecContext.create(stream.codec_context.name, "r")
    decoder.extradata = stream.codec_context.extradata
    decoder.thread_count = 1
    shown: list[int] = []
    try:
        for number, packet in enumerate(packets):
            copy = av.Packet(bytes(packet))
            copy.pts = copy.dts = number
            shown += [frame.pts for frame in decoder.decode(copy)]
        shown += [frame.pts for frame in decoder.decode(None)]
    except av.FFmpegError as error:
        raise CannotCopyError(f"a packet cannot be decoded: {error}") from error
    # What cannot be decoded from here on refers to pictures before the keyframe, and is shown before it.
    order = [number for number in range(len(packets)) if number not in set(shown)] + shown
    if len(order) != len(packets):
        raise CannotCopyError("a packet holds several pictures")
    times = [0] * len(packets)
    for slot, number in zip(slots, order, strict=True):
        times[number] = slot
    return times
