"""What a frozen network sees in every view, and what a frozen one knows of words: made once, learned from by many runs.

A backbone that is not trained gives the same features in every epoch, so the runs on top of it cost no more than tiny.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniloom.benchmarks.learn_views import Views, open_views
from omniloom.benchmarks.learn_weights import VIT, packaged_text, packaged_vit, vit_weights
from omniloom.modalities.models._torchvision import mend_torchvision
from omniloom.trainer.text import Tokenizer

PX = 112
"""Of the pictures that are shown to frozen networks: eight patches of 14 along a side."""
KINDS = {"EfficientNet-lite0": 1000, "pretrained ViT-S/14": 384, "random ViT-S/14": 384}
"""Networks by name, and the width of what they say of a picture."""
_AT_ONCE = 32
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

See = Callable[[Tensor], Tensor]
"""Pictures float32 (N, 3, px, px) in [-1, 1] -> two tokens of each (N, 2, width): [CLS], mean of the patches."""


class Given(nn.Module):
    """In place of an encoder: what arrives are its features already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(arrays)


def seen_by(kind: str, folder: Path) -> See | None:
    """A network of `KINDS`; None if its weights are not installed. `folder` receives converted ones."""
    if kind == "EfficientNet-lite0":
        return _classifier()
    weights = None
    if kind.startswith("pretrained"):
        onnx = packaged_vit()
        if onnx is None:
            return None
        from safetensors.torch import save_file

        weights = folder / "vit.safetensors"
        save_file(vit_weights(onnx), str(weights))
    return _vit(weights)


def _vit(weights: Path | None) -> See:
    from omniloom.trainer.backbone import build_vit
    from omniloom.trainer.mico import MiCoConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = build_vit(MiCoConfig(backbone=VIT, backbone_weights=str(weights or ""), image_px=PX, patch_px=14)).eval()
    mean, spread = (torch.tensor(values)[:, None, None] for values in (_MEAN, _SPREAD))

    def see(picture_N3HW: Tensor) -> Tensor:
        tokens_NPW = vit.forward_features(((picture_N3HW + 1) / 2 - mean) / spread)
        return torch.stack([tokens_NPW[:, 0], tokens_NPW[:, 1:].mean(1)], 1)

    return see


