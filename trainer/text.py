"""Text: the tokenizer, and one transformer that encodes, matches and generates.

Shapes: B texts, T tokens, S tokens that are seen, D width, L context tokens, H heads, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from omniloom.trainer.mico import MiCoConfig

_SHORT = 64
"""Tokens up to which plain matrices beat the fused attention kernel on a CPU."""

PAD, UNKNOWN, CLS, SEP, MASK = range(5)
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(slots=True)
class Tokens:
    """ids int64 (B, T), [CLS] first and [SEP] last, padded with 0; mask bool (B, T) of real tokens."""

    ids: Tensor
    mask: Tensor

    def rows(self, index: Tensor) -> Tokens:
        return Tokens(self.ids[index], self.mask[index])

    def to(self, device: torch.device) -> Tokens:
        return Tokens(self.ids.to(device), self.mask.to(device))


class Tokenizer:
    """Lower-case WordPiece with BERT's rules, learned from the corpus' captions and saved beside the weights."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learns at most `vocab_size` pieces: every character, then whole words, the most frequent first.

        The same texts in any order give the same vocabulary. (The library's own trainer does not: its ids depend on
        the order of a hash map, so that no run could be repeated.)
        """
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, normalizers, pre_tokenizers

        normalizer: Any = normalizers.BertNormalizer(lowercase=True)
        splitter: Any = pre_tokenizers.BertPreTokenizer()
        words: Counter[str] = Counter()
        for text in texts:
            words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
        letters: Counter[str] = Counter()
        for word, count in words.items():
            letters.update({word[0]: count})
            for letter in word[1:]:
                letters[f"##{letter}"] += count
        ordered = [piece for found in (letters, words) for piece in sorted(found, key=lambda p: (-found[p], p))]
        pieces = list(dict.fromkeys([*_SPECIAL, *ordered]))[:vocab_size]
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        inner: Any = Inner(models.WordPiece(vocabulary, unk_token="[UNK]"))
        inner.normalizer = normalizer
        inner.pre_tokenizer = splitter
        inner.decoder = decoders.WordPiece(prefix="##")
        return cls(inner)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        from tokenizers import Tokenizer as Inner

        return cls(Inner.from_str(text))

    def to_json(self) -> str:
        return str(self.inner.to_str())

    def __len__(self) -> int:
        return int(self.inner.get_vocab_size())

    def encode(self, texts: Sequence[str], max_tokens: int) -> Tokens:
        """Token ids, cut to `max_tokens` with [CLS] and [SEP], padded to the longest."""
        rows = [[CLS, *found.ids[: max_tokens - 2], SEP] for found in self.inner.encode_batch(list(texts))]
        longest = max(map(len, rows), default=2)
        ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], dtype=torch.int64)
        return Tokens(ids, ids != PAD)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids up to [SEP]."""
        ids = ids[: ids.index(SEP)] if SEP in ids else ids
        return str(self.inner.decode([token for token in ids if token > MASK]))


KeysValues = tuple[Tensor, Tensor]
"""Keys and values (B, H, tokens, D / H) of one layer."""


@dataclass(slots=True)
class Draft:
    """A text that is being written, as the layers remember it: what is settled is not computed again."""

    own: list[KeysValues]
    """Of each layer, of the S tokens written so far."""
    seen: list[KeysValues]
    """Of each layer, of the context."""
    mask: Tensor
    """bool (B, S): padding of a prefix is never seen."""
    context_mask: Tensor
    """bool (B, L)."""
    position: Tensor
    """int64 (B,): of the next token."""

    def rows(self, index: Tensor, *, same_contexts: bool) -> Draft:
        """The drafts in the rows `index`. Of the same contexts row by row, only what was written is copied."""
        own = [(keys[index], values[index]) for keys, values in self.own]
        if same_contexts:
            return replace(self, own=own)
        seen = [(keys[index], values[index]) for keys, values in self.seen]
        return Draft(own, seen, self.mask[index], self.context_mask[index], self.position[index])


