"""Task strings are parsed once, into types, and say what is wrong with them."""

from __future__ import annotations

import pytest

from omniloom.trainer.tasks import Task, letters, parse_context, parse_tasks

KNOWN = ("frames", "audio", "depth", "caption")


def test_retrieval_is_contrastive_and_matching_as_in_vast() -> None:
    both = (("frames", "audio"), ("frames",))
    assert parse_tasks("ret%tva%tv_cap%ta") == (
        Task("contrastive", both),
        Task("matching", both),
        Task("caption", (("audio",),)),
    )


def test_letters_come_from_the_modalities_themselves() -> None:
    assert letters() == {
        "t": "caption",
        "v": "frames",
        "a": "audio",
        "s": "transcript",
        "d": "depth",
        "n": "normal",
        "p": "points",
        "q": "qa",
    }
    assert parse_context("dv") == ("depth", "frames")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no tasks"),
        ("rat%tv", "did you mean"),
        ("ret", "names no modalities"),
        ("ret%", "lacks the caption"),
        ("ret%va", "'tva'"),
        ("ret%t", "only the caption"),
        ("ret%tvx", "unknown modality letter 'x'"),
        ("con%tvn", "unknown modality letter 'n'"),  # exists, but not in this model
        ("ret%tvv", "repeat"),
        ("ret%tv%tv", "twice"),
        ("ret%tv_con%ta", "contrastive twice"),
    ],
)
def test_a_wrong_task_string_is_refused_with_the_repair(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_tasks(text, KNOWN)


def test_questions_are_not_answered_from_their_answers() -> None:
    with pytest.raises(ValueError, match="from the answers"):
        parse_tasks("qa%tvq")
