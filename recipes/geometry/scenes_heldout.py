"""Kinds of scenes within walls that the network is judged on and never trained on: rooms, corridors, clutter, gloss.

Their generators, textures and lights are others than those of the scenes for training; they share the ray caster and
the plainest shapes.
"""

# ruff: noqa: RUF005  (a vector plus a list adds up here)
from __future__ import annotations

from itertools import pairwise

import numpy as np

from omniloom.recipes.geometry import shapes
from omniloom.recipes.geometry.scene import Camera, Material, Scene, Stage, look
from omniloom.recipes.geometry.solid import PALETTE, Rng, indoors, outdoors, stuff


def held(rng: Rng, at: np.ndarray, target: np.ndarray) -> Camera:
    """A camera in somebody's hand: nearly level, 50 to 80 degrees wide; one in six is tilted on purpose."""
    roll = rng.normal() * (0.05 if rng.random() < 0.84 else 0.5)
    return look(at, target, float(rng.uniform(50, 80)), float(roll))


def superquadric(rng: Rng, size: np.ndarray) -> shapes.Mesh:
    """Anything between a ball, a box, a cylinder and an octahedron (Barr, 1981), its middle at the origin."""
    e1, e2 = rng.uniform(0.15, 1.8, 2)
    v, u = np.meshgrid(np.linspace(-np.pi / 2, np.pi / 2, 29), np.linspace(-np.pi, np.pi, 49)[:-1], indexing="ij")

    def power(x: np.ndarray, e: float) -> np.ndarray:
        return np.sign(x) * np.abs(x) ** e

    x, y = power(np.cos(v), e1) * power(np.cos(u), e2), power(np.cos(v), e1) * power(np.sin(u), e2)
    vertices = np.stack([x, y, power(np.sin(v), e1)], axis=-1).reshape(-1, 3) * size / 2
    return shapes.tidy(vertices, shapes.lattice(29, 48, wrap=True))


def vessel(rng: Rng, height: float) -> shapes.Mesh:
    """A bottle, vase, bowl or cup: a smooth profile through random radii."""
    knots = rng.uniform(0.12, 0.45, 5) * height
    z = np.linspace(0, 1, 24)
    # Cosine blends between the knots.
    place = z * 4
    i = np.minimum(place.astype(int), 3)
    f = 0.5 - 0.5 * np.cos(np.pi * (place - i))
    radius = knots[i] * (1 - f) + knots[i + 1] * f
    return shapes.lathe(np.vstack([[0, 0], np.c_[radius, z * height], [0, height * 0.98]]), 36)


def _wall_run(scene: Scene, material: Material, a: np.ndarray, b: np.ndarray, low: float, high: float) -> None:
    """An upright piece of wall between two points of the plan, without thickness."""
    corners = np.array([[*a, low], [*b, low], [*b, high], [*a, high]])
    scene.add((corners, np.array([[0, 1, 2], [0, 2, 3]])), material)


