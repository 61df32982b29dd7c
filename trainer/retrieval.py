"""Retrieval: how far up the right answer stands among all candidates, by similarity and after re-ranking.

Shapes: N clips, Q captions of all of them (N where each has one), C contrastive width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations

import torch
from torch import Tensor

from omniloom.trainer.context import Context
from omniloom.trainer.encoded import Encoded, letters_of, right_answers, without
from omniloom.trainer.mico import MiCo

Metrics = dict[str, float]
_PAIRS = 512
"""Pairs that the match head judges at once."""
_QUERIES = 4096
"""Queries ranked at once: of the table of similarities several copies are made."""
_RESAMPLES = 1000


@torch.no_grad()
def retrieval(
    model: MiCo, encoded: Encoded, contexts: Iterable[Sequence[str]], *, strict: bool = False
) -> dict[str, Metrics]:
    """{"t->va": metrics, "va->t": metrics, ...} by the model's similarity; strict: as of `right_answers`.

    Every caption asks for its clip; a clip asks for any of its captions.
    """
    right_QN = right_answers(encoded, strict=strict)
    found: dict[str, Metrics] = {}
    for names in contexts:
        letters = letters_of(model, names)
        similar_QN = similarities(model, encoded, names)
        found[f"t->{letters}"] = summary(ranks(similar_QN, right_QN))
        found[f"{letters}->t"] = summary(ranks(similar_QN.T, right_QN.T))
    return found


@torch.no_grad()
def between(model: MiCo, encoded: Encoded, contexts: Iterable[Sequence[str]]) -> dict[str, Metrics]:
    """{"a->v": {"n", "chance", r1, ...}, ...}: one sense of a clip asks for another of the same clip.

    Of all ordered pairs of the contexts, and of each modality in them alone, that have no modality in common, those
    that the model can compare: the asking side has to be one vector, which volume and area give of one sense only.
    Among the n clips that have both sides; pairs that fewer than two clips have are left out. "chance" is that of r1.
    """
    named = [tuple(names) for names in contexts]
    subsets = dict.fromkeys([*((name,) for names in named for name in names), *named])
    vectors: dict[tuple[str, ...], Tensor] = {}
    for names in subsets:
        try:
            vectors[names] = model.vectors(encoded.context, names)
        except ValueError:  # no head for this combination: it was never trained
            continue
    found: dict[str, Metrics] = {}
    for asking, asked in permutations(vectors, 2):
        if set(asking) & set(asked) or vectors[asking].shape[1] != 1:
            continue
        rows = (encoded.context.has(asking) & encoded.context.has(asked)).nonzero()[:, 0]
        if len(rows) < 2:
            continue
        similar_NN = model.similar(vectors[asking][rows, 0], vectors[asked][rows])
        own_NN = torch.eye(len(rows), dtype=torch.bool, device=similar_NN.device)
        scores = {"n": float(len(rows)), "chance": 1 / len(rows), **summary(ranks(similar_NN, own_NN))}
        found[f"{letters_of(model, asking)}->{letters_of(model, asked)}"] = scores
    return found


def similarities(model: MiCo, encoded: Encoded, names: Sequence[str], context: Context | None = None) -> Tensor:
    """Float32 (Q, N): every caption against every clip; context: in place of the clips' own."""
    vectors = model.vectors(encoded.context if context is None else context, names)
    return model.similar(encoded.asked.features, vectors)


@torch.no_grad()
def search(
    model: MiCo, encoded: Encoded, names: Sequence[str], context: Context | None = None, *, strict: bool = False
) -> tuple[Tensor, Tensor]:
    """Ranks (Q,) of each caption's clip among all, and (N,) of each clip's best caption, by the model's similarity.

    context: in place of the clips' own, such as one with a modality exchanged or hidden.
    """
    right_QN = right_answers(encoded, strict=strict)
    similar_QN = similarities(model, encoded, names, context)
    return ranks(similar_QN, right_QN), ranks(similar_QN.T, right_QN.T)


def ranks(similar_QN: Tensor, right_QN: Tensor) -> Tensor:
    """Rank float (Q,) of each row's best right answer, 1 the best; equal scores share the mean of their ranks.

    A model that scores everything alike therefore gets the middle rank, not the first.
    """
    parts = zip(similar_QN.split(_QUERIES), right_QN.split(_QUERIES), strict=True)
    # Contiguous: a transposed table would be walked against the grain, several times.
    return torch.cat([_ranks(similar.contiguous(), right.contiguous()) for similar, right in parts])


def _ranks(similar_QN: Tensor, right_QN: Tensor) -> Tensor:
    best_Q1 = similar_QN.masked_fill(~right_QN, -torch.inf).amax(1, keepdim=True)
    wrong_QN = ~right_QN
    better_Q = ((similar_QN > best_Q1) & wrong_QN).sum(1)
    equal_Q = ((similar_QN == best_Q1) & wrong_QN).sum(1)
    return 1 + better_Q + equal_Q / 2


def summary(ranks_Q: Tensor) -> Metrics:
    """Recall at 1, 5 and 10 as shares, median rank, mean reciprocal rank."""
    ranks_Q = ranks_Q.double()
    metrics = {f"r{k}": float((ranks_Q <= k).double().mean()) for k in (1, 5, 10)}
    return {**metrics, "medr": float(ranks_Q.quantile(0.5)), "mrr": float((1 / ranks_Q).mean())}


