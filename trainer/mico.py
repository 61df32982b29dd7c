"""MiCo: one encoder for what is seen and heard, one transformer for what is said, and heads that compare them.

"Explore the Limits of Omni-modal Pretraining at Scale" (arXiv 2406.09412). Shapes: B samples, L context tokens,
D model width, C contrastive width, T caption tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniloom.modalities import load, short_name
from omniloom.modalities.base import Window
from omniloom.pipeline.batch import Batch
from omniloom.trainer.card import About, name_of, origin_of, read_about, write_card
from omniloom.trainer.context import Context, ContextBuilder
from omniloom.trainer.encoder import Encoder
from omniloom.trainer.similarity import SimilarityName, similarity_of
from omniloom.trainer.stems import SAMPLE_RATE_HZ
from omniloom.trainer.tasks import context_letters, parse_context
from omniloom.trainer.text import CLS, TextTransformer, Tokenizer, Tokens
from omniloom.trainer.writing import write

_LOG_MAX_SCALE = math.log(100.0)


@dataclass(frozen=True, slots=True)
class MiCoConfig:
    """The network's shape; the defaults are `tiny`."""

    modalities: tuple[str, ...] = ("frames", "audio", "depth", "normal", "points")
    """What describes a clip, in context order; module paths for modalities from outside."""
    text: str = "caption"
    """The modality that is searched with, matched and generated."""
    image_px: int = 48
    patch_px: int = 12
    backbone: str = ""
    """A timm vit_* name; "" builds one of the size below."""
    backbone_pretrained: bool = False
    backbone_weights: str = ""
    """A local weight file for the backbone instead of the hub's."""
    vit_width: int = 96
    vit_depth: int = 3
    vit_heads: int = 3
    mlp_ratio: float = 2.0
    stem: Literal["per_modality", "shared_rgb"] = "per_modality"
    num_frames: int = 2
    audio_slices: int = 2
    audio_slice_s: float = 2.0
    audio_hop_ms: int = 40
    num_points: int = 256
    num_groups: int = 16
    group_points: int = 32
    pool_video: bool = True
    context_position: Literal["time", "paper"] = "time"
    """"time": time and modality embeddings; "paper": with E_Pos over the sequence and E_Sam on top."""
    context_without: tuple[str, ...] = ()
    """Embeddings of the context that are left out: "time", "modality", "presence", and of the paper's "position",
    "sample"."""
    context_slots: int = 512
    text_width: int = 96
    text_depth: int = 2
    text_heads: int = 3
    vocab_size: int = 2000
    caption_tokens: int = 40
    transcript_tokens: int = 70
    answer_tokens: int = 10
    """Of an answer to a question at most, its end included."""
    contra_dim: int = 96
    fusion: Literal["attention", "concat_linear"] = "attention"
    combinations: tuple[str, ...] = ()
    """With concat_linear: the subsets that get a head, such as ("va", "vad")."""
    similarity: SimilarityName = "cosine"
    """How a text and a sample are compared, in training and in search: "cosine" of the text and all that the sample
    has fused; "volume" (GRAM) or "area" (TRIANGLE) of the text and what is seen, heard and said (`similarity.py`)."""
    contrast: Literal["softmax", "sigmoid"] = "softmax"
    """"softmax": a text's sample is chosen among all (CLIP); "sigmoid": each pair is judged by itself (SigLIP), with
    a learned bias. SigLIP begins at a temperature of .1."""
    temperature: float = 0.07
    licence: str = ""
    """Of the trained weights, such as "cc-by-4.0": for the model card."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(self.modalities))
        object.__setattr__(self, "combinations", tuple(self.combinations))
        object.__setattr__(self, "context_without", tuple(self.context_without))
        if not self.modalities:
            raise ValueError("a model needs at least one modality: set model.modalities")
        for name in self.modalities:
            if load(name).stem.kind == "none":
                raise ValueError(f"modality {name!r} is not for training: remove it from model.modalities")
        similarity_of(self.similarity)
        if self.contrast not in {"softmax", "sigmoid"}:
            raise ValueError(f"unknown contrast {self.contrast!r}: set model.contrast to softmax or sigmoid")
        if self.image_px % self.patch_px:
            raise ValueError(f"image_px must be a multiple of patch_px, got {self.image_px} and {self.patch_px}")
        if not 1 <= self.answer_tokens <= max(self.caption_tokens, self.transcript_tokens) - 3:
            raise ValueError(
                f"answer_tokens must leave room for a question among {self.caption_tokens} caption_tokens or"
                f" {self.transcript_tokens} transcript_tokens, got {self.answer_tokens}"
            )
        if self.text_width % self.text_heads or (not self.backbone and self.vit_width % self.vit_heads):
            raise ValueError("widths must be multiples of their numbers of heads")

    def window(self, *, train: bool) -> Window:
        """What the model wants to see of each sample."""
        return Window(
            num_frames=self.num_frames,
            image_px=self.image_px,
            num_samples=round(self.audio_slices * self.audio_slice_s * SAMPLE_RATE_HZ),
            num_points=self.num_points,
            train=train,
        )


class MiCo(nn.Module):
    """The network with its tokenizer. Losses live in `objectives.py`."""

    def __init__(self, config: MiCoConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.about = About(origin=origin_of(config))
        """What its card says of the run."""
        self.names = tuple(short_name(name) for name in config.modalities)
        kinds = {short_name(name): load(name).stem.kind for name in config.modalities}
        self.text_names = tuple(name for name, kind in kinds.items() if kind == "text")
        self.senses = tuple(
            tuple(name for name, kind in kinds.items() if kind in together)
            for together in ({"image", "points"}, {"mel"}, {"text"})
        )
        """Modalities by what they come from: seen, heard, said. Depth, normals and points derive from pictures."""
        self.encoder = Encoder(config)
        self.text = TextTransformer(config, max(len(tokenizer), 8))
        widths = {name: config.text_width if kind == "text" else self.encoder.width for name, kind in kinds.items()}
        self.context = ContextBuilder(config, widths)
        dim, contra = config.text_width, config.contra_dim
        self.text_head = nn.Linear(dim, contra, bias=False)
        self.context_heads = nn.ModuleDict({name: nn.Linear(dim, contra, bias=False) for name in self.names})
        self.scores = nn.ModuleDict({name: nn.Linear(dim, 1) for name in self.names})
        for score in self.scores.values():
            nn.init.zeros_(score.weight)  # attention begins as the mean  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(score.bias)  # pyright: ignore[reportArgumentType]
        self.combined = nn.ModuleDict(
            {
                self._key(parse_context(letters, config.modalities)): nn.Linear(
                    dim * len(letters.replace("t", "")), contra, bias=False
                )
                for letters in config.combinations
            }
        )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        # Of SigLIP: it begins where nearly every pair is taken for a wrong one, as nearly every pair is.
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if config.contrast == "sigmoid" else None
        self.match_head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, 2))

    # --- from a batch to features ---------------------------------------------------------------------------

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> Tokens:
        """Token ids on the model's device."""
        return self.tokenizer.encode(texts, max_tokens or self.config.caption_tokens).to(self.log_scale.device)

    def tokenize_answers(self, answers: Sequence[str]) -> Tokens:
        """Token ids of at most `answer_tokens`, [SEP] last and no [CLS]: they stand behind a question."""
        tokens = self.tokenize(answers, self.config.answer_tokens + 1)
        return Tokens(tokens.ids[:, 1:], tokens.mask[:, 1:])

    @property
    def question_tokens(self) -> int:
        """Tokens of a question at most, so that an answer has its positions behind it."""
        return len(self.text.positions.weight) - self.config.answer_tokens

    def encode_context(self, batch: Batch, names: Sequence[str] | None = None) -> Context:
        """Context tokens of every modality of the batch, each encoded once. What is absent is never computed."""
        context = Context({}, {}, {}, len(batch))
        arrays: dict[str, Tensor] = {}
        rows: dict[str, Tensor] = {}
        for name in self.names if names is None else names:
            present = batch.present.get(name)
            if present is None or not bool(present.any()):
                continue
            context.present[name] = present
            rows[name] = present.nonzero()[:, 0]
            if name not in self.text_names:
                array = batch.tensors[name]
                arrays[name] = array if len(rows[name]) == len(array) else array[rows[name]]
        for name, features in self.encoder(arrays).items():
            tokens = _scatter(self.context.image_tokens(name, features), rows[name], len(batch))
            context.tokens[name] = tokens
            context.masks[name] = context.present[name][:, None].expand(-1, tokens.shape[1])
        for name in self.text_names:
            if name in rows:
                said = self.tokenize(
                    [batch.texts[name][row] for row in rows[name].tolist()], self.config.transcript_tokens
                )
                tokens = self.context.text_tokens(name, self.text.encode(said))
                context.tokens[name] = _scatter(tokens, rows[name], len(batch))
                context.masks[name] = _scatter(said.mask, rows[name], len(batch))
        context.tokens = {name: context.tokens[name] for name in self.names if name in context.tokens}
        return context

    def text_features(self, tokens: Tokens) -> Tensor:
        """Unit vectors (B, C) of captions, float32: the mean over their tokens, projected."""
        return self.project_text(self.text.encode(tokens), tokens.mask)

    def project_text(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        weight = mask_BT[..., None].to(hidden_BTD.dtype)
        mean = (hidden_BTD * weight).sum(1) / weight.sum(1)
        return F.normalize(self.text_head(mean).float(), dim=-1)

    def values(self, context: Context) -> dict[str, tuple[Tensor, Tensor]]:
        """Contrastive values (B, L, C) and attention scores (B, L) of each modality's tokens: computed once a step."""
        return {
            name: (self.context_heads[name](tokens), self.scores[name](tokens)[..., 0])
            for name, tokens in context.tokens.items()
        }

    def pool(
        self, context: Context, names: Sequence[str], values: dict[str, tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """Unit vectors (B, C), float32, of any subset of modalities; 0 where a sample has none of them."""
        chosen = [name for name in self.names if name in names and name in context.tokens]
        if self.config.fusion == "concat_linear" and len(names) > 1:
            return self._concatenated(context, names)
        if not chosen:
            return torch.zeros(context.size, self.config.contra_dim, device=self.log_scale.device)
        values = values or self.values(context)
        value_BLC = torch.cat([values[name][0] for name in chosen], 1).float()
        score_BL = torch.cat([values[name][1] for name in chosen], 1).float()
        mask_BL = torch.cat([context.masks[name] for name in chosen], 1)
        weight_BL = score_BL.masked_fill(~mask_BL, -1e4).softmax(-1) * mask_BL
        return F.normalize((weight_BL[..., None] * value_BLC).sum(1), dim=-1)

    def vectors(
        self, context: Context, names: Sequence[str], values: dict[str, tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """Unit vectors (B, K, C), float32, that stand for a subset of modalities in `similar`; 0 where there is none.

        K is 1 for the cosine: all fused. For volume and area one each of what is seen, heard and said.
        """
        if self.config.similarity == "cosine":
            return self.pool(context, names, values)[:, None]
        chosen = [[name for name in sense if name in names] for sense in self.senses]
        return torch.stack([self.pool(context, group, values) for group in chosen if group], 1)

    def similar(self, text_BC: Tensor, vectors_MKC: Tensor) -> Tensor:
        """Similarities (B, M), float32, of texts and samples by the model's measure; the larger the more alike."""
        return similarity_of(self.config.similarity)(text_BC, vectors_MKC)

    def _concatenated(self, context: Context, names: Sequence[str]) -> Tensor:
        """The paper's fusion: mean tokens side by side, one linear map for each listed subset; absent ones are 0."""
        key = self._key(names)
        if key not in self.combined:
            letters = context_letters([name for name in self.config.modalities if short_name(name) in names])
            raise ValueError(f"no head for {letters!r}: add it to model.combinations, or use model.fusion=attention")
        parts: list[Tensor] = []
        for name in (name for name in self.names if name in names):
            if name in context.tokens:
                weight = context.masks[name][..., None].to(context.tokens[name].dtype)
                parts.append((context.tokens[name] * weight).sum(1) / weight.sum(1).clamp_min(1))
            else:
                parts.append(torch.zeros(context.size, self.config.text_width, device=self.log_scale.device))
        return F.normalize(self.combined[key](torch.cat(parts, -1)).float(), dim=-1)

    def match_logits(self, tokens: Tokens, context: Context, names: Sequence[str]) -> Tensor:
        """Logits (B, 2), float32: [no match, match] of text i and context i."""
        hidden = self.text.match(tokens, *self.context.select(context, names))
        return self.match_head(hidden[:, 0]).float()

    def scale(self) -> Tensor:
        """1 / temperature, at most 100."""
        return self.log_scale.clamp(0, _LOG_MAX_SCALE).exp()

    # --- for users ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embed(self, batch: Batch, what: str) -> Tensor:
        """Unit vectors float32 (B, C) of "t" (the caption) or of any subset of modalities such as "va".

        Samples that have none of them get zeros. Raises ValueError for letters this model does not know.
        """
        batch = batch.to(self.log_scale.device)
        if what == "t":
            return self.text_features(self.tokenize(batch.texts[short_name(self.config.text)]))
        names = parse_context(what, (*self.config.modalities, self.config.text))
        if not names or "t" in what:
            raise ValueError(f'embed "t" or a subset of {context_letters(self.config.modalities)!r}, got {what!r}')
        return self.pool(self.encode_context(batch, names), names)

    @torch.no_grad()
    def caption(self, batch: Batch, what: str, beams: int = 1) -> list[str]:
        """Most likely captions of what the letters show of each sample; `beams` hypotheses are followed."""
        names = parse_context(what, self.config.modalities)
        return self.write_captions(self.encode_context(batch.to(self.log_scale.device), names), names, beams)

    @torch.no_grad()
    def write_captions(self, context: Context, names: Sequence[str], beams: int = 1) -> list[str]:
        """Captions of a context that is encoded already."""
        begin = Tokens(torch.full((context.size, 1), CLS), torch.ones(context.size, 1, dtype=torch.bool))
        begin = begin.to(self.log_scale.device)
        seen = self.context.select(context, names)
        ids = write(self.text, begin, *seen, self.config.caption_tokens - 1, beams)
        return [self.tokenizer.decode(row) for row in ids.tolist()]

    @torch.no_grad()
    def answer(self, batch: Batch, questions: Sequence[str], what: str = "", beams: int = 1) -> list[str]:
        """Most likely answers to one question about each sample, from what the letters show; default: all there is.

        Words that `qa` was trained with; of a model that was not, noise. Raises ValueError unless there is a question
        for each sample.
        """
        if len(questions) != len(batch):
            raise ValueError(f"ask one question about each sample, got {len(questions)} about {len(batch)}")
        names = parse_context(what, self.config.modalities) if what else self.names
        return self.write_answers(self.encode_context(batch.to(self.log_scale.device), names), names, questions, beams)

    @torch.no_grad()
    def write_answers(
        self, context: Context, names: Sequence[str], questions: Sequence[str], beams: int = 1
    ) -> list[str]:
        """Answers to one question about each row of a context that is encoded already."""
        seen = self.context.select(context, names)
        asked = self.tokenize(questions, self.question_tokens)
        ids = write(self.text, asked, *seen, self.config.answer_tokens, beams)
        return [self.tokenizer.decode(row) for row in ids.tolist()]

    def save_pretrained(self, folder: Path | str, weights: Mapping[str, Tensor] | None = None) -> None:
        """Writes model.safetensors, model.json, tokenizer.json and a model card into the folder, which is made.

        weights: written instead of the model's own, such as a copy of them from before.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        chosen = self.state_dict() if weights is None else weights
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in chosen.items()}
        save_file(tensors, str(folder / "model.safetensors"))
        # Where the backbone's weights lay is nobody's business, and they are in the file.
        settings = asdict(self.config) | {"backbone_weights": name_of(self.config.backbone_weights)}
        (folder / "model.json").write_text(json.dumps(settings, indent=1) + "\n")
        (folder / "tokenizer.json").write_text(self.tokenizer.to_json())
        write_card(folder, self, self.about)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> MiCo:
        """The model of a folder made by `save_pretrained`, or the newest of a training run; in evaluation mode.

        Of a run that keeps a mean of its weights, it is the mean. Raises FileNotFoundError if the folder holds neither.
        """
        from safetensors.torch import load_file

        from omniloom.trainer.checkpoint import newest_checkpoint

        folder = Path(folder)
        if not (folder / "model.json").exists():
            folder = newest_checkpoint(folder) or folder
        if not (folder / "model.json").exists():
            raise FileNotFoundError(f"no model in {folder}: give a training run or a folder with model.safetensors")
        settings: dict[str, Any] = json.loads((folder / "model.json").read_text())
        # The weights are in the file: a backbone is only built, never fetched again.
        settings |= {"backbone_pretrained": False, "backbone_weights": ""}
        config = MiCoConfig(**settings)
        model = cls(config, Tokenizer.from_json((folder / "tokenizer.json").read_text()))
        averaged = folder / "ema.safetensors"
        model.load_state_dict(load_file(str(averaged if averaged.exists() else folder / "model.safetensors")))
        model.about = read_about(folder)
        return model.eval()

    def _key(self, names: Sequence[str]) -> str:
        return "+".join(name for name in self.names if name in names)


def _scatter(rows_MLD: Tensor, index_M: Tensor, batch: int) -> Tensor:
    """Rows back at their places in a batch of zeros."""
    if len(index_M) == batch:
        return rows_MLD
    return rows_MLD.new_zeros(batch, *rows_MLD.shape[1:]).index_copy(0, index_M, rows_MLD)
