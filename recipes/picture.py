"""One picture of a corpus and what a model learned from it: aligned modalities of a few clips, curves, retrieval."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omniloom.modalities import Sample, load
from omniloom.modalities.base import read
from omniloom.pipeline.corpus import Corpus, open_corpus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

ROWS = 4
FRAMES_SHOWN = 4
INK, ACCENT, MUTED, CHANCE = "#1f2430", "#2a6fdb", "#9aa3b2", "#d9480f"


def draw(corpus: Path, run: Path, report: Mapping[str, Any], out: Path) -> None:
    """Writes a PNG: a few clips with every modality side by side, the loss, and retrieval beside chance."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    samples = _worth_showing(open_corpus(corpus))
    figure = pyplot.figure(figsize=(15, 1.4 * len(samples) + 3.6), facecolor="white", layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.4 * len(samples), 3.4])
    above, below = parts
    grid = above.add_gridspec(len(samples), 9, width_ratios=[1] * 8 + [1.8])
    for row, sample in enumerate(samples):
        _draw_sample(above, grid, row, sample, head=row == 0)
    loss, retrieval = below.subplots(1, 2)
    _draw_loss(loss, run)
    _draw_retrieval(retrieval, report)
    figure.savefig(out, dpi=90, pil_kwargs={"compress_level": 9})
    pyplot.close(figure)


def _worth_showing(corpus: Corpus) -> list[Sample]:
    """The samples with the most modalities, of different sources, in key order among equals."""
    table = corpus.table(columns=["key", "source_id", "source_path", *corpus.modalities])
    rows = table.to_pylist()
    rows.sort(key=lambda row: (-sum(row[name] is not None for name in corpus.modalities), row["key"]))
    chosen: dict[str, str] = {}
    for row in rows:
        chosen.setdefault(row["source_id"], row["key"])
    keys = list(chosen.values())[: ROWS - 1]
    # And one clip that nobody generated, to show what real footage becomes.
    real = next((row["key"] for row in rows if "bigbuckbunny" in row["source_path"] and row["audio"] is not None), None)
    return [corpus[key] for key in ([*keys, real] if real else list(chosen.values())[:ROWS])]


def _draw_sample(figure: SubFigure, grid: Any, row: int, sample: Sample, *, head: bool) -> None:
    values = {name: read(load(name), part) for name, part in sample.parts.items() if name != "video"}

    def axes(column: int | slice, title: str) -> Axes:
        ax = figure.add_subplot(grid[row, column])
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)
        if head:
            ax.set_title(title, fontsize=9, color=INK, loc="left", fontweight="bold")
        return ax

    frames = values.get("frames")
    if frames is not None:
        shown = np.linspace(0, len(frames.rgb) - 1, FRAMES_SHOWN).round().astype(int)
        for column, index in enumerate(shown):
            ax = axes(column, f"frames, {FRAMES_SHOWN} of {len(frames.rgb)}" if column == 0 else "")
            ax.imshow(frames.rgb[index])
            ax.set_xlabel(f"{frames.pts_ns[index] / 1e9:.2f} s", fontsize=7, color=MUTED)
    _draw_depth(axes(4, "depth"), values.get("depth"))
    _draw_normal(axes(5, "normals"), values.get("normal"))
    _draw_points(axes(6, "points"), values.get("points"))
    _draw_sound(axes(7, "sound, 0 to 8 kHz"), values.get("audio"))
    _draw_words(axes(8, "words"), values)


def _absent(ax: Axes) -> None:
    ax.text(0.5, 0.5, "absent", ha="center", va="center", color=MUTED, fontsize=9, transform=ax.transAxes)
    ax.set_facecolor("#f4f5f8")


