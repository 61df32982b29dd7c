"""Raw video to corpus, and corpus to batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omniloom.pipeline.loader import Loader

__all__ = ["Loader"]


def __getattr__(name: str) -> Any:
    if name == "Loader":  # on first use: it imports torch
        from omniloom.pipeline.loader import Loader

        return Loader
    raise AttributeError(f"module 'omniloom.pipeline' has no attribute {name!r}")
