"""Imports all that training needs: for processes that are forked from one that has it."""

from __future__ import annotations

from importlib import import_module

from omniloom.modalities.models._torchvision import mend_torchvision

mend_torchvision()
for _name in ("timm", "tokenizers", "safetensors.torch", "omniloom.trainer.train", "torch.utils.flop_counter"):
    import_module(_name)
