"""Two engines for one network: given windows of sound, each says which words it hears, when, and how sure it is.

Both hear a window in one go, without the network's own time marks, with a beam and without dice, so that the same
weights write the same words. Whisper: arXiv 2212.04356.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from omniloom.modalities.models.word_times import TimedWord

_FRAMES_A_SECOND = 100
_ALL_FRAMES = 3000
_MOST_TOKENS = 224
_OPENING = "\"'“¿([{-"
_PUNCTUATION = set(string.punctuation) | set("“”‘’¿¡…。，！？：、·")


@dataclass(frozen=True, slots=True)
class Heard:
    """What an engine makes of one window; word times in seconds from the window's start."""

    words: tuple[TimedWord, ...]
    avg_logprob: float
    no_speech_prob: float

    @property
    def text(self) -> str:
        return "".join(word.word for word in self.words).strip()


class Engine(Protocol):
    """A loaded network."""

    batch: int
    """How many windows to hear at once."""
    multilingual: bool

    def languages(self, sounds: Sequence[np.ndarray]) -> list[dict[str, float]]:
        """How likely each language is, by code, for each window: float32 (N,) at 16 kHz, at most 30 s."""
        ...

    def hear(self, sounds: Sequence[np.ndarray], language: str) -> list[Heard]:
        """What is said in each window; each answer depends on its own window only."""
        ...


class FasterWhisper:
    """CTranslate2: on one core in int8, or on the GPU in half precision."""

    def __init__(self, folder_or_name: str, beam: int) -> None:
        import ctranslate2
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_suppressed_tokens

        on_gpu = ctranslate2.get_cuda_device_count() > 0
        self._model: Any = WhisperModel(
            folder_or_name,
            device="cuda" if on_gpu else "cpu",
            compute_type="float16" if on_gpu else "int8",
            cpu_threads=1,
        )
        self._beam = beam
        self._tokenizer: Any = Tokenizer
        self._suppressed: Any = get_suppressed_tokens
        self.batch = 16 if on_gpu else 1
        self.multilingual = bool(self._model.model.is_multilingual)

    def languages(self, sounds: Sequence[np.ndarray]) -> list[dict[str, float]]:
        with _one_blas_thread():
            found = self._model.model.detect_language(self._encoded(sounds))
        return [{token[2:-2]: float(probability) for token, probability in row} for row in found]

    def hear(self, sounds: Sequence[np.ndarray], language: str) -> list[Heard]:
        tokenizer = self._tokenizer(
            self._model.hf_tokenizer, self.multilingual, task="transcribe", language=language or "en"
        )
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        with _one_blas_thread():
            encoded = self._encoded(sounds)
            answers = self._model.model.generate(
                encoded,
                [prompt] * len(sounds),
                beam_size=self._beam,
                length_penalty=1.0,
                max_length=len(prompt) + _MOST_TOKENS,
                return_scores=True,
                return_no_speech_prob=True,
                suppress_blank=True,
                suppress_tokens=self._suppressed(tokenizer, [-1]),
            )
            tokens = [[t for t in answer.sequences_ids[0] if t < tokenizer.eot] for answer in answers]
            # The aligner wants words of every window; what it says of a window without any is thrown away.
            aligned = self._model.find_alignment(
                tokenizer,
                [said or tokenizer.encode(" .") for said in tokens],
                encoded,
                [_frames(sound) for sound in sounds],
            )
        heard: list[Heard] = []
        for said, answer, timed in zip(tokens, answers, aligned, strict=True):
            words = (
                [TimedWord(w["word"], float(w["start"]), float(w["end"]), float(w["probability"])) for w in timed]
                if said
                else []
            )
            # CTranslate2 divides by the words, Whisper's measure by the words and the end.
            avg_logprob = answer.scores[0] * len(answer.sequences_ids[0]) / (len(answer.sequences_ids[0]) + 1)
            heard.append(Heard(tuple(joined(words)), float(avg_logprob), float(answer.no_speech_prob)))
        return heard

    def _encoded(self, sounds: Sequence[np.ndarray]) -> Any:
        return self._model.encode(mels(self._model.feature_extractor, sounds))


