"""Which way each surface of the sampled frames faces: unit normals, as a network says or from the clip's depth.

Camera axes as everywhere here (x right, y down, z forward); every normal faces the camera. Stored as the colour
round(255 (n + 1) / 2), (128, 128, 128) where unknown, which no unit normal comes near. `read` returns unit vectors
within 0.4 % of the range: 0.4 degrees.
From relative inverse depth the surface itself is assumed (see `depth.as_z`), so its normals are too; facts say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from omniloom.modalities import codecs, geometry
from omniloom.modalities import depth as depth_of
from omniloom.modalities.base import Ask, Codec, FactType, Footage, Frames, Made, ModelRef, Stem, Window, unstack
from omniloom.modalities.base import narrow_stack as narrow
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.models import family_of
from omniloom.modalities.models.estimate import Estimate
from omniloom.modalities.sample import Fact, Part

__all__ = ["narrow", "pieces"]


@dataclass(frozen=True, slots=True)
class Normals:
    """Normals of T frames: n float32 (T, H, W, 3), unit length, n_z < 0 mostly; NaN where unknown."""

    n: np.ndarray
    pts_ns: np.ndarray
    """int64 (T,), from the clip's start: the times of the frames."""
    depth_kind: str
    """Kind of the depth they are from; "" where a network said them itself."""
    converted: str = ""
    """What was assumed on the way from depth; "" for metric depth."""

    def __post_init__(self) -> None:
        if self.n.ndim != 4 or self.n.shape[3] != 3 or self.n.dtype != np.float32:
            raise ValueError(f"normals are float32 (T, H, W, 3), got {self.n.dtype} {self.n.shape}")
        if self.pts_ns.shape != (len(self.n),):
            raise ValueError(f"one pts a frame, got {self.pts_ns.shape = } for {len(self.n)} frames")


suffix = "normal.png"
codec: Codec = "png"
letter = "n"
needs: tuple[str, ...] = ("depth",)
facts: Mapping[str, FactType] = {
    "num_frames": "int64",
    "width": "int64",
    "height": "int64",
    "pts_ns": "list<int64>",
    "axes": "string",
    "depth_kind": "string",
    "converted": "string",
}
stem = Stem("image", 3)
tolerance = 0.004

_AXES = "opencv, facing the camera"
_UNKNOWN = 128
_NO_LENGTH = 0.01
"""Of (128, 128, 128) it is 0.007; of what a unit normal is rounded to, near 1."""


@dataclass(frozen=True, slots=True)
class Config:
    """How normals are made."""

    model: str = "auto"
    """"auto" (as the depth network says them, if it does, else from depth), "from-depth", or a network to ask: as
    depth.model, "embedded", the path of an .onnx file, or a transformers model by name or folder."""
    radius: int = 2
    """Pixels around each one whose common plane is fitted; 0 takes the nearest neighbours only."""
    short_side: int = 256
    """Pixels kept, of normals made at the depth's own size; reading costs what is kept."""

    def __post_init__(self) -> None:
        if not 0 <= self.radius <= 8 or self.short_side < 1 or not self.model:
            raise ValueError(f"normal needs a model, 0 <= radius <= 8 and short_side >= 1, got {self}")


def models(config: Config) -> Sequence[ModelRef]:
    """The network, where one is named."""
    return () if config.model in {"auto", "from-depth"} else (depth_of.network(config.model),)


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """Normals of the sampled frames; None for a clip without depth and without a network that says them."""
    said = _said(footage, config, ask)
    if said is not None and footage.frames is not None:
        height, width = said.value.shape[1:3]
        n = _selected(said.value, *geometry.fit_short_side(width, height, config.short_side))
        return Made(Normals(n, footage.frames.pts_ns, ""), said.model, said.revision) if np.isfinite(n).any() else None
    value = cast("depth_of.Depth | None", footage.made.get("depth"))
    if value is None:
        return None
    z, _, converted = depth_of.as_z(value)
    height, width = z.shape[1:]
    kept_w, kept_h = geometry.fit_short_side(width, height, config.short_side)
    made = (geometry.normals_from_depth(frame, value.k, config.radius, value.step_m) for frame in z)
    n = np.stack([_selected(frame[None], kept_w, kept_h)[0] for frame in made])
    if not np.isfinite(n).any():
        return None
    return Made(Normals(n, value.pts_ns, value.kind, converted), model="from depth")


