"""Thin things before far backgrounds that the embedded network is trained on: railings, poles, masts, twigs, ropes."""

# ruff: noqa: RUF005  (a vector plus a list adds up here)
from __future__ import annotations

from itertools import pairwise

import numpy as np

from omniloom.recipes.geometry import shapes
from omniloom.recipes.geometry.paint import Rng, daylight, lamplight, paint
from omniloom.recipes.geometry.scene import Camera, Material, Scene, Stage, look
from omniloom.recipes.geometry.scenes_train import field_of_view, tilt
from omniloom.recipes.geometry.scenes_train_outside import ground, on_ground, plant_trees
from omniloom.recipes.geometry.shapes import TAU
from omniloom.recipes.geometry.things import any_solid, figure

Mesh = shapes.Mesh


def _bar(start: np.ndarray, end: np.ndarray, radius: float, around: int = 7) -> Mesh:
    return shapes.tube(np.array([start, end]), radius, around)


def _railing(rng: Rng, length: float) -> Mesh:
    """Upright bars, slanted mesh or level wires between posts, along x."""
    tall, thick = rng.uniform(0.7, 2.4), np.exp(rng.uniform(np.log(0.006), np.log(0.04)))
    gap, x = rng.uniform(0.08, 0.5), 0.5 * length
    pieces = [_bar(np.array([-x, 0, h]), np.array([x, 0, h]), thick * 1.3) for h in (tall, tall * rng.uniform(0, 0.2))]
    pieces += [_bar(np.array([p, 0, 0]), np.array([p, 0, 1.05 * tall]), 2 * thick) for p in np.arange(-x, x + 0.1, 2.0)]
    match int(rng.integers(4)):
        case 0:  # bars
            slant = rng.choice([0.0, 0.0, 0.3])
            pieces += [
                _bar(np.array([p, 0, 0]), np.array([p + slant, 0, tall]), thick, 6) for p in np.arange(-x, x, gap)
            ]
        case 1:  # mesh
            for way in (-1, 1):
                starts = np.arange(-x, x, gap)
                pieces += [
                    _bar(np.array([p, 0, 0]), np.array([p + way * tall, 0, tall]), 0.6 * thick, 5) for p in starts
                ]
        case 2:  # wires
            heights = np.arange(0.1, tall, max(0.1, gap))
            pieces += [_bar(np.array([-x, 0, h]), np.array([x, 0, h]), 0.6 * thick, 5) for h in heights]
        case _:  # pales
            pale = shapes.box(gap * rng.uniform(0.3, 0.8), 0.02, tall)
            pieces += [shapes.moved(pale, (p, 0, 0)) for p in np.arange(-x, x, gap)]
    return shapes.joined(*pieces)


def _mast(rng: Rng, tall: float) -> Mesh:
    """A lattice of struts on three or four legs."""
    legs, levels = int(rng.integers(3, 5)), int(rng.integers(3, 9))
    angle = TAU * (np.arange(legs) + 0.5) / legs
    foot, taper, thick = tall * rng.uniform(0.04, 0.2), rng.uniform(0.1, 1.0), tall * rng.uniform(0.003, 0.012)
    heights = np.linspace(0, tall, levels + 1)
    width = foot * (1 + (taper - 1) * heights / tall)
    at = np.stack([width[:, None] * np.cos(angle), width[:, None] * np.sin(angle), heights[:, None] + 0 * angle], -1)
    pieces = []
    for i in range(levels):
        for j in range(legs):
            k = (j + 1) % legs
            pieces += [_bar(at[i, j], at[i + 1, j], thick, 5), _bar(at[i + 1, j], at[i + 1, k], 0.7 * thick, 5)]
            pieces.append(_bar(at[i, j], at[i + 1, k], 0.6 * thick, 5))
    return shapes.joined(*pieces)


