"""Whisper's weights from CTranslate2's file, for OpenAI's own code: the embedded model by either engine.

CTranslate2 stores the same numbers (in half precision) with queries, keys and values in one matrix. Nothing is executed
that the file holds. Its layout is CTranslate2's own, version 6: https://github.com/OpenNMT/CTranslate2, MIT.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_VERSION, _SPEC = 6, "WhisperSpec"


def openai_model(folder: Path, device: str) -> Any:
    """An openai-whisper model with the weights of a CTranslate2 folder.

    Raises ValueError for a file of another kind or version, or one whose weights are stored as integers.
    """
    import torch

    whisper: Any = import_module("whisper.model")
    stored = _stored(folder / "model.bin")
    bands = stored["encoder/conv1/weight"].shape[1]
    audio_context, width = stored["encoder/position_encodings/encodings"].shape
    vocabulary, _ = stored["decoder/embeddings/weight"].shape
    text_context, _ = stored["decoder/position_encodings/encodings"].shape
    layers = {side: sum(f"{side}/layer_{n}/ffn/linear_0/bias" in stored for n in range(64)) for side in _SIDES}
    heads = {side: int(stored[f"{side}/num_heads"]) for side in _SIDES}
    sizes = whisper.ModelDimensions(
        bands, audio_context, width, heads["encoder"], layers["encoder"],
        vocabulary, text_context, width, heads["decoder"], layers["decoder"],
    )  # fmt: skip
    model = whisper.Whisper(sizes)
    weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in _renamed(stored, layers)}
    model.load_state_dict(weights)
    chosen = torch.zeros(layers["decoder"], heads["decoder"], dtype=torch.bool)
    for layer, head in json.loads((folder / "config.json").read_text(encoding="utf-8")).get("alignment_heads", []):
        chosen[layer, head] = True
    if chosen.any():
        model.register_buffer("alignment_heads", chosen.to_sparse(), persistent=False)
    return model.to(device).eval()


_SIDES = ("encoder", "decoder")


def _renamed(stored: dict[str, np.ndarray], layers: dict[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Every weight under the name, and of the shape, that openai-whisper gives it."""

    def linear(theirs: str, ours: str) -> Iterator[tuple[str, np.ndarray]]:
        yield f"{ours}.weight", stored[f"{theirs}/weight"]
        yield f"{ours}.bias", stored[f"{theirs}/bias"]

    def norm(theirs: str, ours: str) -> Iterator[tuple[str, np.ndarray]]:
        yield f"{ours}.weight", stored[f"{theirs}/gamma"]
        yield f"{ours}.bias", stored[f"{theirs}/beta"]

    def parts(theirs: str, ours: str, names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
        weights = np.split(stored[f"{theirs}/weight"], len(names))
        biases = np.split(stored[f"{theirs}/bias"], len(names))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            yield f"{ours}.{name}.weight", weight
            if name != "key":  # keys have no bias; CTranslate2 stores zeros
                yield f"{ours}.{name}.bias", bias

    yield "encoder.positional_embedding", stored["encoder/position_encodings/encodings"]
    yield "decoder.positional_embedding", stored["decoder/position_encodings/encodings"]
    yield "decoder.token_embedding.weight", stored["decoder/embeddings/weight"]
    yield from linear("encoder/conv1", "encoder.conv1")
    yield from linear("encoder/conv2", "encoder.conv2")
    yield from norm("encoder/layer_norm", "encoder.ln_post")
    yield from norm("decoder/layer_norm", "decoder.ln")
    for side in _SIDES:
        for n in range(layers[side]):
            theirs, ours = f"{side}/layer_{n}", f"{side}.blocks.{n}"
            yield from parts(f"{theirs}/self_attention/linear_0", f"{ours}.attn", ("query", "key", "value"))
            yield from linear(f"{theirs}/self_attention/linear_1", f"{ours}.attn.out")
            yield from norm(f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln")
            if side == "decoder":
                yield from linear(f"{theirs}/attention/linear_0", f"{ours}.cross_attn.query")
                yield from parts(f"{theirs}/attention/linear_1", f"{ours}.cross_attn", ("key", "value"))
                yield from linear(f"{theirs}/attention/linear_2", f"{ours}.cross_attn.out")
                yield from norm(f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
            yield from linear(f"{theirs}/ffn/linear_0", f"{ours}.mlp.0")
            yield from linear(f"{theirs}/ffn/linear_1", f"{ours}.mlp.2")
            yield from norm(f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")


def _stored(path: Path) -> dict[str, np.ndarray]:
    """All variables of the file by name."""
    with path.open("rb") as file:
        version, spec, _, number = _number(file, "I"), _name(file), _number(file, "I"), _number(file, "I")
        if (version, spec) != (_VERSION, _SPEC):
            raise ValueError(f"{path} is {spec} of version {version}, not {_SPEC} of version {_VERSION}")
        found: dict[str, np.ndarray] = {}
        for _ in range(number):
            name = _name(file)
            shape = [_number(file, "I") for _ in range(_number(file, "B"))]
            kind, size = _number(file, "B"), _number(file, "I")
            data = file.read(size)
            if kind not in _DTYPES or len(data) < size:
                raise ValueError(f"{path} is cut short, or {name} is of a type that is not known ({kind})")
            found[name] = np.frombuffer(data, _DTYPES[kind]).reshape(shape)
            if name.endswith("/weight") and found[name].dtype.kind != "f":
                raise ValueError(f"{path} holds integers: only weights in float16 or float32 can be read here")
    return found


def _number(file: BinaryIO, kind: str) -> int:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]


def _name(file: BinaryIO) -> str:
    return file.read(_number(file, "H"))[:-1].decode()
