"""Whether sound and picture happen together: when the picture lights up, against when the sound begins.

Needs no faces. It hears of a picture only its mean luma, so it finds flashes, cuts, blasts and claps that change the
light; for footage where nothing of the kind happens the score is near zero whether or not the sound is in step.
"""

from __future__ import annotations

import numpy as np

MAX_LAG_MS = 600
_STEP_MS = 5
_MS = 1_000_000
_STEP_NS = _STEP_MS * _MS
_MIN_RISE, _MAX_USUAL = 1.0, 6.0
"""Levels of 255: smaller steps of the mean luma are the encoder's noise, or what this clip does all the time."""
_FLOOR_DBFS = -60.0
_MIN_RISE_DB = 6.0
_NARROWEST_STEPS, _WIDEST_STEPS = 2, 20
"""Half-widths of the blur of both, otherwise one frame: by so much a picture may be later than what it shows."""
_BEFORE_STEPS = 6
"""A sound begins where it is louder than it was in any of the 30 ms before."""


def av_sync(
    times_ns: np.ndarray, luma: np.ndarray, samples: np.ndarray, sample_rate_hz: int = 16_000
) -> tuple[float | None, float] | None:
    """(lag_ms, score): how much later the sound comes than the picture, and how far that lag stands out, in [0, 1].

    times_ns: int64 (P,), when each picture comes on screen, from the sound's first sample; any frame rate, also a
    variable one. luma: float (P,), each picture's mean, 0..255. samples: int16 (N,) mono.
    The lag is None if no two events are within 600 ms: the score is then 0.
    None where nothing happens: the light never rises, or no sound begins, or the clip is too short to compare.
    """
    steps = len(samples) * 1000 // (sample_rate_hz * _STEP_MS)
    reach = MAX_LAG_MS // _STEP_MS
    if len(luma) < 2 or steps <= 2 * reach:
        return None
    frame_ns = float(np.median(np.diff(times_ns)))
    kernel = _triangle(min(max(frame_ns / _STEP_NS, _NARROWEST_STEPS), _WIDEST_STEPS))
    seen = np.convolve(_lit(times_ns, luma, steps), kernel, "same")
    heard = np.convolve(_struck(samples, sample_rate_hz, steps), kernel, "same")
    norm = float(np.linalg.norm(seen) * np.linalg.norm(heard))
    if not norm:
        return None
    padded = np.pad(heard, reach)
    match = np.correlate(padded, seen, "valid") / norm
    best = int(match.argmax())
    around = max(len(kernel), 10)
    rest = np.concatenate([match[: max(0, best - around)], match[best + around + 1 :]])
    second = float(rest.max(initial=0.0))
    peak = float(match[best])
    if peak <= 0:
        return None, 0.0
    together = seen * padded[best : best + steps]
    events = _events(together)
    clear = max(0.0, peak - second**2 / peak)
    return float((best - reach) * _STEP_MS), clear * (1 - 0.5 ** max(0.0, events - 1))


def _lit(times_ns: np.ndarray, luma: np.ndarray, steps: int) -> np.ndarray:
    """Where the picture lights up: float64 (steps,) on the grid, the square root of the rise in levels."""
    change = np.diff(luma.astype(np.float64))
    usual = np.clip(3 * np.median(np.abs(change)), _MIN_RISE, _MAX_USUAL)
    rise = np.maximum(0.0, change - usual)
    grid = np.zeros(steps)
    place = np.rint(times_ns[1:] / _STEP_NS).astype(np.int64)
    inside = (place >= 0) & (place < steps)
    np.add.at(grid, place[inside], np.sqrt(rise[inside]))
    return grid


def _struck(samples: np.ndarray, sample_rate_hz: int, steps: int) -> np.ndarray:
    """Where a sound begins: float64 (steps,) on the grid, the square root of the rise in dB."""
    width = sample_rate_hz * _STEP_MS // 1000
    bright = np.diff(samples[: steps * width].astype(np.float32), prepend=np.float32(0)) / np.float32(32768)
    power = np.einsum("ns,ns->n", *[bright.reshape(steps, width)] * 2) / width
    level = 10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DBFS / 10)))
    lead = np.concatenate([np.full(_BEFORE_STEPS, level[0]), level])
    before = np.lib.stride_tricks.sliding_window_view(lead, _BEFORE_STEPS)[:steps].max(1)
    return np.sqrt(np.maximum(0.0, level - before - _MIN_RISE_DB))


def _triangle(half_width: float) -> np.ndarray:
    reach = int(half_width)
    return np.maximum(0.0, 1 - np.abs(np.arange(-reach, reach + 1)) / half_width)


def _events(together: np.ndarray) -> float:
    """How many separate moments carry the match: (sum of weights)^2 / sum of squared weights."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], together > 0, [0]])))
    weights = np.array([together[a:b].sum() for a, b in edges.reshape(-1, 2)])
    total = float(weights.sum())
    return total**2 / float(np.square(weights).sum()) if total else 0.0
