"""Captions of a clip: those people already have, and those that networks write, each naming where it came from.

Exact: `read` returns what was written. `caption.model` lists the sources, joined by "+"; the default takes only what is
given (see `models/caption_given.py`), and nothing is ever made up: a source that has nothing to say is silent.

    given                   beside the video, in the source list, in its subtitle streams
    tags                    words for what is seen, by the embedded classifier: offline, only what it is sure of
    sound, sound:MODEL      words for what is heard: measured here, or by an audio classifier of `transformers`
    MODEL                   an image or video captioner of `transformers`, by hub name or folder
    openai:URL#MODEL        whatever answers as OpenAI's API does, such as a vision model served by vLLM
    mico:RUN                the captioning head of a MiCo trained here: a run, or a folder with a saved model
    PACKAGE.MODULE:MODEL    a family from outside, asked as `models/caption_transformers.py` is
    omni                    one text that puts all others and what is said together
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

import numpy as np

from omniloom.modalities import codecs
from omniloom.modalities.base import Ask, Codec, FactType, Footage, Made, ModelRef, Stem, Window
from omniloom.modalities.base import all_facts as narrow
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.models import caption_sound, caption_tags, family_of
from omniloom.modalities.models.caption_given import KINDS, Kind, given, texts_of
from omniloom.modalities.models.caption_merge import Heard, merged
from omniloom.modalities.sample import Fact, Part, Rejected

__all__ = ["KINDS", "Kind", "narrow", "pieces"]


@dataclass(frozen=True, slots=True)
class Text:
    """One caption and where it came from."""

    text: str
    model: str
    """ "given:json", "given:srt", "given:list", ... or the model that wrote it."""
    revision: str = ""
    """Of the model: the hub's commit, a hash of its weights, a package's version; "" of what is given."""


@dataclass(frozen=True, slots=True)
class Captions:
    """The texts of one clip by what they describe: what is seen, what is heard, or both."""

    visual: tuple[Text, ...] = ()
    audio: tuple[Text, ...] = ()
    omni: tuple[Text, ...] = ()

    def __len__(self) -> int:
        return len(self.visual) + len(self.audio) + len(self.omni)


suffix = "caption.json"
codec: Codec = "json"
letter = "t"
needs: tuple[str, ...] = ()
uses: tuple[str, ...] = ("transcript", "depth", "normal", "points")
"""Read where the clip has them: the omni caption quotes what is said, MiCo looks at all it was trained on."""
facts: Mapping[str, FactType] = {"num_visual": "int64", "num_audio": "int64", "num_omni": "int64"}
stem = Stem("text")


@dataclass(frozen=True, slots=True)
class Config:
    """Where captions come from."""

    model: str = "given"
    """One source or several joined by "+", such as "given+tags+sound+omni"; see above."""
    subtitles: bool = True
    """Take .srt, .vtt and subtitle streams too: they may hold what is said rather than what is shown."""
    frames: int = 4
    """Frames of a clip that a network looks at, spread over it."""
    prompt: str = ""
    """What a captioner is asked, or the words its caption begins with; "" for what suits the model."""
    max_new_tokens: int = 60
    beams: int = 1
    """Of local captioners: 1 takes the most likely word each time. Nothing is sampled: equal clips get equal texts."""
    tag_threshold: float = caption_tags.THRESHOLD
    """How sure the tagger, or an audio classifier, must be to say a word."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.max_new_tokens < 1 or self.beams < 1:
            raise ValueError(f"caption needs frames, max_new_tokens and beams of at least 1, got {self}")
        if not 0 < self.tag_threshold <= 1:
            raise ValueError(f"caption.tag_threshold is a probability in (0, 1], got {self.tag_threshold}")
        _sources(self.model)


Task = Literal["given", "tags", "sound", "listen", "look", "mico", "omni"]

_FAMILIES: Mapping[str, tuple[Task, str]] = {
    "sound": ("listen", "caption_audio"),
    "openai": ("look", "caption_openai"),
    "mico": ("mico", "omniloom.trainer.captioner"),
}
"""What stands before the colon -> what is done, and the family that does it: a file of `models/`, or a module path."""


@dataclass(frozen=True, slots=True)
class _Source:
    task: Task
    family: str = ""
    name: str = ""


