"""The sound of the clip: 16 kHz mono FLAC, lossless; its first sample sounds at the clip's start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from omniloom.modalities import codecs
from omniloom.modalities.base import Ask, Codec, FactType, Footage, Made, Stem, Waveform, Window
from omniloom.modalities.base import all_facts as narrow
from omniloom.modalities.base import no_models as models
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.sample import Fact, Part

__all__ = ["models", "narrow", "pieces"]

suffix = "audio.flac"
codec: Codec = "flac"
letter = "a"
needs: tuple[str, ...] = ()
facts: Mapping[str, FactType] = {"num_samples": "int64", "sample_rate_hz": "int64"}
stem = Stem("mel", 1)


@dataclass(frozen=True, slots=True)
class Config:
    """Nothing to choose: every model and tool downstream wants 16 kHz mono."""


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """The clip's sound, silent or not; None for a source without a sound track there."""
    if footage.audio is None or not len(footage.audio.samples):
        return None
    return Made(footage.audio, model="measured")


def encode(value: Waveform) -> Part:
    """FLAC, with its length in the header."""
    data = codecs.encode_flac(value.samples, value.sample_rate_hz)
    return Part(data, {"num_samples": len(value.samples), "sample_rate_hz": value.sample_rate_hz})


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Waveform:
    """The waveform from int16 (N,) or (N, 1). Raises ValueError if it is not as long as the facts say."""
    samples = np.asarray(pieces[0]).reshape(-1)
    # Of other people's files the facts say what the container states: encoders pad, and count that or not.
    if len(samples) != facts["num_samples"] and not facts.get("stored_as"):
        raise ValueError(f"damaged FLAC: {len(samples)} samples, its facts state {facts['num_samples']}")
    return Waveform(samples, cast(int, facts["sample_rate_hz"]))


def tensor(value: Waveform, window: Window) -> np.ndarray:
    """float32 (num_samples,) in [-1, 1]: a random stretch in training, the middle one in evaluation.

    A clip that is shorter is followed by zeros.
    """
    start = first_shown(len(value.samples), window)
    shown = np.zeros(window.num_samples, np.float32)
    stretch = value.samples[start : start + window.num_samples]
    np.divide(stretch, np.float32(32768), out=shown[: len(stretch)])
    return shown


def first_shown(num_samples: int, window: Window) -> int:
    """Where the stretch begins that a window shows of a clip of that many samples."""
    spare = num_samples - window.num_samples
    if window.train and spare > 0:
        return int(window.rng(3).integers(spare + 1))
    return max(0, spare) // 2


def example(rng: np.random.Generator) -> Waveform:
    """A fifth of a second of a noisy tone."""
    times_s = np.arange(3200) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 800) * times_s) + rng.normal(0, 0.01, len(times_s))
    return Waveform((tone * 32767).astype(np.int16))
