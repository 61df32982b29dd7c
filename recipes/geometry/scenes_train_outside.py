"""Kinds of scenes under the sky that the embedded network is trained on."""

# ruff: noqa: RUF005  (a vector plus a list adds up here)
from __future__ import annotations

import numpy as np

from omniloom.recipes.geometry import shapes
from omniloom.recipes.geometry.paint import Rng, colour, daylight, paint
from omniloom.recipes.geometry.scene import Camera, Material, Scene, Stage, look
from omniloom.recipes.geometry.scenes_train import field_of_view, tilt
from omniloom.recipes.geometry.shapes import TAU
from omniloom.recipes.geometry.textures import clouds
from omniloom.recipes.geometry.things import any_solid, figure

LEAF = np.array([0.12, 0.3, 0.07])
BARK = np.array([0.22, 0.15, 0.09])
SOIL = np.array([0.3, 0.24, 0.15])


def tree(rng: Rng, height: float, style: int) -> list[tuple[shapes.Mesh, int]]:
    """Pieces of a tree and what they are made of (0 bark, 1 leaves)."""
    trunk_height = height * rng.uniform(0.3, 0.7)
    lean = rng.normal(size=2) * 0.06 * height
    line = np.array([[0, 0, -0.3], [*(lean * 0.3), trunk_height / 2], [*lean, height * (0.95 if style == 2 else 0.8)]])
    thick = height * rng.uniform(0.015, 0.04)
    pieces = [(shapes.tube(line, np.array([thick, 0.7 * thick, 0.25 * thick]), 10), 0)]
    if style == 0:  # a fir
        for level in np.linspace(0.25, 0.9, int(rng.integers(3, 6))):
            radius = height * 0.25 * (1.1 - level)
            pieces.append(
                (
                    shapes.moved(
                        shapes.cylinder(radius, height * 0.3, 12, top=0), (*(lean * level), height * level * 0.85)
                    ),
                    1,
                )
            )
    elif style == 1:  # a round crown of lumps
        for _ in range(int(rng.integers(3, 7))):
            spot = np.array([*(lean + rng.normal(size=2) * 0.12 * height), height * rng.uniform(0.6, 0.95)])
            pieces.append((shapes.moved(shapes.rock(rng, height * rng.uniform(0.1, 0.2), 0.35, 14), spot), 1))
    else:  # branches, with or without leaves
        leaves = rng.random() < 0.6
        for _ in range(int(rng.integers(6, 14))):
            start = line[1] + (line[2] - line[1]) * rng.uniform(0, 0.9)
            way = np.array([*rng.normal(size=2), rng.uniform(0.2, 1.2)]) * height * 0.14
            bend = start + way * 0.5 + rng.normal(size=3) * 0.03 * height
            pieces.append(
                (shapes.tube(np.array([start, bend, start + way * 1.3]), thick * np.array([0.4, 0.25, 0.08]), 6), 0)
            )
            if leaves:
                size = shapes.panel(0.06 * height, 0.05 * height)
                spots = start + way * rng.uniform(0.5, 1.4, (12, 1)) + rng.normal(size=(12, 3)) * 0.05 * height
                flakes = [shapes.moved(size, spot, shapes.any_turn(rng)) for spot in spots]
                pieces.append((shapes.joined(*flakes), 1))
    return pieces


def plant_trees(scene: Scene, rng: Rng, places: np.ndarray, height: tuple[float, float]) -> None:
    """A few sorts of trees at places (N, 3)."""
    leaf, bark = (
        paint(rng, "leaves", "noise", "strokes", tint=LEAF * rng.uniform(0.6, 2, 3), size_m=(1, 4), polish=0),
        paint(rng, "grain", "strokes", tint=BARK, polish=0),
    )
    sorts = [tree(rng, 1.0, int(rng.integers(3))) for _ in range(3)]
    for place in places:
        size, turn = rng.uniform(*height), shapes.yaw(rng.uniform(0, TAU))
        for mesh, what in sorts[int(rng.integers(3))]:
            scene.add(mesh, leaf if what else bark, place, turn, size)


