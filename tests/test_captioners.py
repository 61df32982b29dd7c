"""Captioners answer clips: each real architecture, tiny, from a folder; a real HTTP server; MiCo's own head."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omniloom.modalities import Clip, caption
from omniloom.modalities.base import Footage, Frames, ModelRef, Waveform
from omniloom.modalities.models import ask_here, caption_audio, caption_openai, caption_transformers
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


# --- a server -------------------------------------------------------------------------------------------------


class Server:
    """An endpoint on loopback that answers as scripted: each entry is a status, or a text."""

    def __init__(self) -> None:
        self.script: list[int | str] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = self.at_once = 0
        self.models = ["tiny-vlm"]
        self.slow_s = 0.0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.keys.append(self.headers.get("Authorization"))
                self._reply(200, {"data": [{"id": name} for name in outer.models]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(body)
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                    answer = outer.script.pop(0) if outer.script else "a ball."
                threading.Event().wait(outer.slow_s)
                with outer._lock:
                    outer.at_once -= 1
                if isinstance(answer, int):
                    self._reply(answer, {"error": f"no, and your key is {self.headers.get('Authorization')}"})
                else:
                    self._reply(200, {"choices": [{"message": {"content": answer}}]})

            def _reply(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def ref(self) -> ModelRef:
        (ref,) = caption.models(caption.Config(model=f"openai:http://127.0.0.1:{self.http.server_port}/v1"))
        return ref


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setattr(caption_openai, "_FIRST_WAIT_S", 0.01)
    served = Server()
    yield served
    served.http.shutdown()
    served.http.server_close()


def test_a_server_is_sent_frames_as_jpegs_and_the_key_from_the_environment(server: Server) -> None:
    import base64

    from omniloom.modalities import codecs

    server.script = ["  A red\n ball. "]
    both = clips(2, 3)
    assert caption_openai.load(server.ref)(both[:1]) == [("A red ball.",)]
    (body,) = server.requests
    assert body["model"] == "tiny-vlm"
    assert body["temperature"] == 0
    assert body["max_tokens"] == 60
    *pictures, question = body["messages"][0]["content"]
    assert "one sentence" in question["text"]
    shown = [codecs.decode("jpeg", base64.b64decode(p["image_url"]["url"].partition(",")[2])) for p in pictures]
    assert np.stack(shown).shape == both[0].shape
    assert set(server.keys) == {"Bearer sk-very-secret"}
    name, revision = caption_openai.describe(server.ref)
    assert (name, revision) == ("openai:tiny-vlm", "127.0.0.1")


def test_a_busy_server_is_asked_again_and_a_refused_clip_has_no_caption(server: Server) -> None:
    server.script = [503, 429, "at last", 400]
    answer = caption_openai.load(server.ref)
    assert answer(clips(1)) == [("at last",)]
    assert answer(clips(1)) == [()]
    assert len(server.requests) == 4


def test_a_server_that_fails_for_good_stops_the_work_without_telling_the_key(server: Server) -> None:
    server.script = [500] * 20
    with pytest.raises(RuntimeError, match="HTTP 500") as caught:
        caption_openai.load(server.ref)(clips(1))
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 5
    server.script, server.requests = [401], []
    with pytest.raises(RuntimeError, match="HTTP 401") as caught:
        caption_openai.load(server.ref)(clips(1))
    assert len(server.requests) == 1, "a wrong key stays wrong"
    told = "".join(traceback.format_exception(caught.value))
    assert "very-secret" not in told


def test_requests_for_several_clips_are_under_way_at_once(server: Server) -> None:
    server.slow_s = 0.2
    assert len(caption_openai.load(server.ref)(clips(6, 1))) == 6
    assert 2 <= server.most_at_once <= 8


def test_of_several_models_one_must_be_named(server: Server) -> None:
    server.models = ["one", "two"]
    with pytest.raises(ValueError, match="serves one, two"):
        caption_openai.check(server.ref)
    named = ModelRef("caption_openai", server.ref.name + "#two")
    assert caption_openai.describe(named)[0] == "openai:two"


def test_given_and_written_captions_stand_side_by_side_each_with_its_source(server: Server, tmp_path: Path) -> None:
    server.script = ["A ball rolls."]
    config = caption.Config(model=f"given+openai:{server.ref.name}+omni", frames=2)
    made = caption.extract(footage(frames(), row={"caption": "my ball"}), config, ask_here())
    assert made is not None
    assert [(text.text, text.model, text.revision) for text in made.value.visual] == [
        ("A ball rolls.", "openai:tiny-vlm", "127.0.0.1")
    ]
    given, merged = made.value.omni
    assert (given.text, given.model) == ("my ball", "given:list")
    assert (merged.text, merged.model) == ("my ball. A ball rolls.", "omni:given:list+openai:tiny-vlm")
    assert len(server.requests[0]["messages"][0]["content"]) == 3


def frames(count: int = 8) -> Frames:
    rgb = np.random.default_rng(2).integers(0, 255, (count, 48, 64, 3), dtype=np.uint8)
    return Frames(rgb, np.arange(count) * 10**8)


def footage(shown: Frames | None = None, audio: Waveform | None = None, **more: Any) -> Footage:
    return Footage(Clip("0" * 64, 0, 10**9), "/nowhere/x.mp4", shown, audio, **more)


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
