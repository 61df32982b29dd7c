"""Depth and normals from one picture by an ONNX file: what goes in and comes out is stated in a YAML beside it.

What a loaded model takes and gives is said in `estimate.py`, the keys of the YAML in `_card.py`. The name "embedded"
stands for the package's own network, which looks at each picture twice, once mirrored; "embedded-fast" looks once.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import _card
from omniloom.modalities.models._card import Card
from omniloom.modalities.models.estimate import Answer, Estimate, Kind, assumed_view_deg

GPUS = 0.2

EMBEDDED = Path(__file__).parent / "weights/omniloom-geometry.onnx"
_FAST = "embedded-fast"

_SMALL = 64 << 20
"""Bytes: files up to this size are opened before any work starts, larger ones when they are first asked."""


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repair, if the file, its description or onnxruntime is not there."""
    _checked(ref, open_small=True)


def describe(ref: ModelRef) -> tuple[str, str]:
    """The file's name and a hash of the network and of its description."""
    path = _path(ref)
    files = (path, path.with_suffix(".yaml"))
    name = f"{path.name}, one look" if ref.name == _FAST else path.name
    return name, _hash_of(*((str(file), file.stat().st_mtime_ns) for file in files if file.is_file()))


def licence(ref: ModelRef) -> str:
    """As the card states it; "" where it does not."""
    return _card_of(ref).licence


def at_once(ref: ModelRef) -> int:
    """Frames worth asking about at once."""
    return _card_of(ref).batch


def load(ref: ModelRef) -> Answer:
    """The network, on the GPU where onnxruntime has one, else on one core."""
    path, card = _checked(ref, open_small=False)
    network = _Network(path, card)
    assumed_deg = assumed_view_deg(ref)

    def answer(rgb: np.ndarray, k: np.ndarray | None = None) -> Estimate:
        height, width = rgb.shape[1:3]
        fed_w, fed_h, left, top, right, bottom = _fitted(width, height, network.size, card)
        depth = np.empty(rgb.shape[:3], np.float32) if card.depth else None
        normals = np.empty((*rgb.shape[:3], 3), np.float32) if card.normal else None
        for first in range(0, len(rgb), card.batch):
            some = slice(first, first + card.batch)
            fed = np.stack([_fed(picture, (fed_w, fed_h), (left, top, right, bottom), card) for picture in rgb[some]])
            said = network(fed)
            if card.mirror:
                twice = network(np.ascontiguousarray(fed[..., ::-1]))
                said = {what: (said[what] + card.mirrored_back(what, twice[what])) / 2 for what in said}
            if depth is not None:
                depth[some] = _restored(said["depth"], fed.shape, (left, top, fed_w, fed_h), (width, height))[..., 0]
            if normals is not None:
                normals[some] = _restored(said["normal"], fed.shape, (left, top, fed_w, fed_h), (width, height))
        kind: Kind = "relative"
        done: list[str] = []
        if depth is not None:
            depth, kind, converted = card.z_of(depth, k, assumed_deg, fed_w)
            done.append(converted)
        if normals is not None:
            normals, converted = card.normals_of(normals, k, assumed_deg)
            done.append(converted)
        return Estimate(depth, kind, normals, converted="; ".join(filter(None, done)))

    return answer


def _checked(ref: ModelRef, *, open_small: bool) -> tuple[Path, Card]:
    if find_spec("onnxruntime") is None:
        raise ValueError("depth from an .onnx file needs onnxruntime: pip install 'omniloom[build]'")
    path = _path(ref)
    if not path.is_file():
        missing = f"there is no depth model {ref.name!r}"
        if path == EMBEDDED:
            missing = f"the embedded network is not in this installation ({path} is absent)"
        raise ValueError(
            f"{missing}: give depth.model (1) a hub name such as 'depth-anything/Depth-Anything-V2-Small-hf' where "
            "there is a network, (2) the folder that `hf download NAME --local-dir FOLDER` made elsewhere, or (3) the "
            "path of an .onnx file; 'given' uses only depth that lies beside the videos"
        )
    card = _card_of(ref)
    if open_small and path.stat().st_size <= _SMALL:
        _Network(path, card)
    return path, card


