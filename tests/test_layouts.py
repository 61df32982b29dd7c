"""Annotations of the field's benchmarks, in miniature, become lists that a build takes, and rows of a corpus."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from omniloom.modalities import load
from omniloom.modalities.base import read
from omniloom.pipeline.corpus import Corpus, open_corpus
from omniloom.pipeline.jobs import build
from omniloom.pipeline.layouts import LAYOUTS, entries
from omniloom.pipeline.listing import ListReport, write_list
from omniloom.recipes.cli import app
from omniloom.recipes.config import build_recipe
from tests.media import make_clip

HERE = Path(__file__).parent


def _dump(path: Path, record: Any) -> Path:
    path.write_text(json.dumps(record))
    return path


def _table(path: Path, *rows: dict[str, Any]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _video(path: Path, seconds: float = 1.0, tone_hz: float = 440) -> Path:
    """Videos of different sounds: equal bytes would be one source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_clip(path, seconds, size=(64, 48), fps=10, tone_hz=tone_hz)


def _sound(path: Path, seconds: float = 1.0, tone_hz: float = 440) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_clip(path, seconds, video=False, audio_codec="pcm_s16le", tone_hz=tone_hz)


def _picture(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 60, 3), level, np.uint8)).save(path)
    return path


# --- one miniature a layout: its annotations, and its media in `media` ---------------------------------------------


def _msrvtt(folder: Path) -> list[Path]:
    videos = [
        {"video_id": f"video{n}", "category": 3, "url": "", "start time": 1.0, "end time": 2.0, "split": split, "id": n}
        for n, split in enumerate(["train", "validate", "test", "test"])
    ]
    sentences = [
        {"sen_id": 10 * n + k, "video_id": f"video{n}", "caption": f"video {n} seen by {k}"}
        for n in range(4)
        for k in range(3)
    ]
    for n in range(3):  # video3 could not be downloaded
        _video(folder / f"media/video{n}.mp4", tone_hz=300 + 50 * n)
    return [_dump(folder / "MSRVTT_data.json", {"info": {}, "videos": videos, "sentences": sentences})]


def _msrvtt_1ka(folder: Path) -> list[Path]:
    row = {"key": "ret0", "vid_key": "msr2", "video_id": "video2", "sentence": "the one caption"}
    return [*_msrvtt(folder), _table(folder / "MSRVTT_JSFUSION_test.csv", row)]


def _vatex(folder: Path) -> list[Path]:
    _video(folder / "media/abcdefghijk_000001_000011.mp4")
    _video(folder / "media/-bcdefghij_.mp4", 5.0, 300)  # the video that a clip is to be cut from
    records = [
        {"videoID": "abcdefghijk_000001_000011", "enCap": ["one", "two"], "chCap": ["一"]},
        {"videoID": "-bcdefghij__000002_000004", "enCap": ["three"], "chCap": []},
        {"videoID": "zzzzzzzzzzz_000002_000004", "enCap": ["gone"]},
        {"videoID": "yyyyyyyyyyy_000002_000004", "chCap": ["无"]},
    ]
    return [_dump(folder / "vatex_validation_v1.0.json", records)]


def _youcook2(folder: Path) -> list[Path]:
    _video(folder / "media/226/GLd3aX16zBg.mkv", 6.0)
    steps = [
        {"segment": [0, 2], "id": 0, "sentence": "fry the bacon"},
        {"segment": [3, 5], "id": 1, "sentence": "toast the bread"},
        {"segment": [5, 6], "id": 2},
    ]
    video = {"duration": 6.0, "subset": "validation", "recipe_type": "226", "annotations": steps, "video_url": ""}
    return [_dump(folder / "youcookii_annotations_trainval.json", {"database": {"GLd3aX16zBg": video}})]


def _didemo(folder: Path) -> list[Path]:
    _video(folder / "media/12@N02_134_87ef.mp4")
    records = [
        {"annotation_id": n, "video": "12@N02_134_87ef.mov", "description": text, "times": [[n, n]], "num_segments": 6}
        for n, text in enumerate(["a dog comes in.", "it leaves. "])
    ]
    return [_dump(folder / "test_data.json", records)]


