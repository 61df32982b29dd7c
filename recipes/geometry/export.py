"""The trained network as one small ONNX file that takes any picture size, with its weights in 8 and 16 bits.

The graph keeps int8 (large convolutions, one scale a channel) or float16 weights and widens them to float32;
onnxruntime does that once, on loading, so the arithmetic is float32 and no slower.
"""

from __future__ import annotations

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniloom.recipes.geometry.net import STRIDE, GeometryNet

INT8_FROM = 8192
"""Convolutions of at least so many weights, except those of one channel each, are kept in eight bits."""


class Packed(nn.Module):
    """A convolution whose weights are kept in few bits."""

    scale: Tensor | None

    def __init__(self, conv: nn.Conv2d, *, eight_bits: bool = True) -> None:
        super().__init__()
        weight = conv.weight.detach()
        self.stride, self.padding, self.groups = conv.stride, cast("tuple[int, int]", conv.padding), conv.groups
        if eight_bits and conv.groups == 1 and weight.numel() >= INT8_FROM:
            scale = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-8) / 127
            self.register_buffer("kept", torch.round(weight / scale).to(torch.int8))
            self.register_buffer("scale", scale)
        else:
            self.register_buffer("kept", weight.half())
            self.scale = None
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().clone())

    def forward(self, x_NCHW: Tensor) -> Tensor:
        weight = cast("Tensor", self.kept).float()
        if self.scale is not None:
            weight = weight * self.scale
        return F.conv2d(x_NCHW, weight, cast("Tensor | None", self.bias), self.stride, self.padding, 1, self.groups)


class Exported(nn.Module):
    """The file's graph: RGB 0..255 (N, 3, H, W) -> depth (N, H, W) > 0 up to a factor, unit normals (N, 3, H, W)."""

    def __init__(self, net: GeometryNet, *, eight_bits: bool = True) -> None:
        super().__init__()
        self.net = _pack(fold(net), eight_bits=eight_bits)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[2], image.shape[3]
        # The nearest multiples of the network's stride, and at least one.
        inner = ((height + STRIDE // 2 - 1) // STRIDE, (width + STRIDE // 2 - 1) // STRIDE)
        inner = (inner[0] + (inner[0] == 0), inner[1] + (inner[1] == 0))
        x = F.interpolate(image, (inner[0] * STRIDE, inner[1] * STRIDE), mode="bilinear", align_corners=False)
        log_depth, normal = self.net(x)
        maps = torch.cat((log_depth[:, None], normal), 1)
        maps = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
        depth = torch.exp(maps[:, 0].clamp(-10, 10))
        return depth, F.normalize(maps[:, 1:], dim=1, eps=1e-6)


def export(checkpoint: Path, out: Path, *, eight_bits: bool = True) -> None:
    """Writes `out` from a checkpoint of `train`: the same bytes each time with the same torch.

    Raises ValueError where `onnx` is not installed, which torch's exporter wants.
    """
    if find_spec("onnx") is None:
        raise ValueError("torch writes ONNX files with the help of onnx: pip install onnx")
    net = GeometryNet()
    net.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu"))
    model = Exported(net.eval(), eight_bits=eight_bits).eval()
    axes = {0: "n", 2: "h", 3: "w"}
    part = out.with_suffix(".part")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.full((2, 3, 96, 128), 100.0),),
            str(part),
            input_names=["image"],
            output_names=["depth", "normal"],
            dynamic_axes={"image": axes, "depth": {0: "n", 1: "h", 2: "w"}, "normal": axes},
            opset_version=17,
            do_constant_folding=False,  # it would store the widened weights
            dynamo=False,
        )
    part.replace(out)


def fold(net: GeometryNet) -> GeometryNet:
    """The same network with the decoder's batch norms inside its convolutions; in eval mode."""
    out = copy.deepcopy(net).eval()
    for module in list(out.modules()):
        if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[1], nn.BatchNorm2d):
            conv = cast("nn.Conv2d", module[0])
            module[0] = nn.utils.fuse_conv_bn_eval(conv, cast("nn.BatchNorm2d", module[1]))
            module[1] = nn.Identity()
    return out


def _pack(net: GeometryNet, *, eight_bits: bool) -> GeometryNet:
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                setattr(module, name, Packed(child, eight_bits=eight_bits))
    return net
