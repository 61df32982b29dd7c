"""Corpora made of the modalities' own examples, for tests of shards and loaders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from omniloom.modalities import Clip, Drop, Part, Sample, SourceId, load, short_name
from omniloom.pipeline.columns import create_column, write_column_unit
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


def column_outcomes(corpus: Path, unit: int, name: str) -> Iterator[tuple[str, Part | Drop | None]]:
    """What `make_sample` would have made of a unit's samples: so that a column can equal a part that was built in.

    Samples 5, 15, ... are rejected, 7, 17, ... have none; so are those whose shard has one.
    """
    numbers = {make_sample(number, ()).key: number for number in range(100)}
    for sample in open_corpus(corpus).samples([name] if name in SMALL else [], [unit]):
        number = numbers[sample.key]
        if number % 10 == 5:
            yield sample.key, Drop(sample.path, "extract", "no-depth", "all of it is sky\udcff")
        elif number % 10 == 7 or name in sample.parts:
            yield sample.key, None
        else:
            yield sample.key, make_sample(number, SMALL if name in SMALL else (*SMALL, name)).parts[name]


def add_column(corpus: Path, name: str = "depth", units: Iterable[int] | None = None) -> Corpus:
    """Adds a column to a corpus of `make_corpus`: to all its units, or to some."""
    create_column(corpus, name, {"model": "example"}, [{"name": "example", "revision": "1", "licence": "MIT"}])
    for unit in open_corpus(corpus).units if units is None else units:
        write_column_unit(corpus, name, unit, column_outcomes(corpus, unit, name))
    return open_corpus(corpus)


def flip(path: Path, at: int, bit: int = 3) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)
