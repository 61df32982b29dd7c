"""Captions people have are found in every place and form they come in, each under its own name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omniloom.modalities import Clip, Rejected, caption
from omniloom.modalities.base import Cue, Footage, Window
from omniloom.modalities.caption import Captions, Text

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
