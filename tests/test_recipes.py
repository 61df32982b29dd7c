"""Recipes: what a wrong key answers, how one recipe extends another, and that named ones are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from omniloom.recipes import config
from omniloom.recipes.config import RecipeError, build_recipe, recipe_names, train_recipe


def test_overrides_reach_the_dataclass_that_owns_the_key() -> None:
    recipe = build_recipe(
        None, ["clips.by=shots", "clips.length_s=7.5", "frames.per_second=3", "modalities=[frames,audio]"]
    )
    assert recipe.clips.by == "shots"
    assert recipe.clips.length_s == 7.5
    assert recipe.sections["frames"].per_second == 3
    assert recipe.modalities == ("frames", "audio")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("clips.lenght_s=5", "length_s"),
        ("clip.length_s=5", "'clips'"),
        ("clips.by=shot", "shots"),
        ("clips.length_s=long", "clips"),
        ("clips.length_s=-1", "length_s"),
        ("modalities=[frames,dept]", "depth"),
        ("modalities=[normal]", "depth"),
        ("require=[audoi]", "audoi"),
        ("clips.by", "key=value"),
        ("test_fraction=2", "test_fraction"),
    ],
)
def test_a_wrong_override_is_refused_and_the_repair_named(override: str, named: str) -> None:
    with pytest.raises(RecipeError, match=r".") as caught:
        build_recipe(None, [override])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="mico-tiny"):
        train_recipe("mico-tyni")


def test_a_file_extends_a_named_recipe_and_another_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: build\nclips: {length_s: 3}\nframes: {per_second: 5}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nclips: {length_s: 4}\n")
    recipe = build_recipe(str(tmp_path / "mine.yaml"))
    assert (recipe.clips.length_s, recipe.sections["frames"].per_second) == (4, 5)


def test_recipes_that_extend_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {tmp_path / other}.yaml\n")
    with pytest.raises(RecipeError, match="circle"):
        build_recipe(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1,\n", "!!python/object/apply:os.system ['true']\n"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError):
        build_recipe(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize("name", recipe_names())
def test_every_named_recipe_describes_a_build_and_a_training(name: str) -> None:
    assert build_recipe(name).modalities
    if name != "build":
        assert train_recipe(name).train.steps > 0


def test_every_promised_recipe_is_there() -> None:
    sizes = ("tiny", "small", "base", "large")
    promised = {"build", "demo", *(f"mico-{size}" for size in sizes), *(f"mico-{size}-faithful" for size in sizes)}
    assert promised <= set(recipe_names())


def test_the_recipe_hash_follows_what_decides_a_sample_and_nothing_else() -> None:
    same = build_recipe(None), build_recipe("build", ["clips.length_s=10"])
    assert same[0].hash == same[1].hash
    assert build_recipe(None, ["clips.length_s=11"]).hash != same[0].hash
    assert build_recipe(None, ["frames.per_second=2"]).hash == same[0].hash


def test_a_recipe_comes_back_from_its_plain_values() -> None:
    from omniloom.pipeline.recipe import recipe_from

    recipe = build_recipe(None, ["clips.by=shots", "modalities=[frames,audio,caption]"])
    assert recipe_from(recipe.as_dict()) == recipe


def test_a_section_can_be_read_alone() -> None:
    from omniloom.recipes.demo import DemoConfig

    assert config.section("demo", "demo", DemoConfig, ["demo.seed=5"]).seed == 5
    with pytest.raises(RecipeError, match="sede"):
        config.section("demo", "demo", DemoConfig, ["demo.sede=5"])
