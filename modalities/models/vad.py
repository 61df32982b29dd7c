"""Where somebody speaks: Silero's voice detector, whose weights faster-whisper carries.

A loaded model takes (samples int16 (N,), sample rate) and gives [(start, end), ...]: regions of speech in seconds from
the first sample, in order, exact to a window of 32 ms and parted by pauses of 0.13 s and more; none in silence, noise
and most music. Equal samples give equal regions. It costs about 0.2 CPU-seconds a minute.
Silero VAD: https://github.com/snakers4/silero-vad, MIT licence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

from omniloom.modalities.base import ModelRef

GPUS = 0.05
"""A sliver, since a share of nothing cannot be counted out; the network itself is small and stays on a core."""

Region = tuple[float, float]

_NAME = "silero"
_RATE_HZ = 16_000
_WINDOW = 512
"""Samples that the network judges at once."""
_CHUNK = 20 * _RATE_HZ // _WINDOW
_LEAD = 2 * _RATE_HZ // _WINDOW
"""In windows: sound is judged by 20 s, for memory, each time from two seconds before, for the network to warm."""

# Speech begins at 0.5 and has ended when four windows pass below 0.35, as in Silero's own code. A bird or a whistle may
# hold 0.8 for seconds; a spoken word soon passes 0.95, and one that never does 0.9 is taken for no speech.
_BEGINS, _ENDS, _SURE = 0.5, 0.35, 0.9
_PAUSE = 4
_LEAST = 8
_LEAST_ISLAND = 3

_REPAIR = "pip install 'omniloom[build]', or do without: clips.by other than speech, signals.speech=false"


def reference() -> ModelRef:
    """The model as `Ask` knows it; there is one."""
    return ModelRef("vad", _NAME)


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repair, if the model is another or its packages are not here."""
    if ref.name != _NAME:
        raise ValueError(f"no voice detector is called {ref.name!r}: use {_NAME!r}")
    for package in ("faster_whisper", "onnxruntime"):
        if find_spec(package) is None:
            raise ValueError(f"to tell where somebody speaks takes {package.replace('_', '-')}: {_REPAIR}")


def describe(ref: ModelRef) -> tuple[str, str]:
    """Name and revision: the package that carries the weights decides which they are."""
    try:
        return "silero-vad", f"faster-whisper {version('faster-whisper')}"
    except PackageNotFoundError:
        return "silero-vad", ""


def licence(ref: ModelRef) -> str:
    """Of the weights."""
    return "MIT"


def load(ref: ModelRef) -> Callable[[np.ndarray, int], list[Region]]:
    """The model, on one core. Raises ValueError if faster-whisper is one that this was not written for."""
    check(ref)
    network = _network()

    def answer(samples: np.ndarray, sample_rate_hz: int) -> list[Region]:
        _check_sound(samples, sample_rate_hz)
        return _seconds(_regions(_judged(samples, network)), samples)

    return answer


def islands() -> Callable[[np.ndarray, int], list[Region]]:
    """As `load`, with every shorter stretch that sounds like speech too, if there is any region that surely is.

    For what hears words and not just whether somebody speaks: "no" may last a tenth of a second.
    """
    network = _network()

    def answer(samples: np.ndarray, sample_rate_hz: int) -> list[Region]:
        _check_sound(samples, sample_rate_hz)
        probabilities = _judged(samples, network)
        sure = any(_regions(probabilities))
        return _seconds(_regions(probabilities, _LEAST_ISLAND, 0.0), samples) if sure else []

    return answer


def share(regions: Sequence[Region], duration_s: float) -> float:
    """How much of a clip is speech, in [0, 1]."""
    return min(1.0, sum(end - start for start, end in regions) / duration_s) if duration_s > 0 else 0.0


def _network() -> Any:
    """Raises ValueError if faster-whisper is one that this was not written for."""
    from faster_whisper.vad import get_vad_model

    network: Any = get_vad_model()
    if np.size(network(np.zeros(2 * _WINDOW, np.float32))) != 2:
        raise ValueError(
            "this faster-whisper judges speech otherwise than 1.2.1 did: pip install faster-whisper==1.2.1"
        )
    return network


def _check_sound(samples: np.ndarray, sample_rate_hz: int) -> None:
    if sample_rate_hz != _RATE_HZ:
        raise ValueError(f"the voice detector hears 16 kHz, got {sample_rate_hz = }")
    if samples.ndim != 1 or samples.dtype != np.int16:
        raise ValueError(f"the voice detector takes int16 (N,), got {samples.dtype} {samples.shape}")


def _seconds(found: Iterator[tuple[int, int]], samples: np.ndarray) -> list[Region]:
    last_s = len(samples) / _RATE_HZ
    return [(first * _WINDOW / _RATE_HZ, min(end * _WINDOW / _RATE_HZ, last_s)) for first, end in found]


def _judged(samples: np.ndarray, network: Any) -> np.ndarray:
    """As `_probabilities`. Where speech is likely and nowhere sure, what the network makes of it the second time.

    It is unsure of a voice that it has heard for a second only: of short telephone prompts 3 % never reach 0.9. Having
    heard them once it is sure of nearly all, and of a bar of music that it is none.
    """
    once = _probabilities(samples, network)
    in_doubt = any(_regions(once, sure=0.0)) and not any(_regions(once))
    return _probabilities(samples, network, again=True) if in_doubt else once


def _probabilities(samples: np.ndarray, network: Any, again: bool = False) -> np.ndarray:
    """float32 (W,): how likely each window of 32 ms is speech; nothing (0,) for samples that are all zero.

    With `again` the network has heard the first 20 s before.
    """
    if not samples.any():
        return np.zeros(0, np.float32)
    windows = np.pad(samples, (0, -len(samples) % _WINDOW)).reshape(-1, _WINDOW)
    judged: list[np.ndarray] = []
    for start in range(0, len(windows), _CHUNK):
        first = max(0, start - _LEAD)
        before = windows[:_CHUNK] if again and start == 0 else windows[first:start]
        sound = np.concatenate([before, windows[start : start + _CHUNK]]).astype(np.float32) / np.float32(32768)
        judged.append(np.ravel(network(sound.reshape(-1)))[len(before) :])
    return np.concatenate(judged)


def _regions(probabilities: np.ndarray, least: int = _LEAST, sure: float = _SURE) -> Iterator[tuple[int, int]]:
    """[first, end) in windows."""
    first = quiet = -1
    for at, probability in enumerate([*probabilities.tolist(), *[0.0] * (_PAUSE + 1)]):
        if probability >= _BEGINS:
            first, quiet = (at if first < 0 else first), -1
        elif first >= 0 and probability < _ENDS:
            quiet = at if quiet < 0 else quiet
            if at - quiet >= _PAUSE:
                if quiet - first >= least and probabilities[first:quiet].max() >= sure:
                    yield first, quiet
                first = quiet = -1
