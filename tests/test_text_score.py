"""Words are scored as they are spoken, times only of words that were heard right, and the narrator's times are true."""

from __future__ import annotations

import numpy as np
import pytest

from omniloom.benchmarks import text_material as material
from omniloom.benchmarks.text_score import matches, plain, start_errors, summary


def test_numbers_and_abbreviations_are_compared_as_they_are_spoken() -> None:
    said = " ".join(plain("Press 1, then 25; Mr. Smith's 1,204 ill-disposed FRIENDS…"))
    assert said == "press one then twenty five mister smith's one thousand two hundred four ill disposed friends"


@pytest.mark.parametrize(
    ("said", "heard", "wrong"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a c", "a b c", 1),
        ("a b", "", 2),
        ("", "a", 1),
    ],
)
def test_the_fewest_changes_are_counted(said: str, heard: str, wrong: int) -> None:
    assert matches(said.split(), heard.split())[0] == wrong


def test_only_words_that_were_heard_right_have_a_time_error() -> None:
    found = start_errors("Look at the cone.", (1.0, 1.2, 1.3, 1.4), [(" Look", 0.9), (" the", 1.5), (" bone.", 1.6)])
    assert [(word, at, pytest.approx(error)) for word, at, error in found] == [("look", 1.0, -0.1), ("the", 1.3, 0.2)]
    told = summary([error for _, _, error in found])
    assert told["median_s"] == pytest.approx(0.15)
    assert (told["within_120ms"], told["within_250ms"], told["words"]) == (0.5, 1.0, 2)
    assert summary([]) == {"words": 0}


def test_the_narrator_s_first_word_begins_where_the_sound_does() -> None:
    pytest.importorskip("hibari")
    for text in ("Peter bought honey and bread.", "Can you see the green cone?"):
        told = material.speak(text)
        assert told is not None
        samples, starts = told
        assert len(starts) == len(text.split())
        assert starts == sorted(starts)
        loud = np.abs(samples) > np.abs(samples).max() / 30
        assert starts[0] == pytest.approx(loud.argmax() / 24_000, abs=0.06)
        assert starts[-1] < (len(loud) - loud[::-1].argmax()) / 24_000


def test_a_recording_lies_in_one_half_whatever_others_there_are() -> None:
    names = [f"prompt-{number}" for number in range(200)]
    halves = [material.half_of(name) for name in names]
    assert halves == [material.half_of(name) for name in names]
    assert 60 < halves.count("tune") < 140
