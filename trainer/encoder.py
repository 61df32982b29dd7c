"""The shared encoder: one vision transformer that reads every knowledge modality.

Shapes: B samples, N images of all kinds together, P tokens of an image, W the transformer's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from omniloom.modalities import load, short_name
from omniloom.trainer.backbone import build_vit, colours
from omniloom.trainer.stems import MelImages, PatchStem, PointStem

if TYPE_CHECKING:
    from omniloom.trainer.mico import MiCoConfig


_SHORT_SIDE = 6
"""Patches along an image up to which the fused attention kernel does not pay."""


class Encoder(nn.Module):
    """Arrays by modality -> features by modality, all image-like kinds in one pass of one transformer."""

    def __init__(self, config: MiCoConfig) -> None:
        super().__init__()
        self.vit: Any = build_vit(config)
        if config.image_px // config.patch_px <= _SHORT_SIDE:
            for block in self.vit.blocks:
                block.attn.fused_attn = False  # with so few tokens plain matrices are a quarter faster
        scale, shift = colours(self.vit) if config.backbone else (torch.ones(3), torch.zeros(3))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)
        self.shared_rgb = config.stem == "shared_rgb"
        self.width = int(self.vit.embed_dim)
        self.kinds = {short_name(name): load(name).stem for name in config.modalities}
        if self.shared_rgb and config.patch_px != self.vit.patch_embed.patch_size[0]:
            raise ValueError(f"patch_px {config.patch_px} is not the backbone's: {self.vit.patch_embed.patch_size[0]}")
        stems: dict[str, nn.Module] = {}
        for name, stem in self.kinds.items():
            if stem.kind == "points":
                stems[name] = PointStem(stem.channels, self.width, config.num_groups, config.group_points)
            elif stem.kind in {"image", "mel"} and not self.shared_rgb:
                channels = 1 if stem.kind == "mel" else stem.channels
                if config.backbone and channels == 3 and name == "frames":
                    continue  # the pretrained patch embedding is worth keeping
                stems[name] = PatchStem(channels, self.width, self.vit.patch_embed.patch_size[0])
        self.stems = nn.ModuleDict(stems)
        if "frames" in self.stems or not any(kind.kind in {"image", "mel"} for kind in self.kinds.values()):
            self.vit.patch_embed.requires_grad_(False)  # unused, so not trained
        mel = [name for name, kind in self.kinds.items() if kind.kind == "mel"]
        self.mel = (
            MelImages(config.image_px, config.audio_slices, config.audio_slice_s, config.audio_hop_ms) if mel else None
        )

    def forward(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features (B_m, n, 1 + P, W) of each modality given, [CLS] first; B_m may differ between modalities."""
        ready: dict[str, Tensor] = {}
        turns: dict[str, Tensor | None] = {}
        counts: dict[str, tuple[int, int]] = {}
        for name, array in arrays.items():
            ready[name], turns[name], counts[name] = self._tokens(name, array)
        out: dict[str, Tensor] = {}
        # Kinds with equally many tokens share one pass: larger matrices, fewer of them. Points are turned by no place.
        for kind in dict.fromkeys((tokens.shape[1], turns[name] is None) for name, tokens in ready.items()):
            group = {name: each for name, each in ready.items() if (each.shape[1], turns[name] is None) == kind}
            features = self._blocks(torch.cat(list(group.values())), turns[next(iter(group))])
            for name, part in zip(group, features.split([len(tokens) for tokens in group.values()]), strict=True):
                batch, each = counts[name]
                out[name] = part.reshape(batch, each, *part.shape[1:])
        return {name: out[name] for name in arrays}

    def _tokens(self, name: str, array: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        """Tokens (N, 1 + P, W) with positions and [CLS], rotary positions if any, and (samples, images of each)."""
        kind = self.kinds[name].kind
        if kind == "points":
            tokens = self.stems[name](array)
            prefix = self.vit.cls_token
            if self.vit.pos_embed is not None and not self.vit.no_embed_class:
                prefix = prefix + self.vit.pos_embed[:, :1]
            if self.vit.reg_token is not None:
                prefix = torch.cat([prefix, self.vit.reg_token], 1)
            tokens = torch.cat([prefix.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], 1)
            return tokens, None, (len(array), 1)
        if kind == "mel":
            assert self.mel is not None
            array = self.mel(array)
        images = array.flatten(0, 1)
        if name in self.stems:
            patches = self.stems[name](images)
        else:
            if images.shape[1] == 3:  # colours, or normals that are looked at as such
                images = images * self.scale + self.shift
            patches = self.vit.patch_embed(_as_rgb(images))
        placed = self.vit._pos_embed(patches)
        placed, turn = placed if isinstance(placed, tuple) else (placed, None)  # Eva turns queries and keys too
        return placed, turn, (array.shape[0], array.shape[1])

    def _blocks(self, x_NPW: Tensor, turn: Tensor | None) -> Tensor:
        x_NPW = self.vit.norm_pre(x_NPW)
        for block in self.vit.blocks:
            x_NPW = block(x_NPW) if turn is None else block(x_NPW, rope=turn)
        x_NPW = self.vit.norm(x_NPW)
        extra = self.vit.num_prefix_tokens - 1  # registers carry nothing for later layers
        return torch.cat([x_NPW[:, :1], x_NPW[:, 1 + extra :]], 1) if extra else x_NPW


def _as_rgb(image_NCHW: Tensor) -> Tensor:
    """Images of any kind as three channels, the way the paper feeds them: one channel is repeated."""
    return image_NCHW if image_NCHW.shape[1] == 3 else image_NCHW[:, :1].expand(-1, 3, -1, -1)