def grass(rng: Rng, places: np.ndarray, height: float) -> shapes.Mesh:
    """Tufts of blades at places (N, 3)."""
    n = len(places)
    lean, wide = rng.normal(size=(n, 3)) * [0.3, 0.3, 0], rng.normal(size=(n, 3)) * [0.06, 0.06, 0]
    tall = rng.uniform(0.3, 1.0, (n, 1))
    tip = places + tall * height * (np.array([0, 0, 1.0]) + lean)
    vertices = np.stack([places - wide * height, places + wide * height, tip], axis=1).reshape(-1, 3)
    return vertices, np.arange(3 * n).reshape(n, 3)


def ground(rng: Rng, reach: float, relief: float, cells: int = 128) -> tuple[shapes.Mesh, np.ndarray]:
    """Rolling land, and its heights."""
    field = clouds(rng, rng.uniform(1.6, 2.6), side=cells) - 0.5
    if rng.random() < 0.3:
        field = np.abs(field) * 1.6
    height = field * relief
    return shapes.terrain(height, reach, reach), height


def on_ground(height: np.ndarray, reach: float, xy: np.ndarray) -> np.ndarray:
    """Places (N, 3) on the land at (N, 2)."""
    cells = len(height)
    grid = np.clip((xy / reach + 0.5) * (cells - 1), 0, cells - 1.001)
    i, f = grid.astype(int), grid - grid.astype(int)
    x, y, fx, fy = i[:, 0], i[:, 1], f[:, 0], f[:, 1]
    z = (height[y, x] * (1 - fx) + height[y, x + 1] * fx) * (1 - fy) + (
        height[y + 1, x] * (1 - fx) + height[y + 1, x + 1] * fx
    ) * fy
    return np.c_[xy, z]


def land(rng: Rng) -> Stage:
    """Open country: slopes, rocks, trees, perhaps a hut, mountains or water."""
    reach = float(np.exp(rng.uniform(np.log(30), np.log(600))))
    relief = reach * rng.uniform(0.02, 0.35)
    mesh, height = ground(rng, reach, relief)
    scene = Scene(daylight(rng, haze_m=(reach * 0.5, reach * 20)))
    size_m = (reach / 60, reach / 6)
    scene.add(
        mesh,
        paint(
            rng,
            "noise",
            "strokes",
            "stains",
            "leaves",
            tint=[SOIL, LEAF, colour(rng)][int(rng.integers(3))],
            size_m=size_m,
            polish=0,
        ),
    )
    if rng.random() < 0.3:
        scene.add(
            shapes.floor(reach, reach),
            Material(np.array([0.03, 0.06, 0.07]), np.zeros((3, 3)), 0, 1, 0.9, 0.3),
            (0, 0, -relief * 0.15),
        )
    stone = [paint(rng, "noise", "stains", "ridges", size_m=(0.5, 3), polish=0.1) for _ in range(2)]
    spread = reach * rng.uniform(0.04, 0.4)
    for place in on_ground(
        height, reach, np.clip(rng.normal(size=(int(rng.integers(0, 60)), 2)) * spread, -reach / 2, reach / 2)
    ):
        size = reach * np.exp(rng.uniform(np.log(0.001), np.log(0.015)))
        scene.add(shapes.rock(rng, size, 0.3, 18), stone[int(rng.integers(2))], place, shapes.any_turn(rng))
    places = on_ground(
        height, reach, np.clip(rng.normal(size=(int(rng.integers(0, 40)), 2)) * spread, -reach / 2, reach / 2)
    )
    plant_trees(scene, rng, places, (0.008 * reach + 1, 0.03 * reach + 2))
    if rng.random() < 0.5:
        tufts = on_ground(height, reach, rng.normal(size=(3000, 2)) * reach * 0.05)
        scene.add(grass(rng, tufts, 0.004 * reach + 0.2), paint(rng, "plain", "noise", tint=LEAF, polish=0))
    for _ in range(int(rng.integers(0, 4))):
        (spot,) = on_ground(height, reach, rng.normal(size=(1, 2)) * spread * 0.6)
        w, d, h = rng.uniform(0.006, 0.02, 3) * reach + 1.5
        turn = shapes.yaw(rng.uniform(0, TAU))
        scene.add(shapes.box(w, d, h), paint(rng, "planks", "bricks", "windows", "plain"), spot - [0, 0, 0.1 * h], turn)
        scene.add(
            shapes.gable(w * 1.1, d * 1.1, h * 0.6),
            paint(rng, "tiles", "bricks", "planks"),
            spot + [0, 0, 0.9 * h],
            turn,
        )

    def propose(rng: Rng) -> Camera:
        (at,) = on_ground(height, reach, rng.normal(size=(1, 2)) * spread)
        at = at + [0, 0, 0.003 * reach + rng.uniform(0.3, 2.5) * (1 if rng.random() < 0.7 else 0.03 * reach)]
        (target,) = on_ground(height, reach, at[None, :2] * 0.3 + rng.normal(size=(1, 2)) * spread)
        if rng.random() < 0.25:
            target = target + [0, 0, rng.normal() * 0.05 * reach]
        return look(at, target, field_of_view(rng), tilt(rng))

    return Stage(scene, propose, 0.3)


