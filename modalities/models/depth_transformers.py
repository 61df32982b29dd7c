"""Depth from one picture by a `transformers` model, by hub name or local folder.

What a loaded model takes and gives is said in `estimate.py`; what its numbers mean is read
from its configuration; models whose meaning is not known are refused, not guessed at.
Pictures are prepared here as the model's own preprocessor_config.json says, without torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models._torchvision import mend_torchvision
from omniloom.modalities.models.depth_onnx import resized_float
from omniloom.modalities.models.estimate import Answer, Estimate, Kind

GPUS = 0.25

_KIND_BY_TYPE: dict[str, Kind] = {"dpt": "relative-inverse", "glpn": "metric-z", "zoedepth": "metric-z"}
_REPAIRS = (
    "give depth.model a hub name such as 'depth-anything/Depth-Anything-V2-Small-hf', the folder of a saved model, "
    "the path of an .onnx file, or 'given' to use only depth that lies beside the videos"
)


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repair, if transformers or a local folder is not there."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise ValueError(
                f"depth.model={ref.name} needs {package}: pip install 'omniloom[transformers]', or {_REPAIRS}"
            )
    looks_local = ref.name.startswith(("/", "./", "../", "~")) or ref.name.count("/") != 1
    if looks_local and not (Path(ref.name).expanduser() / "config.json").is_file():
        raise ValueError(f"there is no depth model {ref.name!r} (no folder with a config.json): {_REPAIRS}")


@lru_cache(maxsize=8)
def describe(ref: ModelRef) -> tuple[str, str]:
    """The model's name, and the hub's commit or a hash of the local weights."""
    folder = Path(ref.name).expanduser()
    if folder.is_dir():
        return folder.resolve().name, _hash_of(folder)
    from transformers import AutoConfig

    try:
        return ref.name, str(getattr(AutoConfig.from_pretrained(ref.name), "_commit_hash", None) or "")
    except OSError as error:
        raise ValueError(f"cannot fetch {ref.name!r} ({error}): {_REPAIRS}") from error


def load(ref: ModelRef) -> Answer:
    """The model, in float32, on the GPU where there is one."""
    import torch

    mend_torchvision()
    from transformers import AutoConfig, AutoModelForDepthEstimation
    from transformers.image_processing_base import ImageProcessingMixin

    check(ref)
    name = str(Path(ref.name).expanduser()) if Path(ref.name).expanduser().is_dir() else ref.name
    try:
        config = AutoConfig.from_pretrained(name)
        prepare, _ = ImageProcessingMixin.get_image_processor_dict(name)
        kind = _kind(config)
        model = AutoModelForDepthEstimation.from_pretrained(name, use_safetensors=True)
    except OSError as error:
        raise ValueError(f"cannot load the depth model {ref.name!r} ({error}): {_REPAIRS}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()

    def answer(rgb: np.ndarray, k: np.ndarray | None = None) -> Estimate:
        depth = np.empty(rgb.shape[:3], np.float32)
        for index, picture in enumerate(rgb):
            with torch.inference_mode():
                out = model(pixel_values=torch.from_numpy(prepared(picture, prepare)).to(device)).predicted_depth
            depth[index] = resized_float(out[0].float().cpu().numpy(), rgb.shape[2], rgb.shape[1])
        return Estimate(depth, kind)

    return answer


def prepared(picture: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (1, 3, h, w) as a preprocessor_config.json says: resize, rescale, normalise."""
    from PIL import Image

    height, width = picture.shape[:2]
    if config.get("do_resize", True) and "size" in config:
        size = config["size"]
        height, width = _target(height, width, size["height"], size["width"], config)
    image = Image.fromarray(np.ascontiguousarray(picture))
    resample = Image.Resampling(config.get("resample", Image.Resampling.BICUBIC))
    pixels = np.asarray(image.resize((width, height), resample), np.float32)
    if config.get("do_rescale", True):
        pixels = pixels * np.float32(config.get("rescale_factor", 1 / 255))
    if config.get("do_normalize", True):
        pixels = (pixels - np.float32(config.get("image_mean", 0.5))) / np.float32(config.get("image_std", 0.5))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)


def _target(height: int, width: int, wanted_h: int, wanted_w: int, config: Mapping[str, Any]) -> tuple[int, int]:
    """The size to feed: near the wanted one, of the picture's shape if it is to be kept, in whole patches."""
    scale_h, scale_w = wanted_h / height, wanted_w / width
    if config.get("keep_aspect_ratio", False):
        # As DPT does: the scale that changes the picture least.
        scale_h = scale_w = scale_w if abs(1 - scale_w) < abs(1 - scale_h) else scale_h
    step = int(config.get("ensure_multiple_of") or 1)
    return max(step, round(scale_h * height / step) * step), max(step, round(scale_w * width / step) * step)


def _kind(config: Any) -> Kind:
    if config.model_type == "depth_anything":
        return "metric-z" if getattr(config, "depth_estimation_type", "relative") == "metric" else "relative-inverse"
    if config.model_type not in _KIND_BY_TYPE:
        known = ", ".join(["depth_anything", *_KIND_BY_TYPE])
        raise ValueError(
            f"what the depth of a {config.model_type!r} model means is not known here, only of {known}: {_REPAIRS}"
        )
    return _KIND_BY_TYPE[config.model_type]


def _hash_of(folder: Path) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        digest.update(path.read_bytes())
    return f"xxh3:{digest.hexdigest()}"
