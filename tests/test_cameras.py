"""Who says where a pixel looks and where the camera stood; depth of a clip on one scale, and in metres."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from omniloom.modalities import Clip, alignment, depth, geometry, metres
from omniloom.modalities.base import Footage, Frames, read
from omniloom.modalities.cameras import camera_beside, focal_35mm, with_camera
from omniloom.modalities.models.estimate import Estimate
from omniloom.pipeline.probe import probe
from tests.surfaces import HEIGHT, WIDTH, K

POSE = np.eye(4)
POSE[:3, :3] = [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
POSE[:3, 3] = [1.0, 2.0, 3.0]
PTS = np.arange(3) * 500_000_000


def footage_of(path: Path, rgb: np.ndarray, tags: Mapping[str, str]) -> Footage:
    """As a build sees the clip."""
    frames = with_camera(Frames(rgb, PTS[: len(rgb)]), str(path), tags, 0)
    return Footage(Clip("0" * 64, 0, 2 * 10**9), str(path), frames, None)


def estimated(path: Path, estimate: Estimate, rgb: np.ndarray | None = None, **config: Any) -> depth.Depth:
    """What becomes of a network's answer."""
    assert estimate.depth is not None
    rgb = np.zeros((*estimate.depth.shape, 3), np.uint8) if rgb is None else rgb
    (path.parent / "net.onnx").write_bytes(b"")
    tags = config.pop("tags", {})
    config = {"model": str(path.parent / "net.onnx"), **config}
    made = depth.extract(footage_of(path, rgb, tags), depth.Config(**config), lambda *_: estimate)
    assert made is not None
    return made.value


FLAT = Estimate(np.ones((2, 48, 64), np.float32), "metric-z")


