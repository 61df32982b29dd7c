"""Kinds of scenes within walls, or nowhere, that the embedded network is trained on."""

# ruff: noqa: RUF005  (a vector plus a list adds up here)
from __future__ import annotations

import numpy as np

from omniloom.recipes.geometry import shapes
from omniloom.recipes.geometry.paint import Rng, daylight, lamplight, paint
from omniloom.recipes.geometry.scene import Camera, Light, Scene, Stage, look
from omniloom.recipes.geometry.shapes import TAU
from omniloom.recipes.geometry.things import any_solid, figure, seat, shell, shelves, table


def tilt(rng: Rng) -> float:
    """A roll in radians: mostly level, as people hold cameras, at times anything."""
    return float(rng.normal() * 0.06 if rng.random() < 0.75 else rng.uniform(-np.pi, np.pi))


def field_of_view(rng: Rng) -> float:
    """Degrees across the width."""
    return float(rng.uniform(35, 90))


def room(rng: Rng) -> Stage:
    """A furnished room, perhaps with windows to the sky."""
    w, d, h = rng.uniform(2.5, 9), rng.uniform(2.5, 9), rng.uniform(2.2, 4)
    openings = int(rng.integers(0, 3))
    corner = np.array([w / 2, d / 2, h])
    scene = Scene(lamplight(rng, corner * [-1, -1, 0], corner, window=openings > 0))
    shell(scene, rng, w, d, h, openings=openings)
    for _ in range(int(rng.integers(3, 12))):
        at = np.array([rng.uniform(-0.42, 0.42) * w, rng.uniform(-0.42, 0.42) * d, 0])
        turn = shapes.yaw(rng.integers(4) * np.pi / 2 + rng.normal() * 0.15)
        match int(rng.integers(7)):
            case 0 | 1:
                seat(scene, rng, at, turn)
            case 2:
                table(scene, rng, at, turn, int(rng.integers(0, 7)))
            case 3:
                against = at * [1, 0, 0] + [0, d / 2 - 0.25, 0]
                shelves(scene, rng, against, shapes.yaw(0), rng.uniform(0.6, 1.6), rng.uniform(0.8, h * 0.85))
            case 4:
                scene.add(any_solid(rng, rng.uniform(0.3, 1.2)), paint(rng, size_m=(0.1, 1)), at, turn)
            case 5:
                size = rng.uniform(0.4, 2.0, 3) * [1, 0.6, 1]
                scene.add(shapes.box(*size), paint(rng, "grain", "plain", "planks", polish=0.4), at, turn)
            case _:
                figure(scene, rng, at, rng.uniform(0, TAU), rng.uniform(1.3, 1.9))
    if rng.random() < 0.5:
        scene.add(
            shapes.floor(rng.uniform(1, 3), rng.uniform(1, 3)),
            paint(rng, size_m=(0.2, 2)),
            (0, 0, 0.01),
            shapes.yaw(rng.uniform(0, TAU)),
        )

    def propose(rng: Rng) -> Camera:
        at = np.array([*(rng.uniform(-0.46, 0.46, 2) * [w, d]), rng.uniform(0.3, h - 0.2)])
        target = np.array(
            [*(rng.uniform(-0.5, 0.5, 2) * [w, d]), rng.uniform(0, h) if rng.random() < 0.4 else rng.uniform(0.3, 1.4)]
        )
        return look(at, target, field_of_view(rng), tilt(rng))

    return Stage(scene, propose)


