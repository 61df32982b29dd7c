"""A toy world as batches: coloured shapes that move while a tone sounds, with captions in varied words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from omniloom.modalities.base import Window
from omniloom.pipeline.batch import Batch
from omniloom.trainer.mico import MiCo, MiCoConfig
from omniloom.trainer.text import Tokenizer

COLOURS = {"red": (1, -0.8, -0.8), "green": (-0.8, 0.8, -0.6), "blue": (-0.8, -0.6, 1), "white": (1, 1, 1)}
SHAPES = ("disc", "square", "bar")
PITCH_HZ = {"low": 220.0, "middle": 700.0, "high": 2500.0}
PLACES = {"left": 0.3, "right": 0.7}
TEMPLATES = (
    "a {colour} {shape} on the {place} while a {pitch} tone sounds",
    "a {pitch} note plays and the {shape} at the {place} is {colour}",
    "{place} side: {shape}, {colour}; {pitch} sound",
)

SMALL = MiCoConfig(
    image_px=24,
    vit_width=48,
    vit_depth=1,
    text_width=48,
    text_depth=1,
    contra_dim=32,
    audio_slice_s=0.5,
    num_points=64,
    num_groups=4,
    group_points=16,
)


@dataclass
class World:
    """Samples of every modality; `texts[i]` describes sample i."""

    tensors: dict[str, torch.Tensor]
    texts: list[str]

    def batch(self, rows: Any, texts: list[str] | None = None) -> Batch:
        index = [int(row) for row in rows]
        there = torch.ones(len(index), dtype=torch.bool)
        return Batch(
            keys=[f"key-{row}" for row in index],
            sources=[f"source-{row}" for row in index],
            tensors={name: tensor[index] for name, tensor in self.tensors.items()},
            present={name: there.clone() for name in (*self.tensors, "caption")},
            texts={"caption": [(texts or self.texts)[row] for row in index]},
        )


def make_world(count: int, seed: int, window: Window) -> World:
    """`count` samples, their looks, sounds and words drawn independently of each other."""
    rng = np.random.default_rng(seed)
    px, frames = window.image_px, window.num_frames
    y, x = np.mgrid[:px, :px] / px
    seconds = np.arange(window.num_samples) / 16_000
    video = np.zeros((count, frames, 3, px, px), np.float32)
    depth = np.ones((count, frames, 2, px, px), np.float32)
    normal = np.zeros((count, frames, 3, px, px), np.float32)
    audio = np.zeros((count, window.num_samples), np.float32)
    points = np.zeros((count, window.num_points, 6), np.float32)
    texts: list[str] = []
    for row in range(count):
        facts = {
            "colour": str(rng.choice(list(COLOURS))),
            "shape": str(rng.choice(SHAPES)),
            "pitch": str(rng.choice(list(PITCH_HZ))),
            "place": str(rng.choice(list(PLACES))),
        }
        texts.append(TEMPLATES[rng.integers(len(TEMPLATES))].format(**facts))
        for frame in range(frames):
            dx, dy = x - PLACES[facts["place"]], y - rng.uniform(0.35, 0.65)
            inside = {
                "disc": dx**2 + dy**2 < 0.05,
                "square": (abs(dx) < 0.2) & (abs(dy) < 0.2),
                "bar": (abs(dx) < 0.28) & (abs(dy) < 0.09),
            }[facts["shape"]]
            video[row, frame] = np.where(inside, np.reshape(COLOURS[facts["colour"]], (3, 1, 1)), -0.3)
            depth[row, frame, 0] = np.where(inside, -0.5, 0.5)
            normal[row, frame] = np.where(
                inside, np.reshape((0, 0, -1), (3, 1, 1)), np.reshape((0, -0.7, -0.7), (3, 1, 1))
            )
        pixels = rng.integers(0, px * px, window.num_points)
        points[row, :, 0], points[row, :, 1] = x.flat[pixels] - 0.5, y.flat[pixels] - 0.5
        points[row, :, 2] = depth[row, -1, 0].flat[pixels] + 2
        points[row, :, 3:] = video[row, -1].reshape(3, -1)[:, pixels].T
        audio[row] = 0.3 * np.sin(2 * np.pi * PITCH_HZ[facts["pitch"]] * rng.uniform(0.9, 1.1) * seconds)
    noise = 0.05
    video += rng.normal(0, noise, video.shape).astype(np.float32)
    audio += rng.normal(0, noise / 5, audio.shape).astype(np.float32)
    tensors = {"frames": video, "audio": audio, "depth": depth, "normal": normal, "points": points}
    return World({name: torch.from_numpy(array) for name, array in tensors.items()}, texts)


@dataclass
class Shuffled:
    """Endless batches of a world in an order that is a function of (seed, position), as the Loader's is."""

    world: World
    batch_size: int
    texts: list[str] | None = None
    position: int = field(default=0)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            per_epoch = len(self.world.texts) // self.batch_size
            epoch, place = divmod(self.position, per_epoch)
            order = np.random.default_rng(epoch).permutation(len(self.world.texts))
            self.position += 1
            yield self.world.batch(order[place * self.batch_size : (place + 1) * self.batch_size], self.texts)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])


def make_mico(world: World, config: MiCoConfig = SMALL, seed: int = 0) -> MiCo:
    torch.manual_seed(seed)
    return MiCo(config, Tokenizer.train(world.texts, config.vocab_size))
