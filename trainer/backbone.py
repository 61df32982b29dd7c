"""Backbones: a vision transformer of timm, of a given size or by name with weights from the hub or from a file.

`vit_*` (with DINOv2's `vit_*_dinov2` and `vit_*_reg4_dinov2`) and `eva02_*`. Weights of another image size are resized:
position embeddings by bicubic interpolation of their grid, as timm does for its own.
"""

from __future__ import annotations

import pickle
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from omniloom.modalities.models._torchvision import mend_torchvision

if TYPE_CHECKING:
    from omniloom.trainer.mico import MiCoConfig

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def build_vit(config: MiCoConfig) -> Any:
    """A VisionTransformer or Eva of timm with a [CLS] token, without a classifier: `norm` is its last layer.

    By name with `backbone` and weights of the hub or of a local file, else of the given size. Raises ValueError,
    naming the repair, for backbones of another class, for names that timm does not know, and for files that do not fit.
    """
    mend_torchvision()  # timm imports it
    timm: Any = import_module("timm")
    plain, eva = timm.models.vision_transformer.VisionTransformer, timm.models.eva.Eva
    if not config.backbone:
        return plain(
            img_size=config.image_px,
            patch_size=config.patch_px,
            embed_dim=config.vit_width,
            depth=config.vit_depth,
            num_heads=config.vit_heads,
            mlp_ratio=config.mlp_ratio,
            num_classes=0,
            global_pool="",
        )
    name = config.backbone
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm knows no backbone {name!r}: choose one of `timm.list_models('vit_*')` or 'eva02_*'")
    hub = config.backbone_pretrained and not config.backbone_weights
    try:
        vit = timm.create_model(name, pretrained=hub, img_size=config.image_px, num_classes=0)
    except TypeError as error:
        raise ValueError(f"backbone {name!r} takes no image size: {_USE}") from error
    except AssertionError as error:
        raise ValueError(f"backbone {name!r} cannot look at images of {config.image_px} px: {error}") from error
    if not isinstance(vit, (plain, eva)):
        raise ValueError(f"backbone {name!r} is a {type(vit).__name__}: {_USE}")
    if vit.cls_token is None or getattr(vit, "rope_mixed", False):
        raise ValueError(f"backbone {name!r} has no [CLS] token or mixes its rotary positions by layer: {_USE}")
    if isinstance(vit.norm, nn.Identity):
        # Models that classify by their mean patch keep their last norm behind the pooling.
        vit.norm, vit.fc_norm = vit.fc_norm, vit.norm
    if config.backbone_weights:
        _load_file(vit, Path(config.backbone_weights).expanduser(), name)
    return vit


def colours(vit: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift, float32 (3,) each, from colours in [-1, 1] to those that a named backbone was trained with."""
    facts: dict[str, Any] = getattr(vit, "pretrained_cfg", None) or {}
    mean, std = (torch.tensor(facts.get(name) or (0.5, 0.5, 0.5)) for name in ("mean", "std"))
    return 0.5 / std, (0.5 - mean) / std


_USE = "use one of timm's vit_* or eva02_* models"


def _load_file(vit: Any, path: Path, name: str) -> None:
    """Fills a backbone from a file, all of it. (timm itself ignores what is missing once the classifier is dropped.)"""
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"model.backbone_weights={str(path)!r} is no {', '.join(_SUFFIXES)} file")
    if not path.is_file():
        raise ValueError(f"model.backbone_weights={str(path)!r} is not there")
    models: Any = import_module("timm.models")
    family = import_module(type(vit).__module__)
    try:
        state = family.checkpoint_filter_fn(models.load_state_dict(str(path)), vit)
    except (RuntimeError, AttributeError, TypeError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as weights of {name!r}: {_line(error)}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # it derives from Exception alone
            raise
        raise ValueError(f"{path} is damaged: {_line(error)}") from error
    weights = _renamed(cast("dict[str, Tensor]", state), has_norm=not isinstance(vit.norm, nn.Identity))
    wanted: dict[str, Tensor] = vit.state_dict()
    for key, tensor in wanted.items():
        if key not in weights:
            raise ValueError(f"{path} does not fit {name!r}: it lacks {key}; {_FIT}")
        if weights[key].shape != tensor.shape:
            found, needed = tuple(weights[key].shape), tuple(tensor.shape)
            raise ValueError(f"{path} does not fit {name!r}: {key} is {found}, not {needed}; {_FIT}")
    if deeper := [key for key in weights if key.startswith("blocks.") and key not in wanted]:
        raise ValueError(f"{path} does not fit {name!r}: it also has {deeper[0]}; {_FIT}")
    vit.load_state_dict({key: weights[key] for key in wanted})


_FIT = "set model.backbone to the architecture that the file is of"


def _renamed(state: dict[str, Tensor], *, has_norm: bool) -> dict[str, Tensor]:
    """The last norm under the name that it has here, whichever pooling the file was trained with."""
    if not has_norm or "norm.weight" in state:
        return state
    return {key.replace("fc_norm.", "norm.") if key.startswith("fc_norm.") else key: t for key, t in state.items()}


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
