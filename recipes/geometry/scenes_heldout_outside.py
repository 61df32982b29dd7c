"""Kinds of scenes outside that the network is judged on and never trained on: streets, hills, caves, thin.

They share no generator with the scenes for training: see scenes_heldout.
"""

# ruff: noqa: RUF005  (a vector plus a list adds up here)
from __future__ import annotations

import numpy as np

from omniloom.recipes.geometry import shapes
from omniloom.recipes.geometry.scene import Camera, Light, Material, Scene, Stage
from omniloom.recipes.geometry.scenes_heldout import held, superquadric
from omniloom.recipes.geometry.solid import PALETTE, Rng, indoors, lattice_noise, outdoors, rough, stuff

_NOTHING = np.zeros((3, 3))
GREEN = np.array([0.16, 0.3, 0.1])


def _row(points: np.ndarray, inner: float, outer: float) -> shapes.Mesh:
    """A ribbon along a line (N, 2), between two distances to its right; level, at z = 0."""
    along = np.gradient(points, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    right = np.c_[along[:, 1], -along[:, 0]]
    edge = np.stack([points + inner * right, points + outer * right], axis=1).reshape(-1, 2)
    return np.c_[edge, np.zeros(len(edge))], shapes.lattice(len(points), 2, wrap=False)


def _vehicle(scene: Scene, rng: Rng, at: np.ndarray, turn: np.ndarray) -> None:
    """A car of two swept sections: body and cabin, rounded."""
    skin = stuff(rng, "mottled", 2.0, gloss=0.9, mirror=0.12)
    dark = Material(np.full(3, 0.05), _NOTHING, 0, 1, 0.8, 0.15)
    length, tall = rng.uniform(3.6, 4.8), rng.uniform(1.35, 1.9)
    scene.add(superquadric(np.random.default_rng(3), np.array([length, 1.75, 0.85])), skin, at + [0, 0, 0.6], turn)
    cabin = superquadric(np.random.default_rng(5), np.array([length * 0.6, 1.55, 1.1]))
    scene.add(cabin, dark, at + turn @ np.array([-0.1 * length, 0, tall - 0.5]), turn)
    scene.add(shapes.box(length * 0.4, 1.3, 0.06), skin, at + turn @ np.array([-0.1 * length, 0, tall]), turn)
    for x in (-0.31, 0.31):
        for y in (-0.8, 0.8):
            wheel = shapes.torus(0.22, 0.1, 24, 10)
            tyre = turn @ shapes.turned((1, 0, 0), np.pi / 2)
            scene.add(wheel, dark, at + turn @ np.array([x * length, y + 0.1, 0.32]), tyre)


def _broadleaf(scene: Scene, rng: Rng, at: np.ndarray, height: float) -> None:
    """A tree by repeated forking; clumps of leaves at the ends."""
    bark, leaf = stuff(rng, "ringed", 0.3, PALETTE[10]), stuff(rng, "celled", 0.25, GREEN)
    ends = [(np.zeros(3), np.array([0, 0, height * 0.4]), height * 0.03)]
    for level in range(4):
        grown = []
        for start, way, thick in ends:
            tip = start + way + rng.normal(size=3) * 0.03 * height
            scene.add(
                shapes.tube(np.array([start, (start + tip) / 2 + rng.normal(size=3) * 0.01 * height, tip]), thick, 7),
                bark,
                at,
            )
            for _ in range(2):
                bent = 0.68 * way + rng.normal(size=3) * 0.24 * np.linalg.norm(way)
                grown.append((tip, bent, thick * 0.62))
        ends = grown if level < 3 else ends
    clump = superquadric(np.random.default_rng(8), np.array([1.0, 1, 0.8]))
    for start, way, _ in ends:
        scene.add(clump, leaf, at + start + way, shapes.any_turn(rng), height * rng.uniform(0.13, 0.24))


def streets(rng: Rng) -> Stage:
    """One bent street: houses with deep windows, pavements, parked cars, trees, lamps and a fence."""
    scene = Scene(outdoors(rng, fog_m=float(rng.choice([np.inf, 250.0]))))
    s = np.linspace(-60, 60, 61)
    bend = rng.uniform(-0.008, 0.008)
    line = np.c_[bend * s * s / 2 + 2 * np.sin(s / 30), s]
    road, walk = rng.uniform(3, 5), rng.uniform(1.6, 3)
    scene.add(_row(line, -road, road), stuff(rng, "mottled", 0.7, np.full(3, 0.16)))
    scene.add(shapes.floor(400, 400), stuff(rng, "mottled", 2, GREEN), (0, 0, -0.4))
    paving = stuff(rng, str(rng.choice(["slabs", "celled"])), 0.7, PALETTE[8])
    stripe = Material(np.full(3, 0.75), _NOTHING)
    for i in range(0, 60, 4):
        scene.add(_row(line[i : i + 3], -0.07, 0.07), stripe, (0, 0, 0.012))
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    walls = [
        stuff(rng, str(rng.choice(["slabs", "mottled", "veined"])), float(rng.choice([0.4, 1.0]))) for _ in range(6)
    ]
    pane, trim = Material(np.array([0.06, 0.08, 0.1]), _NOTHING, 0, 1, 0.9, 0.2), stuff(rng, "mottled", 0.5, PALETTE[1])
    metal = stuff(rng, "mottled", 0.3, PALETTE[7], gloss=0.6)
    for side in (-1, 1):
        kerb = _row(line, side * road, side * (road + walk))
        scene.add(kerb, paving, (0, 0, 0.14))
        rim = np.c_[line + side * road * np.c_[along[:, 1], -along[:, 0]], np.full(61, 0.05)]
        scene.add(shapes.tube(rim, 0.11, 6), trim)
        i = 0
        while i < 56:
            wide = int(rng.integers(3, 7))
            a = min(i + wide // 2, 60)
            ahead = np.array([*along[a], 0.0])
            right = np.array([along[a][1], -along[a][0], 0.0]) * side
            # Columns: along the street, away from it, up.
            turn = np.stack([ahead, right, np.array([0, 0, 1.0])], axis=1)
            front = np.array([*line[a], 0]) + right * (road + walk)
            if rng.random() < 0.12:
                _broadleaf(scene, rng, front + right * 3, rng.uniform(5, 9))
                i += wide
                continue
            length, storeys = wide * 2.0, int(rng.integers(2, 6))
            wall = walls[int(rng.integers(6))]
            scene.add(shapes.box(length, 9, storeys * 3.1), wall, front + right * 4.6, turn)
            if rng.random() < 0.6:
                roof = np.array([[-1, 0, 0], [1, 0, 0], [1, 0.5, 0.6], [-1, 0.5, 0.6], [1, 1, 0], [-1, 1, 0]]) * [
                    length / 2,
                    9.6,
                    4,
                ]
                faces = np.array([[0, 1, 2], [0, 2, 3], [3, 2, 4], [3, 4, 5]])
                scene.add((roof, faces), stuff(rng, "slabs", 0.4), front + right * -0.2 + [0, 0, storeys * 3.1], turn)
            count = max(1, int(length / 2.4))
            for storey in range(storeys):
                for c in range(count):
                    spot = front + turn @ np.array([(c - (count - 1) / 2) * length / count, 0.1, storey * 3.1 + 0.9])
                    door = storey == 0 and c == count // 2
                    if door:
                        spot = spot - [0, 0, 0.75]
                    scene.add(
                        shapes.box(1.0, 0.06, 2.1 if door else 1.5), trim if door else pane, spot - 0.02 * right, turn
                    )
                    for x, w, h, z in (
                        (-0.56, 0.14, 1.5, 0),
                        (0.56, 0.14, 1.5, 0),
                        (0, 1.3, 0.12, 1.5),
                        (0, 1.3, 0.12, -0.1),
                    ):
                        scene.add(shapes.box(w, 0.24, h), trim, spot - 0.1 * right + turn @ np.array([x, 0, z]), turn)
            i += wide
        for j in range(2, 58, int(rng.integers(4, 9))):
            edge = np.array([*line[j], 0.0]) + np.array([along[j][1], -along[j][0], 0]) * side * (road + 0.5)
            mast = np.array([[0, 0, 0], [0, 0, 4], [0.1, 0, 4.6], [0.9, 0, 4.9]]) * [-side, 1, 1]
            scene.add(shapes.tube(mast, 0.05, 8), metal, edge)
            if rng.random() < 0.4:
                _broadleaf(scene, rng, edge + [0, 3, 0], rng.uniform(3.5, 6))
        for j in range(1, 59, 3):
            if rng.random() < 0.45:
                spot = np.array([*line[j], 0.0]) + np.array([along[j][1], -along[j][0], 0]) * side * (road - 1.0)
                _vehicle(
                    scene, rng, spot, np.stack([[*along[j], 0], [-along[j][1], along[j][0], 0], [0, 0, 1]], axis=1)
                )

    def propose(rng: Rng) -> Camera:
        i = int(rng.integers(8, 52))
        way = 1 if rng.random() < 0.5 else -1
        right = np.array([along[i][1], -along[i][0]])
        at = line[i] + right * rng.uniform(-1, 1) * (road + walk * 0.8)
        target = line[np.clip(i + way * 8, 0, 60)] + right * rng.normal() * 4
        return held(rng, np.array([*at, rng.uniform(1.0, 2.2)]), np.array([*target, rng.uniform(0.5, 4)]))

    return Stage(scene, propose, 0.5)


def _heights(seed: int, side: int, reach: float, wave_m: float, octaves: int) -> np.ndarray:
    """Lattice noise over a square, float64 (side, side) in [0, 1]."""
    x, y = np.meshgrid(np.linspace(0, reach / wave_m, side), np.linspace(0, reach / wave_m, side))
    places = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)
    return rough(places, np.zeros(len(places)), seed, octaves).reshape(side, side).astype(np.float64)


def _height_at(field: np.ndarray, reach: float, xy: np.ndarray) -> np.ndarray:
    """Places (N, 3) on the nearest cell of the field."""
    cell = np.clip(np.rint((xy / reach + 0.5) * (len(field) - 1)), 0, len(field) - 1).astype(int)
    return np.c_[xy, field[cell[:, 1], cell[:, 0]]]


def hills(rng: Rng) -> Stage:
    """Folded hills to the horizon with cypresses, boulders, a path, a fence and a farm."""
    reach, side = 420.0, 170
    field = _heights(int(rng.integers(1 << 16)), side, reach, rng.uniform(50, 110), 5) * rng.uniform(15, 60)
    x, y = np.meshgrid(*[np.linspace(-reach / 2, reach / 2, side)] * 2)
    flat = np.exp(-(x * x + y * y) / 900)
    field = field * (1 - 0.7 * flat) + 0.7 * flat * field[side // 2, side // 2]
    scene = Scene(outdoors(rng, fog_m=float(rng.choice([np.inf, 300.0, 900.0]))))
    tint = [GREEN, PALETTE[6] * 0.8, np.array([0.3, 0.3, 0.18])][int(rng.integers(3))]
    scene.add(shapes.terrain(field, reach, reach), stuff(rng, "mottled", float(rng.uniform(1, 6)), tint))
    # Another range behind.
    angle = np.linspace(0, 2 * np.pi, 181)
    crest = 20 + 90 * lattice_noise(np.c_[6 * np.cos(angle), 6 * np.sin(angle), np.full(181, rng.uniform(0, 99))], 4)
    ring = np.stack(
        [
            np.c_[700 * np.cos(angle), 700 * np.sin(angle), np.full(181, -50.0)],
            np.c_[800 * np.cos(angle), 800 * np.sin(angle), crest],
        ]
    )
    scene.add(
        (ring.reshape(-1, 3), shapes.lattice(2, 181, wrap=False)),
        stuff(rng, "mottled", 60, np.array([0.2, 0.26, 0.24])),
    )
    cypress = shapes.lathe([(0, 0), (0.05, 0), (0.05, 0.1), (0.16, 0.2), (0.17, 0.4), (0.1, 0.75), (0, 1)], 16)
    green = [stuff(rng, "mottled", 0.1, GREEN * 0.6), stuff(rng, "mottled", 0.12, GREEN)]
    spots = np.concatenate([rng.normal(size=(25, 2)) * 35, rng.uniform(-0.4, 0.4, (90, 2)) * reach])
    for place in _height_at(field, reach, spots):
        if rng.random() < 0.5:
            scene.add(cypress, green[0], place - [0, 0, 0.3], None, rng.uniform(4, 11))
        else:
            crown = superquadric(np.random.default_rng(int(rng.integers(5))), np.array([1.0, 1.0, 0.8]))
            scene.add(crown, green[1], place + [0, 0, 0.8], shapes.yaw(rng.uniform(0, 6)), rng.uniform(1.2, 4))
    stone = stuff(rng, "veined", 0.5, PALETTE[8])
    for place in _height_at(field, reach, rng.normal(size=(30, 2)) * 12):
        scene.add(superquadric(rng, rng.uniform(0.2, 1.4, 3)), stone, place, shapes.any_turn(rng))
    posts = _height_at(field, reach, np.c_[np.arange(-20, 20, 2.0) + rng.normal(), 5 + 2 * np.sin(np.arange(20))])
    wood = stuff(rng, "ringed", 0.2, PALETTE[10])
    for place in posts:
        scene.add(shapes.box(0.12, 0.12, 1.3), wood, place - [0, 0, 0.1])
    for level in (0.5, 1.0):
        scene.add(shapes.tube(posts + [0, 0, level], 0.04, 6), wood)
    angles = rng.uniform(0, 2 * np.pi, 3)
    farms = np.c_[np.cos(angles), np.sin(angles)] * rng.uniform(30, 90, (3, 1))
    for place in _height_at(field, reach, farms):
        turn = shapes.yaw(rng.uniform(0, 6))
        scene.add(shapes.box(9, 6, 4.5), stuff(rng, "slabs", 0.5), place - [0, 0, 0.6], turn)
        scene.add(
            shapes.cylinder(6, 3, 4, top=0.4),
            stuff(rng, "slabs", 0.3, PALETTE[3]),
            place + [0, 0, 3.9],
            turn @ shapes.yaw(np.pi / 4),
        )

    def propose(rng: Rng) -> Camera:
        (at,) = _height_at(field, reach, rng.normal(size=(1, 2)) * 14)
        way = rng.uniform(0, 2 * np.pi)
        at = at + [0, 0, rng.uniform(1.3, 3.0)]
        return held(rng, at, at + [np.cos(way), np.sin(way), rng.normal() * 0.13 - 0.04])

    return Stage(scene, propose, 2.0)


def caves(rng: Rng) -> Stage:
    """A cavern between a rough floor and a rough roof that meet at its sides, with dripstones and pools."""
    reach, side = 26.0, 150
    x, y = np.meshgrid(*[np.linspace(-reach / 2, reach / 2, side)] * 2)
    seed = int(rng.integers(1 << 16))
    lower = _heights(seed, side, reach, 5.0, 4) * 2.2 - 1.1
    upper = 3.2 + _heights(seed + 70, side, reach, 4.0, 5) * 2.6 - 1.3
    # The middle line of the cavern swings; away from it the roof comes down and the floor up.
    away = np.abs(x - 3 * np.sin(y / 5 + rng.uniform(0, 6)))
    pinch = 0.28 * np.maximum(away - rng.uniform(1.5, 3), 0) ** 1.5
    lower, upper = lower + pinch, upper - pinch
    glow = float(rng.uniform(6, 14))
    warm = np.array([1.0, 0.8, 0.55]) if rng.random() < 0.6 else np.array([0.7, 0.85, 1.0])
    rock = stuff(
        rng,
        str(rng.choice(["mottled", "veined", "celled"])),
        0.7,
        [PALETTE[0], PALETTE[2], PALETTE[8]][int(rng.integers(3))],
        gloss=0.3,
    )
    lamps: list[np.ndarray] = []
    for _ in range(3):
        row = int(rng.integers(30, 120))
        column = int(np.argmin(away[row]))
        lamps.append(np.array([x[row, column], y[row, column], 0.35 * lower[row, column] + 0.65 * upper[row, column]]))
    base = indoors(rng, np.array(lamps), 3, ambient=0.12)
    scene = Scene(
        Light(
            base.sun,
            base.towards_sun,
            base.above,
            base.horizon * 0,
            base.below,
            tuple((lamp, warm * glow) for lamp in lamps),
        )
    )
    scene.add(shapes.terrain(lower, reach, reach), rock)
    scene.add(
        shapes.terrain(upper, reach, reach), rock if rng.random() < 0.6 else stuff(rng, "mottled", 0.6, PALETTE[2])
    )
    if rng.random() < 0.5:
        scene.add(
            shapes.floor(reach, reach), Material(np.array([0.03, 0.07, 0.08]), _NOTHING, 0, 1, 1.0, 0.4), (0, 0, -0.55)
        )
    for _ in range(int(rng.integers(10, 50))):
        row, column = rng.integers(5, side - 5, 2)
        gap = upper[row, column] - lower[row, column]
        if gap < 0.6:
            continue
        tall, thick = gap * rng.uniform(0.2, 0.8), rng.uniform(0.06, 0.35)
        z = np.linspace(0, 1, 12)
        stone = shapes.lathe(
            np.c_[thick * (1 - z) ** 0.7 * (1 + 0.15 * np.sin(14 * z + rng.uniform(0, 6))), z * tall], 18
        )
        if rng.random() < 0.55:
            scene.add(
                stone,
                rock,
                np.array([x[row, column], y[row, column], upper[row, column] + 0.1]),
                np.diag([1.0, -1, -1]),
            )
        else:
            scene.add(stone, rock, np.array([x[row, column], y[row, column], lower[row, column] - 0.1]))

    def propose(rng: Rng) -> Camera:
        row = int(rng.integers(12, side - 12))
        column = int(np.clip(np.argmin(away[row]) + rng.integers(-6, 7), 0, side - 1))
        up = rng.uniform(0.25, 0.7)
        at = np.array([x[row, column], y[row, column], (1 - up) * lower[row, column] + up * upper[row, column]])
        ahead = int(np.clip(row + rng.choice([-45, -30, 30, 45]), 0, side - 1))
        aim = int(np.argmin(away[ahead]))
        return held(rng, at, np.array([x[ahead, aim], y[ahead, aim], at[2] + rng.normal() * 0.9]))

    return Stage(scene, propose, 0.35)


def thin(rng: Rng) -> Stage:
    """Wires, bars, ladders, wheels, twigs and nets before a wall, a room or the open."""
    inside = rng.random() < 0.5
    lamps = np.array([[1.5, -2, 3.0], [-2, -2, 2.6]])
    scene = Scene(indoors(rng, lamps, 3.2, ambient=0.4) if inside else outdoors(rng))
    scene.add(shapes.floor(60, 60), stuff(rng, size_m=0.6))
    if inside or rng.random() < 0.4:
        scene.add(
            shapes.panel(40, 6), stuff(rng, size_m=0.8), (0, rng.uniform(2.5, 6), 0), shapes.yaw(rng.normal() * 0.3)
        )
    if inside:
        for side in (-1, 1):
            scene.add(shapes.panel(40, 6), stuff(rng, "mottled"), (side * 5, 0, 0), shapes.yaw(np.pi / 2))
        scene.add(shapes.panel(40, 6), stuff(rng, "mottled"), (0, -6, 0))
        scene.add(shapes.floor(60, 60), stuff(rng, "slabs", 1, PALETTE[1]), (0, 0, 4))
    for _ in range(int(rng.integers(3, 8))):
        material = stuff(rng, str(rng.choice(["mottled", "ringed"])), 0.2, gloss=float(rng.choice([0, 0.8])))
        at, turn = np.array([*(rng.uniform(-2.5, 2.5, 2) * [1, 0.8]), 0]), shapes.yaw(rng.normal() * 0.7)
        thick = rng.uniform(0.008, 0.03)
        match int(rng.integers(6)):
            case 0:  # a railing
                for x in np.arange(-1.2, 1.2, rng.uniform(0.1, 0.25)):
                    scene.add(shapes.tube(np.array([[x, 0, 0], [x, 0, 1.1]]), thick, 8), material, at, turn)
                for z in (0.1, 1.1):
                    scene.add(shapes.tube(np.array([[-1.2, 0, z], [1.2, 0, z]]), thick * 1.5, 8), material, at, turn)
            case 1:  # a ladder that leans
                lean = turn @ shapes.turned((1, 0, 0), -rng.uniform(0.1, 0.4))
                for x in (-0.22, 0.22):
                    scene.add(shapes.box(0.05, 0.03, 2.6), material, at + lean @ np.array([x, 0, 0]), lean)
                for z in np.arange(0.3, 2.5, 0.3):
                    scene.add(shapes.tube(np.array([[-0.22, 0, z], [0.22, 0, z]]), thick, 8), material, at, lean)
            case 2:  # a bicycle
                upright = turn @ shapes.turned((1, 0, 0), np.pi / 2)
                for x in (-0.52, 0.52):
                    hub = at + turn @ np.array([x, 0, 0.34])
                    scene.add(shapes.torus(0.32, 0.018, 40, 8), material, hub, upright)
                    for spoke in np.linspace(0, np.pi, 9)[:-1]:
                        reach = 0.31 * np.array([np.cos(spoke), 0, np.sin(spoke)])
                        scene.add(shapes.tube(np.array([-reach, reach]), 0.004, 5), material, hub, turn)
                knots = {
                    "rear": (-0.52, 0, 0.34),
                    "foot": (-0.08, 0, 0.3),
                    "seat": (-0.2, 0, 0.85),
                    "head": (0.36, 0, 0.8),
                    "front": (0.52, 0, 0.34),
                    "bar": (0.34, 0, 1.0),
                }
                for a, b in (
                    ("rear", "foot"),
                    ("rear", "seat"),
                    ("foot", "seat"),
                    ("foot", "head"),
                    ("seat", "head"),
                    ("head", "front"),
                    ("head", "bar"),
                ):
                    scene.add(shapes.tube(np.array([knots[a], knots[b]]), 0.018, 8), material, at, turn)
                scene.add(shapes.tube(np.array([[0.34, -0.28, 1.0], [0.34, 0.28, 1.0]]), 0.014, 8), material, at, turn)
                scene.add(
                    superquadric(np.random.default_rng(1), np.array([0.26, 0.14, 0.06])),
                    material,
                    at + turn @ np.array([-0.22, 0, 0.9]),
                    turn,
                )
            case 3:  # a bare bush
                ends = [(np.zeros(3), np.array([0, 0, 0.6]), 0.02)]
                for _ in range(4):
                    grown = []
                    for start, way, wide in ends:
                        tip = start + way
                        scene.add(shapes.tube(np.array([start, tip]), wide, 6), material, at)
                        grown += [
                            (tip, way * 0.75 + rng.normal(size=3) * 0.2 * np.linalg.norm(way) ** 0.5, wide * 0.7)
                            for _ in range(2)
                        ]
                    ends = grown
            case 4:  # a net or grating
                size = rng.uniform(0.8, 2, 2)
                step = rng.uniform(0.08, 0.25)
                for x in np.arange(-size[0] / 2, size[0] / 2, step):
                    scene.add(shapes.tube(np.array([[x, 0, 0], [x, 0, size[1]]]), thick * 0.6, 6), material, at, turn)
                for z in np.arange(0, size[1], step):
                    scene.add(
                        shapes.tube(np.array([[-size[0] / 2, 0, z], [size[0] / 2, 0, z]]), thick * 0.6, 6),
                        material,
                        at,
                        turn,
                    )
            case _:  # cables that sag between posts
                for z in rng.uniform(1.0, 2.8, 4):
                    x = np.linspace(-3, 3, 30)
                    scene.add(
                        shapes.tube(np.c_[x, 0 * x, z + 0.05 * (x * x - 9) * rng.uniform(0, 1)], thick * 0.5, 6),
                        material,
                        at,
                        turn,
                    )
                for x in (-3, 3):
                    scene.add(shapes.tube(np.array([[x, 0, 0], [x, 0, 2.9]]), 0.05, 10), material, at, turn)

    def propose(rng: Rng) -> Camera:
        at = np.array([rng.uniform(-2, 2), rng.uniform(-5, -3), rng.uniform(0.5, 2.0)])
        return held(rng, at, np.array([rng.uniform(-1.2, 1.2), 0.5, rng.uniform(0.3, 1.5)]))

    return Stage(scene, propose, 0.4)
