"""The one place that decodes media: pictures and 16 kHz sound of a file, in presentation time, once through."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from omniloom.modalities.base import SoundBlock
from omniloom.modalities.sample import NS_PER_S, Rejected
from omniloom.pipeline.probe import MAX_PIXELS, VideoInfo, open_media, say, to_ns

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

SAMPLE_RATE_HZ = 16_000
MAX_DURATION_NS = 24 * 3600 * NS_PER_S
MAX_STILL_NS = 60 * NS_PER_S
"""A longer hole between two pictures is a jump of the clock, unless the container says the picture lasts that long."""
MAX_CUES = 100_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded video frame, on screen during [start_ns, end_ns). Not yet upright: see `pipeline/picture.py`."""

    frame: av.VideoFrame
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Sound:
    """A block of mono sound: int16 (N,). Sample i of it is heard at (first + i) / 16000 s of presentation time."""

    first: int
    samples: np.ndarray

    @property
    def start_ns(self) -> int:
        return self.first * NS_PER_S // SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Damage:
    """Something at about this time could not be decoded, or was flagged as corrupt by the decoder."""

    track: Literal["video", "audio"]
    at_ns: int
    detail: str


@dataclass(frozen=True, slots=True)
class TimedText:
    """A line of a subtitle stream, in presentation time."""

    start_ns: int
    end_ns: int
    text: str


def sample_at(time_ns: int) -> int:
    """Index on the 16 kHz grid of presentation time of the sample nearest to a time."""
    return (2 * time_ns * SAMPLE_RATE_HZ + NS_PER_S) // (2 * NS_PER_S)


def decode(path: str, info: VideoInfo, *, audio: bool = True) -> Iterator[Picture | Sound | Damage]:
    """Pictures and sound of the file, each once, in presentation order, memory bounded whatever the length.

    Every sound that begins before a picture leaves the screen comes before that picture. Sound blocks do not overlap;
    where there is none there is silence (the stream starts late, a packet is missing), and slow drift between a
    stream's timestamps and its sample count is taken out by the timestamps. Pictures and sound are demuxed separately,
    so a file whose streams are not interleaved needs no more memory than any other.

    Raises Rejected("decode", reason): encrypted, no-video-frames (no-audio-frames for a sound file), too-long,
    too-large-picture.
    """
    sounds = _sounds(path, info) if audio and info.audio is not None else iter(())
    if info.video is None:
        yield from sounds
        return
    pending = next(sounds, None)
    for picture in _pictures(path, info):
        if isinstance(picture, Picture):
            while pending is not None and _time(pending) < picture.end_ns:
                yield pending
                pending = next(sounds, None)
        yield picture


def decode_sound(path: str, info: VideoInfo) -> Iterator[SoundBlock]:
    """Only the sound of a file, as `decode` gives it, its pictures untouched. Raises Rejected as `decode` does."""
    if info.audio is not None:
        for item in _sounds(path, info):
            if isinstance(item, Sound):
                yield SoundBlock(item.start_ns, item.samples)


def read_cues(path: str, info: VideoInfo) -> list[TimedText]:
    """Lines of the file's first text subtitle stream, sorted by start; none if it has none or it cannot be read."""
    import av.error

    if info.subtitle_index is None:
        return []
    cues: list[TimedText] = []
    with open_media(path) as container:
        stream: Any = _only(container, info.subtitle_index)
        try:
            for packet in container.demux(stream):
                if not packet.size or packet.pts is None:
                    continue
                subtitle = stream.decode2(packet)
                lines = [_plain(rect) for rect in subtitle.rects] if subtitle is not None else []
                text = " ".join(line for line in lines if line)
                start_ns = to_ns(packet.pts, stream.time_base)
                if text:
                    cues.append(TimedText(start_ns, start_ns + to_ns(packet.duration or 0, stream.time_base), text))
                if len(cues) >= MAX_CUES:
                    break
        except (av.error.FFmpegError, UnicodeDecodeError):
            pass  # what was read so far is good; captions are extra
    return sorted(cues, key=lambda cue: cue.start_ns)