def tunnel(rng: Rng) -> Stage:
    """A passage of any cross-section that bends and climbs, with pipes, doors and lamps."""
    n = int(rng.choice([4, 6, 8, 14, 24]))
    angle = TAU * (np.arange(n) + 0.5) / n
    w, h = rng.uniform(0.8, 3.5), rng.uniform(1.0, 2.5)
    ring = np.c_[np.clip(1.3 * np.cos(angle), -1, 1) * w, np.clip(1.3 * np.sin(angle), -1, 1) * h]
    steps = 40
    heading = np.cumsum(rng.normal(size=steps) * rng.choice([0.0, 0.06, 0.2]))
    climb = np.cumsum(np.r_[0, rng.normal(size=steps - 1)] * rng.choice([0.0, 0.1]))
    path = np.cumsum(np.c_[np.sin(heading), np.cos(heading), 0.3 * np.tanh(climb)], axis=0)
    side = np.c_[np.cos(heading), -np.sin(heading), np.zeros(steps)]
    grown = 1 + rng.choice([0.0, 0.15]) * rng.normal(size=(steps, n, 1))
    rings = path[:, None] + grown * (ring[:, :1] * side[:, None] + ring[:, 1:] * np.array([0, 0, 1.0]))
    lamps = tuple(
        (path[i] + [0, 0, h * 0.8], np.array([1, rng.uniform(0.7, 1), rng.uniform(0.4, 1)]) * rng.uniform(2, 8))
        for i in rng.integers(0, steps, 3)
    )
    base = lamplight(rng, -np.ones(3), np.ones(3))
    fog = float(rng.choice([np.inf, np.inf, 15.0]))
    scene = Scene(
        Light(base.sun * 0, base.towards_sun, base.above * 0.8, base.horizon * rng.random(), base.below, lamps, fog)
    )
    # Walls, floor and ceiling of a square passage differ; a round one is of one piece.
    faces = shapes.lattice(steps, n, wrap=True)
    which = faces[:, 0] % n
    parts = [np.abs(which - edge) < 1 for edge in range(n)] if n == 4 else [which >= 0]
    wall = paint(rng, "bricks", "tiles", "noise", "stains", "plain", "ridges", size_m=(0.5, 4), polish=0.3)
    for part in parts:
        material = (
            wall if rng.random() < 0.5 else paint(rng, "tiles", "plain", "noise", "planks", size_m=(0.5, 4), polish=0.4)
        )
        scene.add((rings.reshape(-1, 3), faces[part]), material)
    if n != 4:
        low = path + [0, 0, -0.62 * h]
        edge = np.stack([low - 2 * w * side, low + 2 * w * side], axis=1).reshape(-1, 3)
        scene.add(
            (edge, shapes.lattice(steps, 2, wrap=False)), paint(rng, "noise", "planks", "tiles", "strokes", polish=0.5)
        )
    for _ in range(int(rng.integers(0, 5))):
        spot = rng.uniform(-0.85, 0.85, 2) * [w, h]
        line = path + spot[0] * side + [0, 0, spot[1]]
        scene.add(shapes.tube(line, rng.uniform(0.02, 0.2)), paint(rng, "plain", "stains", "stripes", polish=0.6))
    for _ in range(int(rng.integers(2, 12))):
        i = int(rng.integers(steps))
        spot = path[i] + rng.uniform(-0.8, 0.8) * w * side[i] + [0, 0, -0.62 * h]
        if rng.random() < 0.3:
            figure(scene, rng, spot, rng.uniform(0, TAU), min(1.8, 1.4 * h))
        else:
            scene.add(any_solid(rng, rng.uniform(0.2, 1.0)), paint(rng), spot, shapes.yaw(rng.uniform(0, TAU)))

    def propose(rng: Rng) -> Camera:
        i = int(rng.integers(2, steps - 8))
        at = path[i] + rng.uniform(-0.6, 0.6) * w * side[i] + [0, 0, rng.uniform(-0.45, 0.6) * h]
        j = i + int(rng.choice([2, 4, 7])) * (1 if rng.random() < 0.75 or i < 9 else -1)
        target = path[j] + rng.uniform(-0.8, 0.8) * w * side[j] + [0, 0, rng.uniform(-0.7, 0.7) * h]
        return look(at, target, field_of_view(rng), tilt(rng))

    return Stage(scene, propose, 0.25)


