"""Writes a clip's movie: pictures at their exact times and the sound beside them, in an MP4 of reproducible bytes.

A movie's time 0 is its clip's start. What lies before it (pictures needed only to decode later ones, the encoder's
priming of the sound) has negative times, which MP4 keeps by edit lists: players begin at 0.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from omniloom.modalities.base import Waveform
from omniloom.modalities.codecs import BITEXACT
from omniloom.modalities.sample import NS_PER_S

if TYPE_CHECKING:
    import av
    import av.audio
    import av.container

TICKS_PER_S = 90_000
"""Of edit lists, and of movies encoded here. FFmpeg's 1000 for edit lists would move sound by half a millisecond."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A packet taken out of its stream; ticks count from the clip's start."""

    data: bytes
    pts: int
    dts: int
    lasts: int
    is_key: bool = True


def open_movie(out: io.BytesIO) -> av.container.OutputContainer:
    """An MP4 muxer that writes to memory."""
    import av

    return av.open(out, "w", format="mp4", options={**BITEXACT, "movie_timescale": str(TICKS_PER_S)})


def packets_of(coded: Iterable[Coded], stream: Any, time_base: Fraction) -> list[av.Packet]:
    """Packets ready to be written to the stream."""
    import av

    packets: list[av.Packet] = []
    for piece in coded:
        packet = av.Packet(piece.data)
        packet.pts, packet.dts, packet.duration = piece.pts, piece.dts, piece.lasts
        packet.time_base, packet.stream, packet.is_keyframe = time_base, stream, piece.is_key
        packets.append(packet)
    return packets


def encoded_sound(container: av.container.OutputContainer, audio: Waveform, name: str) -> list[av.Packet]:
    """A new stream of the movie: the clip's sound, by the encoder of that name ("aac", "libopus")."""
    import av

    stream = cast("av.audio.AudioStream", container.add_stream(name, rate=audio.sample_rate_hz, layout="mono"))
    # FFmpeg's other AAC coder takes 2.5 times as long and is further from the original on speech (29 dB against 38).
    coder = {"aac_coder": "fast"} if name == "aac" else {}
    stream.codec_context.options = {"flags": "+bitexact", **coder}
    stream.codec_context.bit_rate = 48_000
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio.samples)[None, :], format="s16", layout="mono")
    frame.sample_rate, frame.pts = audio.sample_rate_hz, 0
    frame.time_base = Fraction(1, audio.sample_rate_hz)
    return [*stream.encode(frame), *stream.encode(None)]


def write_movie(container: av.container.OutputContainer, out: io.BytesIO, packets: Iterable[av.Packet]) -> bytes:
    """The finished file: all streams' packets, interleaved by their times."""
    per_tick: dict[int, float] = {}

    def when(packet: av.Packet) -> float:
        """In seconds; a Fraction a packet would cost more than writing it."""
        if packet.stream_index not in per_tick:
            per_tick[packet.stream_index] = float(packet.time_base or 1)
        return (packet.dts or 0) * per_tick[packet.stream_index]

    container.mux(sorted(packets, key=when))
    container.close()
    return out.getvalue()


def dts_of(pts: list[int]) -> list[int]:
    """Decoding times of pictures given in decoding order: strictly rising, none after its presentation time.

    The source's own are not used: Matroska has none, AVI nothing else, and cutting leaves holes in them.
    """
    in_order = sorted(pts)
    delay = max(shown - own for shown, own in zip(in_order, pts, strict=True))
    return [shown - delay for shown in in_order]


def end_at(movie: bytes, end_ns: int) -> bytes:
    """The movie with every track shown to a time and no longer; what lies behind it is decoded and not shown.

    FFmpeg's muxer shows all it is given, but a clip copied out of a stream holds pictures from after its end, since
    earlier ones refer to them. It also counts what lies before 0 into the durations that it states.
    """
    data = bytearray(movie)
    end = end_ns * TICKS_PER_S // NS_PER_S
    moov = next(_boxes(data, b"moov", 0, len(data)))
    longest = 0
    for trak in _boxes(data, b"trak", *moov):
        lasts = end
        for edts in _boxes(data, b"edts", *trak):
            lasts = _cut_edits(data, *next(_boxes(data, b"elst", *edts)), end)
        tkhd, _ = next(_boxes(data, b"tkhd", *trak))
        longest = max(longest, _lower(data, tkhd, 20, lasts))
    mvhd, _ = next(_boxes(data, b"mvhd", *moov))
    _lower(data, mvhd, 16, longest)
    return bytes(data)


def lies_on_its_side(movie: bytes) -> bool:
    """Whether the first track's matrix turns its pictures by a quarter."""
    a, b, _, c, d = _matrix(movie)
    return abs(a) + abs(d) < abs(b) + abs(c)


def is_upright(movie: bytes) -> bool:
    """Whether pictures are shown as they are coded. Raises StopIteration or struct.error for what is no MP4."""
    a, b, _, c, d = _matrix(movie)
    return a > 0 and d > 0 and not b and not c


def _matrix(movie: bytes) -> tuple[int, int, int, int, int]:
    """a, b, u, c, d of the first track's display matrix."""
    data = bytearray(movie)
    moov = next(_boxes(data, b"moov", 0, len(data)))
    tkhd, _ = next(_boxes(data, b"tkhd", *next(_boxes(data, b"trak", *moov))))
    return struct.unpack_from(">5i", data, tkhd + (52 if data[tkhd] else 40))


def _cut_edits(data: bytearray, at: int, size: int, end: int) -> int:
    """Ends the edit list at `at` no later than `end`; how long it lasts then."""
    del size
    step, form = (20, ">Q") if data[at] else (12, ">I")
    total = 0
    for entry in range(int.from_bytes(data[at + 4 : at + 8], "big")):
        place = at + 8 + step * entry
        lasts = min(struct.unpack_from(form, data, place)[0], end - total)
        struct.pack_into(form, data, place, lasts)
        total += lasts
    return total


def _lower(data: bytearray, at: int, where: int, limit: int) -> int:
    """Lowers the duration in a header box to the limit; `where` it stands in version 0."""
    place, form = (at + where + 8, ">Q") if data[at] else (at + where, ">I")
    lasts = min(struct.unpack_from(form, data, place)[0], limit)
    struct.pack_into(form, data, place, lasts)
    return lasts


def _boxes(data: bytearray, kind: bytes, at: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of the content of each box of that kind among those in data[at : at + size]."""
    end = at + size
    while at + 8 <= end:
        length, head = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if bytes(data[at + 4 : at + 8]) == kind:
            yield at + head, length - head
        at += max(length, 8)
