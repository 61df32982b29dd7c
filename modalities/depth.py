"""How far away each pixel of the sampled frames is: measured depth beside the video, or a network's estimate.

Stored as 16-bit codes, value = shift + code x scale_m, code 0 = unknown. The error is at most half a code: none for
depth given in whole millimetres (or the source's own step) below 65.5 m, else 1/131,068 of the clip's range. The facts
state it as `max_error`, in metres for metric depth. `read` returns the values within 1e-5 of the clip's range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from omniloom.modalities import alignment, codecs, geometry, metres
from omniloom.modalities.base import (
    Ask,
    Codec,
    FactType,
    Footage,
    Frames,
    KSource,
    Made,
    ModelRef,
    Stem,
    Window,
    unstack,
)
from omniloom.modalities.base import narrow_stack as narrow
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.cameras import flat_poses, poses_of
from omniloom.modalities.models import depth_given, family_of
from omniloom.modalities.models.estimate import Estimate, Kind
from omniloom.modalities.sample import Fact, Part, Rejected

__all__ = ["narrow", "pieces"]


@dataclass(frozen=True, slots=True)
class Depth:
    """Depth of T frames: z float32 (T, H, W), NaN where unknown, in the sense and unit of `kind`."""

    z: np.ndarray
    pts_ns: np.ndarray
    """int64 (T,), from the clip's start: the times of the frames."""
    kind: Kind
    k: np.ndarray
    """float64 (3, 3): intrinsics of the pixels of z, after every resize."""
    k_source: KSource
    step_m: float = 0.0
    """The source's own code step, kept exactly; 0 for continuous values."""
    converted: str = ""
    """What was converted on the way here, e.g. "ray distance to z"."""
    poses: np.ndarray | None = None
    """float64 (T, 4, 4), camera to world in metres, zeros where unknown; None where nobody knows any."""
    groups: np.ndarray | None = None
    """int64 (T,): frames of equal numbers are on one scale; None if all are, as in measured depth."""

    def __post_init__(self) -> None:
        if self.z.ndim != 3 or self.z.dtype != np.float32 or self.pts_ns.shape != (len(self.z),):
            raise ValueError(
                f"depth is float32 (T, H, W) with T times, got {self.z.dtype} {self.z.shape}, {self.pts_ns.shape}"
            )
        if self.k.shape != (3, 3):
            raise ValueError(f"K is (3, 3), got {self.k.shape = }")
        for name, array, shape in (("poses", self.poses, (4, 4)), ("groups", self.groups, ())):
            if array is not None and array.shape != (len(self.z), *shape):
                raise ValueError(f"{name} are one a frame, got {array.shape} for {len(self.z)} frames")


suffix = "depth.png"
codec: Codec = "png"
letter = "d"
needs: tuple[str, ...] = ()
facts: Mapping[str, FactType] = {
    "kind": "string",
    "scale_m": "double",
    "shift": "double",
    "step_m": "double",
    "max_error": "double",
    "num_frames": "int64",
    "width": "int64",
    "height": "int64",
    "pts_ns": "list<int64>",
    "fx": "double",
    "fy": "double",
    "cx": "double",
    "cy": "double",
    "intrinsics": "string",
    "converted": "string",
    "poses": "list<double>",
    "groups": "list<int64>",
}
stem = Stem("image", 2)
tolerance = 1e-5

_CODES = 65_535


@dataclass(frozen=True, slots=True)
class Config:
    """Where depth comes from."""

    model: str = "given"
    """"given" (only depth that lies beside the video), "embedded" (the package's own network; "embedded-fast": in half
    the time, less exact), the path of an .onnx file, or a transformers model by name or folder."""
    prefer_given: bool = True
    """Depth beside the video is taken where there is any, whatever the model."""
    short_side: int = 256
    """Pixels; smaller depth is not enlarged."""
    fov_deg: float = 60.0
    """Across the longer side, assumed where no file beside the video, no container and no network knows better."""
    align: bool = True
    """Relative depth of a clip's frames, which networks answer one by one, is brought to one scale (and shift)."""
    to_metric: bool = False
    """A network's relative depth is brought to metres by depth or poses beside the video, where there are some."""

    def __post_init__(self) -> None:
        if self.short_side < 1 or not 1 <= self.fov_deg < 180 or not self.model:
            raise ValueError(f"depth needs a model, short_side >= 1 and 1 <= fov_deg < 180, got {self}")


