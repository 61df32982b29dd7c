"""The model with each way to compare: it learns, absent modalities change nothing, and search uses the same measure."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from omniloom.recipes.config import train_recipe
from omniloom.trainer.evaluate import encode, retrieval
from omniloom.trainer.mico import MiCo
from omniloom.trainer.objectives import Objective, ObjectiveConfig
from omniloom.trainer.tasks import parse_tasks
from tests.toys import SMALL, World, make_mico, make_world

torch.set_num_threads(1)
NAMES = ("frames", "audio", "depth")
CHOICES = [("volume", "softmax"), ("area", "softmax"), ("cosine", "sigmoid"), ("volume", "sigmoid")]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(12, 0, SMALL.window(train=False))


def _model(world: World, similarity: Any, contrast: Any) -> MiCo:
    temperature = 0.1 if contrast == "sigmoid" else 0.07
    return make_mico(world, replace(SMALL, similarity=similarity, contrast=contrast, temperature=temperature))


@pytest.mark.parametrize(("similarity", "contrast"), CHOICES)
def test_a_model_learns_by_each_of_them(world: World, similarity: str, contrast: str, tmp_path: Path) -> None:
    model = _model(world, similarity, contrast)
    objective = Objective(model, ObjectiveConfig(modality_dropout=0.0, label_smoothing=0.0))
    batch, tasks = world.batch(range(12)), parse_tasks("con%tvad%ta")
    batch.present["audio"][3] = batch.present["frames"][5] = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses: list[float] = []
    # The sigmoid first has to find its bias.
    for step in range(25 if contrast == "softmax" else 80):
        optimizer.zero_grad()
        loss = objective(batch, tasks, torch.Generator().manual_seed(step))["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert math.isfinite(losses[-1])
    assert losses[-1] < 0.75 * losses[0]
    if contrast == "sigmoid":
        assert model.logit_bias is not None
        assert float(model.logit_bias.detach()) != -10
        # -(scale similarity + bias) of unrelated pairs: their cosine is 0, less a volume of nearly 1.
        assert abs(losses[0] - (10 if similarity == "cosine" else 20)) < 2
    model.eval().save_pretrained(tmp_path)
    again = MiCo.from_pretrained(tmp_path)
    assert again.config.similarity == similarity
    whole = world.batch(range(12))
    found = [retrieval(one, encode(one, whole), [NAMES]) for one in (model, again)]
    assert found[0] == found[1]
    assert found[0]["t->vad"]["mrr"] > 0.4  # by chance .26


@pytest.mark.parametrize("similarity", ["cosine", "volume", "area"])
def test_an_absent_sense_is_as_if_it_had_not_been_asked_for(world: World, similarity: str) -> None:
    model = _model(world, similarity, "softmax").eval()
    batch = world.batch(range(4))
    batch.present["audio"][2] = False
    with torch.no_grad():
        context = model.encode_context(batch)
        texts = model.text_features(model.tokenize(batch.texts["caption"]))
        with_all = model.similar(texts, model.vectors(context, NAMES))
        without_sound = model.similar(texts, model.vectors(context, ("frames", "depth")))
    torch.testing.assert_close(with_all[:, 2], without_sound[:, 2])
    assert not torch.allclose(with_all[:, 1], without_sound[:, 1])


def test_what_is_seen_is_one_vector_however_many_modalities_show_it(world: World) -> None:
    model = _model(world, "volume", "softmax").eval()
    with torch.no_grad():
        context = model.encode_context(world.batch(range(3)))
        vectors = model.vectors(context, ("frames", "audio", "depth", "normal", "points"))
        assert vectors.shape == (3, 2, SMALL.contra_dim)
        torch.testing.assert_close(vectors[:, 0], model.pool(context, ("frames", "depth", "normal", "points")))
        torch.testing.assert_close(vectors[:, 1], model.pool(context, ("audio",)))
        assert model.vectors(context, ("audio", "depth")).shape == (3, 2, SMALL.contra_dim)
        assert model.vectors(context, ("frames", "depth")).shape == (3, 1, SMALL.contra_dim)


def test_recipes_choose_them_and_refuse_others() -> None:
    model = train_recipe("mico-tiny", ["model.similarity=volume", "model.contrast=sigmoid"]).model
    assert (model.similarity, model.contrast) == ("volume", "sigmoid")
    with pytest.raises(ValueError, match="cosine, volume or area"):
        replace(SMALL, similarity="distance")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="softmax or sigmoid"):
        replace(SMALL, contrast="hinge")  # pyright: ignore[reportArgumentType]
