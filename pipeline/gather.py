"""One decode of a source, sorted into clips: sampled frames, sound and what the recorders saw of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from omniloom.modalities.base import AnyRecorder, Ask, Cue, Frames, Waveform
from omniloom.modalities.sample import NS_PER_S, Clip, Drop, Fact, Rejected
from omniloom.pipeline import moments
from omniloom.pipeline.clips import Clipper, Close, Open
from omniloom.pipeline.cuts import Cuts
from omniloom.pipeline.decode import Damage, Picture, first_picture, pictures
from omniloom.pipeline.foresight import Wants
from omniloom.pipeline.interlace import deinterlace
from omniloom.pipeline.listen import Listener
from omniloom.pipeline.packets import PacketShelf, copies, recorders_of, wants_packets
from omniloom.pipeline.picture import Scaler
from omniloom.pipeline.probe import VideoInfo, probe, say
from omniloom.pipeline.sampling import FrameSampler
from omniloom.pipeline.shots import ShotDetector, detector_of
from omniloom.pipeline.sound import Heard, Soundtrack
from omniloom.pipeline.spans import DAWN, DUSK, Span
from omniloom.pipeline.subtitles import read_cues, read_cues_beside
from omniloom.pipeline.tape import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from omniloom.pipeline.recipe import BuildRecipe
    from omniloom.pipeline.sources import Source

AV_TOLERANCE_MS = 40
"""Sound missing from a clip for less than this is not worth a word: few sounds end just with the picture."""
_LUMA_SIZE = (16, 9)
_MAX_WAITING_BYTES = 256 * 1024 * 1024
"""Pictures wait for the detector of cuts as they were decoded, if they fit: 4K ones and TransNetV2's do not."""


@dataclass(slots=True)
class Gathered:
    """What one decode learned about one clip; the recorders are yet to finish."""

    clip: Clip
    time_base: str
    frames: Frames | None
    audio: Waveform | None
    recorders: Mapping[str, AnyRecorder]
    cues: tuple[Cue, ...]
    facts: Mapping[str, Fact]
    heard: Heard | None
    """None for a source without a sound track."""
    listener: Listener | None
    """What models make of the source's sound; None for a picture."""
    luma: tuple[np.ndarray, np.ndarray] | None
    """Times int64 (P,), from the clip's start, and mean brightness float32 (P,) in 0..255 of every picture."""
    tags: Mapping[str, str]
    """What the source's container says of itself."""


@dataclass(slots=True)
class _OpenClip:
    start_ns: int
    sampler: FrameSampler
    recorders: dict[str, AnyRecorder]
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    """By short side: the size of the clip's first frame, which later ones must share."""
    upright: tuple[int, int] = (0, 0)
    """(width, height) of the first picture, as it was coded but upright."""
    luma: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    failure: tuple[str, str] | None = None
    """(reason, detail) of a recorder that cannot go on."""


def gather(source: Source, recipe: BuildRecipe, ask: Ask, span: Span | None = None) -> Iterator[Gathered | Drop]:
    """The source's clips (those that begin in the span) in order, from one decode.

    A source that cannot be read ends in a Drop; media raises nothing.
    """
    import av.error

    try:
        info = probe(source.path, recipe.streams)
        if info.video is None and not recipe.clips.audio_only:
            raise Rejected("probe", "no-video", "only sound: set clips.audio_only to make samples of it")
        long_ns = round(moments.MAX_S * NS_PER_S)
        if recipe.clips.by == "list" and not moments.has_clips(source.row) and (info.duration_ns or 0) > long_ns:
            raise Rejected("clip", "too-long", "over an hour in one clip: the list may state start and end of several")
        with closing(_Gatherer(source, recipe, ask, info, span)) as gatherer:
            yield from gatherer.pictured() if info.video is not None else gatherer.sound_only()
            yield from gatherer.unmet()
    except Rejected as rejected:
        yield Drop(source.path, rejected.stage, rejected.reason, rejected.detail, source.id)
    except (av.error.FFmpegError, OSError, MemoryError, UnicodeDecodeError) as error:
        yield Drop(source.path, "decode", "unreadable", say(error), source.id)


