"""What is said in the clip: sentences and words with their times, by Whisper; nothing where nobody speaks.

Exact: `read` returns what was written; times are kept to the millisecond, in seconds from the clip's start, and lie
within the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from omniloom.modalities import codecs
from omniloom.modalities.base import Ask, Codec, FactType, Footage, Made, ModelRef, Stem, Window
from omniloom.modalities.base import all_facts as narrow
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.models import whisper
from omniloom.modalities.sample import NS_PER_S, Fact, Part

__all__ = ["narrow", "pieces"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is written, with its leading space where it has one; seconds from the clip's start."""

    word: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A sentence or so; seconds from the clip's start."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that is said in a clip; `language` is a code such as "en"."""

    language: str
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


suffix = "transcript.json"
codec: Codec = "json"
letter = "s"
needs: tuple[str, ...] = ()
facts: Mapping[str, FactType] = {"language": "string", "num_segments": "int64", "num_words": "int64"}
stem = Stem("text")


@dataclass(frozen=True, slots=True)
class Config:
    """Who listens."""

    engine: Literal["faster-whisper", "openai-whisper"] = "faster-whisper"
    model: str = whisper.EMBEDDED
    """ "embedded" (tiny.en, English), a size ("small"), a hub name, or a local folder (openai-whisper: a .pt file)."""
    language: str = ""
    """A code such as "de"; "" lets a multilingual model find out."""
    beam: int = 5

    def __post_init__(self) -> None:
        if self.engine not in {"faster-whisper", "openai-whisper"}:
            raise ValueError(f"transcript.engine is faster-whisper or openai-whisper, got {self.engine!r}")
        if self.beam < 1:
            raise ValueError(f"transcript.beam is at least 1, got {self.beam}")


def models(config: Config) -> Sequence[ModelRef]:
    """The one Whisper model."""
    return (whisper.reference(config.engine, config.model, config.language, config.beam),)


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """The transcript; None for a clip without sound, or in which nobody speaks."""
    if footage.audio is None or not len(footage.audio.samples):
        return None
    (ref,) = models(config)
    heard = ask(ref, footage.audio.samples, footage.audio.sample_rate_hz)
    transcript = _within(heard, footage.clip.duration_ns / NS_PER_S) if heard else None
    if transcript is None:
        return None
    model, revision = whisper.describe(ref)
    return Made(transcript, model, revision)


def encode(value: Transcript) -> Part:
    """JSON, the shape that Whisper's users know."""
    return Part(
        codecs.encode_json(asdict(value)),
        {
            "language": value.language,
            "num_segments": len(value.segments),
            "num_words": sum(len(segment.words) for segment in value.segments),
        },
    )


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Transcript:
    """The transcript from the JSON object. Raises ValueError if it is not one of ours."""
    try:
        segments = [
            Segment(s["start"], s["end"], s["text"], tuple(Word(**word) for word in s["words"]))
            for s in pieces[0]["segments"]
        ]
        return Transcript(pieces[0]["language"], tuple(segments))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"damaged transcript: {error!r}") from error


def tensor(value: Transcript, window: Window) -> str:
    """All that is said, as one text."""
    return value.text


def example(rng: np.random.Generator) -> Transcript:
    """One sentence in two segments."""
    start = round(float(rng.uniform(0, 1)), 3)
    words = (Word(" Hello", start, start + 0.5, 0.9), Word(" Grüße.", start + 0.5, start + 1, 0.75))
    return Transcript("en", (Segment(start, start + 1, "Hello Grüße.", words), Segment(start + 2, start + 3, "Yes.")))


def _within(heard: Mapping[str, Any], duration_s: float) -> Transcript | None:
    """Times clipped into the clip and in order; None if no words remain.

    Whisper hears in windows of 30 s, and times of words at the edge can lie beyond the sound.
    """

    def moment(seconds: float, earliest: float) -> float:
        return round(float(min(max(seconds, earliest), duration_s)), 3)

    segments: list[Segment] = []
    for segment in heard["segments"]:
        words: list[Word] = []
        for word in segment["words"]:
            start = moment(word["start"], 0.0)
            words.append(Word(word["word"], start, moment(word["end"], start), round(float(word["probability"]), 4)))
        start = moment(segment["start"], 0.0)
        text = segment["text"].strip()
        if text:
            segments.append(Segment(start, moment(segment["end"], start), text, tuple(words)))
    return Transcript(heard["language"], tuple(segments)) if segments else None
