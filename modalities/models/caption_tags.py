"""Words for what is seen, offline: a small classifier of ImageNet's 1000 classes that says only what it is sure of.

A loaded model takes rgb uint8 (T, H, W, 3) and gives T arrays float32 (1000,): how likely each class is on each frame,
in the order of `tags_words.yaml`. No frame's answer depends on the others. `words` makes words of them.
EfficientNet-Lite0 (arXiv 1905.11946), Apache-2.0; `recipes/tags.py` made the file, `benchmarks/tags.py` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from omniloom.modalities.base import ModelRef

GPUS = 0.05
"""A sliver, since a share of nothing cannot be counted out; the network itself is small and stays on a core."""

THRESHOLD = 0.5
"""From here on a word is said: 93 of 100 are right then (docs/captions.md); at 0.4 a fourth more are said, 87 right."""
_TEMPERATURE = 1.4
"""Divides the logits: the network's own confidence is too high for pictures unlike ImageNet's. Fitted on half of the
labelled photographs, measured on the other half."""

_WEIGHTS = Path(__file__).parent / "weights/tags.onnx"
_WORDS = Path(__file__).parent / "weights/tags_words.yaml"
_PX = 224
_AT_ONCE = 8


def reference() -> ModelRef:
    """The model as `Ask` knows it; there is one."""
    return ModelRef("caption_tags", "embedded")


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repair, if it cannot be run here."""
    if find_spec("onnxruntime") is None:
        raise ValueError(
            "caption.model with 'tags' needs onnxruntime: pip install 'omniloom[build]', or leave out 'tags'"
        )
    if not _WEIGHTS.is_file():
        raise ValueError(
            f"the tagger's weights are not installed ({_WEIGHTS.name}): reinstall omniloom, or leave out 'tags'"
        )


def describe(ref: ModelRef) -> tuple[str, str]:
    """Name, and a hash of the weights and of the words."""
    return "efficientnet-lite0/imagenet", _revision()


def licence(ref: ModelRef) -> str:
    """Of the weights, as their package states it."""
    return "apache-2.0"


def at_once(ref: ModelRef) -> int:
    """Frames that one call should be given at most."""
    return 4 * _AT_ONCE


def load(ref: ModelRef) -> Callable[[np.ndarray], list[np.ndarray]]:
    """The model, on one core."""
    check(ref)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(_WEIGHTS), options, providers=["CPUExecutionProvider"])

    def answer(rgb: np.ndarray) -> list[np.ndarray]:
        likely: list[np.ndarray] = []
        for first in range(0, len(rgb), _AT_ONCE):
            image = np.stack([_prepared(picture) for picture in rgb[first : first + _AT_ONCE]])
            likely += list(_softmax(cast(np.ndarray, session.run(None, {"image": image})[0]) / _TEMPERATURE))
        return likely

    return answer


def words(likely: Sequence[np.ndarray], threshold: float) -> list[str]:
    """What is said of a clip whose frames' classes are so likely: the surest first, [] if nothing is sure.

    A word is as likely as its classes together, on the mean of the frames: 70 breeds may share what adds up to a dog.
    Of words that hold one another only the narrowest is said.
    """
    vocabulary = _vocabulary()
    mean = np.mean(likely, axis=0)
    sure = {word: float(mean[list(classes)].sum()) for word, classes in vocabulary.items()}
    said = [word for word, share in sure.items() if share >= threshold]
    narrowest = [word for word in said if not any(vocabulary[other] < vocabulary[word] for other in said)]
    return sorted(narrowest, key=lambda word: (-sure[word], word))


@cache
def _vocabulary() -> Mapping[str, frozenset[int]]:
    """Word -> its classes: of a single class, of several of one name, or of a group."""
    import yaml

    listed = cast("dict[str, Any]", yaml.safe_load(_WORDS.read_text(encoding="utf-8")))
    found: dict[str, frozenset[int]] = {}
    for index, word in enumerate(cast("list[str]", listed["words"])):
        found[word] = found.get(word, frozenset()) | {index}
    for word, spans in cast("dict[str, str]", listed["groups"]).items():
        classes = {
            index
            for first, _, last in (str(span).partition("-") for span in str(spans).split())
            for index in range(int(first), int(last or first) + 1)
        }
        found[word] = found.get(word, frozenset()) | classes
    return found


def _prepared(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (3, 224, 224), 0..255: the square in the middle, as MiCo's own window of a picture."""
    from PIL import Image

    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    image = Image.fromarray(np.ascontiguousarray(picture)).resize(
        (_PX, _PX), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    return np.ascontiguousarray(np.asarray(image, np.float32).transpose(2, 0, 1))


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


@cache
def _revision() -> str:
    import xxhash

    return f"xxh3:{xxhash.xxh3_128(_WEIGHTS.read_bytes() + _WORDS.read_bytes()).hexdigest()}"
