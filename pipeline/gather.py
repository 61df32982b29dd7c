"""One decode of a source, sorted into clips: sampled frames, sound and what the recorders saw of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from omniloom.modalities.base import Cue, Frames, Recorder, Waveform, recorder_of
from omniloom.modalities.sample import NS_PER_S, Clip, Drop, Fact, Rejected
from omniloom.pipeline.clips import Clipper, Close, Open
from omniloom.pipeline.decode import SAMPLE_RATE_HZ, Damage, Picture, Sound, decode, read_cues, sample_at
from omniloom.pipeline.picture import Scaler, turn_of
from omniloom.pipeline.probe import VideoInfo, probe, say
from omniloom.pipeline.sampling import FrameSampler
from omniloom.pipeline.shots import THUMBNAIL, HardCuts, ShotDetector

if TYPE_CHECKING:
    from omniloom.pipeline.recipe import BuildRecipe
    from omniloom.pipeline.sources import Source

AV_TOLERANCE_MS = 40
"""Sound missing from a clip for less than this is not worth a word: few sounds end just with the picture."""


@dataclass(slots=True)
class Gathered:
    """What one decode learned about one clip; the recorders are yet to finish."""

    clip: Clip
    time_base: str
    frames: Frames | None
    audio: Waveform | None
    recorders: Mapping[str, Recorder]
    cues: tuple[Cue, ...]
    facts: Mapping[str, Fact]


@dataclass(slots=True)
class _OpenClip:
    start_ns: int
    sampler: FrameSampler
    recorders: dict[str, Recorder]
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    """By short side: the size of the clip's first frame, which later ones must share."""
    failure: str = ""


def gather(source: Source, recipe: BuildRecipe) -> Iterator[Gathered | Drop]:
    """The source's clips in order, decoded once. A source that cannot be read ends in a Drop; nothing is raised."""
    import av.error

    try:
        info = probe(source.path)
        if info.video is None and not recipe.clips.audio_only:
            raise Rejected("probe", "no-video", "only sound: set clips.audio_only to make samples of it")
        yield from _Gatherer(source, recipe, info).run()
    except Rejected as rejected:
        yield Drop(source.path, rejected.stage, rejected.reason, rejected.detail, source.id)
    except (av.error.FFmpegError, OSError, MemoryError, UnicodeDecodeError) as error:
        yield Drop(source.path, "decode", "unreadable", say(error), source.id)


