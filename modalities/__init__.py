"""What a clip can be seen as: one file, one modality. Only NumPy is imported here."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import cast

from omniloom.modalities.base import Modality
from omniloom.modalities.sample import Clip, Drop, Part, Rejected, Sample, SourceId

__all__ = ["Clip", "Drop", "Modality", "Part", "Rejected", "Sample", "SourceId", "load", "names"]

_NOT_MODALITIES = {
    "__init__",
    "base",
    "sample",
    "codecs",
    "geometry",
    "mp4",
    "others",
    "remux",
    "cameras",
    "motion",
    "alignment",
    "clouds",
    "metres",
}
_CONTRACT = sorted({name for name in {**Modality.__annotations__, **vars(Modality)} if not name.startswith("_")})


def names() -> tuple[str, ...]:
    """Names of the modalities in this folder, sorted: the files that are there, no registry."""
    found = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return tuple(sorted(found - _NOT_MODALITIES))


@cache
def load(name: str) -> Modality:
    """The modality of that name ("depth"), or one from outside by its module path ("mylab.thermal").

    Raises ValueError naming the known modalities if there is none, or what the module lacks if it is not one.
    """
    if "." not in name and name not in names():
        raise ValueError(
            f"unknown modality {name!r}: known are {', '.join(names())}, or give a module path like 'mylab.thermal'"
        )
    module = import_module(name if "." in name else f"omniloom.modalities.{name}")
    missing = [member for member in _CONTRACT if not hasattr(module, member)]
    if missing:
        raise ValueError(
            f"{module.__name__} is not a modality: it lacks {', '.join(missing)} (see omniloom/modalities/base.py)"
        )
    return cast(Modality, module)


def short_name(name: str) -> str:
    """The name a modality goes by in recipes, sidecars and batches: the last part of its module path."""
    return name.rpartition(".")[2]