def _audiocaps(folder: Path) -> list[Path]:
    _sound(folder / "media/Yrqfq3fAv9NE.wav", 10.0)  # cut already
    _sound(folder / "media/7XUt6sQS7nM.wav", 21.0, 300)  # the whole
    _sound(folder / "media/103.wav", 2.0, 600)
    rows = [
        {"audiocap_id": 97, "youtube_id": "rqfq3fAv9NE", "start_time": 30, "caption": "a man talks"},
        {"audiocap_id": 98, "youtube_id": "rqfq3fAv9NE", "start_time": 30, "caption": "someone speaks"},
        {"audiocap_id": 99, "youtube_id": "7XUt6sQS7nM", "start_time": 10, "caption": "rain falls"},
        {"audiocap_id": 103, "youtube_id": "nothing-els", "start_time": 0, "caption": "a bell"},
    ]
    return [_table(folder / "test.csv", *rows)]


def _clotho(folder: Path) -> list[Path]:
    _sound(folder / "media/evaluation/Santa Motor.wav")
    row = {"file_name": "Santa Motor.wav", **{f"caption_{n}": f"a motor, {n}" for n in range(1, 6)}}
    return [_table(folder / "clotho_captions_evaluation.csv", row)]


def _coco(folder: Path) -> list[Path]:
    _picture(folder / "media/val2017/000000397133.jpg", 10)
    _picture(folder / "media/val2017/000000037777.jpg", 90)
    images = [{"id": n, "file_name": f"{n:012}.jpg", "height": 40, "width": 60} for n in (397133, 37777, 5)]
    said = [{"id": n, "image_id": 397133, "caption": f"a kitchen, {n}"} for n in range(5)]
    said += [{"id": 9, "image_id": 37777, "caption": "a fridge"}]
    record = {"info": {}, "licenses": [], "images": images, "annotations": said}
    return [_dump(folder / "captions_val2017.json", record)]


def _karpathy(folder: Path) -> list[Path]:
    _picture(folder / "media/val2014/COCO_1.jpg", 10)
    _picture(folder / "media/1000092795.jpg", 60)
    sentences = [{"raw": f"two men, {n}", "tokens": [], "imgid": 0, "sentid": n} for n in range(5)]
    images = [
        {"filename": "COCO_1.jpg", "filepath": "val2014", "split": "restval", "sentences": sentences, "cocoid": 1},
        {"filename": "1000092795.jpg", "split": "test", "sentences": sentences[:2], "imgid": 0},
    ]
    return [_dump(folder / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})]


def _msrvtt_qa(folder: Path) -> list[Path]:
    _video(folder / "media/video7010.mp4")
    pairs = [("what is he doing?", "run"), ("who runs?", "man")]
    records = [
        {"answer": answer, "category_id": 14, "id": n, "question": question, "video_id": 7010}
        for n, (question, answer) in enumerate(pairs)
    ]
    return [_dump(folder / "test_qa.json", records)]


def _msvd_qa(folder: Path) -> list[Path]:
    _video(folder / "media/-4wsuPCjDBc_5_15.avi")
    (folder / "youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15 vid1\nxyz_1_2 vid2\n")
    record = {"answer": "nut", "id": 0, "question": "what is it eating?", "video_id": 1}
    return [_dump(folder / "train_qa.json", [record]), folder / "youtube_mapping.txt"]


def _folders(folder: Path) -> list[Path]:
    root = folder / "media"
    for n, name in enumerate(["bathroom", "living_room"]):
        _picture(root / f"test/{name}/{n}.png", 30 + 40 * n)
        depth = Image.fromarray(np.full((40, 60), 1000 + 500 * n, np.uint16))
        depth.save(root / f"test/{name}/{n}_depth.png")
    _picture(root / "train/bathroom/7.jpg", 200)
    _picture(root / "stray.jpg", 222)
    return [root]


Make = Callable[[Path], list[Path]]
MINIATURES: dict[str, tuple[str, Make]] = {
    make.__name__[1:].replace("_", "-"): (layout, make)
    for layout, make in [
        ("msrvtt", _msrvtt),
        ("msrvtt", _msrvtt_1ka),
        ("vatex", _vatex),
        ("youcook2", _youcook2),
        ("didemo", _didemo),
        ("audiocaps", _audiocaps),
        ("clotho", _clotho),
        ("coco", _coco),
        ("karpathy", _karpathy),
        ("msrvtt-qa", _msrvtt_qa),
        ("msvd-qa", _msvd_qa),
        ("folders", _folders),
    ]
}


def _listed(name: str, folder: Path) -> tuple[ListReport, list[dict[str, Any]]]:
    layout, make = MINIATURES[name]
    media = None if layout == "folders" else folder / "media"
    report = write_list(layout, make(folder), media, folder / "lists/list.jsonl")
    return report, [json.loads(line) for line in (folder / "lists/list.jsonl").read_text().splitlines()]