def forest(rng: Rng) -> Stage:
    """Among trees, with undergrowth."""
    reach = rng.uniform(25, 80)
    mesh, height = ground(rng, reach, rng.uniform(0.3, 5.0))
    scene = Scene(daylight(rng, haze_m=(15, 200)))
    scene.add(
        mesh,
        paint(rng, "strokes", "leaves", "noise", tint=SOIL if rng.random() < 0.5 else LEAF, size_m=(0.8, 4), polish=0),
    )
    places = on_ground(height, reach, rng.uniform(-0.5, 0.5, (int(rng.integers(20, 70)), 2)) * reach)
    plant_trees(scene, rng, places[::2], (4, 14))
    plant_trees(scene, rng, places[1::2], (2, 18))
    tufts = on_ground(height, reach, rng.normal(size=(4000, 2)) * reach * 0.15)
    scene.add(grass(rng, tufts, rng.uniform(0.15, 0.7)), paint(rng, "plain", tint=LEAF, polish=0))
    for place in places[:8]:
        if rng.random() < 0.5:
            log = np.array([place + [1, 0, 0.15], place + [*(rng.normal(size=2) * 2 + [1, 0]), 0.3]])
            scene.add(shapes.tube(log, rng.uniform(0.08, 0.3), 14), paint(rng, "strokes", "grain", tint=BARK, polish=0))
        else:
            scene.add(
                shapes.rock(rng, rng.uniform(0.2, 0.9)), paint(rng, "noise", "stains", polish=0), place + [1, 1, 0]
            )
    if rng.random() < 0.3:
        figure(scene, rng, places[3] + [1.0, 0, 0], rng.uniform(0, TAU))

    def propose(rng: Rng) -> Camera:
        (at,) = on_ground(height, reach, rng.normal(size=(1, 2)) * reach * 0.15)
        at = at + [0, 0, rng.uniform(0.3, 2.5)]
        way = np.array([*rng.normal(size=2), 0.0])
        way = way / np.linalg.norm(way) + [0, 0, rng.normal() * 0.25]
        return look(at, at + way, field_of_view(rng), tilt(rng))

    return Stage(scene, propose, 0.3)


def car(scene: Scene, rng: Rng, at: np.ndarray, heading: float) -> None:
    """A car or a van of prisms and wheels."""
    body = paint(rng, "plain", polish=1.0)
    glass = Material(np.array([0.04, 0.05, 0.06]), np.zeros((3, 3)), 0, 1, 1.0, 0.25)
    black = Material(np.array([0.03, 0.03, 0.03]), np.zeros((3, 3)))
    turn, van = shapes.yaw(heading), rng.random() < 0.3
    high = rng.uniform(1.7, 2.4) if van else rng.uniform(1.3, 1.6)
    side = np.array([[-2.1, 0], [2.1, 0], [2.1, 0.5], [1.2, 0.6], [0.6, high - 0.3], [-1.5, high - 0.3], [-2.1, 0.6]])
    if van:
        side = np.array([[-2.3, 0], [2.3, 0], [2.3, 0.6], [1.7, high - 0.4], [-2.3, high - 0.4]])
    upright = turn @ shapes.turned((1, 0, 0), np.pi / 2)
    scene.add(shapes.extrude(side, 1.75), body, at + turn @ np.array([0, 0.875, 0.3]), upright)
    pane = side * [0.72, 0.8] + [-0.15, 0.15]
    scene.add(
        shapes.extrude(pane[pane[:, 1] > 0.5] if not van else pane, 1.78),
        glass,
        at + turn @ np.array([0, 0.89, 0.35]),
        upright,
    )
    for x in (-1.3, 1.3):
        for y in (-0.9, 0.68):
            wheel = shapes.cylinder(0.33, 0.22, 24)
            scene.add(wheel, black, at + turn @ np.array([x, y + 0.22, 0.33]), upright)