def chance(right_QN: Tensor) -> Metrics:
    """The metrics' expectation under a random order of the candidates."""
    count = right_QN.shape[1]
    place = torch.arange(count, dtype=torch.float64)
    # Only how many answers of a query are right counts: few numbers, however many queries.
    right_U, weight_U = right_QN.sum(1).cpu().unique(return_counts=True)
    share_U = weight_U.double() / weight_U.sum()
    # P(no right answer among the first k) = product of (wrong left) / (candidates left).
    misses_UN = ((count - right_U.double()[:, None] - place) / (count - place)).clamp_min(0).cumprod(1)
    survives_UN = torch.cat([torch.ones(len(right_U), 1, dtype=torch.float64), misses_UN[:, :-1]], 1)
    first_UN = survives_UN - misses_UN  # P(the best right answer has rank k + 1)
    misses_N = share_U @ misses_UN
    recall = {f"r{k}": float(1 - misses_N[min(k, count) - 1]) for k in (1, 5, 10)}
    median = float((misses_N > 0.5).sum() + 1)
    return {**recall, "medr": median, "mrr": float((share_U @ first_UN / (place + 1)).sum())}


def confidence(ranks_Q: Tensor, seed: int = 0, clips_Q: Tensor | None = None) -> list[float]:
    """95 % bootstrap interval of recall at 1, over queries; over clips with all their queries if their rows are given.

    Captions of one clip are right and wrong together: drawn one by one they would seem to know more than they do.
    """
    hits_Q = (ranks_Q <= 1).double().cpu()
    rows_Q = torch.arange(len(hits_Q)) if clips_Q is None else clips_Q.cpu()
    zeros_N = torch.zeros(int(rows_Q.max()) + 1, dtype=torch.float64)
    hits_N = zeros_N.index_add(0, rows_Q, hits_Q)
    count_N = zeros_N.index_add(0, rows_Q, torch.ones_like(hits_Q))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(hits_N), (_RESAMPLES, len(hits_N)), generator=generator)
    recalls = hits_N[drawn].sum(1) / count_N[drawn].sum(1)
    return recalls.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


@torch.no_grad()
def rerank(
    model: MiCo,
    encoded: Encoded,
    names: Sequence[str],
    similar_QN: Tensor,
    right_QN: Tensor,
    top: int,
    *,
    text_asks: bool,
) -> Tensor:
    """Ranks after the match head reorders the `top` most similar candidates of each query: (Q,), or of clips (N,)."""
    similar, right = (similar_QN, right_QN) if text_asks else (similar_QN.T, right_QN.T)
    best_QK = similar.topk(min(top, similar.shape[1])).indices
    queries = torch.arange(len(similar), device=best_QK.device)[:, None].expand_as(best_QK).flatten()
    candidates = best_QK.flatten()
    text_rows, clip_rows = (queries, candidates) if text_asks else (candidates, queries)
    probability_QK = _match(model, encoded, names, text_rows, clip_rows).view_as(best_QK)
    # Candidates outside the top keep their order, below all that are inside.
    return ranks(similar.double().scatter(1, best_QK, 10 + probability_QK.double()), right)


@torch.no_grad()
def matching_auc(model: MiCo, encoded: Encoded, names: Sequence[str], right_QN: Tensor) -> float:
    """P(the match head scores a right pair above a random wrong one)."""
    asked = encoded.asked
    queries = torch.arange(len(right_QN), device=right_QN.device)
    right_Q = _match(model, encoded, names, queries, asked.clips)
    count = right_QN.shape[1]
    others = torch.cat([(asked.clips - shift) % count for shift in (1, 2, 3)])
    kept = ~right_QN[queries.repeat(3), others]
    wrong_M = _match(model, encoded, names, queries.repeat(3)[kept], others[kept])
    if not len(wrong_M):
        return 0.5  # nothing is wrong: nothing to tell apart
    order_M = wrong_M.sort().values
    below_Q = torch.searchsorted(order_M, right_Q, side="left").double()
    equal_Q = torch.searchsorted(order_M, right_Q, side="right").double() - below_Q
    return float(((below_Q + equal_Q / 2) / len(order_M)).mean())


@torch.no_grad()
def swaps(model: MiCo, encoded: Encoded, names: Sequence[str], right_QN: Tensor) -> Metrics:
    """Recall at 1 when one modality comes from another clip: it must fall if that modality is used."""
    other = torch.arange(len(encoded.keys), device=right_QN.device).roll(1)
    found: Metrics = {}
    for name in names:
        if name in encoded.context.tokens:
            swapped = encoded.context.exchange(name, other)
            similar_QN = similarities(model, encoded, names, swapped)
            found[letters_of(model, [name])] = summary(ranks(similar_QN, right_QN))["r1"]
    return found


@torch.no_grad()
def missing(model: MiCo, encoded: Encoded, names: Sequence[str], right_QN: Tensor) -> Metrics:
    """Recall at 1 when every clip lacks one modality, as if it had never been recorded."""
    found: Metrics = {}
    for name in names:
        if name in encoded.context.tokens:
            similar_QN = similarities(model, encoded, names, without(encoded.context, name))
            found[letters_of(model, [name])] = summary(ranks(similar_QN, right_QN))["r1"]
    return found


@torch.no_grad()
def _match(model: MiCo, encoded: Encoded, names: Sequence[str], text_rows: Tensor, clip_rows: Tensor) -> Tensor:
    """P(match) float32 of pairs of a caption's row and a clip's."""
    tokens = encoded.asked.tokens
    found = [
        model.match_logits(tokens.rows(text), encoded.context.rows(clip), names).softmax(-1)[:, 1]
        for text, clip in zip(text_rows.split(_PAIRS), clip_rows.split(_PAIRS), strict=True)
    ]
    return torch.cat(found) if found else torch.zeros(0, device=text_rows.device)