class _Gatherer:
    def __init__(self, source: Source, recipe: BuildRecipe, info: VideoInfo) -> None:
        self._source = source
        self._recipe = recipe
        self._info = info
        self._settings = recipe.sections["frames"] if "frames" in recipe.sections else _default_frames()
        track = info.video
        self._scaler = Scaler(track.pixel_aspect if track else 1.0)
        self._clipper = Clipper(recipe.clips, track.declared_end_ns if track else info.duration_ns, still=track is None)
        self._detector: ShotDetector | None = HardCuts() if track and recipe.clips.by == "shots" else None
        self._waiting: deque[Picture] = deque()
        self._sound = _SoundTrack()
        self._damage: list[Damage] = []
        self._cues = read_cues(source.path, info)
        self._open: _OpenClip | None = None
        self._first_picture_ns: int | None = None
        self._upright_size = (0, 0)

    def run(self) -> Iterator[Gathered | Drop]:
        heard_ns: int | None = None
        for item in decode(self._source.path, self._info):
            if isinstance(item, Damage):
                self._damage.append(item)
            elif isinstance(item, Picture):
                yield from self._picture(item)
            else:
                self._sound.add(item)
                if self._info.video is None:
                    end_ns = (item.first + len(item.samples)) * NS_PER_S // SAMPLE_RATE_HZ
                    yield from self._place(None, item.start_ns if heard_ns is None else heard_ns, end_ns, False)
                    heard_ns = end_ns
        for cut in self._detector.finish() if self._detector else ():
            picture = self._waiting.popleft()
            yield from self._place(picture, picture.start_ns, picture.end_ns, cut)
        for edge in self._clipper.finish():
            yield self._close(edge, last=True)

    def _picture(self, picture: Picture) -> Iterator[Gathered | Drop]:
        if self._first_picture_ns is None:
            self._first_picture_ns = picture.start_ns
            size = (picture.frame.width, picture.frame.height)
            self._upright_size = size[::-1] if turn_of(picture.frame).transpose else size
        if self._detector is None:
            yield from self._place(picture, picture.start_ns, picture.end_ns, False)
            return
        self._waiting.append(picture)
        for cut in self._detector.picture(self._scaler.thumbnail(picture.frame, *THUMBNAIL)):
            settled = self._waiting.popleft()
            yield from self._place(settled, settled.start_ns, settled.end_ns, cut)

    def _place(self, picture: Picture | None, start_ns: int, end_ns: int, cut: bool) -> Iterator[Gathered | Drop]:
        for edge in self._clipper.picture(start_ns, end_ns, cut):
            if isinstance(edge, Open):
                self._open = self._begin(edge)
            elif isinstance(edge, Close):
                yield self._close(edge)
            elif picture is not None:
                self._show(picture, edge.start_ns, edge.end_ns)

    def _begin(self, edge: Open) -> _OpenClip:
        settings = self._settings
        sampler = FrameSampler(edge.start_ns, edge.soonest_ns, edge.latest_ns, settings.per_second, settings.at_least)
        recorders: dict[str, Recorder] = {}
        if self._info.video is not None:
            for name, modality in self._recipe.by_name().items():
                recorder = recorder_of(modality, self._recipe.sections[name])
                if recorder is not None:
                    recorders[name] = recorder
        return _OpenClip(edge.start_ns, sampler, recorders)

    def _show(self, picture: Picture, start_ns: int, end_ns: int) -> None:
        import av.error

        clip = self._open
        assert clip is not None, "the clipper opens a clip before it shows anything"
        frame = picture.frame
        if clip.sampler.wants(start_ns, end_ns):
            size = self._size(clip, picture, self._settings.short_side)
            clip.sampler.keep(start_ns, self._scaler.rgb(frame, size))
        scaled: dict[int, Any] = {}  # once a frame and size, however many recorders look on
        for name, recorder in clip.recorders.items():
            if clip.failure:
                return
            short_side = self._recipe.sections[name].short_side
            if short_side not in scaled:
                scaled[short_side] = self._scaler.yuv(frame, self._size(clip, picture, short_side))
            try:
                recorder.picture(scaled[short_side], start_ns - clip.start_ns)
            except av.error.FFmpegError as error:  # an encoder that cannot take this source's pictures
                clip.failure = f"{name}: {say(error)}"

    def _size(self, clip: _OpenClip, picture: Picture, short_side: int) -> tuple[int, int]:
        if short_side not in clip.sizes:
            clip.sizes[short_side] = self._scaler.size(picture.frame, short_side)
        return clip.sizes[short_side]

    def _close(self, edge: Close, last: bool = False) -> Gathered | Drop:
        opened, self._open = self._open, None
        assert opened is not None, "the clipper opens a clip before it closes one"
        clip = Clip(self._source.id, edge.start_ns, edge.end_ns)
        audio, av_check = self._sound.take(clip, [d.at_ns for d in self._damage if d.track == "audio"])
        fault = self._fault(clip, edge, opened, last)
        self._damage = [damage for damage in self._damage if damage.at_ns >= clip.end_ns]
        if fault is not None:
            return fault
        frames: Frames | None = None
        track = self._info.video
        if track is not None:
            frames = Frames(*opened.sampler.choose(edge.end_ns))
        offset_ns = None
        if self._sound.first_ns is not None and self._first_picture_ns is not None:
            offset_ns = self._sound.first_ns - self._first_picture_ns
        cues = tuple(
            Cue((cue.start_ns - clip.start_ns) / NS_PER_S, (cue.end_ns - clip.start_ns) / NS_PER_S, cue.text)
            for cue in self._cues
            if cue.start_ns < clip.end_ns and cue.end_ns > clip.start_ns
        )
        return Gathered(
            clip=clip,
            time_base=f"{track.time_base.numerator}/{track.time_base.denominator}" if track else "",
            frames=frames,
            audio=audio,
            recorders=opened.recorders,
            cues=cues,
            facts={
                "duration_ns": clip.duration_ns,
                "audio_offset_ns": offset_ns,
                "av_check": av_check,
                "width": self._upright_size[0] if track else None,
                "height": self._upright_size[1] if track else None,
            },
        )

    def _fault(self, clip: Clip, edge: Close, opened: _OpenClip, last: bool) -> Drop | None:
        """Why the clip cannot be kept, if so."""

        def drop(stage: Any, reason: str, detail: str) -> Drop:
            return Drop(self._source.path, stage, reason, detail, self._source.id, clip)

        track = self._info.video
        hurt = [d for d in self._damage if d.track == "video" and clip.start_ns <= d.at_ns < clip.end_ns]
        if last and self._info.cut_short and track is not None:
            declared_ns = track.declared_end_ns
            if declared_ns is None or clip.end_ns < declared_ns - 2 * track.frame_ns:
                of = f" of {declared_ns / NS_PER_S:.3f} s" if declared_ns is not None else ""
                return drop("decode", "truncated", f"the file breaks off at {clip.end_ns / NS_PER_S:.3f} s{of}")
        if hurt:
            return drop("decode", "damaged-video", f"{len(hurt)} faults, first at {hurt[0].at_ns} ns: {hurt[0].detail}")
        if edge.too_short:
            return drop("clip", "too-short", f"{clip.duration_ns / NS_PER_S:.3f} s, below {self._recipe.clips.min_s} s")
        if opened.failure:
            return drop("extract", "encode-failed", opened.failure)
        return None


