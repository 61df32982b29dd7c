"""AdamW, warm-up then cosine, and clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from omniloom.trainer.ranks import is_sharded


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """Loshchilov & Hutter's AdamW with the betas of CLIP and MiCo."""

    lr: float = 1e-3
    backbone_lr_ratio: float = 1.0
    """Of the shared ViT against the rest; .1 for pretrained ones."""
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    warmup_fraction: float = 0.1
    final_lr_ratio: float = 0.0
    clip_norm: float = 1.0


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; norms, biases, embeddings of places and scalars do not decay."""
    groups: dict[tuple[bool, bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not name.endswith(_UNDECAYED)
            # Sharded and whole tensors cannot share a fused kernel.
            groups.setdefault((decays, ".vit." in f".{name}", is_sharded(parameter)), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if decays else 0.0,
                "lr_ratio": config.backbone_lr_ratio if backbone else 1.0,
            }
            for (decays, backbone, _), parameters in groups.items()
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


_UNDECAYED = ("pos_embed", "cls_token", "reg_token", "positions.weight", ".time", ".modality", ".here", ".position")


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Rate of step 0..steps-1: linear warm-up, then half a cosine down to `final_lr_ratio`."""
    warmup = max(1, round(steps * config.warmup_fraction))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    floor = config.final_lr_ratio
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_ratio"]


def clip_gradients(parameters: Sequence[Tensor], clip_norm: float) -> Tensor:
    """Scales gradients down to a global norm of at most `clip_norm` (0: not at all); gives the norm before.

    Gradients that are sharded over ranks count with all of their parts. The norm is NaN where a gradient is.
    """
    sharded = [parameter for parameter in parameters if parameter.grad is not None and is_sharded(parameter.grad)]
    if not sharded:
        return torch.nn.utils.clip_grad_norm_(parameters, clip_norm if clip_norm > 0 else math.inf)
    parts = [cast(Any, parameter.grad).to_local() for parameter in sharded]
    whole = [p.grad for p in parameters if p.grad is not None and not is_sharded(p.grad)]
    squares = torch.nn.utils.get_total_norm(parts).square()
    dist.all_reduce(squares)
    norm = (squares + torch.nn.utils.get_total_norm(whole).square()).sqrt()
    if clip_norm > 0:
        scale = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in [*parts, *whole]:
            gradient.mul_(scale)
    return norm