def _pictures(path: str, info: VideoInfo) -> Iterator[Picture | Damage]:
    import av.error

    track = info.video
    assert track is not None
    with open_media(path) as container:
        stream: Any = _only(container, track.index)
        clock = _Clock(track.frame_ns, counts="avi" in info.format)
        at_ns = track.start_ns or 0
        errors = 0
        for packet in _packets(container, stream):
            if isinstance(packet, Damage):
                yield packet
                break
            if packet.pts is not None:
                at_ns = to_ns(packet.pts, stream.time_base)
            if not packet.size and packet.dts is not None:
                continue  # "the picture before once more", in AVI and Theora; to the decoder it would mean the end
            clock.packet(packet.dts)
            if packet.size and packet.has_sidedata("encryption_info"):
                raise Rejected("decode", "encrypted", "the video stream is encrypted")
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
                yield from clock.frame(frame)
        yield from clock.finish()
        if not clock.shown:
            raise Rejected("decode", "no-video-frames", f"{errors} packets failed, {clock.corrupt} frames were corrupt")


class _Clock:
    """Turns decoded frames into pictures with a time on screen: each lasts until the next one.

    `counts`: the container (AVI) numbers packets as they are stored and knows neither presentation times nor durations.
    Then the numbers are taken in the order in which frames leave the decoder, less the decoder's delay.
    """

    def __init__(self, frame_ns: int, counts: bool) -> None:
        self._gap_ns = frame_ns
        self._counts = counts
        self._first_dts: int | None = None
        self._delay: int | None = None
        self._held: av.VideoFrame | None = None
        self._held_ns = self._held_for_ns = self._first_ns = 0
        self._backwards = 0
        self.shown = 0
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
        start_ns = to_ns(ticks, base) if ticks is not None else self._held_ns + (self._gap_ns if self.shown else 0)
        if frame.is_corrupt:
            self.corrupt += 1
            yield Damage("video", start_ns, "the decoder flags this frame as corrupt")
            return
        if self._held is None:
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
                self._gap_ns = min(gap_ns, self._gap_ns) if self._counts and self.shown > 1 else gap_ns
        if start_ns - self._first_ns > MAX_DURATION_NS:
            raise Rejected(
                "decode", "too-long", f"a picture {(start_ns - self._first_ns) // NS_PER_S} s after the first"
            )
        lasts_ns = to_ns(frame.duration, base) if frame.duration and not self._counts else 0
        self._held, self._held_ns, self._held_for_ns = frame, start_ns, lasts_ns or self._gap_ns
        self._backwards = 0
        self.shown += 1

    def finish(self) -> Iterator[Picture]:
        if self._held is not None:
            yield Picture(self._held, self._held_ns, self._held_ns + min(self._held_for_ns, MAX_STILL_NS))
            self._held = None


def _sounds(path: str, info: VideoInfo) -> Iterator[Sound | Damage]:
    import av.error

    track = info.audio
    assert track is not None
    heard = 0
    with open_media(path) as container:
        stream: Any = _only(container, track.index)
        tape = _Tape(stream.time_base)
        pts: int = stream.start_time or 0
        for packet in _packets(container, stream):
            if isinstance(packet, Damage):
                yield packet
                break
            pts = pts if packet.pts is None else packet.pts
            if packet.size and packet.has_sidedata("encryption_info"):
                raise Rejected("decode", "encrypted", "the audio stream is encrypted")
            try:
                frames: list[av.AudioFrame] = packet.decode()
                blocks = [block for frame in frames for block in tape.frame(frame)]
            except av.error.EOFError:
                break
            except (av.error.FFmpegError, MemoryError, ValueError) as error:
                if heard:  # streams cut from a broadcast begin amid a packet: that is a late start, no damage
                    yield Damage("audio", to_ns(pts, stream.time_base), say(error))
                continue
            heard += len(blocks)
            yield from blocks
        rest = list(tape.finish())
        heard += len(rest)
        yield from rest
    if not heard and info.video is None:
        raise Rejected("decode", "no-audio-frames", "nothing in the file could be decoded")


