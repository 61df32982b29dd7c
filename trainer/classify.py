"""Classification with a model that was never taught the classes: by their names, and by a linear probe of its vectors.

Shapes: N clips with a label, K classes, C contrastive width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omniloom.pipeline.batch import Batch
from omniloom.trainer.accumulate import join_contexts
from omniloom.trainer.context import Context
from omniloom.trainer.encoded import letters_of
from omniloom.trainer.mico import MiCo

PROMPTS = ("{}", "a photo of a {}", "a video of a {}", "the sound of a {}", "this is a {}")
"""Sentences around a class's name; the text vectors of all are averaged."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the probe's squared weights, tried on a fifth of the training clips."""
_STEPS = 200


@dataclass(slots=True)
class Labelled:
    """Clips with a label, encoded; those that have nothing a model looks at are among them."""

    labels: list[str]
    context: Context


@torch.no_grad()
def encode_labelled(model: MiCo, batches: Iterable[Batch], labels: Mapping[str, str]) -> Labelled | None:
    """The clips whose key has a label, encoded; None if there is none."""
    found: list[str] = []
    parts: list[Context] = []
    for batch in batches:
        rows = [row for row, key in enumerate(batch.keys) if key in labels]
        if rows:
            found += [labels[batch.keys[row]] for row in rows]
            index = torch.tensor(rows, device=model.log_scale.device)
            parts.append(model.encode_context(batch.to(model.log_scale.device)).rows(index))
    return Labelled(found, join_contexts(parts)) if parts else None


@torch.no_grad()
def zero_shot(
    model: MiCo, clips: Labelled, names: Sequence[str], classes: Sequence[str], prompts: Sequence[str] = PROMPTS
) -> dict[str, float]:
    """Scores of telling the class by which class's name is most like the clip: see `scores_of`.

    classes: their names as labels write them; "_" and "-" are read as spaces. prompts: sentences with "{}" in them.
    """
    if not prompts or any("{}" not in prompt for prompt in prompts):
        raise ValueError(f"each prompt says with {{}} where the class's name stands, got {list(prompts)}")
    features: list[Tensor] = []
    for name in classes:
        words = name.replace("_", " ").replace("-", " ")
        texts = model.text_features(model.tokenize([prompt.replace("{}", words) for prompt in prompts]))
        features.append(F.normalize(texts.mean(0), dim=0))
    similar_KN = model.similar(torch.stack(features), model.vectors(clips.context, names))
    return scores_of(similar_KN.T, clips.labels, classes)


def linear_probe(
    model: MiCo, train: Labelled, test: Labelled, names: Sequence[str], classes: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """Scores of a logistic regression on the model's vectors, trained on other clips: see `scores_of`.

    Vectors are standardised by the training clips. The penalty is that of `PENALTIES` which is best on a fifth of them,
    drawn by the seed; then all are trained on. "penalty" and "train_n" are among the scores.
    """
    with torch.no_grad():
        train_NC, test_NC = (model.pool(clips.context, names).double().cpu() for clips in (train, test))
    mean_C, scale_C = train_NC.mean(0), train_NC.std(0, correction=0).clamp_min(1e-6)
    train_NC, test_NC = (train_NC - mean_C) / scale_C, (test_NC - mean_C) / scale_C
    place = {name: number for number, name in enumerate(classes)}
    class_N = torch.tensor([place[label] for label in train.labels])
    order = torch.randperm(len(class_N), generator=torch.Generator().manual_seed(seed))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    penalty = PENALTIES[len(PENALTIES) // 2]
    if len(held):
        tried = {
            one: float(
                F.cross_entropy(
                    _fitted(train_NC[kept], class_N[kept], len(classes), one)(train_NC[held]), class_N[held]
                )
            )
            for one in PENALTIES
        }
        penalty = min(tried, key=lambda one: tried[one])
    logits_NK = _fitted(train_NC, class_N, len(classes), penalty)(test_NC)
    found = scores_of(logits_NK, test.labels, classes)
    return {**found, "penalty": penalty, "train_n": float(len(class_N))}


def scores_of(scores_NK: Tensor, labels: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """n, classes, top1, top5, mean_class (top1 of each class, averaged), chance and majority, shares in [0, 1].

    Equal scores share their places, as in `retrieval.ranks`. "majority" is what always saying the commonest label of
    these clips scores: no model may be called good below it.
    """
    from omniloom.trainer.retrieval import ranks

    place = {name: number for number, name in enumerate(classes)}
    class_N = torch.tensor([place[label] for label in labels], device=scores_NK.device)
    ranks_N = ranks(scores_NK, F.one_hot(class_N, len(classes)).bool())
    hits_N = (ranks_N <= 1).double()
    by_class = [float(hits_N[class_N == number].mean()) for number in class_N.unique()]
    return {
        "n": float(len(labels)),
        "classes": float(len(classes)),
        "top1": float(hits_N.mean()),
        "top5": float((ranks_N <= 5).double().mean()),
        "mean_class": sum(by_class) / len(by_class),
        "chance": 1 / len(classes),
        "majority": max(Counter(labels).values()) / len(labels),
    }


def classification(
    model: MiCo,
    contexts: Iterable[Sequence[str]],
    test: Labelled,
    train: Labelled | None,
    prompts: Sequence[str] = PROMPTS,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float]]]:
    """{"zero_shot": {"va": scores, ...}, "linear_probe": {...}}; no probe if no clips to train it on have labels."""
    classes = sorted({*test.labels, *(train.labels if train else ())})
    found: dict[str, dict[str, dict[str, float]]] = {"zero_shot": {}, "linear_probe": {}}
    for names in contexts:
        letters = letters_of(model, names)
        found["zero_shot"][letters] = zero_shot(model, test, names, classes, prompts)
        if train is not None and len(set(train.labels)) > 1:
            found["linear_probe"][letters] = linear_probe(model, train, test, names, classes, seed)
    return found


def _fitted(train_NC: Tensor, class_N: Tensor, num_classes: int, penalty: float) -> torch.nn.Linear:
    """Multinomial logistic regression, float64: convex, so that LBFGS finds the one solution from any start."""
    probe = torch.nn.Linear(train_NC.shape[1], num_classes, dtype=torch.float64)
    torch.nn.init.zeros_(probe.weight)
    torch.nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(probe(train_NC), class_N) + penalty * probe.weight.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return probe.requires_grad_(False)
