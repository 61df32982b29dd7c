"""The model and how it learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omniloom.trainer.mico import MiCo

__all__ = ["MiCo"]


def __getattr__(name: str) -> Any:
    if name == "MiCo":  # on first use: it imports torch and timm
        from omniloom.trainer.mico import MiCo

        return MiCo
    raise AttributeError(f"module 'omniloom.trainer' has no attribute {name!r}")
