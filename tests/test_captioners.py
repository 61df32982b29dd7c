"""Captioners answer clips: each real architecture, tiny, from a folder; a real HTTP server; MiCo's own head."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omniloom.modalities import Clip, caption
from omniloom.modalities.base import Footage, Frames, ModelRef, Waveform
from omniloom.modalities.models import ask_here, caption_audio, caption_transformers
from omniloom.modalities.models._torchvision import mend_torchvision

OPTIONS = (("prompt", ""), ("max_new_tokens", 5), ("beams", 1))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    mend_torchvision()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def clips(count: int = 2, frames: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (count, frames, 40, 60, 3), dtype=np.uint8)


def tokenizer(*special: str, **named: Any) -> Any:
    """Words of a tiny vocabulary, with BERT's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "[ENC]", *special]
    words += [
        "a",
        "photo",
        "of",
        "dog",
        "red",
        "ball",
        "rolls",
        "past",
        "what",
        "does",
        "the",
        "image",
        "describe",
        "?",
    ]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if not named:
        named = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
        inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    extra = {"extra_special_tokens": named.pop("extra", ["[DEC]", "[ENC]"])}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", **named, **extra, model_max_length=200
    )


def blip(folder: Path) -> None:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    text = {"vocab_size": 20, "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 8, "max_position_embeddings": 40}
    text |= {"bos_token_id": 4, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 16})
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer()).save_pretrained(folder)


def git(folder: Path, frames: int | None = None) -> None:
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GitConfig(
        vision_config={**vision, "image_size": 32, "patch_size": 16},
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=60, bos_token_id=2, eos_token_id=3, pad_token_id=0,
        num_image_with_embedding=frames,
    )  # fmt: skip
    GitForCausalLM(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    GitProcessor(pictures, tokenizer()).save_pretrained(folder)


def git_video(folder: Path) -> None:
    git(folder, frames=2)


def encoder_decoder(folder: Path) -> None:
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    vision = ViTConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    text = GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=40, bos_token_id=2, eos_token_id=3)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    VisionEncoderDecoderModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def florence2(folder: Path) -> None:
    from transformers import (
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    words = tokenizer("<s>", "</s>", "<image>", bos_token="<s>", eos_token="</s>", extra={"image_token": "<image>"})
    vision = {"embed_dim": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_heads": [2] * 4, "num_groups": [2] * 4}
    text = {"model_type": "bart", "vocab_size": 24, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    text |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    text |= {"bos_token_id": 6, "eos_token_id": 7, "pad_token_id": 0, "decoder_start_token_id": 7}
    text |= {"forced_eos_token_id": 7, "max_position_embeddings": 80}
    config = Florence2Config(
        text_config=text, vision_config={**vision, "projection_dim": 16}, image_token_id=8, is_encoder_decoder=True
    )
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    pictures.image_seq_length = 5
    Florence2Processor(pictures, words, num_additional_image_tokens=1).save_pretrained(folder)


CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def qwen2_vl(folder: Path) -> None:
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    special = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|end|>")
    words = tokenizer(*special, eos_token="<|end|>", extra=list(special[:4]))
    text = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 10, "eos_token_id": 10}
    text |= {
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
        vision_start_token_id=6, vision_end_token_id=7, image_token_id=8, video_token_id=9,
    )  # fmt: skip
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}}
    pictures, videos = Qwen2VLImageProcessor(**sizes), Qwen2VLVideoProcessor(**sizes)
    Qwen2VLProcessor(pictures, words, videos, chat_template=CHAT).save_pretrained(folder)


MADE: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (blip, git, git_video, encoder_decoder, florence2, qwen2_vl)
}


@pytest.mark.parametrize("family", MADE)
def test_every_architecture_captions_clips_the_same_alone_and_together(family: str, tmp_path: Path) -> None:
    MADE[family](tmp_path)
    ref = ModelRef("caption_transformers", str(tmp_path), OPTIONS)
    caption_transformers.check(ref)
    answer = caption_transformers.load(ref)
    both = clips()
    together = answer(both)
    assert len(together) == 2
    assert all(isinstance(text, str) for texts in together for text in texts)
    assert together == [*answer(both[:1]), *answer(both[1:])]
    assert together == caption_transformers.load(ref)(both)
    most = 1 if family in {"git_video", "qwen2_vl"} else both.shape[1]
    assert all(1 <= len(texts) <= most for texts in together)
    name, revision = caption_transformers.describe(ref)
    assert name == tmp_path.name
    assert revision.startswith("xxh3:")


def test_a_prompt_begins_a_blip_caption_and_beams_are_deterministic(tmp_path: Path) -> None:
    blip(tmp_path)
    options = (("prompt", "a photo of"), ("max_new_tokens", 4), ("beams", 2))
    answer = caption_transformers.load(ModelRef("caption_transformers", str(tmp_path), options))
    first, second = answer(clips(1)), answer(clips(1))
    assert first == second
    assert all(text.startswith("a photo of") for text in first[0]), first


