"""What a model writes about clips, against what people wrote: captions and answers to questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch

from omniloom.modalities.qa import Pair
from omniloom.modalities.qa import split as split_question
from omniloom.pipeline.batch import Batch
from omniloom.trainer.bleu import bleu4
from omniloom.trainer.cider import cider
from omniloom.trainer.context import Context
from omniloom.trainer.encoded import Encoded
from omniloom.trainer.mico import MiCo
from omniloom.trainer.tasks import QUESTIONS

_ROWS = 128
"""Clips written about at once."""


@torch.no_grad()
def write_captions(model: MiCo, encoded: Encoded, names: Sequence[str]) -> list[str]:
    """The most likely caption of each clip, word by word."""
    written: list[str] = []
    for rows in torch.arange(len(encoded.keys), device=encoded.features.device).split(_ROWS):
        written += model.write_captions(encoded.context.rows(rows), names)
    return written


def caption_scores(model: MiCo, encoded: Encoded, names: Sequence[str]) -> dict[str, float]:
    """Agreement, `cider` and `bleu4`, of written captions against all of people's, and what `caption_gain` says."""
    written = write_captions(model, encoded, names)
    agreement = {"cider": cider(written, encoded.references), "bleu4": bleu4(written, encoded.references)}
    return {**agreement, **caption_gain(model, encoded, names)}


@torch.no_grad()
def caption_gain(model: MiCo, encoded: Encoded, names: Sequence[str]) -> dict[str, float]:
    """-log p a token of the first captions given the context, given none, and the gain between them, in nats."""
    sums = {"nll": 0.0, "nll_blank": 0.0}
    blank = Context({}, {}, {}, len(encoded.keys))
    for rows in torch.arange(len(encoded.keys), device=encoded.features.device).split(_ROWS):
        tokens = encoded.tokens.rows(rows)
        for key, context in (("nll", encoded.context.rows(rows)), ("nll_blank", blank.rows(rows))):
            seen = model.context.select(context, names)
            sums[key] += float(model.text.token_nll(tokens, *seen).sum())
    words = float(encoded.tokens.mask[:, 1:].sum())
    means = {name: value / words for name, value in sums.items()}
    return {**means, "dnll": means["nll_blank"] - means["nll"]}


@torch.no_grad()
def answer_accuracy(
    model: MiCo,
    batches: Iterable[Batch],
    names: Sequence[str],
    questions: Mapping[str, Sequence[Pair]] | None = None,
) -> dict[str, float]:
    """Share of questions answered in the right words, case aside; 0 of none.

    questions: all that is asked about a clip, by key; without it one question a clip. "commonest" is what saying the
    commonest right answer each time would score: what the question alone is worth.
    """
    right: list[str] = []
    given: list[str] = []
    for batch in batches:
        there = batch.present[QUESTIONS].tolist()
        asked = [
            _asked(key, text, questions) if present else ()
            for key, text, present in zip(batch.keys, batch.texts[QUESTIONS], there, strict=True)
        ]
        context = model.encode_context(batch.to(model.log_scale.device), names)
        for number in range(max(map(len, asked), default=0)):
            rows = [row for row, pairs in enumerate(asked) if len(pairs) > number]
            pairs = [asked[row][number] for row in rows]
            chosen = context.rows(torch.tensor(rows, device=model.log_scale.device))
            given += model.write_answers(chosen, names, [pair.question for pair in pairs])
            # Both as the tokenizer writes them: "it's" comes back as "it ' s".
            wanted = model.tokenize_answers([pair.answer for pair in pairs]).ids.tolist()
            right += [model.tokenizer.decode(ids) for ids in wanted]
    hits = sum(one == other for one, other in zip(right, given, strict=True))
    commonest = max(Counter(right).values(), default=0)
    count = max(len(right), 1)
    return {"n": float(len(right)), "accuracy": hits / count, "commonest": commonest / count}


def _asked(key: str, text: str, questions: Mapping[str, Sequence[Pair]] | None) -> Sequence[Pair]:
    if questions is not None and key in questions:
        return questions[key]
    return [Pair(*split_question(text))]
