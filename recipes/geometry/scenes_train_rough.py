"""Rough, grown places that the embedded network is trained on: hollows with close ceilings, and rocks with arches."""

from __future__ import annotations

import numpy as np

from omniloom.recipes.geometry import shapes
from omniloom.recipes.geometry.hollow import blended, noise3, surface
from omniloom.recipes.geometry.paint import Rng, colour, daylight, lamplight, paint
from omniloom.recipes.geometry.scene import Camera, Light, Scene, Stage, look
from omniloom.recipes.geometry.scenes_train import field_of_view, tilt
from omniloom.recipes.geometry.shapes import TAU
from omniloom.recipes.geometry.things import any_solid, figure

_ACROSS = 88
"""Points of the grid along its longest side."""


class _Grid:
    """Points over a box of `size` (3,) metres around the origin."""

    def __init__(self, size: np.ndarray) -> None:
        self.cell_m = float(size.max() / _ACROSS)
        across, deep, tall = (int(n) for n in np.maximum(size / self.cell_m, 12))
        self.shape = (across, deep, tall)
        self.corner = -0.5 * self.cell_m * (np.array(self.shape) - 1)
        axes = [c + self.cell_m * np.arange(n) for c, n in zip(self.corner, self.shape, strict=True)]
        self.x, self.y, self.z = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij", sparse=True)

    def ball(self, at: np.ndarray, radius: np.ndarray) -> np.ndarray:
        """About the distance to an ellipsoid, negative inside."""
        x, y, z = ((p - a) / r for p, a, r in zip((self.x, self.y, self.z), at, radius, strict=True))
        return (np.sqrt(x * x + y * y + z * z) - 1) * radius.min()

    def rough(self, rng: Rng) -> np.ndarray:
        """Noise of one of many grains, some with ledges or flutes."""
        stretch = np.ones(3)
        if rng.random() < 0.5:
            stretch[int(rng.choice([0, 2, 2]))] = rng.choice([0.3, 0.5, 2.5, 4.0])
        field = noise3(rng, self.shape, rng.uniform(1.7, 2.8), stretch)
        if rng.random() < 0.3:
            field = 1.6 * np.abs(field) - 1  # crests and clefts
        return field

    def near(self, chosen: np.ndarray, rng: Rng, count: int) -> np.ndarray:
        """Some of the chosen points (X, Y, Z), in metres, (count, 3)."""
        flat = np.flatnonzero(chosen)
        picked = np.stack(np.unravel_index(rng.choice(flat, count), self.shape), axis=1)
        return self.corner + self.cell_m * picked

    def below(self, field: np.ndarray, spot: np.ndarray) -> float | None:
        """Height of the ground under a place in the open, where there is one."""
        i, j, k = np.clip(((spot - self.corner) / self.cell_m).astype(int), 0, np.array(self.shape) - 1)
        solid = np.flatnonzero(field[i, j, : k + 1] > 0)
        return float(self.corner[2] + self.cell_m * (solid[-1] + 0.5)) if len(solid) else None


def _clad(scene: Scene, rng: Rng, mesh: shapes.Mesh, span: float, level: float) -> None:
    """Adds a rough surface of one to three materials: by height, as strata, or floor and wall."""
    stone = ("noise", "stains", "strokes", "leaves", "plain", "grain", "ridges", "dots")
    tint = colour(rng, 0.05, 0.8, 0.6)
    size_m = (span / 40, span / 4)
    vertices, faces = mesh
    middle = vertices[faces].mean(axis=1)
    wave = 0.06 * span * np.sin(middle[:, :2] @ rng.normal(size=2) * 4 / span)
    parts = np.zeros(len(faces), int)
    if rng.random() < 0.6:
        parts += middle[:, 2] < level
    if rng.random() < 0.4:
        parts += 2 * ((middle[:, 2] + wave) * rng.uniform(1, 8) / span % 1 < rng.uniform(0.2, 0.6))
    for part in np.unique(parts):
        tone = tint * rng.uniform(0.5, 1.6) if rng.random() < 0.7 else colour(rng)
        scene.add((vertices, faces[parts == part]), paint(rng, *stone, tint=tone, size_m=size_m, polish=0.25))


