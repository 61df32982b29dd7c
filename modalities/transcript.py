"""What is said in the clip: sentences and words with their times, by Whisper; nothing where nobody speaks.

Whisper hears the whole source before it is cut, and a clip gets the words whose middle lies in it: names and sentence
ends need what comes before and after, and a window of 30 s costs the same however little of it a clip fills.

Speech that Whisper heard but is not believed about is named as doubted. A clip of which nothing else is left has no
transcript, and its `transcript_left_out` (in a column: its `reason`) says so; without that, nobody speaks in it.

Exact: `read` returns what was written; times are kept to the millisecond, in seconds from the clip's start, and lie
within the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from omniloom.modalities import codecs
from omniloom.modalities.base import Ask, Codec, FactType, Footage, Made, ModelRef, SoundBlock, Stem, Window
from omniloom.modalities.base import all_facts as narrow
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.models import whisper
from omniloom.modalities.sample import NS_PER_S, Fact, LeftOut, Part

__all__ = ["narrow", "pieces"]

_RATE_HZ = 16_000


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
class Doubt:
    """Speech whose words are not known; seconds from the clip's start."""

    start: float
    end: float
    why: str
    """Such as "unlikely words" or "one phrase over and over"."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that is said in a clip; `language` is a code such as "en"."""

    language: str
    segments: tuple[Segment, ...]
    language_probability: float = 1.0
    """How sure a multilingual model was, in [0, 1]; 1 if it was told or knows no other."""
    doubted: tuple[Doubt, ...] = ()

    @property
    def doubted_s(self) -> float:
        """Seconds of speech whose words are not known."""
        return round(sum(doubt.end - doubt.start for doubt in self.doubted), 3)

    @property
    def confidence(self) -> float:
        """Mean probability that Whisper gives the words, in [0, 1]; 0 without words."""
        sure = [word.probability for segment in self.segments for word in segment.words]
        return round(sum(sure) / len(sure), 4) if sure else 0.0

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


suffix = "transcript.json"
codec: Codec = "json"
letter = "s"
needs: tuple[str, ...] = ()
facts: Mapping[str, FactType] = {
    "language": "string",
    "language_probability": "double",
    "confidence": "double",
    "num_segments": "int64",
    "num_words": "int64",
    "doubted_s": "double",
}
stem = Stem("text")


@dataclass(frozen=True, slots=True)
class Config:
    """Who listens."""

    engine: Literal["faster-whisper", "openai-whisper"] = "faster-whisper"
    model: str = whisper.EMBEDDED
    """ "embedded" (tiny.en, English), a size ("small"), a hub name, or a local folder.

    For openai-whisper "embedded", a size or a .pt file.
    """
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


def listen(block: SoundBlock, config: Config, ask: Ask) -> Transcript | None:
    """What is said in a block of the source's sound, in seconds of presentation time; None if nobody speaks."""
    (ref,) = models(config)
    answer = ask(ref, block.samples, _RATE_HZ)
    return _shifted(_plain(answer), block.start_ns / NS_PER_S) if answer else None


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """The transcript; None for a clip without sound, or in which nobody speaks.

    Raises LeftOut if all that is said is in doubt.
    """
    if footage.audio is None or not len(footage.audio.samples):
        return None
    heard: Sequence[Transcript] | None = footage.heard
    if heard is None:  # a clip whose source is not at hand is heard alone
        said = listen(SoundBlock(footage.clip.start_ns, footage.audio.samples), config, ask)
        heard = [] if said is None else [said]
    transcript = _within(heard, footage.clip.start_ns / NS_PER_S, footage.clip.duration_ns / NS_PER_S)
    if transcript is None:
        return None
    if not transcript.segments:
        reasons = ", ".join(dict.fromkeys(doubt.why for doubt in transcript.doubted))
        raise LeftOut("extract", "speech-in-doubt", f"{transcript.doubted_s:g} s: {reasons}")
    (ref,) = models(config)
    model, revision = whisper.describe(ref)
    return Made(transcript, model, revision)


