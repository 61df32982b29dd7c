"""Memory: a batch is encoded in parts that are computed again when their gradients are due.

What is compared sees the whole batch: features of all parts are made first and nothing else of them is kept, the loss
is taken over all of them, and its gradients go back through one part after the other (GradCache, Gao et al.,
2101.06983). Random numbers of a part are the same both times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omniloom.pipeline.batch import Batch
from omniloom.trainer.context import Context
from omniloom.trainer.mico import MiCo

Again = Callable[..., Any]
Recompute = Literal["none", "text", "all"]
_again = cast(Again, partial(checkpoint, use_reentrant=False))


def encode_in_parts(model: MiCo, batch: Batch, parts: int) -> Context:
    """The context of a batch, encoded in `parts`; activations of at most one of them are in memory at a time.

    Only the encoder is split, which holds nearly all of them: text, matching and captions see the whole batch, so
    that negatives are drawn from all of it.
    """
    if parts == 1:
        return model.encode_context(batch)
    return join_contexts([_when_learning(model.encode_context, part) for part in split_batch(batch, parts)])


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """The batch as at most `parts` batches, of sizes as equal as can be."""
    edges = [len(batch) * part // parts for part in range(parts + 1)]
    return [
        replace(
            batch,
            keys=batch.keys[first:last],
            sources=batch.sources[first:last],
            tensors={name: tensor[first:last] for name, tensor in batch.tensors.items()},
            present={name: mask[first:last] for name, mask in batch.present.items()},
            texts={name: texts[first:last] for name, texts in batch.texts.items()},
        )
        for first, last in pairwise(edges)
        if last > first
    ]


def join_contexts(parts: Sequence[Context]) -> Context:
    """Contexts of several batches as one: padded to the longest, what a part lacks as masked zeros."""
    names = list(dict.fromkeys(name for part in parts for name in part.tokens))
    joined = Context({}, {}, {}, sum(part.size for part in parts))
    for name in names:
        pattern = next(part.tokens[name] for part in parts if name in part.tokens)
        length = max(part.tokens[name].shape[1] for part in parts if name in part.tokens)
        tokens: list[Tensor] = []
        masks: list[Tensor] = []
        present: list[Tensor] = []
        for part in parts:
            nothing = torch.zeros(part.size, 0, dtype=torch.bool, device=pattern.device)
            have = part.tokens.get(name, pattern.new_zeros(part.size, 0, pattern.shape[2]))
            missing = length - have.shape[1]
            tokens.append(F.pad(have, (0, 0, 0, missing)))
            masks.append(F.pad(part.masks.get(name, nothing), (0, missing)))
            present.append(part.present.get(name, nothing.any(1)))
        joined.tokens[name], joined.masks[name] = torch.cat(tokens), torch.cat(masks)
        joined.present[name] = torch.cat(present)
    return joined


def recompute_layers(model: MiCo, which: Recompute) -> None:
    """Activation checkpointing: each layer of the text transformer, or of both, keeps its input alone.

    It is computed again going back, about a third more of its computation; results are the same to the last bit.
    """
    layers: list[nn.Module] = [] if which == "none" else [*model.text.layers]
    if which == "all":
        layers += model.encoder.vit.blocks
    for layer in layers:
        layer.forward = partial(_when_learning, layer.forward)


def _when_learning(forward: Again, *args: Any) -> Any:
    return _again(forward, *args) if torch.is_grad_enabled() else forward(*args)
