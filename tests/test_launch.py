"""Training on two ranks through Ray Train: one run, whole batches, continued after deaths and by the same command."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from omniloom.pipeline.cluster import ray_session
from omniloom.trainer.launch import launch
from omniloom.trainer.mico import MiCo
from omniloom.trainer.train import TrainConfig, TrainRecipe
from tests.shards import make_corpus
from tests.toys import SMALL

RECIPE = TrainRecipe(
    replace(SMALL, modalities=("frames", "audio")),
    TrainConfig(steps=2, batch_size=3, checkpoint_every=2, tasks="ret%tva_cap%tva", device="cpu"),
)


def test_two_ranks_train_one_run_and_the_same_command_continues_it(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=2, per_unit=10, modalities=("frames", "audio", "caption"))
    longer = replace(RECIPE, train=replace(RECIPE.train, steps=3))
    with ray_session(workers=3):
        first = launch(RECIPE, corpus.path, tmp_path / "run", ranks=2, threads=0)
        second = launch(longer, corpus.path, tmp_path / "run", ranks=2, threads=0)
    assert (first.steps, first.samples) == (2, 2 * 3 * 2)
    assert (second.steps, second.samples) == (3, 1 * 3 * 2)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3]
    assert MiCo.from_pretrained(tmp_path / "run").config == RECIPE.model


def _kill_a_rank(metrics: Path, killed: list[str]) -> None:
    """Kills one of the ranks' processes once three steps were taken."""
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        time.sleep(0.02)
    for process in psutil.Process().children(recursive=True):
        if "TrainWorker" in (name := " ".join(process.cmdline())):
            process.kill()
            killed.append(name)
            return


@pytest.mark.timeout(1200)
def test_a_rank_that_dies_costs_nothing_and_what_cannot_be_is_said_in_a_line(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=2, per_unit=10, modalities=("frames", "audio", "caption"))
    long = replace(RECIPE, train=replace(RECIPE.train, steps=24, checkpoint_every=2))
    killed: list[str] = []
    with ray_session(workers=3):
        killer = threading.Thread(target=_kill_a_rank, args=(tmp_path / "run/metrics.jsonl", killed), daemon=True)
        killer.start()
        report = launch(long, corpus.path, tmp_path / "run", ranks=2, threads=0)
        whole = launch(long, corpus.path, tmp_path / "whole", ranks=2, threads=0)
        with pytest.raises(ValueError, match=r"another train\.seed: use another --run"):
            launch(replace(long, train=replace(long.train, seed=1)), corpus.path, tmp_path / "run", ranks=2, threads=0)
    assert len(killed) == 1
    assert report.steps == 24
    assert report.samples < whole.samples == 24 * 2 * 3  # the second life did not begin at the start
    for name in ("model.safetensors", "optimizer.safetensors"):
        first, second = (tmp_path / run / "checkpoints/00000024" / name for run in ("run", "whole"))
        assert first.read_bytes() == second.read_bytes()
