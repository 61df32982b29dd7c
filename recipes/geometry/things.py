"""Things that stand in the scenes for training: solids, people, walls, chairs, tables and shelves."""

# ruff: noqa: RUF005  (a vector plus a list adds up here)
from __future__ import annotations

import numpy as np

from omniloom.recipes.geometry import shapes
from omniloom.recipes.geometry.paint import Rng, paint
from omniloom.recipes.geometry.scene import Scene
from omniloom.recipes.geometry.shapes import TAU


def any_solid(rng: Rng, size: float) -> shapes.Mesh:
    """One of the simple solids, about `size` metres large, on the origin."""
    a, b = size * rng.uniform(0.3, 1.0, 2)
    match int(rng.integers(10)):
        case 0 | 1:
            return shapes.box(a, b, size * rng.uniform(0.2, 1))
        case 2:
            return shapes.sphere(a / 2)
        case 3:
            return shapes.cylinder(a / 2, b, int(rng.choice([5, 6, 8, 36])))
        case 4:
            return shapes.cylinder(a / 2, b, int(rng.choice([4, 6, 36])), top=a * rng.uniform(0, 0.4))
        case 5:
            return shapes.torus(a / 2, a * rng.uniform(0.08, 0.2))
        case 6:
            return shapes.capsule(a / 4, size)
        case 7:
            return shapes.moved(shapes.rock(rng, a / 2), (0, 0, 0.4 * a))
        case 8:
            z = np.linspace(0, b, 14)
            radius = a / 2 * (0.6 + 0.4 * np.sin(z / b * rng.uniform(2, 8) + rng.uniform(0, TAU)))
            return shapes.lathe(np.vstack([[0, 0], np.c_[radius, z], [0, b]]))
        case _:
            n = int(rng.integers(3, 9))
            angle = TAU * np.arange(n) / n
            return shapes.extrude(np.c_[np.cos(angle), np.sin(angle)] * a / 2 * rng.uniform(0.5, 1, (n, 1)), b)


def figure(scene: Scene, rng: Rng, at: np.ndarray, heading: float, height: float = 1.75) -> None:
    """Somebody standing, sitting or walking, of round pieces."""
    skin, shirt, trousers = (
        paint(rng, "plain", polish=0.1),
        paint(rng, size_m=(0.1, 0.6)),
        paint(rng, "plain", "grain"),
    )
    turn, s = shapes.yaw(heading), height / 1.75

    def part(length: float, radius: float, place: tuple[float, float, float], swing: float, material: object) -> None:
        lean = shapes.turned((1, 0, 0), swing)
        mesh = shapes.moved(shapes.capsule(radius, length, 16), (0, 0, -length), None)
        scene.add(mesh, material, at + s * turn @ np.array(place), turn @ lean, s)  # type: ignore[arg-type]

    stride, raised = rng.uniform(-0.5, 0.5), rng.uniform(-1.2, 1.2, 2)
    part(0.9, 0.085, (-0.1, 0, 0.92), stride, trousers)
    part(0.9, 0.085, (0.1, 0, 0.92), -stride, trousers)
    part(0.7, 0.17, (0, 0, 1.48), 0, shirt)
    part(0.68, 0.055, (-0.24, 0, 1.42), raised[0], shirt)
    part(0.68, 0.055, (0.24, 0, 1.42), raised[1], shirt)
    part(0.27, 0.11, (0, 0, 1.76), 0, skin)


def shell(scene: Scene, rng: Rng, width: float, depth: float, height: float, *, openings: int = 0) -> None:
    """Floor, ceiling and four walls around the origin; walls with openings are made of the pieces around them."""
    ground = paint(rng, "planks", "tiles", "noise", "checks", "plain", "grain", size_m=(0.6, 4), polish=0.5)
    wall = paint(rng, "plain", "bricks", "noise", "stripes", "stains", "tiles", "plain", size_m=(0.6, 4), polish=0.15)
    scene.add(shapes.floor(width, depth), ground)
    scene.add(shapes.floor(width, depth), paint(rng, "plain", "noise", "tiles", polish=0.1), (0, 0, height))
    holes = set(rng.permutation(4)[:openings].tolist())
    trim = paint(rng, "plain", "grain", polish=0.3)
    for number in range(4):
        turn = shapes.yaw(number * np.pi / 2)
        length, away = (width, depth / 2) if number % 2 == 0 else (depth, width / 2)
        material = wall if rng.random() < 0.8 else paint(rng, polish=0.2)
        place = turn @ np.array([0, away, 0])
        if number not in holes:
            scene.add(shapes.panel(length, height), material, place, turn)
        else:
            wide, sill = length * rng.uniform(0.25, 0.6), height * rng.choice([0.0, 0.35])
            top = height * rng.uniform(0.75, 0.92)
            middle = rng.uniform(-0.5, 0.5) * (length - wide - 0.2)
            left, right = middle - wide / 2, middle + wide / 2
            for x0, x1, z0, z1 in (
                (-length / 2, left, 0, height), (right, length / 2, 0, height),
                (left, right, 0, sill), (left, right, top, height),
            ):  # fmt: skip
                if x1 - x0 > 0.01 and z1 - z0 > 0.01:
                    scene.add(
                        shapes.box(x1 - x0, 0.2, z1 - z0),
                        material,
                        place + turn @ np.array([(x0 + x1) / 2, 0.1, z0]),
                        turn,
                    )
            for x in np.linspace(left, right, int(rng.integers(2, 5))):
                scene.add(shapes.box(0.06, 0.08, top - sill), trim, place + turn @ np.array([x, 0, sill]), turn)
        if rng.random() < 0.6:
            scene.add(
                shapes.box(length, 0.03, rng.uniform(0.05, 0.15)), trim, turn @ np.array([0, away - 0.015, 0]), turn
            )
        if number not in holes and rng.random() < 0.6:
            for _ in range(int(rng.integers(1, 4))):
                picture = shapes.box(rng.uniform(0.3, 1.2), 0.04, rng.uniform(0.3, 1.0))
                spot = [rng.uniform(-0.4, 0.4) * length, away - 0.02, rng.uniform(0.3, 0.6) * height]
                scene.add(picture, paint(rng, "letters", "leaves", "noise", polish=0.4), turn @ np.array(spot), turn)


