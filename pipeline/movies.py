"""Frames and sound of a sample that has only a movie: decoded from it when they are asked for, and held nowhere."""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from omniloom.modalities import mp4
from omniloom.modalities.base import Frames, Waveform, Window
from omniloom.modalities.others import open_media_source
from omniloom.modalities.sample import Clip, Fact
from omniloom.pipeline.decode import only
from omniloom.pipeline.hdr import is_special
from omniloom.pipeline.picture import Scaler
from omniloom.pipeline.probe import StreamsConfig, describe, open_media, probe
from omniloom.pipeline.sampling import sample_times
from omniloom.pipeline.sound import Soundtrack
from omniloom.pipeline.tape import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    import av
    import av.video
    from av.container import InputContainer

IN_MOVIES = ("frames", "audio")
"""Modalities that a movie gives, where a sample lacks the part."""


def frames_in(
    movie: bytes, facts: Mapping[str, Fact], clip: Clip, settings: Any, window: Window | None = None
) -> Frames:
    """Frames on screen at the times at which `settings` (a `frames.Config`) samples the clip.

    facts: of the `video` part. window: only the frames that it shows of those, in its order; less is decoded then.
    Raises ValueError for a damaged movie, `Rejected` for one whose colours cannot be read.
    """
    import av.error

    pts_ns, skip = cast("list[int]", facts["pts_ns"]), cast(int, facts["skip"])
    chosen = pictures_at(facts, clip, settings, window)
    scaler = Scaler(float(cast(float, facts["pixel_aspect"]) or 1.0))
    kept: dict[int, np.ndarray] = {}
    size: tuple[int, int] | None = None

    def keep(index: int, frame: av.VideoFrame) -> None:
        nonlocal size
        size = size or scaler.size(frame, settings.short_side)
        kept[index] = scaler.rgb(frame, size)

    try:
        with _opened(movie, facts) as (container, stream):
            coded = [packet for packet in container.demux(stream) if packet.size]
            shown = sorted(packet.pts for packet in coded if packet.pts is not None and not packet.is_discard)
            # Of our own the facts count the pictures that the edit list hides too: they are decoded, and passed over.
            if skip + len(pts_ns) > len(shown):
                raise ValueError(f"damaged movie: {len(shown)} pictures, its facts state {skip} + {len(pts_ns)}")
            _decode(stream, coded, {shown[skip + index]: index for index in chosen}, keep)
    except (av.error.FFmpegError, IndexError, UnicodeDecodeError, MemoryError) as error:
        raise ValueError(f"damaged movie: {error}") from error
    if len(kept) != len({*chosen}):
        raise ValueError(f"damaged movie: {len(kept)} of {len({*chosen})} sampled pictures could be decoded")
    return Frames(np.stack([kept[index] for index in chosen]), np.array([pts_ns[index] for index in chosen], np.int64))


def pictures_at(facts: Mapping[str, Fact], clip: Clip, settings: Any, window: Window | None = None) -> list[int]:
    """Which of the clip's pictures `frames_in` gives: numbers by presentation time, from the clip's first one."""
    pts_ns = cast("list[int]", facts["pts_ns"])
    times = sample_times(0, clip.duration_ns, settings.per_second, settings.at_least)
    chosen = [max(0, bisect_right(pts_ns, time_ns) - 1) for time_ns in times]
    return chosen if window is None else [chosen[index] for index in window.choose(len(chosen))]


@dataclass(frozen=True, slots=True)
class Coding:
    """Of a movie whose pictures any decoder gives alike, by number: its codec, its size, and its YUV matrix."""

    codec: str
    width: int
    height: int
    matrix: Literal["bt601", "bt709"]


def coding_of(movie: bytes, facts: Mapping[str, Fact]) -> Coding | str:
    """How a plain movie is coded; for others what it is that only `frames_in` knows how to read.

    Plain: an MP4 of 8-bit 4:2:0 in ordinary colours, upright, of square pixels, that shows all of its pictures.
    """
    import av.error

    if facts.get("skip") or facts.get("after"):
        return "movies with pictures from outside the clip"
    if facts.get("pixel_aspect") not in {None, 0.0, 1.0}:
        return "movies with oblong pixels"
    if movie[4:8] != b"ftyp":
        return "movies that are no MP4"
    try:
        if not mp4.is_upright(movie):
            return "movies that are turned"
        with open_media_source(io.BytesIO(movie), "mov") as container:
            if len(container.streams.video) != 1:
                return "files with several movies"
            stream = container.streams.video[0]
            if stream.frames != len(cast("list[int]", facts["pts_ns"])):
                return "movies with more or fewer pictures than stated"
            context: Any = stream.codec_context
            if context.pix_fmt not in {"yuv420p", "yuvj420p"}:
                return "movies other than 8-bit 4:2:0"
            if is_special(context.color_trc, context.color_primaries):
                return "movies of high dynamic range or wide gamut"
            matrix = context.colorspace
            if matrix in {0, 2}:  # players take untold ones by their size, and so does `Scaler`
                matrix = 1 if stream.height >= 720 or stream.width >= 1280 else 5
            if matrix not in {1, 5, 6}:
                return "movies of rare YUV matrices"
            return Coding(context.name, stream.width, stream.height, "bt709" if matrix == 1 else "bt601")
    except (av.error.FFmpegError, StopIteration, struct.error, IndexError, UnicodeDecodeError, MemoryError):
        return "damaged movies"


