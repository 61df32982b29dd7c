"""Crowded rooms that the embedded network is trained on: furniture along the walls, slanted roofs, beams, corners."""

# ruff: noqa: RUF005  (a vector plus a list adds up here)
from __future__ import annotations

import numpy as np

from omniloom.recipes.geometry import shapes
from omniloom.recipes.geometry.paint import Rng, lamplight, paint
from omniloom.recipes.geometry.scene import Camera, Scene, Stage, look
from omniloom.recipes.geometry.scenes_train import tilt
from omniloom.recipes.geometry.scenes_train_outside import grass
from omniloom.recipes.geometry.shapes import TAU
from omniloom.recipes.geometry.things import any_solid, figure, seat, shell, shelves, table


def _boxes(scene: Scene, rng: Rng, at: np.ndarray, turn: np.ndarray, wide: float) -> None:
    """A cupboard, a chest or a worktop: fronts, a plinth, handles, things on top."""
    deep, tall = rng.uniform(0.35, 0.7), rng.choice([rng.uniform(0.6, 1.0), rng.uniform(1.6, 2.2)])
    wood = paint(rng, "grain", "plain", "planks", "plain", polish=0.4)
    front, grip = paint(rng, "grain", "plain", "stripes", polish=0.4), paint(rng, "plain", polish=0.9)
    scene.add(shapes.box(wide, deep, tall), wood, at, turn)
    doors = max(1, round(wide / rng.uniform(0.35, 0.6)))
    rows = int(rng.integers(1, 5)) if tall < 1.2 else 1
    for i in range(doors):
        for j in range(rows):
            size = np.array([wide / doors, (tall - 0.08) / rows])
            spot = np.array([(i + 0.5) * size[0] - wide / 2, -deep / 2 - 0.01, 0.08 + j * size[1]])
            scene.add(shapes.box(size[0] - 0.015, 0.02, size[1] - 0.015), front, at + turn @ spot, turn)
            knob = spot + [0.35 * size[0] * (-1) ** i, -0.02, 0.5 * size[1]]
            scene.add(shapes.box(0.02, 0.03, min(0.12, 0.3 * size[1])), grip, at + turn @ knob, turn)
    for _ in range(int(rng.integers(0, 6)) if tall < 1.5 else 0):
        spot = np.array([rng.uniform(-0.45, 0.45) * wide, rng.uniform(-0.3, 0.3) * deep, tall])
        scene.add(
            any_solid(rng, rng.uniform(0.1, 0.4)), paint(rng, size_m=(0.05, 0.5), polish=0.5), at + turn @ spot, turn
        )
    if tall < 1.5 and rng.random() < 0.4:  # a screen, or cupboards above
        if rng.random() < 0.5:
            spot = turn @ np.array([0, 0.1, tall + 0.05])
            scene.add(shapes.box(min(wide, 1.1), 0.05, 0.6), paint(rng, "plain", "letters", polish=1), at + spot, turn)
        else:
            spot = turn @ np.array([0, 0.5 * deep - 0.17, tall + 0.55])
            scene.add(shapes.box(wide, 0.33, 0.65), wood, at + spot, turn)


def _bed(scene: Scene, rng: Rng, at: np.ndarray, turn: np.ndarray) -> None:
    wide, long = rng.uniform(0.9, 1.9), rng.uniform(1.9, 2.2)
    wood, cloth = paint(rng, "grain", "plain"), paint(rng, size_m=(0.1, 1.2), polish=0)
    scene.add(shapes.box(wide, long, 0.25), wood, at, turn)
    scene.add(shapes.box(wide * 0.97, long * 0.97, 0.25), paint(rng, "plain", polish=0), at + [0, 0, 0.25], turn)
    # The cover is a heap of soft waves.
    x, y = np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 24))
    wave = sum(np.sin(x * rng.normal() * 4 + y * rng.normal() * 4 + rng.uniform(0, TAU)) for _ in range(5))
    high = 0.53 + 0.012 * wave - 0.25 * np.clip(np.maximum(np.abs(x), np.abs(y)) * 10 - 9, 0, 1)
    cover = shapes.terrain(high, wide * 1.04, long * rng.uniform(0.5, 0.9))
    scene.add(cover, cloth, at + turn @ np.array([0, -0.12 * long, 0]), turn)
    scene.add(shapes.box(wide, 0.06, rng.uniform(0.6, 1.2)), wood, at + turn @ np.array([0, long / 2, 0]), turn)
    for side in (-0.24, 0.24) if wide > 1.3 else (0.0,):
        pillow = shapes.moved(shapes.sphere(0.5, 20), (0, 0, 0), None, [0.6, 0.4, 0.18])
        scene.add(
            pillow,
            paint(rng, "plain", "stripes", polish=0),
            at + turn @ np.array([side * wide, 0.36 * long, 0.47]),
            turn,
        )


