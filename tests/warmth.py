"""A made-up modality with a made-up network, in one file: how warm each sampled frame looks.

Where the folder named by the environment's WARMTH holds `die-actor` or `die-worker`, the process that next asks or
extracts removes that file and kills itself: for tests of what a crash costs.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.modalities import codecs
from omniloom.modalities.base import Ask, Codec, FactType, Footage, Made, ModelRef, Stem, Window
from omniloom.modalities.base import all_facts as narrow
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.models.estimate import Estimate
from omniloom.modalities.sample import Fact, Part

__all__ = ["narrow", "pieces"]

suffix = "warmth.json"
codec: Codec = "json"
letter = ""
needs: tuple[str, ...] = ()
facts: Mapping[str, FactType] = {"num_frames": "int64"}
stem = Stem("none")


@dataclass(frozen=True, slots=True)
class Config:
    """What to ask."""

    model: str = "thermometer"
    delay_s: float = 0.0


def models(config: Config) -> Sequence[ModelRef]:
    return (ModelRef("tests.warmth", config.model, (("delay_s", config.delay_s),)),)


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """float32 (T,); None without frames."""
    _die("die-worker")
    if footage.frames is None:
        return None
    (ref,) = models(config)
    estimate: Estimate = ask(ref, footage.frames.rgb, None)
    assert estimate.depth is not None
    return Made(
        estimate.depth.mean(axis=(1, 2)).round(3), *describe(ref), also={"chill": -float(estimate.depth.mean())}
    )


def encode(value: np.ndarray) -> Part:
    return Part(codecs.encode_json([float(number) for number in value]), {"num_frames": len(value)})


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> np.ndarray:
    return np.array(pieces[0], np.float32)


def tensor(value: np.ndarray, window: Window) -> np.ndarray:
    return np.empty(0, np.float32)


def example(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=4).astype(np.float32).round(3)


# --- the network ----------------------------------------------------------------------------------------------

GPUS = 0.1


def check(ref: ModelRef) -> None:
    if ref.name == "broken":
        raise ValueError("there is no thermometer called 'broken': use 'thermometer'")


def describe(ref: ModelRef) -> tuple[str, str]:
    return ref.name, "1"


def licence(ref: ModelRef) -> str:
    return "MIT"


def at_once(ref: ModelRef) -> int:
    return 64


def load(ref: ModelRef) -> Any:
    def answer(rgb: np.ndarray, k: np.ndarray | None = None) -> Estimate:
        _die("die-actor")
        time.sleep(float(dict(ref.options)["delay_s"]))
        return Estimate((rgb[..., 0].astype(np.float32) - rgb[..., 2]) / 255)

    return answer


def _die(name: str) -> None:
    folder = os.environ.get("WARMTH")
    if folder and (Path(folder) / name).exists():
        (Path(folder) / name).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
