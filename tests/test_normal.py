"""Normals from depth: within a fifth of a degree where depth is exact, quiet where it is not; or as a network says."""

from __future__ import annotations

import numpy as np
import pytest

from omniloom.modalities import geometry
from tests import surfaces
from tests.surfaces import K, Seen, degrees_apart


def _waves(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height = 4 + 0.3 * np.sin(1.7 * x + 0.3) * np.cos(1.3 * y)
    along_x = 0.51 * np.cos(1.7 * x + 0.3) * np.cos(1.3 * y)
    return height, along_x, -0.39 * np.sin(1.7 * x + 0.3) * np.sin(1.3 * y)


SURFACES: dict[str, Seen] = {
    "a wall": surfaces.plane((0.3, -0.4, -0.86), 3),
    "a floor": surfaces.plane((0, -1, -0.05), 1.5),
    "a large ball": surfaces.sphere((0.2, 0.1, 4.0), 1.5),
    "a small ball": surfaces.sphere((0.2, 0.1, 4.0), 0.4),
    "a column": surfaces.cylinder((0.3, 0, 4), (0.2, 1, 0.1), 0.8),
    "a pole": surfaces.cylinder((0.3, 0, 4), (0.2, 1, 0.1), 0.15),
    "hills": surfaces.hills(_waves),
    "a ball before a wall": surfaces.front(
        surfaces.sphere((0.2, 0.1, 4.0), 1.5), surfaces.plane((0.3, -0.4, -0.86), 6)
    ),
}


@pytest.mark.parametrize("name", SURFACES)
def test_normals_of_exact_depth_are_within_a_fifth_of_a_degree(name: str) -> None:
    z, n = SURFACES[name]
    z = np.where((z > 0) & (z < 100), z, np.nan)
    got = geometry.normals_from_depth(z.astype(np.float32), K, radius=2)
    away = ~surfaces.edges(z, 3)
    assert away.sum() > 500
    apart = degrees_apart(got, n)[away]
    assert np.median(apart) < 0.1
    assert np.percentile(apart, 90) < 0.5
    facing = (got * geometry.rays(K, surfaces.WIDTH, surfaces.HEIGHT)).sum(-1)
    assert (facing[np.isfinite(got[..., 0])] < 0).all()


@pytest.mark.parametrize(("name", "bound"), [("a wall", 0.2), ("a large ball", 0.25), ("hills", 0.25), ("a pole", 0.5)])
def test_a_fit_over_neighbours_quiets_whole_millimetres(name: str, bound: float) -> None:
    z, n = SURFACES[name]
    away = ~surfaces.edges(z, 3)
    coarse = np.round(z, 3)
    rough, fitted = (degrees_apart(geometry.normals_from_depth(coarse, K, r, 0.001), n)[away] for r in (0, 2))
    assert np.median(fitted) < bound
    assert np.median(fitted) < np.median(rough) / 3


def test_noise_of_a_thousandth_costs_a_sixth_of_what_neighbours_alone_would_make_of_it() -> None:
    z, n = SURFACES["a large ball"]
    noisy = z * (1 + 0.001 * np.random.default_rng(0).normal(size=z.shape))
    away = ~surfaces.edges(z, 3)
    rough, fitted = (np.median(degrees_apart(geometry.normals_from_depth(noisy, K, r), n)[away]) for r in (0, 3))
    assert fitted < rough / 6


def test_normals_do_not_mix_across_an_edge() -> None:
    z, n = SURFACES["a ball before a wall"]
    near = surfaces.edges(z, 2) & ~surfaces.edges(z, 1)
    apart = degrees_apart(geometry.normals_from_depth(np.round(z, 3), K, 2, 0.001), n)
    assert np.median(apart[near]) < 1
