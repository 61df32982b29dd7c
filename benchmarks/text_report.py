"""The text benchmark's figures as tables for reading and as a picture for looking."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.benchmarks.timing import as_row

OURS, AS_IT_COMES, CONTROL = "omniloom", "the engine as it comes", "omniloom, shuffled references"
_COLOURS = {OURS: "#1f6feb", AS_IT_COMES: "#d9822b"}
_GOALS = {"LibriVox": 0.10, "Asterisk prompts, 5 words or more": 0.08}
"""The WER that is promised."""
_START_GOALS = ((0.12, 0.5), (0.25, 0.8))
"""Within so many seconds of the truth lies such a share of word starts."""
_HOW = """\
WER counts substituted, missing and added words over the words of the reference. Reference and answer are made alike
first, whoever answered: lower case, no punctuation, hyphens part words, numbers and a few abbreviations as they are
spoken (benchmarks/text_score.py). Word starts are compared where the word was heard right. Halves are parted by a hash
of the recording's name; choices were made on the other half. The control scores ours against the texts of others."""


def as_markdown(report: Mapping[str, Any]) -> str:
    """Words first, then the long narration's edges, then what was heard where nobody speaks."""
    versions = ", ".join(f"{name} {found}" for name, found in report["versions"].items())
    lines = [
        "# How well speech is written down",
        "",
        f"{report['machine']}; {versions}; tiny.en in int8 on one core. Made by `omniloom bench text`.",
        "",
        _HOW,
        "",
        "| sound | clips | minutes | who | WER | starts: median | within .12 s | within .25 s | 90 % | CPU-s a min |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in report["spoken"].items():
        for who in (OURS, AS_IT_COMES, CONTROL):
            if who in found:
                row = found[who]
                times = [*_starts(row.get("starts")), row.get("cpu_s_per_minute", "")]
                lines.append(as_row([name, found["clips"], found["minutes"], who, f"{row['wer']:.3f}", *times]))
    for name, found in report["spoken"].items():
        if "over_time" in found.get(OURS, {}):
            lines += ["", f"## {name} of {found['minutes']} minutes: does its clock drift?", ""]
            lines += ["Ours by way of a whole build, in clips.", ""]
            lines += ["| who | when | words | median | within .12 s | within .25 s | 90 % |"]
            lines += ["|---|---|---:|---:|---:|---:|---:|"]
            for who in (OURS, AS_IT_COMES):
                for when in ("first two minutes", "last two minutes"):
                    row = found[who][when]
                    lines.append(as_row([who, when, row["words"], *_starts(row)]))
    if report["wordless"]:
        lines += ["", "## Words where nobody says any", "", "| sound | minutes | who | sounds | with words | words |"]
        lines += ["|---|---:|---|---:|---:|---:|"]
        for kind, found in report["wordless"].items():
            for who, row in found.items():
                lines.append(as_row([kind, row["minutes"], who, row["sounds"], row["with_words"], row["false_words"]]))
    if report["missing"]:
        lines += ["", f"Not measured, since it is not installed: {', '.join(report['missing'])}."]
    if report["waiting"]:
        lines += ["", f"Not measured, since the run has not come to it: {', '.join(report['waiting'])}."]
    return "\n".join([*lines, ""])


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Wrong words; how many words begin within so many seconds of the truth; the long one's clock; invented words."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    spoken = report["spoken"]
    if not spoken:
        return
    timed = [name for name, found in spoken.items() if "errors_s" in found.get(OURS, {})]
    drifting = [name for name in timed if "over_time" in spoken[name][OURS]]
    number = 1 + len(timed) + len(drifting) + bool(report["wordless"])
    across = min(3, number)
    figure = Figure(figsize=(4.6 * across, 3.6 * -(-number // across)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(-(-number // across), across, squeeze=False).ravel())
    _draw_wrong(panels[0], spoken)
    for panel, name in zip(panels[1:], timed, strict=False):
        _draw_starts(panel, name, spoken[name])
    for panel, name in zip(panels[1 + len(timed) :], drifting, strict=False):
        _draw_clock(panel, name, spoken[name])
    if report["wordless"]:
        _draw_invented(panels[number - 1], report["wordless"])
    for panel in panels[number:]:
        panel.set_visible(False)
    for panel in panels[:number]:
        panel.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=colour, label=who) for who, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=100)


def _draw_wrong(panel: Any, spoken: Mapping[str, Any]) -> None:
    names = [*spoken]
    for at, name in enumerate(names):
        for offset, who in ((-0.2, OURS), (0.2, AS_IT_COMES)):
            wer = spoken[name][who]["wer"]
            panel.barh(at + offset, wer, 0.38, color=_COLOURS[who])
            panel.text(wer + 0.002, at + offset, f"{wer:.3f}", va="center", fontsize=8)
        if name in _GOALS:
            panel.plot([_GOALS[name]] * 2, [at - 0.45, at + 0.45], color="black", linewidth=1)
            panel.text(_GOALS[name] + 0.002, at, "goal", va="center", fontsize=8)
    panel.set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=8)
    panel.invert_yaxis()
    panel.set(title="wrong words (WER)", xlim=(0, 1.2 * max(0.1, panel.dataLim.x1)))


def _draw_starts(panel: Any, name: str, found: Mapping[str, Any]) -> None:
    for who, colour in _COLOURS.items():
        errors = found[who].get("errors_s", [])
        if errors:
            share = np.arange(1, len(errors) + 1) / len(errors)
            panel.plot(errors, share, color=colour, label=f"median {statistics.median(errors):.3f} s")
    panel.plot(*zip(*_START_GOALS, strict=True), "+", color="black", label="goal")
    panel.set(xlim=(0, 1), ylim=(0, 1.02), title=name, xlabel="seconds from the truth", ylabel="share of word starts")
    panel.legend(frameon=False, fontsize=8, loc="lower right")


def _draw_clock(panel: Any, name: str, found: Mapping[str, Any]) -> None:
    for who, colour in reversed(_COLOURS.items()):
        errors = np.asarray(found[who].get("over_time", ()), float).reshape(-1, 2)
        panel.plot(errors[:, 0] / 60, errors[:, 1], ".", markersize=2.5, color=colour)
    panel.axhline(0, color="#c0c0c0", linewidth=0.8, zorder=0)
    panel.set(title=f"{name}: its clock", xlabel="minutes", ylabel="word start less the truth, s", ylim=(-1, 1))


def _draw_invented(panel: Any, wordless: Mapping[str, Any]) -> None:
    kinds = [kind for kind, found in wordless.items() if AS_IT_COMES in found]
    for at, kind in enumerate(kinds):
        for offset, who in ((-0.2, OURS), (0.2, AS_IT_COMES)):
            row = wordless[kind][who]
            share = row["with_words"] / row["sounds"]
            panel.barh(at + offset, share, 0.38, color=_COLOURS[who])
            panel.text(share + 0.01, at + offset, f"{row['with_words']} of {row['sounds']}", va="center", fontsize=8)
    panel.set_yticks(range(len(kinds)), [kind.replace(" (", "\n(") for kind in kinds], fontsize=8)
    panel.invert_yaxis()
    panel.set(title="sounds without words that got some", xlim=(0, 1.2))


def _starts(row: Mapping[str, float] | None) -> list[str]:
    if not row or not row["words"]:
        return [""] * 4
    within = [f"{100 * row[name]:.0f} %" for name in ("within_120ms", "within_250ms")]
    return [f"{row['median_s']:.3f} s", *within, f"{row['p90_s']:.2f} s"]
