"""What a geometry network says of some frames: how far away each pixel is, which way its surface faces, or both.

A loaded family of depth or normals is `answer(rgb uint8 (T, H, W, 3), k float64 (3, 3) | None = None) -> Estimate`.
The frames may be those of several clips of one size, put together by whoever asks: no answer depends on its neighbours.
`k` are the intrinsics of the given pixels where they are known; networks that need no camera pass over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from omniloom.modalities.base import ModelRef

Kind = Literal["metric-z", "relative-inverse", "relative"]
"""Metres along the optical axis; a + b / z with a and b unknown (larger is nearer); z up to a factor."""

KINDS: tuple[Kind, ...] = ("metric-z", "relative-inverse", "relative")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A network's answer for T frames, at the size of the pictures it was given."""

    depth: np.ndarray | None
    """float32 (T, H, W) in the sense and unit of `kind`; NaN where unknown, as in the sky."""
    kind: Kind = "relative"
    normals: np.ndarray | None = None
    """float32 (T, H, W, 3), unit vectors in OpenCV camera axes (x right, y down, z forward) that face the camera
    (n . ray <= 0); NaN where unknown."""
    k: np.ndarray | None = None
    """float64 (3, 3): intrinsics of the given pixels, where the network estimates them; of several frames the mean."""
    converted: str = ""
    """What was converted on the way here, e.g. "ray distance to z; normals from opengl axes"."""
    ks: np.ndarray | None = None
    """float64 (T, 3, 3): what `k` is the mean of, so that frames of several clips can be taken apart again."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"depth is one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.depth is None and self.normals is None:
            raise ValueError("an estimate has depth or normals, got neither")
        if self.depth is not None and (self.depth.ndim != 3 or self.depth.dtype != np.float32):
            raise ValueError(f"depth is float32 (T, H, W), got {self.depth.dtype} {self.depth.shape}")
        if self.normals is not None:
            if self.normals.shape[3:] != (3,) or self.normals.dtype != np.float32:
                raise ValueError(f"normals are float32 (T, H, W, 3), got {self.normals.dtype} {self.normals.shape}")
            if self.depth is not None and self.depth.shape != self.normals.shape[:3]:
                raise ValueError(f"depth {self.depth.shape} and normals {self.normals.shape} are of other frames")
        if self.ks is not None:
            if self.ks.shape != (len(self), 3, 3):
                raise ValueError(f"one K a frame, got {self.ks.shape} for {len(self)} frames")
            object.__setattr__(self, "k", self.ks.mean(axis=0))
        if self.k is not None and self.k.shape != (3, 3):
            raise ValueError(f"K is (3, 3), got {self.k.shape = }")

    def __len__(self) -> int:
        shown = self.depth if self.depth is not None else self.normals
        return 0 if shown is None else len(shown)

    def frames(self, first: int, last: int) -> Estimate:
        """A copy of the estimate of frames first to last (excluded), as if only they had been asked about."""
        return replace(
            self,
            depth=None if self.depth is None else self.depth[first:last].copy(),
            normals=None if self.normals is None else self.normals[first:last].copy(),
            ks=None if self.ks is None else self.ks[first:last],
        )


Answer = Callable[..., Estimate]
"""(rgb, k=None) -> Estimate, as above."""


def assumed_view_deg(ref: ModelRef) -> float:
    """Degrees across the longer side for a camera nobody described: the reference's option "fov_deg", or 60."""
    return float(dict(ref.options).get("fov_deg", 60.0))