def seat(scene: Scene, rng: Rng, at: np.ndarray, turn: np.ndarray) -> None:
    """A chair, stool or sofa."""
    wood, cloth = paint(rng, "grain", "plain"), paint(rng, size_m=(0.1, 0.8), polish=0.1)
    w, h = rng.uniform(0.4, 0.55), rng.uniform(0.4, 0.5)
    if rng.random() < 0.35:
        w = rng.uniform(0.9, 2.2)
        scene.add(shapes.box(w, 0.8, h), cloth, at, turn)
        scene.add(shapes.box(w, 0.2, h + 0.4), cloth, at + turn @ np.array([0, 0.4, 0]), turn)
        for side in (-1, 1):
            scene.add(shapes.box(0.18, 0.8, h + 0.18), cloth, at + turn @ np.array([side * w / 2, 0, 0]), turn)
        return
    for x in (-1, 1):
        for y in (-1, 1):
            scene.add(shapes.cylinder(0.02, h, 8), wood, at + turn @ np.array([x * w * 0.42, y * w * 0.42, 0]), turn)
    scene.add(shapes.box(w, w, 0.05), cloth, at + [0, 0, h], turn)
    scene.add(shapes.box(w, 0.04, rng.uniform(0.35, 0.6)), wood, at + turn @ np.array([0, w * 0.46, h]), turn)


def table(scene: Scene, rng: Rng, at: np.ndarray, turn: np.ndarray, things: int) -> None:
    """A table with things on it."""
    wood = paint(rng, "grain", "planks", "plain", "noise", polish=0.6)
    w, d, h = rng.uniform(0.6, 2.0), rng.uniform(0.5, 1.0), rng.uniform(0.4, 0.8)
    if rng.random() < 0.25:
        scene.add(shapes.cylinder(d * 0.6, 0.04, 40), wood, at + [0, 0, h])
        scene.add(shapes.cylinder(0.05, h, 16), wood, at)
        w = d
    else:
        scene.add(shapes.box(w, d, 0.04), wood, at + [0, 0, h], turn)
        for x in (-1, 1):
            for y in (-1, 1):
                scene.add(shapes.box(0.05, 0.05, h), wood, at + turn @ np.array([x * w * 0.45, y * d * 0.43, 0]), turn)
    for _ in range(things):
        spot = turn @ np.array([rng.uniform(-0.45, 0.45) * w, rng.uniform(-0.4, 0.4) * d, h + 0.04])
        scene.add(
            any_solid(rng, rng.uniform(0.1, 0.35)),
            paint(rng, size_m=(0.05, 0.5), polish=0.5),
            at + spot,
            shapes.yaw(rng.uniform(0, TAU)),
        )


def shelves(scene: Scene, rng: Rng, at: np.ndarray, turn: np.ndarray, width: float, height: float) -> None:
    """A bookcase with its books and things."""
    wood, deep = paint(rng, "grain", "plain", "planks"), rng.uniform(0.25, 0.5)
    rows = int(rng.integers(2, 6))
    for x in (-width / 2, width / 2):
        scene.add(shapes.box(0.03, deep, height), wood, at + turn @ np.array([x, 0, 0]), turn)
    if rng.random() < 0.7:
        scene.add(shapes.panel(width, height), wood, at + turn @ np.array([0, deep / 2, 0]), turn)
    books = [paint(rng, "plain", "stripes", "letters", size_m=(0.1, 0.5)) for _ in range(6)]
    gap = height / rows
    for row in range(rows + 1):
        scene.add(shapes.box(width, deep, 0.03), wood, at + turn @ np.array([0, 0, row * gap - 0.015]), turn)
        x = -width / 2 + 0.05
        while row < rows and x < width / 2 - 0.1:
            thick, tall = rng.uniform(0.03, 0.1), gap * rng.uniform(0.5, 0.85)
            if rng.random() < 0.2:
                x += rng.uniform(0.05, 0.4)
            elif rng.random() < 0.15:
                thick = min(0.3, gap * 0.7)
                mesh = any_solid(rng, thick)
                scene.add(
                    mesh,
                    paint(rng, size_m=(0.05, 0.4)),
                    at + turn @ np.array([x + thick / 2, 0, row * gap + 0.015]),
                    turn,
                )
            else:
                mesh = shapes.box(thick, deep * rng.uniform(0.5, 0.8), tall)
                scene.add(
                    mesh, books[int(rng.integers(6))], at + turn @ np.array([x + thick / 2, 0, row * gap + 0.015]), turn
                )
            x += thick + 0.005