def _strew(scene: Scene, rng: Rng, grid: _Grid, field: np.ndarray, span: float) -> None:
    """Stones, solids and people on the ground, and stones hung from nothing: fallen or wedged."""
    stone = [paint(rng, "noise", "stains", "plain", size_m=(span / 60, span / 8), polish=0.2) for _ in range(2)]
    for spot in grid.near(field < -grid.cell_m, rng, int(rng.integers(2, 22))):
        floor = grid.below(field, spot)
        if floor is None:
            continue
        at, size = np.array([spot[0], spot[1], floor]), span * np.exp(rng.uniform(np.log(0.01), np.log(0.08)))
        what = rng.random()
        if what < 0.6:
            scene.add(shapes.rock(rng, size, 0.4, 16), stone[int(rng.integers(2))], at, shapes.any_turn(rng))
        elif what < 0.85:
            scene.add(any_solid(rng, 2 * size), paint(rng, size_m=(span / 60, span / 8)), at, shapes.any_turn(rng))
        elif span < 20:
            figure(scene, rng, at, rng.uniform(0, TAU), min(1.8, 0.2 * span))


def grotto(rng: Rng) -> Stage:
    """Inside connected blobs: a rough hollow, lit by a lamp that somebody carries or by daylight through holes."""
    span = float(np.exp(rng.uniform(np.log(3), np.log(40))))
    grid = _Grid(span * np.array([1, rng.uniform(0.5, 1), rng.uniform(0.3, 0.75)]))
    half = -grid.corner
    spot, heading = rng.uniform(-0.6, 0.6, 3) * half, rng.uniform(0, TAU)
    blobs: list[np.ndarray] = []
    for _ in range(int(rng.integers(3, 9))):
        radius = span * rng.uniform(0.06, 0.22) * np.array([*rng.uniform(0.6, 1.6, 2), rng.uniform(0.4, 1.2)])
        radius = np.minimum(radius, 0.9 * half)
        blobs.append(grid.ball(spot, radius))
        heading += rng.normal() * 0.9
        step = np.array([np.cos(heading), np.sin(heading), rng.normal() * 0.4]) * radius.max() * rng.uniform(0.8, 1.6)
        spot = spot + step
        spot = np.where(np.abs(spot) > 0.85 * half, 0.5 * spot - 0.3 * step, spot)
    field = blended(blobs, span * rng.uniform(0.005, 0.05))
    field = field + span * np.exp(rng.uniform(np.log(0.006), np.log(0.07))) * grid.rough(rng)
    level = float(np.quantile(np.broadcast_to(grid.z, grid.shape)[field < 0], rng.uniform(0.02, 0.45)))
    if rng.random() < 0.65:  # mud or sand has filled the bottom
        slope = rng.normal(size=2) * 0.12
        bed = level + slope[0] * grid.x + slope[1] * grid.y - grid.z
        field = np.maximum(field, bed + span * rng.uniform(0, 0.008) * grid.rough(rng))
    for _ in range(int(rng.choice([0, 0, 1, 3, 6]))):  # pillars that thicken towards both ends
        foot = rng.uniform(-0.8, 0.8, 2) * half[:2]
        waist = span * rng.uniform(0.008, 0.04) * (1 + rng.uniform(0, 9) * (grid.z / half[2] + rng.normal() * 0.3) ** 2)
        field = np.maximum(field, waist - np.hypot(grid.x - foot[0], grid.y - foot[1]))
    if rng.random() < 0.55:  # walled in on all sides
        for axis in range(3):
            np.moveaxis(field, axis, 0)[[0, -1]] = span
    open_to = field < -0.02 * span
    if open_to.sum() < 50:
        return grotto(rng)
    spots = grid.near(open_to, rng, 5)
    base, day = lamplight(rng, -half, half), daylight(rng, haze_m=None)
    lamps = tuple(
        (spot + rng.normal(size=3) * 0.012 * span, np.array([1, rng.uniform(0.7, 1), rng.uniform(0.4, 1)]) * power)
        for spot, power in zip(spots, span**2 * rng.uniform(0.005, 0.06, 5), strict=True)
    )[: int(rng.integers(1, 6))]
    outside, dim = rng.random() < 0.5, rng.uniform(0.0, 0.25)
    if outside and rng.random() < 0.5:
        lamps = ()
    dim = max(dim, 0.08) if outside else dim
    glow = (day if outside else base).above * dim
    fog = float(span * rng.uniform(0.5, 3)) if rng.random() < 0.2 else np.inf
    sky = day.horizon * (2.0 if outside else 0.02)
    scene = Scene(Light(day.sun * 2 * outside, day.towards_sun, glow, sky, glow * rng.uniform(0.4, 1), lamps, fog))
    _clad(scene, rng, surface(field, grid.corner, grid.cell_m), span, level + 0.02 * span)
    _strew(scene, rng, grid, field, span)

    def propose(rng: Rng) -> Camera:
        at = spots[int(rng.integers(len(spots)))] + rng.normal(size=3) * 0.01 * span
        (target,) = grid.near(open_to, rng, 1)
        if np.linalg.norm(target - at) < 0.02 * span:
            target = at + rng.normal(size=3) * [1, 1, 0.3]
        return look(at, target, field_of_view(rng), tilt(rng))

    return Stage(scene, propose, 0.012 * span)


