"""The tables a run ends with: what the corpus holds, and what the model finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def show_evaluation(report: Mapping[str, Any], console: Console) -> None:
    """Prints all that `omniloom eval` measures: `docs/evaluation.md` says what each figure means."""
    parts = [
        *(retrieval_tables(report) if report["retrieval"] else ()),
        *_between(report.get("between", {})),
        *_worth(report),
        *_written(report.get("caption", {})),
        *_answers(report.get("answers", {})),
        *_classes(report),
        *_spread(report.get("spread", {})),
    ]
    for part in parts:
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
    captions = report.get("captions", report["n"])
    title = f"Retrieval among {report['n']} held-out clips"
    if captions != report["n"]:
        title = f"Retrieval by {captions} captions of {report['n']} held-out clips"
        rows.append(["chance of a clip that asks", *_cells(report["chance_back"]), ""])
    lines: list[Any] = [table(title, header, rows)]
    lines.append("t text, v frames, a sound, d depth, n normals, p points")
    lines += [f"matching {clip}: AUC {values['auc']:.3f}" for clip, values in report["matching"].items()]
    for clip, values in report["caption"].items():
        cider = f", CIDEr {values['cider']:.3f}" if "cider" in values else ""
        lines.append(
            f"captions from {clip}: {values['dnll']:.3f} nats a token better with the clip than without{cider}"
        )
    return lines


def _between(found: Mapping[str, Scores]) -> Iterator[Any]:
    header = ["query -> target", "clips", "R@1 %", "R@5 %", "R@10 %", "median rank", "chance R@1 %"]
    rows = [
        [_arrow(name), f"{scores['n']:.0f}", *_cells(scores), _percent(scores["chance"])]
        for name, scores in found.items()
    ]
    if rows:
        yield table("One sense asks for another of the same clip", header, rows)


def _worth(report: Mapping[str, Any]) -> Iterator[Any]:
    rows: list[list[str]] = []
    for name, scores in report.get("missing", {}).items():
        rows.append([_arrow(name), _percent(report["retrieval"][name]["r1"])])
        rows += [[f"  without {letter}", _percent(recall)] for letter, recall in scores.items()]
        rows += [[f"  {letter} of other clips", _percent(r1)] for letter, r1 in report["swaps"].get(name, {}).items()]
    if rows:
        yield table("What each modality brings", ["query -> target", "R@1 %"], rows)


def _written(found: Mapping[str, Scores]) -> Iterator[Any]:
    rows = [
        [
            name,
            f"{scores['cider']:.3f}",
            f"{100 * scores['bleu4']:.1f}",
            f"{scores['nll']:.3f}",
            f"{scores['dnll']:.3f}",
        ]
        for name, scores in found.items()
    ]
    if rows:
        header = ["from", "CIDEr", "BLEU-4 %", "nats a token", "gained by the clip"]
        yield table("Captions that it writes, against people's", header, rows)


def _answers(found: Mapping[str, Scores]) -> Iterator[Any]:
    rows = [
        [name, f"{scores['n']:.0f}", _percent(scores["accuracy"]), _percent(scores["commonest"])]
        for name, scores in found.items()
        if scores["n"]
    ]
    if rows:
        yield table("Answers in the right words", ["from", "questions", "right %", "commonest answer %"], rows)


def _classes(report: Mapping[str, Any]) -> Iterator[Any]:
    rows = [
        [
            f"{what}, {name}",
            f"{scores['n']:.0f}",
            *(_percent(scores[part]) for part in ("top1", "top5", "mean_class", "chance", "majority")),
        ]
        for key, what in (("zero_shot", "by name"), ("linear_probe", "linear probe"))
        for name, scores in report.get(key, {}).items()
    ]
    if rows:
        header = ["how, from", "clips", "top-1 %", "top-5 %", "mean of classes %", "chance %", "majority %"]
        yield table("Classes", header, rows)


def _spread(found: Mapping[str, Scores]) -> Iterator[Any]:
    rows = [
        [name, f"{scores['effective_rank']:.1f}", f"{scores['gap']:.3f}" if "gap" in scores else ""]
        for name, scores in found.items()
    ]
    if rows:
        yield table("How embeddings lie", ["of", "effective rank", "gap to captions"], rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


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