def rooms(rng: Rng) -> Stage:
    """A room of five to eight walls with a bed or sofa, cupboards along the walls, a desk, a rug and lamps."""
    n = int(rng.integers(4, 8))
    angle = 2 * np.pi * (np.arange(n) + rng.uniform(-0.18, 0.18, n)) / n + 0.4
    plan = np.c_[np.cos(angle) * rng.uniform(2.6, 4.5), np.sin(angle) * rng.uniform(2.2, 3.8)]
    height = rng.uniform(2.4, 3.3)
    scene = Scene(indoors(rng, np.array([[0, 0, height - 0.3], [*(plan[0] * 0.6), 1.5]]), 2.6, ambient=0.35))
    wood, wall = stuff(rng, "ringed", 0.25), stuff(rng, "mottled", 1.2, PALETTE[int(rng.choice([0, 1, 8, 11]))])
    ground = stuff(rng, str(rng.choice(["ringed", "slabs", "mottled"])), 0.5, gloss=0.4)
    top = stuff(rng, "mottled", 2, PALETTE[1])
    fan = np.array([[0, i, i + 1] for i in range(1, n - 1)])
    scene.add((np.c_[plan, np.zeros(n)], fan), ground)
    scene.add((np.c_[plan, np.full(n, height)], fan), top)
    for a, b in zip(plan, np.roll(plan, -1, axis=0), strict=True):
        _wall_run(scene, wall, a, b, 0, height)
        along, length = (b - a) / np.linalg.norm(b - a), float(np.linalg.norm(b - a))
        inward = np.array([-along[1], along[0]])
        turn = np.array([[along[0], inward[0], 0], [along[1], inward[1], 0], [0, 0, 1]])
        _wall_run(scene, wood, a + 0.015 * inward, b + 0.015 * inward, 0, 0.1)
        match int(rng.integers(5)):
            case 0:  # cupboards with doors and knobs
                count = max(1, int(length * 0.6 / 0.6))
                tall = rng.uniform(0.8, 2.1)
                for i in range(count):
                    spot = np.array([*(a + along * (0.3 + 0.62 * i + 0.2) + inward * 0.28), 0])
                    scene.add(shapes.box(0.6, 0.55, tall), wood, spot, turn)
                    scene.add(shapes.sphere(0.025, 12), top, spot + turn @ np.array([0.22, 0.29, tall * 0.5]), turn)
            case 1:  # a door
                spot = np.array([*(a + along * length * rng.uniform(0.3, 0.7)), 0])
                for x, w, h in ((-0.47, 0.1, 2.05), (0.47, 0.1, 2.05), (0, 0.85, 2.0)):
                    scene.add(
                        shapes.box(w, 0.12 if w < 0.5 else 0.05, h), wood, spot + turn @ np.array([x, 0.03, 0]), turn
                    )
            case 2:  # a window that shines
                wide = min(1.6, length * 0.6)
                glow = Material(np.array([0.8, 0.86, 0.95]), np.zeros((3, 3)), glow=1.2)
                spot = np.array([*((a + b) / 2), 0.95])
                scene.add(shapes.box(wide, 0.03, 1.1), glow, spot, turn)
                for x in (-wide / 2, 0, wide / 2):
                    scene.add(shapes.box(0.06, 0.1, 1.16), top, spot + turn @ np.array([x, 0.03, -0.03]), turn)
                folds = 0.05 * np.sin(np.linspace(0, 40, 90))
                for side in (-1, 1):
                    curtain = np.c_[
                        np.linspace(0, 0.5, 90) + side * (wide / 2 + 0.1) - 0.25, 0.12 + folds, np.full(90, 0.1)
                    ]
                    sheet = np.vstack([curtain, curtain + [0, 0, 2.1]])
                    scene.add(
                        (sheet, shapes.lattice(2, 90, wrap=False)),
                        stuff(rng, "mottled", 0.2),
                        (*((a + b) / 2), 0),
                        turn,
                    )
            case 3:  # frames
                for i in range(int(rng.integers(1, 4))):
                    spot = np.array([*(a + along * length * (0.25 + 0.2 * i) + inward * 0.02), rng.uniform(1.2, 1.7)])
                    w, h = rng.uniform(0.25, 0.6, 2)
                    scene.add(shapes.box(w + 0.06, 0.03, h + 0.06), wood, spot - [0, 0, 0.03], turn)
                    scene.add(shapes.box(w, 0.04, h), stuff(rng, size_m=0.15), spot, turn)
            case _:
                pass
    cloth = stuff(rng, "celled", 0.06)
    turn = shapes.yaw(rng.uniform(0, 6.28))
    middle = np.array([*(rng.normal(size=2) * 0.5), 0])
    if rng.random() < 0.5:  # a bed
        scene.add(superquadric(rng, np.array([1.5, 2.0, 0.5])), cloth, middle + [0, 0, 0.3], turn)
        for x in (-0.4, 0.4):
            pillow = shapes.moved(shapes.sphere(0.3), (0, 0, -0.3))
            scene.add(
                pillow,
                stuff(rng, "mottled", 0.3, PALETTE[1]),
                middle + turn @ np.array([x, 0.75, 0.6]),
                turn,
                (1, 0.7, 0.35),
            )
        scene.add(shapes.box(1.6, 0.06, 1.0), wood, middle + turn @ np.array([0, 1.05, 0]), turn)
    else:  # a round table with chairs
        scene.add(
            shapes.lathe([(0, 0), (0.3, 0), (0.05, 0.08), (0.05, 0.7), (0.6, 0.72), (0.6, 0.75), (0, 0.75)], 40),
            wood,
            middle,
        )
        scene.add(vessel(rng, 0.3), stuff(rng, "mottled", 0.1, gloss=0.8), middle + [0.1, 0.1, 0.75])
        for i in range(int(rng.integers(2, 5))):
            seat = shapes.yaw(i * 1.6 + rng.uniform(0, 0.4))
            spot = middle + seat @ np.array([0, -0.85, 0])
            scene.add(superquadric(rng, np.array([0.42, 0.42, 0.06])), cloth, spot + [0, 0, 0.45], seat)
            for x in (-0.17, 0.17):
                scene.add(
                    shapes.tube(np.array([[x, -0.17, 0], [x, -0.2, 0.5], [x, -0.27, 0.95]]), 0.018), wood, spot, seat
                )
                scene.add(shapes.tube(np.array([[x, 0.17, 0], [x, 0.17, 0.45]]), 0.018), wood, spot, seat)
            scene.add(shapes.box(0.4, 0.03, 0.2), wood, spot + seat @ np.array([0, -0.26, 0.72]), seat)
    scene.add(shapes.lathe([(0, 0), (1.1, 0), (1.1, 0.012), (0, 0.012)], 48), stuff(rng, "celled", 0.2), middle * 0.3)
    scene.add(shapes.lathe([(0.25, 0), (0.12, 0.3)], 30), top, (0, 0, height - 0.7))
    scene.add(shapes.cylinder(0.008, 0.4, 8), wood, (0, 0, height - 0.4))

    def propose(rng: Rng) -> Camera:
        at = plan[int(rng.integers(n))] * rng.uniform(0.3, 0.85)
        target = -at * rng.uniform(0.2, 1) + rng.normal(size=2) * 0.8
        return held(rng, np.array([*at, rng.uniform(0.9, 1.8)]), np.array([*target, rng.uniform(0.2, 1.6)]))

    return Stage(scene, propose, 0.35)


