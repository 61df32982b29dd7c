"""The YAML beside an .onnx file: what the network wants to see and what its numbers mean.

Every key is optional; the defaults fit networks that take RGB 0..255 and give relative inverse depth.

    scale: 1.0                  # input = (rgb * scale - mean) / std; 0.00392156862745098 for networks that want 0..1
    mean: [0, 0, 0]
    std: [1, 1, 1]
    channels: rgb               # or bgr
    size: [320, 192]            # width, height; from the file where the file fixes it
    fit: stretch                # or pad: the picture keeps its shape, the rest is filled with
    fill: [123.7, 116.3, 103.5] # this colour, as red, green, blue of 0..255
    short_side: 192             # for networks of any size: the picture's shape is kept,
    multiple_of: 32             # in whole multiples
    mirror: true                # ask about each picture's mirror image too and take the mean: steadier, twice the time
    batch: 8                    # frames at once; the file's first axis must then be free, or be that many
    output: relative-inverse    # what depth means, see KINDS below, if it is the first output; or by name:
    outputs:
      depth: {name: predicted_depth, kind: metric-z, factor: 0.001, valid: [1, 65000]}
      normal: {name: normals, axes: opengl, range: [-1, 1], facing: camera}
    range: z                    # or ray: distances from the camera's centre
    canonical_focal: 1000       # metres as seen with this focal length in pixels (Metric3D): scaled by the true one
    licence: MIT
    source: https://...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np

from omniloom.modalities import geometry
from omniloom.modalities.models.estimate import Kind

KINDS: Mapping[str, Kind] = {
    "metric-z": "metric-z",  # metres along the optical axis
    "relative": "relative",  # z up to a factor
    "relative-inverse": "relative-inverse",  # a + b / z, a and b unknown
    "metric-inverse": "metric-z",  # 1 / z, z in metres: becomes z
    "inverse": "relative",  # 1 / z up to a factor, 0 at infinity: becomes z up to a factor
}
"""What an output may mean, and what it means after `Card.z_of`."""

_AXES = {"opencv": ("right", "down", "forward"), "opengl": ("right", "up", "backward")}
_DIRECTIONS = {"right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1), "forward": (2, 1), "backward": (2, -1)}


@dataclass(frozen=True, slots=True)
class DepthOut:
    """Which output is depth, and in what sense and unit."""

    name: str = ""
    """"" is the first one."""
    kind: str = "relative-inverse"
    factor: float = 1.0
    """Metres a unit (of 1/z: per metre a unit)."""
    valid: tuple[float, ...] = ()
    """[lowest, highest] of the network's own numbers; beyond them depth is unknown."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"depth is one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.factor <= 0 or len(self.valid) not in {0, 2}:
            raise ValueError(f"factor is above 0 and valid is [lowest, highest], got {self}")


@dataclass(frozen=True, slots=True)
class NormalOut:
    """Which output is surface normals, and in which axes."""

    name: str
    axes: str | tuple[str, ...] = "opencv"
    """"opencv", "opengl", or where each of the three numbers points: [left, up, backward]."""
    range: tuple[float, ...] = (-1.0, 1.0)
    """What the lowest and highest number stand for -1 and 1."""
    facing: str = "camera"
    """"away" for networks whose normals point into the surface (DSINE)."""

    def __post_init__(self) -> None:
        words = _AXES.get(self.axes, ()) if isinstance(self.axes, str) else self.axes
        if sorted(_DIRECTIONS.get(word, (-1, 0))[0] for word in words) != [0, 1, 2]:
            raise ValueError(f"axes are opencv, opengl or three words such as [right, up, backward], got {self.axes!r}")
        if len(self.range) != 2 or self.range[0] >= self.range[1] or self.facing not in {"camera", "away"}:
            raise ValueError(f"range is [lowest, highest] and facing is camera or away, got {self}")

    @property
    def directions(self) -> tuple[str, ...]:
        """Where each of the three numbers points."""
        return _AXES[self.axes] if isinstance(self.axes, str) else self.axes

    @property
    def is_as_ours(self) -> bool:
        return self.directions == _AXES["opencv"] and self.facing == "camera"