def models(config: Config) -> Sequence[ModelRef]:
    """The network, unless only given depth is wanted."""
    if config.model == "given":
        return ()
    return (network(config.model, config.fov_deg),)


def network(name: str, fov_deg: float = 60.0) -> ModelRef:
    """The reference of a geometry network: "embedded", a path.onnx, or a transformers model by name or folder."""
    ours = name in {"embedded", "embedded-fast"} or name.endswith(".onnx")
    family = "depth_onnx" if ours else "depth_transformers"
    return ModelRef(family, name, () if fov_deg == 60.0 else (("fov_deg", fov_deg),))


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """Depth of the sampled frames; None if none is given for any of them, or there are no frames.

    Raises Rejected "bad-depth-file" for depth beside the video that cannot be read or does not fit it.
    """
    frames = footage.frames
    if frames is None or not len(frames.rgb):
        return None
    try:
        given = depth_given.depth_beside(footage.path, footage.row.get("depth")) if _wants_given(config) else None
        measured = _given(footage, frames, given, config) if given else None
    except (ValueError, OSError) as error:
        raise Rejected("extract", "bad-depth-file", str(error)) from error
    if config.model == "given" or (config.prefer_given and measured is not None):
        return None if measured is None else Made(measured, model="given")
    (ref,) = models(config)
    estimate: Estimate = ask(ref, frames.rgb, frames.camera.k if frames.camera else None)
    made = family_of(ref).describe(ref)
    also = {} if estimate.normals is None else {"normal": Made(estimate.normals, *made)}
    return Made(_estimated(estimate, frames, measured, config), *made, also=also)


def encode(value: Depth) -> Part:
    """A 16-bit gray PNG of all frames, one below the other."""
    known = np.isfinite(value.z)
    scale, shift = _quantiser(value, known)
    num_frames, height, width = value.z.shape
    codes = np.empty(value.z.shape, np.uint16)
    exact_codes = np.empty((height, width))
    for frame, is_known, shown in zip(value.z, known, codes, strict=True):  # a frame fits in the processor's cache
        np.subtract(frame, shift, out=exact_codes, dtype=np.float64)
        exact_codes /= scale
        np.rint(exact_codes, out=exact_codes)
        np.clip(exact_codes, 1, _CODES, out=exact_codes)
        if not is_known.all():
            exact_codes[~is_known] = 0
        shown[:] = exact_codes
    exact = value.step_m > 0 and scale == value.step_m
    return Part(
        codecs.encode_png(codes.reshape(num_frames * height, width)),
        {
            "kind": value.kind,
            "scale_m": scale,
            "shift": shift,
            "step_m": value.step_m,
            "max_error": 0.0 if exact else scale / 2,
            "num_frames": num_frames,
            "width": width,
            "height": height,
            "pts_ns": [int(pts) for pts in value.pts_ns],
            "fx": float(value.k[0, 0]),
            "fy": float(value.k[1, 1]),
            "cx": float(value.k[0, 2]),
            "cy": float(value.k[1, 2]),
            "intrinsics": value.k_source,
            "converted": value.converted,
            "poses": flat_poses(value.poses),
            "groups": [] if value.groups is None else [int(group) for group in value.groups],
        },
    )


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Depth:
    """Depth from uint16 codes (T H, W) or (T H, W, 1). Raises ValueError if they are not as the facts state."""
    codes = np.asarray(pieces[0])
    if codes.dtype != np.uint16 or codes.shape[2:] not in {(), (1,)}:
        raise ValueError(f"damaged depth: codes {codes.dtype} {codes.shape}")
    codes = unstack(codes.reshape(codes.shape[:2]), facts)
    scale, shift, fx, fy, cx, cy = (cast(float, facts[name]) for name in ("scale_m", "shift", "fx", "fy", "cx", "cy"))
    values = (np.arange(_CODES + 1) * scale + shift).astype(np.float32)
    values[0] = np.nan
    return Depth(
        values.take(codes),
        np.array(facts["pts_ns"], np.int64),
        cast(Kind, facts["kind"]),
        geometry.intrinsics(fx, fy, cx, cy),
        cast(KSource, facts["intrinsics"]),
        cast(float, facts["step_m"]),
        str(facts["converted"]),
        _shown(poses_of(cast("list[float]", facts.get("poses") or [])), facts),
        _shown(np.array(facts["groups"], np.int64) if facts.get("groups") else None, facts),
    )


