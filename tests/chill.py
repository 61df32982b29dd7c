"""A made-up modality that is made from another: the opposite of warmth, and what warmth's network said in passing."""

from __future__ import annotations

from typing import Any

from omniloom.modalities.base import Ask, Footage, Made
from omniloom.modalities.base import no_models as models
from tests.warmth import Config, assemble, codec, encode, example, facts, letter, narrow, pieces, stem, tensor

__all__ = [
    "Config", "assemble", "codec", "encode", "example", "facts", "letter", "models", "narrow", "pieces", "stem",
    "tensor",
]  # fmt: skip

suffix = "chill.json"
needs = ("warmth",)


def extract(footage: Footage, config: Any, ask: Ask) -> Made | None:
    """float32 (T,), one longer than the warmth where something was said in passing; None without warmth."""
    warmth = footage.made.get("warmth")
    if warmth is None:
        return None
    said = [footage.also["chill"]] if "chill" in footage.also else []
    return Made([*(-warmth), *said], "from warmth")