def crags(rng: Rng) -> Stage:
    """Lumps, arches and overhangs of rock or earth on the ground, seen from between and below them."""
    span = float(np.exp(rng.uniform(np.log(4), np.log(120))))
    grid = _Grid(span * np.array([1, rng.uniform(0.7, 1), rng.uniform(0.25, 0.6)]))
    half = -grid.corner
    lumps = []
    for _ in range(int(rng.integers(4, 14))):
        radius = span * np.exp(rng.uniform(np.log(0.04), np.log(0.2))) * rng.uniform(0.5, 1.5, 3)
        lumps.append(grid.ball(rng.uniform(-0.9, 0.9, 3) * half * [1, 1, 0.8], radius))
    if rng.random() < 0.35:  # cut stones that lean on each other
        for _ in range(int(rng.integers(2, 7))):
            turn, size = shapes.any_turn(rng), span * rng.uniform(0.03, 0.15, 3)
            at = rng.uniform(-0.8, 0.8, 3) * half * [1, 1, 0.7]
            along = [a @ turn for a in (np.eye(3))]
            p = [sum((q - c) * along[n][m] for n, (q, c) in enumerate(zip((grid.x, grid.y, grid.z), at, strict=True)))
                 for m in range(3)]  # fmt: skip
            lumps.append(np.maximum.reduce([np.abs(q) - s for q, s in zip(p, size, strict=True)]))
    ground = -grid.z - half[2] * rng.uniform(0.4, 0.9) + span * rng.uniform(0, 0.02) * grid.rough(rng)
    field = blended([*lumps, -ground], span * rng.uniform(0.003, 0.03))
    for _ in range(int(rng.integers(0, 4))):  # passages through
        at, radius = rng.uniform(-0.7, 0.7, 3) * half * [1, 1, 0.5], span * rng.uniform(0.04, 0.12)
        way = rng.normal(size=2)
        way /= np.linalg.norm(way)
        across = (grid.x - at[0]) * way[1] - (grid.y - at[1]) * way[0]
        field = np.maximum(field, radius - np.sqrt(across**2 + (grid.z - at[2]) ** 2))
    field = field + span * np.exp(rng.uniform(np.log(0.002), np.log(0.04))) * grid.rough(rng)
    # From here on the air is negative, as in a hollow, and what lies below the grid is not seen through.
    field = -field
    free = (field < -0.015 * span) & (grid.z < half[2] * rng.uniform(0.0, 0.9))
    if free.sum() < 50:
        return crags(rng)
    scene = Scene(daylight(rng, haze_m=(span, span * 40)))
    _clad(scene, rng, surface(field, grid.corner, grid.cell_m), span, -half[2] * 0.5)
    earth = paint(rng, "noise", "strokes", "leaves", "stains", size_m=(span / 20, span / 2), polish=0)
    scene.add(shapes.floor(span * 30, span * 30), earth, (0, 0, -half[2] * rng.uniform(0.7, 0.99)))
    _strew(scene, rng, grid, field, span)

    def propose(rng: Rng) -> Camera:
        at, target = grid.near(free, rng, 2)
        floor = grid.below(field, at)
        if floor is not None and rng.random() < 0.6:
            at = np.array([at[0], at[1], floor + span * rng.uniform(0.015, 0.06)])
        if np.linalg.norm(target - at) < 0.05 * span:
            target = at + rng.normal(size=3)
        return look(at, target, field_of_view(rng), tilt(rng))

    return Stage(scene, propose, 0.01 * span)
