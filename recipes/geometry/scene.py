"""What is to be pictured: solids, what they are made of, the light, and a camera.

World axes: z up, metres. Camera axes are OpenCV's: x right, y down, z forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from omniloom.recipes.geometry.shapes import Mesh

WIDTH, HEIGHT = 256, 192
Solid = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A texture in space: places float (N, 3) in metres of the object, a pixel's width there (N,) -> values (N, 3)."""


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """How a surface answers light: colour = base + mix . texture, linear, within [0, 1]."""

    base: np.ndarray
    """float (3,)."""
    mix: np.ndarray
    """float (3, 3): a column for each channel of the texture."""
    texture: int | Solid = 0
    """A number in the bank of textures, or a function of the place."""
    repeat_m: float = 1.0
    gloss: float = 0.0
    """0 dull to 1 polished: strength and tightness of highlights."""
    mirror: float = 0.0
    """The part of what is seen that is reflected scenery, looked at head-on."""
    glow: float = 0.0
    """Light of its own, times its colour."""


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """Everything that shines. Colours are float (3,), linear; a white surface under colour 1 shows 1."""

    sun: np.ndarray
    towards_sun: np.ndarray
    """Unit, from the scene to the sun."""
    above: np.ndarray
    """Light from straight above, the zenith's colour."""
    horizon: np.ndarray
    below: np.ndarray
    """Light thrown back by the ground."""
    lamps: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    """Place and colour at one metre."""
    fog_m: float = np.inf
    """Distance at which 1/e is left."""
    clouds: int = 0
    """A texture for the sky."""


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A pinhole with pixel centres at whole numbers."""

    k: np.ndarray
    """float64 (3, 3)."""
    turn: np.ndarray
    """float64 (3, 3): camera axes to world axes."""
    at: np.ndarray
    """float64 (3,)."""
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(slots=True, eq=False)
class Scene:
    """Solids put together one after the other."""

    light: Light
    meshes: list[Mesh] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    frames: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """Turn (3, 3) and place (3,) of each solid: its texture goes with it."""

    def add(
        self,
        mesh: Mesh,
        material: Material,
        at: Sequence[float] | np.ndarray = (0, 0, 0),
        turn: np.ndarray | None = None,
        scale: object = 1.0,
    ) -> None:
        """Puts a mesh, scaled, turned and moved, into the world."""
        turn, place = np.eye(3) if turn is None else turn, np.asarray(at, np.float64)
        self.meshes.append((mesh[0] * np.asarray(scale) @ turn.T + place, mesh[1]))
        self.materials.append(material)
        self.frames.append((turn, place))


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A scene and where a camera may stand in it."""

    scene: Scene
    propose: Callable[[np.random.Generator], Camera]
    nearest_m: float = 0.3
    """A camera nearer to anything than this is refused."""


def look(
    at: Sequence[float] | np.ndarray, target: Sequence[float] | np.ndarray, fov_deg: float, roll: float = 0.0
) -> Camera:
    """A camera that looks at a place, `fov_deg` across the width, turned about its axis by `roll` radians."""
    place = np.asarray(at, np.float64)
    forward = np.asarray(target, np.float64) - place
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    if np.linalg.norm(right) < 1e-3:
        right = np.array([1.0, 0, 0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    turn = np.stack([c * right + s * down, c * down - s * right, forward], axis=1)
    focal = 0.5 * WIDTH / np.tan(np.radians(fov_deg) / 2)
    k = np.array([[focal, 0, (WIDTH - 1) / 2], [0, focal, (HEIGHT - 1) / 2], [0, 0, 1]])
    return Camera(k, turn, place)
