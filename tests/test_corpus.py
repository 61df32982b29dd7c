"""A corpus opens, counts, finds and verifies what was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from omniloom import open_corpus
from omniloom.modalities import Part, Sample, names
from omniloom.pipeline.check import check
from omniloom.pipeline.corpus import Corpus, create_corpus
from omniloom.pipeline.shard import write_unit
from omniloom.pipeline.sidecar import DamagedError
from tests.shards import NS, SMALL, make_corpus, make_sample


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), units=3, per_unit=8)


def test_a_corpus_counts_what_it_holds(corpus: Corpus) -> None:
    stats = corpus.stats()
    assert len(corpus) == stats["samples"] == 24
    assert stats["shards"] == len(corpus.shards) == 3
    assert stats["hours"] == pytest.approx(24 * 2 / 3600)
    assert stats["modalities"]["audio"]["present"] == 18
    assert stats["modalities"]["frames"]["bytes"] == sum(
        len(sample.parts["frames"].data) for sample in corpus.samples()
    )
    assert stats["drops"] == {"no-video-frames": 3}
    assert stats["splits"] == {"test": 5, "train": 19}


def test_the_table_joins_all_sidecars_and_filters_by_split(corpus: Corpus) -> None:
    assert corpus.table().num_rows == 24
    test = corpus.table(["key", "frames"], split="test")
    assert test.column_names == ["key", "frames"]
    assert test["key"].to_pylist() == [make_sample(number).key for number in range(0, 24, 5)]
    with pytest.raises(ValueError, match="no column depth"):
        corpus.table(["depth"])


def test_a_folder_without_a_corpus_is_refused_with_the_repair(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="omniloom build"):
        open_corpus(tmp_path / "nothing")
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        open_corpus(tmp_path)
    (tmp_path / "corpus.json").write_text("[]")
    with pytest.raises(ValueError, match="no omniloom corpus"):
        open_corpus(tmp_path)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    create_corpus(tmp_path, modalities=SMALL, recipe={})
    description = json.loads((tmp_path / "corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps({**description, "version": 2}))
    with pytest.raises(ValueError, match="upgrade"):
        open_corpus(tmp_path)


def test_a_corpus_takes_no_samples_of_another_recipe(tmp_path: Path) -> None:
    create_corpus(tmp_path, modalities=SMALL, recipe={"clips": 10, "audio": {}})
    create_corpus(tmp_path, modalities=SMALL, recipe={"clips": 10, "audio": {}})
    with pytest.raises(ValueError, match="differs in clips"):
        create_corpus(tmp_path, modalities=SMALL, recipe={"clips": 5, "audio": {}})


def test_columns_of_later_additions_are_ignored(corpus: Corpus, tmp_path: Path) -> None:
    copy = shutil.copytree(corpus.path, tmp_path / "copy")
    shutil.copy(copy / "shards/000001.parquet", copy / "shards/000001.depth.parquet")
    assert len(open_corpus(copy)) == 24
    assert check(copy) == []


def test_a_whole_corpus_has_no_faults(corpus: Corpus) -> None:
    calls: list[tuple[int, int]] = []
    assert check(corpus, on_progress=lambda done, total: calls.append((done, total))) == []
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_every_flip_and_cut_is_found(tmp_path: Path) -> None:
    """300 random faults on tar, sidecar and drops."""
    make_corpus(tmp_path, units=1, per_unit=3)
    rng = np.random.Generator(np.random.Philox(1))
    paths = [tmp_path / "shards/000000.tar", tmp_path / "shards/000000.parquet", tmp_path / "drops/000000.parquet"]
    for number in range(300):
        path = paths[number % 3]
        whole = path.read_bytes()
        at = int(rng.integers(len(whole)))
        cut = number % 10 == 9
        path.write_bytes(
            whole[:at] if cut else whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :]
        )
        assert check(tmp_path), f"{'cut' if cut else 'flip'} at {at} of {path.name} was not found"
        path.write_bytes(whole)
    assert check(tmp_path) == []


def test_a_damaged_member_is_named_and_cannot_be_read(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=1, per_unit=3)
    row = corpus.table(["key", "audio"]).to_pylist()[1]
    with (tmp_path / "shards/000000.tar").open("r+b") as tar:
        tar.seek(row["audio"]["offset"] + 100)
        tar.write(b"\x55\xaa")
    assert ("shards/000000.tar", row["key"], "audio.flac does not match its hash") in [
        (fault.shard, fault.key, fault.what) for fault in check(tmp_path)
    ]
    with pytest.raises(DamagedError, match="do not match their hash"):
        corpus[row["key"]].parts["audio"]
    assert len(corpus[row["key"]].parts["frames"].data) > 0


def test_a_damaged_sidecar_hides_its_shard_and_no_other(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=2, per_unit=3)
    sidecar = tmp_path / "shards/000001.parquet"
    sidecar.write_bytes(sidecar.read_bytes()[:-1])
    [fault] = check(corpus)
    assert fault.shard == "shards/000001.parquet"
    assert "remove it and build again" in fault.what
    assert corpus.count_readable() == 3
    with pytest.raises(DamagedError):
        len(corpus)


def test_missing_renamed_and_repeated_files_are_faults(tmp_path: Path) -> None:
    make_corpus(tmp_path, units=2, per_unit=3)
    shards = tmp_path / "shards"
    for suffix in ("tar", "parquet"):
        shutil.copy(shards / f"000000.{suffix}", shards / f"000005.{suffix}")
    (shards / "000001.tar").unlink()
    (tmp_path / "drops/000001.parquet").unlink()
    what = {(fault.shard, fault.what) for fault in check(tmp_path)}
    assert ("drops/000001.parquet", "missing") in what
    assert ("shards/000001.tar", "missing: restore it, or remove its sidecar and build again") in what
    assert ("shards/000005.parquet", "is of unit 0: the file was renamed") in what
    assert ("shards/000005.parquet", "the same key is in shards/000000.parquet") in what


@pytest.mark.parametrize(
    ("name", "facts", "what"),
    [
        ("frames", {"pts_ns": [0, 10, 5, 20, 30]}, "times of frames run backwards"),
        ("frames", {"pts_ns": [0, 1, 2, 3, 2 * NS]}, f"a frame begins at {2 * NS} ns of a clip of {2 * NS} ns"),
        ("frames", {"pts_ns": [0, 1, 2, 3]}, "states 4 and 5 frames at once"),
        ("depth", {"fx": 0.0}, "fx is above zero, got 0.0"),
        ("depth", {"scale_m": -1.0}, "scale_m is above zero, got -1.0"),
        ("depth", {"cx": 1e4}, "cx = 10000.0 is far off a picture of width"),
    ],
)
def test_impossible_times_and_geometry_are_faults(
    tmp_path: Path, name: str, facts: dict[str, list[int] | float], what: str
) -> None:
    create_corpus(tmp_path, modalities=[name], recipe={})
    good = make_sample(0, [name])
    part = good.parts[name]
    write_unit(tmp_path, 0, [good], [name])
    write_unit(
        tmp_path, 1, [Sample("bad", good.clip, "", "", {name: Part(part.data, {**part.facts, **facts})})], [name]
    )
    faults = check(tmp_path)
    assert [(fault.shard, fault.key) for fault in faults] == [("shards/000001.parquet", "bad")]
    assert faults[0].what.startswith(f"{name}: {what}")


@pytest.mark.parametrize("name", names())
def test_every_modality_reads_back_and_has_no_faults(tmp_path: Path, name: str) -> None:
    corpus = make_corpus(tmp_path, units=1, per_unit=4, modalities=[name])
    assert corpus.check() == []
    for number, sample in enumerate(corpus.samples()):
        written = make_sample(number, [name], absent=["audio"] if number == 3 else [])
        assert dict(sample.parts) == dict(written.parts)
