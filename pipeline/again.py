"""A stored sample looked at again: its frames and sound as an extractor sees them, read from the corpus alone."""

from __future__ import annotations

import io
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from omniloom.modalities import Modality, Part, Rejected, load
from omniloom.modalities.base import Frames, SoundBlock, Waveform, read
from omniloom.modalities.sample import Clip
from omniloom.pipeline.picture import Scaler
from omniloom.pipeline.probe import probe
from omniloom.pipeline.sampling import sample_times
from omniloom.pipeline.sound import STRETCH_NS, Soundtrack
from omniloom.pipeline.tape import SAMPLE_RATE_HZ, sample_at


def frames_of(parts: Mapping[str, Part], clip: Clip, settings: Any) -> Frames | None:
    """The frames that were kept, or else those that `settings` (a `frames.Config`) samples from the clip's movie.

    None for a sample with neither. Raises ValueError for damaged parts.
    """
    if "frames" in parts:
        return read(load("frames"), parts["frames"])
    return _from_movie(parts["video"], clip, settings) if "video" in parts else None


def sound_of(parts: Mapping[str, Part], clip: Clip) -> Waveform | None:
    """The sound that was kept, or else that of the clip's movie; None for a sample with neither."""
    if "audio" in parts:
        return read(load("audio"), parts["audio"])
    if "video" not in parts or not parts["video"].facts["has_audio"]:
        return None
    with _as_file(parts["video"].data) as path:
        heard = Soundtrack(path, probe(path)).read(0, clip.duration_ns)
    if heard.damage:
        raise ValueError(f"damaged MP4: {heard.damage[0].detail}")
    return Waveform(heard.samples, SAMPLE_RATE_HZ) if heard.present.any() else None


class Values(Mapping[str, Any]):
    """Values of one sample's modalities: those made now, else those stored, each read when it is first looked up."""

    def __init__(
        self, parts: Mapping[str, Part], modules: Mapping[str, Modality], names: Sequence[str] | None = None
    ) -> None:
        self._parts, self._modules, self._names = parts, modules, names
        self.made: dict[str, Any] = {}

    def of(self, names: Sequence[str]) -> Values:
        """Of these modalities alone."""
        chosen = Values(self._parts, self._modules, names)
        chosen.made = self.made
        return chosen

    def __getitem__(self, name: str) -> Any:
        if name not in {*self}:
            raise KeyError(name)
        if name not in self.made:
            try:
                self.made[name] = read(self._modules[name], self._parts[name])
            except ValueError as error:
                raise Rejected("decode", "damaged-sample", str(error)) from error
        return self.made[name]

    def __iter__(self) -> Iterator[str]:
        known = dict.fromkeys((*self.made, *self._parts))
        return iter([name for name in known if self._names is None or name in self._names])

    def __len__(self) -> int:
        return len([*self])


@dataclass(frozen=True, slots=True)
class Touching:
    """Clips of one source, by their places in the unit, that lie end to end and are heard as one."""

    places: tuple[int, ...]
    start_ns: int
    end_ns: int


def blocks(clips: Sequence[Clip]) -> list[Touching]:
    """Clips joined, as far as they touch, to blocks of at most ten minutes; each clip is in one block.

    A word that is cut by the border between two blocks is heard by neither as it would be within one.
    """
    found: list[Touching] = []
    order = sorted(range(len(clips)), key=lambda place: (clips[place].source, clips[place].start_ns))
    for place in order:
        clip = clips[place]
        last = found[-1] if found else None
        if (
            last is not None
            and clips[last.places[-1]].source == clip.source
            and clip.start_ns <= last.end_ns
            and max(last.end_ns, clip.end_ns) - last.start_ns <= STRETCH_NS
        ):
            found[-1] = Touching((*last.places, place), last.start_ns, max(last.end_ns, clip.end_ns))
        else:
            found.append(Touching((place,), clip.start_ns, clip.end_ns))
    return found


def joined(block: Touching, sounds: Iterator[tuple[Clip, Waveform | None]]) -> SoundBlock | None:
    """The sound of a block, from that of its clips; silent where one has none. None if all are without sound."""
    first = sample_at(block.start_ns)
    samples = np.zeros(sample_at(block.end_ns) - first, np.int16)
    audible = False
    for clip, sound in sounds:
        if sound is not None and len(sound.samples):
            audible = True
            at = sample_at(clip.start_ns) - first
            fitting = sound.samples[: len(samples) - at]
            samples[at : at + len(fitting)] = fitting
    return SoundBlock(block.start_ns, samples) if audible else None


def _from_movie(part: Part, clip: Clip, settings: Any) -> Frames:
    """Frames on screen at the sampled times: the movie is decoded as far as the last of them, and held nowhere."""
    import av
    import av.error

    pts_ns, skip = cast("list[int]", part.facts["pts_ns"]), cast(int, part.facts["skip"])
    times = sample_times(0, clip.duration_ns, settings.per_second, settings.at_least)
    chosen = [max(0, bisect_right(pts_ns, time_ns) - 1) for time_ns in times]
    wanted = {index + skip for index in chosen}
    scaler = Scaler(float(cast(float, part.facts["pixel_aspect"]) or 1.0))
    kept: dict[int, np.ndarray] = {}
    size: tuple[int, int] | None = None
    try:
        # Pictures that the edit list hides are counted too: the facts tell how many there are.
        with av.open(io.BytesIO(part.data), "r", format="mov", options={"advanced_editlist": "0"}) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    size = size or scaler.size(frame, settings.short_side)
                    kept[index] = scaler.rgb(frame, size)
                if len(kept) == len(wanted):
                    break
    except (av.error.FFmpegError, IndexError, UnicodeDecodeError, MemoryError) as error:
        raise ValueError(f"damaged MP4: {error}") from error
    if len(kept) != len(wanted):
        raise ValueError(f"damaged MP4: {len(kept)} of {len(wanted)} sampled pictures could be decoded")
    rgb = np.stack([kept[index + skip] for index in chosen])
    return Frames(rgb, np.array([pts_ns[index] for index in chosen], np.int64))


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """The path of a file that holds the bytes for a while: media is opened by name."""
    with tempfile.TemporaryDirectory(prefix="loom-") as folder:
        path = Path(folder) / "clip.mp4"
        path.write_bytes(data)
        yield str(path)
