"""A scene's pixels and its exact depth, by casting one ray a pixel, and three more along the edges.

Rays are (x/f, y/f, 1) in camera axes, so the parameter t of a hit IS its z-depth in metres: nothing is converted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from omniloom.recipes.world.motion import FOCAL_PX, FPS, HEIGHT, NUM_FRAMES, WIDTH, camera_pose, thing_pose
from omniloom.recipes.world.scene import Backdrop, Colour, Ground, Scene, Texture, Thing
from omniloom.recipes.world.shapes import REACH, hit, normal

WALL_M = 13.5
"""Where the back wall stands, in the scenes that have one."""

RGB: dict[Colour, tuple[float, float, float]] = {
    "red": (0.88, 0.10, 0.10), "orange": (1.0, 0.50, 0.06), "yellow": (0.98, 0.86, 0.12), "green": (0.12, 0.66, 0.20),
    "cyan": (0.10, 0.80, 0.84), "blue": (0.12, 0.26, 0.90), "purple": (0.50, 0.16, 0.74), "pink": (1.0, 0.45, 0.72),
    "white": (0.95, 0.95, 0.95),
}  # fmt: skip
_GROUND_RGB: dict[Ground, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "grass": ((0.30, 0.52, 0.18), (0.20, 0.40, 0.12)), "sand": ((0.86, 0.74, 0.50), (0.78, 0.65, 0.42)),
    "tiles": ((0.72, 0.72, 0.74), (0.40, 0.42, 0.46)), "snow": ((0.92, 0.94, 0.98), (0.84, 0.88, 0.95)),
    "wood": ((0.56, 0.35, 0.19), (0.44, 0.26, 0.13)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Light:
    """Sun strength and tint, sky fill, and the backdrop's colours at the horizon and overhead."""

    sun: tuple[float, float, float]
    fill: tuple[float, float, float]
    horizon: tuple[float, float, float]
    zenith: tuple[float, float, float]


_LIGHTS: dict[Backdrop, _Light] = {
    "blue sky": _Light((0.80, 0.77, 0.70), (0.44, 0.46, 0.50), (0.76, 0.88, 0.97), (0.25, 0.52, 0.90)),
    "sunset": _Light((0.86, 0.62, 0.42), (0.36, 0.32, 0.38), (1.00, 0.66, 0.34), (0.62, 0.30, 0.50)),
    "night": _Light((0.54, 0.57, 0.70), (0.32, 0.33, 0.42), (0.12, 0.15, 0.30), (0.02, 0.03, 0.10)),
    "clouds": _Light((0.38, 0.38, 0.38), (0.60, 0.61, 0.63), (0.80, 0.81, 0.83), (0.58, 0.60, 0.64)),
    "white wall": _Light((0.66, 0.64, 0.60), (0.54, 0.54, 0.54), (0.90, 0.89, 0.86), (0.90, 0.89, 0.86)),
    "brick wall": _Light((0.68, 0.65, 0.60), (0.50, 0.49, 0.48), (0.62, 0.27, 0.20), (0.62, 0.27, 0.20)),
}
_TO_SUN = np.array([-0.48, -0.80, -0.36]) / np.linalg.norm([-0.48, -0.80, -0.36])
_NOISE = np.random.default_rng(7).random((128, 128), np.float32)
SKY, GROUND, WALL = -1, -2, -3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A scene at one time: where the camera and the objects are, as (rotation to world axes, position in metres)."""

    scene: Scene
    camera: tuple[np.ndarray, np.ndarray]
    things: tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclass(frozen=True, slots=True)
class Hits:
    """What each ray meets: depth_m (N,), inf for the sky; what int8 (N,), an object's index or SKY, GROUND, WALL."""

    depth_m: np.ndarray
    what: np.ndarray


def pixel_rays(dtype: type[np.floating] = np.float32) -> np.ndarray:
    """Camera-axes rays (3, HEIGHT * WIDTH) through the pixel centres, row by row; their z is 1."""
    x = (np.arange(WIDTH) - (WIDTH - 1) / 2) / FOCAL_PX
    y = (np.arange(HEIGHT) - (HEIGHT - 1) / 2) / FOCAL_PX
    rays = np.stack([*np.meshgrid(x, y), np.ones((HEIGHT, WIDTH))])
    return rays.reshape(3, -1).astype(dtype)