def _curtain(scene: Scene, rng: Rng, at: np.ndarray, turn: np.ndarray, wide: float, tall: float) -> None:
    s = np.linspace(0, 1, 80)
    fold = 0.04 * np.sin(s * rng.uniform(20, 60)) + 0.02 * np.sin(s * 11 + 1)
    line = np.c_[(s - 0.5) * wide, fold - 0.1]
    rings = np.stack([np.c_[line * [1, 1], np.full(80, 0.03)], np.c_[line * [1, 0.7], np.full(80, tall)]])
    cloth = paint(rng, "plain", "stripes", "leaves", "dots", size_m=(0.2, 1.5), polish=0)
    scene.add((rings.reshape(-1, 3), shapes.lattice(2, 80, wrap=False)), cloth, at, turn)


def _upright(scene: Scene, rng: Rng, at: np.ndarray, high: float) -> None:
    """A lamp on a pole, a plant in a pot, or a stack of cartons."""
    match int(rng.integers(3)):
        case 0:
            tall = min(rng.uniform(1.1, 1.8), 0.8 * high)
            scene.add(shapes.cylinder(0.015, tall, 8), paint(rng, "plain", polish=0.8), at)
            scene.add(shapes.cylinder(0.16, 0.02, 20), paint(rng, "plain"), at)
            shade = shapes.cylinder(0.2, 0.28, 20, top=rng.uniform(0.08, 0.2))
            scene.add(shade, paint(rng, "plain", "stripes", glow=rng.choice([0.0, 1.5])), at + [0, 0, tall - 0.1])
        case 1:
            pot = rng.uniform(0.2, 0.4)
            scene.add(shapes.cylinder(0.35 * pot, pot, 20, top=0.5 * pot), paint(rng, "plain", "noise", "tiles"), at)
            blades = at + [0, 0, pot] + rng.normal(size=(60, 3)) * [0.03, 0.03, 0.01]
            leaf = paint(rng, "plain", "leaves", tint=np.array([0.12, 0.3, 0.07]), polish=0.2)
            scene.add(grass(rng, blades, rng.uniform(0.4, 1.2)), leaf)
        case _:
            top = 0.0
            for _ in range(int(rng.integers(1, 5))):
                size = rng.uniform(0.25, 0.6, 3) * [1, 1, 0.8]
                card = paint(rng, "plain", "letters", "stripes", size_m=(0.2, 1))
                scene.add(
                    shapes.box(*size), card, at + [*(rng.normal(size=2) * 0.04), top], shapes.yaw(rng.normal() * 0.3)
                )
                top += size[2]


