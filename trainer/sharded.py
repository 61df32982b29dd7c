"""FSDP2: weights, gradients and optimiser state are split over the ranks, each of which holds its part.

All parameters are one group: gathered when a step begins, its gradients scattered when it ends. Groups of single
layers would need less memory, but a rank without points or sound runs some layers less often than the others, and
ranks that gather unequally often wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Sharded(nn.Module):
    """A module that gives a mapping with its "loss", with its parameters sharded in place."""

    def __init__(self, inner: nn.Module, device: torch.device) -> None:
        super().__init__()
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.inner = inner
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        # FSDP2 cannot split scalars: they stay whole, and `average_whole` does for them what it does for the others.
        self._whole = [parameter for parameter in inner.parameters() if parameter.ndim == 0]
        shard: Callable[..., Any] = fully_shard
        shard(self, mesh=mesh, ignored_params=set(self._whole))

    def forward(self, *args: Any) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.inner(*args)
        # Every rank has a gradient of every parameter, also of those that its samples did not touch.
        touched = [p.flatten()[0] * 0 for p in self.inner.parameters() if p.requires_grad and p.numel()]
        return {**losses, "loss": losses["loss"] + torch.stack(touched).sum()}

    def average_whole(self) -> None:
        """Averages over ranks the gradients that FSDP2 left alone: after backward."""
        for parameter in self._whole:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
