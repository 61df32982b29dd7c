"""How embeddings fill their space: how far captions lie from clips as a whole, and how many directions are in use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from omniloom.trainer.encoded import Encoded, letters_of
from omniloom.trainer.mico import MiCo


def modality_gap(one_NC: Tensor, other_MC: Tensor) -> float:
    """Distance in [0, 2] between the means of two sets of unit vectors: 0 if neither lies apart.

    Liang et al., "Mind the Gap" (NeurIPS 2022).
    """
    return float((one_NC.double().mean(0) - other_MC.double().mean(0)).norm())


def effective_rank(features_NC: Tensor) -> float:
    """How many directions are in use, in [1, min(N, C)]: exp of the entropy of the singular values' shares; 0 of none.

    Roy and Vetterli, "The effective rank" (EUSIPCO 2007). Not centred: vectors that all point one way have rank 1.
    """
    values = torch.linalg.svdvals(features_NC.double())
    if not float(values.sum()):
        return 0.0
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


@torch.no_grad()
def spread(model: MiCo, encoded: Encoded, contexts: Iterable[Sequence[str]]) -> dict[str, dict[str, float]]:
    """{"t": {"n", "effective_rank"}, "va": {"n", "effective_rank", "gap"}, ...}; "gap" is that to the captions.

    Of the n clips that have any of the modalities, as the one vector that `MiCo.embed` gives.
    """
    text_NC = encoded.features
    found = {"t": {"n": float(len(text_NC)), "effective_rank": effective_rank(text_NC)}}
    for names in contexts:
        rows = encoded.context.has(names).nonzero()[:, 0]
        if not len(rows):
            continue
        clips_NC = model.pool(encoded.context, names)[rows]
        found[letters_of(model, names)] = {
            "n": float(len(rows)),
            "effective_rank": effective_rank(clips_NC),
            "gap": modality_gap(text_NC[rows], clips_NC),
        }
    return found
