"""Windows hold all that is said, once; words are dealt out to the stretches of speech that they fit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from omniloom.modalities.models.whisper_engines import joined
from omniloom.modalities.models.windows import LONGEST_S, RATE_HZ, Region, windows
from omniloom.modalities.models.word_times import TimedWord, place, unsaid


def speech(seed: int, number: int = 60) -> tuple[list[Region], float]:
    """Stretches of 0.1 to 6 s parted by pauses of 0.13 to 8 s, one of them a minute long; and the sound's length."""
    rng = np.random.default_rng(seed)
    found: list[Region] = []
    at = float(rng.uniform(0, 3))
    for number_ in range(number):
        length = 60.0 if number_ == number // 2 else float(rng.uniform(0.1, 6))
        found.append((at, at + length))
        at += length + float(rng.choice([rng.uniform(0.13, 1), rng.uniform(1, 8)]))
    return found, at


@pytest.mark.parametrize("seed", range(8))
def test_every_stretch_of_speech_lies_in_one_window_and_no_window_is_too_long(seed: int) -> None:
    islands, duration_s = speech(seed)
    found = windows(islands, duration_s)
    assert all(window.duration_s <= LONGEST_S for window in found)
    spoken = [island for window in found for island in window.islands]
    assert sum(end - start for start, end in spoken) == pytest.approx(sum(end - start for start, end in islands))
    pieces = [piece for window in found for piece in window.pieces]
    edges = [edge for piece in pieces for edge in piece]
    assert edges == sorted(edges), "sound is heard twice"
    assert edges[0] >= 0
    assert edges[-1] <= duration_s
    for window in found:
        for start, end in window.islands:
            assert any(first <= start and end <= last for first, last in window.pieces), "speech is not heard"


def test_a_window_s_clock_is_the_sound_s_whatever_was_left_out() -> None:
    islands, duration_s = speech(3)
    sound = np.arange(int(duration_s * RATE_HZ), dtype=np.int64)
    for window in windows(islands, duration_s):
        heard = window.samples(sound)
        assert len(heard) / RATE_HZ == pytest.approx(window.duration_s, abs=1e-3)
        for at in np.random.default_rng(0).integers(0, len(heard), 50):
            assert window.moment(at / RATE_HZ) == pytest.approx(heard[at] / RATE_HZ, abs=2e-3)


def test_full_windows_end_in_the_longest_pause_near_their_end() -> None:
    islands = [(2.0 * n, 2.0 * n + 1.8) for n in range(10)] + [(20.9 + 2 * n, 22.7 + 2 * n) for n in range(10)]
    assert len(windows(islands, 60)[0].islands) == 10


def test_a_window_in_doubt_is_parted_in_a_pause_and_both_parts_hold_all_of_it() -> None:
    islands, duration_s = speech(5)
    for window in windows(islands, duration_s):
        halves = window.halves()
        if halves is None:
            assert len(window.islands) == 1
        else:
            assert halves[0].islands + halves[1].islands == window.islands
            assert all(half.duration_s <= window.duration_s for half in halves)


def timed(*words: tuple[str, float, float]) -> list[TimedWord]:
    return [TimedWord(word, start, end, 0.9) for word, start, end in words]


def test_the_first_word_after_a_pause_begins_with_the_voice_though_attention_began_in_the_silence() -> None:
    words = timed((" Hello", 0.2, 0.9), (" there.", 0.9, 1.9), (" Good", 1.9, 3.2), (" morning.", 3.2, 4.4))
    placed = place(words, [(0.5, 1.2), (3.0, 4.0)])
    assert [word.start for word in placed] == [0.5, 0.9, 3.0, 3.2]
    assert [word.end for word in placed] == [0.9, 1.2, 3.2, 4.0]


def test_each_of_several_stretches_takes_the_word_that_attention_gave_to_the_pause_after_it() -> None:
    words = timed((" April.", 1.4, 2.2), (" January.", 2.2, 3.4), (" May.", 3.5, 4.1))
    placed = place(words, [(0.7, 1.3), (2.1, 2.9), (3.5, 3.9)])
    assert [word.start for word in placed] == [0.7, 2.1, 3.5]


def test_a_breath_gets_no_word() -> None:
    words = timed((" Good", 2.0, 2.3), (" morning,", 2.3, 2.8), (" everybody.", 2.8, 3.6))
    assert place(words, [(0.5, 0.7), (2.0, 3.6)])[0].start == 2.0


@pytest.mark.parametrize("seed", range(20))
def test_placed_words_are_in_order_within_the_stretches_and_none_is_lost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    islands, _ = speech(seed, 12)
    starts = np.sort(rng.uniform(0, islands[-1][1], 40))
    words = timed(*((f" {'x' * rng.integers(1, 12)}", float(a), float(a + rng.uniform(0, 2))) for a in starts))
    placed = place(words, islands)
    assert [word.word for word in placed] == [word.word for word in words]
    assert all(a.end <= b.start + 1e-9 and a.start <= b.start for a, b in pairwise(placed))
    assert all(any(s - 1e-9 <= w.start <= w.end <= e + 1e-9 for s, e in islands) for w in placed)
    assert place([], islands) == []
    assert place(words, []) == words


def test_speech_that_was_passed_over_is_named() -> None:
    islands = [(0.0, 2.0), (3.0, 3.2), (4.0, 6.0), (7.0, 8.0)]
    assert unsaid(timed((" one", 0.0, 2.0)), islands) == [islands[1:]]
    assert unsaid(timed((" one", 0.0, 2.0), (" two", 4.0, 6.0), (" three", 7.0, 8.0)), islands) == []


def test_punctuation_joins_its_word_and_takes_no_time() -> None:
    words = timed((' "', 0.1, 0.2), ("Yes", 0.3, 0.6), (",", 0.6, 1.9), (" sir", 2.0, 2.4), ('."', 2.4, 3.0))
    assert joined(words) == timed((' "Yes,', 0.3, 0.6), (' sir."', 2.0, 2.4))
