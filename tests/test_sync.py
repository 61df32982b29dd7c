"""The lag between flashes and beeps is found, and unrelated sound scores low."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from omniloom.pipeline.sync import av_sync
from tests.media import make_clip

Luma = tuple[np.ndarray, np.ndarray]
_FLASH_S = 0.1
_RATES: dict[str, float | None] = {"24": 24, "30": 30, "60": 60, "variable": None}


def _times(fps: float | None, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Times of pictures in seconds: at a steady rate, or each 1/60 to 1/15 s after the one before."""
    if fps is not None:
        return np.arange(round(seconds * fps)) / fps
    times = np.cumsum(rng.choice([1 / 60, 1 / 30, 1 / 24, 1 / 15], round(seconds * 60)))
    return times[times < seconds]


def _events(rng: np.random.Generator, seconds: float = 10, count: int = 8) -> np.ndarray:
    """Times in seconds, no two within 0.3 s of each other."""
    found = np.sort(rng.uniform(0.7, seconds - 0.8, count))
    return found[np.concatenate([[True], np.diff(found) > 0.3])]


def _flashes(events: np.ndarray, fps: float | None, rng: np.random.Generator, seconds: float = 10) -> Luma:
    times = _times(fps, seconds, rng)
    lit = ((times[:, None] >= events - 1e-9) & (times[:, None] < events + _FLASH_S)).any(1)
    luma = np.where(lit, 200.0, 40.0) + rng.normal(0, 0.2, len(times))
    return (times * 1e9).astype(np.int64), luma.astype(np.float32)


def _beeps(events: np.ndarray, rng: np.random.Generator, seconds: float = 10) -> np.ndarray:
    times = np.arange(round(seconds * 16_000)) / 16_000
    sound = rng.normal(0, 1e-4, len(times))
    for event in events:
        sound += 0.5 * np.sin(2 * np.pi * 880 * (times - event)) * ((times >= event) & (times < event + _FLASH_S))
    return (sound * 32767).astype(np.int16)


@pytest.mark.parametrize("rate", _RATES)
@pytest.mark.parametrize("lag_ms", [-500, -240, -40, 0, 20, 100, 350, 500])
def test_the_lag_of_beeps_behind_flashes_is_found_to_within_a_frame(rate: str, lag_ms: int) -> None:
    rng = np.random.Generator(np.random.Philox(1000 + lag_ms))
    fps = _RATES[rate]
    events = _events(rng)
    found = av_sync(*_flashes(events, fps, rng), _beeps(events + lag_ms / 1000, rng))
    assert found is not None
    assert found[0] == pytest.approx(lag_ms, abs=1000 / (fps or 15) + 5)
    assert found[1] > 0.4


@pytest.mark.parametrize("lag_ms", [-200, 0, 80])
def test_the_lag_is_found_in_a_file_that_was_encoded_and_decoded(tmp_path: Path, lag_ms: int) -> None:
    """Of compressed pictures at uneven times; the flash fills them, over a moving gradient."""
    rng = np.random.Generator(np.random.Philox(3))
    times = _times(None, 8, rng)
    starts = [1.0, 1.7, 3.1, 4.6, 5.5, 6.9]
    path = make_clip(
        tmp_path / "a.mp4",
        8,
        picture_times=list(times),
        flashes=[(start, start + 0.1) for start in starts],
        tone=[(start + lag_ms / 1000, start + lag_ms / 1000 + 0.1) for start in starts],
    )
    with av.open(str(path)) as file:
        pictures = [(frame.time, frame.to_ndarray(format="gray").mean()) for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        resampler = av.AudioResampler("s16", "mono", 16_000)
        blocks = [block.to_ndarray()[0] for frame in file.decode(audio=0) for block in resampler.resample(frame)]
    luma = np.array(pictures, float)
    found = av_sync((luma[:, 0] * 1e9).astype(np.int64), luma[:, 1], np.concatenate(blocks))
    assert found is not None
    assert found[0] == pytest.approx(lag_ms, abs=1000 / 15 + 5)
    assert found[1] > 0.5


def test_unrelated_flashes_and_beeps_score_below_related_ones() -> None:
    rng = np.random.Generator(np.random.Philox(5))
    related: list[float] = []
    unrelated: list[float] = []
    for number in range(60):
        fps = list(_RATES.values())[number % 4]
        events, others = _events(rng, count=6), _events(rng, count=6)
        beeps = _beeps(events + rng.uniform(-0.5, 0.5), rng)
        for scores, flashed in ((related, events), (unrelated, others)):
            found = av_sync(*_flashes(flashed, fps, rng), beeps)
            scores.append(found[1] if found else 0.0)
    better = np.array(related)[:, None] > np.array(unrelated)
    assert better.mean() > 0.98, "ROC AUC"
    assert np.quantile(unrelated, 0.95) < 0.2 < np.quantile(related, 0.05)


def test_noise_and_pictures_out_of_order_score_low() -> None:
    rng = np.random.Generator(np.random.Philox(6))
    events = _events(rng)
    times_ns, luma = _flashes(events, 30, rng)
    noise = (rng.standard_normal(160_000) * 3000).astype(np.int16)
    shuffled = luma[rng.permutation(len(luma))]
    for found in (av_sync(times_ns, luma, noise), av_sync(times_ns, shuffled, _beeps(events, rng))):
        assert found is None or found[1] < 0.15


def test_a_beat_each_second_is_told_at_any_lag_below_half_of_it() -> None:
    rng = np.random.Generator(np.random.Philox(7))
    found = av_sync(*_flashes(np.arange(1.0, 9), 25, rng), _beeps(np.arange(1.0, 9) + 0.12, rng))
    assert found is not None
    assert found[0] == pytest.approx(120, abs=45)
    assert found[1] > 0.9


def test_one_flash_and_one_beep_prove_nothing() -> None:
    rng = np.random.Generator(np.random.Philox(8))
    found = av_sync(*_flashes(np.array([5.0]), 25, rng), _beeps(np.array([5.1]), rng))
    assert found is not None
    assert found[1] < 0.05


def test_where_nothing_happens_there_is_no_score() -> None:
    rng = np.random.Generator(np.random.Philox(9))
    still = (np.arange(250, dtype=np.int64) * 40_000_000, np.full(250, 90, np.float32))
    beeps = _beeps(np.array([2.0, 5.0]), rng)
    assert av_sync(*still, beeps) is None
    assert av_sync(*_flashes(np.array([2.0, 5.0]), 25, rng), np.zeros(160_000, np.int16)) is None
    assert av_sync(still[0][:1], still[1][:1], beeps) is None
    assert av_sync(*_flashes(np.array([0.4]), 25, rng, 1), _beeps(np.array([0.4]), rng, 1)) is None
    assert av_sync(*_flashes(np.array([2.0]), 25, rng), _beeps(np.array([5.0]), rng)) == (None, 0.0)
    slides = (np.array([0, 3, 6, 9], np.int64) * 10**9, np.array([40, 90, 200, 250], np.float32))
    found = av_sync(*slides, _beeps(np.array([3.0, 6.0, 9.0]), rng))
    assert found is not None
    assert found[0] == pytest.approx(0, abs=5)
