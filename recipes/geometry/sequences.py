"""Short films of the scenes: of one that stands still before a noisy camera, of one that a camera glides through."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from omniloom.recipes.geometry.kinds import KINDS, View, a_camera, as_view
from omniloom.recipes.geometry.render import Renderer
from omniloom.recipes.geometry.sensor import expose
from omniloom.recipes.geometry.shapes import turned

_BRIGHTNESS = 0.02
"""Standard deviation of the exposure from frame to frame: what automatic exposure and mains light do."""


def still(kind: str, seed: int, frames: int) -> list[View]:
    """Frames that differ in noise and, slightly, in brightness alone; the truth is that of the first."""
    rng = np.random.default_rng([zlib.crc32(kind.encode()), seed, 1])
    stage = KINDS[kind](rng)
    renderer = Renderer(stage.scene)
    picture = renderer.picture(a_camera(stage, renderer, rng), rng)
    noise, like = np.random.default_rng([seed, 2]), int(rng.integers(1 << 31))
    gains = 1 + _BRIGHTNESS * noise.normal(size=frames)
    return [
        as_view(picture, expose(picture.linear, np.random.default_rng(like), frame=noise, gain=float(gain)))
        for gain in gains
    ]


def glide(kind: str, seed: int, frames: int) -> Iterator[tuple[View, np.ndarray]]:
    """Frames of a camera that moves by 1 % of the middle depth and turns by 0.3 degrees each, with its pose.

    A pose is float64 (4, 4): camera axes (OpenCV) to world axes, metres.
    """
    rng = np.random.default_rng([zlib.crc32(kind.encode()), seed, 3])
    stage = KINDS[kind](rng)
    renderer = Renderer(stage.scene)
    camera = a_camera(stage, renderer, rng)
    z = renderer.depth(camera, step=8)
    step = 0.01 * float(np.median(z[np.isfinite(z)])) * camera.turn @ [0.8 * rng.choice([-1, 1]), 0.1, 0.6]
    spin = turned(camera.turn[:, 1], np.radians(0.3) * rng.choice([-1, 1]))
    like, noise = int(rng.integers(1 << 31)), np.random.default_rng([seed, 4])
    for _ in range(frames):
        # The same stream for each frame: light from all around must not flicker on its own.
        picture = renderer.picture(camera, np.random.default_rng(like))
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = camera.turn, camera.at
        yield as_view(picture, expose(picture.linear, np.random.default_rng(like), frame=noise)), pose
        camera = replace(camera, turn=spin @ camera.turn, at=camera.at + step)