def test_an_audio_classifier_says_its_labels_over_all_of_the_sound(tmp_path: Path) -> None:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    labels = {0: "Speech, talk", 1: "Music", 2: "MIDI file"}
    config = ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_length=128,
        id2label=labels,
    )
    ASTForAudioClassification(config).save_pretrained(tmp_path)
    ASTFeatureExtractor(max_length=128).save_pretrained(tmp_path)
    answer = caption_audio.load(ModelRef("caption_audio", str(tmp_path)))
    samples = (np.random.default_rng(0).normal(0, 3000, 16_000 * 12)).astype(np.int16)
    said = answer(samples, 16_000)
    assert {word for word, _ in said} == {"speech", "music", "MIDI file"}
    assert [sure for _, sure in said] == sorted((sure for _, sure in said), reverse=True)
    config = caption.Config(model=f"sound:{tmp_path}", tag_threshold=0.01)
    heard = caption.extract(footage(audio=Waveform(samples)), config, ask_here())
    assert heard is not None
    assert set(heard.value.audio[0].text.split(", ")) == {"speech", "music", "MIDI file"}
    assert heard.value.audio[0].model == tmp_path.name


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("./nowhere", "no captioner"),
        ("sound:./nowhere", "no audio classifier"),
        ("mico:./nowhere", "no MiCo"),
        ("openai:http://127.0.0.1:9/v1", "vllm serve"),
        ("openai:file:///etc/passwd", "not a URL"),
        ("openai:http://me:secret@127.0.0.1/v1", "OPENAI_API_KEY"),
    ],
)
def test_what_is_missing_is_told_in_one_line_that_names_the_repairs(model: str, wanted: str) -> None:
    from omniloom.modalities.models import family_of

    (ref,) = caption.models(caption.Config(model=f"given+{model}"))
    with pytest.raises(ValueError, match=wanted) as caught:
        family_of(ref).check(ref)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_model_that_writes_no_captions_is_refused_by_its_kind(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path)
    for family in (caption_transformers, caption_audio):
        with pytest.raises(ValueError, match="'bert' model"):
            family.check(ModelRef("", str(tmp_path)))


def test_mico_captions_what_it_knows_and_the_clip_has(tmp_path: Path) -> None:
    from omniloom.trainer import captioner
    from omniloom.trainer.mico import MiCo, MiCoConfig
    from omniloom.trainer.text import Tokenizer

    config = MiCoConfig(modalities=("frames", "audio", "transcript"), vocab_size=60)
    MiCo(config, Tokenizer.train(["a red ball rolls past", "a dog barks"] * 4, 60)).save_pretrained(tmp_path)
    (ref,) = caption.models(caption.Config(model=f"mico:{tmp_path}"))
    assert ref.family == "omniloom.trainer.captioner"
    captioner.check(ref)
    answer = captioner.load(ref)
    seen = {"frames": frames(), "audio": Waveform(np.ones(16_000, np.int16)), "depth": "not known to it"}
    assert answer(seen) == answer(seen)
    assert all(isinstance(text, str) for text in answer({"frames": frames()}))
    assert answer({"depth": "not known to it"}) == []
    name, revision = captioner.describe(ref)
    assert name == f"mico/{tmp_path.name}"
    assert revision.startswith("xxh3:")


def test_clips_that_wait_for_one_captioner_are_asked_together_and_get_their_own_texts() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from omniloom.pipeline.together import Together

    sizes: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def model(asked: np.ndarray) -> list[tuple[str, ...]]:
        sizes.append(len(asked))
        begun.set()
        go_on.wait(10)
        return [(str(clip.flat[0]),) for clip in asked]

    together = Together(model, 8)
    numbered = [np.full((1, 2, 4, 4, 3), number, np.uint8) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(together, numbered[0])
        begun.wait(10)
        others = [pool.submit(together, one) for one in numbered[1:]]
        while len(together._waiting) < 5:
            threading.Event().wait(0.01)
        go_on.set()
        answers = [first.result(), *(other.result() for other in others)]
    assert answers == [[(str(number),)] for number in range(6)]
    assert sizes == [1, 5]


def frames(count: int = 8) -> Frames:
    rgb = np.random.default_rng(2).integers(0, 255, (count, 48, 64, 3), dtype=np.uint8)
    return Frames(rgb, np.arange(count) * 10**8)


def footage(shown: Frames | None = None, audio: Waveform | None = None, **more: Any) -> Footage:
    return Footage(Clip("0" * 64, 0, 10**9), "/nowhere/x.mp4", shown, audio, **more)
