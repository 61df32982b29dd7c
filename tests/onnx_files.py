"""Tiny ONNX files, written byte by byte: what a test needs of the format without the `onnx` package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7, np.dtype(np.float16): 10}


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int) -> bytes:
    """One operator with one output; attributes are whole numbers."""
    body = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, kind)
    for name, value in attributes.items():
        body += _bytes(5, _text(1, name) + _number(3, value) + _number(20, 2))
    return body


def write(
    path: Path,
    nodes: Sequence[bytes],
    image: Sequence[int | str],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    half: bool = False,
) -> Path:
    """A network from "image", of that shape (names are free sides), to the outputs, of any shape."""
    kind = _TYPES[np.dtype(np.float16 if half else np.float32)]
    graph = b"".join(_bytes(1, one) for one in nodes) + _text(2, "test")
    graph += b"".join(_bytes(5, _tensor(name, values)) for name, values in (constants or {}).items())
    graph += _bytes(11, _value("image", kind, image))
    graph += b"".join(_bytes(12, _value(name, kind, None)) for name in outputs)
    path.write_bytes(_number(1, 8) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, 17)))
    return path


def _value(name: str, kind: int, shape: Sequence[int | str] | None) -> bytes:
    tensor = _number(1, kind)
    if shape is not None:
        sides = (_number(1, side) if isinstance(side, int) else _text(2, side) for side in shape)
        tensor += _bytes(2, b"".join(_bytes(1, side) for side in sides))
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _tensor(name: str, values: np.ndarray) -> bytes:
    sides = b"".join(_number(1, side) for side in values.shape)
    return sides + _number(2, _TYPES[values.dtype]) + _text(8, name) + _bytes(9, values.tobytes())


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())
