"""Depth from one picture by an ONNX file: what goes in and what comes out is stated in a YAML beside it.

What a loaded model takes and gives is said in `estimate.py`. `model.onnx` is described by
`model.yaml`, every key optional; the defaults fit networks that take RGB 0..255 and give relative inverse depth:

    scale: 1.0               # input = (rgb * scale - mean) / std; 0.00392156862745098 for networks that want 0..1
    mean: [0, 0, 0]
    std: [1, 1, 1]
    size: [320, 192]         # width, height; from the file where the file fixes it
    output: relative-inverse # or metric-z (metres along the optical axis), or relative (z up to a factor)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models.estimate import KINDS, Answer, Estimate, Kind

GPUS = 0.2


@dataclass(frozen=True, slots=True)
class Card:
    """The YAML beside the model."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    size: tuple[int, ...] = ()
    output: str = "relative-inverse"

    def __post_init__(self) -> None:
        if self.output not in KINDS:
            raise ValueError(f"output is one of {', '.join(KINDS)}, got {self.output!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0 or len(self.size) not in {0, 2}:
            raise ValueError(f"mean and std are three numbers (std > 0) and size is [width, height], got {self}")


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repair, if the file, its description or onnxruntime is not there."""
    if find_spec("onnxruntime") is None:
        raise ValueError("depth from an .onnx file needs onnxruntime: pip install 'omniloom[build]'")
    if not _path(ref).is_file():
        raise ValueError(
            f"there is no depth model {ref.name!r}: give depth.model the path of an .onnx file, the name of a "
            "transformers depth model, or 'given' to use only depth that lies beside the videos"
        )
    _card(ref)


def describe(ref: ModelRef) -> tuple[str, str]:
    """The file's name and a hash of the network and of its description."""
    path = _path(ref)
    return path.name, _hash_of(str(path), path.stat().st_mtime_ns)


def load(ref: ModelRef) -> Answer:
    """The network, on the GPU where onnxruntime has one, else on one core."""
    import onnxruntime

    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")  # where its exceptions are

    check(ref)
    card = _card(ref)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(_path(ref)), options, providers=providers)
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
    ) as error:
        raise ValueError(f"{ref.name!r} is no ONNX file that onnxruntime reads: {error}") from error
    (source,) = session.get_inputs()
    width, height = _size(card, source.shape, ref)

    def answer(rgb: np.ndarray, k: np.ndarray | None = None) -> Estimate:
        depth = np.empty(rgb.shape[:3], np.float32)
        for index, picture in enumerate(rgb):
            fed = _resized(picture, width, height).astype(np.float32)
            fed = (fed * np.float32(card.scale) - np.array(card.mean, np.float32)) / np.array(card.std, np.float32)
            out = cast("list[np.ndarray]", session.run(None, {source.name: fed.transpose(2, 0, 1)[None]}))[0]
            depth[index] = resized_float(out.reshape(out.shape[-2:]), rgb.shape[2], rgb.shape[1])
        return Estimate(depth, cast(Kind, card.output))

    return answer


def resized_float(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """float32 (h, w) -> (height, width), bilinear: a network's answer at the picture's size."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _size(card: Card, shape: list[Any], ref: ModelRef) -> tuple[int, int]:
    if len(shape) != 4:
        raise ValueError(f"{ref.name!r} takes {shape}, not (1, 3, height, width)")
    fixed = [size for size in (shape[3], shape[2]) if isinstance(size, int)]
    size = tuple(fixed) if len(fixed) == 2 else card.size
    if len(size) != 2:
        raise ValueError(
            f"{ref.name!r} takes any size: state one in {_path(ref).with_suffix('.yaml').name}, as size: [320, 192]"
        )
    return size[0], size[1]


def _path(ref: ModelRef) -> Path:
    return Path(ref.name).expanduser()


def _card(ref: ModelRef) -> Card:
    import yaml

    path = _path(ref).with_suffix(".yaml")
    if not path.is_file():
        return Card()
    try:
        stated: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stated.items()
        }
        return Card(**values)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, OSError) as error:
        keys = ", ".join(Card.__dataclass_fields__)
        raise ValueError(f"{path} does not describe a depth model ({error}); its keys are {keys}") from error


@lru_cache(maxsize=8)
def _hash_of(path: str, modified_ns: int) -> str:
    import xxhash

    digest = xxhash.xxh3_128(Path(path).read_bytes())
    card = Path(path).with_suffix(".yaml")
    digest.update(card.read_bytes() if card.is_file() else b"")
    return f"xxh3:{digest.hexdigest()}"