def _said(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """Normals float32 (T, H, W, 3) of the frames' pixels as a network said them, if one did, or is to be asked."""
    frames: Frames | None = footage.frames
    if frames is None or not len(frames.rgb) or config.model == "from-depth":
        return None
    if config.model == "auto":
        return footage.also.get("normal")
    (ref,) = models(config)
    estimate: Estimate = ask(ref, frames.rgb, frames.camera.k if frames.camera else None)
    if estimate.normals is None:
        raise ValueError(f"normal.model={config.model} gives no normals: name another, or use normal.model=from-depth")
    return Made(estimate.normals, *family_of(ref).describe(ref))


def _selected(n: np.ndarray, width: int, height: int) -> np.ndarray:
    """(T, H, W, 3) by nearest to (T, height, width, 3): normals are not mixed."""
    if n.shape[1:3] == (height, width):
        return n
    rows, columns = geometry.nearest_grid(n.shape[1], height), geometry.nearest_grid(n.shape[2], width)
    return n[:, rows[:, None], columns]


def encode(value: Normals) -> Part:
    """An 8-bit RGB PNG of all frames, one below the other."""
    num_frames, height, width = value.n.shape[:3]
    codes = np.empty(value.n.shape, np.uint8)
    for frame, shown in zip(value.n, codes, strict=True):  # one by one: a frame fits in the processor's cache
        exact_codes = frame + 1
        exact_codes *= 127.5
        np.rint(exact_codes, out=exact_codes)
        unknown = ~np.isfinite(exact_codes[..., 0] + exact_codes[..., 1] + exact_codes[..., 2])
        if unknown.any():
            exact_codes[unknown] = _UNKNOWN
        shown[:] = exact_codes
    return Part(
        codecs.encode_png(codes.reshape(num_frames * height, width, 3)),
        {
            "num_frames": num_frames,
            "width": width,
            "height": height,
            "pts_ns": [int(pts) for pts in value.pts_ns],
            "axes": _AXES,
            "depth_kind": value.depth_kind,
            "converted": value.converted,
        },
    )


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Normals:
    """Normals from uint8 (T H, W, 3). Raises ValueError if they are not as the facts state."""
    codes = np.asarray(pieces[0])
    if codes.dtype != np.uint8 or codes.shape[2:] != (3,):
        raise ValueError(f"damaged normals: codes {codes.dtype} {codes.shape}")
    codes = unstack(codes, facts)
    n = np.empty(codes.shape, np.float32)
    for frame, shown in zip(codes, n, strict=True):  # one by one: a frame fits in the processor's cache
        axes = np.ascontiguousarray(frame.transpose(2, 0, 1)) / np.float32(127.5) - np.float32(1)
        length = np.sqrt((axes * axes).sum(axis=0))  # never 0: no code is the middle exactly
        length[length < _NO_LENGTH] = np.nan
        np.divide(axes, length, out=shown.transpose(2, 0, 1))
    return Normals(n, np.array(facts["pts_ns"], np.int64), str(facts["depth_kind"]), str(facts["converted"]))


def tensor(value: Normals, window: Window) -> np.ndarray:
    """float32 (num_frames, 3, px, px) in [-1, 1], 0 where unknown."""
    view = geometry.view_of(window)
    shown = geometry.show_nearest(window.shown(value.n), view, window.image_px)
    if view.flip:
        shown = geometry.mirror_normals(shown)
    out = np.ascontiguousarray(shown.transpose(0, 3, 1, 2))
    np.copyto(out, 0, where=np.isnan(out))
    return out


def example(rng: np.random.Generator) -> Normals:
    """Two frames of a bumpy wall with a hole, 24 x 32."""
    tilt = rng.uniform(-0.5, 0.5, size=(2, 24, 32, 2))
    n = np.concatenate([tilt, -np.ones((2, 24, 32, 1))], axis=-1)
    n = (n / np.linalg.norm(n, axis=-1, keepdims=True)).astype(np.float32)
    n[:, 3:6, 20:25] = np.nan
    return Normals(n, np.array([0, 500_000_000], np.int64), "metric-z")
