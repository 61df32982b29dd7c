"""A column that was added later reads like a modality that was built in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from omniloom.modalities import Sample
from omniloom.modalities.base import Window
from omniloom.pipeline import Loader
from omniloom.pipeline.check import check
from omniloom.pipeline.columns import Column, open_columns
from omniloom.pipeline.corpus import Corpus, create_corpus, open_corpus
from omniloom.pipeline.shard import write_unit
from omniloom.pipeline.sidecar import DamagedError
from omniloom.pipeline.view import BadSampleError
from tests.shards import SMALL, add_column, flip, make_corpus, make_sample, outcomes

WITHOUT = {5, 7, 15, 17}
"""Samples that the column of `add_column` leaves without a part."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus that had depth from the start, of all but the same samples."""
    path = tmp_path_factory.mktemp("built")
    names = (*SMALL, "depth")
    create_corpus(path, modalities=names, recipe={"clips": {"length_s": 2.0}})
    for unit in range(3):
        items = (item for item in outcomes(unit, 8, names))
        write_unit(path, unit, (_without(item) if isinstance(item, Sample) else item for item in items), names)
    return open_corpus(path)


def _without(sample: Sample) -> Sample:
    numbers = {make_sample(number, ()).key for number in WITHOUT}
    parts = {name: part for name, part in sample.parts.items() if name != "depth" or sample.key not in numbers}
    return Sample(sample.key, sample.clip, sample.path, sample.time_base, parts, sample.facts, sample.signals)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus to which depth was added."""
    path = tmp_path_factory.mktemp("grown")
    make_corpus(path, 3, 8)
    return add_column(path)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two units of four samples, and their depth."""
    make_corpus(tmp_path, 2, 4)
    return add_column(tmp_path).path


def test_a_column_reads_like_a_modality_that_was_built_in(built: Corpus, grown: Corpus) -> None:
    assert grown.modalities == built.modalities == (*SMALL, "depth")
    for one, other in zip(built.samples(), grown.samples(), strict=True):
        assert (one.key, one.facts, one.signals) == (other.key, other.facts, other.signals)
        assert dict(one.parts) == dict(other.parts)
        assert dict(grown[one.key].parts) == dict(one.parts)
    assert sum("depth" in sample.parts for sample in grown) == 20
    stats = grown.stats()
    assert stats["modalities"] == built.stats()["modalities"]
    assert stats["columns"] == {
        "depth": {
            "units": 3,
            "of": 3,
            "missing": {"absent": 2, "no-depth": 2},
            "models": ["example"],
            "licence": "MIT",
        }
    }
    assert built.stats()["columns"] == {}
    assert grown.check() == []


def test_the_table_says_of_a_column_what_it_says_of_a_modality_that_was_built_in(built: Corpus, grown: Corpus) -> None:
    def told(corpus: Corpus) -> list[dict[str, Any]]:
        rows = corpus.table().to_pylist()
        places = {"offset", "added"}
        return [
            {
                name: {k: v for k, v in cell.items() if k not in places} if isinstance(cell, dict) else cell
                for name, cell in row.items()
                if name != "json"
            }
            for row in rows
        ]

    assert told(grown) == told(built)
    assert grown.table().column_names == built.table().column_names
    assert grown.table(["depth", "key"], split="test").column_names == ["depth", "key"]
    flags = {row["added"] for row in grown.table(["depth"])["depth"].to_pylist() if row}
    assert flags == {True}


@pytest.mark.parametrize("backend", ["cpu", "dali"])
def test_a_loader_gives_the_same_batches_from_a_column(built: Corpus, grown: Corpus, backend: Any) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    for kwargs in ({"workers": 2}, {"workers": 0, "permute": ("depth",)}, {"train": False, "split": "train"}):
        one, other = (
            Loader(
                corpus,
                ("frames", "depth", "caption"),
                5,
                seed=3,
                window=Window(num_frames=2, image_px=16),
                backend=backend,
                epochs=1,
                **{"workers": 0, **kwargs},
            )
            for corpus in (built, grown)
        )
        for a, b in zip(one, other, strict=True):
            assert (a.keys, a.texts) == (b.keys, b.texts)
            assert torch.equal(a.present["depth"], b.present["depth"])
            assert all(torch.equal(tensor, b.tensors[name]) for name, tensor in a.tensors.items())
        assert one.bytes_read == other.bytes_read