def city(rng: Rng) -> Stage:
    """Streets between houses, with cars, trees, lamp posts and people."""
    scene = Scene(daylight(rng, haze_m=(80, 2000)))
    road, kerb = rng.uniform(5, 14), rng.uniform(1.5, 4)
    block = rng.uniform(18, 50)
    pitch = road + 2 * kerb + block
    scene.add(
        shapes.floor(6 * pitch, 6 * pitch),
        paint(rng, "noise", "plain", "stains", tint=np.full(3, rng.uniform(0.08, 0.3)), size_m=(1, 6), polish=0.2),
    )
    pavement = paint(rng, "tiles", "noise", "plain", "bricks", size_m=(0.6, 3), polish=0)
    fronts = [
        paint(rng, "windows", "windows", "windows", "bricks", "plain", "tiles", size_m=(3, 9), polish=0.3)
        for _ in range(8)
    ]
    roofs = [paint(rng, "tiles", "plain", "noise") for _ in range(3)]
    for i in range(-2, 3):
        for j in range(-2, 3):
            centre = np.array([(i + 0.5) * pitch, (j + 0.5) * pitch, 0])
            scene.add(shapes.box(block + 2 * kerb, block + 2 * kerb, 0.15), pavement, centre)
            if rng.random() < 0.12:
                plant_trees(scene, rng, centre + np.c_[rng.uniform(-0.4, 0.4, (8, 2)) * block, np.zeros(8)], (4, 10))
                continue
            n = int(rng.integers(1, 4))
            cut = block / n
            for a in range(n):
                for b in range(n):
                    if n == 3 and a == b == 1:
                        continue
                    h = np.exp(rng.uniform(np.log(4), np.log(45)))
                    setback = rng.uniform(0.0, 0.12, 2) * cut
                    w, d = cut - setback
                    spot = centre + [(a - (n - 1) / 2) * cut, (b - (n - 1) / 2) * cut, 0.15]
                    scene.add(shapes.box(w, d, h), fronts[int(rng.integers(8))], spot)
                    if h < 12 and rng.random() < 0.6:
                        scene.add(
                            shapes.gable(w + 0.5, d + 0.5, rng.uniform(1.5, 4)),
                            roofs[int(rng.integers(3))],
                            spot + [0, 0, h],
                        )
                    for _ in range(int(rng.integers(0, 5))):  # balconies, awnings, ledges
                        side = int(rng.choice([-1, 1]))
                        wide = rng.uniform(1, 4)
                        place = [rng.uniform(-0.4, 0.4) * w, side * d / 2, rng.uniform(2.5, max(3, h * 0.8))]
                        if rng.random() < 0.5:
                            place = [side * w / 2, rng.uniform(-0.4, 0.4) * d, place[2]]
                        scene.add(
                            shapes.box(wide, wide * 0.7, rng.uniform(0.1, 1.0)),
                            roofs[int(rng.integers(3))],
                            spot + place,
                        )
    steel = paint(rng, "plain", polish=0.5)
    along = np.arange(-1.5 * pitch, 1.5 * pitch, rng.uniform(10, 25))
    for street in (0.0, pitch * float(rng.choice([-1, 1]))):
        for y in along:
            for side in (-1, 1):
                x = street + side * (road / 2 + 0.6)
                if rng.random() < 0.6:
                    scene.add(shapes.cylinder(0.07, 5.5, 10), steel, (x, y, 0))
                    scene.add(shapes.box(1.2, 0.2, 0.12), steel, (x - side * 0.5, y, 5.5))
                if rng.random() < 0.35:
                    plant_trees(scene, rng, np.array([[x + side * 0.6, y + 3, 0.1]]), (3, 8))
                if rng.random() < 0.6:
                    car(
                        scene,
                        rng,
                        np.array([street + side * (road / 2 - 1.2), y + rng.uniform(-3, 3), 0]),
                        np.pi / 2 * side,
                    )
                if rng.random() < 0.5:
                    figure(
                        scene,
                        rng,
                        np.array([x + side * rng.uniform(0.3, 1.5), y + rng.uniform(-4, 4), 0.15]),
                        rng.uniform(0, TAU),
                    )
    for _ in range(4):
        car(
            scene,
            rng,
            np.array([rng.uniform(-0.2, 0.2) * road, rng.uniform(-1, 1) * pitch, 0]),
            np.pi / 2 * int(rng.choice([-1, 1])),
        )

    def propose(rng: Rng) -> Camera:
        high = rng.uniform(0.6, 3) if rng.random() < 0.8 else rng.uniform(6, 40)
        at = np.array([rng.uniform(-0.5, 0.5) * (road + kerb), rng.uniform(-1, 1) * pitch, high])
        way = rng.normal() * 0.5 + (np.pi if rng.random() < 0.5 else 0)
        level = rng.normal() * 0.12 - (0.0 if high < 5 else rng.uniform(0.1, 0.7))
        return look(at, at + [np.sin(way), np.cos(way), level], field_of_view(rng), tilt(rng))

    return Stage(scene, propose, 0.5)


