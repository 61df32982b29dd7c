"""A split of a corpus as the loader shows it, kept as tensors: decoded once, learned from by every run.

V views of N clips: each view is an epoch of the loader in training, with its own random frames, crops and captions; in
evaluation there is one. What runs differ in is then what they learn from the same pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omniloom.modalities.base import Window
from omniloom.pipeline.batch import Batch
from omniloom.pipeline.corpus import Corpus
from omniloom.pipeline.loader import Loader

_ROWS = 64


@dataclass(slots=True)
class Views:
    """N clips in the order of their keys."""

    keys: list[str]
    sources: list[str]
    tensors: dict[str, Tensor]
    """Float16 (V, N, ...)."""
    present: dict[str, Tensor]
    """Bool (N,)."""
    texts: dict[str, list[list[str]]]
    """V lists of N."""

    @property
    def count(self) -> int:
        return len(next(iter(self.texts.values())))

    def batch(self, rows: Sequence[int], views: Sequence[int], told: Sequence[int] | None = None) -> Batch:
        """The clips `rows`, each in its view, as float32; captions and answers are those of the clips `told`."""
        told = rows if told is None else told
        where = torch.tensor(list(views)), torch.tensor(list(rows))
        present = {name: mask[where[1]] for name, mask in self.present.items()}
        present |= {name: self.present[name][torch.tensor(list(told))] for name in self.texts}
        return Batch(
            keys=[self.keys[row] for row in rows],
            sources=[self.sources[row] for row in rows],
            tensors={name: kept[where].float() for name, kept in self.tensors.items()},
            present=present,
            texts={
                name: [kept[view][row] for view, row in zip(views, told, strict=True)]
                for name, kept in self.texts.items()
            },
        )

    def batches(self, size: int = _ROWS) -> Iterator[Batch]:
        """Every clip once, in its first view."""
        for start in range(0, len(self.keys), size):
            rows = range(start, min(start + size, len(self.keys)))
            yield self.batch(rows, [0] * len(rows))


def keep(
    corpus: Corpus, names: Sequence[str], windows: Sequence[Window], split: str, path: Path, workers: int = 2
) -> Path:
    """Writes a split's views, one a window, to a file that many processes may map at once; one that is there stays."""
    if path.exists():
        return path
    views: list[dict[str, Any]] = []
    for number, window in enumerate(windows):
        loader = Loader(
            corpus, names, _ROWS, seed=number, workers=workers, window=window, train=window.train, split=split,
            epochs=1 if window.train else None, tail="partial",
        )  # fmt: skip
        views.append(_whole(list(loader)))
    order = [sorted(range(len(view["keys"])), key=view["keys"].__getitem__) for view in views]
    first = order[0]
    kept = {
        "keys": [views[0]["keys"][row] for row in first],
        "sources": [views[0]["sources"][row] for row in first],
        "tensors": {
            name: torch.stack([view["tensors"][name][rows] for view, rows in zip(views, order, strict=True)])
            for name in views[0]["tensors"]
        },
        "present": {name: mask[first] for name, mask in views[0]["present"].items()},
        "texts": {
            name: [[view["texts"][name][row] for row in rows] for view, rows in zip(views, order, strict=True)]
            for name in views[0]["texts"]
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(kept, part)
    part.replace(path)
    return path


def open_views(path: Path) -> Views:
    """The views of a file, its tensors mapped into memory rather than read."""
    return Views(**torch.load(path, mmap=True, weights_only=True))


def _whole(batches: Sequence[Batch]) -> dict[str, Any]:
    first = batches[0]
    return {
        "keys": [key for batch in batches for key in batch.keys],
        "sources": [source for batch in batches for source in batch.sources],
        "tensors": {name: torch.cat([batch.tensors[name].half() for batch in batches]) for name in first.tensors},
        "present": {name: torch.cat([batch.present[name] for batch in batches]) for name in first.present},
        "texts": {name: [text for batch in batches for text in batch.texts[name]] for name in first.texts},
    }


class Kept:
    """Endless shuffled batches of views: what `fit` learns from. Order and views are functions of seed and epoch."""

    def __init__(self, views: Views, batch_size: int, seed: int, *, share: float = 1.0, permuted: bool = False) -> None:
        """share: of the clips, the same for every seed, smaller ones within larger ones. permuted: every clip has
        another one's captions, always the same one's: the control.
        """
        self._views, self._size, self._seed = views, batch_size, seed
        count = max(batch_size, round(share * len(views.keys)))
        drawn = np.random.default_rng(0).permutation(len(views.keys))[:count]
        self._rows = np.sort(drawn)
        # Each clip's captions come from the next one of a shuffled circle.
        circle = np.random.default_rng([seed, 1]).permutation(self._rows)
        self._told = dict(zip(circle.tolist(), np.roll(circle, 1).tolist(), strict=True)) if permuted else None
        self._position = 0
        if len(self._rows) < batch_size:
            raise ValueError(f"a batch of {batch_size} needs as many clips, there are {len(self._rows)}")

    def __iter__(self) -> Iterator[Batch]:
        while True:
            picks = [self._pick(at) for at in range(self._position, self._position + self._size)]
            rows = [row for row, _ in picks]
            told = rows if self._told is None else [self._told[row] for row in rows]
            self._position += self._size
            yield self._views.batch(rows, [view for _, view in picks], told)

    def _pick(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, len(self._rows))
        order = np.random.default_rng([self._seed, 0, epoch])
        row = int(self._rows[order.permutation(len(self._rows))[place]])
        return row, (row + epoch) % self._views.count

    def state_dict(self) -> dict[str, Any]:
        return {"position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._position = int(state["position"])
