"""Pictures as depth networks of `transformers` want them, and their answers back at the picture's size.

Done in torch, on the device where the network is, a batch at once and without torchvision. Each way follows what the
model's preprocessor_config.json states and, for what it leaves out, the defaults of the model's own image processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Restore = Callable[["Tensor"], "Tensor"]
"""A network's answer (N, h, w) at whatever size it came -> (N, H, W), pixel over pixel of the picture."""

Prepare = Callable[["Tensor", Mapping[str, Any]], "tuple[Tensor, Restore]"]
"""(uint8 (N, 3, H, W), what the preprocessor's configuration states) -> (float32 (N, 3, h, w), the way back)."""

_MODES = {2: "bilinear", 3: "bicubic"}


def as_dpt(rgb: Tensor, stated: Mapping[str, Any]) -> tuple[Tensor, Restore]:
    """DPT, Depth Anything: near the stated size in whole patches, or zeros around to whole patches."""
    from torch.nn.functional import pad

    height, width = rgb.shape[-2:]
    if stated.get("do_resize", True):
        multiple = stated.get("ensure_multiple_of") or 1
        size = _near(height, width, _size(stated, 384, 384), bool(stated.get("keep_aspect_ratio")), multiple)
        rgb = _resized(rgb, size, _mode(stated, 3))
    pixels = _normalised(rgb.float(), stated)
    fed_h, fed_w = pixels.shape[-2:]
    top = bottom = left = right = 0
    if stated.get("do_pad") and stated.get("size_divisor"):
        step = int(stated["size_divisor"])
        more_h, more_w = -fed_h % step, -fed_w % step
        top, left = more_h // 2, more_w // 2
        bottom, right = more_h - top, more_w - left
        pixels = pad(pixels, (left, right, top, bottom))

    def restore(depth: Tensor) -> Tensor:
        # The processor in `transformers` squeezes the margin's depth into the picture as well.
        if top or bottom or left or right:
            depth = _enlarged(depth, (fed_h + top + bottom, fed_w + left + right), "bicubic")
            depth = depth[:, top : top + fed_h, left : left + fed_w]
        return _enlarged(depth, (height, width), "bicubic")

    return pixels, restore


def as_zoedepth(rgb: Tensor, stated: Mapping[str, Any]) -> tuple[Tensor, Restore]:
    """ZoeDepth: mirrored margins, since its depth is poor at the border, then corners on corners."""
    from torch.nn.functional import interpolate, pad

    height, width = rgb.shape[-2:]
    pixels = (
        rgb.float() * float(stated.get("rescale_factor", 1 / 255)) if stated.get("do_rescale", True) else rgb.float()
    )
    down = across = 0
    if stated.get("do_pad", True):
        down, across = int(math.sqrt(height / 2) * 3), int(math.sqrt(width / 2) * 3)
        pixels = pad(pixels, (across, across, down, down), mode="reflect")
    if stated.get("do_resize", True):
        multiple = stated.get("ensure_multiple_of") or 1
        keep = bool(stated.get("keep_aspect_ratio", True))
        size = _near(pixels.shape[-2], pixels.shape[-1], _size(stated, 384, 512), keep, multiple)
        pixels = interpolate(pixels, size, mode=_mode(stated, 2), align_corners=True)
    pixels = _normalised(pixels, {**stated, "do_rescale": False})

    def restore(depth: Tensor) -> Tensor:
        depth = _enlarged(depth, (height + 2 * down, width + 2 * across), "bicubic")
        return depth[:, down : down + height, across : across + width]

    return pixels, restore