@dataclass(frozen=True, slots=True)
class Card:
    """The YAML as it stands."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: str = "rgb"
    size: tuple[int, ...] = ()
    fit: str = "stretch"
    fill: tuple[float, ...] = (123.675, 116.28, 103.53)
    short_side: int = 0
    multiple_of: int = 1
    mirror: bool = False
    batch: int = 1
    output: str = "relative-inverse"
    outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    range: str = "z"
    canonical_focal: float = 0.0
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0 or len(self.size) not in {0, 2}:
            raise ValueError(f"mean and std are three numbers (std > 0) and size is [width, height], got {self}")
        if self.channels not in {"rgb", "bgr"} or self.fit not in {"stretch", "pad"} or self.range not in {"z", "ray"}:
            raise ValueError(f"channels is rgb or bgr, fit is stretch or pad, range is z or ray, got {self}")
        if self.short_side < 0 or self.multiple_of < 1 or self.batch < 1 or self.canonical_focal < 0:
            raise ValueError(f"short_side, multiple_of, batch and canonical_focal are positive, got {self}")
        if self.output not in KINDS:
            raise ValueError(f"output is one of {', '.join(KINDS)}, got {self.output!r}")
        unknown = set(self.outputs) - {"depth", "normal"}
        if unknown or (self.outputs and self.output != "relative-inverse"):
            raise ValueError(f"outputs are depth and normal, and output is for files without them, got {self.outputs}")
        kind = self.depth.kind if self.depth else ""
        if self.range == "ray" and kind == "relative-inverse":
            raise ValueError("range: ray cannot be undone for relative-inverse depth, whose zero is unknown")
        if self.canonical_focal and kind not in {"metric-z", "metric-inverse"}:
            raise ValueError(f"canonical_focal is for depth in metres, not {kind or 'normals'}")
        _ = self.normal  # checks it

    @property
    def depth(self) -> DepthOut | None:
        if not self.outputs:
            return DepthOut(kind=self.output)
        stated = self.outputs.get("depth")
        return DepthOut(**_tuples(stated)) if stated is not None else None

    @property
    def normal(self) -> NormalOut | None:
        stated = self.outputs.get("normal")
        return NormalOut(**_tuples(stated)) if stated is not None else None

    def z_of(
        self, answer: np.ndarray, k: np.ndarray | None, assumed_deg: float, fed_width: int
    ) -> tuple[np.ndarray, Kind, str]:
        """(depth float32 (T, H, W), its kind, what was converted) of the network's answer at the picture's size.

        k: intrinsics of the picture's pixels. Where they matter and are not known the field of view is assumed, and
        metres become "relative". fed_width: of the picture as the network saw it.
        """
        out = self.depth
        assert out is not None, "asked only of cards with depth"
        _, height, width = answer.shape
        camera = k if k is not None else geometry.assumed_intrinsics(width, height, assumed_deg)
        assumed = f" for an assumed {assumed_deg:g} degrees of view" if k is None else ""
        kind, done = KINDS[out.kind], list[str]()
        known = np.isfinite(answer)
        if out.valid:
            known &= (answer >= out.valid[0]) & (answer <= out.valid[1])
        depth = answer.astype(np.float32) * np.float32(out.factor)
        if out.kind != "relative-inverse":
            known &= depth > 0
        depth = np.where(known, depth, np.float32(np.nan))
        if out.kind in {"metric-inverse", "inverse"}:
            depth = 1 / depth
            done.append("inverse depth to z")
        if self.range == "ray":
            depth /= np.linalg.norm(geometry.rays(camera, width, height), axis=-1).astype(np.float32)
            done.append("ray distance to z" + assumed)
        if self.canonical_focal:
            depth *= np.float32(camera[0, 0] * fed_width / width / self.canonical_focal)
            done.append("canonical camera to metres" if k is not None else "canonical camera" + assumed)
            kind = kind if k is not None else "relative"
        return depth, kind, "; ".join(done)

    def normals_of(self, answer: np.ndarray, k: np.ndarray | None, assumed_deg: float) -> tuple[np.ndarray, str]:
        """(normals float32 (T, H, W, 3) in our axes, what was converted) of an answer (T, H, W, 3) of any length.

        One that faces away is tilted until it is seen edge-on, the nearest direction that can be seen at all.
        """
        out = self.normal
        assert out is not None, "asked only of cards with normals"
        low, high = out.range
        stated = (answer.astype(np.float32) - np.float32(low)) * np.float32(2 / (high - low)) - 1
        n = np.empty_like(stated)
        for number, word in enumerate(out.directions):
            axis, sign = _DIRECTIONS[word]
            n[..., axis] = stated[..., number] * (sign if out.facing == "camera" else -sign)
        height, width = n.shape[1:3]
        camera = k if k is not None else geometry.assumed_intrinsics(width, height, assumed_deg)
        ray = geometry.rays(camera, width, height)
        ray = (ray / np.linalg.norm(ray, axis=-1, keepdims=True)).astype(np.float32)
        n = _unit(n)
        along = np.einsum("thwc,hwc->thw", n, ray)
        n = _unit(n - np.where(along > 0, along, 0)[..., None] * ray)
        if out.is_as_ours:
            return n, ""
        away = "" if out.facing == "camera" else " pointing away"
        return n, f"normals from {out.axes if isinstance(out.axes, str) else ', '.join(out.axes)} axes{away}"

    def mirrored_back(self, what: str, answer: np.ndarray) -> np.ndarray:
        """The network's own numbers (n, h, w, c) for mirrored pictures, as they would be for the pictures."""
        back = answer[:, :, ::-1]
        if what == "normal" and self.normal is not None:
            sideways = next(at for at, word in enumerate(self.normal.directions) if word in {"left", "right"})
            back = back.copy()
            back[..., sideways] = sum(self.normal.range) - back[..., sideways]
        return back


def read(path: Path) -> Card:
    """The card of an .onnx file; the defaults if none lies beside it. Raises ValueError, in one line, for a bad one."""
    import yaml

    path = path.with_suffix(".yaml")
    if not path.is_file():
        return Card()
    try:
        return Card(**_tuples(yaml.safe_load(path.read_text(encoding="utf-8")) or {}))
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, OSError) as error:
        keys = ", ".join(key.name for key in fields(Card))
        why = " ".join(str(error).split())
        raise ValueError(f"{path} does not describe a depth model ({why}); its keys are {keys}") from error


def _tuples(stated: Any) -> dict[str, Any]:
    """Lists as tuples: of what YAML says, which frozen data can then be made of."""
    if not isinstance(stated, dict):
        raise TypeError(f"expected keys and values, got {stated!r}")
    values = cast("dict[str, Any]", stated)
    return {key: tuple(cast("list[Any]", value)) if isinstance(value, list) else value for key, value in values.items()}


def _unit(n: np.ndarray) -> np.ndarray:
    """Of length 1, NaN where they have none."""
    length = np.sqrt(np.einsum("...c,...c->...", n, n))
    return n / np.where(length > 1e-6, length, np.float32(np.nan))[..., None]
