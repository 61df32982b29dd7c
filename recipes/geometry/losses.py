"""What the geometry network is taught by: depth up to a factor, its edges and its order, and the angles of normals.

Log depth is compared up to one constant a picture, a teacher's inverse depth up to a factor and an offset (Ranftl et
al. 2020, MiDaS); (B, h, w) throughout, NaN where the truth is unknown, inf in the sky.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PAIRS = 1500
"""Pairs of pixels compared a picture."""


def geometry_loss(
    log_depth: Tensor, normal: Tensor, log_z: Tensor, true_normal: Tensor, inverse: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """The sum that is minimised, and its parts by name; pictures lacking a kind of truth add nothing to that part."""
    finite = torch.isfinite(log_z)
    error = torch.where(finite, log_depth - torch.where(finite, log_z, 0), 0)
    error = torch.where(finite, error - _mean(error, finite)[:, None, None], 0)
    rendered = finite.flatten(1).any(1)
    parts = {
        "depth": _over(_mean(error.abs(), finite), rendered),
        "edges": 0.5 * _over(_steps(error, finite), rendered),
        "order": 0.5 * _over(*_order(log_depth, log_z)),
        "normal": _normal(normal, true_normal),
    }
    known = torch.isfinite(inverse)
    real = known.flatten(1).any(1)
    if bool(real.any()):
        truth = torch.where(known[real], inverse[real], 0)
        mine = _standard(torch.exp(-log_depth[real].clamp(-12, 12)), known[real])
        gap = torch.where(known[real], mine - _standard(truth, known[real]), 0)
        share = real.float().mean()
        parts["teacher"] = 0.5 * share * _mean(gap.abs(), known[real]).mean()
        parts["teacher edges"] = 0.25 * share * _steps(gap, known[real]).mean()
        parts["teacher order"] = 0.5 * share * _order(log_depth[real], -inverse[real], least=0.1)[0].mean()
    total = torch.stack(list(parts.values())).sum()
    return total, {name: float(value.detach()) for name, value in parts.items()}


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return (values * known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)


def _over(values: Tensor, chosen: Tensor) -> Tensor:
    """The sum over the chosen pictures as a share of all, so that a batch of other truth does not blow it up."""
    return (values * chosen).mean()


def _steps(error: Tensor, known: Tensor) -> Tensor:
    """Mean absolute step of the error between neighbours, over four coarser and coarser grids: (B,)."""
    total = error.new_zeros(len(error))
    for stride in (1, 2, 4, 8):
        e, k = error[:, ::stride, ::stride], known[:, ::stride, ::stride]
        total = total + _mean((e[:, 1:] - e[:, :-1]).abs(), k[:, 1:] & k[:, :-1])
        total = total + _mean((e[:, :, 1:] - e[:, :, :-1]).abs(), k[:, :, 1:] & k[:, :, :-1])
    return total / 4


def _order(log_depth: Tensor, truth: Tensor, least: float = 0.03) -> tuple[Tensor, Tensor]:
    """Random pairs whose truth differs: the farther one should be predicted farther, the sky farthest: (B,), (B,)."""
    flat, true = log_depth.flatten(1), truth.flatten(1)
    first, second = torch.randint(flat.shape[1], (2, len(flat), PAIRS))
    apart = true.gather(1, first) - true.gather(1, second)  # NaN: unknown, or two pixels of sky
    told = apart.abs() > least
    ahead = (flat.gather(1, first) - flat.gather(1, second)) * torch.where(told, apart.sign(), 0)
    loss = _mean(F.softplus(-4 * ahead) / 4, told)
    return loss, told.any(1)


def _normal(normal: Tensor, truth: Tensor) -> Tensor:
    """Mean chord between unit normals, which grows like the angle: outliers weigh no more than they must."""
    known = truth.square().sum(1) > 0.5
    chord = (2 - 2 * (normal * F.normalize(truth, dim=1)).sum(1)).clamp(min=0).add(1e-3).sqrt()
    return _over(_mean(chord, known), known.flatten(1).any(1))


def _standard(values: Tensor, known: Tensor) -> Tensor:
    """Median 0, mean absolute deviation 1 over the known pixels."""
    median = torch.where(known, values, torch.nan).flatten(1).nanmedian(1).values[:, None, None]
    centred = torch.where(known, values - median, 0)
    return centred / _mean(centred.abs(), known).clamp(min=1e-4)[:, None, None]
