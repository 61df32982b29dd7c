"""The runs of `bench learn`: what each of them trains, and one of them from its views to the ranks of held-out clips.

Order is importance: what comes first is trained first. Every variant is trained with several seeds; seed s of one
variant sees the same batches as seed s of any other that learns from the same clips.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from omniloom.benchmarks.learn_features import KINDS, Given
from omniloom.benchmarks.learn_views import Kept, Views, open_views
from omniloom.recipes.config import train_recipe
from omniloom.trainer.cider import cider
from omniloom.trainer.evaluate import (
    Encoded,
    caption_gain,
    chance,
    encode_all,
    hide,
    matching_auc,
    rerank,
    right_answers,
    search,
    write_captions,
)
from omniloom.trainer.mico import MiCo
from omniloom.trainer.run import prepare_run, replace_text
from omniloom.trainer.tasks import parse_context, parse_tasks
from omniloom.trainer.text import Tokenizer
from omniloom.trainer.train import TrainRecipe, fit, make_model

SCORES = "scores.json"
_RERANKED = 50
_HIDDEN = 0.5
"""Share of the modalities of test clips that are hidden where some are to be missing."""
WORLD, STAMPS = "world", "stamps"
FULL = "vadnp"
"""Letters of all modalities of the demo world."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to train, and what it differs in from the first of its corpus."""

    name: str
    corpus: str
    overrides: tuple[str, ...] = ()
    """Of the recipe mico-tiny."""
    share: float = 1.0
    """Of the training clips."""
    permuted: bool = False
    untrained: bool = False
    frozen: str = ""
    """A network that is not trained and whose features stand for the pictures: of `learn_features.KINDS`."""
    words: bool = False
    """Words begin and stay where MiniLM has them, those that no caption holds too."""


@dataclass(frozen=True, slots=True)
class Size:
    """How long each run is."""

    steps: int
    batch_size: int
    modalities: str = FULL
    """Letters of what the corpus has."""


def senses(letters: str) -> tuple[str, ...]:
    """Overrides: a model that knows these modalities and compares the caption with all of them together."""
    known = {"v": "frames", "a": "audio", "d": "depth", "n": "normal", "p": "points"}
    return (f"model.modalities=[{','.join(known[letter] for letter in letters)}]", f"train.tasks=con%t{letters}")


BASE = "V+A+D+N+P"
"""What others are compared with: all modalities of the demo world, contrastive alone, mico-tiny as it is."""
MATCH, GEN = "+ matching", "+ matching + captions"
_MATCH_TASKS = f"train.tasks=ret%t{FULL}"
_GEN_TASKS = f"train.tasks=ret%t{FULL}_cap%t{FULL}"

LADDER = (
    Variant("V", WORLD, senses("v")),
    Variant("V+A", WORLD, senses("va")),
    Variant("V+A+D", WORLD, senses("vad")),
    Variant("V+A+D+N", WORLD, senses("vadn")),
    Variant(BASE, WORLD, senses(FULL)),
)
CONTROLS = (
    Variant("untrained", WORLD, senses(FULL), untrained=True),
    Variant("permuted captions", WORLD, senses(FULL), permuted=True),
)
SINGLES = tuple(Variant(f"{letter.upper()} alone", WORLD, senses(letter)) for letter in "adnp")
OBJECTIVES = (
    Variant(MATCH, WORLD, (*senses(FULL), _MATCH_TASKS)),
    Variant(GEN, WORLD, (*senses(FULL), _GEN_TASKS)),
)
SCALE = (
    Variant("a quarter of the clips", WORLD, senses(FULL), share=0.25),
    Variant("half of the clips", WORLD, senses(FULL), share=0.5),
)
SIMILARITIES = (
    Variant("volume", WORLD, (*senses(FULL), "model.similarity=volume")),
    Variant("area", WORLD, (*senses(FULL), "model.similarity=area")),
    Variant("sigmoid", WORLD, (*senses(FULL), "model.contrast=sigmoid", "model.temperature=0.1")),
)
DROPOUT = (
    Variant("no modality dropout", WORLD, (*senses(FULL), "train.objective.modality_dropout=0")),
    Variant("also by parts", WORLD, (*senses(FULL), f"train.tasks=con%t{FULL}%tva%tv%ta")),
)
_WITH_ALL = (*senses(FULL), _GEN_TASKS)
CONTEXT = (
    Variant("without E_C (time)", WORLD, (*_WITH_ALL, "model.context_without=[time]")),
    Variant("without E_M (modality)", WORLD, (*_WITH_ALL, "model.context_without=[modality]")),
    Variant("without presence", WORLD, (*_WITH_ALL, "model.context_without=[presence]")),
    Variant("with E_Pos and E_Sam", WORLD, (*_WITH_ALL, "model.context_position=paper")),
)
"""The embeddings matter to what attends to the context: matching and captions. Compared with GEN."""


