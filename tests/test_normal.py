"""Normals from depth: within a fifth of a degree where depth is exact, quiet where it is not; or as a network says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omniloom.modalities import Clip, depth, geometry, normal
from omniloom.modalities.base import Footage, Frames, Made, read
from omniloom.modalities.models.estimate import Estimate
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


# --- where normals are from -------------------------------------------------------------------------------------

SAID = np.broadcast_to(np.float32([0.6, 0, -0.8]), (2, 48, 64, 3))


def made_of(tmp_path: Path, model: str, also: dict[str, Any], answer: Estimate | None = None) -> Made:
    frames = Frames(np.zeros((2, 48, 64, 3), np.uint8), np.array([0, 500_000_000]))
    z = np.full((2, 48, 64), 3, np.float32)
    value = depth.Depth(z, frames.pts_ns, "relative", geometry.assumed_intrinsics(64, 48), "assumed")
    footage = Footage(Clip("0" * 64, 0, 10**9), str(tmp_path / "x.mp4"), frames, None, made={"depth": value}, also=also)

    def ask(ref: Any, rgb: np.ndarray, k: Any) -> Estimate:
        assert answer is not None, "nobody is to be asked"
        return answer

    made = normal.extract(footage, normal.Config(model=model), ask)
    assert made is not None
    return made


def test_the_depth_networks_own_normals_are_taken_if_it_gives_any(tmp_path: Path) -> None:
    by_network = made_of(tmp_path, "auto", {"normal": Made(SAID, "net", "r1")})
    assert (by_network.model, by_network.revision, by_network.value.depth_kind) == ("net", "r1", "")
    assert np.abs(read(normal, normal.encode(by_network.value)).n - SAID).max() < 0.01
    for from_depth in (
        made_of(tmp_path, "auto", {}),
        made_of(tmp_path, "from-depth", {"normal": Made(SAID, "net", "r1")}),
    ):
        assert from_depth.model == "from depth"
        assert from_depth.value.depth_kind == "relative"
        assert np.abs(from_depth.value.n - [0, 0, -1]).max() < 1e-3


def test_a_network_can_be_asked_for_normals_alone(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"net")
    path = str(tmp_path / "net.onnx")
    made = made_of(tmp_path, path, {}, Estimate(None, normals=np.ascontiguousarray(SAID)))
    assert made.model == "net.onnx"
    assert np.array_equal(made.value.n, SAID)
    with pytest.raises(ValueError, match="gives no normals"):
        made_of(tmp_path, path, {}, Estimate(np.ones((2, 48, 64), np.float32)))