class _Tape:
    """Lays a stream's decoded audio on the 16 kHz grid of presentation time."""

    def __init__(self, time_base: Fraction) -> None:
        # Plain numbers: a Fraction an audio frame would cost as much as decoding it.
        self._samples_per_tick = float(time_base * SAMPLE_RATE_HZ)
        self._resampler: Any = None
        self._shape: tuple[Any, ...] = ()
        self._next = 0
        """Grid position of the next resampled sample of this run of contiguous frames."""
        self._written: int | None = None
        """Grid position up to which sound was given out: nothing is laid over it."""
        self._run_start = 0.0
        self._run_taken = 0
        self._drift = 0.0
        self._owed = 0

    def frame(self, frame: av.AudioFrame) -> Iterator[Sound]:
        if not frame.samples:
            return
        rate_hz = frame.sample_rate
        shape = (frame.format.name, frame.layout.name, rate_hz)
        expected = self._run_start + self._run_taken * SAMPLE_RATE_HZ / rate_hz
        actual = expected if frame.pts is None else frame.pts * self._samples_per_tick
        lasts = frame.samples / rate_hz * SAMPLE_RATE_HZ
        # A lost packet or a jump starts a new run, later or earlier; less than that is jitter or drift.
        jumps = abs(actual - expected) > max(0.010 * SAMPLE_RATE_HZ, 0.75 * lasts)
        if self._resampler is None or shape != self._shape or jumps:
            yield from self.finish()
            self._begin(shape, actual)
        else:
            # Millisecond timestamps jitter by half of one; only what stays is drift, taken out a little at a time.
            self._drift += (actual - expected - self._drift) / 16
            if abs(self._drift) > 0.0008 * SAMPLE_RATE_HZ:
                step = (
                    round(self._drift) if abs(self._drift) < lasts / 100 else round(np.sign(self._drift) * lasts / 100)
                )
                self._owed += step
                self._run_start += step
                self._drift -= step
        self._run_taken += frame.samples
        frame.pts = None  # the resampler is to count, not to fill: that is done here
        resampler: Any = self._resampler
        for out in resampler.resample(frame):
            yield from self._lay(out.to_ndarray()[0])

    def finish(self) -> Iterator[Sound]:
        if self._resampler is not None:
            for out in self._resampler.resample(None):
                if out is not None and out.samples:
                    yield from self._lay(out.to_ndarray()[0])
            self._resampler = None

    def _begin(self, shape: tuple[Any, ...], position: float) -> None:
        from av.audio.resampler import AudioResampler

        self._resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        self._shape = shape
        self._run_start, self._run_taken, self._drift, self._owed = position, 0, 0.0, 0
        self._next = round(position)

    def _lay(self, samples: np.ndarray) -> Iterator[Sound]:
        count = len(samples)
        if self._owed and count > 2 * abs(self._owed):
            length = count + self._owed
            at = np.arange(length) * ((count - 1) / (length - 1))
            samples = np.rint(np.interp(at, np.arange(count), samples)).astype(np.int16)
            self._owed = 0
        first = self._next
        self._next += len(samples)
        if self._written is not None and first < self._written:
            samples = samples[self._written - first :]
            first = self._written
        if len(samples):
            self._written = first + len(samples)
            yield Sound(first, samples)


def _packets(container: InputContainer, stream: Any) -> Iterator[Any]:
    """Packets of the stream, then at most one Damage if the file breaks off."""
    import av.error

    last = 0
    try:
        for packet in container.demux(stream):
            last = last if packet.pts is None else packet.pts
            yield packet
    except (av.error.FFmpegError, OSError) as error:
        yield Damage(stream.type, to_ns(last, stream.time_base), say(error))


def _only(container: InputContainer, index: int) -> Any:
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


def _plain(rect: Any) -> str:
    """The words of one subtitle: without ASS fields and markup."""
    raw = getattr(rect, "dialogue", b"") or getattr(rect, "text", b"")
    text = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else str(raw)
    text = re.sub(r"\{[^}]*\}|<[^>]*>", "", text)
    return " ".join(text.replace("\\N", " ").replace("\\n", " ").replace("\\h", " ").split())


def _time(item: Sound | Damage) -> int:
    return item.start_ns if isinstance(item, Sound) else item.at_ns
