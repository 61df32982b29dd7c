"""From shards on disk to a trained and evaluated model: every modality, through the real loader."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omniloom.modalities.base import Window
from omniloom.pipeline.corpus import Corpus
from omniloom.pipeline.loader import Loader
from omniloom.trainer.evaluate import evaluate
from omniloom.trainer.mico import MiCo
from omniloom.trainer.train import TrainConfig, TrainRecipe, train
from tests.shards import make_corpus
from tests.toys import SMALL

torch.set_num_threads(1)
EVERYTHING = ("frames", "audio", "transcript", "caption", "depth", "normal", "points")
RECIPE = TrainRecipe(
    replace(SMALL, modalities=("frames", "audio", "transcript", "depth", "normal", "points")),
    TrainConfig(steps=4, batch_size=4, checkpoint_every=2, tasks="ret%tva%tvasdnp_cap%tvas", device="cpu"),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("shards"), units=2, per_unit=10, modalities=EVERYTHING)


def test_a_corpus_becomes_a_model_that_can_be_scored(corpus: Corpus, tmp_path: Path) -> None:
    run, control = tmp_path / "run", tmp_path / "control"
    half = replace(RECIPE, train=replace(RECIPE.train, steps=2))
    train(half, corpus, run, workers=0)
    seen: list[int] = []
    report = train(RECIPE, corpus.path, run, lambda at: seen.append(at.step))
    assert seen == [3, 4]
    assert (report.steps, report.samples) == (4, 8)
    assert 0 <= report.data_wait_fraction <= 1
    assert math.isfinite(report.loss)
    train(replace(RECIPE, train=replace(RECIPE.train, permute_captions=True)), corpus, control)

    progress: list[tuple[int, int]] = []
    scores = evaluate(run, corpus, controls={"permuted": control}, on_progress=lambda *at: progress.append(at))
    assert scores["n"] == 4  # every fifth of twenty
    assert set(scores["retrieval"]) == {"t->va", "va->t", "t->vasdnp", "vasdnp->t"}
    assert set(scores["controls"]) == {"untrained", "permuted"}
    assert scores["retrieval"]["t->va"]["r10"] == 1.0  # four candidates
    assert scores["chance"]["r1"] >= 0.25
    assert progress[-1] == (12, 12)

    loader = Loader(corpus, EVERYTHING, 4, window=RECIPE.model.window(train=False), train=False)
    model = MiCo.from_pretrained(run)
    vectors = torch.cat([model.embed(batch, "va") for batch in loader])
    assert vectors.shape == (20, SMALL.contra_dim)


def test_what_a_corpus_lacks_is_said_before_any_work(corpus: Corpus, tmp_path: Path) -> None:
    poor = make_corpus(tmp_path / "poor", units=1, per_unit=5)
    with pytest.raises(ValueError, match=r"lacks transcript, depth, normal, points: generate them"):
        train(RECIPE, poor, tmp_path / "run")
    train(RECIPE, corpus, tmp_path / "run2")
    with pytest.raises(ValueError, match="split 'validation'"):
        evaluate(tmp_path / "run2", corpus, split="validation")


def test_a_window_is_what_the_model_is_built_for() -> None:
    assert SMALL.window(train=True) == Window(
        num_frames=2, image_px=24, num_samples=16_000, num_points=64, train=True, seed=0
    )