def snapshot(scene: Scene, time_s: float) -> Snapshot:
    """The scene as it stands `time_s` seconds into the clip."""
    return Snapshot(scene, camera_pose(scene, time_s), tuple(thing_pose(thing, time_s) for thing in scene.things))


def trace(shot: Snapshot, rays_3N: np.ndarray) -> Hits:
    """The nearest surface on each camera-axes ray; float64 rays give depth exact to about 1e-12 of itself."""
    rotation, eye = shot.camera
    depth, what = _stage(shot, rays_3N)
    length2 = (rays_3N * rays_3N).sum(0)
    for index, (thing, (turn, centre)) in enumerate(zip(shot.scene.things, shot.things, strict=True)):
        away = rotation.T @ (centre - eye)
        reach = REACH[thing.shape] * thing.radius_m
        along = away.astype(rays_3N.dtype) @ rays_3N
        near = np.flatnonzero(along * along >= length2 * (float(away @ away) - reach * reach))
        if away[2] < 0 or not near.size:
            continue
        origin = turn.T @ (eye - centre) / thing.radius_m
        local = (turn.T @ rotation / thing.radius_m).astype(rays_3N.dtype) @ rays_3N.take(near, axis=1)
        t = hit(thing.shape, origin, local)
        closer = np.flatnonzero(t < depth[near])
        chosen = near[closer]
        depth[chosen], what[chosen] = t[closer], index
    return Hits(depth, what)


def exact_depth_m(scene: Scene, time_s: float) -> np.ndarray:
    """z-depth in metres at the pixel centres, float64 (HEIGHT, WIDTH); inf where there is only sky."""
    return trace(snapshot(scene, time_s), pixel_rays(np.float64)).depth_m.reshape(HEIGHT, WIDTH)


