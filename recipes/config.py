"""Typed recipes: YAML fills the dataclasses that each stage defines beside its own code.

A recipe file is a mapping of sections (`clips:`, `frames:`, `depth:`, `model:`, `train:` ...). `extends: NAME` starts
from another one. On the command line `key=value` overrides any of them: `clips.length_s=5`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from omniloom.modalities import load, names, short_name

if TYPE_CHECKING:
    from omniloom.pipeline.recipe import BuildRecipe
    from omniloom.trainer.train import TrainRecipe

_HERE = Path(__file__).parent
_BUILD_KEYS = ("modalities", "require", "test_fraction")
_OTHER_VERBS = ("model", "train", "demo")
"""Sections that a build leaves to others: one recipe file may describe a whole run."""

Section = TypeVar("Section")


class RecipeError(ValueError):
    """A recipe, or an override of one, that cannot be read: the message names the key and the repair."""


def recipe_names() -> list[str]:
    """Recipes that come with omniloom, by name."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def build_recipe(recipe: str | None, overrides: Sequence[str] = ()) -> BuildRecipe:
    """The build a recipe describes. Raises `RecipeError`."""
    from omniloom.pipeline.clips import ClipsConfig
    from omniloom.pipeline.probe import StreamsConfig
    from omniloom.pipeline.recipe import DEFAULT_MODALITIES, BuildRecipe
    from omniloom.pipeline.signals import SignalsConfig

    filled = _fill(recipe or "build", overrides)
    modalities = tuple(filled.get("modalities") or DEFAULT_MODALITIES)
    known = _sections_of(modalities)
    own = {"clips": ClipsConfig, "streams": StreamsConfig, "signals": SignalsConfig}
    typed = _typed(filled, {**own, **known}, plain=_BUILD_KEYS, others=_OTHER_VERBS)
    chosen = {short_name(name) for name in modalities}
    try:
        return BuildRecipe(
            modalities=modalities,
            require=tuple(filled.get("require", BuildRecipe.require)),
            clips=typed["clips"],
            streams=typed["streams"],
            signals=typed["signals"],
            sections={name: typed[name] for name in known if name in chosen},
            test_fraction=float(filled.get("test_fraction", BuildRecipe.test_fraction)),
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(str(error)) from error


def generate_sections(recipe: str | None, modalities: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """By short name the section of each modality, and that of frames, that a recipe gives. Raises `RecipeError`."""
    filled = _fill(recipe or "generate", overrides)
    known = _sections_of((*modalities, *(filled.get("modalities") or ())))
    others = ("clips", "streams", "signals", *_OTHER_VERBS)
    typed = _typed(filled, known, plain=_BUILD_KEYS, others=others)
    chosen = {"frames", *map(short_name, modalities)}
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key.partition(".")[0] not in chosen:
            raise RecipeError(
                f"{key} changes nothing here: it is no setting of {', '.join(map(short_name, modalities))}"
            )
    return {name: typed[name] for name in chosen}


def train_recipe(recipe: str | None, overrides: Sequence[str] = ()) -> TrainRecipe:
    """The training a recipe describes. Raises `RecipeError`."""
    from omniloom.trainer.mico import MiCoConfig
    from omniloom.trainer.train import TrainConfig, TrainRecipe

    filled = _fill(recipe or "mico-tiny", overrides)
    typed = _typed(
        filled,
        {"model": MiCoConfig, "train": TrainConfig},
        plain=_BUILD_KEYS,
        others=("clips", "streams", "signals", "demo", *names(), *map(short_name, filled.get("modalities") or ())),
    )
    return TrainRecipe(model=typed["model"], train=typed["train"])


def section(recipe: str, name: str, kind: type[Section], overrides: Sequence[str] = ()) -> Section:
    """One section of a recipe as its dataclass, when only that one is wanted. Raises `RecipeError`."""
    filled = _fill(recipe, overrides)
    return cast(Section, _typed({name: filled.get(name)}, {name: kind}, plain=(), others=())[name])


def _sections_of(modalities: Sequence[str]) -> dict[str, type[Any]]:
    """The `Config` of every modality of this package and of those named, by short name."""
    try:
        return {short_name(name): load(name).Config for name in (*names(), *modalities)}
    except (ValueError, ModuleNotFoundError) as error:
        raise RecipeError(f"modalities: {error}") from error


def _fill(recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe's plain values with what it extends below them and the overrides on top."""
    chain: list[DictConfig] = []
    seen: list[str] = []
    name: str | None = recipe
    while name is not None:
        if name in seen:
            raise RecipeError(f"recipes extend each other in a circle: {' -> '.join([*seen, name])}")
        seen.append(name)
        values = _read(name, beside=seen[-2] if len(seen) > 1 else None)
        name = values.pop("extends", None)
        chain.insert(0, OmegaConf.create(values))
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key.strip():
            raise RecipeError(f"override {override!r} is not key=value, e.g. clips.length_s=5")
    try:
        merged = OmegaConf.merge(*chain, OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise RecipeError(_one_line(error)) from error
    return cast(dict[str, Any], OmegaConf.to_container(merged))


def _read(name: str, beside: str | None) -> dict[str, Any]:
    named = _HERE / f"{name}.yaml"
    path = named if named.is_file() else Path(name)
    if not path.is_file() and beside is not None:
        path = Path(beside).parent / name
    if not path.is_file():
        near = get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(
            f"no recipe {name!r}: {hint}known are {', '.join(recipe_names())}, or give the path of a .yaml file"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {_one_line(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds a {type(values).__name__}: a recipe is a mapping of sections such as 'clips:'")
    return cast(dict[str, Any], values)


def _typed(
    filled: Mapping[str, Any], sections: Mapping[str, type[Any]], *, plain: Sequence[str], others: Sequence[str]
) -> dict[str, Any]:
    """Each section as its own dataclass. Keys outside `sections`, `plain` and `others` (another verb's) are refused."""
    known = {*sections, *plain, *others}
    for key in filled:
        if key not in known:
            near = get_close_matches(key, sorted(known), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RecipeError(f"unknown recipe key {key!r}.{hint} Sections are: {', '.join(sorted(known))}")
    typed: dict[str, Any] = {}
    for name, kind in sections.items():
        schema = OmegaConf.structured(kind)
        OmegaConf.set_readonly(schema, False)  # frozen dataclasses arrive read-only
        try:
            typed[name] = OmegaConf.to_object(OmegaConf.merge(schema, filled.get(name) or {}))
        except ConfigKeyError as error:
            fields = ", ".join(f"{name}.{field}" for field in kind.__dataclass_fields__)
            raise RecipeError(f"{name}: {_one_line(error)}. Its keys are: {fields}") from error
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None)
            raise RecipeError(f"{f'{name}.{key}' if key else name}: {_one_line(error)}") from error
        except (TypeError, ValueError) as error:  # the dataclass's own validation
            raise RecipeError(f"{name}: {error}") from error
    return typed


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