def _bush(rng: Rng, tall: float) -> Mesh:
    """Bare wood that forks again and again."""
    pieces: list[Mesh] = []

    def grow(start: np.ndarray, way: np.ndarray, length: float, thick: float, forks: int) -> None:
        bend = start + 0.5 * length * way + rng.normal(size=3) * 0.06 * length
        end = bend + 0.5 * length * (way + rng.normal(size=3) * 0.2)
        pieces.append(shapes.tube(np.array([start, bend, end]), thick * np.array([1, 0.85, 0.7]), 6, closed=False))
        for _ in range(int(rng.integers(2, 4)) if forks else 0):
            turned = way + rng.normal(size=3) * 0.5
            grow(end, turned / np.linalg.norm(turned), length * rng.uniform(0.55, 0.85), 0.65 * thick, forks - 1)

    lean = np.array([*(rng.normal(size=2) * 0.15), 1.0])
    grow(
        np.array([0, 0, -0.1]),
        lean,
        tall * rng.uniform(0.2, 0.45),
        tall * rng.uniform(0.01, 0.035),
        int(rng.integers(3, 6)),
    )
    return shapes.joined(*pieces)


def _hung(rng: Rng, reach: float, high: float) -> Mesh:
    """Ropes or wires that sag between poles, with the poles."""
    ends = np.linspace(-reach, reach, int(rng.integers(2, 6)))[:, None]
    posts = np.c_[ends, rng.normal(size=ends.shape) * 0.1 * reach, np.full(ends.shape, high)]
    thick = rng.uniform(0.004, 0.03)
    pieces = [_bar(p * [1, 1, 0], p * [1, 1, 1.05], rng.uniform(0.03, 0.12)) for p in posts]
    t = np.linspace(0, 1, 12)[:, None]
    for _ in range(int(rng.integers(1, 5))):
        drop, sag = rng.uniform(0, 0.3) * high, rng.uniform(0.02, 0.2) * high
        for a, b in pairwise(posts):
            line = a + (b - a) * t - np.array([0, 0, 1]) * (drop + 4 * sag * t * (1 - t))
            pieces.append(shapes.tube(line, thick, 5, closed=False))
            if rng.random() < 0.3:  # washing, or pennants
                pieces += [
                    shapes.moved(shapes.panel(rng.uniform(0.1, 0.6), 0.4), spot - [0, 0, 0.4]) for spot in line[2:-2:2]
                ]
    return shapes.joined(*pieces)


def _frame(rng: Rng, size: np.ndarray) -> Mesh:
    """Tubes along the edges of stacked boxes: a rack, a stall, a climbing frame, a scaffold."""
    n = rng.integers(1, 5, 3)
    lines = [np.linspace(0, s, int(k) + 1) for s, k in zip(size, n, strict=True)]
    thick = rng.uniform(0.012, 0.05)
    pieces = []
    for axis in range(3):
        a, b = (lines[other] for other in range(3) if other != axis)
        for u in a:
            for v in b:
                if rng.random() < 0.85:
                    start = np.insert(np.array([u, v]), axis, 0.0)
                    end = np.insert(np.array([u, v]), axis, size[axis])
                    pieces.append(_bar(start, end, thick))
    if rng.random() < 0.5:
        pieces.append(_bar(np.zeros(3), size * [1, 0, 1], 0.8 * thick))
    return shapes.moved(shapes.joined(*pieces), -size * [0.5, 0.5, 0]) if pieces else shapes.box(*size)


def _wheels(rng: Rng) -> Mesh:
    """Two wheels with spokes and tubes between them."""
    radius = rng.uniform(0.2, 0.4)
    pieces = []
    for x in (-1.6 * radius, 1.6 * radius):
        pieces.append(shapes.moved(shapes.torus(radius, 0.03 * radius + 0.008, 28, 8), (x, 0, radius),
                                   shapes.turned((1, 0, 0), np.pi / 2)))  # fmt: skip
        hub = np.array([x, 0, radius])
        spokes = radius * np.array([[np.cos(angle), 0, np.sin(angle)] for angle in TAU * np.arange(8) / 8])
        pieces += [_bar(hub, hub + spoke, 0.004, 5) for spoke in spokes]
    knots = radius * np.array(
        [[-1.6, 0, 1], [-0.3, 0, 0.9], [-0.7, 0, 2.4], [1.1, 0, 2.5], [1.6, 0, 1], [1.2, 0.6, 2.9]]
    )
    for a, b in ((0, 1), (1, 2), (0, 2), (1, 3), (2, 3), (3, 4), (3, 5)):
        pieces.append(_bar(knots[a], knots[b], 0.018))
    return shapes.joined(*pieces)


