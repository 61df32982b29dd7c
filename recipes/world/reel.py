"""A reel: one longer video of several scenes with hard cuts at known times, for whoever looks for shots."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from omniloom.recipes.world.files import encode_mp4, labels, put
from omniloom.recipes.world.motion import FPS, NUM_FRAMES
from omniloom.recipes.world.render import frames
from omniloom.recipes.world.scene import compose
from omniloom.recipes.world.sound import SAMPLE_RATE_HZ, mix

SHORTEST_FRAMES = 15


def make_reel(path: Path | str, *, num_shots: int = 6, seed: int = 0) -> tuple[int, ...]:
    """Write a reel and, beside it, its truth as .json; return the cut times in nanoseconds, one fewer than shots.

    Shots last 1.5 to 4 s and show train scenes; neighbours differ in place, so that every cut can be seen. The sound
    changes at the cuts too, a silent scene is heard as silence, and nobody narrates.

    Args:
        path: the .mp4 to write, replaced when it exists.
        num_shots: at least 1.
        seed: of the scenes and of the shots' lengths.
    """
    if num_shots < 1:
        raise ValueError(f"a reel needs a shot, got {num_shots = }")
    path = Path(path)
    rng = np.random.default_rng([seed, 2])
    scenes = [replace(compose(seed, "train", 1_000_000), narrated=False)]
    index = 1_000_001  # far from the clips of any world, so that a reel shows nothing twice
    while len(scenes) < num_shots:
        scene = replace(compose(seed, "train", index), narrated=False)
        index += 1
        if scene.ground != scenes[-1].ground and scene.backdrop != scenes[-1].backdrop:
            scenes.append(scene)
    lengths = [int(n) for n in rng.integers(SHORTEST_FRAMES, NUM_FRAMES + 1, num_shots)]
    samples = [length * SAMPLE_RATE_HZ // FPS for length in lengths]
    sounds = [mix(scene) for scene in scenes]
    sound = [
        np.zeros(count, np.float32) if one is None else one[:count] for one, count in zip(sounds, samples, strict=True)
    ]
    pictures = (p for scene, length in zip(scenes, lengths, strict=True) for p in islice(frames(scene), length))
    cuts_ns = tuple(int(n) * 1_000_000_000 // FPS for n in np.cumsum(lengths)[:-1])
    truth = {"labels": {"cuts_ns": cuts_ns, "shots": [labels(scene) for scene in scenes]}}
    put(path.with_suffix(".json"), json.dumps(truth, indent=1, sort_keys=True).encode() + b"\n")
    put(path, encode_mp4(pictures, np.concatenate(sound)))
    return cuts_ns