def home(rng: Rng) -> Stage:
    """A lived-in room, its furniture along the walls and in the middle, under a flat or a slanted ceiling."""
    w, d, h = rng.uniform(2.2, 8), rng.uniform(2.2, 8), rng.uniform(2.0, 3.6)
    openings = int(rng.integers(0, 3))
    corner = np.array([w / 2, d / 2, h])
    scene = Scene(lamplight(rng, corner * [-1, -1, 0.1], corner, window=openings > 0))
    shell(scene, rng, w, d, h, openings=openings)
    wall = paint(rng, "plain", "planks", "bricks", "stripes", "noise", size_m=(0.6, 4), polish=0.1)
    if rng.random() < 0.25:  # under the roof
        lean = rng.uniform(0.4, 1.0)
        for side in (-1, 1):
            slope = shapes.turned((0, 1, 0), side * lean)
            scene.add(shapes.floor(4 * h, d), wall, (side * w / 2, 0, rng.uniform(0.4, 1.2)), slope)
    if rng.random() < 0.35:  # beams, or a lowered part
        for x in np.arange(-w / 2, w / 2, rng.uniform(0.6, 1.6)):
            scene.add(shapes.box(0.14, d, 0.2), wall, (x, 0, h - 0.2))
    if rng.random() < 0.45:  # a wall that juts out, or a pillar
        at = np.array([rng.uniform(-0.4, 0.4) * w, rng.choice([-1, 1]) * d * 0.35, 0])
        scene.add(shapes.box(rng.uniform(0.12, 0.9), d * rng.uniform(0.1, 0.35), h), wall, at)
    for number in range(4):
        turn = shapes.yaw(number * np.pi / 2)
        length, away = (w, d / 2) if number % 2 == 0 else (d, w / 2)
        x = -length / 2 + rng.uniform(0.2, 0.8)
        while x < length / 2 - 0.8:
            wide = min(rng.uniform(0.5, 2.0), length / 2 - 0.2 - x)
            at = turn @ np.array([x + wide / 2, away - 0.37, 0])
            match int(rng.integers(9)):
                case 0 | 1 | 2:
                    _boxes(scene, rng, at, turn, wide)
                case 3:
                    shelves(scene, rng, at, turn, wide, rng.uniform(0.8, 0.9 * h))
                case 4:
                    seat(scene, rng, at, turn)
                case 5:
                    table(scene, rng, at, turn, int(rng.integers(1, 8)))
                case 6:
                    _upright(scene, rng, at, h)
                case 7:
                    _curtain(scene, rng, turn @ np.array([x + wide / 2, away, 0]), turn, wide, 0.9 * h)
                case _:
                    pass
            x += wide + rng.choice([0.02, rng.uniform(0.1, 1.0)])
    for _ in range(int(rng.integers(1, 7))):
        at = np.array([rng.uniform(-0.3, 0.3) * w, rng.uniform(-0.3, 0.3) * d, 0])
        turn = shapes.yaw(rng.integers(4) * np.pi / 2 + rng.normal() * 0.2)
        match int(rng.integers(7)):
            case 0 | 1:
                seat(scene, rng, at, turn)
            case 2:
                table(scene, rng, at, turn, int(rng.integers(0, 9)))
            case 3:
                _bed(scene, rng, at, turn)
            case 4:
                _upright(scene, rng, at, h)
            case 5:
                scene.add(any_solid(rng, rng.uniform(0.2, 0.8)), paint(rng, size_m=(0.1, 1)), at, turn)
            case _:
                figure(scene, rng, at, rng.uniform(0, TAU), rng.uniform(1.2, 1.9))
    if rng.random() < 0.5:
        rug = shapes.floor(rng.uniform(1, 3), rng.uniform(1, 3))
        scene.add(rug, paint(rng, size_m=(0.2, 2), polish=0), (0, 0, 0.012), shapes.yaw(rng.normal() * 0.3))
    if rng.random() < 0.5:
        hang = rng.uniform(0.3, 0.9)
        scene.add(shapes.cylinder(0.008, hang, 6), paint(rng, "plain"), (0.3, 0, h - hang))
        shade = shapes.cylinder(rng.uniform(0.1, 0.3), 0.2, 24, top=0.06)
        scene.add(shade, paint(rng, "plain", glow=1.0), (0.3, 0, h - hang - 0.1))

    def propose(rng: Rng) -> Camera:
        at = np.array([*(rng.uniform(-0.47, 0.47, 2) * [w, d]), rng.uniform(0.3, min(h - 0.2, 2.2))])
        target = np.array([*(rng.uniform(-0.5, 0.5, 2) * [w, d]), rng.uniform(0, h)])
        if rng.random() < 0.6:
            target[2] = rng.uniform(0.3, 1.5)
        return look(at, target, float(rng.uniform(30, 105)), tilt(rng))

    return Stage(scene, propose, 0.3)
