"""Losses: pure functions, tensors in and a scalar out; across ranks each is its share of the global mean.

Shapes: B samples of this rank, M samples of all ranks, C contrastive width, T tokens, V vocabulary. Every loss is
scaled so that averaging gradients over ranks, as DDP does, gives the gradient of the mean over all samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
import xxhash
from torch import Tensor

from omniloom.trainer.similarity import Similarity, at_least_float32, cosine
from omniloom.trainer.text import CLS, MASK, Tokens


@dataclass(slots=True)
class Identity:
    """What makes two samples false negatives: one source, or one caption. Both int64 (B,), as `digest` makes them."""

    source: Tensor
    caption: Tensor

    def gathered(self) -> Identity:
        return Identity(gather(self.source), gather(self.caption))

    def differs(self, other: Identity) -> Tensor:
        """Mask bool (B, M): which pairs are true negatives."""
        same_source = self.source[:, None] == other.source
        return ~(same_source | (self.caption[:, None] == other.caption))


def digest(texts: Sequence[str]) -> Tensor:
    """int64 (B,): equal exactly where the texts are."""
    numbers = [xxhash.xxh64_intdigest(text.encode()) - 2**63 for text in texts]
    return torch.tensor(numbers, dtype=torch.int64)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        ctx.rows = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, WITH gradient to each rank's own; `x` itself without torch.distributed."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    return cast(Tensor, _Gather.apply(x))


def global_mean(sum_: Tensor, count: Tensor) -> Tensor:
    """This rank's share of sum / count over all ranks, times the number of ranks; 0 if nothing counts."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        count = count.detach().clone()
        dist.all_reduce(count)
        sum_ = sum_ * dist.get_world_size()
    return sum_ / count.clamp_min(1)


def info_nce(
    text_BC: Tensor,
    context: Tensor,
    scale: Tensor,
    valid_B: Tensor,
    identity: Identity,
    smoothing: float = 0.1,
    similarity: Similarity = cosine,
) -> Tensor:
    """1/2 [CE(context, text' / T) + CE(text, context' / T)], about ln M for unrelated unit vectors (CLIP, 2103.00020).

    `context` (B, C), or (B, K, C) for samples of several vectors; `scale` is 1 / T. Clips of one source and equal
    captions are no negatives of each other; samples that are not valid are neither asked nor offered. `smoothing`
    spreads that share of the target over the candidates offered.
    """
    own_B, offered_BM = _candidates(valid_B, identity)
    losses = [
        _smooth_cross_entropy(scale * similar_BM, own_B, offered_BM, smoothing)
        for similar_BM in (similarity(text_BC, gather(context)), similarity(gather(text_BC), context).T)
    ]
    each_B = (losses[0] + losses[1]) / 2
    return global_mean((each_B * valid_B).sum(), valid_B.sum())


def sigmoid_loss(
    text_BC: Tensor,
    context: Tensor,
    scale: Tensor,
    bias: Tensor,
    valid_B: Tensor,
    identity: Identity,
    similarity: Similarity = cosine,
) -> Tensor:
    """Each pair judged by itself: -log sigmoid(z (scale similarity + bias)), z 1 for a text's own sample, else -1.

    Summed over the samples offered to a text, mean over texts: SigLIP (2303.15343, section 3.2), whose bias begins at
    -10 since nearly all pairs are negatives, and whose scale at 10; unrelated vectors then cost about 10. Arguments
    and false negatives as in `info_nce`. Both directions are the same pairs, so each is counted once.
    """
    own_B, offered_BM = _candidates(valid_B, identity)
    logits_BM = scale * similarity(text_BC, gather(context)) + bias
    sign_BM = torch.full_like(logits_BM, -1).scatter(1, own_B[:, None], 1)
    each_B = (F.softplus(-sign_BM * logits_BM) * offered_BM).sum(1)
    return global_mean((each_B * valid_B).sum(), valid_B.sum())


def _candidates(valid_B: Tensor, identity: Identity) -> tuple[Tensor, Tensor]:
    """Each row's own column among those of all ranks int64 (B,), and bool (B, M) which columns it may be offered."""
    valid_M = gather(valid_B.long()).bool()
    batch = len(valid_B)
    first = dist.get_rank() * batch if len(valid_M) > batch else 0
    own_B = torch.arange(first, first + batch, device=valid_B.device)
    offered_BM = identity.differs(identity.gathered()) & valid_M
    offered_BM[torch.arange(batch, device=own_B.device), own_B] = True
    return own_B, offered_BM


def _smooth_cross_entropy(logits_BM: Tensor, target_B: Tensor, offered_BM: Tensor, smoothing: float) -> Tensor:
    log_p_BM = at_least_float32(logits_BM).masked_fill(~offered_BM, -torch.inf).log_softmax(-1)
    right_B = log_p_BM.gather(1, target_B[:, None])[:, 0]
    mean_B = log_p_BM.masked_fill(~offered_BM, 0).sum(-1) / offered_BM.sum(-1)
    return -(1 - smoothing) * right_B - smoothing * mean_B


@torch.no_grad()
def hard_negatives(logits_BB: Tensor, allowed_BB: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A column for each row, drawn from softmax(logits) over the allowed ones: int64 (B,), and bool (B,) if any was."""
    some_B = allowed_BB.any(1)
    # A loss that is no number is the training loop's to report, not the sampler's.
    weights = logits_BB.float().nan_to_num(0.0).masked_fill(~allowed_BB, -torch.inf)
    weights = weights.masked_fill(~some_B[:, None], 0).softmax(-1)
    # Probabilities that underflow would leave a row without a choice.
    weights = weights + 1e-12 * allowed_BB
    return torch.multinomial(weights, 1, generator=generator)[:, 0], some_B


def matching_loss(logits_N2: Tensor, is_match_N: Tensor, counts_N: Tensor) -> Tensor:
    """CE of [no match, match]; .6365 for constant guesses with two negatives a positive. Rows not counted weigh 0."""
    each_N = F.cross_entropy(logits_N2.float(), is_match_N.long(), reduction="none")
    return global_mean((each_N * counts_N).sum(), counts_N.sum())


@torch.no_grad()
def mask_caption(tokens: Tokens, rate: float, vocab_size: int, generator: torch.Generator) -> tuple[Tokens, Tensor]:
    """Tokens with `rate` of them hidden, and bool (B, T) which: 80 % become [MASK], 10 % any word, 10 % stay.

    [CLS] and padding are never chosen; [SEP] is, so that the model learns when to stop.
    """
    ids = tokens.ids
    draw, kind = torch.rand((2, *ids.shape), generator=generator, device=ids.device)
    hidden = (draw < rate) & tokens.mask & (ids != CLS)
    word = torch.randint(MASK + 1, max(vocab_size, MASK + 2), ids.shape, generator=generator, device=ids.device)
    ids = torch.where(hidden & (kind < 0.8), MASK, ids)
    ids = torch.where(hidden & (kind >= 0.8) & (kind < 0.9), word.clamp_max(vocab_size - 1), ids)
    return Tokens(ids, tokens.mask), hidden


def caption_loss(logits_KV: Tensor, words_K: Tensor, counts_K: Tensor) -> Tensor:
    """Mean -log p of the hidden words, about ln V at first; K hidden tokens of all samples, uncounted ones weigh 0."""
    each_K = F.cross_entropy(logits_KV.float(), words_K, reduction="none")
    return global_mean((each_K * counts_K).sum(), counts_K.sum())
