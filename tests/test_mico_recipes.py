"""The MiCo recipes fill their dataclasses, and their tasks fit their models."""

from __future__ import annotations

import pytest

from omniloom.modalities import short_name
from omniloom.recipes.config import train_recipe
from omniloom.trainer.tasks import context_letters, parse_tasks

NAMES = [f"mico-{size}{twin}" for size in ("tiny", "small", "base", "large") for twin in ("", "-faithful")]


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_of_every_size_is_typed_and_its_tasks_fit_its_model(name: str) -> None:
    recipe = train_recipe(name)
    tasks = parse_tasks(recipe.train.tasks, (*recipe.model.modalities, recipe.model.text))
    assert {task.objective for task in tasks} == {"contrastive", "matching", "caption"}
    used = {modality for task in tasks for context in task.contexts for modality in context}
    assert used == {short_name(modality) for modality in recipe.model.modalities}
    if recipe.model.fusion == "concat_linear":
        wanted = {
            frozenset(context_letters(context)) for task in tasks for context in task.contexts if len(context) > 1
        }
        assert wanted <= {frozenset(letters) for letters in recipe.model.combinations}


def test_overrides_reach_nested_keys() -> None:
    recipe = train_recipe("mico-tiny", ["train.steps=7", "train.optim.lr=0.1", "model.modalities=[frames]"])
    assert (recipe.train.steps, recipe.train.optim.lr, recipe.model.modalities) == (7, 0.1, ("frames",))
