"""Depth from one picture by a `transformers` model, by hub name or local folder.

What a loaded model takes and gives is said in `estimate.py`; what its numbers mean is known by its architecture:

    depth_anything   relative-inverse, or metres as its configuration states      Depth Anything V1, V2
    dpt              relative-inverse; metres with a DINOv2 backbone              DPT, MiDaS 3 and 3.1; DINOv2's heads
    zoedepth         metres                                                       ZoeDepth
    glpn             metres                                                       GLPN
    depth_pro        metres, and a field of view if it has a head for it          Depth Pro
    tipsv2_dpt       metres                                                       TIPSv2

Others are refused, not guessed at. A fine-tuned model whose numbers mean something else says so in its config.json,
as "omniloom_kind": "metric-z".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from omniloom.modalities import geometry
from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import _hub, _prepare
from omniloom.modalities.models._torchvision import mend_torchvision
from omniloom.modalities.models.estimate import KINDS, Answer, Estimate, Kind, assumed_view_deg

GPUS = 0.25

_FRAMES = 16

_PIXELS = 8 * 640 * 480
"""Fed at once at most: one picture of Depth Pro, eight or nine of Depth Anything."""

_REPAIRS = (
    "give depth.model (1) a hub name such as 'depth-anything/Depth-Anything-V2-Small-hf' where there is a network, "
    "(2) the folder that `hf download NAME --local-dir FOLDER` made elsewhere, or (3) the path of an .onnx file or "
    "'embedded'; 'given' uses only depth that lies beside the videos"
)


@dataclass(frozen=True, slots=True)
class _Architecture:
    """What is known of one `model_type`."""

    processor: str
    """How the name of its image processor begins."""
    prepare: _prepare.Prepare
    kind: Kind | None
    """None: its configuration tells."""


_KNOWN = {
    "depth_anything": _Architecture("DPT", _prepare.as_dpt, None),
    "dpt": _Architecture("DPT", _prepare.as_dpt, None),
    "zoedepth": _Architecture("ZoeDepth", _prepare.as_zoedepth, "metric-z"),
    "glpn": _Architecture("GLPN", _prepare.as_glpn, "metric-z"),
    "depth_pro": _Architecture("DepthPro", _prepare.as_depth_pro, "metric-z"),
    "tipsv2_dpt": _Architecture("Tipsv2Dpt", _prepare.as_tips, "metric-z"),
}
_NO_DEPTH = {
    "chmv2": "the height of trees seen from above",
    "prompt_depth_anything": "relative to a depth sensor's picture, which it must be given too",
}


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repair, if the model is not to be had or what it says is not known."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise ValueError(
                f"depth.model={ref.name} needs {package}: pip install 'omniloom[transformers]', or {_REPAIRS}"
            )
    try:
        _known(ref)
    except ValueError as error:
        raise ValueError(f"no depth model: {error}: {_REPAIRS}") from error


def describe(ref: ModelRef) -> tuple[str, str]:
    """The model's name, and the hub's commit or a hash of the local weights."""
    return _hub.described(ref.name)


def licence(ref: ModelRef) -> str:
    """As the model's own README states it; "" where it does not."""
    return _hub.licence(ref.name)


def at_once(ref: ModelRef) -> int:
    """Frames worth asking about at once; large pictures are fed in smaller batches all the same."""
    return _FRAMES


