"""EMA: a running mean of the weights, which is often better than the last of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from omniloom.trainer.ranks import sharded_like


class Ema:
    """Exponential moving average of the trainable parameters, in their own precision; buffers are the model's."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """decay: in (0, 1), the weight of the past; 0.999 is a mean over about a thousand steps."""
        self.decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: p.detach().clone() for name, p in self._parameters.items()}
        """By name, on the parameters' device."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after step 0, 1, ...: the first steps weigh more, so that the untrained weights fade."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # One call for all of them: hundreds of small kernels else.
        cast(Any, torch)._foreach_lerp_(list(self.weights.values()), list(self._parameters.values()), 1 - decay)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Goes on from a saved mean: a model's state_dict, of which only the trainable parameters are taken."""
        for name, mean in self.weights.items():
            mean.copy_(sharded_like(weights[name], mean))
