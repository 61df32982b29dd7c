"""Several rows of a list about one file: its clips, each with what is said of it; and pictures as sources."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omniloom.modalities import Clip, Drop, SourceId, load
from omniloom.modalities.base import read
from omniloom.pipeline.corpus import open_corpus
from omniloom.pipeline.jobs import build
from omniloom.pipeline.moments import MAX_S, intervals, merged, row_of
from omniloom.pipeline.sources import find_sources
from omniloom.pipeline.spans import DAWN, DUSK
from omniloom.recipes.config import build_recipe
from tests.media import beep_onsets, make_clip

S = 10**9


def _merged(*rows: dict[str, str]) -> tuple[list[Any], list[Drop]]:
    found = list(merged("x.mp4", rows))
    return [item for item in found if not isinstance(item, Drop)], [item for item in found if isinstance(item, Drop)]


def test_one_row_stays_as_it_is() -> None:
    row = {"caption": "a dog", "split": "test", "anything": "else"}
    assert _merged(row) == ([row], [])
    assert intervals(row) == [(DAWN, DUSK)]
    assert row_of(row, Clip(SourceId("x"), 0, S)) is row


def test_rows_without_times_are_one_with_all_captions_and_questions() -> None:
    ((row,), drops) = _merged(
        {"caption": "a dog", "split": "test"},
        {"caption": "a hound", "captions": '["a dog", "it barks"]', "question": "who?", "answer": "a dog"},
        {"captions": "[no list", "questions": '[{"question": "where?", "answer": "here"}]'},
    )
    assert drops == []
    assert row["split"] == "test"
    assert json.loads(row["captions"]) == ["a dog", "a hound", "it barks", "[no list"]
    assert [pair["question"] for pair in json.loads(row["questions"])] == ["who?", "where?"]
    assert "caption" not in row


def test_rows_with_times_are_clips_in_order_and_equal_times_are_one() -> None:
    ((row,), drops) = _merged(
        {"start": "7", "end": "9.5", "caption": "late"},
        {"start": "1", "end": "3", "caption": "early"},
        {"start": "1.0", "end": "3.0", "caption": "soon"},
        {"start": "3", "end": "4"},
    )
    assert drops == []
    assert intervals(row) == [(S, 3 * S), (3 * S, 4 * S), (7 * S, 9 * S + S // 2)]
    # Edges move to pictures: the row is the one whose times the clip shares most of.
    assert row_of(row, Clip(SourceId("x"), 6 * S + S // 2, 9 * S))["caption"] == "late"
    assert json.loads(row_of(row, Clip(SourceId("x"), S - 1, 3 * S - 1))["captions"]) == ["early", "soon"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"start": "2.5", "end": "6"}, "overlapping-clip"),
        ({"caption": "no times"}, "bad-row"),
        ({"start": "5"}, "bad-row"),
        ({"start": "soon", "end": "6"}, "bad-row"),
        ({"start": "6", "end": "6"}, "bad-row"),
        ({"start": "-1", "end": "6"}, "bad-row"),
        ({"start": "nan", "end": "6"}, "bad-row"),
        ({"start": "5", "end": str(6 + MAX_S)}, "bad-row"),
    ],
)
def test_rows_that_are_no_use_are_drops_and_the_others_stay(row: dict[str, str], reason: str) -> None:
    (kept,), (drop,) = _merged({"start": "1", "end": "3"}, row)
    assert (drop.path, drop.stage, drop.reason) == ("x.mp4", "list", reason)
    assert intervals(kept) == [(S, 3 * S)]


def test_depth_of_a_list_lies_where_the_list_does(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "l.jsonl").write_text('{"path": "a.png", "depth": "d/a.png"}')
    assert find_sources([str(tmp_path / "l.jsonl")])[0][0].row == {"depth": str(tmp_path / "d/a.png")}


# --- builds ---------------------------------------------------------------------------------------------------------


def _build(folder: Path, rows: list[dict[str, Any]], *overrides: str) -> Any:
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = build(build_recipe("benchmark", overrides), [str(folder / "list.jsonl")], folder / "corpus", workers=0)
    return report, open_corpus(folder / "corpus")


def test_clips_are_cut_as_listed_with_their_own_words_splits_and_sound(tmp_path: Path) -> None:
    make_clip(tmp_path / "x.mp4", 10, size=(64, 48), tone=[(2.5, 3), (7.25, 8)])
    rows = [
        {"path": "x.mp4", "start": 6.5, "end": 9, "caption": "second", "split": "test", "label": "b"},
        {"path": "x.mp4", "start": 2, "end": 4, "captions": ["first", "also first"], "split": "train", "label": "a"},
        {"path": "x.mp4", "start": 3, "end": 5, "caption": "overlaps"},
        {"path": "x.mp4", "start": 20, "end": 25, "caption": "after the end"},
    ]
    report, corpus = _build(tmp_path, rows)
    assert report.dropped == {"overlapping-clip": 1, "not-in-source": 1}
    found = {}
    for sample in corpus.samples():
        caption, sound = (read(load(name), sample.parts[name]) for name in ("caption", "audio"))
        found[tuple(text.text for text in caption.omni)] = (
            sample.facts["split"],
            sample.facts["label"],
            round(sample.clip.start_ns / S, 1),
            round(sample.clip.end_ns / S, 1),
            [round(onset, 1) for onset in beep_onsets(sound.samples)],
        )
    assert found == {
        ("first", "also first"): ("train", "a", 2.0, 4.0, [0.5]),
        ("second",): ("test", "b", 6.5, 9.0, [0.8]),
    }


def test_a_list_with_times_is_not_cut_otherwise(tmp_path: Path) -> None:
    make_clip(tmp_path / "x.mp4", 3, size=(64, 48))
    rows = [{"path": "x.mp4", "start": 0, "end": 1}]
    with pytest.raises(ValueError, match=r"clips\.by=list"):
        _build(tmp_path, rows, "clips.by=fixed")


def test_pictures_are_samples_of_one_upright_frame(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(noise).save(tmp_path / "plain.webp")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "turned.jpg").read_bytes()[:2000])
    (tmp_path / "empty.png").write_bytes(b"")
    rows = [{"path": name, "caption": name} for name in ("turned.jpg", "plain.webp", "torn.jpg", "empty.png")]
    report, corpus = _build(tmp_path, rows, "frames.short_side=60", "signals.sync=true", "signals.speech=true")
    assert report.dropped == {"damaged-picture": 2}
    assert Counter(corpus.drops()["stage"].to_pylist()) == {"decode": 2}
    shapes = {
        read(load("caption"), sample.parts["caption"]).omni[0].text: read(load("frames"), sample.parts["frames"])
        for sample in corpus.samples()
    }
    assert {name: frames.rgb.shape for name, frames in shapes.items()} == {
        "turned.jpg": (1, 80, 60, 3),
        "plain.webp": (1, 60, 80, 3),
    }
    assert corpus.check() == []
    table = corpus.table(["start_ns", "end_ns", "width", "height", "signals"]).to_pylist()
    assert {(row["start_ns"], row["end_ns"]) for row in table} == {(0, 1)}
    assert {(row["width"], row["height"]) for row in table} == {(300, 400), (400, 300)}
    assert all(row["signals"]["brightness"] > 0 for row in table)