class _Gatherer:
    def __init__(self, source: Source, recipe: BuildRecipe, ask: Ask, info: VideoInfo, span: Span | None) -> None:
        self._source = source
        self._info = info
        self._span = span
        self._soundtrack = Soundtrack(source.path, info, keep_packets=copies(recipe))
        self._listener = Listener(self._soundtrack, recipe, ask)
        self._cues = read_cues(source.path, info)
        cues = self._cues or (read_cues_beside(source.path) if recipe.clips.by == "captions" else [])
        self._intervals = self._listener.intervals(cues, span)
        if recipe.clips.by == "list":
            until_ns = span.end_ns if span else DUSK
            self._intervals = [one for one in moments.intervals(source.row) if one[0] < until_ns]
        self._recipe = recipe
        self._settings = recipe.sections["frames"] if "frames" in recipe.sections else _default_frames()
        track = info.video
        self._frame_ns = track.frame_ns if track else 0
        self._scaler = Scaler(track.pixel_aspect if track else 1.0)
        self._first_picture_ns: int | None = None
        if track is not None and span is not None and span.start_ns != DAWN:
            first = first_picture(source.path, info)
            self._first_picture_ns = first.start_ns if first else None
        self._clipper = self._new_clipper()
        self._detector: ShotDetector | None = None
        self._cuts: Cuts[Picture] | None = None
        if track is not None and recipe.clips.needs_cuts:
            self._detector = detector_of(recipe.clips.detector, ask)
            self._cuts = Cuts(self._detector, round(recipe.clips.margin_s * NS_PER_S))
        self._shrinker = self._scaler
        self._upright_size: tuple[int, int] | None = None
        self._waiting_side = self._side_to_wait_at()
        """Short side to which pictures are shrunk, and made upright, while they wait; None: they wait as decoded."""
        if self._waiting_side is not None:
            self._scaler, self._shrinker = Scaler(), self._scaler
        self._watches = recipe.signals.sync and info.audio is not None
        self._damage: list[Damage] = []
        self._made: list[tuple[int, int]] = []
        """[start_ns, end_ns) of the clips so far, those that were dropped too."""
        self._open: dict[int, _OpenClip] = {}
        self._scaled: dict[Any, Any] = {}
        """Of the picture at hand, by size: made once, however many clips and recorders look on."""
        copying = [wants_packets(recorder) for recorder in self._recorders().values()]
        self._shelf = PacketShelf(source.path, info, self._soundtrack) if any(copying) else None
        self._sees_all = self._watches or not all(copying)

    def pictured(self) -> Iterator[Gathered | Drop]:
        """Clips of a source with pictures."""
        span = self._span
        from_ns, before = None, 0
        if span is not None and span.start_ns != DAWN:
            from_ns = span.start_ns - round(self._recipe.clips.margin_s * NS_PER_S)
            before = (self._detector.reach or 0) + 1 if self._detector else 0
        stream = pictures(
            self._source.path,
            self._info,
            from_ns=from_ns,
            before=before,
            wants=None if self._sees_all or self._cuts else self._foresee(),
            packets=self._shelf.add if self._shelf else None,
        )
        for item in deinterlace(stream):
            if isinstance(item, Damage):
                self._damage.append(item)
                continue
            if self._first_picture_ns is None:
                self._first_picture_ns = item.start_ns
            for settled in self._settle(item):
                yield from self._place(*settled)
            if self._clipper.done:
                return
        for settled in self._cuts.finish() if self._cuts else ():
            yield from self._place(*settled)
        for edge in self._clipper.finish():
            yield self._close(edge, last=True)

    def sound_only(self) -> Iterator[Gathered | Drop]:
        """Clips of a source without pictures: cut where the grid has its borders, over what sounds."""
        heard_ns: int | None = None
        for start_ns, end_ns in self._soundtrack.spans():
            yield from self._place(Picture(None, start_ns if heard_ns is None else heard_ns, end_ns), False, False)
            heard_ns = end_ns
        for edge in self._clipper.finish():
            yield self._close(edge, last=True)

    def unmet(self) -> Iterator[Drop]:
        """A Drop for each clip of the list of which the source has nothing."""
        span = self._span or Span(DAWN, DUSK)
        listed = self._recipe.clips.by == "list" and moments.has_clips(self._source.row)
        for start_ns, end_ns in self._intervals or () if listed else ():
            ours = span.start_ns <= start_ns < span.end_ns
            if ours and not any(first < end_ns and last > start_ns for first, last in self._made):
                detail = f"{start_ns / NS_PER_S:g} to {end_ns / NS_PER_S:g} s are listed, and nothing of them is there"
                clip = Clip(self._source.id, start_ns, end_ns)
                yield Drop(self._source.path, "clip", "not-in-source", detail, self._source.id, clip)

    def close(self) -> None:
        if self._shelf is not None:
            self._shelf.close()

    def _new_clipper(self) -> Clipper:
        info = self._info
        return Clipper(
            self._recipe.clips,
            info.video.declared_end_ns if info.video else info.duration_ns,
            still=info.video is None,
            origin_ns=self._first_picture_ns,
            span=self._span,
            intervals=self._intervals,
        )

    def _foresee(self) -> Wants:
        """Which pictures samplers will want, told from their times alone: nothing else looks at pictures."""
        clipper = self._new_clipper()
        samplers: dict[int, FrameSampler] = {}

        def wants(start_ns: int, end_ns: int) -> bool:
            wanted = False
            for edge in clipper.picture(start_ns, end_ns):
                if isinstance(edge, Open):
                    samplers[edge.start_ns] = self._sampler(edge)
                elif isinstance(edge, Close):
                    del samplers[edge.start_ns]
                else:
                    sampler = samplers[edge.clip_ns]
                    if sampler.wants(edge.start_ns, edge.end_ns):
                        sampler.keep(edge.start_ns, None)
                        wanted = True
            return wanted

        return wants

    def _settle(self, picture: Picture) -> Iterator[tuple[Picture, bool, bool]]:
        """Pictures of which it is certain whether a shot begins with them, or a cut is near."""
        if self._cuts is None or self._detector is None:
            yield picture, False, False
            return
        frame = picture.frame
        assert frame is not None, "where cuts count every picture is decoded"
        thumbnail = self._shrinker.thumbnail(frame, *self._detector.size, format=self._detector.pix_fmt)
        if self._waiting_side is not None:
            self._upright_size = self._shrinker.upright(frame)
            smaller = self._shrinker.yuv(frame, self._shrinker.size(frame, self._waiting_side))
            picture = Picture(smaller, picture.start_ns, picture.end_ns)
        yield from self._cuts.take(picture, picture.start_ns, picture.end_ns, thumbnail)

    def _side_to_wait_at(self) -> int | None:
        """Twice what anybody needs, if as many pictures as wait for the detector would not fit in memory."""
        track = self._info.video
        if track is None or self._detector is None:
            return None
        waiting = 2 * (self._detector.reach or 256)
        if waiting * track.width * track.height * 3 // 2 <= _MAX_WAITING_BYTES:
            return None
        sections = [self._recipe.sections[name] for name in recorders_of(self._recipe)]
        return 2 * max(self._settings.short_side, *(getattr(section, "short_side", 0) for section in sections), 0)

    def _place(self, picture: Picture, cut: bool, near_cut: bool) -> Iterator[Gathered | Drop]:
        self._scaled.clear()
        for edge in self._clipper.picture(picture.start_ns, picture.end_ns, cut, near_cut):
            if isinstance(edge, Open):
                self._open[edge.start_ns] = self._begin(edge)
            elif isinstance(edge, Close):
                yield self._close(edge)
            elif picture.frame is not None:
                self._show(self._open[edge.clip_ns], picture.frame, edge.start_ns, edge.end_ns)
        if self._shelf is not None:
            self._shelf.forget(min(self._open, default=picture.start_ns))

    def _sampler(self, edge: Open) -> FrameSampler:
        settings = self._settings
        return FrameSampler(edge.start_ns, edge.soonest_ns, edge.latest_ns, settings.per_second, settings.at_least)

    def _recorders(self) -> dict[str, AnyRecorder]:
        return recorders_of(self._recipe) if self._info.video else {}

    def _begin(self, edge: Open) -> _OpenClip:
        return _OpenClip(edge.start_ns, self._sampler(edge), self._recorders())

    def _show(self, clip: _OpenClip, frame: Any, start_ns: int, end_ns: int) -> None:
        import av.error

        if not clip.sizes:
            clip.upright = self._upright_size or self._scaler.upright(frame)
        if clip.sampler.wants(start_ns, end_ns):
            clip.sampler.keep(start_ns, self._once(("rgb", self._size(clip, frame, self._settings.short_side)), frame))
        if self._watches:
            clip.luma.append((start_ns - clip.start_ns, self._once(("luma", _LUMA_SIZE), frame)))
        for name, recorder in clip.recorders.items():
            if clip.failure:
                return
            if wants_packets(recorder):
                continue
            size = self._size(clip, frame, self._recipe.sections[name].short_side)
            try:
                recorder.picture(self._once(("yuv", size), frame), start_ns - clip.start_ns)
            except av.error.FFmpegError as error:  # an encoder that cannot take this source's pictures
                clip.failure = "encode-failed", f"{name}: {say(error)}"

    def _once(self, what: tuple[str, tuple[int, int]], frame: Any) -> Any:
        """The picture at hand in a form, made when first asked for."""
        if what not in self._scaled:
            form, size = what
            if form == "luma":
                self._scaled[what] = float(self._scaler.thumbnail(frame, *size, format="gray").mean())
            else:
                self._scaled[what] = self._scaler.rgb(frame, size) if form == "rgb" else self._scaler.yuv(frame, size)
        return self._scaled[what]

    def _size(self, clip: _OpenClip, frame: Any, short_side: int) -> tuple[int, int]:
        if short_side not in clip.sizes:
            clip.sizes[short_side] = self._scaler.size(frame, short_side)
        return clip.sizes[short_side]

    def _close(self, edge: Close, last: bool = False) -> Gathered | Drop:
        opened = self._open.pop(edge.start_ns)
        self._made.append((edge.start_ns, edge.end_ns))
        track = self._info.video
        clip = Clip(self._source.id, edge.start_ns, edge.end_ns)
        heard = self._soundtrack.read(clip.start_ns, clip.end_ns)
        if self._shelf is not None and not opened.failure:
            opened.failure = self._shelf.hand_over(opened.recorders, clip.start_ns, clip.end_ns)
        fault = self._fault(clip, edge, opened, heard, last)
        earliest_ns = min(self._open, default=clip.end_ns)
        self._damage = [damage for damage in self._damage if damage.at_ns >= earliest_ns]
        if fault is not None:
            return fault
        offset_ns = None
        if self._soundtrack.first_ns is not None and self._first_picture_ns is not None:
            offset_ns = self._soundtrack.first_ns - self._first_picture_ns
        cues = tuple(
            Cue((cue.start_ns - clip.start_ns) / NS_PER_S, (cue.end_ns - clip.start_ns) / NS_PER_S, cue.text)
            for cue in self._cues
            if cue.start_ns < clip.end_ns and cue.end_ns > clip.start_ns
        )
        audible = heard.present.any() and not heard.damage
        return Gathered(
            clip=clip,
            time_base=f"{track.time_base.numerator}/{track.time_base.denominator}" if track else "",
            frames=Frames(*opened.sampler.choose(edge.end_ns)) if track else None,
            audio=Waveform(heard.samples, SAMPLE_RATE_HZ) if audible else None,
            recorders=opened.recorders,
            cues=cues,
            facts={
                "duration_ns": clip.duration_ns,
                "audio_offset_ns": offset_ns,
                "av_check": av_check(heard),
                "width": opened.upright[0] if track else None,
                "height": opened.upright[1] if track else None,
            },
            heard=heard if self._info.audio else None,
            listener=self._listener,
            luma=_as_arrays(opened.luma) if self._watches and opened.luma else None,
            tags=self._info.tags,
        )

    def _fault(self, clip: Clip, edge: Close, opened: _OpenClip, heard: Heard, last: bool) -> Drop | None:
        """Why the clip cannot be kept, if so."""
        source, info = self._source, self._info

        def drop(stage: Any, reason: str, detail: str) -> Drop:
            return Drop(source.path, stage, reason, detail, source.id, clip)

        track = info.video
        hurt = [d for d in self._damage if d.track == "video" and clip.start_ns <= d.at_ns < clip.end_ns]
        if last and info.cut_short and track is not None:
            declared_ns = track.declared_end_ns
            if declared_ns is None or clip.end_ns < declared_ns - 2 * track.frame_ns:
                of = f" of {declared_ns / NS_PER_S:.3f} s" if declared_ns is not None else ""
                return drop("decode", "truncated", f"the file breaks off at {clip.end_ns / NS_PER_S:.3f} s{of}")
        if hurt:
            return drop("decode", "damaged-video", f"{len(hurt)} faults, first at {hurt[0].at_ns} ns: {hurt[0].detail}")
        if heard.overlap_ms > max(AV_TOLERANCE_MS, self._frame_ns / 1e6):
            return drop("decode", "sound-overlaps", f"{heard.overlap_ms:.0f} ms of sound claim a time that had sound")
        if edge.too_short:
            return drop("clip", "too-short", f"{clip.duration_ns / NS_PER_S:.3f} s, below {self._recipe.clips.min_s} s")
        if opened.failure:
            return drop("extract", *opened.failure)
        return None


def av_check(heard: Heard) -> str:
    """In a word how sound and picture go together: "ok", or what was missing or mended, in milliseconds."""
    if heard.damage:
        return "audio-damaged"
    present = heard.present
    if not present.any():
        return "no-audio"
    late = int(present.argmax())
    short = int(present[::-1].argmax())
    gaps = len(present) - int(present.sum()) - late - short
    faults = [
        f"audio-{kind}:{count * 1000 // SAMPLE_RATE_HZ}ms"
        for kind, count in (("late", late), ("gaps", gaps), ("short", short))
        if count * 1000 > AV_TOLERANCE_MS * SAMPLE_RATE_HZ
    ]
    if abs(heard.drift_ms) > AV_TOLERANCE_MS:
        faults.append(f"audio-drift:{heard.drift_ms:+.0f}ms")
    return " ".join(faults) or "ok"


def _as_arrays(luma: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    times_ns, means = zip(*luma, strict=True)
    return np.array(times_ns, np.int64), np.array(means, np.float32)


def _default_frames() -> Any:
    from omniloom.modalities import load

    return load("frames").Config()
