"""Triangle meshes of simple solids, made from numbers.

A mesh is (vertices float64 (V, 3) in metres, faces int64 (F, 3)); z is up and the origin is at the middle of the base
unless a docstring says otherwise. Curved surfaces are fine enough that a facet turns the normal by a few degrees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Mesh = tuple[np.ndarray, np.ndarray]
TAU = 2 * np.pi

_BOX_FACES = np.array([
    [0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7], [0, 1, 5], [0, 5, 4],
    [1, 2, 6], [1, 6, 5], [2, 3, 7], [2, 7, 6], [3, 0, 4], [3, 4, 7],
])  # fmt: skip


def box(width: float, depth: float, height: float) -> Mesh:
    """A cuboid along x, y, z."""
    x, y = width / 2, depth / 2
    ring = np.array([[-x, -y], [x, -y], [x, y], [-x, y]])
    return np.vstack([np.c_[ring, np.zeros(4)], np.c_[ring, np.full(4, height)]]), _BOX_FACES.copy()


def panel(width: float, height: float) -> Mesh:
    """An upright rectangle without thickness, in the plane y = 0."""
    x = width / 2
    return np.array([[-x, 0, 0], [x, 0, 0], [x, 0, height], [-x, 0, height]]), np.array([[0, 1, 2], [0, 2, 3]])


def floor(width: float, depth: float) -> Mesh:
    """A level rectangle without thickness, in the plane z = 0."""
    x, y = width / 2, depth / 2
    return np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]]), np.array([[0, 1, 2], [0, 2, 3]])


def lathe(profile: Sequence[tuple[float, float]] | np.ndarray, around: int = 32) -> Mesh:
    """What a lathe turns: `profile` is (radius, z) from below to above; radius 0 closes an end."""
    rings = np.asarray(profile, np.float64)
    angle = TAU * np.arange(around) / around
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    xy = rings[:, None, :1] * circle
    vertices = np.concatenate([xy, np.broadcast_to(rings[:, None, 1:], (*xy.shape[:2], 1))], axis=2).reshape(-1, 3)
    return tidy(vertices, lattice(len(rings), around, wrap=True))


def sphere(radius: float, around: int = 40) -> Mesh:
    """A ball that stands on the origin."""
    angle = np.linspace(0, np.pi, around // 2 + 1)
    return lathe(np.c_[radius * np.sin(angle), radius * (1 - np.cos(angle))], around)


def cylinder(radius: float, height: float, around: int = 32, top: float | None = None) -> Mesh:
    """A cylinder, or a cone or its stump with another radius at the top."""
    top = radius if top is None else top
    return lathe([(0, 0), (radius, 0), (top, height), (0, height)], around)


def capsule(radius: float, height: float, around: int = 24) -> Mesh:
    """A cylinder with round ends, `height` in all."""
    angle = np.linspace(0, np.pi / 2, around // 4 + 1)
    below = np.c_[radius * np.sin(angle), radius * (1 - np.cos(angle))]
    above = np.c_[radius * np.cos(angle), height - radius + radius * np.sin(angle)]
    return lathe(np.vstack([below, above]), around)


def torus(ring: float, tube_radius: float, around: int = 40, across: int = 18) -> Mesh:
    """A ring that lies on the plane z = 0."""
    angle = TAU * np.arange(across + 1) / across
    return lathe(np.c_[ring + tube_radius * np.cos(angle), tube_radius * (1 + np.sin(angle))], around)


def tube(path: np.ndarray, radius: float | np.ndarray, around: int = 10, *, closed: bool = True) -> Mesh:
    """A pipe along points (N, 3), of one radius or one at each point; its ends are closed unless told not to."""
    path = np.asarray(path, np.float64)
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.cross(along, [0.31, 0.17, 0.93])
    short = np.linalg.norm(side, axis=1, keepdims=True) < 0.2
    side = np.where(short, np.cross(along, [1.0, 0, 0]), side)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, along)
    angle = TAU * np.arange(around) / around
    thick = np.broadcast_to(radius, len(path))[:, None, None]
    rings = path[:, None] + thick * (np.cos(angle)[:, None] * side[:, None] + np.sin(angle)[:, None] * up[:, None])
    if closed:
        ends = [np.repeat(path[[end]], around, axis=0)[None] for end in (0, -1)]
        rings = np.concatenate([ends[0], rings, ends[1]])
    return tidy(rings.reshape(-1, 3), lattice(len(rings), around, wrap=True))


def extrude(outline: np.ndarray, height: float) -> Mesh:
    """A prism over an outline (N, 2) that is seen whole from its centre."""
    outline = np.asarray(outline, np.float64)
    n = len(outline)
    centre = outline.mean(axis=0)
    vertices = np.vstack(
        [np.c_[outline, np.zeros(n)], np.c_[outline, np.full(n, height)], [[*centre, 0.0], [*centre, height]]]
    )
    i, j = np.arange(n), (np.arange(n) + 1) % n
    sides = np.vstack([np.c_[i, j, j + n], np.c_[i, j + n, i + n]])
    caps = np.vstack([np.c_[j, i, np.full(n, 2 * n)], np.c_[i + n, j + n, np.full(n, 2 * n + 1)]])
    return vertices, np.vstack([sides, caps])


def terrain(height: np.ndarray, width: float, depth: float) -> Mesh:
    """Ground of heights (rows along y, columns along x) over a rectangle around the origin."""
    rows, columns = height.shape
    x, y = np.meshgrid(np.linspace(-width / 2, width / 2, columns), np.linspace(-depth / 2, depth / 2, rows))
    return np.stack([x, y, height], axis=-1).reshape(-1, 3), lattice(rows, columns, wrap=False)


def rock(rng: np.random.Generator, radius: float, rough: float = 0.25, around: int = 24) -> Mesh:
    """A lump: a ball dented by a few random waves; its middle is the origin."""
    vertices, faces = sphere(1.0, around)
    vertices = vertices - [0, 0, 1]
    lump = np.ones(len(vertices))
    for octave in range(3):
        waves = rng.normal(size=(4, 3)) * 1.7 * 1.9**octave
        lump += rough * 0.6**octave * np.sin(vertices @ waves.T + rng.uniform(0, TAU, 4)).mean(axis=1)
    return vertices * lump[:, None] * radius * rng.uniform(0.7, 1.3, 3), faces


def gable(width: float, depth: float, height: float) -> Mesh:
    """A roof with its ridge along y."""
    x, y = width / 2, depth / 2
    vertices = np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0], [0, -y, height], [0, y, height]])
    return vertices, np.array([[0, 1, 4], [2, 3, 5], [1, 2, 5], [1, 5, 4], [3, 0, 4], [3, 4, 5], [0, 2, 1], [0, 3, 2]])


def joined(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    return (
        np.vstack([vertices for vertices, _ in meshes]),
        np.vstack([faces + start for (_, faces), start in zip(meshes, starts, strict=False)]),
    )


def moved(
    mesh: Mesh, by: Sequence[float] | np.ndarray = (0, 0, 0), turn: np.ndarray | None = None, scale: object = 1.0
) -> Mesh:
    """Scaled, then turned by a matrix (3, 3), then shifted."""
    vertices = mesh[0] * np.asarray(scale)
    if turn is not None:
        vertices = vertices @ turn.T
    return vertices + np.asarray(by), mesh[1]


def turned(axis: Sequence[float] | np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix (3, 3) about an axis by radians (Rodrigues)."""
    x, y, z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def yaw(angle: float) -> np.ndarray:
    """A turn about the vertical."""
    return turned((0, 0, 1), angle)


def any_turn(rng: np.random.Generator) -> np.ndarray:
    """Any rotation, all equally likely."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def tidy(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """Without the triangles that have no area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return vertices, faces[area > 1e-12 * max(1e-12, float(area.max(initial=0.0)))]


def lattice(rows: int, columns: int, *, wrap: bool) -> np.ndarray:
    """Faces of a grid of vertices, row after row; `wrap` joins the last column to the first."""
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns if wrap else columns - 1), indexing="ij")
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = a + columns, b + columns
    return np.vstack([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
