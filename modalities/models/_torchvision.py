"""torchvision, made importable where its compiled operators are of another torch build than the one at hand."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

_kept: list[Any] = []
"""Libraries of declared operators: torch forgets the declarations when the object dies."""


def mend_torchvision() -> None:
    """Does nothing where torchvision works or is not installed.

    On a CPU build of torch its wheel fails on import with "operator torchvision::nms does not exist", although those
    who import it here call none of them. Only then they are declared, without a kernel; other errors are raised.
    """
    if find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
        return
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    import_module("torchvision")