def world_variants() -> list[list[Variant]]:
    """In order of importance."""
    first = [LADDER[-1], *CONTROLS, *LADDER[:-1]]
    return [first, [*SINGLES], [*OBJECTIVES], [*SCALE], [*SIMILARITIES], [*DROPOUT], [*CONTEXT]]


def stamp_variants(frozen: Sequence[str], *, words: bool) -> list[list[Variant]]:
    """In order of importance; `frozen` networks, and MiniLM's words, as far as they are there."""
    one = senses("v")
    first = [
        Variant(PICTURE, STAMPS, one),
        Variant("picture and sound", STAMPS, senses("va")),
        Variant("permuted captions", STAMPS, one, permuted=True),
        Variant("untrained", STAMPS, one, untrained=True),
    ]
    second: list[Variant] = []
    for kind in frozen:
        width = KINDS[kind]
        given = (*one, f"model.vit_width={width}", "model.vit_depth=1", "model.vit_heads=4")
        second.append(Variant(f"frozen {kind}", STAMPS, given, frozen=kind))
        if words:
            known = (*given, "model.text_width=384", "model.text_heads=6", "model.contra_dim=256")
            second.append(Variant(f"frozen {kind}, known words", STAMPS, known, frozen=kind, words=True))
    second.append(Variant("half of the clips", STAMPS, one, share=0.5))
    return [first, second]


PICTURE = "picture"