def _thing(rng: Rng, scale: float) -> Mesh:
    match int(rng.integers(7)):
        case 0 | 1:
            return _railing(rng, scale * rng.uniform(0.5, 3))
        case 2:
            return _mast(rng, scale * rng.uniform(0.5, 2))
        case 3:
            return _bush(rng, scale * rng.uniform(0.3, 1.2))
        case 4:
            return _hung(rng, scale * rng.uniform(0.4, 1.5), scale * rng.uniform(0.3, 0.9))
        case 5:
            return _frame(rng, scale * rng.uniform(0.15, 0.7, 3))
        case _:
            return _wheels(rng)


def railings(rng: Rng) -> Stage:
    """Thin things at two or three distances, before open land, walls, trees or the sky."""
    outside = rng.random() < 0.75
    reach = rng.uniform(25, 150) if outside else rng.uniform(5, 12)
    if outside:
        mesh, height = ground(rng, reach, reach * rng.uniform(0.0, 0.12), 96)
        scene = Scene(daylight(rng, haze_m=(reach, reach * 20)))
    else:
        mesh, height = shapes.floor(reach, reach), np.zeros((8, 8))
        corner = np.array([reach / 2, reach / 2, 4.0])
        scene = Scene(lamplight(rng, corner * [-1, -1, 0], corner))
    soil = ("noise", "strokes", "tiles", "leaves", "plain", "planks")
    scene.add(mesh, paint(rng, *soil, size_m=(0.5, reach / 6), polish=0.1))
    for number in range(int(rng.integers(0, 4)) if outside else 4):
        turn = shapes.yaw(number * np.pi / 2 + (rng.normal() * 0.1 if outside else 0))
        away = reach * (rng.uniform(0.1, 0.5) if outside else 0.5)
        wall = paint(rng, "bricks", "plain", "windows", "planks", "stains", "leaves", size_m=(0.5, 6))
        wide, tall = (rng.uniform(0.1, 0.8) * reach, rng.uniform(1, 9)) if outside else (reach, 4.0)
        scene.add(shapes.box(wide, 0.2, tall), wall, turn @ np.array([0, away, -0.2]), turn)
    if outside and rng.random() < 0.6:
        trees = rng.uniform(-0.5, 0.5, (int(rng.integers(3, 25)), 2)) * reach
        plant_trees(scene, rng, on_ground(height, reach, trees[np.hypot(*trees.T) > 5]), (2, 10))
    metal = [_metal(rng) for _ in range(4)]
    near = min(6.0, 0.4 * reach)
    for _ in range(int(rng.integers(3, 14))):
        away = near * np.exp(rng.normal() * 0.7)
        angle = rng.uniform(0, TAU)
        spot = np.clip(away * np.array([np.cos(angle), np.sin(angle)]), -0.48 * reach, 0.48 * reach)
        (at,) = on_ground(height, reach, spot[None])
        # Long ones stand across the view as often as along it.
        turn = shapes.yaw(angle + np.pi / 2 + rng.normal() * 0.5 if rng.random() < 0.7 else rng.uniform(0, TAU))
        scene.add(_thing(rng, near), metal[int(rng.integers(4))], at, turn)
    for _ in range(int(rng.integers(0, 7))):
        (at,) = on_ground(height, reach, np.clip(rng.normal(size=(1, 2)) * near * 1.5, -0.48 * reach, 0.48 * reach))
        if rng.random() < 0.4:
            figure(scene, rng, at, rng.uniform(0, TAU))
        else:
            scene.add(any_solid(rng, rng.uniform(0.3, 2)), paint(rng), at, shapes.yaw(rng.uniform(0, TAU)))

    def propose(rng: Rng) -> Camera:
        (foot,) = on_ground(height, reach, rng.normal(size=(1, 2)) * 0.35 * near)
        at = foot + [0, 0, rng.uniform(0.25, 2.2)]
        way = np.array([*rng.normal(size=2), 0])
        way = way / np.linalg.norm(way) + [0, 0, rng.normal() * 0.18 + (0.3 if rng.random() < 0.15 else 0)]
        return look(at, at + way, field_of_view(rng), tilt(rng))

    return Stage(scene, propose, 0.25)


def _metal(rng: Rng) -> Material:
    """Often dark or rusty, at times light or painted; patterns hardly show on what is thin."""
    tint = rng.uniform(0.02, 0.12) * np.ones(3) if rng.random() < 0.4 else None
    return paint(rng, "plain", "noise", "grain", "stripes", tint=tint, size_m=(0.1, 1.5), polish=0.4)