class Layer(nn.Module):
    """Self-attention, cross-attention if a context is given, MLP; normalised before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.self_out = nn.Linear(width, width)
        self.cross_q = nn.Linear(width, width)
        self.cross_kv = nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, x_BTD: Tensor, mask_BTT: Tensor, context_BLD: Tensor | None, context_mask_BL: Tensor | None
    ) -> Tensor:
        seen = None if context_BLD is None else self.look(context_BLD)
        return self.advance(x_BTD, mask_BTT, seen, context_mask_BL)[0]

    def look(self, context_BLD: Tensor) -> KeysValues:
        """Keys and values of the context: the same for every word."""
        keys, values = self._split(self.cross_kv(context_BLD), 2)
        return keys, values

    def advance(
        self,
        x_BTD: Tensor,
        mask_BTS: Tensor,
        seen: KeysValues | None,
        context_mask_BL: Tensor | None,
        before: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Hidden states of T tokens behind those `before`, and the keys and values of all S tokens so far."""
        q, k, v = self._split(self.qkv(self.self_norm(x_BTD)), 3)
        if before is not None:
            k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        x_BTD = x_BTD + self.self_out(self._attend(q, k, v, mask_BTS[:, None]))
        if seen is not None and context_mask_BL is not None:
            (q,) = self._split(self.cross_q(self.cross_norm(x_BTD)), 1)
            x_BTD = x_BTD + self.cross_out(self._attend(q, *seen, context_mask_BL[:, None, None]))
        return x_BTD + self.mlp(self.mlp_norm(x_BTD)), (k, v)

    def _split(self, x_BTD: Tensor, parts: int) -> tuple[Tensor, ...]:
        batch, length, width = x_BTD.shape
        return (
            x_BTD.view(batch, length, parts, self.heads, width // parts // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        if q.device.type == "cpu" and q.shape[2] <= _SHORT:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            x_BHTd = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
        else:
            x_BHTd = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return x_BHTd.transpose(1, 2).flatten(2)


class TextTransformer(nn.Module):
    """One set of weights, four uses.

    encode    bidirectional, no context: features of a caption or transcript
    match     bidirectional, cross-attending to a context: does the text describe it?
    generate  causal, cross-attending: the next token, read at a [MASK] in its place; `writing.py` does so word by word
    answer    the same behind a question that is read both ways
    """

    def __init__(self, config: MiCoConfig, vocab_size: int) -> None:
        super().__init__()
        width = config.text_width
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=PAD)
        self.positions = nn.Embedding(max(config.caption_tokens, config.transcript_tokens), width)
        self.embed_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, config.text_heads) for _ in range(config.text_depth))
        self.out_norm = nn.LayerNorm(width)
        self.word_dense = nn.Linear(width, width)
        self.word_norm = nn.LayerNorm(width)
        self.word_bias = nn.Parameter(torch.zeros(vocab_size))
        self.apply(_initialise)
        with torch.no_grad():
            self.tokens.weight[PAD].zero_()

    def encode(self, tokens: Tokens) -> Tensor:
        """Hidden states (B, T, D), every token seeing every other."""
        return self._run(tokens.ids, _to_all(tokens.mask), None, None)

    def match(self, tokens: Tokens, context_BLD: Tensor, context_mask_BL: Tensor) -> Tensor:
        """Hidden states (B, T, D), every token seeing every other and the context."""
        return self._run(tokens.ids, _to_all(tokens.mask), context_BLD, context_mask_BL)

    def generate(self, tokens: Tokens, context_BLD: Tensor, context_mask_BL: Tensor) -> Tensor:
        """Hidden states (B, T, D), every token seeing itself, those before it, and the context."""
        length = tokens.ids.shape[1]
        before_TT = torch.ones(length, length, dtype=torch.bool, device=tokens.ids.device).tril()
        return self._run(tokens.ids, _to_all(tokens.mask) & before_TT, context_BLD, context_mask_BL)

    def words(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) in float32: the output shares the input embedding."""
        hidden = self.word_norm(F.gelu(self.word_dense(hidden)))
        return F.linear(hidden, self.tokens.weight).float() + self.word_bias.float()

    def token_nll(self, tokens: Tokens, context_BLD: Tensor, context_mask_BL: Tensor) -> Tensor:
        """-log p(token | those before it, context), float32 (B, T - 1), 0 where padded: exact, in one pass.

        A second stream holds a [MASK] at every position; it sees the true tokens before it and itself, as in
        generation, so that no token is predicted from itself.
        """
        ids, mask = tokens.ids, tokens.mask
        batch, length = ids.shape
        steps = torch.arange(length, device=ids.device)
        before_TT = steps[:, None] > steps
        same_TT = steps[:, None] == steps
        nothing = torch.zeros_like(same_TT)
        # Rows: who looks. True tokens see the true ones up to themselves, masks the true ones before and themselves.
        sees = torch.cat([torch.cat([before_TT | same_TT, nothing], 1), torch.cat([before_TT, same_TT], 1)])
        both = torch.cat([mask, torch.ones_like(mask)], 1)
        stream = torch.cat([ids, torch.full_like(ids, MASK)], 1)
        positions = torch.cat([steps, steps]).expand(batch, -1)
        hidden = self._run(stream, _to_all(both) & sees, context_BLD, context_mask_BL, positions)
        logits = self.words(hidden[:, length + 1 :])
        nll = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        return nll * mask[:, 1:]

    def answer(self, question: Tokens, answer: Tokens, context_BLD: Tensor, context_mask_BL: Tensor) -> Tensor:
        """Hidden states (B, A, D) of the answer's A tokens, which stand right behind the question's real ones.

        The question sees all of itself, an answer's token the question, itself and those before it; both the context.
        """
        ids = torch.cat([question.ids, answer.ids], 1)
        asked, length = question.ids.shape[1], ids.shape[1]
        steps = torch.arange(length, device=ids.device)
        sees_TT = (steps < asked) | (steps[:, None] >= steps)
        behind_BA = question.mask.sum(1, keepdim=True) + steps[: length - asked]
        positions = torch.cat([steps[:asked].expand(len(ids), -1), behind_BA], 1)
        mask = _to_all(torch.cat([question.mask, answer.mask], 1)) & sees_TT
        return self._run(ids, mask, context_BLD, context_mask_BL, positions)[:, asked:]

    def begin(self, prefix: Tokens, context_BLD: Tensor, context_mask_BL: Tensor) -> Draft:
        """A draft that begins with a prefix such as [CLS] or a question, whose tokens see each other."""
        x_BTD = self._embed(prefix.ids, None)
        own: list[KeysValues] = []
        seen = [layer.look(context_BLD) for layer in self._stack()]
        for layer, looked in zip(self._stack(), seen, strict=True):
            x_BTD, kept = layer.advance(x_BTD, _to_all(prefix.mask), looked, context_mask_BL)
            own.append(kept)
        return Draft(own, seen, prefix.mask, context_mask_BL, prefix.mask.sum(1))

    def advance(self, draft: Draft, word_B: Tensor | None) -> tuple[Tensor, Draft]:
        """Logits (B, V) of the word after `word_B`, or the first after the prefix, and the draft with it settled.

        As in training the next word is read at a [MASK] in its place. The mask is computed with the last word and
        then forgotten, so that each step costs two tokens however much is written.
        """
        mask_id = torch.full_like(draft.position, MASK)
        ids = torch.stack([mask_id] if word_B is None else [word_B, mask_id], 1)
        length = ids.shape[1]
        positions = draft.position[:, None] + torch.arange(length, device=ids.device)
        before_TT = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        mask_BTS = torch.cat([draft.mask[:, None].expand(-1, length, -1), before_TT.expand(len(ids), -1, -1)], 2)
        x_BTD = self._embed(ids, positions)
        own: list[KeysValues] = []
        for layer, before, looked in zip(self._stack(), draft.own, draft.seen, strict=True):
            x_BTD, (keys, values) = layer.advance(x_BTD, mask_BTS, looked, draft.context_mask, before)
            own.append((keys[:, :, :-1], values[:, :, :-1]))
        settled_BS = F.pad(draft.mask, (0, length - 1), value=True)
        logits = self.words(self.out_norm(x_BTD[:, -1]))
        return logits, replace(draft, own=own, mask=settled_BS, position=draft.position + length - 1)

    def _run(
        self,
        ids_BT: Tensor,
        mask_BTT: Tensor,
        context_BLD: Tensor | None,
        context_mask_BL: Tensor | None,
        positions: Tensor | None = None,
    ) -> Tensor:
        x_BTD = self._embed(ids_BT, positions)
        for layer in self._stack():
            x_BTD = layer(x_BTD, mask_BTT, context_BLD, context_mask_BL)
        return self.out_norm(x_BTD)

    def _embed(self, ids_BT: Tensor, positions_BT: Tensor | None) -> Tensor:
        if positions_BT is None:
            return self.embed_norm(self.tokens(ids_BT) + self.positions.weight[: ids_BT.shape[1]])
        return self.embed_norm(self.tokens(ids_BT) + self.positions(positions_BT))

    def _stack(self) -> list[Layer]:
        return cast("list[Layer]", list(self.layers))


def _to_all(mask_BT: Tensor) -> Tensor:
    return mask_BT[:, None, :].expand(-1, mask_BT.shape[1], -1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