class _SoundTrack:
    """The sound heard since the open clip began."""

    def __init__(self) -> None:
        self.first_ns: int | None = None
        self._blocks: deque[Sound] = deque()

    def add(self, sound: Sound) -> None:
        if self.first_ns is None:
            self.first_ns = sound.start_ns
        self._blocks.append(sound)

    def take(self, clip: Clip, damage_ns: list[int]) -> tuple[Waveform | None, str]:
        """The clip's sound, exactly as long as it, and in a word how much of it there is; forgets what came before."""
        first, end = sample_at(clip.start_ns), sample_at(clip.end_ns)
        samples = np.zeros(end - first, np.int16)
        heard = np.zeros(end - first, bool)
        for block in self._blocks:
            start, stop = max(block.first, first), min(block.first + len(block.samples), end)
            if start < stop:
                samples[start - first : stop - first] = block.samples[start - block.first : stop - block.first]
                heard[start - first : stop - first] = True
        while self._blocks and self._blocks[0].first + len(self._blocks[0].samples) <= end:
            self._blocks.popleft()
        if any(clip.start_ns <= at_ns < clip.end_ns for at_ns in damage_ns):
            return None, "audio-damaged"
        if not heard.any():
            return None, "no-audio"
        late = int(heard.argmax())
        short = int(heard[::-1].argmax())
        gaps = len(heard) - int(heard.sum()) - late - short
        faults = [
            f"audio-{kind}:{count * 1000 // SAMPLE_RATE_HZ}ms"
            for kind, count in (("late", late), ("gaps", gaps), ("short", short))
            if count * 1000 > AV_TOLERANCE_MS * SAMPLE_RATE_HZ
        ]
        return Waveform(samples, SAMPLE_RATE_HZ), " ".join(faults) or "ok"


def _default_frames() -> Any:
    from omniloom.modalities import load

    return load("frames").Config()