def _classifier() -> See | None:
    """The embedded tagger's 1000 classes: log p, about its last layer's logits."""
    from omniloom.modalities.models import caption_tags

    try:
        answer = caption_tags.load(caption_tags.reference())
    except ValueError:
        return None

    def see(picture_N3HW: Tensor) -> Tensor:
        pictures = ((picture_N3HW + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        log_p = torch.from_numpy(np.log(np.maximum(np.stack(answer(pictures)), 1e-9)))
        log_p = (log_p - log_p.mean(1, keepdim=True)) / log_p.std(1, keepdim=True)
        return log_p[:, None].expand(-1, 2, -1)

    return see


@torch.no_grad()
def keep_features(views: Path, see: See, path: Path) -> Path:
    """The same views with features (V, N, n, 2, W) in place of pictures; a file that is there stays."""
    if path.exists():
        return path
    kept = open_views(views)
    pictures = kept.tensors["frames"]
    flat = pictures.flatten(0, 2)
    found = torch.cat([see(part.float()) for part in flat.split(_AT_ONCE)]).half()
    features = found.reshape(*pictures.shape[:3], *found.shape[1:])
    known = replace(kept, tensors={"frames": features})
    part = path.with_suffix(".part")
    torch.save({name: getattr(known, name) for name in Views.__slots__}, part)
    part.replace(path)
    return path


def keep_words(folder: Path) -> Path | None:
    """Tokenizer and vectors (V, 384) of MiniLM's vocabulary in `folder`; None if the package is not installed.

    A word's vector is what MiniLM makes of the word alone: so words that no caption holds lie beside their like.
    """
    model = packaged_text()
    embed = sentences(model)
    if model is None or embed is None:
        return None
    vectors, tokens = folder / "words.pt", folder / "words.json"
    if vectors.exists() and tokens.exists():
        return vectors
    pieces = (model / "vocab.txt").read_text(encoding="utf-8").splitlines()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *(piece for piece in pieces if piece not in special and not piece.startswith("[unused"))]
    tokens.write_text(tokenizer_of(words).to_json())
    found = embed([word.removeprefix("##") for word in words])
    found[: len(special)] = 0
    found[len(special) :] -= found[len(special) :].mean(0)
    torch.save(F.normalize(found, dim=-1), vectors)
    return vectors


def tokenizer_of(words: Sequence[str]) -> Tokenizer:
    """A WordPiece tokenizer of a vocabulary that is there already, special pieces first."""
    tokenizer = json.loads(Tokenizer.train(["a"], 10).to_json())
    tokenizer["model"]["vocab"] = {word: index for index, word in enumerate(words)}
    return Tokenizer.from_json(json.dumps(tokenizer))


def sentences(model: Path | None) -> Callable[[Sequence[str]], Tensor] | None:
    """Texts -> unit vectors float32 (N, 384) by MiniLM; None without its package or `transformers`."""
    if model is None:
        return None
    try:
        mend_torchvision()  # transformers imports it
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        return None
    tokenize = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
    bert = AutoModel.from_pretrained(str(model), local_files_only=True).eval()

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        found: list[Tensor] = []
        for start in range(0, len(texts), 256):
            given = tokenize(
                list(texts[start : start + 256]), padding=True, truncation=True, max_length=48, return_tensors="pt"
            )
            hidden_NTW = bert(**given).last_hidden_state
            mask = given["attention_mask"][..., None]
            found.append((hidden_NTW * mask).sum(1) / mask.sum(1))
        return F.normalize(torch.cat(found), dim=-1)

    return embed


def linear_ranks(train: Views, test: Views, embed: Callable[[Sequence[str]], Tensor]) -> dict[str, list[float]]:
    """The peer: ridge regression from a picture's features to MiniLM's vector of its caption. Ranks by query.

    Its one setting is chosen on a tenth of the training clips, parted by caption.
    """
    from omniloom.trainer.evaluate import ranks

    seen = train.tensors["frames"].float().mean((0, 2)).flatten(1)
    asked = test.tensors["frames"].float().mean((0, 2)).flatten(1)
    texts = train.texts["caption"][0]
    told, wanted = embed(texts), embed(test.texts["caption"][0])
    captions = sorted(set(texts))
    held = set(np.random.default_rng(0).permutation(captions)[: max(2, len(captions) // 10)].tolist())
    apart = torch.tensor([text in held for text in texts])
    strengths = [10.0**power for power in range(-1, 6)]

    def right(strength: float) -> float:
        found = _ridge(seen[~apart], told[~apart], seen[apart], told[apart], strength)
        same = torch.tensor([[a == b for b in np.array(texts)[apart.numpy()]] for a in np.array(texts)[apart.numpy()]])
        return float((1 / ranks(found, same)).mean())

    best = max(strengths, key=right)
    found = _ridge(seen, told, asked, wanted, best)
    own = torch.eye(len(found), dtype=torch.bool)
    return {"v->t": ranks(found, own).tolist(), "t->v": ranks(found.T, own).tolist()}


def _ridge(seen: Tensor, told: Tensor, asked: Tensor, wanted: Tensor, strength: float) -> Tensor:
    """Cosines (asked, wanted) of the mapped features and the texts, both centred as in training."""
    mean, spread = seen.mean(0), seen.std(0).clamp_min(1e-3)
    x, y, middle = (seen - mean) / spread, (asked - mean) / spread, told.mean(0)
    # In its dual form: there are fewer clips than features.
    gram = x @ x.T + strength * torch.eye(len(x))
    mapped = y @ x.T @ torch.linalg.solve(gram, told - middle)
    return F.normalize(mapped, dim=-1) @ F.normalize(wanted - middle, dim=-1).T