@cache
def _sources(model: str) -> tuple[_Source, ...]:
    """The sources that `caption.model` lists. Raises ValueError, naming the forms, for what is none."""
    found: list[_Source] = []
    for part in (part.strip() for part in model.split("+")):
        before, colon, name = part.partition(":")
        if part in {"given", "tags", "sound", "omni"}:
            found.append(_Source(cast(Task, part)))
        elif colon and before in _FAMILIES and name:
            found.append(_Source(*_FAMILIES[before], name))
        elif colon and "." in before and "/" not in before and name:
            found.append(_Source("look", before, name))
        elif "/" in part and not colon:
            found.append(_Source("look", "caption_transformers", part))
        else:
            raise ValueError(
                f"caption.model={model!r}: {part!r} is no source of captions; these are, joined by '+': given, tags, "
                "sound, omni, a hub name such as 'Salesforce/blip-image-captioning-base' or a folder ('./blip'), "
                "sound:NAME, openai:URL#MODEL, mico:RUN"
            )
    if len(set(found)) < len(found):
        raise ValueError(f"caption.model={model!r} names a source twice")
    # What puts the others together comes after them.
    return tuple(sorted(found, key=lambda source: source.task == "omni"))


def models(config: Config) -> Sequence[ModelRef]:
    """The networks of all sources."""
    return tuple(ref for source in _sources(config.model) if (ref := _reference(source, config)) is not None)


def _reference(source: _Source, config: Config) -> ModelRef | None:
    match source.task:
        case "tags":
            return caption_tags.reference()
        case "sound":
            return caption_sound.reference()
        case "look":
            options = {"prompt": config.prompt, "max_new_tokens": config.max_new_tokens, "beams": config.beams}
            return ModelRef(source.family, source.name, tuple(options.items()))
        case "listen" | "mico":
            return ModelRef(source.family, source.name)
        case _:
            return None


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """Every caption of the clip; None if there is none.

    Raises Rejected "bad-caption-file" if there are caption files and not one caption can be had from anywhere.
    """
    found: dict[Kind, list[Text]] = {kind: [] for kind in KINDS}
    faults: list[str] = []
    for source in _sources(config.model):
        if source.task == "given":
            for place, texts in given(footage, config.subtitles, faults):
                _add(found, texts, place)
        elif source.task == "omni":
            _add_merged(found, footage)
        else:
            ref = _reference(source, config)
            assert ref is not None, source
            texts = _asked(source.task, ref, footage, config, ask)
            if any(texts.values()):
                _add(found, texts, *family_of(ref).describe(ref))
    captions = Captions(*(tuple(found[kind]) for kind in KINDS))
    if not len(captions):
        if faults:
            raise Rejected("extract", "bad-caption-file", "; ".join(faults))
        return None
    every = [text for kind in KINDS for text in found[kind]]
    revisions = {text.model: text.revision for text in every if text.revision}
    return Made(
        captions,
        model="+".join(sorted({text.model for text in every})),
        revision="; ".join(f"{model} {revision}" for model, revision in sorted(revisions.items())),
    )


def encode(value: Captions) -> Part:
    """JSON: {"visual": [{"text", "model", "revision" where there is one}], "audio": [...], "omni": [...]}."""
    record = {
        kind: [
            {"text": text.text, "model": text.model} | ({"revision": text.revision} if text.revision else {})
            for text in getattr(value, kind)
        ]
        for kind in KINDS
    }
    return Part(codecs.encode_json(record), {f"num_{kind}": len(record[kind]) for kind in KINDS})


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Captions:
    """Captions from the JSON object, or from what other people wrote. Raises ValueError if it is neither."""
    if facts.get("stored_as"):
        return others_captions(pieces[0])
    try:
        return Captions(
            *(
                tuple(Text(str(t["text"]), str(t["model"]), str(t.get("revision", ""))) for t in pieces[0][kind])
                for kind in KINDS
            )
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"damaged captions: {error!r}") from error


