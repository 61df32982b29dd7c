"""The decode benchmark's figures as a table for reading and as bars for looking."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omniloom.benchmarks.timing import as_row

_COLOURS = {"floor": "#8a8f98", "ours": "#1f6feb", "chain": "#d9822b"}
_GROUPS = {"floor": "FFmpeg, one process", "ours": "omniloom, one process", "chain": "operator by operator"}
_ACROSS = 4


def as_markdown(report: Mapping[str, Any]) -> str:
    """Claims first, then every row of every source."""
    sources = report["sources"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        "# Cost of a build, in D",
        "",
        "D is the CPU time of one single-threaded FFmpeg decode of the same file; costs are user plus system time of",
        "whole processes and their children, medians (ranges) over rounds in which every step ran once. What an",
        'interpreter\'s start and its imports cost shows as the build of one second. "In the limit" counts only what',
        "lies beyond the first second, on both sides. The chain runs a process and a decode for each operator and",
        f"clip, and finds cuts with {report['chain_finds_cuts_with']}; what it stands for is in benchmarks/peers.py.",
        "",
        f"{report['machine']}; load {report['load'][0]} at the end; {versions}; {report['minutes']} minutes in all.",
        "",
        "## Ours over the peer's",
        "",
        as_row(["", *(source["name"] for source in sources)]),
        as_row(["---", *("---:" for _ in sources)]),
    ]
    names = dict.fromkeys(name for source in sources for name in source["claims"])
    lines += [as_row([name, *(_cell(source["claims"].get(name)) for source in sources)]) for name in names]
    for source in sources:
        lines += ["", f"## {source['name']}: {source['seconds']:g} s, {source['mbit_per_s']:.1f} Mb/s", ""]
        lines += [as_row(["", "CPU s", "D", "D in the limit", "peak MB", "rounds"]), "|---|---:|---:|---:|---:|---:|"]
        for name, row in source["rows"].items():
            figures = (_cell(row.get(key)) for key in ("cpu_s", "D", "D_in_the_limit"))
            lines.append(as_row([name, *figures, row["peak_mb"] or "", row["runs"]]))
        lines += ["", *(f"- {note}" for note in source["notes"])] if source["notes"] else []
    if "wall" in report:
        lines += ["", "## Seconds on the clock, frames and sound", "", as_row(["", "s"]), "|---|---:|"]
        lines += [as_row(item) for item in report["wall"].items()]
    return "\n".join([*lines, "", "Made by `omniloom bench decode`.", ""])


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Horizontal bars in D, one panel a source, whiskers over the range."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    sources = report["sources"]
    across = min(_ACROSS, len(sources))
    down = -(-len(sources) // across)
    names = list(dict.fromkeys(name for source in sources for name in source["rows"]))[::-1]
    order = {name: position for position, name in enumerate(_ordered(names, sources))}
    figure = Figure(figsize=(4 + 3.4 * across, 1.6 + down * (0.7 + 0.27 * len(order))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for panel, source in zip(panels, sources, strict=False):
        widest = max(row["D"]["max"] for row in source["rows"].values())
        for name, row in source["rows"].items():
            figures, y = row["D"], order[name]
            panel.barh(y, figures["median"], color=_COLOURS[row["group"]], height=0.72)
            panel.plot([figures["min"], figures["max"]], [y, y], color="black", linewidth=1.2)
            panel.text(figures["max"] + widest / 60, y, f"{figures['median']:.2f}", va="center", fontsize=8)
        for name in order.keys() - source["rows"].keys():
            panel.text(widest / 60, order[name], "not measured", va="center", fontsize=7, color="#b0b0b0")
        panel.set_title(f"{source['name']}\n{source['seconds']:g} s, {source['mbit_per_s']:.1f} Mb/s", fontsize=10)
        panel.set_xlim(0, 1.16 * widest)
        panel.set_yticks(list(order.values()), list(order), fontsize=9)
        panel.tick_params(axis="x", labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.axvline(1, color="#c0c0c0", linewidth=0.8, zorder=0)
    for panel in panels[len(sources) :]:
        panel.set_visible(False)
    handles = [Patch(color=colour, label=_GROUPS[group]) for group, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle("CPU time in D: one single-threaded decode of the same file is 1", fontsize=12)
    figure.savefig(path, dpi=110)


def _ordered(names: list[str], sources: list[dict[str, Any]]) -> list[str]:
    """Bottom to top: the chain, ours, the floor, each in the order of the table."""
    groups = {name: row["group"] for source in sources for name, row in source["rows"].items()}
    return [name for group in reversed(_COLOURS) for name in names if groups[name] == group]


def _cell(figures: Mapping[str, float] | None) -> str:
    if not figures:
        return ""
    if figures.get("min", figures["median"]) == figures.get("max", figures["median"]):
        return f"{figures['median']:.2f}"
    return f"{figures['median']:.2f} ({figures['min']:.2f} to {figures['max']:.2f})"
