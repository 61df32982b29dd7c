"""Cheap measures of a clip, for choosing among clips later: none of them needs a network or a second decode.

Pictures are measured inside their black bars, on every second pixel. What cannot be told is left out: null in the
sidecar, absent in the json member.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from omniloom.modalities.base import FactType, Frames
from omniloom.modalities.sample import Fact
from omniloom.pipeline.looks import look
from omniloom.pipeline.loudness import loudness_lufs, peak_dbfs, silent_share
from omniloom.pipeline.sync import av_sync

SIGNALS: Mapping[str, FactType] = {
    "motion": "double",
    "brightness": "double",
    "contrast": "double",
    "colourfulness": "double",
    "black": "double",
    "frozen": "double",
    "blur": "double",
    "crop_top": "double",
    "crop_bottom": "double",
    "crop_left": "double",
    "crop_right": "double",
    "phash": "int64",
    "loudness_lufs": "double",
    "peak_dbfs": "double",
    "silence": "double",
    "speech": "double",
    "audio_late_ms": "double",
    "audio_gaps_ms": "double",
    "audio_short_ms": "double",
    "audio_drift_ms": "double",
    "sync_ms": "double",
    "sync_score": "double",
}
"""Fields of the sidecar's `signals` column; `docs/design/010-cheap-signals.md` defines each."""

SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True, slots=True)
class SignalsConfig:
    """What is measured of every clip."""

    picture: bool = True
    """What the sampled frames look like: light, colour, movement, sharpness, black bars, a hash."""
    sound: bool = True
    """How loud it is, and where there is none."""
    sync: bool = True
    """Whether sound and picture change together: looks at every picture, so that all are decoded."""
    speech: bool = False
    """The share of the clip in which somebody speaks, by a voice detector."""
    max_desync_ms: float = 0.0
    """A clip whose sound surely comes earlier or later than its picture by more is dropped; 0: it is kept, and told.

    Off by default since sound may come late by nature: thunder, fireworks, the back row of a hall.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.max_desync_ms <= 600:
            raise ValueError(
                f"signals.max_desync_ms is 0 (keep) to 600, the widest lag looked for, got {self.max_desync_ms}"
            )
        if self.max_desync_ms and not self.sync:
            raise ValueError("signals.max_desync_ms needs signals.sync=true: without it the lag is not measured")


SURE_OF_SYNC = 0.4
"""`sync_score` from which the lag is believed: the highest of 650 unrelated pairs was 0.34."""


def out_of_sync(signals: Mapping[str, Fact], config: SignalsConfig) -> float | None:
    """By how many ms sound comes too late (early: below 0), if that is sure and more than the recipe allows."""
    lag_ms, score = signals.get("sync_ms"), signals.get("sync_score")
    if not config.max_desync_ms or not isinstance(lag_ms, float) or not isinstance(score, float):
        return None
    return lag_ms if score >= SURE_OF_SYNC and abs(lag_ms) > config.max_desync_ms else None


def measure(
    frames: Frames | None,
    heard: np.ndarray | None,
    present: np.ndarray | None,
    luma: tuple[np.ndarray, np.ndarray] | None,
    config: SignalsConfig,
    speech: float | None,
    drift_ms: float | None = None,
) -> dict[str, Fact]:
    """Every signal of one clip that can be told, by its name in `SIGNALS`; floats are rounded to 6 digits.

    frames: sampled ones. heard: int16 (N,) mono at 16 kHz. present: bool (N,), where there was sound to hear.
    luma: (times_ns int64 (P,), mean float32 (P,) in 0..255) of every picture; times, as those of the frames and of the
    sound, count from the clip's start. speech: share of the clip, in [0, 1]. drift_ms: the sound's clock against the
    picture's. What is None is not measured.
    """
    measured: dict[str, Fact] = {}
    if config.picture and frames is not None and frames.rgb.size:
        measured |= look(frames)
    if config.sound and heard is not None:
        measured |= _level(heard)
    if present is not None and len(present):
        measured |= _presence(present)
    if config.speech:
        measured["speech"] = speech
    measured["audio_drift_ms"] = drift_ms
    if config.sync and luma is not None and heard is not None:
        found = av_sync(*luma, heard, SAMPLE_RATE_HZ)
        if found is not None:
            measured["sync_ms"], measured["sync_score"] = found
    return {name: _rounded(value) for name, value in measured.items() if _told(value)}


def _told(value: Fact) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _rounded(value: Fact) -> Fact:
    return float(f"{value:.6g}") + 0.0 if isinstance(value, float) else value


def _level(heard: np.ndarray) -> dict[str, Fact]:
    return {
        "loudness_lufs": loudness_lufs(heard, SAMPLE_RATE_HZ),
        "peak_dbfs": peak_dbfs(heard),
        "silence": silent_share(heard, SAMPLE_RATE_HZ),
    }


def _presence(present: np.ndarray) -> dict[str, Fact]:
    """How much sound is missing at the clip's beginning, inside it and at its end."""
    late = int(present.argmax()) if present.any() else len(present)
    short = int(present[::-1].argmax())
    gaps = len(present) - int(present.sum()) - late - short
    counts = (("late", late), ("gaps", gaps), ("short", short))
    return {f"audio_{name}_ms": count * 1000 / SAMPLE_RATE_HZ for name, count in counts}
