"""Evaluation: retrieval, matching and captioning of held-out clips, beside chance and controls.

Shapes: N clips with a caption, L context tokens, C contrastive width.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniloom.modalities import load, short_name
from omniloom.modalities.qa import split as split_question
from omniloom.pipeline.batch import Batch
from omniloom.trainer.accumulate import join_contexts
from omniloom.trainer.card import write_card
from omniloom.trainer.checkpoint import newest_checkpoint
from omniloom.trainer.cider import cider
from omniloom.trainer.context import Context
from omniloom.trainer.losses import digest
from omniloom.trainer.mico import MiCo
from omniloom.trainer.ranks import pick_device
from omniloom.trainer.tasks import QUESTIONS, Task, parse_tasks
from omniloom.trainer.text import Tokens

if TYPE_CHECKING:
    from omniloom.pipeline.corpus import Corpus

Metrics = dict[str, float]
_ROWS = 512
"""Pairs that the match head judges at once."""
_RESAMPLES = 1000


@dataclass(slots=True)
class Encoded:
    """What a model made of N captioned clips: encoded once, compared in every combination."""

    keys: list[str]
    texts: list[str]
    tokens: Tokens
    features: Tensor
    """Float32 (N, C), unit vectors of the captions."""
    context: Context


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
) -> dict[str, Any]:
    """Scores the newest checkpoint of a run on a split ("all": everything) of a corpus, and tells its model card.

    controls: other runs by name, such as one trained on permuted captions; an untrained model is always one.
    Returns n, chance {r1, ...}, retrieval {"t->va": {r1, r5, r10, medr, mrr}, "va->t": ...}, reranked (the same for
    the contexts that matching was trained on), ci95 {"t->va": [low, high]} of r1, matching {"va": {auc}}, caption
    {"va": {cider, nll, nll_blank, dnll}}, swaps {"t->va": {"a": r1 with other clips' sound}}, answers {"va": {n,
    accuracy, commonest}} and controls {name: {"t->va": {...}}}. Recalls are shares in [0, 1]; clips with equal
    captions answer for each other. Raises ValueError if fewer than two clips of the split have captions.
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
    needed = [*model.config.modalities, model.config.text]
    tasks = parse_tasks(settings["tasks"], needed)
    rows = len(corpus.table(["key"], split=chosen))
    total = rows * (1 + len(others))
    done = 0

    def encode_all(one: MiCo) -> Encoded:
        nonlocal done
        window = one.config.window(train=False)
        loader = Loader(corpus, needed, batch_size, workers=workers, window=window, train=False, split=chosen)
        parts: list[Encoded] = []
        for batch in loader:
            parts.append(encode(one, batch.to(device)))
            done += len(batch)
            if on_progress:
                on_progress(min(done, total), total)
        if sum(len(part.keys) for part in parts) < 2:
            raise ValueError(
                f"{corpus.path} has fewer than two captioned clips in split {split!r}: evaluate another one"
            )
        return _join(parts)

    report = score(model.to(device), encode_all(model), tasks, rerank_top=rerank_top, seed=seed)
    report["answers"] = {}
    for names in _contexts(tasks, "answer"):
        asked = [*needed, QUESTIONS]
        window = model.config.window(train=False)
        loader = Loader(corpus, asked, batch_size, workers=workers, window=window, train=False, split=chosen)
        report["answers"][_letters(model, names)] = answer_accuracy(model, loader, names)
    report["controls"] = {}
    for name, other in others.items():
        report["controls"][name] = retrieval(other.to(device), encode_all(other), _contexts(tasks, "contrastive"))
    folder = newest_checkpoint(run)
    if folder is not None:
        with suppress(OSError):  # a run that may only be read is evaluated all the same
            write_card(folder, model, replace(model.about, figures={**model.about.figures, split: report}))
    return report