def slug(name: str) -> str:
    """The name as part of a file's."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.replace("+", "and")).strip("-")


def recipe_of(variant: Variant, size: Size, seed: int) -> TrainRecipe:
    """The typed run: mico-tiny, the variant's overrides, the benchmark's size."""
    plain = (f"train.steps={size.steps}", f"train.batch_size={size.batch_size}", f"train.seed={seed}")
    every = max(1, size.steps // 3)
    return train_recipe(
        "mico-tiny",
        [
            *plain,
            f"train.checkpoint_every={every}",
            "train.keep_checkpoints=1",
            "train.log_every=5",
            *variant.overrides,
        ],
    )


def run_folder(work: Path, variant: Variant, size: Size, seed: int) -> Path:
    """Where a run lies: one folder a variant, size and seed."""
    return work / "runs" / variant.corpus / f"{slug(variant.name)}_{size.steps}x{size.batch_size}_{seed}"


def train_and_score(work: Path, variant: Variant, size: Size, seed: int) -> dict[str, Any]:
    """Trains what is not trained yet, continues what was cut off, and returns the scores, which are kept."""
    folder = run_folder(work, variant, size, seed)
    kept = folder / SCORES
    if kept.exists():
        return json.loads(kept.read_text())
    began = time.perf_counter()
    recipe = recipe_of(variant, size, seed)
    material = work / variant.corpus
    tokens = (material / ("words.json" if variant.words else "tokenizer.json")).read_text()
    model = make_model(recipe, Tokenizer.from_json(tokens))
    if variant.frozen:
        model.encoder = Given(KINDS[variant.frozen])  # pyright: ignore[reportAttributeAccessIssue]
    if variant.words:
        known = torch.load(material / "words.pt", weights_only=True)
        model.text.tokens.weight.requires_grad_(False).copy_(known)
    ending = f"-{slug(variant.frozen)}" if variant.frozen else ""
    prepare_run(asdict(recipe), folder)
    loss = float("nan")
    if not variant.untrained:
        replace_text(folder / "tokenizer.json", tokens)
        views = only(open_views(material / f"train{ending}.pt"), model)
        batches = Kept(views, size.batch_size, seed, share=variant.share, permuted=variant.permuted)
        loss = fit(model, recipe.train, batches, folder).loss
    trained_s = time.perf_counter() - began
    test = only(open_views(material / f"test{ending}.pt"), model)
    scores = score(model.eval(), encode_all(model, test.batches()), recipe, seed)
    scores |= {
        "loss": loss,
        "train_s": round(trained_s, 1),
        "score_s": round(time.perf_counter() - began - trained_s, 1),
    }
    replace_text(kept, json.dumps(scores))
    return scores


def only(views: Views, model: MiCo) -> Views:
    """What the model looks at, so that nothing else is copied."""
    names = set(model.names)
    return replace(views, tensors={name: kept for name, kept in views.tensors.items() if name in names})


def score(model: MiCo, encoded: Encoded, recipe: TrainRecipe, seed: int) -> dict[str, Any]:
    """Ranks by query: "t->va", "va->t", "t->va, a exchanged", "t->va, half hidden", "t->va, re-ranked"; and figures."""
    letters = "".join("vadnp"[["frames", "audio", "depth", "normal", "points"].index(name)] for name in model.names)
    found: dict[str, list[float]] = {}

    def note(name: str, ranks: torch.Tensor) -> None:
        found[name] = [float(rank) for rank in ranks]

    for subset in subsets(letters):
        there, back = search(model, encoded, parse_context(subset))
        note(f"t->{subset}", there)
        note(f"{subset}->t", back)
    names = parse_context(letters)
    if len(names) > 1:
        other = torch.arange(len(encoded.keys)).roll(1)
        for letter, name in zip(letters, names, strict=True):
            there, _ = search(model, encoded, names, encoded.context.exchange(name, other))
            note(f"t->{letters}, {letter} exchanged", there)
        draw = torch.Generator().manual_seed(1)  # the same clips lose the same for every model
        hidden = {name: torch.rand(len(encoded.keys), generator=draw) < _HIDDEN for name in ALL_NAMES}
        some = torch.stack([hidden[name] for name in names]).all(0)
        hidden[names[0]] = hidden[names[0]] & ~some  # something is left of every clip
        there, _ = search(model, encoded, names, hide(encoded.context, hidden))
        note(f"t->{letters}, half hidden", there)
    same = right_answers(encoded)
    scores: dict[str, Any] = {"n": len(encoded.keys), "letters": letters, "chance": chance(same), "ranks": found}
    objectives = {task.objective for task in parse_tasks(recipe.train.tasks)}
    if "matching" in objectives:
        similar = model.similar(encoded.features, model.vectors(encoded.context, names))
        ranks = rerank(model, encoded, names, similar, same, _RERANKED, text_asks=True)
        note(f"t->{letters}, re-ranked", ranks)
        scores["auc"] = matching_auc(model, encoded, names, same)
    if "caption" in objectives:
        written = write_captions(model, encoded, names)
        scores["caption"] = {
            "cider": cider(written, [[text] for text in encoded.texts]),
            **caption_gain(model, encoded, names),
            "written": written[:5],
        }
    return scores


ALL_NAMES = ("frames", "audio", "depth", "normal", "points")


def subsets(letters: str) -> list[str]:
    """Each alone, the first two, three, ... together, and all but one."""
    found = [*letters, *(letters[:count] for count in range(2, len(letters) + 1))]
    found += [letters.replace(letter, "") for letter in letters] if len(letters) > 2 else []
    return list(dict.fromkeys(found))
