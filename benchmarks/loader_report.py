"""The loader benchmark's figures as tables for reading and as bars for looking."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omniloom.benchmarks.timing import as_row

_TITLES = {
    "frames": "8 frames of a clip of 10 s",
    "audio": "its sound alone",
    "all": "frames, sound, caption, depth, normals and points",
    "corrupt": "frames and sound, 1 % of the members damaged",
}
_COLOURS = {"bare": "#8a8f98", "ours": "#1f6feb", "h264": "#d9822b", "same": "#e8b878"}
_GROUPS = {"bare": "no loader", "ours": "omniloom", "h264": "peers from H.264", "same": "peers from our layout"}


def as_markdown(report: Mapping[str, Any]) -> str:
    """Claims, then a table a task, then damage, resumption and what was converted."""
    window, clips = report["window"], report["clips"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        "# Loaders",
        "",
        f"{clips.get('plain')} clips of 10 s ({clips.get('full', 0)} with depth, normals and points), of which each"
        f" batch shows {window['num_frames']} frames of {window['image_px']} x {window['image_px']}, all of the sound"
        f" (16 kHz), {window['num_points']} points and a caption, as float32; {report['batch']} samples a batch,"
        f" {report['workers']} workers or threads. All read the same clips, from memory where the system has cached the"
        " files. Each measurement is a process of its own and counts a few seconds of steady state; figures are medians"
        f" (ranges) over {report['rounds']} rounds in which every loop ran once. A first batch is counted from the"
        " making of the loader, its package imported already. CPU time, memory and bytes are those of the whole tree"
        " of processes; bytes through memory maps (DALI, litdata) are not seen.",
        "",
        f"{report['machine']}; load {report['load'][0]} at the end; {versions}; {report['minutes']} minutes in all.",
        "",
        "## Ours over theirs, samples a second",
        "",
        as_row(["", "ratio", "goal"]),
        "|---|---:|---:|",
        *(as_row([name, _cell(figures), f">= {figures['goal']:g}"]) for name, figures in report["claims"].items()),
    ]
    for task, rows in report["tasks"].items():
        lines += [
            "",
            f"## {_TITLES[task][0].upper()}{_TITLES[task][1:]}",
            "",
            as_row(["", "samples/s", "CPU ms a sample", "first batch, s", "KB read a sample", "peak MB"]),
            "|---|---:|---:|---:|---:|---:|",
        ]
        for name, row in rows.items():
            figures = (_cell(row.get(key)) for key in ("samples_per_s", "cpu_ms_per_sample", "first_batch_s"))
            lines.append(as_row([name, *figures, _cell(row["read_kb_per_sample"]), row["peak_mb"]]))
    lines += ["", "## One epoch with damage", "", *_damage(report["corrupt"])]
    lines += ["", "## Seconds from a state to the next batch", "", *_resumption(report["resume"])]
    lines += ["", "## What each does", "", as_row(["", "reads", "how"]), "|---|---|---|"]
    lines += [
        as_row([name, "H.264" if row["layout"] == "h264" else "our layout", row["does"]])
        for name, row in report["rows"].items()
    ]
    lines += ["", "## Writing the files, once", "", as_row(["", "s"]), "|---|---:|"]
    lines += [as_row(item) for item in report["conversion_s"].items()]
    for name, sizes in report["megabytes"].items():
        lines += [
            "",
            f"The corpus, {name}, in MB: " + ", ".join(f"{part} {size:g}" for part, size in sizes.items()) + ".",
        ]
    lines += ["", "## On a GPU", "", *_gpu(report["gpu"])]
    lines += ["", *(f"- {note}" for note in report["notes"])] if report["notes"] else []
    return "\n".join([*lines, "", "Made by `omniloom bench loader`.", ""])


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Horizontal bars of samples a second, one panel a task, whiskers over the range."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    tasks = report["tasks"]
    heights = [max(2, len(rows)) for rows in tasks.values()]
    figure = Figure(figsize=(9, 1.6 + 0.34 * sum(heights) + 0.5 * len(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(tasks), 1, squeeze=False, gridspec_kw={"height_ratios": heights}).ravel()
    for panel, (task, rows) in zip(panels, tasks.items(), strict=True):
        widest = max(row["samples_per_s"]["max"] for row in rows.values())
        for y, (name, row) in enumerate(reversed(rows.items())):
            figures = row["samples_per_s"]
            panel.barh(y, figures["median"], color=_COLOURS[_group(name, report["rows"][name])], height=0.72)
            panel.plot([figures["min"], figures["max"]], [y, y], color="black", linewidth=1.2)
            panel.text(figures["max"] + widest / 80, y, f"{figures['median']:.4g}", va="center", fontsize=8)
        panel.set_title(_TITLES[task], fontsize=10, loc="left")
        panel.set_xlim(0, 1.1 * widest)
        panel.set_yticks(range(len(rows)), list(reversed(rows)), fontsize=9)
        panel.tick_params(axis="x", labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=colour, label=_GROUPS[group]) for group, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(f"Samples a second, {report['workers']} workers or threads", fontsize=12)
    figure.savefig(path, dpi=110)


def _group(name: str, row: Mapping[str, Any]) -> str:
    if name.startswith("bare"):
        return "bare"
    return "ours" if name.startswith("omniloom") else "h264" if row["layout"] == "h264" else "same"


def _damage(corrupt: Mapping[str, Any]) -> list[str]:
    head = [
        f"{corrupt['damaged']} of {corrupt['of']} samples have a damaged member: a byte in every 4 KB. Given: how many"
        " of them came out as if they were whole. Named: of how many the key is in an error, a warning or a list that"
        " the loader keeps.",
        "",
        as_row(["", "what it does", "samples given", "damaged, given", "damaged, named"]),
        "|---|---|---:|---:|---:|",
    ]
    counted = ("samples", "damaged_samples_given", "damaged_samples_named")
    return head + [
        as_row([name, row["outcome"].replace("|", "/"), *(row.get(key, "") for key in counted)])
        for name, row in corrupt["rows"].items()
    ]


def _resumption(rows: Mapping[str, Any]) -> list[str]:
    places = list(dict.fromkeys(place for row in rows.values() for place in row))
    head = [
        "At fractions of an epoch; 0 % is a start. A loader without a state replays. Starting its workers is counted.",
        "",
        as_row(["", *places, "goes on as it would have"]),
        f"|---|{'---:|' * len(places)}---|",
    ]
    return head + [
        as_row(
            [
                name,
                *(f"{at['seconds']:.2f}{' (replay)' if at['replayed'] else ''}" for at in row.values()),
                "yes" if all(at["same"] for at in row.values()) else "no",
            ]
        )
        for name, row in rows.items()
    ]


def _gpu(gpu: Mapping[str, Any]) -> list[str]:
    if "left_out" in gpu:
        return [f"Not measured: {gpu['left_out']}."]
    lines = [gpu["device"], "", as_row(["", "samples/s", "CPU ms a sample"]), "|---|---:|---:|"]
    for name, row in gpu["rows"].items():
        if "left_out" in row:
            lines.append(as_row([name, f"left out: {row['left_out']}", ""]))
        else:
            lines.append(as_row([name, f"{row['samples_per_s']:.4g}", f"{row['cpu_ms_per_sample']:.3g}"]))
    return lines


def _cell(figures: Mapping[str, float] | None) -> str:
    if not figures:
        return ""
    if figures["min"] == figures["max"]:
        return f"{figures['median']:.4g}"
    return f"{figures['median']:.4g} ({figures['min']:.4g} to {figures['max']:.4g})"
