"""The multimodal context: every modality's features as tokens of one sequence, with a mask of what is there.

Shapes: B samples, n images of one modality, P patches, W encoder width, L tokens of one modality, D context width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from omniloom.trainer.mico import MiCoConfig


@dataclass(slots=True)
class Context:
    """Tokens by modality (B, L_m, D), masks bool (B, L_m), presence bool (B,). Absent tokens are never attended."""

    tokens: dict[str, Tensor]
    masks: dict[str, Tensor]
    present: dict[str, Tensor]
    size: int
    """B: known even where no modality is there."""

    def has(self, names: Iterable[str]) -> Tensor:
        """Mask bool (B,): which samples have any of the modalities."""
        there = [self.present[name] for name in names if name in self.present]
        if there:
            return torch.stack(there).any(0)
        device = next((mask.device for mask in self.present.values()), None)
        return torch.zeros(self.size, dtype=torch.bool, device=device)

    def rows(self, index: Tensor) -> Context:
        """The context of the chosen samples; an index may repeat."""
        return Context(
            tokens={name: tokens[index] for name, tokens in self.tokens.items()},
            masks={name: mask[index] for name, mask in self.masks.items()},
            present={name: mask[index] for name, mask in self.present.items()},
            size=len(index),
        )

    def exchange(self, name: str, index: Tensor) -> Context:
        """The same context with one modality taken from other samples: the swap test."""
        other = self.rows(index)
        return Context(
            tokens={**self.tokens, name: other.tokens[name]},
            masks={**self.masks, name: other.masks[name]},
            present={**self.present, name: other.present[name]},
            size=self.size,
        )


class ContextBuilder(nn.Module):
    """c_m = LN(W_m z_m) + time embedding + modality embedding (MiCo, section 3.2), token masks beside it.

    With `pool_video` each image leaves two tokens, [CLS] and the mean of its patches; else all of them.
    """

    def __init__(self, config: MiCoConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.names = tuple(widths)
        dim = config.text_width
        self.pool = config.pool_video
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in widths.items()})
        self.norm = nn.ModuleDict({name: nn.LayerNorm(dim) for name in widths})
        self.modality = nn.Parameter(torch.zeros(len(widths), dim).normal_(0, 0.02))
        self.max_images = max(config.num_frames, config.audio_slices, 1)
        self.time = nn.Parameter(torch.zeros(self.max_images, dim).normal_(0, 0.02))
        self.here = nn.Parameter(torch.zeros(len(widths) + 1, dim).normal_(0, 0.02))
        self.here_norm = nn.LayerNorm(dim)
        self.slots = config.context_slots
        paper = config.context_position == "paper"
        # The paper's E_Pos over the concatenation, at fixed slots so that an absent modality moves no other.
        self.position = nn.Parameter(torch.zeros(len(widths), self.slots, dim).normal_(0, 0.02)) if paper else None
        self.sample = nn.Parameter(torch.zeros(dim).normal_(0, 0.02)) if paper else None
        self._leave_out(config.context_without)

    def _leave_out(self, names: Sequence[str]) -> None:
        """Zeros that are never trained in place of the embeddings: everything else begins as it would with them."""
        known = {"time": self.time, "modality": self.modality, "presence": self.here}
        known |= {"position": self.position, "sample": self.sample} if self.position is not None else {}
        for name in names:
            embedding = known.get(name)
            if embedding is None:
                raise ValueError(f"model.context_without: no embedding {name!r} here, only {', '.join(known)}")
            embedding.requires_grad_(False)
            with torch.no_grad():
                embedding.zero_()

    def image_tokens(self, name: str, features_BnPW: Tensor) -> Tensor:
        """Tokens (B, L, D) of encoder features with [CLS] first."""
        count = features_BnPW.shape[1]
        if count > self.max_images:
            raise ValueError(
                f"{name}: {count} images, this model embeds {self.max_images} times: raise model.num_frames"
            )
        if self.pool:
            features_BnPW = torch.stack([features_BnPW[:, :, 0], features_BnPW[:, :, 1:].mean(2)], 2)
        tokens = self.norm[name](self.project[name](features_BnPW)) + self.time[:count, None]
        return self._placed(name, tokens.flatten(1, 2))

    def text_tokens(self, name: str, hidden_BLD: Tensor) -> Tensor:
        """Tokens (B, L, D) of a text modality such as the transcript."""
        return self._placed(name, self.norm[name](self.project[name](hidden_BLD)))

    def presence(self, context: Context, names: Sequence[str]) -> Tensor:
        """One token (B, 1, D) that says which of the named modalities are there, so that no sound is invented."""
        token = self.here[-1].expand(context.size, -1)
        for index, name in enumerate(self.names):
            if name in names and name in context.present:
                token = token + context.present[name][:, None] * self.here[index]
        return self.here_norm(token)[:, None]

    def select(self, context: Context, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The subset as one sequence (B, 1 + L, D) behind its presence token, and its mask bool (B, 1 + L)."""
        chosen = [name for name in self.names if name in names and name in context.tokens]
        first = self.presence(context, names)
        tokens = torch.cat([first, *(context.tokens[name].to(first.dtype) for name in chosen)], 1)
        always = torch.ones(context.size, 1, dtype=torch.bool, device=tokens.device)
        return tokens, torch.cat([always, *(context.masks[name] for name in chosen)], 1)

    def _placed(self, name: str, tokens_BLD: Tensor) -> Tensor:
        index = self.names.index(name)
        tokens_BLD = tokens_BLD + self.modality[index]
        if self.position is not None and self.sample is not None:
            if tokens_BLD.shape[1] > self.slots:
                raise ValueError(
                    f"{name}: {tokens_BLD.shape[1]} tokens in {self.slots} slots: raise model.context_slots"
                )
            tokens_BLD = tokens_BLD + self.position[index, : tokens_BLD.shape[1]] + self.sample
        return tokens_BLD