def test_every_layout_has_a_miniature() -> None:
    assert {layout for layout, _ in MINIATURES.values()} == LAYOUTS.keys()


def test_msrvtt_has_all_captions_and_its_own_splits_and_tells_what_is_missing(tmp_path: Path) -> None:
    report, rows = _listed("msrvtt", tmp_path)
    assert [row["split"] for row in rows] == ["train", "val", "test"]
    assert rows[1]["captions"] == ["video 1 seen by 0", "video 1 seen by 1", "video 1 seen by 2"]
    assert rows[0]["path"] == "../media/video0.mp4"
    assert (report.clips, report.captions, report.missing, report.missing_names) == (3, 9, 1, ["video3"])


def test_msrvtt_1ka_tests_with_one_caption_a_clip_and_trains_on_all_others(tmp_path: Path) -> None:
    report, rows = _listed("msrvtt-1ka", tmp_path)
    assert [(row["split"], len(row["captions"])) for row in rows] == [("train", 3), ("train", 3), ("test", 1)]
    assert rows[2]["captions"] == ["the one caption"]
    assert report.splits == {"test": 1, "train": 2}


def test_msrvtt_trains_on_those_that_a_csv_names(tmp_path: Path) -> None:
    files = [*_msrvtt_1ka(tmp_path), _table(tmp_path / "MSRVTT_train.9k.csv", {"video_id": "video1"})]
    left_out = Counter[str]()
    found = list(entries("msrvtt", files, left_out))
    assert [(entry.names, entry.split) for entry in found] == [(("video1",), "train"), (("video2",), "test")]
    assert left_out == {"not in a .csv": 2}


def test_vatex_takes_clips_whole_or_out_of_their_video(tmp_path: Path) -> None:
    report, rows = _listed("vatex", tmp_path)
    assert [row.get("start") for row in rows] == [None, 2.0]
    assert rows[0]["captions"] == ["one", "two"]
    assert rows[1]["end"] == 4.0
    assert {row["split"] for row in rows} == {"val"}
    assert (report.missing, report.left_out) == (1, {"no caption": 1})


def test_didemo_makes_one_paragraph_of_a_video(tmp_path: Path) -> None:
    _, rows = _listed("didemo", tmp_path)
    assert rows == [
        {"path": "../media/12@N02_134_87ef.mp4", "captions": ["a dog comes in. it leaves."], "split": "test"}
    ]


def test_audiocaps_knows_a_file_that_is_cut_already_by_its_length(tmp_path: Path) -> None:
    report, rows = _listed("audiocaps", tmp_path)
    assert rows[0] == {
        "path": "../media/Yrqfq3fAv9NE.wav",
        "captions": ["a man talks", "someone speaks"],
        "split": "test",
    }
    assert (rows[1]["start"], rows[1]["end"]) == (10.0, 20.0)
    assert rows[2]["path"] == "../media/103.wav"
    assert report.missing == 0


