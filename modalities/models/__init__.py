"""Pretrained networks that extractors call: one file a family, loaded once a worker.

Each file has `GPUS`, the fraction of a GPU that one loaded model wants where there is one, and what `Family` lists.
Those whose answer to each frame is its own may say `at_once(ref) -> int`, how many of them are worth asking about at
once. A family from outside is named by its module path, as in `ModelRef("mylab.sounds", "large")`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from threading import Lock
from typing import Any, Protocol, cast

from omniloom.modalities.base import Ask, ModelRef


class Family(Protocol):
    """What a file in this folder offers."""

    GPUS: float

    def check(self, ref: ModelRef) -> None:
        """Fast. Raises ValueError, saying how to get the model, if `load` could not work."""

    def load(self, ref: ModelRef) -> Callable[..., Any]:
        """The model, ready to be called; what it takes and gives is the family's own, picklable."""
        ...

    def describe(self, ref: ModelRef) -> tuple[str, str]:
        """Its name and revision, for the sidecar: equal models have equal ones on every machine."""
        ...

    def licence(self, ref: ModelRef) -> str:
        """What its weights may be used for, as their makers name it ("MIT"); "" where they do not say."""
        ...


def family_of(ref: ModelRef) -> Family:
    """The module that knows the model. Raises ValueError if there is none of that name."""
    name = ref.family if "." in ref.family else f"{__name__}.{ref.family}"
    try:
        return cast(Family, import_module(name))
    except ModuleNotFoundError as error:
        if error.name and not name.startswith(error.name):
            raise
        raise ValueError(f"no family of models is called {ref.family!r}: there is no module {name}") from error


def licence_of(ref: ModelRef) -> str:
    """The licence of the model's weights; "" where it is not known, or the family does not tell."""
    tell: Callable[[ModelRef], str] | None = getattr(family_of(ref), "licence", None)
    return tell(ref) if tell else ""


def ask_here() -> Ask:
    """An `Ask` that loads each model once, in this process, at its first question, and asks it one at a time."""
    return _ask


def _ask(ref: ModelRef, *inputs: Any) -> Any:
    with _loading:
        model, turn = _loaded(ref)
    # As in an actor: a model need not bear two questions at once, and its threads need not be counted twice.
    with turn:
        return model(*inputs)


_loading = Lock()


@cache
def _loaded(ref: ModelRef) -> tuple[Callable[..., Any], Lock]:
    return family_of(ref).load(ref), Lock()
