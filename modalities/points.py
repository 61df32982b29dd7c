"""The clip's middle frame as coloured points in space, from its depth and intrinsics, by Open3D.

Axes are the camera's (x right, y down, z forward), in metres where the depth is. Stored as float16 (N, 6): x y z less
the facts' `center` (so that precision does not depend on how far away the scene is), r g b in 0..1. `read` returns
them within 0.1 % of the range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from omniloom.modalities import codecs
from omniloom.modalities import depth as depth_of
from omniloom.modalities.base import Ask, Codec, FactType, Footage, Frames, Made, Stem, Window
from omniloom.modalities.base import all_facts as narrow
from omniloom.modalities.base import no_models as models
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.sample import Fact, Part

__all__ = ["models", "narrow", "pieces"]


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points seen in one frame: xyzrgb float32 (N, 6), N > 0, colours in 0..1."""

    xyzrgb: np.ndarray
    pts_ns: int
    """Of the frame, from the clip's start."""
    unit: str
    """"m", or "relative" where depth is known up to a factor."""
    intrinsics: str
    """Given, estimated or assumed."""
    converted: str = ""
    """What was assumed on the way from depth."""

    def __post_init__(self) -> None:
        if (
            self.xyzrgb.ndim != 2
            or self.xyzrgb.shape[1] != 6
            or not len(self.xyzrgb)
            or self.xyzrgb.dtype != np.float32
        ):
            raise ValueError(f"a cloud is float32 (N, 6) with N > 0, got {self.xyzrgb.dtype} {self.xyzrgb.shape}")


suffix = "points.npy"
codec: Codec = "npy"
letter = "p"
needs: tuple[str, ...] = ("depth", "frames")
facts: Mapping[str, FactType] = {
    "num_points": "int64",
    "center": "list<double>",
    "pts_ns": "int64",
    "unit": "string",
    "intrinsics": "string",
    "converted": "string",
}
stem = Stem("points", 6)
tolerance = 1e-3

_MIN_POINTS = 64
_CANDIDATES = 2
"""Farthest-point sampling looks at this many random points for each that it keeps."""


@dataclass(frozen=True, slots=True)
class Config:
    """How many points, and how far away they may be."""

    count: int = 4096
    max_m: float = 100.0
    """Farther points are left out of metric clouds: beyond, depth is sky."""

    def __post_init__(self) -> None:
        if self.count < _MIN_POINTS or self.max_m <= 0:
            raise ValueError(f"points needs count >= {_MIN_POINTS} and max_m > 0, got {self}")


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """The cloud of the frame nearest to the middle whose depth is known; None if there is none."""
    value = cast("depth_of.Depth | None", footage.made.get("depth"))
    frames = cast("Frames | None", footage.made.get("frames"))
    if value is None or frames is None:
        return None
    z, unit, converted = depth_of.as_z(value)
    usable = np.isfinite(z) & (z > 0)
    if unit == "m":
        usable &= z <= config.max_m
    enough = np.flatnonzero(usable.sum(axis=(1, 2)) >= _MIN_POINTS)
    if not len(enough):
        return None
    index = int(enough[np.argmin(np.abs(enough - len(z) // 2))])
    height, width = z.shape[1:]
    depth = np.where(usable[index], z[index], 0).astype(np.float32)
    xyzrgb = _sampled(depth, _resized(frames.rgb[index], width, height), value.k, config.count)
    return Made(Cloud(xyzrgb, int(frames.pts_ns[index]), unit, value.k_source, converted), model="from depth")


def encode(value: Cloud) -> Part:
    """NPY, float16 (N, 6), centred."""
    center = value.xyzrgb[:, :3].astype(np.float64).mean(axis=0).round(6)
    stored = value.xyzrgb.astype(np.float64)
    stored[:, :3] -= center
    return Part(
        codecs.encode_npy(stored.astype(np.float16)),
        {
            "num_points": len(stored),
            "center": [float(c) for c in center],
            "pts_ns": value.pts_ns,
            "unit": value.unit,
            "intrinsics": value.intrinsics,
            "converted": value.converted,
        },
    )


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Cloud:
    """The cloud from float16 (N, 6). Raises ValueError if it is not as the facts state."""
    stored = np.asarray(pieces[0])
    if stored.dtype != np.float16 or stored.shape != (facts["num_points"], 6):
        raise ValueError(f"damaged points: {stored.dtype} {stored.shape}, its facts state {facts['num_points']}")
    xyzrgb = stored.astype(np.float64)
    xyzrgb[:, :3] += np.array(facts["center"])
    return Cloud(
        xyzrgb.astype(np.float32),
        cast(int, facts["pts_ns"]),
        str(facts["unit"]),
        str(facts["intrinsics"]),
        str(facts["converted"]),
    )


def tensor(value: Cloud, window: Window) -> np.ndarray:
    """float32 (num_points, 6): x y z less their mean, in the cloud's unit, and r g b in 0..1.

    Random points in training, evenly picked ones in evaluation; a smaller cloud repeats its points.
    """
    count = len(value.xyzrgb)
    if count <= window.num_points:
        chosen = np.arange(window.num_points) % count
    elif window.train:
        chosen = window.rng(5).choice(count, window.num_points, replace=False)
    else:
        chosen = np.arange(window.num_points) * count // window.num_points
    shown = value.xyzrgb[chosen]
    shown[:, :3] -= value.xyzrgb[:, :3].mean(axis=0)
    return shown


def example(rng: np.random.Generator) -> Cloud:
    """A coloured ball three metres ahead."""
    directions = rng.normal(size=(300, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    xyzrgb = np.concatenate([directions * 0.5 + [0.2, -0.1, 3.0], (directions + 1) / 2], axis=1)
    return Cloud(xyzrgb.astype(np.float32), 500_000_000, "m", "given")


def _sampled(depth: np.ndarray, rgb: np.ndarray, k: np.ndarray, count: int) -> np.ndarray:
    """float32 (N, 6), N <= count, of depth (H, W), 0 where unknown: the same points for the same input."""
    from omniloom.modalities.models._open3d import open3d

    o3d = open3d()
    image = o3d.geometry.RGBDImage.create_from_color_and_depth(
        o3d.geometry.Image(np.ascontiguousarray(rgb)),
        o3d.geometry.Image(np.ascontiguousarray(depth)),
        depth_scale=1.0,
        depth_trunc=float(np.finfo(np.float32).max),
        convert_rgb_to_intensity=False,
    )
    height, width = depth.shape
    camera = o3d.camera.PinholeCameraIntrinsic(width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    cloud = o3d.geometry.PointCloud.create_from_rgbd_image(image, camera)
    candidates = np.random.Generator(np.random.Philox(key=0)).permutation(len(cloud.points))
    cloud = cloud.select_by_index(sorted(candidates[: _CANDIDATES * count]))
    if len(cloud.points) > count:
        cloud = cloud.farthest_point_down_sample(count)
    return np.concatenate([np.asarray(cloud.points), np.asarray(cloud.colors)], axis=1).astype(np.float32)


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BILINEAR))
