"""Points: clean, coloured, thinned, and fused over the frames of a clip whose camera is known."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omniloom.modalities import Clip, clouds, depth, geometry, points
from omniloom.modalities.base import Footage, Frames, read
from tests import surfaces
from tests.surfaces import HEIGHT, WIDTH, K

pytestmark = pytest.mark.skipif(find_spec("open3d") is None, reason="Open3D is not installed")

SHARED = Path(__file__).parents[2] / "shared/data"


def ask_nobody(*_: object) -> None:
    raise AssertionError("points ask no network")


def cloud_of(value: depth.Depth, rgb: np.ndarray, **config: object) -> points.Cloud:
    frames = Frames(rgb, value.pts_ns)
    footage = Footage(Clip("0" * 64, 0, 10**9), "x.mp4", frames, None, made={"frames": frames, "depth": value})
    made = points.extract(footage, points.Config(**config), ask_nobody)
    assert made is not None
    return made.value


@pytest.fixture(scope="module")
def redwood() -> tuple[np.ndarray, depth.Depth]:
    """Five real frames with measured depth and poses, 341 x 256."""
    files = sorted((SHARED / "redwood").glob("*.color.jpg"))
    if not files:
        pytest.skip("no redwood frames beside the checkout")
    colour = np.stack([np.asarray(Image.open(file)) for file in files])
    mm = np.stack([np.asarray(Image.open(str(file).replace("color.jpg", "depth.png"))) for file in files])
    z = np.where(mm > 0, mm / 1000, np.nan).astype(np.float32)
    z, k = geometry.resize_nearest(z, geometry.intrinsics(525, 525, 319.5, 239.5), (341, 256))
    lines = (SHARED / "redwood/trajectory.log").read_text().splitlines()
    poses = np.array([[line.split() for line in lines[5 * i + 1 : 5 * i + 5]] for i in range(5)], np.float64)
    return colour, depth.Depth(z, np.arange(5) * 40_000_000, "metric-z", k, "given", 0.001, poses=poses)


def agreement(cloud: points.Cloud, value: depth.Depth, poses: np.ndarray) -> float:
    """Share of the cloud's points, made in frame 2, that lie within 3 % of what the other frames measured there."""
    agreeing, seen = 0, 0
    for other in (0, 1, 3, 4):
        moved = np.linalg.inv(poses[other]) @ poses[2]
        xyz = cloud.xyzrgb[:, :3] @ moved[:3, :3].T + moved[:3, 3]
        u = np.rint(xyz[:, 0] / xyz[:, 2] * value.k[0, 0] + value.k[0, 2]).astype(int)
        v = np.rint(xyz[:, 1] / xyz[:, 2] * value.k[1, 1] + value.k[1, 2]).astype(int)
        inside = (u >= 0) & (u < value.z.shape[2]) & (v >= 0) & (v < value.z.shape[1])
        off = np.abs(value.z[other][v[inside], u[inside]] / xyz[inside, 2] - 1)
        agreeing += int((off < 0.03).sum())
        seen += int(np.isfinite(off).sum())
    assert seen > 10_000
    return agreeing / seen


def test_points_of_real_frames_seen_from_another_lie_on_what_that_one_measured(
    redwood: tuple[np.ndarray, depth.Depth],
) -> None:
    colour, value = redwood
    assert value.poses is not None
    cloud = cloud_of(value, colour)
    assert (cloud.num_frames, cloud.pts_ns, cloud.unit) == (5, 80_000_000, "m")
    assert cloud.xyzrgb.shape == (4096, 6)
    share = agreement(cloud, value, value.poses)
    assert share > 0.95
    unmoved = agreement(cloud, value, np.repeat(np.eye(4)[None], 5, axis=0))
    assert unmoved < share - 0.05, "poses make no difference"


def test_frames_are_joined_only_where_metres_and_poses_are_known(redwood: tuple[np.ndarray, depth.Depth]) -> None:
    colour, value = redwood
    assert cloud_of(value, colour, fuse=False).num_frames == 1
    relative = depth.Depth(value.z, value.pts_ns, "relative", value.k, "given", poses=value.poses)
    assert cloud_of(relative, colour).num_frames == 1
    assert value.poses is not None
    some = value.poses.copy()
    some[0] = 0
    assert (
        cloud_of(depth.Depth(value.z, value.pts_ns, "metric-z", value.k, "given", poses=some), colour).num_frames == 4
    )


