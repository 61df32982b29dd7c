"""CIDEr-D: the extremes, the order of better and worse captions, and a value worked out by hand."""

from __future__ import annotations

import math

import pytest

from omniloom.trainer.cider import cider

CAPTIONS = ["a red ball rises over green grass", "two blue cubes spin in the snow", "rain falls on a quiet grey town"]


def test_the_reference_itself_scores_ten_and_unrelated_words_zero() -> None:
    assert cider(CAPTIONS, [[text] for text in CAPTIONS]) == pytest.approx(10)
    assert cider(["zebra zebra"] * 3, [[text] for text in CAPTIONS]) == 0


def test_another_clips_caption_scores_far_below_ones_own() -> None:
    shifted = CAPTIONS[1:] + CAPTIONS[:1]
    assert cider(shifted, [[text] for text in CAPTIONS]) < 0.5


def test_a_closer_caption_scores_higher_than_a_vaguer_one() -> None:
    close, vague = "a red ball rises over the grass", "a ball"
    others = CAPTIONS[1:]
    references = [[text] for text in CAPTIONS]
    assert cider([close, *others], references) > cider([vague, *others], references)


def test_a_word_that_every_clip_shares_tells_nothing() -> None:
    assert cider(["the", "the"], [["the one"], ["the two"]]) == 0


def test_a_value_worked_out_by_hand() -> None:
    # Candidate "x" against "x y": the 1-gram cosine is w / sqrt(2 w^2), longer phrases give 0, lengths differ by one.
    expected = 10 * (1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)
    assert cider(["x", "q"], [["x y"], ["r s"]]) == pytest.approx(expected / 2)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one candidate"):
        cider(["a"], [])
    with pytest.raises(ValueError, match="reference"):
        cider(["a"], [[]])
