"""How loud a clip is, how close it comes to clipping, and how much of it is silence.

Loudness is that of ITU-R BS.1770-4: the sound is weighted as the ear does (K), cut into blocks of 400 ms that overlap
by three quarters, and averaged over those that are not silence (a gate at -70 LUFS, then one 10 LU below the mean).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SILENCE_DBFS = -50.0
"""Windows whose RMS lies below this are silent; full scale is the largest value of int16."""
SILENCE_WINDOW_S = 0.02
_FULL_SCALE = 32768.0

# BS.1770-4, tables 1 and 2: the two stages of the K weighting, numerator and denominator at 48 kHz.
_SPEC_RATE_HZ = 48_000
_SHELF = ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585))
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
_STEP_S = 0.1
_STEPS_A_BLOCK = 4
_ABSOLUTE_LUFS = -70.0
_RELATIVE_LU = -10.0
_OFFSET_LU = -0.691

_BLOCK = 1 << 15
_HISTORY = 1 << 12
"""Samples that a block's filtering looks back: the 38 Hz high-pass has died away by 60 nepers in a quarter second."""


def loudness_lufs(samples: np.ndarray, sample_rate_hz: int = 16_000) -> float | None:
    """Integrated loudness in LUFS of mono sound, int16 (N,); None for silence and for less than 400 ms.

    The weighting's 48 kHz filters are applied by their frequency response, up to half of `sample_rate_hz`: what a meter
    at 48 kHz hears of the resampled sound, without resampling.
    """
    step = round(sample_rate_hz * _STEP_S)
    steps = len(samples) // step
    if steps < _STEPS_A_BLOCK:
        return None
    weighted = _k_weighted_power(samples[: steps * step], sample_rate_hz, step)
    ends = np.concatenate([[0.0], np.cumsum(weighted)])
    power = (ends[_STEPS_A_BLOCK:] - ends[:-_STEPS_A_BLOCK]) / _STEPS_A_BLOCK
    gated = power[power > _power_of(_ABSOLUTE_LUFS)]
    if not len(gated):
        return None
    gated = gated[gated > gated.mean() * 10 ** (_RELATIVE_LU / 10)]
    return float(_OFFSET_LU + 10 * np.log10(gated.mean()))


def peak_dbfs(samples: np.ndarray) -> float | None:
    """The largest sample of int16 (N,), in dB below full scale (0 at most); None if all are zero."""
    peak = max(int(samples.max(initial=0)), -int(samples.min(initial=0)))
    return float(20 * np.log10(peak / _FULL_SCALE)) if peak else None


def silent_share(samples: np.ndarray, sample_rate_hz: int = 16_000) -> float | None:
    """Share in [0, 1] of the windows of 20 ms whose RMS is below -50 dBFS; None for less than one window."""
    window = round(sample_rate_hz * SILENCE_WINDOW_S)
    count = len(samples) // window
    if not count:
        return None
    windows = samples[: count * window].reshape(count, window).astype(np.float32)
    power = np.einsum("nw,nw->n", windows, windows) / window
    return float(np.mean(power < (_FULL_SCALE * 10 ** (SILENCE_DBFS / 20)) ** 2))


def _power_of(lufs: float) -> float:
    return 10 ** ((lufs - _OFFSET_LU) / 10)


def _k_weighted_power(samples: np.ndarray, sample_rate_hz: int, step: int) -> np.ndarray:
    """Mean square, full scale 1, of each `step` samples after the weighting: float64 (N / step,)."""
    keep = _BLOCK - _HISTORY
    response = _k_response(sample_rate_hz, _BLOCK)
    weighted = np.empty(len(samples))
    for start in range(0, len(samples), keep):
        block = np.zeros(_BLOCK)
        first = max(0, start - _HISTORY)
        part = samples[first : start + keep]
        block[_HISTORY - (start - first) :][: len(part)] = part
        filtered = np.fft.irfft(np.fft.rfft(block) * response, _BLOCK)
        weighted[start : start + keep] = filtered[_HISTORY : _HISTORY + min(keep, len(samples) - start)]
    steps = (weighted / _FULL_SCALE).reshape(-1, step)
    return np.einsum("ns,ns->n", steps, steps) / step


@lru_cache(maxsize=4)
def _k_response(sample_rate_hz: int, size: int) -> np.ndarray:
    """The weighting's complex response at the frequencies of a real FFT of `size` samples: complex128 (size/2 + 1,)."""
    hertz = np.fft.rfftfreq(size, 1 / sample_rate_hz)
    delay = np.exp(-2j * np.pi * hertz / _SPEC_RATE_HZ)
    powers = np.stack([np.ones_like(delay), delay, delay**2])
    response = np.ones_like(delay)
    for numerator, denominator in (_SHELF, _HIGH_PASS):
        above, below = (np.tensordot(np.array(terms), powers, 1) for terms in (numerator, denominator))
        response = response * above / below
    return response
