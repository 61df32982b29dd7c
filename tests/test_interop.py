"""Other people's tools read the corpus: webdataset, energon, HF datasets, DALI's reader, tar, DuckDB, pyarrow."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pytest

from omniloom.modalities import codecs, load
from omniloom.pipeline.corpus import Corpus
from tests.shards import add_column, make_corpus

MODALITIES = ("frames", "audio", "caption")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("interop"), units=2, per_unit=4, modalities=MODALITIES)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus to which depth was added."""
    path = tmp_path_factory.mktemp("grown")
    make_corpus(path, units=2, per_unit=4, modalities=MODALITIES)
    return add_column(path)


def test_plain_webdataset_reads_the_shards(corpus: Corpus) -> None:
    import webdataset as wds

    def decode(name: str, data: bytes) -> Any:  # nothing here unpickles
        if name.endswith("flac"):
            return codecs.decode("flac", data)
        return json.loads(data) if name.endswith("json") else data

    dataset = wds.WebDataset([str(tar) for tar in corpus.shards], shardshuffle=False).decode(decode)
    read = {sample["__key__"]: sample for sample in dataset}
    assert list(read) == corpus.table()["key"].to_pylist()
    for sample in corpus.samples():
        found = read[sample.key]
        assert found["frames.mov"] == sample.parts["frames"].data
        assert found["json"]["key"] == sample.key
        assert ("audio.flac" in found) == ("audio" in sample.parts)
        if "audio" in sample.parts:
            assert len(found["audio.flac"]) == sample.parts["audio"].facts["num_samples"]


def test_energon_reads_the_shards(tmp_path: Path) -> None:
    pytest.importorskip("megatron.energon", reason="needs omniloom[interop]")
    from megatron.energon import CrudeWebdataset, WorkerConfig, get_loader
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    corpus = make_corpus(tmp_path / "corpus", units=2, per_unit=4, modalities=MODALITIES)
    root = EPath(str(corpus.path / "shards"))
    tars = [tar.name for tar in corpus.shards]
    parts = WebdatasetPreparator.prepare_dataset(root, tars, split_parts_ratio=[("train", 1.0)], workers=1)
    assert parts == {"json", "frames.mov", "audio.flac", "caption.json"}
    config = WorkerConfig(rank=0, world_size=1, num_workers=0)
    # Without a decoder: the bytes of each part. Its own decoders would take "frames.mov" for a film, which it is.
    dataset = CrudeWebdataset(root, split_part="train", training=False, worker_config=config, decoder=None)
    read = {sample["__key__"]: dict(sample) for sample in get_loader(dataset.build())}
    assert read.keys() == {sample.key for sample in corpus}
    for sample in corpus.samples():
        found = {name: data for name, data in read[sample.key].items() if not name.startswith("_")}
        own = {load(name).suffix: part.data for name, part in sample.parts.items()}
        assert {name: data for name, data in found.items() if name != "json"} == own
        assert json.loads(found["json"])["key"] == sample.key
    assert corpus.check() == []  # what energon writes beside the shards is no fault


def test_hugging_faces_datasets_reads_the_shards(tmp_path: Path) -> None:
    """It wants the same members of every sample, and torchcodec for sound: a corpus without sound needs neither."""
    datasets = pytest.importorskip("datasets", reason="needs omniloom[interop]")
    corpus = make_corpus(tmp_path / "corpus", units=2, per_unit=4, modalities=("frames", "caption", "depth"))
    read = datasets.load_dataset(
        "webdataset",
        data_files={"train": [str(tar) for tar in corpus.shards]},
        split="train",
        streaming=True,
        cache_dir=str(tmp_path / "cache"),
    )
    count = 0
    for found in read.decode(False):
        sample = corpus[found["__key__"]]
        assert found["frames.mov"]["bytes"] == sample.parts["frames"].data
        assert found["depth.png"]["bytes"] == sample.parts["depth"].data
        assert found["caption.json"] == json.loads(sample.parts["caption"].data)
        assert found["json"]["source"] == sample.clip.source
        count += 1
    assert count == 8


def test_dalis_webdataset_reader_reads_the_shards(corpus: Corpus) -> None:
    dali = pytest.importorskip("nvidia.dali")
    types: Any = dali.types
    pipeline = dali.Pipeline(batch_size=8, num_threads=1, device_id=None)
    with pipeline:
        paths = [str(tar) for tar in corpus.shards]
        sound, record = dali.fn.readers.webdataset(
            paths=paths,
            ext=["audio.flac", "json"],
            missing_component_behavior="empty",
            dtypes=[types.UINT8, types.UINT8],
        )
        pipeline.set_outputs(sound, record)
    pipeline.build()
    sounds, records = pipeline.run()
    samples = list(corpus.samples())
    assert len(samples) == 8
    for number, sample in enumerate(samples):
        assert json.loads(np.array(records.at(number)).tobytes())["key"] == sample.key
        part = sample.parts.get("audio")
        assert np.array(sounds.at(number)).tobytes() == (part.data if part else b"")