def stairs(rng: Rng) -> Stage:
    """Flights of steps between walls, with railings."""
    width, rise, tread = rng.uniform(1.2, 4), rng.uniform(0.12, 0.22), rng.uniform(0.25, 0.45)
    steps = int(rng.integers(8, 22))
    inside = rng.random() < 0.6
    corner = np.array([width, steps * tread / 2 + 2, steps * rise + 3])
    light = lamplight(rng, -corner * [1, 1, 0], corner) if inside else daylight(rng)
    scene = Scene(light)
    stone = paint(rng, "noise", "tiles", "grain", "planks", "plain", size_m=(0.4, 3), polish=0.4)
    riser = stone if rng.random() < 0.5 else paint(rng, "plain", "noise")
    start = -steps * tread / 2
    for i in range(steps):
        scene.add(shapes.box(width, tread, rise), stone if i % 2 else riser, (0, start + i * tread, i * rise))
        scene.add(shapes.box(width, tread, 0.02), stone, (0, start + i * tread - 0.02, (i + 1) * rise))
    scene.add(shapes.floor(width * 4, 8), paint(rng, "tiles", "planks", "noise", polish=0.4), (0, start - 4, 0))
    scene.add(shapes.floor(width * 4, 8), paint(rng, "tiles", "planks", "noise"), (0, -start + 3.8, steps * rise))
    wall = paint(rng, "bricks", "plain", "noise", "tiles", "stains", size_m=(0.6, 4))
    for sign in (-1, 1):
        if inside or rng.random() < 0.5:
            place = (sign * (width / 2 + rng.choice([0, 0.02, 1.0])), 0, -1.0)
            scene.add(shapes.box(0.2, 16 - 2 * start, 5 + steps * rise), wall, place)
        for i in range(0, steps, 2):
            scene.add(shapes.cylinder(0.02, 0.9, 8), riser, (sign * width * 0.46, start + i * tread, i * rise + rise))
        rail = np.array([[sign * width * 0.46, start, rise + 0.9], [sign * width * 0.46, -start, steps * rise + 0.9]])
        scene.add(shapes.tube(rail, 0.03), paint(rng, "plain", "grain"))
    if inside:
        scene.add(shapes.floor(width * 4, 20 - 2 * start), paint(rng, "plain"), (0, 0, steps * rise + 3))
        scene.add(shapes.panel(width * 4, steps * rise + 4), wall, (0, -start + 5, 0))
        scene.add(shapes.panel(width * 4, steps * rise + 4), wall, (0, start - 6, 0))
    for _ in range(int(rng.integers(0, 6))):
        i = int(rng.integers(steps))
        at = np.array([rng.uniform(-0.4, 0.4) * width, start + i * tread, (i + 1) * rise])
        if rng.random() < 0.5:
            figure(scene, rng, at, rng.uniform(0, TAU))
        else:
            scene.add(any_solid(rng, rng.uniform(0.1, 0.4)), paint(rng), at)

    def propose(rng: Rng) -> Camera:
        y = rng.uniform(start - 4, -start + 3)
        ground = np.clip((y - start) / tread, 0, steps) * rise
        at = np.array([rng.uniform(-0.45, 0.45) * width, y, ground + rng.uniform(0.4, 2.0)])
        ahead = rng.uniform(start - 1, -start + 1)
        up = np.clip((ahead - start) / tread, 0, steps) * rise + rng.uniform(0, 1)
        return look(at, (rng.uniform(-0.5, 0.5) * width, ahead, up), field_of_view(rng), tilt(rng))

    return Stage(scene, propose)