def test_fused_points_cover_more_than_one_frame_sees(redwood: tuple[np.ndarray, depth.Depth]) -> None:
    colour, value = redwood
    alone, joined = (cloud_of(value, colour, fuse=fuse).xyzrgb for fuse in (False, True))
    below = [np.percentile(cloud[:, 1] / cloud[:, 2], [0, 100]) for cloud in (alone, joined)]
    assert np.ptp(below[1]) > np.ptp(below[0]), "the camera tilts: other frames see further up or down"


def ball_before_wall() -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, W) of a ball at 3 m before a wall at 6 m, and where the ball is."""
    ball, _ = surfaces.sphere((0.1, 0.0, 4.0), 1.0)
    wall, _ = surfaces.plane((0, 0, -1), 6)
    z, _ = surfaces.front((ball, np.zeros((HEIGHT, WIDTH, 3))), (wall, np.zeros((HEIGHT, WIDTH, 3))))
    return z.astype(np.float32), np.isfinite(ball)


def test_pixels_that_fly_between_near_and_far_are_left_out() -> None:
    z, ball = ball_before_wall()
    edge = surfaces.edges(np.where(ball, 1.0, 2.0), 0)
    mixed = np.where(edge, 0.5 * (z + 5.9), z)  # as a camera mixes them
    kept = clouds.solid(mixed, K)
    between = edge & (mixed > 4.2) & (mixed < 5.7)
    assert between.sum() > 200
    assert kept[between].mean() < 0.1
    assert kept[~surfaces.edges(np.where(ball, 1.0, 2.0), 2)].mean() > 0.995
    assert clouds.solid(z, K)[ball].mean() > 0.97, "a clean edge loses next to nothing"


def test_a_floor_seen_at_a_low_angle_stays() -> None:
    z, _ = surfaces.plane((0, -1, 0), 1.5)
    z = np.where((z > 0) & (z < 15), z, np.nan)
    assert clouds.solid(z, K)[np.isfinite(z)].mean() > 0.97


def test_what_moved_is_shown_once_where_it_was_in_the_middle_frame() -> None:
    z, ball = ball_before_wall()
    frames = np.stack([np.roll(z, shift, axis=1) for shift in (-60, 0, 60)])
    rgb = np.zeros((3, HEIGHT, WIDTH, 3), np.uint8)
    poses = np.repeat(np.eye(4)[None], 3, axis=0)
    value = depth.Depth(frames, np.arange(3) * 10**8, "metric-z", K, "given", poses=poses)
    cloud = cloud_of(value, rgb).xyzrgb
    near = cloud[cloud[:, 2] < 5]
    u = near[:, 0] / near[:, 2] * K[0, 0] + K[0, 2]
    columns = np.flatnonzero(ball.any(axis=0))
    assert len(near) > 200
    assert ((u > columns[0] - 2) & (u < columns[-1] + 2)).mean() > 0.98


def test_lone_points_are_left_out_and_the_rest_is_spread_evenly() -> None:
    z, _ = surfaces.plane((0.1, -0.2, -1), 4)
    z = z.astype(np.float32)
    z[::40, ::40] *= 0.7  # specks; each has no neighbour on its surface
    speck = np.zeros_like(z, bool)
    speck[::40, ::40] = True
    value = depth.Depth(z[None], np.zeros(1, np.int64), "metric-z", K, "given")
    cloud = cloud_of(value, np.zeros((1, HEIGHT, WIDTH, 3), np.uint8), count=1000).xyzrgb
    n = np.array([0.1, -0.2, -1]) / np.linalg.norm([0.1, -0.2, -1])
    assert len(cloud) == 1000
    assert np.abs(cloud[:, :3] @ n + 4).max() < 1e-4
    apart = np.linalg.norm(cloud[:, None, :3] - cloud[None, :, :3], axis=-1) + 10 * np.eye(1000)
    nearest = apart.min(axis=1)
    assert nearest.min() > 0.4 * np.median(nearest), "points crowd"


def test_where_the_camera_was_is_stated(redwood: tuple[np.ndarray, depth.Depth]) -> None:
    colour, value = redwood
    part = points.encode(cloud_of(value, colour))
    assert part.facts["axes"] == "opencv, of the camera at pts_ns"
    assert part.facts["num_frames"] == 5
    assert read(points, part).num_frames == 5
    center = np.array(part.facts["center"])
    assert np.abs(read(points, part).xyzrgb[:, :3].mean(axis=0) - center).max() < 1e-2
