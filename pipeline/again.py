"""A stored sample looked at again: its frames and sound as an extractor sees them, read from the corpus alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omniloom.modalities import Modality, Part, Rejected, load
from omniloom.modalities.base import Frames, SoundBlock, Waveform, read
from omniloom.modalities.sample import Clip
from omniloom.pipeline.movies import frames_in, sound_in
from omniloom.pipeline.sound import STRETCH_NS
from omniloom.pipeline.tape import sample_at


def frames_of(parts: Mapping[str, Part], clip: Clip, settings: Any) -> Frames | None:
    """The frames that were kept, or else those that `settings` (a `frames.Config`) samples from the clip's movie.

    None for a sample with neither. Raises ValueError for damaged parts.
    """
    if "frames" in parts:
        return read(load("frames"), parts["frames"])
    if "video" not in parts:
        return None
    movie = parts["video"]
    return frames_in(movie.data, movie.facts, clip, settings)


def sound_of(parts: Mapping[str, Part], clip: Clip) -> Waveform | None:
    """The sound that was kept, or else that of the clip's movie; None for a sample with neither."""
    if "audio" in parts:
        return read(load("audio"), parts["audio"])
    if "video" not in parts or not parts["video"].facts["has_audio"]:
        return None
    movie = parts["video"]
    return sound_in(movie.data, movie.facts, clip)


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
