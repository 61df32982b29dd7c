"""Sidecars of a corpus that is too large to build: rows as `omniloom build` writes them, without the tars."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from omniloom.modalities import Clip, Part, Sample, SourceId, load
from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline.corpus import create_corpus
from omniloom.pipeline.shard import shard_paths, write_unit
from omniloom.pipeline.sidecar import FORMAT_VERSION, read_sidecar, sealed_bytes

MODALITIES = ("frames", "video", "audio", "caption", "transcript", "depth", "normal", "points")
PER_UNIT = 120
"""Clips of ten seconds in a span of twenty minutes: what a unit of a long source holds."""
CLIP_S = 10
FRAMES = 20
"""Of a clip: two a second."""
LACKING: Mapping[str, float] = {"audio": 0.1, "caption": 0.3, "transcript": 0.5, "depth": 0.2, "normal": 0.2}
"""Share of the sources whose samples have none of it."""
TEST_SHARE = 0.05
_TEMPLATES = 8
_MEMBER_BYTES = 50_000


def write_corpus(folder: Path, samples: int, processes: int | None = None) -> Path:
    """A corpus of so many samples, a multiple of `PER_UNIT`, of which only the sidecars are there."""
    create_corpus(folder, modalities=MODALITIES, recipe={"clips": {"length_s": float(CLIP_S)}})
    units = samples // PER_UNIT
    number = min(processes or os.cpu_count() or 1, units)
    edges = [units * part // number for part in range(number + 1)]
    with ProcessPoolExecutor(number, mp_context=get_context("spawn")) as pool:
        list(pool.map(_write_units, [folder] * number, *zip(*pairwise(edges), strict=True)))
    return folder


def _write_units(folder: Path, first: int, last: int) -> None:
    template = _template()
    for unit in range(first, last):
        table = _filled(template, unit)
        record = {"unit": unit, "samples": PER_UNIT, "tar_size": PER_UNIT * _MEMBER_BYTES, "dropped": {}}
        sha256 = np.random.Generator(np.random.Philox(key=[unit, 1])).bytes(32).hex()
        data = sealed_bytes(table, {"format": FORMAT_VERSION, **record, "tar_sha256": sha256})
        shard_paths(folder, unit).sidecar.write_bytes(data)


@cache
def _template() -> pa.Table:
    """Rows of a unit that was written: of the modalities' own examples, again and again."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        create_corpus(folder, modalities=MODALITIES, recipe={})
        write_unit(folder, 0, [_sample(number) for number in range(_TEMPLATES)], MODALITIES)
        rows = read_sidecar(shard_paths(folder, 0).sidecar)[0]
    return rows.take(pa.array(np.arange(PER_UNIT) % _TEMPLATES)).combine_chunks()


def _sample(number: int) -> Sample:
    clip = Clip(SourceId("0" * 64), number * CLIP_S * NS_PER_S, (number + 1) * CLIP_S * NS_PER_S)
    parts: dict[str, Part] = {}
    for position, name in enumerate(MODALITIES):
        module = load(name)
        part = module.encode(module.example(np.random.Generator(np.random.Philox(key=[number, position]))))
        facts = {key: value for key, value in part.facts.items() if key != "poses"}  # few sources have any
        parts[name] = Part(part.data, {**facts, "model": "example", "revision": "1", "params": "0123456789abcdef"})
    facts = {"language": "en", "split": "train", "width": 1280, "height": 720, "status": "ok", "av_check": "measured"}
    signals = {"motion": 0.1 * number, "brightness": 0.5, "phash": number, "loudness_lufs": -23.0, "silence": 0.0}
    return Sample(clip.key_under("plan"), clip, f"films/{number}.mp4", "1/12800", parts, facts, signals)


def _filled(template: pa.Table, unit: int) -> pa.Table:
    """The template with this unit's own keys, source, places and hashes."""
    rng = np.random.Generator(np.random.Philox(key=[unit, 0]))
    source = rng.bytes(32).hex()
    start_ns = np.arange(PER_UNIT, dtype=np.int64) * CLIP_S * NS_PER_S
    duration_ns = np.where(rng.random(PER_UNIT) < 0.2, rng.integers(3, CLIP_S, PER_UNIT), CLIP_S) * NS_PER_S
    keys = rng.bytes(16 * PER_UNIT).hex()
    columns: dict[str, Any] = {
        "key": [keys[32 * row : 32 * row + 32] for row in range(PER_UNIT)],
        "unit": [unit] * PER_UNIT,
        "source_id": [source] * PER_UNIT,
        "source_path": [f"films/{source[:8]}.mp4"] * PER_UNIT,
        "start_ns": start_ns,
        "end_ns": start_ns + duration_ns,
        "duration_ns": duration_ns,
        "split": ["test" if rng.random() < TEST_SHARE else "train"] * PER_UNIT,
    }
    offset = rng.integers(512, 1024, PER_UNIT).cumsum() * 512
    for name in ("json", *MODALITIES):
        lacks = rng.random() < LACKING.get(name, 0.0)
        columns[name] = _part(template[name].chunk(0), name, offset, rng, [lacks] * PER_UNIT)
    for name, values in columns.items():
        place = template.schema.get_field_index(name)
        field = template.schema.field(place)
        column = values if isinstance(values, pa.Array) else pa.array(values, field.type)
        template = template.set_column(place, field, column)
    return template


def _part(
    struct: pa.StructArray, name: str, offset: Any, rng: np.random.Generator, mask: Sequence[bool]
) -> pa.StructArray:
    children = {field.name: struct.field(field.name) for field in struct.type}
    children["offset"] = pa.array(offset)
    children["size"] = pa.array(rng.integers(1000, _MEMBER_BYTES, PER_UNIT))
    children["xxh3"] = pa.array(rng.integers(0, 2**63, PER_UNIT).astype(np.uint64))
    if name == "frames":
        shape = (PER_UNIT, FRAMES)
        sizes = rng.integers(8_000, 16_000, shape)
        pts_ns = np.arange(FRAMES) * (NS_PER_S // 2) + rng.integers(0, 1000, (PER_UNIT, 1))
        lists = {
            "pieces_xxh3": rng.integers(0, 2**63, shape).astype(np.uint64),
            "pts_ns": pts_ns,
            "sizes": sizes,
            "offsets": sizes.cumsum(axis=1),
        }
        children |= {key: pa.array(list(values), struct.type.field(key).type) for key, values in lists.items()}
    return pa.StructArray.from_arrays(list(children.values()), fields=list(struct.type), mask=pa.array(mask))
