"""omniloom turns raw video into omni-modal training corpora and trains a compact MiCo model on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omniloom.pipeline.corpus import Corpus, open_corpus

__version__ = "0.1.0"
__all__ = ["Corpus", "__version__", "open_corpus"]


def __getattr__(name: str) -> Any:
    # Resolved on first use: importing omniloom must not import pyarrow, or `omniloom --help` is slow.
    if name in {"Corpus", "open_corpus"}:
        from omniloom.pipeline import corpus

        return getattr(corpus, name)
    raise AttributeError(f"module 'omniloom' has no attribute {name!r}")