def tensor(value: Depth, window: Window) -> np.ndarray:
    """float32 (num_frames, 2, px, px): nearness, and 1 where it is known.

    Nearness is -log z, or inverse depth as it is; less its median, over its spread within the shown frames (the
    10th to 90th percentile apart is 2), cut at -3 and 3, and 0 where unknown. So the unit does not matter.
    """
    view = geometry.view_of(window)
    shown = geometry.show_nearest(window.shown(value.z), view, window.image_px)
    if view.flip:
        shown = shown[..., ::-1]
    known = np.isfinite(shown)
    if value.kind != "relative-inverse":
        known &= shown > 0
    out = np.zeros((len(shown), 2, window.image_px, window.image_px), np.float32)
    out[:, 1] = known
    nearness = np.where(known, shown, np.float32(1))
    if value.kind != "relative-inverse":
        nearness = -np.log(nearness)
    some = nearness[known]
    if some.size:
        low, middle, high = np.percentile(some[:: every(some.size)], [10, 50, 90])
        spread = max(float(high - low) / 2, 1e-3 * max(abs(float(middle)), 1.0))
        nearness = np.clip((nearness - np.float32(middle)) / np.float32(spread), -3, 3)
        np.copyto(out[:, 0], nearness, where=known)
    return out


def every(count: Any) -> Any:
    """Of so many known pixels every how manyth is looked at for the percentiles: ten thousand tell them as well."""
    return 1 + 2 * (count // 65_536)


def example(rng: np.random.Generator) -> Depth:
    """Three frames of a tilted floor behind a hole, in metres, 24 x 32."""
    k = geometry.assumed_intrinsics(32, 24)
    slope = rng.uniform(0.01, 0.05)
    z = np.stack([1.5 + t / 4 + slope * np.mgrid[0:24, 0:32].sum(axis=0) for t in range(3)]).astype(np.float32)
    z[:, 5:9, 10:14] = np.nan
    return Depth(z, np.array([0, 500_000_000, 1_000_000_000], np.int64), "metric-z", k, "given")


def as_z(value: Depth) -> tuple[np.ndarray, str, str]:
    """(z float32 (T, H, W) along the axis, NaN where unknown; its unit "m" or "relative"; how it was got).

    Relative inverse depth fixes a surface only up to two numbers, and here they are assumed: over the clip the 2nd
    percentile of nearness lies ten times as far as the 98th. Shapes made from it are plausible, not measured.
    """
    if value.kind == "metric-z":
        return value.z, "m", ""
    if value.kind == "relative":
        return value.z, "relative", ""
    known = value.z[np.isfinite(value.z)]
    if not known.size:
        return value.z, "relative", ""
    # Of a clip's millions of pixels some ten thousand tell the percentiles as well.
    far, near = (float(found) for found in np.percentile(known[:: 1 + 2 * (known.size // 131_072)], [2, 98]))
    z = np.empty(value.z.shape, np.float32)
    for frame, shown in zip(value.z, z, strict=True):  # one by one: a frame fits in the processor's cache
        nearness = (frame - far) * (1 / max(near - far, 1e-9))
        np.divide(1, 0.1 + 0.9 * np.maximum(nearness, -0.05), out=shown)
    return z, "relative", "relative-inverse to z: 1/z = 0.1 at p2, 1 at p98 (assumed)"


def _quantiser(value: Depth, known: np.ndarray) -> tuple[float, float]:
    """(scale, shift) of value = shift + code x scale, for codes 1 to 65,535."""
    if not known.any():
        return 1.0, 0.0
    low = float(value.z.min(initial=np.inf, where=known))
    high = float(value.z.max(initial=-np.inf, where=known))
    if value.step_m > 0 and low >= 0.5 * value.step_m and high <= _CODES * value.step_m:
        return value.step_m, 0.0
    # One code more than the range needs, so that `low` is code 1 and rounding never reaches 0.
    scale = max((high - low) / (_CODES - 1), abs(high) * 1e-7, 1e-12)
    return scale, low - scale


def _shown(values: np.ndarray | None, facts: Mapping[str, Fact]) -> np.ndarray | None:
    """Of one value a frame those of the frames at hand: a window reads few."""
    shown = cast("list[int] | None", facts.get("shown"))
    return values if values is None or shown is None else values[shown]


def _wants_given(config: Config) -> bool:
    return config.model == "given" or config.prefer_given or config.to_metric


def _given(footage: Footage, frames: Frames, given: depth_given.Given, config: Config) -> Depth | None:
    """Measured depth of the frames, or None if there is none of any."""
    times_ns = frames.pts_ns + footage.clip.start_ns
    found = given.at(times_ns)
    shapes = {depth.shape for depth in found if depth is not None}
    if not shapes:
        return None
    if len(shapes) > 1:
        raise ValueError(f"depth frames of several sizes: {sorted(shapes)}")
    ((height, width),) = shapes
    picture_h, picture_w = frames.rgb.shape[1:3]
    if abs(width * picture_h / (height * picture_w) - 1) > 0.05:
        raise ValueError(
            f"depth of {width} x {height} beside a picture of {picture_w} x {picture_h}: not the same view"
        )
    z = np.stack([np.full((height, width), np.nan, np.float32) if depth is None else depth for depth in found])
    if not np.isfinite(z).any():
        return None
    k, k_source = given.intrinsics(width, height), "given"
    if k is None:
        seen_k, k_source = _intrinsics(frames, None, config)
        k = geometry.resized_intrinsics(seen_k, (picture_w, picture_h), (width, height))
    z, small_k = geometry.resize_nearest(z, k, geometry.fit_short_side(width, height, config.short_side))
    return Depth(
        z,
        frames.pts_ns,
        "metric-z",
        small_k,
        k_source,
        step_m=given.step_m if given.kind == "z" else 0.0,
        converted="" if given.kind == "z" else "ray distance to z",
        poses=frames.camera.poses if frames.camera else None,
    )


def _intrinsics(frames: Frames, estimated: np.ndarray | None, config: Config) -> tuple[np.ndarray, KSource]:
    """Of the frames' pixels, and who says so: whoever can know best."""
    height, width = frames.rgb.shape[1:3]
    if frames.camera is not None:
        return frames.camera.k, frames.camera.k_source
    if estimated is not None:
        return estimated, "estimated"
    return geometry.assumed_intrinsics(width, height, config.fov_deg), "assumed"


def _estimated(estimate: Estimate, frames: Frames, measured: Depth | None, config: Config) -> Depth:
    """A network's answer, on one scale, and in metres where that can be."""
    if estimate.depth is None:
        raise ValueError(f"depth.model={config.model} gives no depth")
    height, width = frames.rgb.shape[1:3]
    k, k_source = _intrinsics(frames, estimate.k, config)
    kind: Kind = estimate.kind
    known = np.isfinite(estimate.depth) if kind == "relative-inverse" else estimate.depth > 0
    z = np.where(known, estimate.depth, np.nan).astype(np.float32)
    notes = [estimate.converted] if estimate.converted else []
    groups: np.ndarray | None = None
    if config.align and kind != "metric-z":
        scales = alignment.one_scale(z, kind, frames.rgb, k)
        z, groups = scales.apply(z), scales.group
        notes.append(f"frames brought to one scale, by x{scales.scale.min():.3f} to x{scales.scale.max():.3f}")
    poses = frames.camera.poses if frames.camera else None
    if config.to_metric and kind != "metric-z":
        known_m = None if measured is None else geometry.resize_nearest(measured.z, measured.k, (width, height))[0]
        alone = np.arange(len(z)) if groups is None else groups
        metric = metres.to_metres(z, kind, alone, known_m, (frames.rgb, k, poses))
        if metric is not None:
            z, kind, groups = metric[0], "metric-z", None
            notes.append(metric[1])
    z, small_k = geometry.resize_nearest(z, k, geometry.fit_short_side(width, height, config.short_side))
    return Depth(z, frames.pts_ns, kind, small_k, k_source, 0.0, "; ".join(notes), poses, groups)