def frames(scene: Scene) -> Iterator[np.ndarray]:
    """The clip's pictures in order, uint8 (HEIGHT, WIDTH, 3) each."""
    rays = pixel_rays()
    offsets = np.array([[-0.33, -0.1, 0], [0.05, 0.33, 0], [0.28, -0.23, 0]], np.float32) / FOCAL_PX
    for number in range(NUM_FRAMES):
        shot = snapshot(scene, number / FPS)
        hits = trace(shot, rays)
        colour = _shade(shot, rays, hits)
        edge = np.flatnonzero(_edges(hits.what.reshape(HEIGHT, WIDTH)))
        fine = (rays[:, edge, None] + offsets.T[:, None, :]).reshape(3, -1)
        soft = _shade(shot, fine, trace(shot, fine))
        colour[:, edge] = soft.reshape(3, -1, len(offsets)).mean(2)
        yield (colour.T.reshape(HEIGHT, WIDTH, 3).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _edges(what: np.ndarray) -> np.ndarray:
    """Pixels whose right, left, upper or lower neighbour shows something else: bool (HEIGHT, WIDTH)."""
    edge = np.zeros(what.shape, bool)
    across, down = what[:, 1:] != what[:, :-1], what[1:] != what[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _stage(shot: Snapshot, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth and identity of the ground, the wall and the sky, before any object stands in front."""
    rotation, eye = shot.camera
    turned = rotation.astype(rays.dtype)
    down = turned[1] @ rays
    depth = np.full(rays.shape[1], np.inf, rays.dtype)
    what = np.full(rays.shape[1], SKY, np.int8)
    below = down > 1e-4
    np.divide(float(-eye[1]), down, out=depth, where=below)
    what[below] = GROUND
    if shot.scene.backdrop.endswith("wall"):
        wall = float(WALL_M - eye[2]) / (turned[2] @ rays)
        front = wall < depth
        depth[front], what[front] = wall[front], WALL
    return depth, what


def _shade(shot: Snapshot, rays: np.ndarray, hits: Hits) -> np.ndarray:
    """Colours (3, N) float32 of what the rays meet."""
    rotation, eye = shot.camera
    light = _LIGHTS[shot.scene.backdrop]
    out = np.empty((3, rays.shape[1]), np.float32)
    for what, paint in ((SKY, _sky), (GROUND, _ground), (WALL, _wall)):
        chosen = np.flatnonzero(hits.what == what)
        if chosen.size:
            directions = rotation.astype(np.float32) @ rays.take(chosen, axis=1)
            points = directions * hits.depth_m[chosen] + eye.astype(np.float32)[:, None]
            out[:, chosen] = paint(shot, light, directions, points)
    for index, (thing, (turn, centre)) in enumerate(zip(shot.scene.things, shot.things, strict=True)):
        chosen = np.flatnonzero(hits.what == index)
        if chosen.size:
            into = (turn.T @ rotation / thing.radius_m).astype(np.float32)
            ray = into @ rays.take(chosen, axis=1)
            points = ray * hits.depth_m[chosen] + (turn.T @ (eye - centre) / thing.radius_m).astype(np.float32)[:, None]
            out[:, chosen] = _object(thing, light, turn, points, ray)
    return out


def _object(thing: Thing, light: _Light, turn: np.ndarray, points: np.ndarray, ray: np.ndarray) -> np.ndarray:
    facing = normal(thing.shape, points)
    base = np.array(RGB[thing.colour], np.float32)[:, None]
    mark = _pattern(thing.texture, points, facing)
    # A white object is marked dark, a coloured one light.
    second = np.array((0.22, 0.22, 0.26), np.float32)[:, None] if thing.colour == "white" else base * 0.25 + 0.72
    paint = np.where(mark, second, base)
    sun, up = (turn.T @ _TO_SUN).astype(np.float32), (turn.T @ np.array([0, -1.0, 0])).astype(np.float32)
    lit = np.maximum(sun @ facing, 0)
    fill = 0.72 + 0.28 * (up @ facing)
    half = sun[:, None] - ray / np.sqrt((ray * ray).sum(0))
    shine = np.maximum((half * facing).sum(0) / np.sqrt((half * half).sum(0)), 0) ** 40 * 0.35
    glow, sky = (np.array(c, np.float32)[:, None] for c in (light.sun, light.fill))
    return paint * (glow * lit + sky * fill) + shine * glow


def _pattern(texture: Texture, points: np.ndarray, facing: np.ndarray) -> np.ndarray:
    """Where the second colour goes: bool (N,), fixed to the object."""
    x, y, z = points
    match texture:
        case "plain":
            return np.zeros(points.shape[1], bool)
        case "striped":
            return np.floor(y * 2.6 + 0.25) % 2 == 0
        case "checkered":
            cells = np.floor(points * 1.75 + 0.37)
            return cells.sum(0) % 2 == 0
        case "dotted":
            axis = np.argmax(np.abs(facing), axis=0)
            u, v = np.where(axis == 0, z, x), np.where(axis == 1, z, y)
            across, along = (w * 1.9 - np.floor(w * 1.9 + 0.5) for w in (u, v))
            return across * across + along * along < 0.085


def _sky(shot: Snapshot, light: _Light, rays: np.ndarray, _points: np.ndarray) -> np.ndarray:
    up = np.clip(-rays[1] / np.sqrt(rays[0] ** 2 + rays[2] ** 2) * 2.4, 0, 1)
    low, high = (np.array(c, np.float32)[:, None] for c in (light.horizon, light.zenith))
    colour = low + (high - low) * up
    azimuth = rays[0] / rays[2]
    if shot.scene.backdrop == "night":
        cell = _lookup(azimuth * 60, rays[1] / rays[2] * 60)
        colour = colour + np.where(cell > 0.985, 0.7, 0.0).astype(np.float32)
    elif shot.scene.backdrop == "blue sky":
        puff = np.sin(azimuth * 9 + 1.2 * np.sin(up * 7)) * np.sin(up * 5 + azimuth * 3 + 0.7)
        colour = colour + np.clip(puff - 0.35, 0, 0.4) * (1 - colour)
    elif shot.scene.backdrop == "sunset":
        # The sun itself, low on the right.
        glare = np.exp(-((azimuth - 0.3) ** 2 + (up - 0.16) ** 2 * 0.18) * 90)
        colour = colour + glare * (np.array([1, 0.92, 0.6], np.float32)[:, None] - colour)
    return colour


def _ground(shot: Snapshot, light: _Light, _rays: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, _, z = points
    # Fine detail fades with distance, or it would flicker.
    fade = np.clip(1.3 - z / 14, 0, 1)
    match shot.scene.ground:
        case "grass":
            mix = 0.5 + (0.6 * _lookup(x * 5, z * 3) + 0.4 * _lookup(x * 1.3, z * 0.9) - 0.5) * 1.3 * fade
        case "sand":
            mix = 0.5 + (0.4 * np.sin(z * 5 + 1.5 * np.sin(x * 1.1)) + 0.3 * (_lookup(x * 7, z * 5) - 0.5)) * fade
        case "snow":
            mix = 0.4 + 0.5 * (_lookup(x * 0.8, z * 0.6) - 0.5) * fade
        case "tiles":
            mix = 0.5 + (((np.floor(x / 1.4 + 0.5) + np.floor(z / 1.4)) % 2) - 0.5) * fade
        case "wood":
            plank = np.floor(x / 0.7)
            seam = (x / 0.7 - plank) < 0.07
            mix = 0.3 + (0.6 * (_lookup(plank * 3, np.floor(z / 3.1 + plank * 0.37) * 5) - 0.3) + 0.5 * seam) * fade
    near, far = (np.array(c, np.float32)[:, None] for c in _GROUND_RGB[shot.scene.ground])
    colour = near + (far - near) * mix
    sun, fill = (np.array(c, np.float32)[:, None] for c in (light.sun, light.fill))
    colour = colour * (sun * (0.8 * _shadow(shot, points)) + fill * 0.95)
    haze = 0.0 if shot.scene.backdrop.endswith("wall") else np.clip((z - 12) / 40, 0, 0.85)
    return colour + haze * (np.array(light.horizon, np.float32)[:, None] - colour)


def _shadow(shot: Snapshot, points: np.ndarray) -> np.ndarray:
    """Share of the sun that reaches each ground point: each object casts the soft shadow of a ball of its size."""
    open_ = np.ones(points.shape[1], np.float32)
    sun = _TO_SUN.astype(np.float32)
    for thing, (_, centre) in zip(shot.scene.things, shot.things, strict=True):
        away = centre.astype(np.float32)[:, None] - points
        toward = sun @ away
        gap = np.sqrt(np.maximum((away * away).sum(0) - toward * toward, 0)) / thing.radius_m
        open_ *= 0.2 + 0.8 * np.clip((gap - 0.65) / 0.5, 0, 1)
    return open_


def _wall(shot: Snapshot, light: _Light, _rays: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, y, _ = points
    colour = np.repeat(np.array(light.horizon, np.float32)[:, None], points.shape[1], axis=1)
    if shot.scene.backdrop == "brick wall":
        row = np.floor(-y / 0.62)
        column = x / 1.5 + 0.5 * (row % 2)
        joint = ((-y / 0.62 - row) < 0.14) | ((column - np.floor(column)) < 0.06)
        tone = 0.85 + 0.3 * _lookup(np.floor(column) * 7, row * 3)
        colour = np.where(joint, np.array([0.74, 0.68, 0.62], np.float32)[:, None], colour * tone)
    else:
        skirting = (y > -0.45) & (y < 0)
        colour = colour * np.where(skirting, 0.72, 1.0)
    return (colour * np.clip(0.82 + 0.05 * -y, 0.7, 1.05)).astype(np.float32)


def _lookup(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Fixed noise in [0, 1) of whole cells of the plane."""
    return _NOISE[np.floor(u).astype(np.int32) & 127, np.floor(v).astype(np.int32) & 127]