def table_top(rng: Rng) -> Stage:
    """Many small things on a table, seen from near."""
    scene = Scene(lamplight(rng, np.array([-1.5, -1.5, 0.8]), np.array([1.5, 1.5, 2.2]), window=rng.random() < 0.3))
    scene.add(
        shapes.box(rng.uniform(0.8, 2), rng.uniform(0.7, 1.4), 0.05),
        paint(rng, size_m=(0.2, 2), polish=0.6),
        (0, 0, -0.05),
        shapes.yaw(rng.uniform(0, TAU)),
    )
    scene.add(shapes.floor(9, 9), paint(rng, "planks", "tiles", "noise", "checks"), (0, 0, -0.75))
    if rng.random() < 0.8:
        for number in range(4):
            turn = shapes.yaw(number * np.pi / 2)
            scene.add(
                shapes.panel(9, 4),
                paint(rng, size_m=(0.5, 3), polish=0.1),
                turn @ np.array([0, rng.uniform(1, 4.4), -0.75]),
                turn,
            )
    for _ in range(int(rng.integers(5, 28))):
        at = np.array([*(rng.normal(size=2) * 0.28), 0])
        mesh, size = any_solid(rng, rng.uniform(0.05, 0.35)), rng.uniform(0.7, 1.2, 3)
        turn = shapes.yaw(rng.uniform(0, TAU))
        if rng.random() < 0.3:  # fallen over, or leaning
            turn, at = turn @ shapes.turned((1, 0, 0), rng.uniform(0.2, 1.57)), at + [0, 0, 0.05]
        scene.add(mesh, paint(rng, size_m=(0.04, 0.6), polish=0.5), at, turn, size)

    def propose(rng: Rng) -> Camera:
        angle, away = rng.uniform(0, TAU), rng.uniform(0.5, 1.6)
        up = rng.uniform(0.04, 1.0)
        return look(
            np.array([np.cos(angle), np.sin(angle), up]) * away,
            [*(rng.normal(size=2) * 0.15), rng.uniform(0, 0.15)],
            field_of_view(rng),
            tilt(rng),
        )

    return Stage(scene, propose, 0.12)


def warehouse(rng: Rng) -> Stage:
    """A hall with rows of racks, pillars, crates and beams under the roof."""
    w, d, h = rng.uniform(12, 40), rng.uniform(15, 60), rng.uniform(4, 9)
    corner = np.array([w / 2, d / 2, h])
    light = lamplight(rng, corner * [-1, -1, 0.7], corner, window=rng.random() < 0.3)
    scene = Scene(light)
    shell(scene, rng, w, d, h, openings=int(rng.integers(0, 2)))
    steel = paint(rng, "plain", "stains", polish=0.5)
    for x in np.arange(-w / 2 + 2, w / 2, rng.uniform(4, 8)):
        scene.add(shapes.box(0.2, d, 0.4), steel, (x, 0, h - 0.5))
        for y in np.arange(-d / 2 + 2, d / 2, rng.uniform(5, 9)):
            if rng.random() < 0.6:
                scene.add(
                    shapes.box(0.3, 0.3, h) if rng.random() < 0.5 else shapes.cylinder(0.2, h, 20), steel, (x, y, 0)
                )
    crates = [paint(rng, "planks", "plain", "letters", "grain", "stripes", size_m=(0.5, 2)) for _ in range(8)]
    for x in np.arange(-w / 2 + 1.5, w / 2 - 1, rng.uniform(3, 6)):
        levels, gap = int(rng.integers(1, 4)), rng.uniform(1.0, 2.0)
        for y in np.arange(-d / 2 + 3, d / 2 - 3, 2.0):
            for level in range(levels):
                if rng.random() < 0.65:
                    size = rng.uniform(0.4, 0.95, 3) * [1.2, 1.8, gap]
                    scene.add(
                        shapes.box(*size),
                        crates[int(rng.integers(8))],
                        (x + rng.normal() * 0.1, y, level * gap),
                        shapes.yaw(rng.normal() * 0.08),
                    )
            scene.add(shapes.box(0.08, 0.08, levels * gap), steel, (x - 0.65, y - 1, 0))
        for level in range(1, levels):
            scene.add(shapes.box(1.3, d - 6, 0.06), steel, (x, 0, level * gap - 0.06))
    for _ in range(int(rng.integers(0, 5))):
        figure(
            scene, rng, np.array([rng.uniform(-0.45, 0.45) * w, rng.uniform(-0.45, 0.45) * d, 0]), rng.uniform(0, TAU)
        )

    def propose(rng: Rng) -> Camera:
        at = np.array([*(rng.uniform(-0.46, 0.46, 2) * [w, d]), rng.uniform(0.5, h - 0.8)])
        target = np.array([*(rng.uniform(-0.5, 0.5, 2) * [w, d]), rng.uniform(0, h * 0.7)])
        return look(at, target, field_of_view(rng), tilt(rng))

    return Stage(scene, propose, 0.4)


