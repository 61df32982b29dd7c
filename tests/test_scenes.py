"""The rendered scenes tell the truth about themselves, and the measures taken on them are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omniloom.modalities.geometry import normals_from_depth, unproject
from omniloom.recipes.geometry import measure, shapes
from omniloom.recipes.geometry.files import PER_SHARD, put
from omniloom.recipes.geometry.kinds import HELD_OUT, KINDS, TRAIN, a_camera, views
from omniloom.recipes.geometry.render import Renderer
from omniloom.recipes.geometry.scene import Camera, Light, Material, Scene, look
from omniloom.recipes.geometry.sequences import glide, still

GREY = Material(np.full(3, 0.5), np.zeros((3, 3)))
DARK = np.zeros(3)


def _lit(*, sun: float = 1.0) -> Light:
    return Light(np.full(3, sun), np.array([0.0, 0.0, 1.0]), np.full(3, 0.1), np.full(3, 0.1), DARK)


def _world(z: np.ndarray, camera: Camera) -> np.ndarray:
    known = np.where(np.isfinite(z), z, 1e3)
    return unproject(known, camera.k) @ camera.turn.T + camera.at


def _off_triangles(points: np.ndarray, scene: Scene) -> np.ndarray:
    """Distance of each point (N, 3) from the nearest triangle, by brute force in double precision."""
    a, b, c = (np.concatenate([v[f[:, i]] for v, f in scene.meshes]) for i in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    nearest = np.full(len(points), np.inf)
    for corner, second, third, n in zip(a, b, c, normal, strict=True):
        height = (points - corner) @ n
        foot = points - height[:, None] * n
        sides = [np.cross(q - p, foot - p) @ n for p, q in ((corner, second), (second, third), (third, corner))]
        inside = np.min(sides, axis=0) >= -1e-6 * np.linalg.norm(second - corner) * np.linalg.norm(third - corner)
        nearest = np.minimum(nearest, np.where(inside, np.abs(height), np.inf))
    return nearest


def test_unprojected_depth_lies_on_the_surfaces_to_a_hundred_thousandth() -> None:
    scene = Scene(_lit())
    rng = np.random.default_rng(5)
    scene.add(shapes.floor(30, 30), GREY)
    for _ in range(12):
        scene.add(shapes.box(*rng.uniform(0.2, 2, 3)), GREY, [*rng.normal(size=2) * 2, 0], shapes.any_turn(rng))
    scene.add(shapes.cylinder(0.4, 1.0, 12, top=0.1), GREY, (0.5, -1, 0))
    camera = look((6, -5, 3.2), (0, 0, 0.3), 64, roll=0.4)
    z, _ = Renderer(scene).truth(camera)
    rows, columns = rng.integers(0, 192, 400), rng.integers(0, 256, 400)
    chosen = np.isfinite(z[rows, columns])
    points = _world(z, camera)[rows, columns][chosen]
    away = np.linalg.norm(points - camera.at, axis=1)
    assert chosen.sum() > 200
    # The corners are single precision; the rest of the budget is for the caster.
    assert (_off_triangles(points, scene) / away).max() < 1e-5


def test_depth_is_along_the_optical_axis_and_not_along_the_ray() -> None:
    scene = Scene(_lit())
    scene.add(shapes.panel(100, 100), GREY, (0, 7.0, -50))
    z, normal = Renderer(scene).truth(look((0, 0, 0), (0, 1, 0), 80))
    np.testing.assert_allclose(z, 7.0, rtol=1e-7)
    np.testing.assert_allclose(normal, np.broadcast_to([0.0, 0, -1], normal.shape), atol=1e-6)


def test_normals_are_those_of_the_sphere_in_camera_axes_and_face_the_camera() -> None:
    scene = Scene(_lit())
    scene.add(shapes.sphere(1.0, 200), GREY, (0, 4, -1))
    camera = look((0.3, 0, 0.2), (0, 4, 0), 40, roll=0.7)
    z, normal = Renderer(scene).truth(camera)
    hit = np.isfinite(z)
    points = unproject(z, camera.k)[hit]
    centre = camera.turn.T @ (np.array([0, 4.0, 0]) - camera.at)
    true = points - centre
    assert 0.05 < hit.mean() < 0.9
    assert np.median(measure.normal_angles(normal[hit], true)) < 1.0
    assert ((normal[hit] * points).sum(axis=1) < 1e-6).all()
    assert (normal[~hit] == 0).all()


def test_normals_from_the_exact_depth_of_a_held_out_scene_are_right_away_from_edges() -> None:
    errors = []
    for kind in ("rooms", "corridors"):
        rng = np.random.default_rng(0)
        stage = KINDS[kind](rng)
        renderer = Renderer(stage.scene)
        camera = a_camera(stage, renderer, rng)
        z, normal = renderer.truth(camera)
        errors.append(measure.normal_error(normals_from_depth(z, camera.k), normal))
    assert max(errors) < 0.2


def test_what_stands_in_the_shadow_is_darker_than_what_the_sun_reaches() -> None:
    scene = Scene(_lit(sun=2.0))
    scene.add(shapes.floor(20, 20), GREY)
    scene.add(shapes.floor(4, 20), GREY, (-6, 0, 3))
    camera = look((0, 0, 9), (0, 0.01, 0), 90)
    picture = Renderer(scene).picture(camera, np.random.default_rng(0))
    places = _world(picture.z, camera)
    ground = np.abs(places[..., 2]) < 0.01
    light = picture.linear.mean(axis=2)
    shaded = ground & (np.abs(places[..., 0] + 5) < 0.9) & (np.abs(places[..., 1]) < 5)
    bright = ground & (places[..., 0] > 0)
    assert shaded.sum() > 50
    assert light[shaded].mean() < 0.3 * light[bright].mean()


@pytest.mark.parametrize("kind", ["table_top", "oblique", "thin", "caves"])
def test_the_same_seed_makes_the_same_picture_and_another_seed_another(kind: str) -> None:
    (first,), (again,), (other,) = (list(views(kind, seed)) for seed in (3, 3, 4))
    assert np.array_equal(first.rgb, again.rgb)
    assert np.array_equal(first.z, again.z)
    assert np.array_equal(first.normal, again.normal)
    assert not np.array_equal(first.z, other.z)
    assert first.rgb.std() > 5


def test_no_kind_is_both_trained_on_and_held_out_nor_made_by_a_module_of_the_other_side() -> None:
    assert not set(TRAIN) & set(HELD_OUT)
    modules = [{make.__module__ for make in side.values()} for side in (TRAIN, HELD_OUT)]
    assert not modules[0] & modules[1]
    for module in modules[1]:
        text = (Path(__file__).parents[1] / "src" / f"{module.replace('.', '/')}.py").read_text()
        for theirs in ("scenes_train", "things", "paint", "textures"):
            assert f"geometry.{theirs}" not in text
            assert f"import {theirs}" not in text


def test_a_shard_is_read_without_pickle_and_keeps_sky_apart(tmp_path: Path) -> None:
    (view,) = views("yard", 0)
    path = put(tmp_path / "yard-00000.npz", "yard", [view, view])
    with np.load(path, allow_pickle=False) as shard:
        assert shard["rgb"].shape == (2, 192, 256, 3)
        assert shard["rgb"].dtype == np.uint8
        assert shard["normal"].dtype == np.int8
        assert shard["k"].shape == (2, 3, 3)
        assert str(shard["kind"]) == "yard"
        sky = ~np.isfinite(shard["z"][0])
        assert np.array_equal(sky, ~np.isfinite(view.z))
        assert (shard["normal"][0][sky] == 0).all()
        seen = shard["normal"][0][~sky].astype(float) / 127
    np.testing.assert_allclose(np.linalg.norm(seen, axis=-1), 1, atol=0.01)
    assert PER_SHARD == 64
    assert not list(tmp_path.glob("*.part"))


def test_frames_of_a_still_scene_differ_in_noise_and_not_in_truth() -> None:
    frames = still("oblique", 1, 3)
    assert np.array_equal(frames[0].z, frames[2].z)
    difference = np.abs(frames[0].rgb.astype(int) - frames[1].rgb)
    assert 0 < difference.mean() < 12


def test_a_point_seen_by_two_frames_of_a_gliding_camera_is_at_one_place() -> None:
    (first, pose_a), (second, pose_b) = list(glide("oblique", 2, 2))
    seen_first = np.isfinite(first.z)
    z = np.where(seen_first, first.z, 1).astype(np.float64)
    points = unproject(z, first.k) @ pose_a[:3, :3].T + pose_a[:3, 3]
    ahead = (points - pose_b[:3, 3]) @ pose_b[:3, :3]
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = (ahead[..., i] / ahead[..., 2] * second.k[i, i] + second.k[i, 2] for i in (0, 1))
    inside = seen_first & (u >= 0) & (v >= 0) & (u <= 255) & (v <= 191) & (ahead[..., 2] > 0)
    seen = second.z[np.rint(v[inside]).astype(int), np.rint(u[inside]).astype(int)]
    error = np.abs(seen - ahead[..., 2][inside]) / ahead[..., 2][inside]
    assert inside.mean() > 0.2
    assert np.median(error) < 0.01
    both = inside & np.isfinite(second.z)
    assert np.median(np.abs(second.z[both] - first.z[both])) > 0


def test_measures_are_those_worked_out_by_hand() -> None:
    truth = np.array([[1.0, 2, 4, 8]]).repeat(8, axis=0)
    assert measure.spearman(truth, truth**3) == pytest.approx(1)
    assert measure.spearman(truth, -truth) == pytest.approx(-1)
    assert measure.spearman(truth, np.ones_like(truth)) == 0
    # Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 (1 + 1 + 1 + 1) / (4 15) = 0.6.
    assert measure.spearman(truth, np.array([[2.0, 1, 4, 3]]).repeat(8, axis=0)) == pytest.approx(0.6)
    assert measure.abs_rel(truth * [1.1, 1, 0.8, 1], truth) == pytest.approx(0.075)
    assert measure.delta(truth * [1.2, 1.3, 0.79, 1], truth) == pytest.approx(0.5)
    assert measure.point_error(truth * 1.1, truth, np.eye(3)) == pytest.approx(0.1)
    assert measure.aligned(truth * 3, truth) == pytest.approx(truth)
    assert measure.aligned(5 / truth - 0.3, truth, "relative-inverse") == pytest.approx(truth)
    assert measure.depth_spearman(1 / truth, truth, "relative-inverse") == pytest.approx(1)
    assert measure.flicker(np.stack([truth, truth * np.e**0.1, truth])) == pytest.approx(0.1)
    level, tilted = np.array([0.0, 0, -1]), np.array([0.0, np.sin(0.5), -np.cos(0.5)])
    assert measure.normal_angles(level[None], tilted[None]) == pytest.approx(np.degrees([0.5]))
    normals = np.stack([np.broadcast_to(n, (4, 4, 3)) for n in (level, tilted, level)])
    assert measure.normal_flicker(normals) == pytest.approx(np.degrees(0.5))


def test_what_is_unknown_on_either_side_is_left_out_of_the_measures() -> None:
    truth, ours = np.full((8, 8), 2.0), np.full((8, 8), 2.0)
    truth[0], ours[1] = np.inf, np.nan
    ours[0] = 99
    assert measure.abs_rel(ours, truth) == 0
    assert np.isnan(measure.abs_rel(np.full((8, 8), np.nan), truth))


def test_position_only_learns_where_things_are_and_nothing_of_the_picture() -> None:
    rows = np.linspace(5, 1, 24)[:, None].repeat(32, axis=1)
    down = np.broadcast_to([0.0, -1.0, 0.0], (24, 32, 3))
    sky = rows.copy()
    sky[0] = np.inf
    fitted = measure.PositionOnly.fitted([(rows, down), (7 * rows, down), (sky, down)])
    assert measure.spearman(fitted.depth, rows) > 0.99
    assert measure.normal_error(fitted.normal, down) < 1e-6
    assert fitted.depth[0, 0] > fitted.depth[1, 0]
    with pytest.raises(ValueError, match="at least one picture"):
        measure.PositionOnly.fitted([])