def encode(value: Transcript) -> Part:
    """JSON, the shape that Whisper's users know."""
    written = {name: found for name, found in asdict(value).items() if found or name != "doubted"}
    return Part(
        codecs.encode_json(written),
        {
            "language": value.language,
            "language_probability": value.language_probability,
            "confidence": value.confidence,
            "num_segments": len(value.segments),
            "num_words": sum(len(segment.words) for segment in value.segments),
            "doubted_s": value.doubted_s,
        },
    )


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Transcript:
    """The transcript from the JSON object. Raises ValueError if it is not one of ours."""
    try:
        segments = [
            Segment(s["start"], s["end"], s["text"], tuple(Word(**word) for word in s["words"]))
            for s in pieces[0]["segments"]
        ]
        doubted = tuple(Doubt(**doubt) for doubt in pieces[0].get("doubted", ()))
        return Transcript(pieces[0]["language"], tuple(segments), pieces[0].get("language_probability", 1.0), doubted)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"damaged transcript: {error!r}") from error


def tensor(value: Transcript, window: Window) -> str:
    """All that is said, as one text."""
    return value.text


def example(rng: np.random.Generator) -> Transcript:
    """One sentence in two segments, and a third that was not understood."""
    start = round(float(rng.uniform(0, 1)), 3)
    words = (Word(" Hello", start, start + 0.5, 0.9), Word(" Grüße.", start + 0.5, start + 1, 0.75))
    segments = (Segment(start, start + 1, "Hello Grüße.", words), Segment(start + 2, start + 3, "Yes."))
    return Transcript("en", segments, doubted=(Doubt(start + 3, start + 3.5, "unlikely words"),))


def _plain(heard: Mapping[str, Any]) -> Transcript:
    """The model's answer as our types."""
    segments: list[Segment] = []
    for said in heard["segments"]:
        words = tuple(
            Word(word["word"], float(word["start"]), float(word["end"]), float(word["probability"]))
            for word in said["words"]
        )
        segments.append(Segment(float(said["start"]), float(said["end"]), said["text"].strip(), words))
    doubted = tuple(Doubt(float(one["start"]), float(one["end"]), one["why"]) for one in heard.get("doubted", ()))
    return Transcript(heard["language"], tuple(segments), float(heard.get("language_probability", 1.0)), doubted)


def _shifted(value: Transcript, seconds: float) -> Transcript:
    return Transcript(
        value.language,
        tuple(
            Segment(
                said.start + seconds,
                said.end + seconds,
                said.text,
                tuple(replace(word, start=word.start + seconds, end=word.end + seconds) for word in said.words),
            )
            for said in value.segments
        ),
        value.language_probability,
        tuple(replace(doubt, start=doubt.start + seconds, end=doubt.end + seconds) for doubt in value.doubted),
    )


def _within(heard: Sequence[Transcript], start_s: float, duration_s: float) -> Transcript | None:
    """What is said or doubted between the clip's edges, from its start, to the millisecond; None if nothing is."""

    def moment(seconds: float, earliest: float) -> float:
        return min(round(max(seconds - start_s, earliest), 3), last_ms / 1000)

    last_ms = int(duration_s * 1000)  # the last whole millisecond: none lies beyond the clip
    segments: list[Segment] = []
    for said in (segment for transcript in heard for segment in transcript.segments):
        words: list[Word] = []
        for word in said.words:
            if start_s <= (word.start + word.end) / 2 < start_s + duration_s:
                start = moment(word.start, 0.0)
                words.append(Word(word.word, start, moment(word.end, start), round(word.probability, 4)))
        if words:
            text = "".join(word.word for word in words).strip()
            segments.append(Segment(words[0].start, words[-1].end, text, tuple(words)))
    doubted: list[Doubt] = []
    for doubt in (doubt for transcript in heard for doubt in transcript.doubted):
        start, end = moment(doubt.start, 0.0), moment(doubt.end, 0.0)
        if start < end:
            doubted.append(Doubt(start, end, doubt.why))
    if not segments and not doubted:
        return None
    return Transcript(heard[0].language, tuple(segments), heard[0].language_probability, tuple(doubted))