def test_dali_selects_members_whose_suffix_has_a_dot(tmp_path: Path) -> None:
    """It splits a name at the first dot, so "depth.png" is one suffix."""
    dali = pytest.importorskip("nvidia.dali")
    types: Any = dali.types
    corpus = make_corpus(tmp_path, units=1, per_unit=3, modalities=("depth",))
    pipeline = dali.Pipeline(batch_size=3, num_threads=1, device_id=None)
    with pipeline:
        raw = dali.fn.readers.webdataset(paths=[str(corpus.shards[0])], ext=[load("depth").suffix])
        pipeline.set_outputs(dali.fn.decoders.image(raw, output_type=types.ANY_DATA, dtype=types.UINT16))
    pipeline.build()
    (pictures,) = pipeline.run()
    for number, sample in enumerate(corpus.samples()):
        assert np.array_equal(np.array(pictures.at(number))[..., 0], codecs.decode("png", sample.parts["depth"].data))


def test_tar_unpacks_the_shards(corpus: Corpus, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", corpus.shards[0], "-C", tmp_path], check=True, timeout=60)
    sample = next(corpus.samples())
    assert (tmp_path / f"{sample.key}.frames.mov").read_bytes() == sample.parts["frames"].data


def test_duckdb_reads_the_sidecars_as_one_table(corpus: Corpus) -> None:
    import duckdb

    query = f"SELECT count(*), sum(audio.size), max(len(frames.pts_ns)) FROM '{corpus.path}/shards/*.parquet'"
    [(count, audio_bytes, num_frames)] = duckdb.sql(query).fetchall()
    assert (count, audio_bytes, num_frames) == (8, corpus.stats()["modalities"]["audio"]["bytes"], 5)
    [(reason,)] = duckdb.sql(f"SELECT DISTINCT reason FROM '{corpus.path}/drops/*.parquet'").fetchall()
    assert reason == "no-video-frames"


def test_pyarrow_reads_the_sidecars_as_one_dataset(corpus: Corpus) -> None:
    paths = sorted(str(path) for path in (corpus.path / "shards").glob("*.parquet"))
    assert pyarrow.dataset.dataset(paths).to_table().equals(corpus.table())


def _members_by_key(tar: Path) -> dict[str, dict[str, Any]]:
    import webdataset as wds

    return {sample["__key__"]: sample for sample in wds.WebDataset(str(tar), shardshuffle=False)}


def test_plain_webdataset_reads_a_column_beside_its_shard_by_key(grown: Corpus) -> None:
    for shard in grown.shards:
        samples = _members_by_key(shard)
        column = _members_by_key(grown.path / "columns/depth" / shard.name)
        assert list(column) == [key for key in samples if "depth" in grown[key].parts]
        for key, members in column.items():
            joined = samples[key] | members
            assert {"frames.mov", "json", "depth.png", "depth.facts.json"} < set(joined)
            part = grown[key].parts["depth"]
            assert joined["depth.png"] == part.data
            assert json.loads(joined["depth.facts.json"])["parts"]["depth"] == part.facts


def test_dalis_webdataset_reader_reads_the_tars_of_a_column(grown: Corpus) -> None:
    dali = pytest.importorskip("nvidia.dali")
    types: Any = dali.types
    tars = sorted((grown.path / "columns/depth").glob("*.tar"))
    pipeline = dali.Pipeline(batch_size=6, num_threads=1, device_id=None)
    with pipeline:
        raw = dali.fn.readers.webdataset(paths=[str(tar) for tar in tars], ext=["depth.png"])
        pipeline.set_outputs(dali.fn.decoders.image(raw, output_type=types.ANY_DATA, dtype=types.UINT16))
    pipeline.build()
    (pictures,) = pipeline.run()
    written = [sample.parts["depth"].data for sample in grown.samples(["depth"]) if "depth" in sample.parts]
    assert len(written) == 6
    for number, data in enumerate(written):
        assert np.array_equal(np.array(pictures.at(number))[..., 0], codecs.decode("png", data))


def test_duckdb_joins_the_columns_to_the_shards_by_key(grown: Corpus) -> None:
    import duckdb

    shards, depth = (f"'{grown.path}/{folder}/*.parquet'" for folder in ("shards", "columns/depth"))
    query = f"SELECT key, split, depth.fx, reason FROM {shards} JOIN {depth} USING (key) ORDER BY unit"
    rows = {key: (split, fx, reason) for key, split, fx, reason in duckdb.sql(query).fetchall()}
    assert rows.keys() == {sample.key for sample in grown}
    for sample in grown:
        part = sample.parts.get("depth")
        assert rows[sample.key][:2] == (sample.facts["split"], part.facts["fx"] if part else None)
        assert (rows[sample.key][2] is None) == (part is not None)
    assert {reason for _, _, reason in rows.values()} == {None, "no-depth", "absent"}


def test_the_frames_member_plays_as_a_movie(corpus: Corpus) -> None:
    import io

    import av

    sample = next(corpus.samples())
    with av.open(io.BytesIO(sample.parts["frames"].data)) as movie:
        times = [frame.time for frame in movie.decode(video=0)]
    pts_ns = sample.parts["frames"].facts["pts_ns"]
    assert isinstance(pts_ns, list)
    assert np.allclose(np.array(times, float), np.array(pts_ns, float) / 1e9, atol=1e-5)
