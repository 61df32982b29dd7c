"""The two tables a run ends with: what the corpus holds, and what the model finds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from omniloom.pipeline.corpus import open_corpus
from omniloom.recipes.show import table

Scores = Mapping[str, float]


def show_corpus(corpus: Path, console: Console) -> None:
    """Prints hours, and how many samples have each modality in how many bytes."""
    stats = open_corpus(corpus).stats()
    rows = [
        [
            name,
            f"{values['present']:,}",
            f"{100 * values['present'] / max(1, stats['samples']):.0f} %",
            _size(values["bytes"]),
        ]
        for name, values in stats["modalities"].items()
    ]
    title = f"{stats['samples']:,} samples, {60 * stats['hours']:.1f} minutes, {stats['shards']} shards"
    drops = ", ".join(f"{count} {reason}" for reason, count in stats["drops"].items())
    console.print(table(title, ["modality", "samples", "share", "bytes"], rows))
    console.print(f"dropped: {drops or 'nothing'}")


def show_retrieval(report: Mapping[str, Any], console: Console) -> None:
    """Prints recall among held-out clips per combination, before and after re-ranking, beside chance and controls."""
    for part in retrieval_tables(report):
        console.print(part)


def retrieval_tables(report: Mapping[str, Any]) -> list[Any]:
    """The tables of `show_retrieval`, and lines on matching and captioning."""
    rows: list[list[str]] = []
    for name in sorted(report["retrieval"], key=lambda name: (not name.startswith("t->"), name)):
        rows.append([_arrow(name), *_cells(report["retrieval"][name]), _interval(report["ci95"].get(name))])
        if name in report["reranked"]:
            rows.append([f"{_arrow(name)}, re-ranked", *_cells(report["reranked"][name]), ""])
    asked = [name for name in report["retrieval"] if name.startswith("t->")]
    best = max(asked, key=lambda name: report["retrieval"][name]["r1"])
    for control, found in report["controls"].items():
        rows.append([f"{_arrow(best)}, {control}", *_cells(found[best]), "control"])
    rows.append(["chance", *_cells(report["chance"]), ""])
    header = ["query -> target", "R@1 %", "R@5 %", "R@10 %", "median rank", "R@1, 95 % interval"]
    lines: list[Any] = [table(f"Retrieval among {report['n']} held-out clips", header, rows)]
    lines.append("t text, v frames, a sound, d depth, n normals, p points")
    lines += [f"matching {clip}: AUC {values['auc']:.3f}" for clip, values in report["matching"].items()]
    for clip, values in report["caption"].items():
        cider = f", CIDEr {values['cider']:.3f}" if "cider" in values else ""
        lines.append(
            f"captions from {clip}: {values['dnll']:.3f} nats a token better with the clip than without{cider}"
        )
    return lines


def _cells(scores: Scores) -> list[str]:
    return [
        *(f"{100 * scores[name]:.1f}" if name in scores else "" for name in ("r1", "r5", "r10")),
        f"{scores['medr']:.0f}" if "medr" in scores else "",
    ]


def _interval(low_high: tuple[float, float] | None) -> str:
    return f"{100 * low_high[0]:.1f} to {100 * low_high[1]:.1f}" if low_high else ""


def _arrow(name: str) -> str:
    return name.replace("->", " -> ")


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"
