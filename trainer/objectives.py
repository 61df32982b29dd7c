"""The training step's loss: what the tasks ask of a batch, each modality encoded once and shared by all of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from omniloom.modalities import short_name
from omniloom.modalities.qa import split
from omniloom.pipeline.batch import Batch
from omniloom.trainer.accumulate import encode_in_parts
from omniloom.trainer.context import Context
from omniloom.trainer.losses import (
    Identity,
    caption_loss,
    digest,
    hard_negatives,
    info_nce,
    mask_caption,
    matching_loss,
    sigmoid_loss,
)
from omniloom.trainer.mico import MiCo
from omniloom.trainer.tasks import QUESTIONS, Task
from omniloom.trainer.text import Tokens


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """How the objectives are weighed and drawn."""

    contrastive_weight: float = 1.0
    matching_weight: float = 0.1
    """As in the paper's code; the paper's text says 1."""
    caption_weight: float = 1.0
    answer_weight: float = 1.0
    label_smoothing: float = 0.1
    caption_mask: float = 0.6
    answer_mask: float = 0.99
    """As in VAST: the whole answer but for one token in a hundred."""
    blank_context: float = 0.1
    """Share of captions generated from an empty context: what dNLL compares with is then trained too."""
    modality_dropout: float = 0.2
    """Share of modalities hidden from a sample, never all of them."""
    matching_contexts: Literal["all", "one"] = "all"
    """"one": a step draws one of the listed contexts for matching and one for captioning, the same on every rank."""
    matching_rows: int = 0
    """At most so many samples of a batch are matched; 0 means all."""


def tasks_of_step(tasks: Sequence[Task], config: ObjectiveConfig, seed: int, step: int) -> tuple[Task, ...]:
    """The tasks of one step, a pure function of seed and step. Contrastive contexts are cheap and never drawn."""
    if config.matching_contexts == "all":
        return tuple(tasks)
    chosen: list[Task] = []
    for task in tasks:
        draw = random.Random(f"{seed}:{step}:{task.objective}")
        one = (draw.choice(task.contexts),)
        chosen.append(task if task.objective == "contrastive" else replace(task, contexts=one))
    return tuple(chosen)


def drop_modalities(batch: Batch, names: Sequence[str], share: float, generator: torch.Generator) -> Batch:
    """The batch with some modalities of some samples marked absent; every sample keeps one that it had."""
    there = [name for name in names if name in batch.present]
    if not share or len(there) < 2:
        return batch
    had_BM = torch.stack([batch.present[name] for name in there], 1)
    draw_BM = torch.rand(had_BM.shape, generator=generator, device=had_BM.device)
    keep_BM = had_BM & (draw_BM >= share)
    keep_BM = torch.where(keep_BM.any(1, keepdim=True), keep_BM, had_BM)
    return replace(batch, present={**batch.present, **dict(zip(there, keep_BM.unbind(1), strict=True))})


class Objective(nn.Module):
    """The model with its losses: one forward for DDP to wrap."""

    def __init__(self, model: MiCo, config: ObjectiveConfig, accumulate: int = 1) -> None:
        """accumulate: parts in which batches are encoded, see `encode_in_parts`."""
        super().__init__()
        self.model, self.config, self.accumulate = model, config, accumulate

    def forward(self, batch: Batch, tasks: Sequence[Task], generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by objective, and their weighted sum as "loss". `generator` lives on the model's device."""
        model, config = self.model, self.config
        if self.training:
            batch = drop_modalities(batch, model.names, config.modality_dropout, generator)
        context = encode_in_parts(model, batch, self.accumulate)
        told = [task for task in tasks if task.objective != "answer"]
        sums = self._of_captions(batch, context, told, generator) if told else {}
        for task in tasks:
            if task.objective == "answer":
                losses = [self._answer(batch, context, names, generator) for names in task.contexts]
                sums[task.objective] = torch.stack(losses).mean()
        weights = {
            "contrastive": config.contrastive_weight,
            "matching": config.matching_weight,
            "caption": config.caption_weight,
            "answer": config.answer_weight,
        }
        total = torch.stack([weights[objective] * loss for objective, loss in sums.items()]).sum()
        return {"loss": total, **{objective: loss.detach() for objective, loss in sums.items()}}

    def _of_captions(
        self, batch: Batch, context: Context, tasks: Sequence[Task], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Losses by objective of the tasks between captions and contexts, which share what they are made of."""
        model = self.model
        device = model.log_scale.device
        name = short_name(model.config.text)
        told_B = batch.present[name]
        tokens = model.tokenize(batch.texts[name])
        identity = Identity(digest(batch.sources).to(device), digest(batch.texts[name]).to(device))
        values = model.values(context)
        text_BC = model.text_features(tokens)
        scale = model.scale()
        sums: dict[str, Tensor] = {}
        for task in tasks:
            losses: list[Tensor] = []
            for names in task.contexts:
                valid_B = told_B & context.has(names).to(device)
                if task.objective == "caption":
                    losses.append(self._caption(tokens, context, names, valid_B, generator))
                    continue
                vectors_BKC = model.vectors(context, names, values)
                if task.objective == "contrastive":
                    loss = self._contrast(text_BC, vectors_BKC, valid_B, identity)
                else:
                    with torch.no_grad():
                        logits_BB = scale * model.similar(text_BC, vectors_BKC)
                    loss = self._match(tokens, context, names, logits_BB, valid_B, identity, generator)
                losses.append(loss)
            sums[task.objective] = torch.stack(losses).mean()
        return sums

    def _contrast(self, text_BC: Tensor, vectors_BKC: Tensor, valid_B: Tensor, identity: Identity) -> Tensor:
        model = self.model
        scale, bias = model.scale(), model.logit_bias
        if bias is not None:
            return sigmoid_loss(text_BC, vectors_BKC, scale, bias, valid_B, identity, model.similar)
        return info_nce(text_BC, vectors_BKC, scale, valid_B, identity, self.config.label_smoothing, model.similar)

    def _match(
        self,
        tokens: Tokens,
        context: Context,
        names: Sequence[str],
        logits_BB: Tensor,
        valid_B: Tensor,
        identity: Identity,
        generator: torch.Generator,
    ) -> Tensor:
        """Pairs, each text with a wrong context, each context with a wrong text: one pass over three times the rows."""
        allowed_BB = identity.differs(identity) & valid_B & valid_B[:, None]
        wrong_context_B, found_B = hard_negatives(logits_BB, allowed_BB, generator)
        wrong_text_B, _ = hard_negatives(logits_BB.T, allowed_BB.T, generator)
        rows_B = torch.arange(len(valid_B), device=valid_B.device)
        if self.config.matching_rows:
            rows_B = rows_B[: self.config.matching_rows]  # batches are shuffled, so the first are as good as any
        wrong_context_B, wrong_text_B, found_B = wrong_context_B[rows_B], wrong_text_B[rows_B], found_B[rows_B]
        text_rows = torch.cat([rows_B, rows_B, wrong_text_B])
        context_rows = torch.cat([rows_B, wrong_context_B, rows_B])
        is_match = torch.cat([torch.ones_like(found_B), torch.zeros_like(found_B), torch.zeros_like(found_B)])
        counts = torch.cat([valid_B[rows_B], found_B, found_B])
        logits = self.model.match_logits(tokens.rows(text_rows), context.rows(context_rows), names)
        return matching_loss(logits, is_match, counts)

    def _caption(
        self, tokens: Tokens, context: Context, names: Sequence[str], valid_B: Tensor, generator: torch.Generator
    ) -> Tensor:
        model, config = self.model, self.config
        masked, hidden_BT = mask_caption(tokens, config.caption_mask, len(model.tokenizer), generator)
        blank_B = torch.rand(context.size, generator=generator, device=valid_B.device) < config.blank_context
        seen = context
        if config.blank_context:
            seen = Context(
                context.tokens,
                {name: mask & ~blank_B[:, None] for name, mask in context.masks.items()},
                {name: mask & ~blank_B for name, mask in context.present.items()},
                context.size,
            )
        state_BTD = model.text.generate(masked, *model.context.select(seen, names))
        counts = valid_B[:, None].expand_as(hidden_BT)[hidden_BT]
        return caption_loss(model.text.words(state_BTD[hidden_BT]), tokens.ids[hidden_BT], counts)

    def _answer(self, batch: Batch, context: Context, names: Sequence[str], generator: torch.Generator) -> Tensor:
        """-log p of the answers' hidden words behind their questions (VAST, 2305.18500): questions are not learned."""
        model = self.model
        if QUESTIONS not in batch.texts:
            raise ValueError(
                f"qa asks for questions and the batch has none: load {QUESTIONS!r} too, or remove qa from train.tasks"
            )
        pairs = [split(text) for text in batch.texts[QUESTIONS]]
        question = model.tokenize([question for question, _ in pairs], model.question_tokens)
        answer = model.tokenize_answers([answer for _, answer in pairs])
        masked, hidden_BA = mask_caption(answer, self.config.answer_mask, len(model.tokenizer), generator)
        valid_B = batch.present[QUESTIONS] & context.has(names).to(question.ids.device)
        state_BAD = model.text.answer(question, masked, *model.context.select(context, names))
        counts = valid_B[:, None].expand_as(hidden_BA)[hidden_BA]
        return caption_loss(model.text.words(state_BAD[hidden_BA]), answer.ids[hidden_BA], counts)