def score(
    model: MiCo, encoded: Encoded, tasks: Sequence[Task], *, rerank_top: int = 50, seed: int = 0
) -> dict[str, Any]:
    """Everything `evaluate` reports of one model, on clips that are encoded already."""
    same_NN = _same(encoded)
    found = _contexts(tasks, "contrastive") or _contexts(tasks, "matching")
    report: dict[str, Any] = {
        "n": len(encoded.keys),
        "chance": chance(same_NN),
        "retrieval": retrieval(model, encoded, found),
        "reranked": {},
        "ci95": {},
        "matching": {},
        "caption": {},
        "swaps": {},
    }
    for names in found:
        letters = _letters(model, names)
        similar_NN = model.similar(encoded.features, model.vectors(encoded.context, names))
        ranks_N = ranks(similar_NN, same_NN)
        report["ci95"][f"t->{letters}"] = confidence(ranks_N, seed)
        if len(names) > 1:
            report["swaps"][f"t->{letters}"] = _swaps(model, encoded, names, same_NN)
    for names in _contexts(tasks, "matching"):
        letters = _letters(model, names)
        similar_NN = model.similar(encoded.features, model.vectors(encoded.context, names))
        for name, forward in ((f"t->{letters}", True), (f"{letters}->t", False)):
            ranks_N = rerank(model, encoded, names, similar_NN, same_NN, rerank_top, text_asks=forward)
            report["reranked"][name] = summary(ranks_N)
        report["matching"][letters] = {"auc": matching_auc(model, encoded, names, same_NN)}
    for names in _contexts(tasks, "caption"):
        written = write_captions(model, encoded, names)
        agreement = cider(written, [[text] for text in encoded.texts])
        report["caption"][_letters(model, names)] = {"cider": agreement, **caption_gain(model, encoded, names)}
    return report


@torch.no_grad()
def encode(model: MiCo, batch: Batch) -> Encoded:
    """The batch's clips that have a caption, encoded."""
    name = short_name(model.config.text)
    rows = batch.present[name].nonzero()[:, 0]
    index = rows.tolist()
    texts = [batch.texts[name][row] for row in index]
    tokens = model.tokenize(texts)
    text_NC = model.text_features(tokens) if texts else torch.zeros(0, model.config.contra_dim, device=rows.device)
    return Encoded([batch.keys[row] for row in index], texts, tokens, text_NC, model.encode_context(batch).rows(rows))


@torch.no_grad()
def retrieval(model: MiCo, encoded: Encoded, contexts: Iterable[Sequence[str]]) -> dict[str, Metrics]:
    """{"t->va": metrics, "va->t": metrics, ...} by the model's similarity."""
    same_NN = _same(encoded)
    found: dict[str, Metrics] = {}
    for names in contexts:
        letters = _letters(model, names)
        similar_NN = model.similar(encoded.features, model.vectors(encoded.context, names))
        found[f"t->{letters}"] = summary(ranks(similar_NN, same_NN))
        found[f"{letters}->t"] = summary(ranks(similar_NN.T, same_NN))
    return found


def ranks(similar_NN: Tensor, same_NN: Tensor) -> Tensor:
    """Rank float (N,) of each row's best right answer, 1 the best; equal scores share the mean of their ranks.

    A model that scores everything alike therefore gets the middle rank, not the first.
    """
    right_N = similar_NN.masked_fill(~same_NN, -torch.inf).amax(1, keepdim=True)
    wrong_NN = ~same_NN
    better_N = ((similar_NN > right_N) & wrong_NN).sum(1)
    equal_N = ((similar_NN == right_N) & wrong_NN).sum(1)
    return 1 + better_N + equal_N / 2


def summary(ranks_N: Tensor) -> Metrics:
    """Recall at 1, 5 and 10 as shares, median rank, mean reciprocal rank."""
    ranks_N = ranks_N.double()
    metrics = {f"r{k}": float((ranks_N <= k).double().mean()) for k in (1, 5, 10)}
    return {**metrics, "medr": float(ranks_N.quantile(0.5)), "mrr": float((1 / ranks_N).mean())}


def chance(same_NN: Tensor) -> Metrics:
    """The metrics' expectation under a random order of the candidates."""
    count = len(same_NN)
    place = torch.arange(count, dtype=torch.float64)
    right_N1 = same_NN.sum(1, dtype=torch.float64).cpu()[:, None]
    # P(no right answer among the first k) = product of (wrong left) / (candidates left).
    misses_NN = ((count - right_N1 - place) / (count - place)).clamp_min(0).cumprod(1)
    survives_NN = torch.cat([torch.ones(count, 1, dtype=torch.float64), misses_NN[:, :-1]], 1)
    first_NN = survives_NN - misses_NN  # P(the best right answer has rank k + 1)
    recall = {f"r{k}": float(1 - misses_NN[:, min(k, count) - 1].mean()) for k in (1, 5, 10)}
    median = float((misses_NN.mean(0) > 0.5).sum() + 1)
    return {**recall, "medr": median, "mrr": float((first_NN / (place + 1)).sum(1).mean())}


