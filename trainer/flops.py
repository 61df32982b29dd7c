"""FLOPs: how many operations a training step needs, and how many the device could do meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

_PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "4090": 165,
    "3090": 71,
    "V100": 125,
    "T4": 65,
}
"""Dense half-precision matrix multiplication, from the vendor's data sheets; the first name found in the device's."""

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""The one kernel of attention that torch's counter does not know."""


def training_flops(forward: Callable[[], object]) -> int:
    """Operations of a forward and a backward pass: three forward ones, as is usual (Kaplan et al., 2001.08361).

    Runs `forward` once without gradients and counts its matrix products, convolutions and attention.
    """
    counter = FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_flops})
    with torch.no_grad(), counter:
        forward()
    return 3 * counter.get_total_flops()


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """Of shapes (B, H, T, d): queries against keys, and weights against values."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def peak_flops(device: torch.device) -> float | None:
    """Operations a second that the device can do in half precision; None where no data sheet is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in _PEAK_TFLOPS.items() if part in name), None)
