"""The camera that took a video: its intrinsics, who says so, and where it stood when.

Beside X.mp4 lies X.camera.json, of which anything but the first three may be missing:

    K               3 x 3, in pixels of a picture of `width` x `height`, pixel centres at whole numbers
    width, height   of the upright picture, as it is shown
    poses           4 x 4 matrices, camera to world: rotation and position in metres, camera axes x right, y down,
                    z forward
    pose_pts_ns     their times on the video's presentation clock; `pts_ns` if it is not there

Intrinsics come from that file ("given"), from the focal length that the video's container states ("metadata": as good
as the maker's word, and stabilisation crops the view it speaks of), from a network ("estimated"), or from a field of
view that is assumed ("assumed").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.modalities import geometry
from omniloom.modalities.base import FrameCamera, Frames

MATCH_NS = 20_000_000
"""A pose, or a depth frame, belongs to a picture shown within half a frame of 25 a second of it."""

_DIAGONAL_35MM = math.hypot(36, 24)
_FOCAL_TAGS = (
    "com.apple.quicktime.camera.focal_length.35mm_equivalent",
    "focallengthin35mmfilm",
    "focallengthin35mmformat",
)
"""Tags, in lower case, that state the focal length a 35 mm camera of the same view would have, in millimetres."""


@dataclass(frozen=True, slots=True)
class Camera:
    """What `X.camera.json` states."""

    k: np.ndarray
    """float64 (3, 3), in pixels of the size below."""
    size: tuple[int, int]
    pose_pts_ns: np.ndarray
    """int64 (P,), on the video's presentation clock."""
    poses: np.ndarray
    """float64 (P, 4, 4), camera to world, metres."""

    def intrinsics(self, width: int, height: int) -> np.ndarray:
        """K for pictures of that size. Raises ValueError for one of another shape."""
        if abs(self.size[0] * height / (self.size[1] * width) - 1) > 0.05:
            raise ValueError(
                f"camera.json is for {self.size[0]} x {self.size[1]}, the picture is {width} x {height}: not one view"
            )
        return geometry.resized_intrinsics(self.k, self.size, (width, height))

    def poses_at(self, times_ns: np.ndarray) -> np.ndarray | None:
        """float64 (T, 4, 4) at those times of the presentation clock, zeros where none is within MATCH_NS.

        None if that is so for all of them.
        """
        if not len(self.poses):
            return None
        nearest = np.abs(self.pose_pts_ns[None, :] - times_ns[:, None]).argmin(axis=1)
        close = np.abs(self.pose_pts_ns[nearest] - times_ns) <= MATCH_NS
        return np.where(close[:, None, None], self.poses[nearest], 0.0) if close.any() else None


def camera_beside(video: str) -> Camera | None:
    """The camera of a video, or None if no file states K. Raises ValueError for one that cannot be read."""
    path = Path(video).with_suffix(".camera.json")
    if not path.is_file():
        return None
    return _read(str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(name: str, modified_ns: int) -> Camera | None:
    """Cached: a long video asks for the same file clip after clip."""
    path = Path(name)
    record = read_record(path)
    if "K" not in record:
        return None
    try:
        k, size = read_k(record["K"]), (int(record["width"]), int(record["height"]))
        poses = np.array(record.get("poses", []), np.float64).reshape(-1, 4, 4)
        pts_ns = np.array(
            record["pose_pts_ns" if "pose_pts_ns" in record else "pts_ns"] if len(poses) else [], np.int64
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path.name} must state K, width and height, and pts_ns with poses: {error!r}") from error
    if min(size) < 1 or pts_ns.shape != (len(poses),):
        raise ValueError(f"{path.name}: {len(poses)} poses at {pts_ns.shape} times, for a picture of {size}")
    turns = poses[:, :3, :3]
    square = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max(initial=0) < 1e-2
    if (
        not square
        or (np.linalg.det(turns) < 0).any()
        or (poses[:, 3] != (0, 0, 0, 1)).any()
        or not np.isfinite(poses).all()
    ):
        raise ValueError(f"{path.name}: poses are rotations and positions, 4 x 4, with the last row 0 0 0 1")
    return Camera(k, size, pts_ns, poses)


def with_camera(frames: Frames, video: str, tags: Mapping[str, str], start_ns: int) -> Frames:
    """The frames with what is stated of the camera that took them, beside the video or by its container's `tags`.

    start_ns: of the clip, on the video's presentation clock. Raises ValueError for a camera file that cannot be read
    or is of another picture.
    """
    beside = camera_beside(video)
    height, width = frames.rgb.shape[1:3]
    if beside is not None:
        poses = beside.poses_at(frames.pts_ns + start_ns)
        return replace(frames, camera=FrameCamera(beside.intrinsics(width, height), "given", poses))
    focal_mm = focal_35mm(tags)
    if focal_mm is None:
        return frames
    # Equal by the diagonal, as CIPA and Exif have it.
    focal = focal_mm / _DIAGONAL_35MM * math.hypot(width, height)
    k = geometry.intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2)
    return replace(frames, camera=FrameCamera(k, "metadata"))


def flat_poses(poses: np.ndarray | None) -> list[float]:
    """12 numbers a frame, the upper three rows, for a sidecar; none where no pose is known."""
    return [] if poses is None else [float(x) for x in poses[:, :3].ravel()]


def poses_of(flat: Sequence[float]) -> np.ndarray | None:
    """float64 (T, 4, 4) of what `flat_poses` gave."""
    if not len(flat):
        return None
    poses = np.zeros((len(flat) // 12, 4, 4))
    poses[:, :3] = np.reshape(flat, (-1, 3, 4))
    poses[:, 3, 3] = poses[:, :3].any(axis=(1, 2))
    return poses


def focal_35mm(tags: Mapping[str, str]) -> float | None:
    """The 35 mm equivalent focal length in millimetres that a container's tags state, if it is one of a lens."""
    by_name = {name.lower().replace("_", ""): value for name, value in tags.items()}
    for name in _FOCAL_TAGS:
        try:
            focal = float(by_name.get(name.replace("_", ""), "").split()[0])
        except (ValueError, IndexError):
            continue
        if 5 <= focal <= 2000:
            return focal
    return None


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError, naming the file, if there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    return record


def read_k(value: Any) -> np.ndarray:
    """K float64 (3, 3). Raises ValueError if it is none."""
    k = np.asarray(value, np.float64)
    if k.shape != (3, 3) or not np.isfinite(k).all() or k[0, 0] <= 0 or k[1, 1] <= 0:
        raise ValueError(f"K is 3 x 3 with fx, fy > 0, got {k.tolist()}")
    return k
