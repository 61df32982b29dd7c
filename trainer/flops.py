"""FLOPs: how many operations a training step needs, and how many the device could do meanwhile."""

from __future__ import annotations

from collections.abc import Callable

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


def training_flops(forward: Callable[[], object]) -> int:
    """Operations of a forward and a backward pass: three forward ones, as is usual (Kaplan et al., 2001.08361).

    Runs `forward` once without gradients and counts its matrix products, convolutions and attention. Random numbers
    that it draws from torch's own generators are given back.
    """
    with torch.random.fork_rng(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    return 3 * counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """Operations a second that the device can do in half precision; None where no data sheet is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in _PEAK_TFLOPS.items() if part in name), None)
