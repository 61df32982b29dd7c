"""timm, imported so that a CPU build of torch without torchvision's compiled operators does not stop it."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import torch

_kept: list[Any] = []
"""Libraries of declared operators: torch forgets the declarations when the object dies."""


def timm() -> Any:
    """The timm package.

    torchvision's wheel for another torch build lacks its operators and fails on import with "operator
    torchvision::nms does not exist", although timm calls none of them. Only then they are declared here, without a
    kernel, and the import is repeated. Any other error is raised as it is.
    """
    try:
        return import_module("timm")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] in {"torchvision", "timm"}]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    return import_module("timm")
