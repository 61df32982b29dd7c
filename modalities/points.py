"""The clip as coloured points in space, from its depth: its sampled frames together where camera poses are known.

Axes are those of the camera (x right, y down, z forward) at the frame nearest to the middle, whose time the facts
state; in metres where depth is. Frames are joined where depth is in metres and poses are known, else that one frame
is shown. Stored as float16 (N, 6): x y z less the facts' `center` (so that precision does not depend on how far away
the scene is), r g b in 0..1. `read` returns them within 0.1 % of the range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from omniloom.modalities import clouds, codecs
from omniloom.modalities import depth as depth_of
from omniloom.modalities.base import Ask, Codec, FactType, Footage, Frames, Made, Stem, Window
from omniloom.modalities.base import all_facts as narrow
from omniloom.modalities.base import no_models as models
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.sample import Fact, Part

__all__ = ["models", "narrow", "pieces"]


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points in one frame's camera axes: xyzrgb float32 (N, 6), N > 0, colours in 0..1."""

    xyzrgb: np.ndarray
    pts_ns: int
    """Of the frame, from the clip's start."""
    unit: str
    """"m", or "relative" where depth is known up to a factor."""
    intrinsics: str
    """Given, metadata, estimated or assumed."""
    converted: str = ""
    """What was assumed on the way from depth."""
    num_frames: int = 1
    """How many frames the points are from."""

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
    "num_frames": "int64",
    "axes": "string",
}
stem = Stem("points", 6)
tolerance = 1e-3

_MIN_POINTS = 64
_AXES = "opencv, of the camera at pts_ns"


@dataclass(frozen=True, slots=True)
class Config:
    """How many points, from what, and how far away they may be."""

    count: int = 4096
    max_m: float = 100.0
    """Farther points are left out of metric clouds: beyond, depth is sky."""
    fuse: bool = True
    """All sampled frames whose poses are known give points, not the middle one alone."""

    def __post_init__(self) -> None:
        if self.count < _MIN_POINTS or self.max_m <= 0:
            raise ValueError(f"points needs count >= {_MIN_POINTS} and max_m > 0, got {self}")


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """The cloud around the frame nearest to the middle whose depth is known; None if there is none."""
    value = cast("depth_of.Depth | None", footage.made.get("depth"))
    frames = cast("Frames | None", footage.made.get("frames"))
    if value is None or frames is None:
        return None
    z, unit, converted = depth_of.as_z(value)
    usable = clouds.solid(z, value.k)
    if unit == "m":
        usable &= z <= config.max_m
    enough = np.flatnonzero(usable.sum(axis=(1, 2)) >= _MIN_POINTS)
    if not len(enough):
        return None
    index = int(enough[np.argmin(np.abs(enough - len(z) // 2))])
    poses, shown = value.poses, [index]
    if config.fuse and unit == "m" and poses is not None and poses[index].any():
        shown = [int(other) for other in enough if poses[other].any()]
    height, width = z.shape[1:]
    views = [
        clouds.View(
            np.where(usable[frame], z[frame], np.nan),
            _resized(frames.rgb[frame], width, height),
            np.eye(4) if poses is None or len(shown) == 1 else poses[frame],
        )
        for frame in shown
    ]
    xyzrgb = clouds.fused(views, shown.index(index), value.k, config.count)
    pts_ns = int(frames.pts_ns[index])
    return Made(Cloud(xyzrgb, pts_ns, unit, value.k_source, converted, len(shown)), model="from depth")


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
            "num_frames": value.num_frames,
            "axes": _AXES,
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
        cast(int, facts.get("num_frames") or 1),
    )


def tensor(value: Cloud, window: Window) -> np.ndarray:
    """float32 (num_points, 6): x y z less their mean, in the cloud's unit, and r g b in 0..1.

    Random points in training, evenly picked ones in evaluation; a smaller cloud repeats its points.
    """
    chosen = chosen_points(len(value.xyzrgb), window)
    shown = value.xyzrgb[chosen]
    # Far from the origin a sum in single precision would be off by half a millimetre.
    shown[:, :3] -= value.xyzrgb[:, :3].mean(axis=0, dtype=np.float64).astype(np.float32)
    return shown


def chosen_points(count: int, window: Window) -> np.ndarray:
    """Which of that many points a window shows: int64 (num_points,)."""
    if count <= window.num_points:
        return np.arange(window.num_points) % count
    if window.train:
        return window.rng(5).choice(count, window.num_points, replace=False)
    return np.arange(window.num_points) * count // window.num_points


def example(rng: np.random.Generator) -> Cloud:
    """A coloured ball three metres ahead."""
    directions = rng.normal(size=(300, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    xyzrgb = np.concatenate([directions * 0.5 + [0.2, -0.1, 3.0], (directions + 1) / 2], axis=1)
    return Cloud(xyzrgb.astype(np.float32), 500_000_000, "m", "given")


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BILINEAR))
