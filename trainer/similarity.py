"""Similarity of a text and a sample that has several vectors: cosine, volume or area, the larger the more alike.

Shapes: B texts, M samples, K vectors of a sample (such as what is seen, heard and said), C contrastive width. Vectors
are of length 1; a vector that a sample lacks is zeros, as `MiCo.pool` gives it, and counts for nothing. Everything is
computed in float32 whatever autocast says (float64 stays float64): determinants of nearly parallel vectors are
differences of nearly equal numbers.

Volume and area vanish as soon as any two vectors coincide, whatever the text is, and depth and normals derive from the
pictures: so `MiCo.vectors` fuses all that is seen into one vector first, and the similarities here keep the cosine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Literal

import torch
from torch import Tensor

Similarity = Callable[[Tensor, Tensor], Tensor]
"""Texts (B, C) and samples (M, K, C), or (M, C) for one vector each -> similarities (B, M)."""
SimilarityName = Literal["cosine", "volume", "area"]

EPSILON = 1e-6
"""Under each root: its slope stays below 500 where vectors coincide, and a volume or area of 0 reads .001."""


def _exact(similarity: Similarity) -> Similarity:
    """The same function in float32 or float64, for samples of one vector too."""

    @wraps(similarity)
    def exact(text_BC: Tensor, sample_MKC: Tensor) -> Tensor:
        if sample_MKC.ndim == 2:
            sample_MKC = sample_MKC[:, None]
        with torch.autocast(text_BC.device.type, enabled=False):
            sample_MKC = at_least_float32(sample_MKC)
            # No gradient for what is absent: to make it a unit vector, zeros were divided by a tiny number.
            sample_MKC = sample_MKC * _there(sample_MKC)[..., None]
            return similarity(at_least_float32(text_BC), sample_MKC)

    return exact


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


@_exact
def cosine(text_BC: Tensor, sample_MKC: Tensor) -> Tensor:
    """Mean cosine between the text and the vectors that the sample has, in [-1, 1]; 0 if it has none."""
    count_M = _there(sample_MKC).sum(1).clamp_min(1)
    return text_BC @ (sample_MKC.sum(1) / count_M[:, None]).T


@_exact
def volume(text_BC: Tensor, sample_MKC: Tensor) -> Tensor:
    """Volume (B, M) of the box that the text and the sample's vectors span: sqrt(max(det Gram, 0) + eps) in [0, 1].

    0 if any of the vectors coincide or lie in one plane, 1 if all are orthogonal. GRAM (2412.11959). The
    determinant is a polynomial of the cosines, det S - c' adj(S) c with S those within a sample and c those with the
    text: nothing is inverted, so that it has a gradient where S is singular.
    """
    there_MK = _there(sample_MKC)
    # An absent vector becomes one that is orthogonal to all others: it changes no volume.
    within_MKK = sample_MKC @ sample_MKC.mT + torch.diag_embed((~there_MK).to(sample_MKC.dtype))
    across_BMK = torch.einsum("bc,mkc->bmk", text_BC, sample_MKC)
    product_BMK = torch.einsum("bmk,mkl->bml", across_BMK, _adjugate(within_MKK))
    det_BM = _determinant(_entries(within_MKK)) - (product_BMK * across_BMK).sum(-1)
    return (det_BM.clamp_min(0) + EPSILON).sqrt()


@_exact
def area(text_BC: Tensor, sample_MKC: Tensor) -> Tensor:
    """Area (B, M) of the triangle whose corners are the text and two of the sample's vectors, in [0, 1.3].

    sqrt(|u|^2 |v|^2 - (u v)^2) / 2 with u and v the sides that meet in the text. TRIANGLE (2509.24734). Of
    samples with three vectors or more the mean over their pairs; of samples with one, half its distance to the text,
    in [0, 1], since a triangle with two equal corners has no area whatever the text is.
    """
    there_MK = _there(sample_MKC)
    within_MKK = sample_MKC @ sample_MKC.mT
    across_BMK = torch.einsum("bc,mkc->bmk", text_BC, sample_MKC)
    squared_BMK = 2 - 2 * across_BMK
    single_M = there_MK.sum(1) == 1
    pairs_M = torch.zeros_like(single_M, dtype=text_BC.dtype)
    total_BM = torch.zeros_like(across_BMK[..., 0])
    for k in range(sample_MKC.shape[1]):
        half_BM = (squared_BMK[..., k].clamp_min(0) + EPSILON).sqrt() / 2
        total_BM = total_BM + half_BM * (single_M & there_MK[:, k])
        for l in range(k):
            both_M = there_MK[:, k] & there_MK[:, l]
            inner_BM = within_MKK[:, k, l] - across_BMK[..., k] - across_BMK[..., l] + 1
            four_BM = squared_BMK[..., k] * squared_BMK[..., l] - inner_BM.square()
            total_BM = total_BM + (four_BM.clamp_min(0) + EPSILON).sqrt() / 2 * both_M
            pairs_M = pairs_M + both_M
    return total_BM / pairs_M.clamp_min(1)


def volume_similarity(text_BC: Tensor, sample_MKC: Tensor) -> Tensor:
    """Mean cosine less the volume, in [-2, 1]: 1 where all vectors coincide, -1 for an orthogonal text and sample."""
    return cosine(text_BC, sample_MKC) - volume(text_BC, sample_MKC)


def area_similarity(text_BC: Tensor, sample_MKC: Tensor) -> Tensor:
    """Mean cosine less the area, in [-2, 1]: 1 where all vectors coincide, -.87 for three orthogonal ones."""
    return cosine(text_BC, sample_MKC) - area(text_BC, sample_MKC)


def similarity_of(name: SimilarityName) -> Similarity:
    """The similarity that a recipe names. Raises ValueError for others."""
    match name:
        case "cosine":
            return cosine
        case "volume":
            return volume_similarity
        case "area":
            return area_similarity
        case _:
            raise ValueError(f"unknown similarity {name!r}: set model.similarity to cosine, volume or area")


def _there(sample_MKC: Tensor) -> Tensor:
    """Mask bool (M, K): which vectors a sample has; they are of length 1, others of length 0."""
    return sample_MKC.detach().square().sum(-1) > 0.25


def _entries(matrix_MKK: Tensor) -> list[list[Tensor]]:
    return [list(row.unbind(-1)) for row in matrix_MKK.unbind(-2)]


def _determinant(rows: list[list[Tensor]]) -> Tensor:
    """Laplace's expansion along the first row: exact gradients everywhere; K! terms, and K is 3 at most in MiCo."""
    first, *others = rows
    if not others:
        return first[0]
    terms = [
        (-1) ** k * entry * _determinant([row[:k] + row[k + 1 :] for row in others]) for k, entry in enumerate(first)
    ]
    return torch.stack(terms).sum(0)


def _adjugate(matrix_MKK: Tensor) -> Tensor:
    """Of symmetric matrices: the matrix of cofactors, det times the inverse where there is one."""
    rows, size = _entries(matrix_MKK), matrix_MKK.shape[-1]
    if size == 1:
        return torch.ones_like(matrix_MKK)
    cofactors = [
        (-1) ** (k + l) * _determinant([row[:l] + row[l + 1 :] for index, row in enumerate(rows) if index != k])
        for k in range(size)
        for l in range(size)
    ]
    return torch.stack(cofactors, -1).unflatten(-1, (size, size))
