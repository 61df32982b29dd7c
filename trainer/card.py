"""The model card: what a saved model is, what it was trained on and how well it did, as a README.md beside the weights.

Only names go into it, never a path or an address: a folder of weights is for others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniloom.modalities import load, short_name

if TYPE_CHECKING:
    from omniloom.trainer.mico import MiCo, MiCoConfig

ABOUT, CARD = "about.json", "README.md"


@dataclass(frozen=True, slots=True)
class About:
    """What a run knows of its model beyond the network's shape."""

    tasks: str = ""
    """As in the recipe: ret%tva_cap%tva."""
    data: str = ""
    """The corpus' name."""
    steps: int = 0
    """Of the whole run; the card may be of an earlier checkpoint."""
    batch_size: int = 0
    """Samples a step, of all ranks."""
    origin: str = ""
    """The weights that its backbone began with; "": random ones."""
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """By split what `evaluate` reports."""


def write_card(folder: Path, model: MiCo, about: About) -> None:
    """Writes README.md, and what it says of the run as about.json."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _replace(folder / ABOUT, json.dumps(asdict(about), indent=1) + "\n")
    _replace(folder / CARD, model_card(model.config, about, parameters=parameters, vocabulary=len(model.tokenizer)))


def read_about(folder: Path) -> About:
    """What was written, or nothing where there is none."""
    path = folder / ABOUT
    return About(**json.loads(path.read_text())) if path.is_file() else About()


def origin_of(config: MiCoConfig) -> str:
    """What a new model's backbone begins with, as the card says it."""
    if config.backbone_weights:
        return f"`{name_of(config.backbone_weights)}`"
    return "timm's weights of that name" if config.backbone and config.backbone_pretrained else ""


def name_of(place: Path | str) -> str:
    """The last part of a path or URL, without a query, which may hold a key."""
    return re.split(r"[?#]", str(place))[0].rstrip("/").rpartition("/")[2]


def model_card(config: MiCoConfig, about: About, *, parameters: int, vocabulary: int) -> str:
    """The card as Markdown with the header that model hubs read."""
    backbone = config.backbone or f"ViT of width {config.vit_width}, depth {config.vit_depth}, {config.vit_heads} heads"
    origin = f", begun from {about.origin}" if about.origin else ""
    sees = ", ".join(f"{short_name(name)} ({load(name).letter})" for name in config.modalities)
    shape = [
        ("parameters", f"{parameters / 1e6:.2f} million"),
        ("sees", sees),
        ("encoder", f"{backbone}{origin}; images of {config.image_px} px"),
        ("a clip", f"{config.num_frames} frames, {config.audio_slices} x {config.audio_slice_s:g} s of sound"),
        (
            "text",
            f"transformer of width {config.text_width}, depth {config.text_depth}; a vocabulary of {vocabulary}",
        ),
        ("compares by", f"{config.similarity}, {config.contrast}, vectors of {config.contra_dim} numbers"),
    ]
    run = [
        ("corpus", about.data or "not stated"),
        ("tasks", f"`{about.tasks}`" if about.tasks else "none: not trained"),
        ("steps", f"{about.steps} of {about.batch_size} samples" if about.steps else "0"),
    ]
    licence = config.licence or "other"
    parts = [
        f"---\nlibrary_name: omniloom\nlicense: {licence}\ntags: [omni-modal, retrieval, captioning, mico]\n---",
        "# MiCo",
        "One encoder for what is seen and heard and one transformer for what is said, after *Explore the Limits of"
        " Omni-modal Pretraining at Scale* (arXiv 2406.09412).",
        _table(("", ""), shape),
        "## Training",
        _table(("", ""), run),
        "## Licence",
        config.licence
        or "Not stated. Whoever trained it decides within what the licences of the corpus and of the backbone's"
        " weights allow.",
        "## How well it does",
        *(_figures(split, report) for split, report in about.figures.items()),
    ]
    if not about.figures:
        parts.append("Not evaluated yet.")
    use = 'from omniloom.trainer import MiCo\n\nmodel = MiCo.from_pretrained("this/folder")'
    parts += ["## Use", f"```python\n{use}\n```"]
    return "\n\n".join(parts) + "\n"


def _figures(split: str, report: Mapping[str, Any]) -> str:
    """One split's table: every query, chance, and the best query of each control."""
    rows = [(name, *_scores(found), _interval(report, name)) for name, found in report["retrieval"].items()]
    rows += [(f"{name}, re-ranked", *_scores(found), "") for name, found in report.get("reranked", {}).items()]
    rows += [(name, *_scores(found), "") for name, found in report.get("between", {}).items()]
    for control, found in report.get("controls", {}).items():
        rows += [(f"{name}, {control}", *_scores(scores), "") for name, scores in list(found.items())[:1]]
    lines = [f"Split `{split}`, {report['n']} clips:"]
    if rows:
        rows.append(("chance", *_scores(report["chance"]), ""))
        lines += ["", _table(("query -> target", "R@1 %", "R@5 %", "R@10 %", "R@1, 95 % interval"), rows)]
    lines += [f"\nMatching {what}: AUC {found['auc']:.3f}." for what, found in report.get("matching", {}).items()]
    lines += [
        f"\nCaptions from {what}: CIDEr {found['cider']:.3f}{_bleu(found)}, {found['dnll']:.3f} nats a token better"
        " with the clip than without."
        for what, found in report.get("caption", {}).items()
    ]
    lines += [
        f"\nAnswers from {what}: {100 * found['accuracy']:.1f} % of {found['n']:.0f} in the right words; the commonest"
        f" answer is right for {100 * found['commonest']:.1f} %."
        for what, found in report.get("answers", {}).items()
    ]
    lines += [
        f"\nClasses from {what}, {how}: {100 * found['top1']:.1f} % of {found['n']:.0f} right; chance"
        f" {100 * found['chance']:.1f} %, the commonest class {100 * found['majority']:.1f} %."
        for key, how in (("zero_shot", "by their names"), ("linear_probe", "by a linear probe"))
        for what, found in report.get(key, {}).items()
    ]
    return "\n".join(lines)


def _bleu(found: Mapping[str, float]) -> str:
    return f", BLEU-4 {100 * found['bleu4']:.1f} %" if "bleu4" in found else ""


def _scores(found: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(f"{100 * found[name]:.1f}" for name in ("r1", "r5", "r10"))


def _interval(report: Mapping[str, Any], name: str) -> str:
    low_high = report.get("ci95", {}).get(name)
    return f"{100 * low_high[0]:.1f} to {100 * low_high[1]:.1f}" if low_high else ""


def _table(header: tuple[str, ...], rows: list[Any]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text)
    temporary.replace(path)