def load(ref: ModelRef) -> Answer:
    """The model, on the GPU where there is one; fetched from the hub first if it is not on this machine."""
    check(ref)
    import torch

    mend_torchvision()
    from transformers import AutoModelForDepthEstimation

    known, kind, prepare = _known(ref)
    folder = _hub.fetched(ref.name)
    try:
        model, found = AutoModelForDepthEstimation.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except OSError as error:
        raise ValueError(f"cannot load the depth model {ref.name!r} ({error}): {_REPAIRS}") from error
    _refuse_half_loaded(ref, found["missing_keys"], len(model.state_dict()))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()
    # ZoeDepth with several heads lets the pictures of a batch vote for one of them.
    alone = len(getattr(model.config, "bin_configurations", None) or ()) > 1

    def fed(rgb: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(rgb.transpose(0, 3, 1, 2))).to(device)

    def answer(rgb: np.ndarray, k: np.ndarray | None = None) -> Estimate:
        depth = np.empty(rgb.shape[:3], np.float32)
        views_deg = np.full(len(rgb), np.nan)
        with torch.inference_mode(), _quick_matmul(torch, device):
            size = known.prepare(fed(rgb[:1]), prepare)[0].shape
            step = 1 if alone else max(1, min(_FRAMES, _PIXELS // (size[-2] * size[-1])))
            for first in range(0, len(rgb), step):
                some = slice(first, first + step)
                pixels, restore = known.prepare(fed(rgb[some]), prepare)
                out = model(pixel_values=pixels)
                depth[some] = restore(out.predicted_depth.float()).cpu().numpy()
                if getattr(out, "field_of_view", None) is not None:
                    views_deg[some] = out.field_of_view.float().cpu().numpy()
        if model.config.model_type == "depth_pro":
            return _of_depth_pro(depth, views_deg, k, assumed_view_deg(ref))
        if kind == "metric-z":
            depth[depth <= 0] = np.nan
        return Estimate(depth, kind)

    return answer


def _of_depth_pro(inverse: np.ndarray, views_deg: np.ndarray, k: np.ndarray | None, assumed_deg: float) -> Estimate:
    """Z from 1/z as a camera with a focal length of the picture's width would see it (Depth Pro, section 3.2).

    The focal length is the given camera's, else what the network read from the picture. With neither the field of view
    is assumed, and z is known only up to a factor.
    """
    frames, height, width = inverse.shape
    ks, kind, converted = None, "metric-z", "inverse depth to z"
    if k is not None:
        focal = np.full(frames, k[0, 0])
    elif np.isfinite(views_deg).all():
        focal = 0.5 * width / np.tan(0.5 * np.radians(views_deg.clip(1, 179)))
        ks = np.stack([geometry.intrinsics(f, f, (width - 1) / 2, (height - 1) / 2) for f in focal.tolist()])
    else:
        focal = np.full(frames, geometry.assumed_intrinsics(width, height, assumed_deg)[0, 0])
        kind, converted = "relative", f"inverse depth to z, for an assumed {assumed_deg:g} degrees of view"
    inverse = inverse * (width / focal).astype(np.float32)[:, None, None]
    # Its own limits are 0.1 mm and 10 km; what reaches the far one is the sky.
    known = inverse > 1e-4
    z = np.where(known, 1 / np.where(known, inverse, 1).clip(max=1e4), np.nan)
    return Estimate(z.astype(np.float32), kind, converted=converted, ks=ks)


def _known(ref: ModelRef) -> tuple[_Architecture, Kind, Mapping[str, Any]]:
    """How to feed the model, what its numbers mean, and its preprocessor's configuration."""
    config = _hub.stated(ref.name)
    model_type = str(config.get("model_type"))
    if model_type in _NO_DEPTH:
        raise ValueError(f"{ref.name!r} is a {model_type!r} model, whose answer is {_NO_DEPTH[model_type]}")
    if model_type not in _KNOWN:
        raise ValueError(
            f"what the depth of {ref.name!r}, a {model_type!r} model, means is not known here, "
            f"only of {', '.join(_KNOWN)}"
        )
    known = _KNOWN[model_type]
    prepare = _hub.stated(ref.name, "preprocessor_config.json")
    processor = str(prepare.get("image_processor_type") or prepare.get("feature_extractor_type") or known.processor)
    if not processor.startswith(known.processor):
        raise ValueError(
            f"{ref.name!r} is prepared for by a {processor}, a {model_type!r} model is by a {known.processor}"
        )
    return known, known.kind or _kind_of(config), prepare


def _kind_of(config: Mapping[str, Any]) -> Kind:
    said = config.get("omniloom_kind")
    if said is not None and said not in KINDS:
        raise ValueError(f"its config.json states omniloom_kind {said!r}, which is one of {', '.join(KINDS)}")
    if said is not None:
        return said
    if config["model_type"] == "depth_anything":
        return "metric-z" if config.get("depth_estimation_type", "relative") == "metric" else "relative-inverse"
    backbone = str((config.get("backbone_config") or {}).get("model_type") or config.get("backbone") or "")
    # DPT learnt inverse depth from many data sets at once; the heads on DINOv2 learnt metres, from NYU or KITTI alone.
    return "metric-z" if "dinov2" in backbone else "relative-inverse"


def _refuse_half_loaded(ref: ModelRef, missing: Any, count: int) -> None:
    """A head that is not in the file would be random numbers; a few unused layers of DPT are left out of its files."""
    missing = sorted(str(key) for key in missing)
    heads = [key for key in missing if key.startswith(("head", "metric_head", "relative_head", "decoder", "fov_model"))]
    if heads or len(missing) > count // 10:
        raise ValueError(f"{ref.name!r} lacks weights of a depth model, such as {(heads or missing)[0]}: {_REPAIRS}")


@contextmanager
def _quick_matmul(torch: Any, device: str) -> Iterator[None]:
    """TF32 on the GPU: about 1e-3 off in the middle, smooth at the end, where half precision would show as steps."""
    if device != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
