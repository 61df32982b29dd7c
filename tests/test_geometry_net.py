"""The embedded depth and normal network: its file, what it answers, and that its training teaches the right thing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

from omniloom.modalities.models.depth_onnx import EMBEDDED  # noqa: E402
from omniloom.recipes.geometry import batches, kinds, measure  # noqa: E402
from omniloom.recipes.geometry.export import Exported  # noqa: E402
from omniloom.recipes.geometry.hollow import surface  # noqa: E402
from omniloom.recipes.geometry.learn import Plan, learn_step, train  # noqa: E402
from omniloom.recipes.geometry.losses import geometry_loss  # noqa: E402
from omniloom.recipes.geometry.net import GeometryNet  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """More of them wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(EMBEDDED), options, providers=["CPUExecutionProvider"])

    def ask(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        depth, normal = session.run(["depth", "normal"], {"image": rgb.transpose(0, 3, 1, 2).astype(np.float32)})
        return depth, np.moveaxis(normal, 1, -1)

    return ask


@pytest.fixture(scope="module")
def views() -> list[kinds.View]:
    """A picture of each held-out kind, by other seeds than those that the card's figures are from."""
    return [view for kind in kinds.HELD_OUT for view in kinds.views(kind, 900_001)]


def test_the_file_takes_at_most_four_megabytes() -> None:
    assert EMBEDDED.stat().st_size <= 4_000_000


@pytest.mark.parametrize("shape", [(1, 256, 256), (3, 192, 256), (2, 100, 77), (1, 17, 20), (1, 480, 272)])
def test_depth_is_positive_and_normals_are_unit_at_any_size(network: Any, shape: tuple[int, int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    depth, normal = network(rgb)
    assert depth.shape == shape
    assert normal.shape == (*shape, 3)
    assert np.isfinite(depth).all()
    assert depth.min() > 0
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-3)


def test_an_answer_does_not_depend_on_the_other_frames_of_the_batch(network: Any, views: list[kinds.View]) -> None:
    rgb = np.stack([view.rgb for view in views[:4]])
    together, normals = network(rgb)
    for index in range(4):
        depth, normal = network(rgb[index : index + 1])
        np.testing.assert_allclose(together[index], depth[0], rtol=1e-3)
        np.testing.assert_allclose(normals[index], normal[0], atol=2e-3)


def test_a_mirrored_picture_has_mirrored_depth_and_normals(network: Any, views: list[kinds.View]) -> None:
    rgb = np.stack([view.rgb for view in views])
    depth, normal = network(rgb)
    mirrored, turned = network(rgb[:, :, ::-1])
    scores = [measure.spearman(a, b[:, ::-1]) for a, b in zip(depth, mirrored, strict=True)]
    assert np.median(scores) > 0.95
    assert measure.normal_error(turned[:, :, ::-1] * [-1, 1, 1], normal) < 12


def test_it_sees_more_than_the_position_in_kinds_of_scenes_it_never_saw(network: Any, views: list[kinds.View]) -> None:
    seen = (view for kind in kinds.TRAIN for view in islice(kinds.views(kind, 0), 1))
    blind = measure.PositionOnly.fitted((view.z, view.normal) for view in seen)
    depth, normal = network(np.stack([view.rgb for view in views]))
    ours = [measure.depth_spearman(d, view.z) for d, view in zip(depth, views, strict=True)]
    theirs = [measure.depth_spearman(blind.depth, view.z) for view in views]
    assert np.nanmean(ours) > np.nanmean(theirs) + 0.1
    angle = np.nanmedian([measure.normal_error(n, view.normal) for n, view in zip(normal, views, strict=True)])
    assert angle < 0.8 * np.nanmedian([measure.normal_error(blind.normal, view.normal) for view in views])


def test_sensor_noise_on_a_scene_that_stands_still_hardly_moves_the_depth(
    network: Any, views: list[kinds.View]
) -> None:
    noise = np.random.default_rng(0).normal(0, 2.5, (6, *views[0].rgb.shape))  # 1 % of white
    jumps = [measure.flicker(network((view.rgb + noise).round().clip(0, 255))[0]) for view in views[::2]]
    assert np.mean(jumps) < 0.05


def test_a_frame_of_256_by_256_takes_little_time_on_one_core(network: Any) -> None:
    rgb = np.full((1, 256, 256, 3), 90, np.uint8)
    took = []
    for _ in range(6):
        start = time.process_time()
        network(rgb)
        took.append(time.process_time() - start)
    assert min(took) < 0.15


def test_eight_bit_weights_and_folded_norms_give_almost_the_same_answer() -> None:
    torch.manual_seed(0)
    net = GeometryNet().eval()
    image = torch.rand(1, 3, 64, 96) * 255
    with torch.no_grad():
        exact, packed = (Exported(net, eight_bits=bits)(image) for bits in (False, True))
        log_depth, _ = net(image)
    assert (exact[0].log()[:, 1::2, 1::2] - log_depth).abs().max() < 0.1
    assert (exact[0].log() - packed[0].log()).abs().max() < 0.05


def test_the_same_plane_is_still_a_plane_with_its_normal_after_every_crop_roll_and_mirror() -> None:
    """Inverse depth of a plane grows against the tilt of the normal that faces the camera, in any view of it."""
    y, x = np.mgrid[:96, :128].astype(np.float64)
    normal = np.array([0.5, -0.6, -0.6245])
    inverse = -(normal[0] * (x - 63.5) / 110 + normal[1] * (y - 47.5) / 110 + normal[2])
    frames = batches.Frames(
        np.zeros((1, 96, 128, 3), np.uint8),
        -np.log(inverse)[None].astype(np.float32),
        np.tile(np.rint(normal * 127).astype(np.int8), (1, 96, 128, 1)),
        None,
    )
    rng = np.random.default_rng(0)
    mirrored = 0
    for _ in range(12):
        _, log_z, found, _ = batches.view(frames, 0, (64, 96), rng)
        known = torch.isfinite(log_z[0]) & (found[0].square().sum(0) > 0.5)
        rows, columns = torch.nonzero(known, as_tuple=True)
        terms = torch.stack((columns.double(), rows.double(), torch.ones(len(rows)).double()), 1)
        slope = torch.linalg.lstsq(terms, torch.exp(-log_z[0][known]).double()[:, None]).solution[:2, 0]
        tilt = found[0][:2][:, known].mean(1).double()
        assert float(torch.nn.functional.cosine_similarity(slope, -tilt, dim=0)) > 0.999
        mirrored += int(tilt[0] < 0)
    assert 0 < mirrored < 12


def test_the_loss_does_not_see_the_unit_of_depth_and_forgives_nothing_else() -> None:
    torch.manual_seed(0)
    log_z = torch.randn(2, 32, 32)
    log_z[:, :4] = torch.inf
    normal = torch.nn.functional.normalize(torch.randn(2, 3, 32, 32), dim=1)
    nothing = torch.full((2, 32, 32), torch.nan)
    guess = torch.where(torch.isfinite(log_z), log_z, 9.0)
    _, right = geometry_loss(guess + 3, normal, log_z, normal, nothing)
    _, wrong = geometry_loss(-guess, -normal, log_z, normal, nothing)
    assert right["depth"] < 1e-5
    assert right["normal"] < 0.05
    assert wrong["depth"] > 1
    assert wrong["order"] > 10 * right["order"]
    assert wrong["normal"] > 1.9


def test_the_surface_of_a_field_lies_where_the_field_is_zero() -> None:
    """A ball of 1.3 m about (0.1, -0.2, 0): every corner on it, as large as it, and no hole in it."""
    axes = [np.arange(40) * 0.1 - 1.95 - middle for middle in (0.1, -0.2, 0.0)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    vertices, faces = surface((np.sqrt(x * x + y * y + z * z) - 1.3).astype(np.float32), np.full(3, -1.95), 0.1)
    away = np.linalg.norm(vertices - [0.1, -0.2, 0.0], axis=1)
    assert np.abs(away - 1.3).max() < 0.01
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(4 * np.pi * 1.3**2, rel=0.02)
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_training_lowers_the_loss_and_writes_weights_that_load(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(1, 4, 64)[None, :, None] * np.ones((4, 1, 96))
    rgb = np.repeat((ramp * 60).astype(np.uint8)[..., None], 3, axis=3)
    normal = np.tile(np.array([0, -90, -90], np.int8), (4, 64, 96, 1))
    np.savez(tmp_path / "ramp-0.npz", rgb=rgb, z=ramp[:, ::-1].astype(np.float32), normal=normal)
    pool = batches.Pool([tmp_path])
    assert pool.refresh() == 4
    torch.manual_seed(0)
    net = GeometryNet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = [sum(learn_step(net, optimiser, pool.draw(rng, 4, (32, 64), 0)).values()) for _ in range(20)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])
    torch.save(net.state_dict(), tmp_path / "start.pt")
    train([tmp_path], tmp_path / "end.pt", Plan(minutes=0.02, batch=2), start=tmp_path / "start.pt", log=lambda _: None)
    GeometryNet().load_state_dict(torch.load(tmp_path / "end.pt", weights_only=True))


def test_training_without_shards_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="render"):
        train([tmp_path], tmp_path / "end.pt", Plan())