def corridors(rng: Rng) -> Stage:
    """A passage that turns corners, with doors, skirtings, a handrail and shining panels in the ceiling."""
    half, height = rng.uniform(0.8, 1.6), rng.uniform(2.3, 3.2)
    legs = rng.uniform(6, 14, 3)
    bend = int(rng.choice([-1, 1]))
    line = np.array([[0, 0], [0, legs[0]], [bend * legs[1], legs[0]], [bend * legs[1], legs[0] + legs[2]]])
    lamps: list[np.ndarray] = []
    # The walls run beside the line, mitred at its corners.
    plans = [line + sign * half * np.array([[1, 0], [1, -bend], [1, -bend], [1, 0]]) for sign in (-1, 1)]
    for a, b in pairwise(line):
        lamps += [np.array([*(a + (b - a) * t), height - 0.15]) for t in np.arange(0.15, 1, 0.35)]
    scene = Scene(indoors(rng, np.array(lamps[:5]), 4.5, ambient=0.3))
    wall = stuff(rng, str(rng.choice(["mottled", "slabs", "celled"])), 0.8, PALETTE[int(rng.choice([0, 1, 8, 11, 5]))])
    lower = stuff(rng, "mottled", 0.6) if rng.random() < 0.5 else wall
    ground, top = stuff(rng, None, 0.6, gloss=0.7, mirror=0.08), stuff(rng, "slabs", 1.2, PALETTE[1])
    wood = stuff(rng, "ringed", 0.3)
    corners = np.concatenate(plans)
    strip = np.array([[i, i + 1, i + 5] for i in range(3)] + [[i, i + 5, i + 4] for i in range(3)])
    scene.add((np.c_[corners, np.zeros(8)], strip), ground)
    scene.add((np.c_[corners, np.full(8, height)], strip), top)
    for points in plans:
        for leg, (a, b) in enumerate(pairwise(points)):
            _wall_run(scene, lower, a, b, 0, 1.0)
            _wall_run(scene, wall, a, b, 1.0, height)
            along = (b - a) / np.linalg.norm(b - a)
            inward = line[leg] - a
            inward = inward - along * np.dot(inward, along)
            inward /= np.linalg.norm(inward)
            turn = np.array([[along[0], inward[0], 0], [along[1], inward[1], 0], [0, 0, 1]])
            for s in np.arange(1.2, np.linalg.norm(b - a) - 1, rng.uniform(2, 4)):
                spot = np.array([*(a + along * s), 0])
                if rng.random() < 0.7:
                    for x, w, h in ((-0.5, 0.1, 2.05), (0.5, 0.1, 2.05), (0, 0.9, 2.0)):
                        scene.add(
                            shapes.box(w, 0.16 if w < 0.5 else 0.06, h), wood, spot + turn @ np.array([x, 0, 0]), turn
                        )
                elif rng.random() < 0.5:
                    scene.add(
                        superquadric(rng, np.array([0.5, 0.4, 0.5])), stuff(rng), spot + [*(inward * 0.3), 0.25], turn
                    )
            rail = np.array([[*(a + inward * 0.08), 0.95], [*(b + inward * 0.08), 0.95]])
            scene.add(shapes.tube(rail, 0.03), wood)
    glow = Material(np.array([0.95, 0.95, 0.9]), np.zeros((3, 3)), glow=1.5)
    for lamp in lamps:
        scene.add(shapes.box(0.5, 0.5, 0.03), glow, [*lamp[:2], height - 0.03])
    for end, sign in ((line[0], -1), (line[-1], 1)):
        scene.add(shapes.panel(2 * half, height), wall, (*end, 0))
        scene.add(shapes.box(1.0, 0.1, 2.1), wood, (end[0], end[1] - 0.02 * sign, 0))

    def propose(rng: Rng) -> Camera:
        leg = int(rng.integers(3))
        a, b = (line[leg], line[leg + 1]) if rng.random() < 0.5 else (line[leg + 1], line[leg])
        along = (b - a) / np.linalg.norm(b - a)
        at = a + along * rng.uniform(0.6, 3) + np.array([-along[1], along[0]]) * rng.uniform(-0.5, 0.5) * half
        target = a + (b - a) * rng.uniform(0.6, 1.1) + rng.normal(size=2) * 0.4
        return held(rng, np.array([*at, rng.uniform(0.7, 1.9)]), np.array([*target, rng.uniform(0.3, 2.0)]))

    return Stage(scene, propose, 0.3)


