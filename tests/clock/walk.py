"""Goes through every row of a corpus' sidecars and holds all times of a sample against each other and its source."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.modalities import Sample, load
from omniloom.modalities.base import read
from omniloom.pipeline.corpus import Corpus
from omniloom.pipeline.shard import shard_paths
from tests import independent

NS = 1_000_000_000


def walk(corpus: Corpus) -> dict[str, int]:
    """Asserts of every row what `docs/design` promises about time; returns how many rows had each modality."""
    rows: list[dict[str, Any]] = corpus.table().to_pylist()
    samples = {sample.key: sample for sample in corpus.samples()}
    assert len(samples) == len(rows) > 0
    shown: dict[str, frozenset[int]] = {}
    seen: dict[str, int] = {}
    for row in rows:
        path = row["source_path"]
        if path not in shown:
            shown[path] = frozenset(independent.pictures(Path(path)).pts_ns)
        _pictures_are_those_of_the_source(row, shown[path])
        _geometry_has_the_times_of_its_frames(row)
        _sound_lasts_as_long_as_the_clip(row, samples[row["key"]])
        _words_lie_within_the_clip(row, samples[row["key"]])
        _the_record_in_the_shard_says_the_same(row, corpus)
        for name in samples[row["key"]].parts:
            seen[name] = seen.get(name, 0) + 1
    _clips_of_a_source_do_not_overlap(rows, corpus)
    _words_are_where_sound_is(samples.values())
    return seen


def _pictures_are_those_of_the_source(row: Mapping[str, Any], shown: frozenset[int]) -> None:
    assert row["duration_ns"] == row["end_ns"] - row["start_ns"] > 0
    for name in ("frames", "video"):
        if row.get(name) is None:
            continue
        pts_ns = row[name]["pts_ns"]
        assert pts_ns == sorted(pts_ns), (row["key"], name)
        assert 0 <= pts_ns[0] <= pts_ns[-1] < row["duration_ns"], (row["key"], name)
        strange = [pts for pts in pts_ns if row["start_ns"] + pts not in shown and pts]
        assert not strange, f"{name} of {row['key']} cites times at which the source shows nothing new: {strange}"
    if row.get("video") is not None and row.get("frames") is not None:
        assert set(row["frames"]["pts_ns"]) <= set(row["video"]["pts_ns"]), "frames are pictures of the movie"
        inside = {time_ns - row["start_ns"] for time_ns in shown if row["start_ns"] <= time_ns < row["end_ns"]}
        assert inside <= set(row["video"]["pts_ns"]), "the movie shows every picture of the clip"


def _geometry_has_the_times_of_its_frames(row: Mapping[str, Any]) -> None:
    for name in ("depth", "normal", "points"):
        if row.get(name) is not None and row[name].get("pts_ns") is not None:
            own = row[name]["pts_ns"]
            own = own if isinstance(own, list) else [own]
            assert own, (row["key"], name)
            assert set(own) <= set(row["frames"]["pts_ns"]), (row["key"], name)
            if name == "depth":
                assert own == row["frames"]["pts_ns"], row["key"]


def _sound_lasts_as_long_as_the_clip(row: Mapping[str, Any], sample: Sample) -> None:
    if row.get("audio") is None:
        return
    assert abs(row["audio"]["num_samples"] - row["duration_ns"] * 16_000 / NS) <= 1, row["key"]
    assert len(read(load("audio"), sample.parts["audio"]).samples) == row["audio"]["num_samples"]


def _words_lie_within_the_clip(row: Mapping[str, Any], sample: Sample) -> None:
    if row.get("transcript") is None:
        return
    spoken = json.loads(sample.parts["transcript"].data)["segments"]
    times = [(word["start"], word["end"]) for segment in spoken for word in segment["words"]]
    assert times, row["key"]
    assert all(0 <= start <= end <= row["duration_ns"] / NS for start, end in times), row["key"]
    assert all(before[0] <= after[0] for before, after in pairwise(times)), row["key"]


def _the_record_in_the_shard_says_the_same(row: Mapping[str, Any], corpus: Corpus) -> None:
    with tarfile.open(shard_paths(corpus.path, row["unit"]).tar) as tar:
        member = tar.extractfile(f"{row['key']}.json")
        assert member is not None
        record = json.load(member)
    for ours, theirs in (("key", "key"), ("source", "source_id"), ("start_ns", "start_ns"), ("end_ns", "end_ns")):
        assert record[ours] == row[theirs]
    for name, facts in record["parts"].items():
        for fact in ("pts_ns", "num_samples", "num_frames", "num_words"):
            assert facts.get(fact) == row[name].get(fact), (row["key"], name, fact)


def _clips_of_a_source_do_not_overlap(rows: Sequence[Mapping[str, Any]], corpus: Corpus) -> None:
    """Nor do they with what was dropped; together, without overlap in the recipe, they tile their source."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for row in [*rows, *corpus.drops().to_pylist()]:
        if row["source_id"] is not None and row["start_ns"] is not None:
            spans.setdefault(row["source_id"], []).append((row["start_ns"], row["end_ns"]))
    for source, clips in spans.items():
        assert all(before[1] == after[0] for before, after in pairwise(sorted(clips))), (source, clips)


def _words_are_where_sound_is(samples: Any) -> None:
    """Over the corpus: a voice is louder than what is between the words, in most clips in which somebody speaks."""
    louder: list[bool] = []
    for sample in samples:
        if not {"audio", "transcript"} <= set(sample.parts):
            continue
        power = np.square(read(load("audio"), sample.parts["audio"]).samples.astype(np.float64))
        spoken = np.zeros(len(power), bool)
        for segment in json.loads(sample.parts["transcript"].data)["segments"]:
            for word in segment["words"]:
                spoken[round(word["start"] * 16_000) : round(word["end"] * 16_000)] = True
        if 1600 < spoken.sum() < len(spoken) - 1600:
            louder.append(power[spoken].mean() > power[~spoken].mean())
    assert not louder or np.mean(louder) > 0.8, f"words are louder than what is between them in {louder}"
