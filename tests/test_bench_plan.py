"""The plan benchmark writes sidecars as a build does, and loaders plan over tens of thousands of samples in little."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from omniloom.benchmarks.plan import BATCH, as_markdown, measured
from omniloom.benchmarks.plan_corpus import LACKING, MODALITIES, PER_UNIT, write_corpus
from omniloom.pipeline import Loader
from omniloom.pipeline.corpus import Corpus, open_corpus

UNITS = 540
"""More than a block of those whose fields are kept."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return open_corpus(write_corpus(tmp_path_factory.mktemp("plan") / "corpus", UNITS * PER_UNIT))


def test_the_sidecars_are_as_a_build_writes_them(corpus: Corpus) -> None:
    assert len(corpus) == UNITS * PER_UNIT
    table = corpus.fields(["key", "source_id", "duration_ns", "split", *(f"{name}.size" for name in MODALITIES)])
    assert len(set(table["key"].to_pylist())) == len(table), "keys are unlike"
    assert len(set(table["source_id"].to_pylist())) == UNITS
    for name, share in LACKING.items():
        assert abs(table[name].null_count / len(table) - share) < 0.07
    [row] = corpus.table().slice(777, 1).to_pylist()
    assert len(row["frames"]["sizes"]) == len(row["frames"]["pieces_xxh3"]) == len(row["frames"]["pts_ns"]) == 20


def test_an_epoch_of_many_units_holds_each_sample_once_in_any_order(corpus: Corpus) -> None:
    keys = sorted(corpus.fields(["key"])["key"].to_pylist())
    for shuffle in ("global", "blocks"):
        loader = Loader(corpus, ("caption",), PER_UNIT, epochs=1, workers=0, shuffle=shuffle, open_shards=64)
        assert loader.num_steps == UNITS
        picks = [loader._pick(loader._slice(step)).row for step in range(UNITS)]
        assert sorted(itertools.chain.from_iterable(picks)) == list(range(len(keys)))


def test_a_plan_is_measured_and_takes_little_memory(corpus: Corpus, tmp_path: Path) -> None:
    report = measured(corpus.path, tmp_path / "cache", ("one order", "share and buckets"))
    assert (report["samples"], report["units"]) == (UNITS * PER_UNIT, UNITS)
    assert report["kept_mb"] > 0
    for case in report["cases"].values():
        assert 0 < case["peak_mb"] - case["import_mb"] < 300, "the rows of all sidecars as objects would be more"
        assert case["start_s"] > 0
    first, again = (report["cases"][name]["start_cpu_s"] for name in ("share and buckets", "share and buckets, again"))
    assert again < first, "what was kept was used"
    text = as_markdown(report)
    assert f"{UNITS * PER_UNIT} samples in {UNITS} units" in text
    assert f"batches of {BATCH}" in text
