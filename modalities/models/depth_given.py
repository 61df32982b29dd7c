"""Depth that people have beside a video: `X.depth.npz`, or 16-bit PNGs in `X.depth/` with `X.camera.json`.

Beside a picture `X.depth.png`, or whatever the source list names in its column `depth`: one 16-bit PNG, in millimetres
unless `X.camera.json` states `depth_scale_m`; 0 = nothing measured.

    X.depth.npz    depth_mm uint16 (T, H, W), 0 = nothing measured (or depth_m float, metres); pts_ns int64 (T,) on the
                   video's presentation clock; K float64 (3, 3) in pixels of that W x H; kind "z" or "ray"
    X.camera.json  as in `cameras`, and for a folder of PNGs, in the order of their names,
                   {"pts_ns": [...], "depth_scale_m": metres a code, "kind": "z" or "ray"}

"z" is distance along the optical axis, "ray" along each pixel's ray; rays are turned into z.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from omniloom.modalities import codecs, geometry
from omniloom.modalities.cameras import MATCH_NS, read_k, read_record

_MAX_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Given:
    """Depth of a whole video; frames are read when they are asked for."""

    pts_ns: np.ndarray
    frame_m: Callable[[int], np.ndarray]
    """Metres along the axis or the ray, float32 (H, W), NaN where nothing was measured."""
    k: np.ndarray | None
    k_size: tuple[int, int] | None
    """Width and height that K is for; None: those of the depth."""
    kind: Literal["z", "ray"]
    step_m: float
    """Metres a code of the source, or 0 for floats."""

    def at(self, times_ns: np.ndarray) -> list[np.ndarray | None]:
        """For each time the frame nearest to it, z in metres; None if none is within MATCH_NS."""
        found: list[np.ndarray | None] = []
        for time_ns in times_ns:
            nearest = int(np.argmin(np.abs(self.pts_ns - time_ns)))
            close = abs(int(self.pts_ns[nearest]) - int(time_ns)) <= MATCH_NS
            found.append(self._z(self.frame_m(nearest)) if close else None)
        return found

    def intrinsics(self, width: int, height: int) -> np.ndarray | None:
        """K for pictures of that size, if the camera is known."""
        if self.k is None:
            return None
        return geometry.resized_intrinsics(self.k, self.k_size or (width, height), (width, height))

    def _z(self, depth: np.ndarray) -> np.ndarray:
        if self.kind == "z":
            return depth
        k = self.intrinsics(depth.shape[1], depth.shape[0])
        if k is None:
            raise ValueError("depth along rays needs K")
        return (depth / np.linalg.norm(geometry.rays(k, depth.shape[1], depth.shape[0]), axis=-1)).astype(np.float32)


def depth_beside(video: str, named: str | None = None) -> Given | None:
    """The depth of a video or picture, or None if none lies beside it. Raises ValueError for depth that is none.

    named: a PNG that holds it, wherever it lies.
    """
    npz, folder = Path(video).with_suffix(".depth.npz"), Path(video).with_suffix(".depth")
    picture = Path(named) if named else Path(video).with_suffix(".depth.png")
    if named or picture.is_file():
        return _from_picture(picture, Path(video).with_suffix(".camera.json"))
    if npz.is_file():
        return _from_npz(str(npz), npz.stat().st_mtime_ns)
    if folder.is_dir():
        return _from_folder(folder, Path(video).with_suffix(".camera.json"))
    return None


@lru_cache(maxsize=1)
def _from_npz(path: str, modified_ns: int) -> Given:
    """Cached: a long video asks for the same file clip after clip."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
                raise ValueError(f"larger than {_MAX_BYTES >> 30} GiB")
        with np.load(path, allow_pickle=False) as arrays:
            names = set(arrays.files)
            depth = np.asarray(arrays["depth_m" if "depth_m" in names else "depth_mm"])
            pts_ns = np.asarray(arrays["pts_ns"]).astype(np.int64)
            k = read_k(arrays["K"]) if "K" in names else None
            kind = str(arrays["kind"]) if "kind" in names else "z"
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{Path(path).name}: {error}") from error
    step_m = 0.0 if "depth_m" in names else 0.001
    if depth.ndim != 3 or not len(depth) or pts_ns.shape != (len(depth),) or (step_m and depth.dtype != np.uint16):
        raise ValueError(f"{Path(path).name}: depth {depth.dtype} {depth.shape} with pts_ns {pts_ns.shape}")
    return Given(pts_ns, lambda index: _metres(depth[index], step_m), k, None, _kind(kind, path), step_m)


def _from_folder(folder: Path, camera: Path) -> Given:
    record = read_record(camera) if camera.is_file() else {}
    try:
        pts_ns = np.array(record["pts_ns"], np.int64)
        step_m = float(record["depth_scale_m"])
        size = (int(record["width"]), int(record["height"])) if "K" in record else None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{camera.name} must state pts_ns, depth_scale_m, width and height: {error!r}") from error
    files = sorted(folder.glob("*.png"))
    if len(files) != len(pts_ns) or not files or step_m <= 0:
        raise ValueError(
            f"{folder.name} holds {len(files)} PNGs, {camera.name} {len(pts_ns)} times and {step_m} m a code"
        )

    def frame_m(index: int) -> np.ndarray:
        codes = codecs.decode("png", files[index].read_bytes())
        if codes.ndim != 2:
            raise ValueError(f"{files[index].name} is no 16-bit gray PNG")
        return _metres(codes, step_m)

    k = read_k(record["K"]) if "K" in record else None
    return Given(pts_ns, frame_m, k, size, _kind(record.get("kind", "z"), str(camera)), step_m)


def _from_picture(picture: Path, camera: Path) -> Given:
    record = read_record(camera) if camera.is_file() else {}
    try:
        step_m = float(record.get("depth_scale_m", 0.001))
        size = (int(record["width"]), int(record["height"])) if "K" in record else None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{camera.name} must state width and height with K: {error!r}") from error
    if step_m <= 0:
        raise ValueError(f"{camera.name}: depth_scale_m is metres a code, got {step_m}")
    codes = codecs.decode("png", picture.read_bytes())
    if codes.ndim != 2 or codes.dtype != np.uint16:
        raise ValueError(f"{picture.name} is no 16-bit gray PNG, but {codes.dtype} {codes.shape}")
    k = read_k(record["K"]) if "K" in record else None
    depth_m = _metres(codes, step_m)
    return Given(np.zeros(1, np.int64), lambda _: depth_m, k, size, _kind(record.get("kind", "z"), str(camera)), step_m)


def _metres(depth: np.ndarray, step_m: float) -> np.ndarray:
    metres = depth * step_m if step_m else depth.astype(np.float64)
    return np.where(np.isfinite(metres) & (metres > 0), metres, np.nan).astype(np.float32)


def _kind(kind: str, path: str) -> Literal["z", "ray"]:
    if kind == "z":
        return "z"
    if kind == "ray":
        return "ray"
    raise ValueError(f"{Path(path).name}: kind is 'z' or 'ray', got {kind!r}")
