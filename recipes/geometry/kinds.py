"""Which kinds of scenes there are, and a picture of one: held-out kinds are never trained on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from omniloom.recipes.geometry import scenes_heldout as unseen
from omniloom.recipes.geometry import scenes_heldout_outside as unseen_outside
from omniloom.recipes.geometry import scenes_train as within
from omniloom.recipes.geometry import scenes_train_home as furnished
from omniloom.recipes.geometry import scenes_train_outside as outside
from omniloom.recipes.geometry import scenes_train_rough as rough
from omniloom.recipes.geometry import scenes_train_thin as slender
from omniloom.recipes.geometry.render import Picture, Renderer
from omniloom.recipes.geometry.scene import Camera, Stage
from omniloom.recipes.geometry.sensor import expose

TRAIN: dict[str, Callable[[np.random.Generator], Stage]] = {
    "room": within.room, "tunnel": within.tunnel, "stairs": within.stairs, "table_top": within.table_top,
    "warehouse": within.warehouse, "floating": within.floating, "oblique": within.oblique,
    "land": outside.land, "forest": outside.forest, "city": outside.city, "yard": outside.yard,
    "grotto": rough.grotto, "crags": rough.crags, "railings": slender.railings, "home": furnished.home,
}  # fmt: skip
HELD_OUT: dict[str, Callable[[np.random.Generator], Stage]] = {
    "rooms": unseen.rooms, "corridors": unseen.corridors, "streets": unseen_outside.streets,
    "hills": unseen_outside.hills, "caves": unseen_outside.caves, "clutter": unseen.clutter,
    "thin": unseen_outside.thin, "gloss": unseen.gloss,
}  # fmt: skip
KINDS = {**TRAIN, **HELD_OUT}
_TRIES = 24


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What is learned from: a picture's bytes and the truth about it."""

    rgb: np.ndarray
    """uint8 (192, 256, 3)."""
    z: np.ndarray
    """float32 (192, 256), metres along the optical axis, inf for sky."""
    normal: np.ndarray
    """float32 (192, 256, 3), OpenCV camera axes, facing the camera, 0 for sky."""
    k: np.ndarray


def views(kind: str, seed: int, cameras: int = 1) -> Iterator[View]:
    """Pictures of one scene, the same for the same arguments."""
    rng = np.random.default_rng([zlib.crc32(kind.encode()), seed])
    stage = KINDS[kind](rng)
    renderer = Renderer(stage.scene)
    for _ in range(cameras):
        picture = renderer.picture(a_camera(stage, renderer, rng), rng)
        yield as_view(picture, expose(picture.linear, rng))


def truths(kind: str, seed: int, cameras: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Exact z float64 (H, W), normals float32 (H, W, 3) and K without a picture, for a fifth of the time."""
    rng = np.random.default_rng([zlib.crc32(kind.encode()), seed])
    stage = KINDS[kind](rng)
    renderer = Renderer(stage.scene)
    for _ in range(cameras):
        camera = a_camera(stage, renderer, rng)
        yield *renderer.truth(camera), camera.k


def as_view(picture: Picture, rgb: np.ndarray) -> View:
    """A picture with bytes instead of light."""
    return View(rgb, picture.z.astype(np.float32), picture.normal, picture.k)


def a_camera(stage: Stage, renderer: Renderer, rng: np.random.Generator) -> Camera:
    """The first of the stage's cameras that sees something; of all that see little the one that sees most."""
    best, camera = -np.inf, stage.propose(rng)
    for _ in range(_TRIES):
        proposed = stage.propose(rng)
        z = renderer.depth(proposed, step=12)
        seen = np.isfinite(z)
        share = float(seen.mean())
        if share < 0.05:
            continue
        near = float(np.quantile(z[seen], 0.02))
        spread = float(np.log(z[seen]).std())
        merit = min(near / stage.nearest_m, 1) + min(share / 0.5, 1) + min(spread / 0.15, 1)
        if merit >= 3:
            return proposed
        if merit > best:
            best, camera = merit, proposed
    return camera