def test_intrinsics_are_given_else_stated_else_estimated_else_assumed(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    tags = {"com.apple.quicktime.camera.focal_length.35mm_equivalent": "26"}
    own = Estimate(np.ones((2, 48, 64), np.float32), "metric-z", k=geometry.intrinsics(77, 77, 31.5, 23.5))
    assumed = estimated(path, FLAT)
    assert (assumed.k_source, assumed.k[0, 0]) == ("assumed", pytest.approx(32 / np.tan(np.radians(30))))
    by_network = estimated(path, own)
    assert (by_network.k_source, by_network.k[0, 0]) == ("estimated", pytest.approx(77))
    stated = estimated(path, own, tags=tags)
    # The diagonal of the picture is to its focal length as 43.27 mm is to 26 mm.
    assert (stated.k_source, stated.k[0, 0]) == ("metadata", pytest.approx(80 * 26 / np.hypot(36, 24)))
    record = {"K": geometry.intrinsics(200, 200, 63.5, 47.5).tolist(), "width": 128, "height": 96}
    path.with_suffix(".camera.json").write_text(json.dumps(record))
    given = estimated(path, own, tags=tags)
    assert (given.k_source, given.k[0, 0]) == ("given", pytest.approx(100))
    assert read(depth, depth.encode(given)).k_source == "given"


@pytest.mark.parametrize("tag", ["-3", "nonsense", "", "0", "1e9", "nan"])
def test_a_focal_length_that_no_lens_has_is_passed_over(tag: str) -> None:
    assert focal_35mm({"FocalLengthIn35mmFilm": tag}) is None
    assert focal_35mm({"FOCALLENGTHIN35MMFILM": "28 mm"}) == 28


@pytest.mark.parametrize(
    ("name", "tag"),
    [("x.mov", "com.apple.quicktime.camera.focal_length.35mm_equivalent"), ("x.mkv", "FocalLengthIn35mmFilm")],
)
def test_containers_that_state_a_focal_length_are_read(tmp_path: Path, name: str, tag: str) -> None:
    options = {"movflags": "use_metadata_tags"} if name.endswith("mov") else {}
    with av.open(str(tmp_path / name), "w", options=options) as container:
        container.metadata[tag] = "26"
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert focal_35mm(probe(str(tmp_path / name)).tags) == 26


def test_poses_are_found_by_time_and_kept_through_a_shard(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    record = {"K": K.tolist(), "width": WIDTH, "height": HEIGHT, "poses": [POSE.tolist()], "pose_pts_ns": [510_000_000]}
    path.with_suffix(".camera.json").write_text(json.dumps(record))
    value = estimated(path, FLAT, rgb=np.zeros((2, 48, 64, 3), np.uint8))
    assert value.poses is not None
    assert np.array_equal(value.poses[1], POSE)
    assert not value.poses[0].any(), "nobody knows where the camera was then"
    back = read(depth, depth.encode(value))
    assert back.poses is not None
    assert np.array_equal(back.poses, value.poses)


@pytest.mark.parametrize(
    "broken",
    [
        {"K": [[1, 0], [0, 1]]},
        {"poses": [np.diag([1.0, 1, -1, 1]).tolist()], "pts_ns": [0]},
        {"poses": [np.diag([2.0, 2, 2, 1]).tolist()], "pts_ns": [0]},
        {"poses": [np.eye(4).tolist()]},
        {"poses": [np.eye(4).tolist()], "pts_ns": [0, 1]},
        {"width": 48, "height": 64},
    ],
)
def test_a_camera_file_that_cannot_be_is_rejected_and_says_why(tmp_path: Path, broken: dict[str, Any]) -> None:
    record = {"K": K.tolist(), "width": 64, "height": 48, **broken}
    (tmp_path / "x.camera.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"camera\.json"):
        estimated(tmp_path / "x.mp4", FLAT)


# --- one scale --------------------------------------------------------------------------------------------------


def room(shifts: list[tuple[float, float, float]], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames of a painted wall and floor from a camera at those places: rgb, exact z, poses."""
    rng = np.random.default_rng(seed)
    paint = rng.integers(0, 256, (2, 64, 64)).astype(np.float64)
    rays = geometry.rays(K, WIDTH, HEIGHT)
    frames, depths, poses = [], [], []
    for x, y, z in shifts:
        wall = np.full((HEIGHT, WIDTH), 6 - z)
        floor = (1.4 - y) / np.where(rays[..., 1] > 0.01, rays[..., 1], np.nan)
        is_floor = floor < wall
        depth_m = np.where(is_floor, floor, wall)
        points = rays * depth_m[..., None] + [x, y, z]
        u, v = points[..., 0] * 4, np.where(is_floor, points[..., 2], points[..., 1]) * 4
        gray = np.where(is_floor, _smooth(paint[0], u, v), _smooth(paint[1], u, v))
        frames.append(np.repeat(gray[..., None], 3, axis=-1).astype(np.uint8))
        depths.append(depth_m)
        pose = np.eye(4)
        pose[:3, 3] = x, y, z
        poses.append(pose)
    return np.stack(frames), np.stack(depths), np.stack(poses)


def _smooth(paint: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    right, below = u - left, v - top
    rows, columns = len(paint), paint.shape[1]
    corner = [[paint[(top + j) % rows, (left + i) % columns] for i in (0, 1)] for j in (0, 1)]
    upper = corner[0][0] * (1 - right) + corner[0][1] * right
    return upper * (1 - below) + (corner[1][0] * (1 - right) + corner[1][1] * right) * below


JITTER = np.exp([0.10, -0.08, 0.05, -0.12])
PATHS = {
    "still": [(0.0, 0.0, 0.0)] * 4,
    "sideways": [(0.15 * i, 0.0, 0.0) for i in range(4)],
    "forward": [(0.0, 0.0, 0.2 * i) for i in range(4)],
}


@pytest.mark.parametrize("path", PATHS)
def test_wavering_scale_is_taken_out_and_real_change_is_kept(path: str) -> None:
    rgb, z, _ = room(PATHS[path])
    wavering = (z * JITTER[:, None, None]).astype(np.float32)
    scales = alignment.one_scale(wavering, "relative", rgb, K)
    left = np.log(np.median((scales.apply(wavering) / z).reshape(4, -1), axis=1))
    assert np.ptp(np.log(JITTER)) > 0.2
    assert np.ptp(left) < 0.015, "one factor for all frames, also where the camera came nearer"
    assert np.mean(left) == pytest.approx(np.mean(np.log(JITTER)), abs=0.01), "the mean scale stays"
    assert len(set(scales.group)) == 1


@pytest.mark.parametrize("path", PATHS)
def test_wavering_scale_and_shift_of_inverse_depth_are_taken_out(path: str) -> None:
    rgb, z, _ = room(PATHS[path], seed=1)
    exact = 3 / z
    wavering = exact * JITTER[:, None, None] + np.array([0.05, -0.08, 0.1, 0.0])[:, None, None]

    def flicker(inverse: np.ndarray) -> float:
        """How far frames stray from one line through the truth, as a share of its spread."""
        line = np.polyfit(exact.ravel(), inverse.ravel(), 1)
        off = (inverse - np.polyval(line, exact)).reshape(4, -1)
        return float(np.abs(off).mean() / (line[0] * exact.std()))

    scales = alignment.one_scale(wavering.astype(np.float32), "relative-inverse", rgb, K)
    assert flicker(wavering) > 0.3
    # Coming nearer changes inverse depth by an amount that hangs on its unknown shift: told only in part.
    assert flicker(scales.apply(wavering)) < (0.2 if path == "forward" else 0.02)


@pytest.mark.parametrize("path", PATHS)
def test_what_does_not_waver_is_left_alone(path: str) -> None:
    rgb, z, _ = room(PATHS[path], seed=2)
    scales = alignment.one_scale(z.astype(np.float32), "relative", rgb, K)
    assert np.abs(np.log(scales.scale)).max() < 0.01


def test_frames_that_share_nothing_are_not_brought_together() -> None:
    rgb, z, _ = room([(0.0, 0.0, 0.0)] * 2, seed=3)
    other, other_z, _ = room([(0.0, 0.0, 0.0)] * 2, seed=4)
    both = np.concatenate([z, 3 * other_z]).astype(np.float32)
    scales = alignment.one_scale(both, "relative", np.concatenate([rgb, other]), K)
    assert list(scales.group) == [0, 0, 1, 1]
    assert np.abs(scales.scale - 1).max() < 0.01
    black = alignment.one_scale(both, "relative", np.zeros_like(np.concatenate([rgb, other])), K)
    assert len(set(black.group)) == 4
    assert (black.scale == 1).all()


def test_depth_says_that_its_frames_were_brought_to_one_scale(tmp_path: Path) -> None:
    rgb, z, _ = room(PATHS["still"][:3])
    answer = Estimate((z * JITTER[:3, None, None]).astype(np.float32), "relative")
    value, raw = (estimated(tmp_path / "x.mp4", answer, rgb, align=align, fov_deg=45.0) for align in (True, False))
    assert "one scale" in value.converted
    assert value.groups is not None
    assert list(read(depth, depth.encode(value)).groups) == [0, 0, 0]
    assert raw.groups is None
    assert np.abs(np.diff(value.z, axis=0)).max() < 0.01 * np.abs(np.diff(raw.z, axis=0)).max() + 0.05


# --- metres -----------------------------------------------------------------------------------------------------


def test_known_poses_bring_relative_depth_to_metres() -> None:
    rgb, z, poses = room([(0.4 * i, 0.0, 0.0) for i in range(2)], seed=5)
    relative = (z / 3).astype(np.float32)
    found = metres.to_metres(relative, "relative", np.zeros(2), None, (rgb, K, poses))
    assert found is not None
    assert np.nanmedian(np.abs(found[0] / z - 1)) < 0.03
    assert found[1].endswith("camera poses")
    at_rest = np.repeat(np.eye(4)[None], 2, axis=0)
    assert metres.to_metres(relative, "relative", np.zeros(2), None, (rgb, K, at_rest)) is None


@pytest.mark.parametrize("kind", ["relative", "relative-inverse"])
def test_depth_measured_in_one_frame_brings_all_of_them_to_metres(kind: Any) -> None:
    rgb, z, _ = room(PATHS["forward"], seed=6)
    relative = z / 3 if kind == "relative" else 5 / z + 2
    measured = np.full(z.shape, np.nan)
    measured[1, ::4, ::4] = z[1, ::4, ::4]
    measured[1, :20, ::8] = 1.0  # a share of it is wrong
    found = metres.to_metres(relative.astype(np.float32), kind, np.zeros(4), measured, (rgb, K, None))
    assert found is not None
    assert np.nanmedian(np.abs(found[0] / z - 1)) < 0.02


def test_a_network_beside_measured_depth_answers_in_metres_where_that_is_wanted(tmp_path: Path) -> None:
    rgb, z, _ = room(PATHS["still"][:2], seed=7)
    np.savez(tmp_path / "x.depth.npz", depth_m=z[:1], pts_ns=PTS[:1], K=K, kind="z")
    answer = Estimate((z / 3).astype(np.float32), "relative")
    value = estimated(tmp_path / "x.mp4", answer, rgb, prefer_given=False, to_metric=True)
    assert value.kind == "metric-z"
    assert "measured depth" in value.converted
    small = geometry.resize_nearest(z, K, value.z.shape[:0:-1])[0]
    assert np.abs(value.z / small - 1).max() < 0.02
    given = estimated(tmp_path / "x.mp4", answer, rgb)
    assert np.isnan(given.z[1]).all(), "measured depth comes first, and stays as it was measured"


def test_no_camera_file_is_no_camera(tmp_path: Path) -> None:
    assert camera_beside(str(tmp_path / "x.mp4")) is None
    (tmp_path / "x.camera.json").write_text('{"pts_ns": [0], "depth_scale_m": 0.001, "width": 4, "height": 3}')
    assert camera_beside(str(tmp_path / "x.mp4")) is None
