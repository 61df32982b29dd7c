"""Captions of frames by a `transformers` model, by hub name or local folder, as the model's own processor prepares it.

A loaded model takes clips uint8 (B, T, H, W, 3) and gives B tuples of texts. What a family looks at differs:

    BLIP, BLIP-2, Florence-2, GIT, encoder-decoders   a frame: each of the T has a text, equal ones once, in their order
    GIT trained on video                              all T frames as one video: one text; T as its configuration says
    any with a chat template (Qwen-VL, SmolVLM,       all T frames as pictures of one question: one text
    LLaVA, InternVL, Gemma 3, ...)

Answers are greedy, or by beams: nothing is sampled. The model answers B x T pictures at a time as its memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import _hub
from omniloom.modalities.models._torchvision import mend_torchvision

GPUS = 0.5

_REPAIRS = (
    "give caption.model a hub name such as 'Salesforce/blip-image-captioning-base', the folder of a saved model, "
    "openai:URL for a server, 'tags' for the embedded tagger, or 'given' for only what lies beside the videos"
)
_BY_FRAME = frozenset({"blip", "blip-2", "florence2", "git", "vision-encoder-decoder"})
_PROMPTS = {"florence2": "<DETAILED_CAPTION>"}
_CHAT_PROMPT = "These are frames of one video clip, in order. Describe what it shows in one sentence."
_AT_ONCE = 8

Way = Literal["frame", "video", "chat"]


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repairs, if packages or the model are not here and cannot be fetched by name."""
    for package in ("torch", "torchvision", "transformers"):
        if find_spec(package) is None:
            raise ValueError(
                f"the captioner {ref.name!r} needs {package}: pip install 'omniloom[transformers]'; or {_REPAIRS}"
            )
    try:
        stated = _hub.stated(ref.name)
    except ValueError as error:
        raise ValueError(f"no captioner: {error}; {_REPAIRS}") from error
    kind = stated.get("model_type")
    if kind in _BY_FRAME:
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(f"{ref.name!r} is a {kind!r} model, which writes no captions of pictures: {_REPAIRS}")


def describe(ref: ModelRef) -> tuple[str, str]:
    """The model's name, and the hub's commit or a hash of the local weights."""
    return _hub.described(ref.name)


def licence(ref: ModelRef) -> str:
    """As the model's own README states it; "" if it does not."""
    return _hub.licence(ref.name)


def at_once(ref: ModelRef) -> int:
    """Clips that one call should be given at most."""
    return _AT_ONCE


def load(ref: ModelRef) -> Callable[[np.ndarray], list[tuple[str, ...]]]:
    """The model, on the GPU where there is one, there in the precision it was saved in."""
    check(ref)
    import torch

    mend_torchvision()
    try:
        folder = str(_hub.fetched(ref.name))
        processor = _processor(folder)
        on_gpu = torch.cuda.is_available()
        model = _model(folder, torch.float32 if not on_gpu else "auto").to("cuda" if on_gpu else "cpu").eval()
    except (OSError, ImportError, ValueError, KeyError) as error:
        raise ValueError(f"cannot load the captioner {ref.name!r} ({_line(error)}): {_REPAIRS}") from error
    kind: str = model.config.model_type
    way = _way(model, processor, ref)
    options = dict(ref.options)
    prompt = str(options.get("prompt") or _PROMPTS.get(kind, ""))
    settings: dict[str, Any] = {
        "max_new_tokens": int(options.get("max_new_tokens", 60)),
        "num_beams": int(options.get("beams", 1)),
        "do_sample": False,
    }
    settings |= {"temperature": None, "top_p": None, "top_k": None}  # a saved model may ask for dice

    def answer(clips: np.ndarray) -> list[tuple[str, ...]]:
        if clips.ndim != 5 or clips.dtype != np.uint8:
            raise ValueError(f"a captioner takes clips uint8 (B, T, H, W, 3), got {clips.dtype} {clips.shape}")
        if way == "chat":
            return [(text,) for text in _chatted(model, processor, clips, prompt or _CHAT_PROMPT, settings)]
        if way == "video":
            return [(text,) for text in _watched(model, processor, clips, settings)]
        count, frames = clips.shape[:2]
        flat = clips.reshape(-1, *clips.shape[2:])
        texts: list[str] = []
        for first in range(0, len(flat), _AT_ONCE):
            texts += _looked(model, processor, flat[first : first + _AT_ONCE], prompt, settings)
        return [tuple(dict.fromkeys(texts[clip * frames : (clip + 1) * frames])) for clip in range(count)]

    return answer