def others_captions(stored: Any) -> Captions:
    """Captions from a text, which is one, or from a JSON record with "caption", "captions", "text", "visual", ..."""
    found: dict[Kind, list[Text]] = {kind: [] for kind in KINDS}
    try:
        if isinstance(stored, str):
            _add(found, {"omni": [stored]}, "given:txt")
        else:
            named = isinstance(stored, dict) and not {"caption", "captions", *KINDS} & {*stored}
            _add(found, texts_of({"caption": stored.get("text")} if named else stored), "given:json")
    except ValueError as error:
        raise ValueError(f"damaged captions: {error}") from error
    return Captions(*(tuple(found[kind]) for kind in KINDS))


def tensor(value: Captions, window: Window) -> str:
    """One text: of the omni captions, else the visual, else the audio ones; any in training, the first otherwise."""
    found = texts(value)
    return found[int(window.rng(4).integers(len(found))) if window.train else 0] if found else ""


def texts(value: Captions) -> tuple[str, ...]:
    """All that `tensor` chooses from."""
    return tuple(text.text for text in value.omni or value.visual or value.audio)


def example(rng: np.random.Generator) -> Captions:
    """A few captions, not all of them English."""
    number = int(rng.integers(2, 1000))
    return Captions(
        visual=(Text(f"{number} red balls roll past", "given:json"), Text("bolas rojas — «allí»", "given:txt")),
        audio=(Text("a bell rings", "mylab/hearing", "1f00d"),),
        omni=(Text(f"{number} balls roll while a bell rings", "given:list"),),
    )


# --- sources --------------------------------------------------------------------------------------------------


def _add(found: dict[Kind, list[Text]], texts: Mapping[Kind, Iterable[str]], model: str, revision: str = "") -> None:
    """Adds what is not there yet: the same words from two places are one caption, under the first one's name."""
    for kind, candidates in texts.items():
        known = {text.text for text in found[kind]}
        for candidate in candidates:
            text = " ".join(candidate.split())
            if text and text not in known:
                known.add(text)
                found[kind].append(Text(text, model, revision))


def _asked(task: Task, ref: ModelRef, footage: Footage, config: Config, ask: Ask) -> dict[Kind, Sequence[str]]:
    """What a network says of the clip; nothing where there is nothing to look at or to hear."""
    rgb, sound = _chosen(footage, config.frames), footage.audio
    if task == "mico":
        return {"omni": ask(ref, seen)} if (seen := _seen(footage)) else {}
    if task in {"tags", "look"}:
        if rgb is None:
            return {}
        if task == "tags":
            words = caption_tags.words(ask(ref, rgb), config.tag_threshold)
            return {"visual": [", ".join(words)]}
        (texts,) = ask(ref, rgb[None])
        return {"visual": texts}
    if sound is None or not len(sound.samples):
        return {}
    if task == "sound":
        return {"audio": [caption_sound.words(sound.samples, sound.sample_rate_hz, ref, ask)]}
    likely: Sequence[tuple[str, float]] = ask(ref, sound.samples, sound.sample_rate_hz)
    return {"audio": [", ".join(word for word, sure in likely if sure >= config.tag_threshold)]}


def _chosen(footage: Footage, count: int) -> np.ndarray | None:
    """uint8 (T, H, W, 3): at most `count` frames, one from the middle of each equal stretch of the clip."""
    if footage.frames is None or not len(footage.frames.rgb):
        return None
    rgb = footage.frames.rgb
    return rgb[((np.arange(min(count, len(rgb))) + 0.5) / min(count, len(rgb)) * len(rgb)).astype(np.int64)]


def _seen(footage: Footage) -> dict[str, Any]:
    """The clip's values by modality, as far as there are any."""
    seen: dict[str, Any] = {name: footage.made[name] for name in uses if name in footage.made}
    if footage.frames is not None and len(footage.frames.rgb):
        seen["frames"] = footage.frames
    if footage.audio is not None and len(footage.audio.samples):
        seen["audio"] = footage.audio
    return seen


def _add_merged(found: dict[Kind, list[Text]], footage: Footage) -> None:
    """One text of all that there is, named after what is in it."""
    said = footage.made.get("transcript")
    transcript = Heard(said.text, said.language) if said is not None else None
    parts = merged({kind: [(text.text, text.model) for text in texts] for kind, texts in found.items()}, transcript)
    if parts is not None:
        _add(found, {"omni": [parts.text]}, "omni:" + "+".join(parts.sources))