class _Network:
    """An open ONNX file. Raises ValueError, in one line, if it is none or is not as its card says."""

    def __init__(self, path: Path, card: Card) -> None:
        import onnxruntime

        state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")  # where its exceptions are
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        failures = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except failures as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{str(path)!r} is no ONNX file that onnxruntime reads: {why}") from error
        inputs, outputs = self._session.get_inputs(), [out.name for out in self._session.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            taken = ", ".join(f"{source.name} {source.shape}" for source in inputs)
            raise ValueError(f"{str(path)!r} takes {taken}, not one picture (n, 3, height, width)")
        self._source: str = inputs[0].name
        self._half = inputs[0].type == "tensor(float16)"
        self._outputs: dict[str, str] = {}
        for what, out in (("depth", card.depth), ("normal", card.normal)):
            if out is not None:
                self._outputs[what] = out.name or outputs[0]
        absent = set(self._outputs.values()) - set(outputs)
        if absent:
            raise ValueError(f"{str(path)!r} has no output {sorted(absent)[0]!r}; it has {', '.join(outputs)}")
        count, channels, height, width = inputs[0].shape
        if isinstance(channels, int) and channels != 3:
            raise ValueError(f"{str(path)!r} takes {inputs[0].shape}, not (n, 3, height, width)")
        fixed = isinstance(height, int) and isinstance(width, int)
        self.size: tuple[int, ...] = (width, height) if fixed else card.size
        """Width and height to feed; () for any."""
        if not self.size and not card.short_side:
            raise ValueError(
                f"{str(path)!r} takes any size: state one in {path.with_suffix('.yaml').name}, as size: [320, 192], "
                "or short_side: 192 and multiple_of: 32"
            )
        self._count = count if isinstance(count, int) else 0
        if self._count and card.batch > 1 and self._count != card.batch:
            raise ValueError(f"{str(path)!r} takes {self._count} at once, its card states batch: {card.batch}")

    def __call__(self, fed: np.ndarray) -> dict[str, np.ndarray]:
        """float32 (n, 3, h, w) -> by "depth" and "normal", float32 (n, h', w', 1 or 3)."""
        size = self._count or len(fed)
        said: dict[str, list[np.ndarray]] = {what: [] for what in self._outputs}
        for first in range(0, len(fed), size):
            some = fed[first : first + size]
            # A file for just so many at once gets the last picture again.
            whole = np.concatenate([some, np.repeat(some[-1:], size - len(some), axis=0)])
            whole = whole.astype(np.float16) if self._half else whole
            answers = cast("list[Any]", self._session.run(list(self._outputs.values()), {self._source: whole}))
            for what, values in zip(self._outputs, answers, strict=True):
                said[what].append(_channels_last(np.asarray(values, np.float32), what)[: len(some)])
        return {what: np.concatenate(values) for what, values in said.items()}


def _channels_last(values: np.ndarray, what: str) -> np.ndarray:
    """Depth (n, h, w), with or without an axis of 1, or normals (n, 3, h, w) or (n, h, w, 3) -> (n, h, w, 1 or 3)."""
    if what == "depth" and values.ndim in {2, 3}:
        return values.reshape(-1, *values.shape[-2:], 1)
    # Metric3D's normals have a fourth number, how sure it is.
    channels = {1} if what == "depth" else {3, 4}
    if values.ndim == 4 and values.shape[1] in channels:
        return values[:, :3].transpose(0, 2, 3, 1)
    if values.ndim == 4 and values.shape[3] in channels:
        return values[..., :3]
    raise ValueError(f"the network's {what} is {values.shape}, not (n, {min(channels)}, height, width)")


def _fitted(width: int, height: int, size: tuple[int, ...], card: Card) -> tuple[int, int, int, int, int, int]:
    """(width, height) of the picture to feed, and the margins left, top, right, bottom around it."""
    if not size:
        scale, step = card.short_side / min(width, height), card.multiple_of
        fed = [max(step, round(side * scale / step) * step) for side in (width, height)]
        return fed[0], fed[1], 0, 0, 0, 0
    if card.fit == "stretch":
        return size[0], size[1], 0, 0, 0, 0
    scale = min(size[0] / width, size[1] / height)
    fed_w, fed_h = min(size[0], int(width * scale + 0.5)), min(size[1], int(height * scale + 0.5))
    more_w, more_h = size[0] - fed_w, size[1] - fed_h
    return fed_w, fed_h, more_w // 2, more_h // 2, more_w - more_w // 2, more_h - more_h // 2


def _fed(picture: np.ndarray, size: tuple[int, int], margins: tuple[int, int, int, int], card: Card) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (3, h, w) as the card says."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32)
    left, top, right, bottom = margins
    if any(margins):
        whole = np.empty((pixels.shape[0] + top + bottom, pixels.shape[1] + left + right, 3), np.float32)
        whole[:] = np.array(card.fill, np.float32)
        whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = whole
    if card.channels == "bgr":
        pixels = pixels[..., ::-1]
    pixels = (pixels * np.float32(card.scale) - np.array(card.mean, np.float32)) / np.array(card.std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _restored(
    values: np.ndarray, fed_shape: tuple[int, ...], box: tuple[int, int, int, int], size: tuple[int, int]
) -> np.ndarray:
    """(n, h', w', c) over what was fed, margins and all -> (n, H, W, c) over the picture alone, bilinear."""
    from PIL import Image

    left, top, fed_w, fed_h = box
    # The answer may be coarser than what was fed, so the picture's part of it need not be whole pixels.
    down, across = values.shape[1] / fed_shape[2], values.shape[2] / fed_shape[3]
    part = (left * across, top * down, (left + fed_w) * across, (top + fed_h) * down)
    if values.shape[1:3] == (size[1], size[0]) and part == (0, 0, *size):
        return values
    out = np.empty((len(values), size[1], size[0], values.shape[3]), np.float32)
    for index, frame in enumerate(values):
        for channel in range(values.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(frame[..., channel], np.float32))
            out[index, ..., channel] = np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box=part))
    return out


def _path(ref: ModelRef) -> Path:
    return EMBEDDED if ref.name in {"embedded", _FAST} else Path(ref.name).expanduser()


def _card_of(ref: ModelRef) -> Card:
    card = _card.read(_path(ref))
    return replace(card, mirror=False) if ref.name == _FAST else card


@lru_cache(maxsize=8)
def _hash_of(*files: tuple[str, int]) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    for path, _modified_ns in files:
        digest.update(Path(path).read_bytes())
    return f"xxh3:{digest.hexdigest()}"