def floating(rng: Rng) -> Stage:
    """Solids of every size and turn in mid-air before textured planes: a place in the picture tells nothing."""
    inside = rng.random() < 0.6
    scene = Scene(lamplight(rng, -3 * np.ones(3), 3 * np.ones(3)) if inside else daylight(rng))
    for _ in range(int(rng.integers(0, 4))):
        axis = shapes.any_turn(rng)
        scene.add(
            shapes.panel(60, 60),
            paint(rng, size_m=(0.5, 8), polish=0.3),
            axis @ np.array([0, rng.uniform(4, 14), -30]),
            axis,
        )
    for _ in range(int(rng.integers(4, 40))):
        mesh = any_solid(rng, rng.uniform(0.3, 3.0))
        at = rng.normal(size=3) * 3.0
        scene.add(mesh, paint(rng, size_m=(0.1, 2), polish=0.5), at, shapes.any_turn(rng), rng.uniform(0.5, 1.3, 3))

    def propose(rng: Rng) -> Camera:
        at = rng.normal(size=3)
        at *= rng.uniform(2, 9) / np.linalg.norm(at)
        return look(at, rng.normal(size=3) * 1.2, field_of_view(rng), float(rng.uniform(-np.pi, np.pi)))

    return Stage(scene, propose, 0.4)


def oblique(rng: Rng) -> Stage:
    """Two or three large planes that meet, seen at a slant, with flat and shallow things on them."""
    scene = Scene(daylight(rng) if rng.random() < 0.6 else lamplight(rng, -4 * np.ones(3), 4 * np.ones(3)))
    ground = paint(rng, "tiles", "bricks", "noise", "planks", "checks", "letters", "strokes", size_m=(0.4, 5))
    scene.add(shapes.floor(60, 60), ground)
    planes = [np.eye(3)]
    for number in range(int(rng.integers(1, 3))):
        turn = shapes.yaw(rng.uniform(-0.8, 0.8) + number * rng.uniform(1.2, 2.2)) @ shapes.turned(
            (1, 0, 0), rng.normal() * 0.15
        )
        place = turn @ np.array([0, rng.uniform(1.5, 6), -0.5])
        scene.add(
            shapes.panel(60, rng.uniform(2, 12)),
            paint(rng, "bricks", "windows", "planks", "stains", "letters", "plain", size_m=(0.5, 6)),
            place,
            turn,
        )
        planes.append(turn)
        for _ in range(int(rng.integers(2, 14))):
            spot = place + turn @ np.array([rng.normal() * 4, 0, rng.uniform(0.3, 4)])
            mesh = shapes.box(rng.uniform(0.1, 1.5), rng.uniform(0.05, 0.6), rng.uniform(0.1, 1.5))
            scene.add(mesh, paint(rng, size_m=(0.1, 2)), spot, turn)
    for _ in range(int(rng.integers(0, 8))):
        scene.add(
            any_solid(rng, rng.uniform(0.2, 1.2)),
            paint(rng),
            (*(rng.normal(size=2) * 2), 0),
            shapes.yaw(rng.uniform(0, TAU)),
        )

    def propose(rng: Rng) -> Camera:
        at = np.array([*(rng.normal(size=2) * 1.2), rng.uniform(0.3, 4)])
        target = at + [*(rng.normal(size=2) * 2 + [0, 1]), rng.normal() * 1.0]
        return look(at, target, field_of_view(rng), tilt(rng))

    return Stage(scene, propose)