class OpenAIWhisper:
    """PyTorch, the authors' own code: in half precision on the GPU, else in single."""

    def __init__(self, model: Any, beam: int) -> None:
        import torch
        from faster_whisper.feature_extractor import FeatureExtractor

        self._whisper: Any = import_module("whisper")
        self._timing: Any = import_module("whisper.timing")
        self._tokenizer: Any = import_module("whisper.tokenizer")
        self._model = model
        self._extractor = FeatureExtractor(feature_size=model.dims.n_mels)
        self._on_gpu = torch.cuda.is_available()
        self._beam = beam
        self.batch = 16 if self._on_gpu else 1
        self.multilingual = bool(model.is_multilingual)

    def languages(self, sounds: Sequence[np.ndarray]) -> list[dict[str, float]]:
        with _one_torch_thread():
            _, found = self._whisper.detect_language(self._model, self._mels(sounds))
        return list(found)

    def hear(self, sounds: Sequence[np.ndarray], language: str) -> list[Heard]:
        with _one_torch_thread():
            return self._hear(sounds, language)

    def _hear(self, sounds: Sequence[np.ndarray], language: str) -> list[Heard]:
        heard_mels = self._mels(sounds)
        options = self._whisper.DecodingOptions(
            language=language or "en",
            beam_size=self._beam,
            temperature=0.0,
            without_timestamps=True,
            sample_len=_MOST_TOKENS,
            fp16=self._on_gpu,
        )
        tokenizer = self._tokenizer.get_tokenizer(
            self.multilingual, num_languages=self._model.num_languages, language=language or "en", task="transcribe"
        )
        heard: list[Heard] = []
        for answer, mel, sound in zip(
            self._whisper.decode(self._model, heard_mels, options), heard_mels, sounds, strict=True
        ):
            said = [token for token in answer.tokens if token < tokenizer.eot]
            timed = self._timing.find_alignment(self._model, tokenizer, said, mel, _frames(sound))
            words = [TimedWord(w.word, float(w.start), float(w.end), float(w.probability)) for w in timed]
            heard.append(Heard(tuple(joined(words)), float(answer.avg_logprob), float(answer.no_speech_prob)))
        return heard

    def _mels(self, sounds: Sequence[np.ndarray]) -> Any:
        import torch

        dtype = torch.float16 if self._on_gpu else torch.float32
        return torch.from_numpy(mels(self._extractor, sounds)).to(self._model.device, dtype)


def mels(extractor: Any, sounds: Sequence[np.ndarray]) -> np.ndarray:
    """float32 (B, bands, 3000): what both engines hear, each window padded with silence and scaled on its own.

    The padding is silent sound, as in Whisper's training; faster-whisper's own loop pads the spectrogram with zeros,
    which is no silence. OpenAI's code scales a batch by its loudest window.
    """
    padded = [np.pad(sound, (0, _ALL_FRAMES * 160 - len(sound))) for sound in sounds]
    return np.stack([extractor(sound, padding=0)[:, :_ALL_FRAMES] for sound in padded]).astype(np.float32)


def joined(words: Iterable[TimedWord]) -> list[TimedWord]:
    """Punctuation goes to the word it belongs to in writing, and takes no time: it attends to pauses."""
    found: list[TimedWord] = []
    opening = ""
    for word in words:
        bare = word.word.strip()
        if not bare or set(bare) <= _PUNCTUATION:
            if word.word.startswith(" ") and bare and set(bare) <= set(_OPENING):
                opening += word.word
            elif found:
                found[-1] = replace(found[-1], word=found[-1].word + (word.word if bare else ""))
            continue
        text = opening + (word.word.lstrip() if opening else word.word)
        found.append(replace(word, word=text))
        opening = ""
    return found


def _frames(sound: np.ndarray) -> int:
    return min(_ALL_FRAMES, len(sound) * _FRAMES_A_SECOND // 16_000)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """As the other engine: workers share the cores, and threads that wait for each other spin."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_blas_thread() -> Any:
    """A sum in another order turns an int8 step, and the same sound gets other words."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")