def as_glpn(rgb: Tensor, stated: Mapping[str, Any]) -> tuple[Tensor, Restore]:
    """GLPN: whole multiples of 32 pixels, rounded down."""
    height, width = rgb.shape[-2:]
    if stated.get("do_resize", True):
        step = int(stated.get("size_divisor") or 32)
        rgb = _resized(rgb, (max(step, height // step * step), max(step, width // step * step)), _mode(stated, 2))
    pixels = _normalised(rgb.float(), {"do_normalize": False, **stated})
    return pixels, lambda depth: _enlarged(depth, (height, width), "bicubic")


def as_depth_pro(rgb: Tensor, stated: Mapping[str, Any]) -> tuple[Tensor, Restore]:
    """DepthPro: stretched to a square, after normalising and without antialiasing."""
    from torch.nn.functional import interpolate

    height, width = rgb.shape[-2:]
    pixels = _normalised(rgb.float(), stated)
    mode = _mode(stated, 2)
    if stated.get("do_resize", True):
        pixels = interpolate(pixels, _size(stated, 1536, 1536), mode=mode, align_corners=False)
    return pixels, lambda depth: _enlarged(depth, (height, width), mode)


def as_tips(rgb: Tensor, stated: Mapping[str, Any]) -> tuple[Tensor, Restore]:
    """TIPSv2: stretched to the stated size, values 0 to 1."""
    height, width = rgb.shape[-2:]
    if stated.get("do_resize", True):
        rgb = _resized(rgb, _size(stated, 448, 448), _mode(stated, 2))
    pixels = _normalised(rgb.float(), {"do_normalize": False, **stated})
    return pixels, lambda depth: _enlarged(depth, (height, width), "bilinear")


def _size(stated: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
    size = stated.get("size", {"height": height, "width": width})
    if isinstance(size, int):
        return size, size
    if not isinstance(size, Mapping) or not {"height", "width"} <= set(size):
        raise ValueError(f"its preprocessor_config.json states a size that is not height and width: {size}")
    return int(size["height"]), int(size["width"])


def _mode(stated: Mapping[str, Any], default: int) -> str:
    code = int(stated.get("resample", default))
    if code not in _MODES:
        raise ValueError(f"its preprocessor_config.json states resample {code}; known are 2 (bilinear), 3 (bicubic)")
    return _MODES[code]


def _near(height: int, width: int, wanted: tuple[int, int], keep_aspect: bool, multiple: float) -> tuple[int, int]:
    """(h, w) near the wanted size, of the picture's shape if that is to be kept, in whole multiples."""
    scale_h, scale_w = wanted[0] / height, wanted[1] / width
    if keep_aspect:
        # Fitting one side only: the one that changes the picture less.
        scale_h = scale_w = scale_w if abs(1 - scale_w) < abs(1 - scale_h) else scale_h
    whole = [max(multiple, round(side / multiple) * multiple) for side in (scale_h * height, scale_w * width)]
    return int(whole[0]), int(whole[1])


def _resized(rgb: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """uint8 -> uint8, antialiased."""
    import torch
    from torch.nn.functional import interpolate

    if rgb.device.type == "cpu":
        return interpolate(rgb, size, mode=mode, antialias=True, align_corners=False)
    # No kernel for bytes on a GPU; rounded all the same, so that both feed the network alike.
    return (
        interpolate(rgb.float(), size, mode=mode, antialias=True, align_corners=False)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
    )


def _normalised(pixels: Tensor, stated: Mapping[str, Any]) -> Tensor:
    import torch

    if stated.get("do_rescale", True):
        pixels = pixels * float(stated.get("rescale_factor", 1 / 255))
    if not stated.get("do_normalize", True):
        return pixels.contiguous()
    mean, std = (
        torch.tensor(stated.get(name) or [0.5] * 3, dtype=torch.float32, device=pixels.device).reshape(1, -1, 1, 1)
        for name in ("image_mean", "image_std")
    )
    return ((pixels - mean) / std).contiguous()


def _enlarged(depth: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    from torch.nn.functional import interpolate

    if tuple(depth.shape[-2:]) == size:
        return depth
    return interpolate(depth[:, None], size, mode=mode, align_corners=False)[:, 0]
