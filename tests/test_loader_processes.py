"""Decoding in processes: the same batches as in threads, in memory that is used again, and deaths that are told."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from omniloom.modalities.base import Window
from omniloom.pipeline import Loader, processes
from omniloom.pipeline.batch import Batch
from omniloom.pipeline.corpus import Corpus
from omniloom.pipeline.slabs import Slabs
from tests.shards import SMALL, add_column, flip, make_corpus

WINDOW = Window(num_frames=2, image_px=16, num_samples=1600, num_points=64)
ALL = (*SMALL, "transcript", "normal", "points")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    path = tmp_path_factory.mktemp("processes") / "corpus"
    make_corpus(path, 3, 8, ALL)
    return add_column(path, "depth", units=[0, 2])  # so that samples lack what others have


@pytest.fixture
def damaged(tmp_path: Path) -> Corpus:
    corpus = make_corpus(tmp_path / "damaged", 3, 8)
    for row in corpus.table().to_pylist()[1:12:5]:
        flip(corpus.path / f"shards/{row['unit']:06d}.tar", row["caption"]["offset"] + 5)
    return corpus


def make(corpus: Corpus, modalities: tuple[str, ...] = (*ALL, "depth"), **kwargs: Any) -> Loader:
    options: dict[str, Any] = {"window": WINDOW, "workers": 2, "backend": "cpu", **kwargs}
    return Loader(corpus, modalities, 5, **options)


def same(one: Batch, other: Batch) -> bool:
    return (
        (one.keys, one.sources, one.texts) == (other.keys, other.sources, other.texts)
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
        and all(torch.equal(one.present[name], other.present[name]) for name in one.present)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 4},
        {"epochs": 3, "tail": "pad"},
        {"epochs": 2, "tail": "partial", "world_size": 4, "rank": 3, "micro_batch": 5, "share": ["depth"]},
        {"train": False},
        {"train": False, "split": "test"},
        {"epochs": 2, "permute": ["audio"]},
    ],
    ids=str,
)
def test_processes_make_the_batches_that_threads_make(corpus: Corpus, options: dict[str, Any]) -> None:
    loaders = [make(corpus, processes=kind, **options) for kind in (False, True)]
    lacking = 0
    for one, other in zip(*loaders, strict=True):
        assert same(one, other)
        lacking += sum(int((~mask).sum()) for mask in one.present.values())
    assert lacking, "rows of zeros, in memory where other batches were"
    assert loaders[0].bytes_read == loaders[1].bytes_read > 0
    assert loaders[0].backend_report == loaders[1].backend_report


@pytest.mark.parametrize("train", [True, False])
def test_bad_samples_are_replaced_counted_and_kept_in_the_state_alike(damaged: Corpus, train: bool) -> None:
    options: dict[str, Any] = {"on_bad": "skip", "train": train, "epochs": 2 if train else None}
    loaders = [make(damaged, SMALL, processes=kind, **options) for kind in (False, True)]
    assert all(same(one, other) for one, other in zip(*loaders, strict=True))
    assert sorted(bad.key for bad in loaders[0].bad) == sorted(bad.key for bad in loaders[1].bad)
    assert len(loaders[1].bad) == 3
    with pytest.raises(ValueError, match="more than 2 samples are bad"):
        list(make(damaged, SMALL, processes=True, max_bad=2, **options))


def test_a_batch_that_is_kept_stays_as_it_was_given(corpus: Corpus) -> None:
    kept = list(make(corpus, processes=True, epochs=3))
    assert all(same(one, other) for one, other in zip(kept, make(corpus, workers=0, epochs=3), strict=True))
    first = make(corpus, processes=True, epochs=3)
    views = [batch.tensors["frames"][0, 0] for batch in first]  # the batch is gone, a part of it is not
    assert all(torch.equal(view, batch.tensors["frames"][0, 0]) for view, batch in zip(views, kept, strict=True))


def test_memory_is_used_again_when_nobody_holds_the_batch() -> None:
    slabs = Slabs(kept=2)
    shapes = {"frames": (2, 3), "depth": (2, 5)}
    slab, arrays = slabs.take(shapes)
    arrays["frames"][:] = 7
    number = slab.number
    del slab
    part = arrays["frames"][1]
    del arrays
    assert slabs.take(shapes)[0].number != number, "a part of it is held"
    assert (part == 7).all()
    del part
    gc.collect()
    slab, arrays = slabs.take(shapes)
    assert slab.number == number
    assert not np.shares_memory(arrays["frames"], arrays["depth"])
    assert {name: array.shape for name, array in arrays.items()} == shapes
    many = [slabs.take(shapes) for _ in range(6)]
    assert len(slabs.numbers()) == 7
    del many
    gc.collect()
    assert len(slabs.numbers()) == 3, "more than may wait are given back to the system"


def test_processes_end_with_the_iteration(corpus: Corpus) -> None:
    stream: Any = iter(make(corpus, processes=True))
    next(stream)
    decoding = _decoding()
    assert len(decoding) == 2
    stream.close()
    assert not psutil.wait_procs(decoding, timeout=5)[1]


def test_a_process_that_is_killed_is_told_with_what_it_read(corpus: Corpus, capfd: pytest.CaptureFixture[str]) -> None:
    processes._nurseries.clear()  # a new one writes to the standard error of this test
    stream = iter(make(corpus, processes=True))
    key = next(stream).keys[0]
    for process in _decoding():
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"a decoding process ended while it read .{32}.*want of memory"):
        for _ in stream:
            pass
    heard, began = "", time.monotonic()
    while "killed by SIGKILL" not in heard and time.monotonic() < began + 10:
        heard += capfd.readouterr().err
        time.sleep(0.01)
    assert "killed by SIGKILL" in heard
    assert next(iter(make(corpus, processes=True))).keys[0] == key, "and the next iteration has new ones"


def test_what_cannot_be_is_refused_and_more_than_four_workers_are_processes(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="processes=True needs workers"):
        make(corpus, processes=True, workers=0)
    with pytest.raises(ValueError, match="leave processes=True"):
        make(corpus, processes=True, backend="dali")
    stream: Any = iter(make(corpus, workers=5))
    next(stream)
    assert len(_decoding()) == 5
    stream.close()
    assert not _decoding_is_left()


def _decoding() -> list[psutil.Process]:
    """Processes that were forked from the one that this process started for it."""
    return [
        process
        for nursery in psutil.Process().children()
        if nursery.status() != psutil.STATUS_ZOMBIE and "import nurse" in " ".join(nursery.cmdline())
        for process in nursery.children()
    ]


def _decoding_is_left() -> bool:
    return bool(psutil.wait_procs(_decoding(), timeout=5)[1])


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not _decoding_is_left()
