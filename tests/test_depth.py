"""Depth, normals and points: from measured depth, from networks, on real frames and on exact surfaces."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omniloom.modalities import Clip, Rejected, codecs, depth, geometry, normal, points
from omniloom.modalities.base import Footage, Frames, Window, read
from omniloom.modalities.cameras import with_camera
from omniloom.modalities.models import ask_here
from omniloom.modalities.models.estimate import Estimate

SHARED = Path(__file__).parents[2] / "shared/data"
ONNX = SHARED / "tcmonodepth_tcsmallnet_192x320.onnx"
REDWOOD_K = geometry.intrinsics(525.0, 525.0, 319.5, 239.5)
STEP_NS = 40_000_000
START_NS = 1_000_000_000


def footage_of(path: Path, rgb: np.ndarray, made: dict[str, Any] | None = None) -> Footage:
    clip = Clip("0" * 64, START_NS, START_NS + 10**9)
    frames = Frames(rgb, np.arange(len(rgb)) * STEP_NS)
    return Footage(clip, str(path), frames, None, made={"frames": frames, **(made or {})})


def ask_nobody(*_: object) -> None:
    raise AssertionError("given depth asks no network")


def given(path: Path, rgb: np.ndarray, **config: Any) -> depth.Depth | None:
    made = depth.extract(footage_of(path, rgb), depth.Config(**config), ask_nobody)
    return made.value if made else None


@pytest.fixture
def slope_mm() -> np.ndarray:
    """Three frames of a slope, 96 x 128, with a hole."""
    z = np.stack([2000 + 300 * t + np.mgrid[0:96, 0:128].sum(axis=0) * 3 for t in range(3)]).astype(np.uint16)
    z[:, 10:20, 30:40] = 0
    return z


RGB = np.zeros((3, 96, 128, 3), np.uint8)
K = geometry.intrinsics(110.0, 110.0, 63.5, 47.5)
PTS = START_NS + np.arange(3) * STEP_NS


@pytest.fixture(scope="module")
def redwood() -> tuple[np.ndarray, np.ndarray]:
    files = sorted((SHARED / "redwood").glob("*.color.jpg"))
    if not files:
        pytest.skip("no redwood frames beside the checkout")
    colour = np.stack([np.asarray(Image.open(file)) for file in files])
    depths = [np.asarray(Image.open(str(file).replace("color.jpg", "depth.png"))) for file in files]
    return colour, np.stack(depths).astype(np.uint16)


# --- given depth ----------------------------------------------------------------------------------------------


def test_whole_millimetres_are_kept_exactly_and_unknown_stays_unknown(tmp_path: Path, slope_mm: np.ndarray) -> None:
    np.savez(tmp_path / "x.depth.npz", depth_mm=slope_mm, pts_ns=PTS, K=K, kind="z")
    value = given(tmp_path / "x.mp4", RGB)
    assert value is not None
    assert (value.kind, value.k_source) == ("metric-z", "given")
    assert np.array_equal(value.k, K)
    part = depth.encode(value)
    back = read(depth, part)
    assert np.array_equal(np.nan_to_num(back.z * 1000).round().astype(np.uint16), slope_mm)
    assert np.array_equal(codecs.decode("png", part.data).reshape(slope_mm.shape), slope_mm)
    assert (part.facts["scale_m"], part.facts["shift"], part.facts["max_error"]) == (0.001, 0.0, 0.0)


def test_a_folder_of_pngs_gives_the_same_depth_as_an_archive(tmp_path: Path, slope_mm: np.ndarray) -> None:
    np.savez(tmp_path / "a.depth.npz", depth_mm=slope_mm, pts_ns=PTS, K=K, kind="z")
    (tmp_path / "b.depth").mkdir()
    for index, frame in enumerate(slope_mm):
        (tmp_path / f"b.depth/{index:05}.png").write_bytes(codecs.encode_png(frame))
    camera = {"K": K.tolist(), "width": 128, "height": 96, "pts_ns": PTS.tolist(), "depth_scale_m": 0.001, "kind": "z"}
    (tmp_path / "b.camera.json").write_text(json.dumps(camera))
    first, second = given(tmp_path / "a.mp4", RGB), given(tmp_path / "b.mp4", RGB)
    assert first is not None
    assert second is not None
    assert depth.encode(first) == depth.encode(second)


def test_depth_is_matched_by_time_and_missing_frames_are_unknown(tmp_path: Path, slope_mm: np.ndarray) -> None:
    shuffled = [2, 0]
    pts_ns = PTS[shuffled] + [19_000_000, -19_000_000]
    np.savez(tmp_path / "x.depth.npz", depth_mm=slope_mm[shuffled], pts_ns=pts_ns, K=K, kind="z")
    value = given(tmp_path / "x.mp4", RGB)
    assert value is not None
    assert np.nanmax(np.abs(value.z[0] - slope_mm[0] / 1000)[slope_mm[0] > 0]) < 1e-6
    assert np.nanmax(np.abs(value.z[2] - slope_mm[2] / 1000)[slope_mm[2] > 0]) < 1e-6
    assert np.isnan(value.z[1]).all()
    np.savez(tmp_path / "x.depth.npz", depth_mm=slope_mm, pts_ns=PTS + 10**9, K=K, kind="z")
    assert given(tmp_path / "x.mp4", RGB) is None


def test_distances_along_rays_become_z(tmp_path: Path) -> None:
    z = np.full((3, 96, 128), 2.5)
    along = z * np.linalg.norm(geometry.rays(K, 128, 96), axis=-1)
    np.savez(tmp_path / "x.depth.npz", depth_m=along, pts_ns=PTS, K=K, kind="ray")
    value = given(tmp_path / "x.mp4", RGB)
    assert value is not None
    assert np.abs(value.z - 2.5).max() < 1e-6
    assert value.converted == "ray distance to z"


def test_a_smaller_copy_has_the_intrinsics_of_its_own_pixels(tmp_path: Path, slope_mm: np.ndarray) -> None:
    np.savez(tmp_path / "x.depth.npz", depth_mm=slope_mm, pts_ns=PTS, K=K, kind="z")
    value = given(tmp_path / "x.mp4", RGB, short_side=48)
    assert value is not None
    assert value.z.shape == (3, 48, 64)
    large = geometry.unproject(slope_mm[0] / 1000, K)[1::2, 1::2]
    small = geometry.unproject(value.z[0].astype(np.float64), value.k)
    known = np.isfinite(value.z[0])
    assert np.abs(small - large)[known].max() < 1e-6


@pytest.mark.parametrize("broken", ["cut", "pickle", "shape", "size", "kind", "times"])
def test_broken_depth_is_rejected_and_says_why(tmp_path: Path, slope_mm: np.ndarray, broken: str) -> None:
    path = tmp_path / "x.depth.npz"
    stored: dict[str, Any] = {"depth_mm": slope_mm, "pts_ns": PTS, "K": K, "kind": "z"}
    changes: dict[str, dict[str, Any]] = {
        "pickle": {"K": np.array([{}], object)},
        "shape": {"depth_mm": slope_mm[0]},
        "size": {"depth_mm": slope_mm[:, :40]},
        "kind": {"kind": "disparity"},
        "times": {"pts_ns": PTS[:2]},
    }
    np.savez(path, **{**stored, **changes.get(broken, {})})
    if broken == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Rejected) as caught:
        given(tmp_path / "x.mp4", RGB)
    assert caught.value.reason == "bad-depth-file"
    assert caught.value.detail


def test_no_depth_beside_the_video_is_none(tmp_path: Path) -> None:
    assert given(tmp_path / "x.mp4", RGB) is None


# --- codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [(0.3, 0.31), (0.5, 80.0), (900.0, 901.0), (2.0, 2.0)])
def test_continuous_depth_is_off_by_no_more_than_the_facts_state(span: tuple[float, float]) -> None:
    z = np.random.default_rng(0).uniform(*span, (2, 30, 40)).astype(np.float32)
    z[0, :3] = np.nan
    value = depth.Depth(z, np.arange(2), "metric-z", K, "assumed")
    part = depth.encode(value)
    back = read(depth, part)
    assert np.array_equal(np.isnan(back.z), np.isnan(z))
    assert np.nanmax(np.abs(back.z.astype(np.float64) - z)) <= part.facts["max_error"] + span[1] * 6e-8


def test_inverse_depth_may_be_zero_or_negative() -> None:
    z = np.linspace(-3, 5, 600, dtype=np.float32).reshape(1, 20, 30)
    back = read(depth, depth.encode(depth.Depth(z, np.arange(1), "relative-inverse", K, "assumed")))
    assert np.abs(back.z - z).max() < 1e-4
    assert np.isfinite(back.z).all()


def test_a_clip_without_any_known_depth_survives() -> None:
    value = depth.Depth(np.full((2, 8, 8), np.nan, np.float32), np.arange(2), "metric-z", K, "assumed")
    assert np.isnan(read(depth, depth.encode(value)).z).all()
    assert not depth.tensor(value, Window()).any()


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_tensor_does_not_depend_on_the_unit_and_grows_towards_the_camera(factor: float) -> None:
    value = depth.example(np.random.default_rng(0))
    scaled = depth.Depth(value.z * np.float32(factor), value.pts_ns, "relative", value.k, "assumed")
    window = Window()
    shown = depth.tensor(value, window)
    assert np.abs(depth.tensor(scaled, window) - shown).max() < 1e-3
    known = shown[0, 1] > 0
    assert shown[0, 0][known][0] > shown[0, 0][known][-1], "the near corner should be larger"
    assert (shown[:, 0][shown[:, 1] == 0] == 0).all()


# --- networks -------------------------------------------------------------------------------------------------


def test_an_onnx_network_estimates_depth_that_agrees_with_measured_depth(tmp_path: Path, redwood: Any) -> None:
    if not ONNX.is_file():
        pytest.skip(f"no {ONNX.name} beside the checkout")
    rgb, mm = redwood[0][:2], redwood[1][:2]
    made = depth.extract(footage_of(tmp_path / "x.mp4", rgb), depth.Config(model=str(ONNX)), ask_here())
    assert made is not None
    assert (made.model, made.value.kind, made.value.k_source) == (ONNX.name, "relative-inverse", "assumed")
    assert made.revision.startswith("xxh3:")
    assert made.value.z.shape == (2, 256, 341)
    rows, columns = geometry.nearest_grid(480, 256), geometry.nearest_grid(640, 341)
    for measured, estimated in zip(mm[:, rows[:, None], columns], made.value.z, strict=True):
        known = measured > 0
        ranks = [np.argsort(np.argsort(values)) for values in (-measured[known].astype(int), estimated[known])]
        assert np.corrcoef(*ranks)[0, 1] > 0.6


def test_intrinsics_beside_the_video_serve_estimated_depth_too(tmp_path: Path) -> None:
    camera = {"K": K.tolist(), "width": 256, "height": 192}
    (tmp_path / "x.camera.json").write_text(json.dumps(camera))
    estimate = Estimate(np.ones(RGB.shape[:3], np.float32), "metric-z")
    asked: list[np.ndarray] = []

    def ask(ref: Any, rgb: np.ndarray, k: np.ndarray) -> Estimate:
        asked.append(k)
        return estimate

    (tmp_path / "net.onnx").write_bytes(b"")
    config = depth.Config(model=str(tmp_path / "net.onnx"))
    footage = footage_of(tmp_path / "x.mp4", RGB)
    assert footage.frames is not None
    seen = with_camera(footage.frames, footage.path, {}, START_NS)
    made = depth.extract(replace(footage, frames=seen), config, ask)
    assert made is not None
    value = made.value
    assert value.k_source == "given"
    assert value.k[0, 0] == pytest.approx(55)
    assert value.k[0, 2] == pytest.approx((63.5 + 0.5) / 2 - 0.5)
    assert np.array_equal(asked[0], value.k), "a network that wants a camera is told"


# --- normals and points ---------------------------------------------------------------------------------------


def test_normals_of_given_depth_face_the_camera_and_are_right(tmp_path: Path) -> None:
    n = np.array([0.3, -0.4, -0.86]) / np.linalg.norm([0.3, -0.4, -0.86])
    z = -3 / (geometry.rays(K, 128, 96) @ n)
    np.savez(tmp_path / "x.depth.npz", depth_mm=np.stack([z * 1000] * 3).round().astype(np.uint16), pts_ns=PTS, K=K)
    value = given(tmp_path / "x.mp4", RGB)
    made = normal.extract(footage_of(tmp_path / "x.mp4", RGB, {"depth": value}), normal.Config(), ask_nobody)
    assert made is not None
    back = read(normal, normal.encode(made.value))
    apart = np.degrees(np.arccos(np.clip((back.n * n).sum(-1), -1, 1)))
    assert np.median(apart) < 0.35, "8-bit codes are good for 0.2 degrees, millimetres for the rest"
    assert back.converted == ""


def test_fewer_normals_are_a_selection_of_all(tmp_path: Path) -> None:
    z = 3 + np.random.default_rng(0).random((2, 96, 128)).astype(np.float32)
    footage = footage_of(tmp_path / "x.mp4", RGB[:2], {"depth": depth.Depth(z, np.arange(2), "metric-z", K, "given")})
    every, some = (normal.extract(footage, normal.Config(short_side=side), ask_nobody) for side in (256, 48))
    assert every is not None
    assert some is not None
    assert np.array_equal(some.value.n, every.value.n[:, 1::2, 1::2])


def test_normals_from_relative_depth_say_what_was_assumed(tmp_path: Path) -> None:
    inverse = np.linspace(-3, 5, 3 * 96 * 128, dtype=np.float32).reshape(3, 96, 128)
    value = depth.Depth(inverse, np.arange(3), "relative-inverse", K, "assumed")
    made = normal.extract(footage_of(tmp_path / "x.mp4", RGB, {"depth": value}), normal.Config(), ask_nobody)
    assert made is not None
    assert "assumed" in made.value.converted


def test_points_of_real_frames_lie_on_the_measured_surface_with_its_colours(tmp_path: Path, redwood: Any) -> None:
    if find_spec("open3d") is None:
        pytest.skip("Open3D is not installed")
    rgb, mm = redwood
    np.savez(tmp_path / "x.depth.npz", depth_mm=mm, pts_ns=START_NS + np.arange(5) * STEP_NS, K=REDWOOD_K, kind="z")
    value = given(tmp_path / "x.mp4", rgb)
    assert value is not None
    footage = footage_of(tmp_path / "x.mp4", rgb, {"depth": value})
    made, again = (points.extract(footage, points.Config(count=1000), ask_nobody) for _ in range(2))
    assert made is not None
    assert again is not None
    assert points.encode(made.value) == points.encode(again.value)
    cloud = made.value.xyzrgb
    assert cloud.shape == (1000, 6)
    assert (made.value.unit, made.value.intrinsics, made.value.pts_ns) == ("m", "given", 2 * STEP_NS)
    u = cloud[:, 0] / cloud[:, 2] * value.k[0, 0] + value.k[0, 2]
    v = cloud[:, 1] / cloud[:, 2] * value.k[1, 1] + value.k[1, 2]
    at = v.round().astype(int), u.round().astype(int)
    assert max(np.abs(u - u.round()).max(), np.abs(v - v.round()).max()) < 1e-3
    assert np.abs(value.z[2][at] - cloud[:, 2]).max() < 1e-5 * cloud[:, 2].max()
    seen = np.asarray(Image.fromarray(rgb[2]).resize((341, 256), Image.Resampling.BILINEAR))[at] / 255
    assert np.abs(seen - cloud[:, 3:]).max() < 1e-6
    back = read(points, points.encode(made.value)).xyzrgb
    assert np.abs(back - cloud)[:, :3].max() < 1e-3


def test_points_need_depth_that_is_known_somewhere(tmp_path: Path) -> None:
    unknown = depth.Depth(np.full((3, 96, 128), np.nan, np.float32), np.arange(3), "metric-z", K, "given")
    footage = footage_of(tmp_path / "x.mp4", RGB, {"depth": unknown})
    assert points.extract(footage, points.Config(), ask_nobody) is None
    assert normal.extract(footage, normal.Config(), ask_nobody) is None