def clutter(rng: Rng) -> Stage:
    """A heap of things, one on top of the other, in the corner of a room or on a bench."""
    scene = Scene(indoors(rng, np.array([[1.2, -1.2, 2.2], [-1, -0.4, 2.0]]), 1.7, ambient=0.3))
    scene.add(shapes.floor(8, 8), stuff(rng, size_m=0.4, gloss=0.3))
    for turn in (np.eye(3), shapes.yaw(np.pi / 2), shapes.yaw(np.pi), shapes.yaw(-np.pi / 2)):
        scene.add(
            shapes.panel(8, 3),
            stuff(rng, "mottled", 1.0),
            turn @ np.array([0, 1.1 if turn[0, 0] > 0.5 else 2.5, 0]),
            turn,
        )
    ground = np.zeros((40, 40))  # how high the heap is, over 2 m x 2 m
    paints = [stuff(rng, size_m=float(rng.uniform(0.05, 0.2)), gloss=float(rng.choice([0, 0, 0.5]))) for _ in range(14)]
    for _ in range(int(rng.integers(20, 60))):
        size = rng.uniform(0.06, 0.4, 3)
        mesh = vessel(rng, float(size[2])) if rng.random() < 0.25 else superquadric(rng, size)
        turn = shapes.any_turn(rng) if rng.random() < 0.5 else shapes.yaw(rng.uniform(0, 6.28))
        vertices = mesh[0] @ turn.T
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        xy = np.clip(rng.normal(size=2) * 0.42, -0.8, 0.8)
        a, b = np.clip(((xy[:, None] + np.c_[low, high][:2]) / 2 + 0.5) * 40, 0, 39).astype(int)
        patch = ground[b[0] : b[1] + 1, a[0] : a[1] + 1]
        rest = 0.8 * float(np.median(patch))
        scene.add(mesh, paints[int(rng.integers(14))], [*xy, rest - low[2]], turn)
        patch[...] = rest + (high[2] - low[2]) * 0.7

    def propose(rng: Rng) -> Camera:
        angle, away, up = rng.uniform(-2.6, -0.5), rng.uniform(0.9, 2.0), rng.uniform(0.25, 1.8)
        at = np.array([np.cos(angle) * away, np.sin(angle) * away, up])
        return held(rng, at, np.array([*(rng.normal(size=2) * 0.2), rng.uniform(0.05, 0.4)]))

    return Stage(scene, propose, 0.25)


