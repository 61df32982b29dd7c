"""What our samples show and sound of one source, laid end to end on the source's own clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from omniloom.modalities import Sample, load
from omniloom.modalities.base import Window, read
from omniloom.pipeline import Loader
from omniloom.pipeline.corpus import Corpus
from tests.independent import WHITE, beeps, onsets

NS = 1_000_000_000
RATE_HZ = 16_000


@dataclass
class Seen:
    """One source as its samples give it back. Times are the source's, in nanoseconds."""

    spans_ns: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Of the clips."""
    movie_ns: list[int] = field(default_factory=list[int])
    """When each picture of the movies (`video`) comes on screen: every picture of the source."""
    movie_is_white: list[bool] = field(default_factory=list[bool])
    frame_ns: list[int] = field(default_factory=list[int])
    """When each of the sampled `frames` came on screen."""
    frame_is_white: list[bool] = field(default_factory=list[bool])
    first_sample: int = 0
    """Place of the sound's first sample, counted in samples from presentation time 0."""
    blocks: list[np.ndarray] = field(default_factory=list[np.ndarray])

    def add(self, start_ns: int, end_ns: int, frames: Any, sound: np.ndarray | None, movie: Any = None) -> None:
        """The next clip: of its frames and movie (times from the clip's start, which are white), and its samples."""
        first = _nearest(start_ns)
        if not self.spans_ns:
            self.first_sample = first
        count = _nearest(end_ns) - first
        assert sound is None or len(sound) == count, "a clip's sound is as long as the clip"
        self.spans_ns.append((start_ns, end_ns))
        self.blocks.append(np.zeros(count, np.int16) if sound is None else sound)
        for times, whites, shown in (
            (self.frame_ns, self.frame_is_white, frames),
            (self.movie_ns, self.movie_is_white, movie),
        ):
            if shown is not None:
                times += [start_ns + int(pts) for pts in shown[0]]
                whites += [bool(white) for white in shown[1]]

    @property
    def frame_flashes_ns(self) -> list[int]:
        return onsets(self.frame_ns, self.frame_is_white)

    @property
    def movie_flashes_ns(self) -> list[int]:
        return onsets(self.movie_ns, self.movie_is_white)

    @property
    def beeps_s(self) -> list[float]:
        """When tones begin, in seconds of presentation time; clips follow each other without a hole."""
        assert all(before[1] == after[0] for before, after in pairwise(self.spans_ns)), self.spans_ns
        return [self.first_sample / RATE_HZ + at_s for at_s in beeps(np.concatenate(self.blocks), RATE_HZ)]


def stitched(samples: Iterable[Sample]) -> Seen:
    """As the samples of one source hold it, fresh from `weave` or read back from shards."""
    return _laid(_parts(samples))


def loaded(corpus: Corpus, length_s: float) -> Seen:
    """As the loader hands a corpus of one source to a model: all frames and sound of clips of at most `length_s`."""
    rows = {row["key"]: row for row in corpus.table().to_pylist()}
    most = max(len(row["frames"]["pts_ns"]) for row in rows.values())
    window = Window(num_frames=most, image_px=8, num_samples=round(length_s * RATE_HZ))
    clips: list[tuple[Any, ...]] = []
    for batch in Loader(corpus, ["frames", "audio"], 1, window=window, train=False, workers=0, backend="cpu"):
        row = rows[batch.keys[0]]
        pts_ns = np.array(row["frames"]["pts_ns"])
        chosen = window.choose(len(pts_ns))
        is_white = batch.tensors["frames"][0].numpy().mean(axis=(1, 2, 3)) * 127.5 + 127.5 > WHITE
        start_ns, end_ns = row["start_ns"], row["end_ns"]
        count = _nearest(end_ns) - _nearest(start_ns)
        sound = batch.tensors["audio"][0].numpy()
        assert not sound[count:].any(), "nothing sounds after the clip's end"
        frames = (pts_ns[chosen], is_white)
        samples = (sound[:count] * 32768).astype(np.int16)
        clips.append((start_ns, end_ns, frames, samples))
    return _laid(clips)


def _laid(clips: Iterable[tuple[Any, ...]]) -> Seen:
    seen = Seen()
    for clip in sorted(clips, key=lambda clip: clip[0]):
        seen.add(*clip)
    return seen


def _parts(samples: Iterable[Sample]) -> Iterator[tuple[Any, ...]]:
    for sample in samples:
        shown: dict[str, Any] = {}
        for name in sample.parts.keys() & {"frames", "video"}:
            value = read(load(name), sample.parts[name])
            shown[name] = (value.pts_ns, value.rgb.mean(axis=(1, 2, 3)) > WHITE)
        sound = read(load("audio"), sample.parts["audio"]).samples if "audio" in sample.parts else None
        yield sample.clip.start_ns, sample.clip.end_ns, shown["frames"], sound, shown.get("video")


def _nearest(time_ns: int) -> int:
    """Place of the sample nearest to a time; of two as near the later one."""
    return (2 * time_ns * RATE_HZ + NS) // (2 * NS)
