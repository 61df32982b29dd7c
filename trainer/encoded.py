"""Clips and their captions as a model sees them: encoded once, compared in every combination.

Shapes: N clips with a caption, Q captions of all of them, L tokens, C contrastive width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from omniloom.modalities import load, short_name
from omniloom.pipeline.batch import Batch
from omniloom.trainer.accumulate import join_contexts
from omniloom.trainer.context import Context
from omniloom.trainer.losses import digest
from omniloom.trainer.mico import MiCo
from omniloom.trainer.text import Tokens

_TEXTS = 256
"""Captions encoded at once."""


@dataclass(slots=True)
class Asked:
    """Every caption of every clip, as a query."""

    texts: list[str]
    tokens: Tokens
    features: Tensor
    """Float32 (Q, C), unit vectors."""
    clips: Tensor
    """Int64 (Q,): the row of the clip that each describes."""


@dataclass(slots=True)
class Encoded:
    """What a model made of N captioned clips."""

    keys: list[str]
    texts: list[str]
    """The first caption of each."""
    tokens: Tokens
    features: Tensor
    """Float32 (N, C), unit vectors of the first captions."""
    context: Context
    several: Asked | None = None
    """All captions, where some clips have more than one."""

    @property
    def asked(self) -> Asked:
        """All captions, or the one of each."""
        rows = torch.arange(len(self.keys), device=self.features.device)
        return self.several or Asked(self.texts, self.tokens, self.features, rows)

    @property
    def references(self) -> list[list[str]]:
        """The captions of each clip."""
        found: list[list[str]] = [[] for _ in self.keys]
        for text, row in zip(self.asked.texts, self.asked.clips.tolist(), strict=True):
            found[row].append(text)
        return found


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


def encode_all(model: MiCo, batches: Iterable[Batch]) -> Encoded:
    """The captioned clips of all batches, encoded."""
    return join([encode(model, batch) for batch in batches])


@torch.no_grad()
def with_captions(model: MiCo, encoded: Encoded, captions: Mapping[str, Sequence[str]]) -> Encoded:
    """The same clips with all their captions, by key; those of which none are named keep the one they have."""
    said = [list(captions.get(key) or [text]) for key, text in zip(encoded.keys, encoded.texts, strict=True)]
    if all(len(texts) == 1 for texts in said):
        return encoded
    texts = [text for several in said for text in several]
    clips = torch.tensor([row for row, several in enumerate(said) for _ in several], device=encoded.features.device)
    parts = [model.tokenize(texts[first : first + _TEXTS]) for first in range(0, len(texts), _TEXTS)]
    features = torch.cat([model.text_features(tokens) for tokens in parts])
    return replace(encoded, several=Asked(texts, _padded(parts), features, clips))


def right_answers(encoded: Encoded, *, strict: bool = False) -> Tensor:
    """Mask bool (Q, N): which clips are a right answer for which captions, as equal captions are for each other's.

    strict: only a caption's own clip is, as in the field's tables. Q is N where every clip has one caption.
    """
    asked = encoded.asked
    own_QN = asked.clips[:, None] == torch.arange(len(encoded.keys), device=asked.clips.device)
    if strict:
        return own_QN
    words = digest([" ".join(text.lower().split()) for text in asked.texts]).to(asked.clips.device)
    _, group = words.unique(return_inverse=True)
    # A clip answers for a group of equal captions if any caption of the group is its own.
    answers_GN = torch.zeros(int(group.max()) + 1, len(encoded.keys), dtype=torch.bool, device=words.device)
    answers_GN[group, asked.clips] = True
    return answers_GN[group]


def join(parts: Sequence[Encoded]) -> Encoded:
    """Encoded batches as one: texts and tokens padded to the longest, absent modalities as masked zeros."""
    return Encoded(
        keys=[key for part in parts for key in part.keys],
        texts=[text for part in parts for text in part.texts],
        tokens=_padded([part.tokens for part in parts]),
        features=torch.cat([part.features for part in parts]),
        context=join_contexts([part.context for part in parts]),
    )


def letters_of(model: MiCo, names: Iterable[str]) -> str:
    """The letters of modalities of the model, by short name."""
    known = {short_name(name): load(name).letter for name in model.config.modalities}
    return "".join(known[name] for name in names)


def without(context: Context, name: str) -> Context:
    """The context as if no clip had that modality."""
    gone = {name: torch.ones(context.size, dtype=torch.bool)}
    return hide(context, gone)


def hide(context: Context, hidden: Mapping[str, Tensor]) -> Context:
    """The context as if the masked samples, bool (N,) by modality, lacked that modality."""
    nobody = torch.zeros(context.size, dtype=torch.bool)
    away = {name: hidden.get(name, nobody).to(mask.device) for name, mask in context.present.items()}
    return replace(
        context,
        masks={name: mask & ~away[name][:, None] for name, mask in context.masks.items()},
        present={name: mask & ~away[name] for name, mask in context.present.items()},
    )


def _padded(parts: Sequence[Tokens]) -> Tokens:
    length = max(part.ids.shape[1] for part in parts)
    return Tokens(
        torch.cat([F.pad(part.ids, (0, length - part.ids.shape[1])) for part in parts]),
        torch.cat([F.pad(part.mask, (0, length - part.mask.shape[1])) for part in parts]),
    )
