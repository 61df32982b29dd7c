"""Where a pixel is: intrinsics through resizes, crops and flips, points and normals of exact surfaces."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from omniloom.modalities import geometry
from omniloom.modalities.base import Window
from tests.surfaces import HEIGHT, WIDTH, K, degrees_apart, plane, sphere


def test_unprojected_points_project_back_to_their_pixels_and_depth() -> None:
    z, n = plane((0.3, -0.4, -0.86), 3)
    points = geometry.unproject(z, K)
    assert np.abs((points * n).sum(-1) + 3).max() < 1e-12 * z.max()
    u = points[..., 0] / points[..., 2] * K[0, 0] + K[0, 2]
    v = points[..., 1] / points[..., 2] * K[1, 1] + K[1, 2]
    assert np.abs(u - np.arange(WIDTH)).max() < 1e-9
    assert np.abs(v - np.arange(HEIGHT)[:, None]).max() < 1e-9


def test_x_points_right_y_down_and_z_forward() -> None:
    points = geometry.unproject(np.ones((HEIGHT, WIDTH)), K)
    assert points[0, -1, 0] > 0 > points[0, 0, 0]
    assert points[-1, 0, 1] > 0 > points[0, 0, 1]


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_normals_of_a_plane_are_exact_and_face_the_camera(radius: int) -> None:
    z, n = plane((0.3, -0.4, -0.86), 3)
    got = geometry.normals_from_depth(z, K, radius)
    assert np.isfinite(got).all()
    assert degrees_apart(got, n).max() < (0.001 if radius == 0 else 0.1)
    assert ((got * geometry.rays(K, WIDTH, HEIGHT)).sum(-1) < 0).all()


@given(
    st.integers(8, 400),
    st.integers(8, 400),
    st.integers(1, 64),
    st.floats(50, 500),
    st.floats(0, 300),
    st.floats(0, 300),
)
@settings(max_examples=60, deadline=None)
def test_resizing_pictures_keeps_the_rays_of_their_edges(
    w: int, h: int, short: int, f: float, cx: float, cy: float
) -> None:
    k = geometry.intrinsics(f, f * 1.1, cx, cy)
    new_w, new_h = geometry.fit_short_side(w, h, short)
    assert min(new_w, new_h) == min(short, w, h)
    small = geometry.resized_intrinsics(k, (w, h), (new_w, new_h))
    for edge, new_edge in ((-0.5, -0.5), (w - 0.5, new_w - 0.5)):
        assert (edge - k[0, 2]) / k[0, 0] == pytest.approx((new_edge - small[0, 2]) / small[0, 0], abs=1e-9)
    back = geometry.resized_intrinsics(small, (new_w, new_h), (w, h))
    assert np.allclose(back, k)


@pytest.mark.parametrize("divisor", [1, 2, 3, 4])
def test_depth_made_smaller_by_a_whole_number_still_lies_on_its_surface(divisor: int) -> None:
    k = geometry.intrinsics(310.0, 300.0, 120.3, 90.2)
    n = np.array([0.3, -0.4, -0.86]) / np.linalg.norm([0.3, -0.4, -0.86])
    z = -3 / (geometry.rays(k, 240, 180) @ n)
    small, small_k = geometry.resize_nearest(z[None], k, (240 // divisor, 180 // divisor))
    assert np.abs(geometry.unproject(small[0], small_k) @ n + 3).max() < 1e-9


cameras = st.builds(
    geometry.intrinsics,
    st.floats(40, 200),
    st.floats(40, 200),
    st.floats(5, 40),
    st.floats(5, 30),
)
planes = st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(-1, -0.5), st.floats(1, 30))


def seen(k: np.ndarray, plane: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
    """Exact depth of n.P = -d, NaN where the plane is behind the camera."""
    z = -plane[3] / (geometry.rays(k, width, height) @ np.array(plane[:3]))
    return np.where((z > 0) & (z < 1e3), z, np.nan)


def close(a: np.ndarray, b: np.ndarray, z: np.ndarray) -> bool:
    """Equal to 1e-5 of the depth, and unknown together."""
    known = np.isfinite(z)
    assert np.array_equal(np.isfinite(a[..., 2]), known)
    return bool((np.abs(a - b).max(axis=-1)[known] <= 1e-5 * z[known]).all())


@given(cameras, planes, st.integers(6, 48), st.integers(6, 36), st.data())
@settings(max_examples=25, deadline=None)
def test_unprojecting_what_was_cropped_flipped_turned_or_thinned_is_doing_so_to_the_points(
    k: np.ndarray, plane: tuple[float, float, float, float], width: int, height: int, data: st.DataObject
) -> None:
    z = seen(k, plane, width, height)
    points = geometry.unproject(z, k)
    left, top = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    part = geometry.unproject(z[top:, left:], geometry.cropped_intrinsics(k, left, top))
    assert close(part, points[top:, left:], z[top:, left:])
    mirrored = geometry.unproject(z[:, ::-1], geometry.flipped_intrinsics(k, width))
    assert close(mirrored, points[:, ::-1] * [-1, 1, 1], z[:, ::-1])
    turned = geometry.unproject(np.rot90(z), geometry.turned_intrinsics(k, width))
    assert close(turned, geometry.turned_vectors(np.rot90(points)), np.rot90(z))
    divisor = data.draw(st.sampled_from([2, 3]))
    whole = z[: height // divisor * divisor, : width // divisor * divisor]
    small, small_k = geometry.resize_nearest(whole[None], k, (whole.shape[1] // divisor, whole.shape[0] // divisor))
    rows, columns = (geometry.nearest_grid(old, old // divisor) for old in whole.shape)
    assert close(geometry.unproject(small[0], small_k), points[rows[:, None], columns], small[0])


@given(cameras, planes, st.data())
@settings(max_examples=12, deadline=None)
def test_normals_of_what_was_flipped_turned_or_cropped_are_the_normals_flipped_turned_or_cropped(
    k: np.ndarray, plane: tuple[float, float, float, float], data: st.DataObject
) -> None:
    z = seen(k, plane, 40, 30)
    n = geometry.normals_from_depth(z, k)
    of = np.isfinite(n[..., 0])

    def agree(got: np.ndarray, wanted: np.ndarray, where: np.ndarray) -> None:
        assert np.array_equal(np.isfinite(got[..., 0]), where)
        assert (degrees_apart(got, wanted)[where] < 0.05).all()

    agree(
        geometry.normals_from_depth(z[:, ::-1], geometry.flipped_intrinsics(k, 40)),
        geometry.mirror_normals(n),
        of[:, ::-1],
    )
    agree(
        geometry.normals_from_depth(np.rot90(z), geometry.turned_intrinsics(k, 40)),
        geometry.turned_vectors(np.rot90(n)),
        np.rot90(of),
    )


def test_mirroring_normals_negates_n_x() -> None:
    z, _ = sphere((0.2, 0.1, 4.0), 1.5)
    normals = geometry.normals_from_depth(z, K)
    of_mirrored = geometry.normals_from_depth(z[:, ::-1], geometry.flipped_intrinsics(K, WIDTH))
    apart = degrees_apart(geometry.mirror_normals(normals), of_mirrored)
    assert np.nanmax(apart) < 0.1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (40, 40)])
def test_pictures_and_depth_of_other_sizes_show_the_same_square(seed: int, size: tuple[int, int]) -> None:
    width, height = size
    ramp = np.add.outer(np.arange(height), 2 * np.arange(width)).astype(np.float64)
    large = np.kron(ramp, np.ones((3, 3)))
    window = Window(train=True, seed=seed)
    view = geometry.view_of(window)
    assert view == geometry.view_of(window)
    depth = geometry.show_nearest(large[None], view, 16)[0]
    rgb = geometry.show_rgb(np.repeat(ramp[None, :, :, None], 3, axis=3).astype(np.uint8), view, 16)[0, :, :, 0]
    assert np.abs(depth - rgb).max() <= 4, "more than a pixel apart"


@pytest.mark.parametrize("px", [16, 48, 60, 100])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_pictures_are_resized_as_pillow_does_to_two_levels_in_noise(px: int, seed: int | None) -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (3, 60, 90, 3), np.uint8)
    view = geometry.view_of(Window() if seed is None else Window(train=True, seed=seed))
    box = view.box(90, 60)
    shown = geometry.show_rgb(rgb, view, px)
    expected = [Image.fromarray(one).crop(box).resize((px, px), Image.Resampling.BILINEAR) for one in rgb]
    apart = np.abs(shown.astype(int) - np.stack([np.asarray(one) for one in expected]))
    assert shown.shape == (3, px, px, 3)
    assert apart.max() <= 2
    assert apart.mean() < 0.1


@pytest.mark.skipif(
    not Path("/proc/self/task").exists() or "AVX" not in torch.backends.cpu.get_cpu_capability(),
    reason="threads are counted as Linux lists them; other processors have another kernel",
)
@pytest.mark.parametrize(("count", "px"), [(8, 224), (1, 224), (8, 256)])
def test_pictures_are_shown_by_the_calling_thread_alone(count: int, px: int) -> None:
    rgb = np.zeros((count, 256, 456, 3), np.uint8)
    numbers: list[int] = []

    def show() -> None:  # in a new thread: torch starts helpers for each thread that needs some
        for _ in range(2):
            numbers.append(len(list(Path("/proc/self/task").iterdir())))
            geometry.show_rgb(rgb, geometry.View(), px)
        numbers.append(len(list(Path("/proc/self/task").iterdir())))

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    thread = threading.Thread(target=show)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert numbers == numbers[:1] * 3


def test_the_evaluation_view_is_the_centre_square_and_never_mirrored() -> None:
    assert geometry.view_of(Window()).box(100, 60) == (20, 0, 80, 60)
    for seed in range(20):
        view = geometry.view_of(Window(train=True, seed=seed))
        left, top, right, bottom = view.box(100, 60)
        assert not view.flip
        assert 0 <= left < right <= 100
        assert 0 <= top < bottom <= 60
        assert right - left == pytest.approx(bottom - top)
        assert right - left >= 48