def _draw_depth(ax: Axes, depth: Any) -> None:
    if depth is None:
        return _absent(ax)
    z = depth.z[len(depth.z) // 2]
    near, far = np.nanpercentile(z, [2, 98])
    ax.imshow(np.log(np.clip(z, near, far)), cmap="turbo_r")
    return None


def _draw_normal(ax: Axes, normal: Any) -> None:
    if normal is None:
        return _absent(ax)
    middle = normal.n[len(normal.n) // 2]
    ax.imshow(np.clip(np.nan_to_num(middle) * [0.5, -0.5, -0.5] + 0.5, 0, 1))
    return None


def _draw_points(ax: Axes, points: Any) -> None:
    if points is None:
        return _absent(ax)
    xyz, rgb = points.xyzrgb[:, :3].astype(np.float64), np.clip(points.xyzrgb[:, 3:].astype(np.float64), 0, 1)
    xyz = xyz - np.median(xyz, axis=0)
    yaw, pitch = np.radians(28), np.radians(-22)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    seen = xyz @ turn.T @ tilt.T
    order = np.argsort(-seen[:, 2])
    ax.scatter(seen[order, 0], -seen[order, 1], s=1.2, c=rgb[order], linewidths=0)
    ax.set_aspect("equal")
    return None


def _draw_sound(ax: Axes, audio: Any) -> None:
    if audio is None:
        return _absent(ax)
    samples = audio.samples.astype(np.float64) / 32768
    ax.specgram(samples + 1e-9, NFFT=400, Fs=audio.sample_rate_hz, noverlap=240, cmap="magma", vmin=-130, vmax=-40)
    ax.set_aspect("auto")
    return None


def _draw_words(ax: Axes, values: Mapping[str, Any]) -> None:
    lines: list[str] = []
    if (caption := values.get("caption")) is not None:
        texts = caption.omni or caption.visual or caption.audio
        lines += textwrap.wrap(texts[0].text, 46)[:7]
    if (transcript := values.get("transcript")) is not None:
        said = " ".join(segment.text.strip() for segment in transcript.segments)
        lines += ["", *textwrap.wrap(f"“{said}”", 46)[:3]]
    ax.text(
        0, 1, "\n".join(lines) or "none", va="top", fontsize=7, color=INK if lines else MUTED, transform=ax.transAxes
    )


def _draw_loss(ax: Axes, run: Path) -> None:
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps, losses = [line["step"] for line in logged], [line["loss"] for line in logged]
    ax.plot(steps, losses, color=ACCENT, alpha=0.25, linewidth=0.8)
    width = max(1, len(losses) // 25)
    if len(losses) > 2 * width:
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        ax.plot(steps[width - 1 :], smooth, color=ACCENT, linewidth=1.8)
    ax.set_title("training loss", fontsize=10, loc="left", fontweight="bold", color=INK)
    ax.set_xlabel("step", fontsize=8, color=INK)
    _quiet(ax)


def _draw_retrieval(ax: Axes, report: Mapping[str, Any]) -> None:
    found = {name: scores["r1"] for name, scores in report["retrieval"].items() if name.startswith("t->")}
    names = sorted(found, key=lambda name: (len(name), name))
    bars = [(name.replace("->", " → "), found[name], ACCENT) for name in names]
    best = max(names, key=lambda name: found[name])
    for control, scores in report["controls"].items():
        bars.append((f"{best.replace('->', ' → ')}, {control}", scores[best]["r1"], MUTED))
    places = range(len(bars))
    ax.barh(places, [100 * score for _, score, _ in bars], color=[colour for *_, colour in bars], height=0.62)
    for place, (_, score, _) in zip(places, bars, strict=True):
        ax.text(100 * score, place, f" {100 * score:.1f}", va="center", fontsize=8, color=INK)
    chance = 100 * report["chance"]["r1"]
    ax.axvline(chance, color=CHANCE, linewidth=1.2, linestyle="--")
    ax.text(chance, len(bars) - 0.42, f"  chance {chance:.2g}", fontsize=8, color=CHANCE, va="center")
    ax.set_yticks(places, [label for label, *_ in bars], fontsize=8)
    ax.set_ylim(len(bars) - 0.2, -0.6)
    title = f"text finds the clip among {report['n']} held-out ones: recall at 1, %"
    ax.set_title(title, fontsize=10, loc="left", fontweight="bold", color=INK)
    _quiet(ax)
    ax.set_xlabel("t text, v frames, a sound, d depth, n normals, p points", fontsize=8, color=INK)


def _quiet(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8, colors=INK)
