"""Training on two ranks through Ray Train: one run, whole batches, continued by the same command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

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