def gloss(rng: Rng) -> Stage:
    """Polished and mirroring things on a polished floor, in a studio or under the sky."""
    inside = rng.random() < 0.6
    lamps = np.array([[2, -2, 3.0], [-2, -1, 2.5], [0, 2, 3.2]])
    scene = Scene(indoors(rng, lamps, 3, ambient=0.4) if inside else outdoors(rng))
    scene.add(
        shapes.floor(30, 30),
        stuff(
            rng,
            str(rng.choice(["veined", "slabs", "celled", "ringed"])),
            0.5,
            gloss=0.9,
            mirror=float(rng.uniform(0.1, 0.4)),
        ),
    )
    if inside:
        for number in range(4):
            turn = shapes.yaw(number * np.pi / 2)
            scene.add(shapes.panel(9, 4), stuff(rng, "mottled", 0.8), turn @ np.array([0, 4.5, 0]), turn)
        scene.add(shapes.floor(9, 9), stuff(rng, "mottled", 1, PALETTE[1]), (0, 0, 4))
    for _ in range(int(rng.integers(5, 16))):
        metal = rng.random() < 0.5
        material = stuff(
            rng,
            "mottled",
            0.4,
            np.full(3, 0.7) if metal else None,
            gloss=1.0,
            mirror=float(rng.uniform(0.4, 0.85)) if metal else 0.1,
        )
        size = rng.uniform(0.3, 1.2)
        at = np.array([*(rng.normal(size=2) * 1.2), 0])
        match int(rng.integers(4)):
            case 0:
                scene.add(shapes.sphere(size * 0.45, 56), material, at)
            case 1:
                scene.add(vessel(rng, size), material, at)
            case 2:
                scene.add(
                    superquadric(rng, np.full(3, size)), material, at + [0, 0, size / 2], shapes.yaw(rng.uniform(0, 6))
                )
            case _:
                knot = np.linspace(0, 2 * np.pi, 90)
                path = (
                    np.c_[np.sin(knot) + 2 * np.sin(2 * knot), np.cos(knot) - 2 * np.cos(2 * knot), -np.sin(3 * knot)]
                    * size
                    / 6
                )
                scene.add(shapes.tube(path, size * 0.1, 18), material, at + [0, 0, size * 0.35])

    def propose(rng: Rng) -> Camera:
        angle, away = rng.uniform(0, 6.28), rng.uniform(2, 4)
        at = np.array([np.cos(angle) * away, np.sin(angle) * away, rng.uniform(0.4, 2.2)])
        return held(rng, at, np.array([*(rng.normal(size=2) * 0.4), rng.uniform(0.1, 0.8)]))

    return Stage(scene, propose, 0.4)