def test_pictures_have_all_their_captions(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    report, rows = _listed("coco", tmp_path / "a")
    assert [len(row["captions"]) for row in rows] == [5, 1]
    assert {row["split"] for row in rows} == {"val"}
    assert report.missing == 0
    assert report.left_out == {"no caption": 1}
    _, rows = _listed("karpathy", tmp_path / "b")
    assert [(Path(row["path"]).name, row["split"]) for row in rows] == [
        ("COCO_1.jpg", "train"),
        ("1000092795.jpg", "test"),
    ]


def test_folders_are_labels_with_depth_beside(tmp_path: Path) -> None:
    report, rows = _listed("folders", tmp_path)
    assert [(row["label"], row["split"], "depth" in row) for row in rows] == [
        ("bathroom", "test", True),
        ("living_room", "test", True),
        ("bathroom", "train", False),
    ]
    assert (report.labels, report.left_out) == (2, {"no class folder": 1})


def test_depth_may_lie_in_a_tree_of_its_own(tmp_path: Path) -> None:
    _picture(tmp_path / "test/rgb/office/1.jpg", 50)
    (tmp_path / "test/depth/office").mkdir(parents=True)
    Image.fromarray(np.full((40, 60), 700, np.uint16)).save(tmp_path / "test/depth/office/1.png")
    (entry,) = entries("folders", [tmp_path], Counter())
    assert (entry.label, entry.split, Path(entry.depth).parts[-3:]) == ("office", "test", ("depth", "office", "1.png"))


def test_files_of_one_name_in_many_folders_are_not_taken_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, name in enumerate(("attic", "cellar")):
        _picture(tmp_path / "rooms" / name / "1.png", 50 * n)
    monkeypatch.chdir(tmp_path)  # named by a relative path, too
    write_list("folders", [Path("rooms")], None, Path("list.jsonl"))
    rows = [json.loads(line) for line in Path("list.jsonl").read_text().splitlines()]
    assert [(row["path"], row["label"]) for row in rows] == [
        ("rooms/attic/1.png", "attic"),
        ("rooms/cellar/1.png", "cellar"),
    ]
    record = {
        "images": [{"filename": name, "split": "test", "sentences": [{"raw": "x"}]} for name in ("1.png", "2.png")]
    }
    _picture(tmp_path / "rooms/attic/2.png", 90)
    _sound(tmp_path / "rooms/attic/2.wav")
    report = write_list("karpathy", [_dump(tmp_path / "k.json", record)], Path("rooms"), Path("list.jsonl"))
    assert report.left_out == {"several files of its name": 1}
    assert json.loads(Path("list.jsonl").read_text())["path"] == "rooms/attic/2.png"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_files_are_refused_by_name(layout: str, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    for name, text in {"x.json": '{"other": []}', "y.json": "[1]", "z.json": "nonsense", "x.csv": "a,b\n1,2\n"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name if layout != "folders" else "folder"):
            write_list(layout, [tmp_path / name], tmp_path / "media", tmp_path / "list.jsonl")
    assert not (tmp_path / "list.jsonl").exists()


# --- to rows of a corpus --------------------------------------------------------------------------------------------


def _texts(corpus: Corpus, name: str) -> list[Any]:
    modality = load(name)
    return [read(modality, sample.parts[name]) for sample in corpus.samples([name]) if name in sample.parts]


@pytest.mark.parametrize("name", MINIATURES)
def test_a_list_becomes_rows_with_its_captions_questions_and_splits(name: str, tmp_path: Path) -> None:
    report, rows = _listed(name, tmp_path)
    overrides = ["modalities=[frames,audio,caption,qa,depth]", "depth.model=given"] if name == "folders" else []
    recipe = build_recipe("benchmark", overrides)
    built = build(recipe, [str(tmp_path / "lists/list.jsonl")], tmp_path / "corpus", workers=0)
    assert (built.corpus_samples, built.dropped) == (report.clips, {})
    corpus = open_corpus(tmp_path / "corpus")
    assert corpus.check() == []
    texts = [tuple(text.text for text in value.omni) for value in _texts(corpus, "caption")]
    assert sorted(texts) == sorted(tuple(row["captions"]) for row in rows if "captions" in row)
    asked = [[pair.question, pair.answer] for value in _texts(corpus, "qa") for pair in value.pairs]
    assert asked == [[one["question"], one["answer"]] for row in rows for one in row.get("questions", [])]
    table = corpus.table(["split", "facts", "start_ns", "end_ns", "frames", "audio"]).to_pylist()
    assert Counter(row["split"] for row in table) == report.splits
    labels = sorted(json.loads(row["facts"])["label"] for row in table if "label" in (row["facts"] or ""))
    assert labels == sorted(row["label"] for row in rows if "label" in row)
    assert all(row["frames"] or row["audio"] for row in table)
    timed = sorted((row["start"], row["end"]) for row in rows if "start" in row)
    found = sorted((row["start_ns"] / 1e9, row["end_ns"] / 1e9) for row in table if timed and row["start_ns"] >= 0)
    for start, end in timed:
        assert any(abs(one - start) < 0.15 and abs(other - end) < 0.15 for one, other in found), (start, end, found)


def test_given_depth_of_a_picture_is_in_metres(tmp_path: Path) -> None:
    test_a_list_becomes_rows_with_its_captions_questions_and_splits("folders", tmp_path)
    depths = _texts(open_corpus(tmp_path / "corpus"), "depth")
    assert sorted(float(np.nanmedian(depth.z)) for depth in depths) == pytest.approx([1.0, 1.5], abs=0.002)


def test_the_command_writes_a_list_and_says_what_is_missing(tmp_path: Path) -> None:
    files = _msrvtt(tmp_path)
    out = tmp_path / "list.jsonl"
    arguments = ["list", "msrvtt", *map(str, files), "--media", str(tmp_path / "media"), "--out", str(out), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["clips"], report["missing"], report["missing_names"]) == (3, 1, ["video3"])
    assert len(out.read_text().splitlines()) == 3
    assert CliRunner().invoke(app, ["list", "msrvt", *map(str, files)]).exit_code == 2
