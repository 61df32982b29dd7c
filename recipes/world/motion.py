"""Where objects and the camera are at a time: the one clock that pictures and sounds share.

World axes are OpenCV's: x right, y down with the ground at y = 0, z away from the first camera.
"""

from __future__ import annotations

import math

import numpy as np

from omniloom.recipes.world.scene import DURATION_S, Scene, Shape, Thing

WIDTH, HEIGHT, FPS = 160, 120, 10
FOCAL_PX = 144.0
DEPTH_RATE_HZ = 2
NUM_FRAMES = int(DURATION_S * FPS)
EYE_M, LOOK_DOWN_RAD = 2.0, 0.1
BOTTOM: dict[Shape, float] = {
    "sphere": 1.0, "cube": 0.8, "cylinder": 0.9, "cone": 0.95, "torus": 1.05, "pyramid": 0.85, "capsule": 1.1,
    "diamond": 1.2,
}  # fmt: skip
"""Distance from the centre to the lowest point, in units of the radius, for an object that stands upright."""


def intrinsics() -> np.ndarray:
    """K, float64 (3, 3), for WIDTH x HEIGHT pixels whose centres are at whole numbers."""
    return np.array([[FOCAL_PX, 0, (WIDTH - 1) / 2], [0, FOCAL_PX, (HEIGHT - 1) / 2], [0, 0, 1]], np.float64)


def camera_pose(scene: Scene, time_s: float) -> tuple[np.ndarray, np.ndarray]:
    """The camera at a time: rotation (3, 3) from camera to world axes, and position (3,) in metres; float64."""
    u = time_s / DURATION_S - 0.5
    x, y, z = 0.0, -EYE_M, 0.0
    match scene.camera:
        case "left" | "right":
            x = (1.1 if scene.camera == "right" else -1.1) * u
        case "forward" | "backward":
            z = (1.1 if scene.camera == "forward" else -1.1) * u
        case "rising":
            y = -EYE_M - 0.8 * u
        case "still":
            pass
    # A sideways camera turns to keep the middle of the stage in view, a rising one looks further down.
    yaw, pitch = -x / 7.0, LOOK_DOWN_RAD + (-y - EYE_M) / 7.0
    cos_y, sin_y, cos_p, sin_p = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    turn = np.array([[cos_y, 0, sin_y], [0, 1, 0], [-sin_y, 0, cos_y]])
    nod = np.array([[1, 0, 0], [0, cos_p, sin_p], [0, -sin_p, cos_p]])
    return turn @ nod, np.array([x, y, z])


def thing_pose(thing: Thing, time_s: float) -> tuple[np.ndarray, np.ndarray]:
    """An object at a time: rotation (3, 3) from its own to world axes, and centre (3,) in metres; float64."""
    u = time_s / DURATION_S
    x, y, z = thing.x_m, -BOTTOM[thing.shape] * thing.radius_m, thing.z_m
    rotation = _about((0.0, 1.0, 0.0), thing.yaw_rad)
    lift, slide = 0.27 * z, 0.44 * z
    match thing.motion:
        case "rising":
            y -= lift * u
        case "sinking":
            y -= lift * (1.0 - u)
        case "left" | "right":
            middle = float(np.clip(x, -0.16 * z, 0.16 * z))
            x = middle + slide * ((u - 0.5) if thing.motion == "right" else (0.5 - u))
        case "bouncing":
            v = ((time_s - thing.phase_s) / thing.period_s) % 1.0
            y -= (0.7 + 0.9 * thing.period_s) * 4.0 * v * (1.0 - v)
        case "circling":
            angle = circle_angle(thing, time_s)
            x, z = x + 0.85 * math.sin(angle), z - 0.85 * math.cos(angle)
        case "spinning":
            y = -1.35 * thing.radius_m
            rotation = _about((0.55, 0.8, 0.24), 2.0 * math.pi * (time_s - thing.phase_s) / thing.period_s) @ rotation
        case "approaching" | "receding":
            z += 1.8 * ((0.5 - u) if thing.motion == "approaching" else (u - 0.5))
        case "still":
            pass
    return rotation, np.array([x, y, z])


def circle_angle(thing: Thing, time_s: float | np.ndarray) -> np.ndarray:
    """Angle on the circle in radians, same shape as the time; 0 where the object is nearest to the viewer."""
    return np.asarray(2.0 * math.pi * (np.asarray(time_s) - thing.phase_s) / thing.period_s)


def hit_times_s(thing: Thing) -> np.ndarray:
    """When a bouncing object touches the ground, or a spinning one ends a quarter turn; float64, within the clip."""
    step = thing.period_s if thing.motion == "bouncing" else thing.period_s / 4.0
    return np.arange(thing.phase_s % step, DURATION_S, step)


def _about(axis: tuple[float, float, float], angle_rad: float) -> np.ndarray:
    """Rotation matrix about an axis (Rodrigues)."""
    x, y, z = np.asarray(axis) / math.sqrt(sum(a * a for a in axis))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle_rad) * cross + (1.0 - math.cos(angle_rad)) * (cross @ cross)
