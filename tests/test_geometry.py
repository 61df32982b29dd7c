"""Where a pixel is: intrinsics through resizes, crops and flips, points and normals of exact surfaces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_cropping_and_flipping_keep_points_where_they_are() -> None:
    z, _ = plane((0.3, -0.4, -0.86), 3)
    points = geometry.unproject(z, K)
    cropped = geometry.unproject(z[7:, 11:], geometry.cropped_intrinsics(K, 11, 7))
    assert np.allclose(cropped, points[7:, 11:])
    flipped = geometry.unproject(z[:, ::-1], geometry.flipped_intrinsics(K, WIDTH))
    assert np.allclose(flipped, points[:, ::-1] * [-1, 1, 1])


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