def test_a_part_of_the_shard_comes_before_one_of_a_column_which_fills_the_rest(tmp_path: Path) -> None:
    make_corpus(tmp_path, 2, 4)
    before = [dict(sample.parts) for sample in open_corpus(tmp_path).samples()]
    corpus = add_column(tmp_path, "audio")
    for number, (sample, was) in enumerate(zip(corpus.samples(), before, strict=True)):
        assert dict(sample.parts) == was | ({"audio": make_sample(3).parts["audio"]} if number == 3 else {})
    added = [row and row["added"] for row in corpus.table(["audio"])["audio"].to_pylist()]
    assert added == [False, False, False, True, False, False, False, None]
    assert corpus.stats()["columns"]["audio"]["missing"] == {"absent": 1, "present": 6}
    assert corpus.modalities == SMALL
    assert check(tmp_path) == []


def test_units_without_the_column_read_as_if_they_lacked_it_and_it_can_be_continued(tmp_path: Path) -> None:
    make_corpus(tmp_path, 2, 4)
    add_column(tmp_path, units=[1])
    write_unit(tmp_path, 2, outcomes(2, 4), SMALL)  # the corpus grew

    def has() -> list[bool]:
        corpus = open_corpus(tmp_path)
        [batch] = Loader(corpus, ("depth",), 50, train=False, workers=0, backend="cpu", window=Window(1, 8))
        by_key = dict(zip(batch.keys, batch.present["depth"].tolist(), strict=True))
        parts = {sample.key: "depth" in sample.parts for sample in corpus.samples()}
        assert parts == by_key
        assert [row is not None for row in corpus.table(["depth"])["depth"].to_pylist()] == list(parts.values())
        return list(parts.values())

    assert has() == [False] * 4 + [True, False, True, False] + [False] * 4
    assert check(tmp_path) == []
    assert open_corpus(tmp_path).stats()["columns"]["depth"]["units"] == 1
    assert open_columns(tmp_path)["depth"].committed() == {1}
    add_column(tmp_path)
    assert has() == [True] * 4 + [True, False, True, False] + [True] * 4


def test_the_sidecars_of_a_column_are_read_only_where_its_modality_is_asked_for(small: Path) -> None:
    for path in (small / "columns/depth").glob("*.parquet"):
        path.write_bytes(b"damaged")
    corpus = open_corpus(small)
    assert len(corpus) == len(corpus.table(["key", "frames", "audio"], split="train")) + 2 == 8
    assert [len(sample.parts) for sample in corpus.samples(["frames"])] == [1] * 8
    assert len(list(Loader(corpus, ("frames",), 4, train=False, workers=0, window=Window(1, 8)))) == 2
    for ask in (lambda: corpus.table(["depth"]), lambda: list(corpus.samples()), lambda: Loader(corpus, ("depth",), 4)):
        with pytest.raises(DamagedError, match=r"000000.parquet is damaged"):
            ask()


def test_a_column_of_a_modality_that_cannot_be_imported_hinders_no_other(small: Path) -> None:
    (small / "columns/thermal").mkdir()
    Column(small, "nowhere.thermal", "thermal.png", {}, ()).write()
    corpus = open_corpus(small)
    assert corpus.modalities == (*SMALL, "depth", "nowhere.thermal")
    assert len(corpus.table(["key", "depth"])) == 8
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        corpus.table(["thermal"])


def test_where_a_part_came_from_is_read_from_the_sample_and_its_column(small: Path) -> None:
    corpus = open_corpus(small)
    facts = next(corpus.samples(["depth"])).parts["depth"].facts
    assert {name: facts[name] for name in ("model", "revision", "params")} == {
        "model": "example",
        "revision": "1",
        "params": "00",
    }
    column = corpus.columns["depth"]
    assert (column.licence, column.revision, dict(column.config)) == ("MIT", "1", {"model": "example"})


def test_a_damaged_part_of_a_column_is_named_with_its_tar(small: Path) -> None:
    corpus = open_corpus(small)
    row = corpus.table(["key", "depth"]).to_pylist()[1]
    flip(small / "columns/depth/000000.tar", row["depth"]["offset"] + 40)
    with pytest.raises(DamagedError, match=r"depth/000000.tar is damaged"):
        corpus[row["key"]].parts["depth"]
    with pytest.raises(BadSampleError, match=rf"sample {row['key']} of columns/depth/000000.tar has bad depth"):
        list(Loader(corpus, ("frames", "depth"), 4, train=False, workers=0, backend="cpu", window=Window(1, 8)))
    skipping = Loader(
        corpus, ("frames", "depth"), 4, train=False, workers=0, backend="cpu", on_bad="skip", window=Window(1, 8)
    )
    assert sum(map(len, skipping)) == 7
    assert skipping.bad[0].shard == "columns/depth/000000.tar"
