"""Corpora made of the modalities' own examples, for tests of shards and loaders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from omniloom.modalities import Clip, Drop, Part, Sample, SourceId, load, short_name
from omniloom.pipeline.corpus import Corpus, create_corpus, open_corpus
from omniloom.pipeline.shard import write_unit

NS = 1_000_000_000
SMALL = ("frames", "audio", "caption")
"""Modalities of three codecs; captions are text."""


def source_id(number: int) -> SourceId:
    return SourceId(hashlib.sha256(str(number).encode()).hexdigest())


def make_sample(
    number: int, modalities: Sequence[str] = SMALL, absent: Sequence[str] = (), path: str = "clips/a.mp4"
) -> Sample:
    """Sample `number`: three consecutive numbers share a source, every fifth is of the test split."""
    clip = Clip(source_id(number // 3), (number % 3) * 2 * NS, (number % 3) * 2 * NS + 2 * NS)
    parts: dict[str, Part] = {}
    for position, name in enumerate(modalities):
        if name in absent:
            continue
        modality = load(name)
        rng = np.random.Generator(np.random.Philox(key=[number, position]))
        part = modality.encode(modality.example(rng))
        parts[short_name(name)] = Part(part.data, {**part.facts, "model": "example", "revision": "1", "params": "00"})
    facts = {"split": "test" if number % 5 == 0 else "train", "language": "en", "score": number / 7, "width": 64}
    signals = {} if number % 4 == 2 else {"motion": number / 100, "phash": -number, "sync_ms": None}
    return Sample(clip.key_under("recipe"), clip, path, "1/12800", parts, facts, signals)


def outcomes(unit: int, per_unit: int, modalities: Sequence[str] = SMALL) -> Iterator[Sample | Drop]:
    """Samples of one unit, every fourth without sound, and one drop."""
    yield Drop(f"clips/bad-{unit}.mp4", "probe", "no-video-frames", "0 pictures", source_id(10_000 + unit))
    for number in range(unit * per_unit, (unit + 1) * per_unit):
        yield make_sample(number, modalities, absent=("audio",) if number % 4 == 3 else ())


def make_corpus(path: Path, units: int = 3, per_unit: int = 8, modalities: Sequence[str] = SMALL) -> Corpus:
    create_corpus(path, modalities=modalities, recipe={"clips": {"length_s": 2.0}})
    for unit in range(units):
        write_unit(path, unit, outcomes(unit, per_unit, modalities), modalities)
    return open_corpus(path)