class _Pair:
    """An encoder-decoder is saved with an image processor and a tokenizer that do not know of each other."""

    def __init__(self, folder: str, tokenizer: Any) -> None:
        from transformers import AutoImageProcessor

        self.tokenizer, self._pictures = tokenizer, AutoImageProcessor.from_pretrained(folder)

    def __call__(self, images: Sequence[Any], **rest: Any) -> Any:  # noqa: ARG002 - it takes no prompt
        return self._pictures(images=images, return_tensors="pt")


def _processor(folder: str) -> Any:
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder)
    return processor if hasattr(processor, "image_processor") else _Pair(folder, processor)


def _model(folder: str, dtype: Any) -> Any:
    from transformers import AutoConfig, AutoModelForImageTextToText, GitForCausalLM

    kind = AutoConfig.from_pretrained(folder).model_type
    auto: Any = GitForCausalLM if kind == "git" else AutoModelForImageTextToText
    return auto.from_pretrained(folder, use_safetensors=True, dtype=dtype)


def _way(model: Any, processor: Any, ref: ModelRef) -> Way:
    kind = model.config.model_type
    if kind == "git" and getattr(model.config, "num_image_with_embedding", None):
        return "video"
    if kind in _BY_FRAME:
        return "frame"
    if getattr(processor, "chat_template", None) or getattr(
        getattr(processor, "tokenizer", None), "chat_template", None
    ):
        return "chat"
    raise ValueError(
        f"how to ask a {kind!r} model for a caption is not known here: {ref.name!r} has no chat template; {_REPAIRS}"
    )


def _looked(model: Any, processor: Any, rgb: np.ndarray, prompt: str, settings: dict[str, Any]) -> list[str]:
    """A text for each picture of uint8 (N, H, W, 3)."""
    kind = model.config.model_type
    text = {"text": [prompt] * len(rgb), "padding": True} if prompt else {}
    inputs = processor(images=_pictures(rgb), return_tensors="pt", **text)
    if kind == "git" and prompt:
        # Without the separator at its end: the caption goes on from there.
        inputs["input_ids"] = inputs["input_ids"][:, :-1]
        inputs["attention_mask"] = inputs["attention_mask"][:, :-1]
    ids = _generated(model, inputs, settings)
    texts = _decoded(processor, ids)
    if kind == "florence2":
        texts = [text.replace("<s>", "").replace("</s>", "").replace("<pad>", "").strip() for text in texts]
    return texts


def _watched(model: Any, processor: Any, clips: np.ndarray, settings: dict[str, Any]) -> list[str]:
    """GIT on video: as many frames as it has places for, chosen evenly from those it is given."""
    import torch

    places = int(model.config.num_image_with_embedding)
    chosen = ((np.arange(places) + 0.5) / places * clips.shape[1]).astype(int)
    pixels = [processor(images=_pictures(clip[chosen]), return_tensors="pt")["pixel_values"] for clip in clips]
    return _decoded(processor, _generated(model, {"pixel_values": torch.stack(pixels)}, settings))


def _chatted(model: Any, processor: Any, clips: np.ndarray, prompt: str, settings: dict[str, Any]) -> list[str]:
    """One question a clip, its frames as pictures; clips are asked one by one, so that none is padded to another."""
    texts: list[str] = []
    for clip in clips:
        pictures: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in _pictures(clip)]
        message = {"role": "user", "content": [*pictures, {"type": "text", "text": prompt}]}
        inputs = processor.apply_chat_template(
            [message], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        ids = _generated(model, inputs, settings)
        texts += _decoded(processor, ids[:, inputs["input_ids"].shape[1] :])
    return texts


def _generated(model: Any, inputs: Any, settings: dict[str, Any]) -> Any:
    import torch

    given = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in dict(inputs).items()
        if isinstance(value, torch.Tensor)
    }
    with torch.inference_mode():
        return model.generate(**given, **settings)


def _decoded(processor: Any, ids: Any) -> list[str]:
    return [" ".join(text.split()) for text in processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _pictures(rgb: np.ndarray) -> Sequence[Any]:
    from PIL import Image

    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in rgb]


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