def confidence(ranks_N: Tensor, seed: int = 0) -> list[float]:
    """95 % bootstrap interval of recall at 1, over queries."""
    hits_N = (ranks_N <= 1).double().cpu()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(hits_N), (_RESAMPLES, len(hits_N)), generator=generator)
    return hits_N[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


@torch.no_grad()
def rerank(
    model: MiCo,
    encoded: Encoded,
    names: Sequence[str],
    similar_NN: Tensor,
    same_NN: Tensor,
    top: int,
    *,
    text_asks: bool,
) -> Tensor:
    """Ranks (N,) after the match head reorders the `top` most similar candidates of each query."""
    similar_NN, same_NN = (similar_NN, same_NN) if text_asks else (similar_NN.T, same_NN.T)
    top = min(top, len(similar_NN))
    best_NK = similar_NN.topk(top).indices
    queries = torch.arange(len(similar_NN), device=best_NK.device)[:, None].expand_as(best_NK).flatten()
    candidates = best_NK.flatten()
    text_rows, context_rows = (queries, candidates) if text_asks else (candidates, queries)
    probability_NK = _match(model, encoded, names, text_rows, context_rows).view_as(best_NK)
    # Candidates outside the top keep their order, below all that are inside.
    return ranks(similar_NN.double().scatter(1, best_NK, 10 + probability_NK.double()), same_NN)


@torch.no_grad()
def matching_auc(model: MiCo, encoded: Encoded, names: Sequence[str], same_NN: Tensor) -> float:
    """P(the match head scores a right pair above a random wrong one)."""
    count = len(same_NN)
    rows = torch.arange(count, device=same_NN.device)
    right_N = _match(model, encoded, names, rows, rows)
    others = torch.cat([rows.roll(shift) for shift in (1, 2, 3)])
    kept = ~same_NN[rows.repeat(3), others]
    wrong_M = _match(model, encoded, names, rows.repeat(3)[kept], others[kept])
    above = (right_N[:, None] > wrong_M).double() + 0.5 * (right_N[:, None] == wrong_M).double()
    return float(above.mean())


@torch.no_grad()
def write_captions(model: MiCo, encoded: Encoded, names: Sequence[str]) -> list[str]:
    """The most likely caption of each clip, word by word."""
    written: list[str] = []
    for rows in torch.arange(len(encoded.keys), device=encoded.features.device).split(_ROWS // 4):
        written += model.write_captions(encoded.context.rows(rows), names)
    return written


@torch.no_grad()
def caption_gain(model: MiCo, encoded: Encoded, names: Sequence[str]) -> Metrics:
    """-log p a token of the captions given the context, given none, and the gain between them, in nats."""
    sums = {"nll": 0.0, "nll_blank": 0.0}
    blank = Context({}, {}, {}, len(encoded.keys))
    for rows in torch.arange(len(encoded.keys), device=encoded.features.device).split(_ROWS // 4):
        tokens = encoded.tokens.rows(rows)
        for key, context in (("nll", encoded.context.rows(rows)), ("nll_blank", blank.rows(rows))):
            seen = model.context.select(context, names)
            sums[key] += float(model.text.token_nll(tokens, *seen).sum())
    words = float(encoded.tokens.mask[:, 1:].sum())
    means = {name: value / words for name, value in sums.items()}
    return {**means, "dnll": means["nll_blank"] - means["nll"]}


def answer_accuracy(model: MiCo, batches: Iterable[Batch], names: Sequence[str]) -> Metrics:
    """Share of questions answered in the right words, case aside, of one question a clip; 0 of none.

    "commonest" is what saying the commonest right answer each time would score: what the question alone is worth.
    """
    right: list[str] = []
    given: list[str] = []
    letters = _letters(model, names)
    for batch in batches:
        pairs = [split_question(text) for text in batch.texts[QUESTIONS]]
        rows = [row for row, there in enumerate(batch.present[QUESTIONS].tolist()) if there]
        answers = model.answer(batch, [question for question, _ in pairs], letters)
        # Both as the tokenizer writes them: "it's" comes back as "it ' s".
        wanted = model.tokenize_answers([answer for _, answer in pairs]).ids.tolist()
        right += [model.tokenizer.decode(wanted[row]) for row in rows]
        given += [answers[row] for row in rows]
    hits = sum(one == other for one, other in zip(right, given, strict=True))
    commonest = max(Counter(right).values(), default=0)
    count = max(len(right), 1)
    return {"n": float(len(right)), "accuracy": hits / count, "commonest": commonest / count}


def _swaps(model: MiCo, encoded: Encoded, names: Sequence[str], same_NN: Tensor) -> Metrics:
    """Recall at 1 when one modality comes from another clip: it must fall if that modality is used."""
    other = torch.arange(len(same_NN), device=same_NN.device).roll(1)
    found: Metrics = {}
    for name in names:
        if name in encoded.context.tokens:
            swapped = encoded.context.exchange(name, other)
            similar_NN = model.similar(encoded.features, model.vectors(swapped, names))
            found[_letters(model, [name])] = summary(ranks(similar_NN, same_NN))["r1"]
    return found


@torch.no_grad()
def _match(model: MiCo, encoded: Encoded, names: Sequence[str], text_rows: Tensor, context_rows: Tensor) -> Tensor:
    """P(match) float32 of pairs of rows."""
    found = [
        model.match_logits(encoded.tokens.rows(text), encoded.context.rows(context), names).softmax(-1)[:, 1]
        for text, context in zip(text_rows.split(_ROWS), context_rows.split(_ROWS), strict=True)
    ]
    return torch.cat(found)


def _same(encoded: Encoded) -> Tensor:
    """Mask bool (N, N): which clips are a right answer for which captions."""
    words = digest([" ".join(text.lower().split()) for text in encoded.texts]).to(encoded.features.device)
    return words[:, None] == words


def _contexts(tasks: Sequence[Task], objective: str) -> tuple[tuple[str, ...], ...]:
    return next((task.contexts for task in tasks if task.objective == objective), ())


def _letters(model: MiCo, names: Iterable[str]) -> str:
    known = {short_name(name): load(name).letter for name in model.config.modalities}
    return "".join(known[name] for name in names)


def _join(parts: Sequence[Encoded]) -> Encoded:
    """Encoded batches as one: texts and tokens padded to the longest, absent modalities as masked zeros."""
    length = max(part.tokens.ids.shape[1] for part in parts)
    return Encoded(
        keys=[key for part in parts for key in part.keys],
        texts=[text for part in parts for text in part.texts],
        tokens=Tokens(
            torch.cat([F.pad(part.tokens.ids, (0, length - part.tokens.ids.shape[1])) for part in parts]),
            torch.cat([F.pad(part.tokens.mask, (0, length - part.tokens.mask.shape[1])) for part in parts]),
        ),
        features=torch.cat([part.features for part in parts]),
        context=join_contexts([part.context for part in parts]),
    )


def right_answers(encoded: Encoded) -> Tensor:
    """Mask bool (N, N): which clips are a right answer for which captions, as equal captions are for each other."""
    return _same(encoded)


def encode_all(model: MiCo, batches: Iterable[Batch]) -> Encoded:
    """The captioned clips of all batches, encoded."""
    return _join([encode(model, batch) for batch in batches])


@torch.no_grad()
def search(
    model: MiCo, encoded: Encoded, names: Sequence[str], context: Context | None = None
) -> tuple[Tensor, Tensor]:
    """Ranks (N,) of each caption's clip among all, and of each clip's caption, by the model's similarity.

    context: in place of the clips' own, such as one with a modality exchanged or hidden.
    """
    same_NN = _same(encoded)
    similar_NN = model.similar(encoded.features, model.vectors(context or encoded.context, names))
    return ranks(similar_NN, same_NN), ranks(similar_NN.T, same_NN)


def hide(context: Context, hidden: Mapping[str, Tensor]) -> Context:
    """The context as if the masked samples, bool (N,) by modality, lacked that modality."""
    nobody = torch.zeros(context.size, dtype=torch.bool)
    away = {name: hidden.get(name, nobody).to(mask.device) for name, mask in context.present.items()}
    return replace(
        context,
        masks={name: mask & ~away[name][:, None] for name, mask in context.masks.items()},
        present={name: mask & ~away[name] for name, mask in context.present.items()},
    )