def yard(rng: Rng) -> Stage:
    """A paved or green place with people, fences, play things and walls around."""
    scene = Scene(daylight(rng, haze_m=None))
    reach = rng.uniform(8, 30)
    scene.add(
        shapes.floor(10 * reach, 10 * reach),
        paint(rng, "strokes", "tiles", "noise", "leaves", "bricks", size_m=(0.6, 4), polish=0),
    )
    for number in range(int(rng.integers(0, 5))):
        turn, away = shapes.yaw(number * np.pi / 2 + rng.normal() * 0.1), reach * rng.uniform(0.5, 1.2)
        at = turn @ np.array([0, away, 0])
        material = paint(rng, "bricks", "planks", "windows", "plain", "leaves", size_m=(0.6, 5))
        if rng.random() < 0.5:
            scene.add(shapes.box(2 * reach, 0.25, rng.uniform(0.8, 6)), material, at, turn)
        else:
            post, tall = rng.uniform(0.3, 1.5), rng.uniform(0.8, 2)
            for x in np.arange(-reach, reach, post):
                scene.add(
                    shapes.box(rng.uniform(0.05, 0.12), 0.05, tall), material, at + turn @ np.array([x, 0, 0]), turn
                )
            for level in (0.3, 0.8):
                scene.add(
                    shapes.box(2 * reach, 0.04, 0.08), material, at + turn @ np.array([0, 0.04, level * tall]), turn
                )
    for _ in range(int(rng.integers(2, 9))):
        figure(
            scene, rng, np.array([*(rng.normal(size=2) * reach * 0.25), 0]), rng.uniform(0, TAU), rng.uniform(1.1, 1.95)
        )
    for _ in range(int(rng.integers(3, 15))):
        spot = np.array([*(rng.normal(size=2) * reach * 0.3), 0])
        scene.add(
            any_solid(rng, rng.uniform(0.3, 2.0)), paint(rng, size_m=(0.2, 2)), spot, shapes.yaw(rng.uniform(0, TAU))
        )
    trees = rng.normal(size=(int(rng.integers(1, 8)), 2)) * reach * 0.5
    plant_trees(scene, rng, np.c_[trees, np.zeros(len(trees))], (2, 9))

    def propose(rng: Rng) -> Camera:
        at = np.array([*(rng.normal(size=2) * reach * 0.35), rng.uniform(0.4, 3)])
        target = np.array([*(rng.normal(size=2) * reach * 0.25), rng.uniform(0, 2)])
        return look(at, target, field_of_view(rng), tilt(rng))

    return Stage(scene, propose, 0.4)
