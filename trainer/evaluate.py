"""Evaluation: everything that a run is measured by on held-out clips, beside chance and controls.

What each figure means: `docs/evaluation.md`. Shapes: N clips with a caption, Q captions of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omniloom.modalities import load, short_name
from omniloom.modalities.base import Window, read
from omniloom.modalities.qa import Pair
from omniloom.pipeline.batch import Batch
from omniloom.trainer.answering import answer_accuracy, caption_gain, caption_scores, write_captions
from omniloom.trainer.card import write_card
from omniloom.trainer.checkpoint import newest_checkpoint
from omniloom.trainer.classify import PROMPTS, Labelled, classification, encode_labelled
from omniloom.trainer.context import Context
from omniloom.trainer.encoded import (
    Asked,
    Encoded,
    encode,
    encode_all,
    hide,
    join,
    letters_of,
    right_answers,
    with_captions,
)
from omniloom.trainer.mico import MiCo
from omniloom.trainer.ranks import pick_device
from omniloom.trainer.retrieval import (
    Metrics,
    between,
    chance,
    confidence,
    matching_auc,
    missing,
    ranks,
    rerank,
    retrieval,
    search,
    similarities,
    summary,
    swaps,
)
from omniloom.trainer.spread import spread
from omniloom.trainer.tasks import QUESTIONS, Task, parse_tasks

if TYPE_CHECKING:
    from omniloom.pipeline.corpus import Corpus

__all__ = [
    "Asked",
    "Encoded",
    "Metrics",
    "answer_accuracy",
    "caption_gain",
    "chance",
    "confidence",
    "encode",
    "encode_all",
    "evaluate",
    "hide",
    "matching_auc",
    "ranks",
    "rerank",
    "retrieval",
    "right_answers",
    "score",
    "search",
    "summary",
    "write_captions",
]

_LABEL = "label"
"""The fact of a sample that names its class."""


def evaluate(
    run: Path | str,
    corpus: Corpus | Path | str,
    split: str = "test",
    *,
    controls: Mapping[str, Path | str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    rerank_top: int = 50,
    batch_size: int = 64,
    workers: int = 2,
    seed: int = 0,
    strict: bool = False,
    prompts: Sequence[str] = PROMPTS,
) -> dict[str, Any]:
    """Scores the newest checkpoint of a run on a split ("all": everything) of a corpus, and tells its model card.

    controls: other runs by name, such as one trained on permuted captions; an untrained model is always one. strict:
    only a caption's own clip is a right answer, as in the field's tables; else clips with an equal caption are too.
    prompts: see `classify.zero_shot`; classes are the facts `label`, and the probe learns from split "train".

    Returns what `score` does, and answers {"va": {n, accuracy, commonest}} of every question, zero_shot and
    linear_probe {"va": {top1, ...}} where clips have labels, and controls {name: {"t->va": {...}}}. What a corpus has
    none of is asked of nobody: contexts without a clip that shows any of them are left out. A split with labels and
    fewer than two captions gives only the classes. Raises ValueError if it has neither, or nothing the model looks at.
    """
    from omniloom.pipeline.corpus import open_corpus
    from omniloom.pipeline.loader import Loader

    run = Path(run)
    corpus = open_corpus(corpus) if isinstance(corpus, (str, Path)) else corpus
    chosen = None if split == "all" else split
    if not (run / "recipe.json").is_file():
        raise ValueError(f"{run} is no run, it has no recipe.json: train one with `omniloom train --run {run}`")
    settings = json.loads((run / "recipe.json").read_text())["train"]
    model = MiCo.from_pretrained(run)
    device = pick_device("auto")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        others = {"untrained": MiCo(model.config, model.tokenizer).eval()}
    others |= {name: MiCo.from_pretrained(path) for name, path in (controls or {}).items()}
    model.to(device)
    tasks = parse_tasks(settings["tasks"], [*model.config.modalities, model.config.text])
    has = {short_name(name) for name in corpus.modalities}
    if not has & {short_name(name) for name in model.config.modalities}:
        raise ValueError(f"{corpus.path} has nothing that {run} looks at: {', '.join(model.config.modalities)}")
    labels = labels_of(corpus, chosen)
    taught = labels_of(corpus, "train") if labels and chosen not in {None, "train"} else {}
    captions = {key: texts for key, texts in captions_of(corpus, model.config.text, chosen) if texts}
    rows = len(corpus.table(["key"], split=chosen))
    total = rows * (1 + len(others)) if len(captions) > 1 else 0
    total += (rows + len(corpus.table(["key"], split="train")) * bool(taught)) * bool(labels)
    done = 0

    def batches(one: MiCo, part: str | None, *more: str) -> Iterator[Batch]:
        nonlocal done
        asked = [name for name in (*one.config.modalities, *more) if short_name(name) in has]
        window = one.config.window(train=False)
        for batch in Loader(corpus, asked, batch_size, workers=workers, window=window, train=False, split=part):
            yield batch.to(device)
            done += len(batch)
            if on_progress:
                on_progress(min(done, total), total)

    def encoded(one: MiCo) -> Encoded:
        parts = join([encode(one, batch) for batch in batches(one, chosen, one.config.text)])
        return with_captions(one, parts, captions)

    report: dict[str, Any]
    if len(captions) > 1:
        report = score(model, encoded(model), tasks, rerank_top=rerank_top, seed=seed, strict=strict)
    elif labels:
        report = {"n": rows, "retrieval": {}, "chance": {}}
    else:
        raise ValueError(f"{corpus.path} has fewer than two captioned clips in split {split!r}: evaluate another one")
    report["answers"] = {}
    answers = _contexts(tasks, "answer") if QUESTIONS in has else ()
    questions = questions_of(corpus, chosen) if answers else {}
    for names in answers:
        told = batches(model, chosen, QUESTIONS)
        report["answers"][letters_of(model, names)] = answer_accuracy(model, told, names, questions)
    if labels:
        test = encode_labelled(model, batches(model, chosen), labels)
        train = encode_labelled(model, batches(model, "train"), taught) if taught else None
        assert isinstance(test, Labelled)
        report |= classification(model, _shown(test.context, _named(tasks)), test, train, prompts, seed)
    report["controls"] = {}
    for name, other in others.items() if len(captions) > 1 else ():
        whole = encoded(other.to(device))
        found = _shown(whole.context, _contexts(tasks, "contrastive"))
        report["controls"][name] = retrieval(other, whole, found, strict=strict)
    folder = newest_checkpoint(run)
    if folder is not None:
        with suppress(OSError):  # a run that may only be read is evaluated all the same
            write_card(folder, model, replace(model.about, figures={**model.about.figures, split: report}))
    return report


@torch.no_grad()
def score(
    model: MiCo,
    encoded: Encoded,
    tasks: Sequence[Task],
    *,
    rerank_top: int = 50,
    seed: int = 0,
    strict: bool = False,
) -> dict[str, Any]:
    """Everything `evaluate` reports of one model, on clips that are encoded already.

    n (clips), captions (of all clips), chance {r1, ...} of a caption that asks and chance_back of a clip that does,
    retrieval {"t->va": {r1, r5, r10, medr, mrr}, "va->t": ...}, ci95 {"t->va": [low, high]} of r1, reranked (for the
    contexts that matching was trained on), between {"a->v": {n, chance, r1, ...}}, matching {"va": {auc}}, caption
    {"va": {cider, bleu4, nll, nll_blank, dnll}}, swaps {"t->va": {"a": r1 with other clips' sound}}, missing {"t->va":
    {"a": r1 without sound}}, spread {"t": {effective_rank}, "va": {effective_rank, gap}}. Recalls are shares in [0, 1].
    """
    right_QN = right_answers(encoded, strict=strict)
    found = _shown(encoded.context, _contexts(tasks, "contrastive") or _contexts(tasks, "matching"))
    report: dict[str, Any] = {
        "n": len(encoded.keys),
        "captions": len(right_QN),
        "chance": chance(right_QN),
        "chance_back": chance(right_QN.T),
        "retrieval": retrieval(model, encoded, found, strict=strict),
        "between": between(model, encoded, found),
        "reranked": {},
        "ci95": {},
        "matching": {},
        "caption": {},
        "swaps": {},
        "missing": {},
        "spread": spread(model, encoded, found),
    }
    for names in found:
        query = f"t->{letters_of(model, names)}"
        ranks_Q = ranks(similarities(model, encoded, names), right_QN)
        report["ci95"][query] = confidence(ranks_Q, seed, encoded.asked.clips)
        if len(names) > 1:
            report["swaps"][query] = swaps(model, encoded, names, right_QN)
            report["missing"][query] = missing(model, encoded, names, right_QN)
    for names in _shown(encoded.context, _contexts(tasks, "matching")):
        letters = letters_of(model, names)
        similar_QN = similarities(model, encoded, names)
        for name, forward in ((f"t->{letters}", True), (f"{letters}->t", False)):
            ranks_Q = rerank(model, encoded, names, similar_QN, right_QN, rerank_top, text_asks=forward)
            report["reranked"][name] = summary(ranks_Q)
        report["matching"][letters] = {"auc": matching_auc(model, encoded, names, right_QN)}
    for names in _shown(encoded.context, _contexts(tasks, "caption")):
        report["caption"][letters_of(model, names)] = caption_scores(model, encoded, names)
    return report


def labels_of(corpus: Corpus, split: str | None) -> dict[str, str]:
    """The class of each sample that has one, by key."""
    table = corpus.table(["key", "facts"], split=split)
    found: dict[str, str] = {}
    for key, text in zip(table["key"].to_pylist(), table["facts"].to_pylist(), strict=True):
        label = json.loads(text).get(_LABEL) if text else None
        if isinstance(label, (str, int)) and str(label):
            found[key] = str(label)
    return found


def captions_of(corpus: Corpus, text: str, split: str | None) -> Iterator[tuple[str, list[str]]]:
    """(key, all captions) of the samples that have any. text: the modality that a model takes for the caption."""
    modality: Any = load(text)
    # A modality from outside may know of one text only.
    texts = getattr(modality, "texts", lambda value: (modality.tensor(value, Window()),))
    for key, value in _values(corpus, text, split):
        yield key, [one for one in texts(value) if one]


def questions_of(corpus: Corpus, split: str | None) -> dict[str, Sequence[Pair]]:
    """All that is asked about each sample, by key."""
    return {key: value.pairs for key, value in _values(corpus, QUESTIONS, split)}


def _values(corpus: Corpus, name: str, split: str | None) -> Iterator[tuple[str, Any]]:
    modality = load(name)
    if short_name(name) not in {short_name(one) for one in corpus.modalities}:
        return
    for sample in corpus.samples([name]):
        part = sample.parts.get(short_name(name))
        if part is not None and (split is None or sample.facts.get("split") == split):
            yield sample.key, read(modality, part)


def _shown(context: Context, contexts: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Those of which some clip shows something."""
    return [names for names in contexts if bool(context.has(names).any())]


def _contexts(tasks: Sequence[Task], objective: str) -> tuple[tuple[str, ...], ...]:
    return next((task.contexts for task in tasks if task.objective == objective), ())


def _named(tasks: Sequence[Task]) -> list[tuple[str, ...]]:
    """Every context that is trained to be compared, else every context."""
    found = _contexts(tasks, "contrastive") or tuple(context for task in tasks for context in task.contexts)
    return list(dict.fromkeys(found))
