"""Words for what is heard by a `transformers` audio classifier (AST, ...), by hub name or local folder.

A loaded model takes (samples int16 (N,), sample rate) and gives [(label, probability), ...], the likeliest first: the
model's own labels, lower-case but for names, over the whole of the sound. Models for several labels at once (AudioSet)
judge each by itself; the others share out one probability.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import _hub
from omniloom.modalities.models._torchvision import mend_torchvision

GPUS = 0.1

_RATE_HZ = 16_000
_WINDOW_S = 10.0
"""Longer sound is judged by windows of this, and a label is as likely as in the window where it is likeliest."""
_MOST = 20
_REPAIRS = (
    "give sound:NAME a hub name such as 'MIT/ast-finetuned-audioset-10-10-0.4593' or the folder of a saved model, "
    "'sound' alone for what can be measured without one, or leave it out"
)


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repairs, if packages or the model are not here and cannot be fetched by name."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise ValueError(f"sound:{ref.name} needs {package}: pip install 'omniloom[transformers]'; or {_REPAIRS}")
    try:
        kind = _hub.stated(ref.name).get("model_type")
    except ValueError as error:
        raise ValueError(f"no audio classifier: {error}; {_REPAIRS}") from error
    from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

    if kind not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES:
        raise ValueError(f"{ref.name!r} is a {kind!r} model, which classifies no sound: {_REPAIRS}")


def describe(ref: ModelRef) -> tuple[str, str]:
    """The model's name, and the hub's commit or a hash of the local weights."""
    return _hub.described(ref.name)


def licence(ref: ModelRef) -> str:
    """As the model's own README states it; "" if it does not."""
    return _hub.licence(ref.name)


def load(ref: ModelRef) -> Callable[[np.ndarray, int], list[tuple[str, float]]]:
    """The model, on the GPU where there is one."""
    check(ref)
    import torch

    mend_torchvision()
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    try:
        folder = str(_hub.fetched(ref.name))
        extractor: Any = AutoFeatureExtractor.from_pretrained(folder)
        model: Any = AutoModelForAudioClassification.from_pretrained(folder, use_safetensors=True)
    except (OSError, ImportError, ValueError, KeyError) as error:
        brief = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"cannot load the audio classifier {ref.name!r} ({brief}): {_REPAIRS}") from error
    if int(extractor.sampling_rate) != _RATE_HZ:
        raise ValueError(f"{ref.name!r} hears {extractor.sampling_rate} Hz, clips have {_RATE_HZ} Hz: {_REPAIRS}")
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    labels: dict[int, str] = model.config.id2label
    several = model.config.problem_type == "multi_label_classification" or len(labels) == 527  # AudioSet says no type

    def answer(samples: np.ndarray, sample_rate_hz: int) -> list[tuple[str, float]]:
        if sample_rate_hz != _RATE_HZ:
            raise ValueError(f"an audio classifier hears 16 kHz, got {sample_rate_hz = }")
        likeliest = np.zeros(len(labels))
        step = round(_WINDOW_S * _RATE_HZ)
        for first in range(0, len(samples), step):
            window = samples[first : first + step].astype(np.float32) / np.float32(32768)
            if first and len(window) < _RATE_HZ:  # a rest too short to be judged by itself
                continue
            inputs = extractor(window, sampling_rate=_RATE_HZ, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                logits = model(**inputs).logits[0].float()
            likely = (logits.sigmoid() if several else logits.softmax(-1)).cpu().numpy()
            likeliest = np.maximum(likeliest, likely)
        order = np.argsort(-likeliest, kind="stable")[:_MOST]
        return [(_worded(labels[int(index)]), float(likeliest[index])) for index in order]

    return answer


def _worded(label: str) -> str:
    """The first of a label's names, lower-case unless it is one: male speech, of "Male speech, man speaking"."""
    name = label.partition(",")[0].strip().replace("_", " ")
    return name[:1].lower() + name[1:] if name[1:2].islower() else name