def sound_in(movie: bytes, facts: Mapping[str, Fact], clip: Clip) -> Waveform | None:
    """The sound of the clip; None for a movie without any. Raises ValueError for a damaged one, `Rejected`."""
    if not facts["has_audio"]:
        return None
    first_ns = _clock(facts, clip)
    heard = Soundtrack(movie, probe(movie)).read(first_ns, first_ns + clip.duration_ns)
    if heard.damage:
        raise ValueError(f"damaged movie: {heard.damage[0].detail}")
    return Waveform(heard.samples, SAMPLE_RATE_HZ) if heard.present.any() else None


def _clock(facts: Mapping[str, Fact], clip: Clip) -> int:
    """What a movie's clock says when the clip starts: of our own 0, other people's are the clip's source."""
    return clip.start_ns if facts.get("stored_as") else 0


@contextmanager
def _opened(movie: bytes, facts: Mapping[str, Fact]) -> Iterator[tuple[InputContainer, av.video.VideoStream]]:
    import av

    if facts.get("stored_as"):
        with open_media(movie) as container:
            track = describe(movie, container, StreamsConfig(audio="none")).video
            if track is None:
                raise ValueError("damaged movie: no video stream")
            yield container, only(container, track.index)
    else:
        options = {"advanced_editlist": "0"}
        with av.open(io.BytesIO(movie), "r", format="mov", options=options) as container:
            yield container, only(container, container.streams.video[0].index)


def _decode(
    stream: av.video.VideoStream,
    coded: Sequence[av.Packet],
    wanted: Mapping[int, int],
    keep: Callable[[int, av.VideoFrame], None],
) -> None:
    """Calls keep(value, frame) for the frame at each wanted time; wanted: time in ticks -> value.

    Decoding enters at keyframes and leaves out what no other picture is made from. Where that gives something else
    than the file's beginning would (streams without real keyframes), it is done again from there.
    """
    for first, times in _entries(coded, sorted(wanted)).items():
        waiting = {time: wanted[time] for time in times}
        _decode_from(stream, coded, first, waiting, keep)
        if first and waiting:
            _decode_from(stream, coded, 0, waiting, keep)


def _entries(coded: Sequence[av.Packet], wanted: Sequence[int]) -> dict[int, list[int]]:
    """The wanted times by the place of the packet at which to enter: the last keyframe shown no later."""
    keys = sorted((packet.pts, at) for at, packet in enumerate(coded) if packet.is_keyframe and packet.pts is not None)
    entries: dict[int, list[int]] = {}
    for time in wanted:
        place = bisect_right(keys, (time, len(coded))) - 1
        entries.setdefault(keys[place][1] if place >= 0 else 0, []).append(time)
    return entries


def _decode_from(
    stream: av.video.VideoStream,
    coded: Sequence[av.Packet],
    first: int,
    waiting: dict[int, int],
    keep: Callable[[int, av.VideoFrame], None],
) -> None:
    """Takes frames out of `waiting` and keeps them; gives up if the first one is not of the packet at `first`."""
    context = stream.codec_context
    key = coded[first].pts
    entered = not first

    def take(frames: Sequence[av.VideoFrame]) -> bool:
        """Whether to go on."""
        nonlocal entered
        for frame in frames:
            if not entered:
                if frame.pts is not None and key is not None and frame.pts < key:
                    continue  # made from pictures before the keyframe
                if frame.pts != key or frame.is_corrupt:
                    return False
                entered = True
            if frame.pts in waiting:
                if frame.is_corrupt:
                    raise ValueError("damaged movie: a sampled picture is corrupt")
                keep(waiting.pop(frame.pts), frame)
        return bool(waiting)

    context.flush_buffers()
    for at, packet in enumerate(coded[first:]):
        context.skip_frame = "DEFAULT" if not at or packet.pts in waiting else "NONREF"
        if not take(context.decode(packet)):
            return
    context.skip_frame = "DEFAULT"
    take(context.decode(None))
