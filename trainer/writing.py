"""Writing: the most likely text that a context and a prefix lead to, word by word, by beams if asked to.

Shapes: B texts, W hypotheses of each, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omniloom.trainer.text import CLS, MASK, PAD, SEP, UNKNOWN, TextTransformer, Tokens

_NEVER = [PAD, UNKNOWN, CLS, MASK]


@torch.no_grad()
def write(
    text: TextTransformer,
    prefix: Tokens,
    context_BLD: Tensor,
    context_mask_BL: Tensor,
    max_tokens: int,
    beams: int = 1,
    length_penalty: float = 1.0,
) -> Tensor:
    """Likely tokens after the prefix, int64 (B, <= max_tokens): [SEP] ends a text, 0 fills up what follows.

    beams: hypotheses that are kept of each text; 1 takes the most likely word each time. They are compared by
    log p / words^length_penalty: 0 prefers short texts, 1 compares the mean word. Each word costs two tokens of
    computation and beams of them share a pass. Nothing is random. Raises ValueError for fewer than one of either.
    """
    if beams < 1 or max_tokens < 1:
        raise ValueError(f"writing needs beams and max_tokens of at least 1, got {beams = } and {max_tokens = }")
    batch, device = len(context_BLD), context_BLD.device
    logits, draft = text.advance(text.begin(prefix, context_BLD, context_mask_BL), None)
    vocabulary = logits.shape[-1]
    words_BWT = torch.zeros(batch, 1, 0, dtype=torch.int64, device=device)
    sums_BW = torch.zeros(batch, 1, device=device)
    lengths_BW = torch.zeros_like(sums_BW)
    done_BW = torch.zeros(batch, 1, dtype=torch.bool, device=device)
    while True:
        logits[:, _NEVER] = -torch.inf
        log_p_BWV = logits.log_softmax(-1).view(batch, -1, vocabulary)
        # A finished hypothesis goes on in one way, at no cost: with nothing.
        nothing_V = torch.full_like(log_p_BWV[0, 0], -torch.inf)
        nothing_V[PAD] = 0
        log_p_BWV = torch.where(done_BW[..., None], nothing_V, log_p_BWV)
        totals_BWV = sums_BW[..., None] + log_p_BWV
        lengths_BW = lengths_BW + ~done_BW
        merits_BWV = totals_BWV / lengths_BW[..., None] ** length_penalty
        kept = merits_BWV.flatten(1).topk(min(beams, merits_BWV[0].numel()))
        parent_BW, word_BW = kept.indices // vocabulary, kept.indices % vocabulary
        many = done_BW.shape[1]
        sums_BW = totals_BWV.flatten(1).gather(1, kept.indices)
        lengths_BW, done_BW = lengths_BW.gather(1, parent_BW), done_BW.gather(1, parent_BW) | (word_BW == SEP)
        parents_BWT = parent_BW[..., None].expand(-1, -1, words_BWT.shape[2])
        words_BWT = torch.cat([words_BWT.gather(1, parents_BWT), word_BW[..., None]], 2)
        if words_BWT.shape[2] == max_tokens or bool(done_BW.all()):
            return words_BWT[:, 0]  # the best come first
        if parent_BW.shape[1] > 1:
            rows = torch.arange(batch, device=device)[:, None] * many + parent_BW
            draft = draft.rows(rows.flatten(), same_contexts=parent_BW.shape[1] == many)
        logits, draft = text.advance(draft, word_BW.flatten())
