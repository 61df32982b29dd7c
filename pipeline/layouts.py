"""The annotation files of the field's benchmarks, read as one thing: which file, which part of it, what is said of it.

    msrvtt     .json of {"videos": [{"video_id", "split"}], "sentences": [{"video_id", "caption"}]}; with a .csv
               of "video_id,sentence" (1k-A) those are the test, one caption each, and the others train; with a .csv of
               "video_id" alone only its videos train
    vatex      [{"videoID": "<youtube id>_000012_000022", "enCap": [...]}]
    youcook2   {"database": {"<youtube id>": {"subset", "annotations": [{"id", "segment": [s, s], "sentence"}]}}}
    didemo     [{"video", "description", "times"}], a video's descriptions as one paragraph; or [{"video", "caption"}]
    audiocaps  .csv of "audiocap_id,youtube_id,start_time,caption", ten seconds each
    clotho     .csv of "file_name,caption_1,...,caption_5"
    coco       {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    karpathy   {"images": [{"filename", "filepath", "split", "sentences": [{"raw"}]}]}: COCO, Flickr30k as split there
    msrvtt-qa  [{"video_id": 7010, "question", "answer"}], about video7010
    msvd-qa    the same about vid7, with youtube_mapping.txt ("<youtube id>_<start>_<end> vid7") if files are named so
    folders    [split/]class/name.png: the folder is the label; depth in name.depth.png, name_depth.png or, where the
               path has a folder rgb, images or image, under depth in its place

Splits are called train, val and test, whatever the layout calls them; where records name none, the file's name does.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniloom.pipeline.sources import MEDIA_SUFFIXES
from omniloom.pipeline.still import SUFFIXES as PICTURES

Times = tuple[float, float]
"""Start and end, in seconds."""
LeftOut = Counter[str]
"""Annotations that say nothing of use, by what they lack."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of one clip."""

    names: tuple[str, ...]
    """What its file may be called, best first: with or without folders, with or without a suffix."""
    sources: tuple[str, ...] = ()
    """What the file of the video that it is cut from may be called, if there is none of its own."""
    times: Times | None = None
    """Of the clip in that video."""
    captions: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    """(question, answer)."""
    split: str = ""
    label: str = ""
    depth: str = ""
    """File of its depth."""


Reader = Callable[[Sequence[Path], LeftOut], Iterator[Entry]]


def entries(layout: str, annotations: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
    """What the annotation files say, clip by clip; what says nothing is counted in `left_out`.

    Raises ValueError, naming file and repair, for an unknown layout and for files that are not laid out like that.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: it is one of {', '.join(LAYOUTS)}")
    try:
        yield from LAYOUTS[layout](annotations, left_out)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__} {error}"
        raise ValueError(
            f"{', '.join(map(str, annotations))}: not laid out as {layout} ({what}); see docs/evaluation.md"
        ) from error


# --- videos ---------------------------------------------------------------------------------------------------


def _msrvtt(files: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
    splits: dict[str, str] = {}
    captions: dict[str, list[str]] = {}
    test: dict[str, list[str]] = {}
    train: set[str] = set()
    for file in files:
        if file.suffix.lower() == ".csv":
            for row in _csv(file, "video_id"):
                if "sentence" in row:
                    test.setdefault(row["video_id"], []).append(row["sentence"])
                else:
                    train.add(row["video_id"])
        else:
            record = _json(file)
            splits |= {video["video_id"]: _split(str(video["split"])) for video in record["videos"]}
            for sentence in record["sentences"]:
                captions.setdefault(sentence["video_id"], []).append(sentence["caption"])
    for name in dict.fromkeys([*splits, *test]):
        if name in test:
            yield Entry((name,), captions=tuple(test[name]), split="test")
        elif train and name not in train:
            left_out["not in a .csv"] += 1
        elif name not in captions:
            left_out["no caption"] += 1
        else:
            yield Entry((name,), captions=tuple(captions[name]), split="train" if test else splits[name])


def _vatex(files: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
    for file in files:
        for record in _json(file):
            name, captions = record["videoID"], tuple(record.get("enCap") or ())
            match = re.fullmatch(r"(.+)_(\d{6})_(\d{6})", name)
            if not captions:
                left_out["no caption"] += 1
                continue
            times = (float(match[2]), float(match[3])) if match else None
            yield Entry((name,), (match[1],) if match else (), times, captions, split=_split(file.name))


def _youcook2(files: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
    for file in files:
        for name, video in _json(file)["database"].items():
            segments: list[Any] = video.get("annotations") or []
            for number, segment in enumerate(segments):
                if not segment.get("sentence"):
                    left_out["no caption"] += 1
                    continue
                start, end = (float(second) for second in segment["segment"])
                own = f"{name}_{segment.get('id', number)}"
                yield Entry((own,), (name,), (start, end), (segment["sentence"],), split=_split(video["subset"]))


def _didemo(files: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
    for file in files:
        said: dict[str, list[str]] = {}
        for record in _json(file):
            words = record["description"] if "description" in record else record["caption"]
            said.setdefault(record["video"], []).extend(words if isinstance(words, list) else [words])
        for name, sentences in said.items():
            paragraph = " ".join(sentence.strip() for sentence in sentences).strip()
            if not paragraph:
                left_out["no caption"] += 1
                continue
            yield Entry((name,), captions=(paragraph,), split=_split(file.name))


def _asked(name_of: Callable[[int, Mapping[str, str]], tuple[str, ...]]) -> Reader:
    """MSRVTT-QA and MSVD-QA: a record a question."""

    def read(files: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
        mapping: dict[str, str] = {}
        for file in files:
            if file.suffix.lower() == ".txt":
                mapping |= {line.split()[1]: line.split()[0] for line in _text(file).splitlines() if line.strip()}
        for file in files:
            if file.suffix.lower() == ".txt":
                continue
            asked: dict[int, list[tuple[str, str]]] = {}
            for record in _json(file):
                asked.setdefault(record["video_id"], []).append((record["question"], str(record["answer"])))
            if not asked:
                left_out["no question"] += 1
            for number, pairs in asked.items():
                yield Entry(name_of(number, mapping), questions=tuple(pairs), split=_split(file.name))

    return read


def _msrvtt_name(number: int, _: Mapping[str, str]) -> tuple[str, ...]:
    return (f"video{number}",)


def _msvd_name(number: int, mapping: Mapping[str, str]) -> tuple[str, ...]:
    name = f"vid{number}"
    return (mapping[name], name) if name in mapping else (name,)


# --- sounds ---------------------------------------------------------------------------------------------------

_AUDIOCAPS_S = 10


def _audiocaps(files: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
    for file in files:
        said: dict[tuple[str, float], list[str]] = {}
        ids: dict[tuple[str, float], list[str]] = {}
        for row in _csv(file, "youtube_id", "start_time", "caption"):
            clip = row["youtube_id"], float(row["start_time"])
            if not row["caption"].strip():
                left_out["no caption"] += 1
                continue
            said.setdefault(clip, []).append(row["caption"])
            ids.setdefault(clip, []).append(row.get("audiocap_id", ""))
        for (name, start), captions in said.items():
            end = start + _AUDIOCAPS_S
            cut = (f"{start:g}", f"{start:g}_{end:g}", f"{1000 * start:.0f}", f"{1000 * start:.0f}_{1000 * end:.0f}")
            own = [f"{letter}{name}_{part}" for part in cut for letter in ("", "Y")]
            numbers = [number for number in ids[name, start] if number]
            whole = (name, f"Y{name}")
            yield Entry((*own, *numbers), whole, (start, end), tuple(captions), split=_split(file.name))


def _clotho(files: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
    for file in files:
        for row in _csv(file, "file_name", "caption_1"):
            captions = tuple(row[name] for name in sorted(row) if re.fullmatch(r"caption_\d+", name) and row[name])
            if not captions:
                left_out["no caption"] += 1
                continue
            yield Entry((row["file_name"],), captions=captions, split=_split(file.name))


# --- pictures -------------------------------------------------------------------------------------------------


def _coco(files: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
    for file in files:
        record = _json(file)
        captions: dict[int, list[str]] = {}
        for one in record["annotations"]:
            captions.setdefault(one["image_id"], []).append(one["caption"])
        for picture in record["images"]:
            if picture["id"] not in captions:
                left_out["no caption"] += 1
                continue
            yield Entry((picture["file_name"],), captions=tuple(captions[picture["id"]]), split=_split(file.name))


def _karpathy(files: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
    for file in files:
        for picture in _json(file)["images"]:
            captions = tuple(sentence["raw"] for sentence in picture["sentences"])
            if not captions:
                left_out["no caption"] += 1
                continue
            name = picture["filename"]
            inside = f"{picture['filepath']}/{name}" if picture.get("filepath") else name
            yield Entry((inside, name), captions=captions, split=_split(picture["split"]))


_BESIDE = re.compile(r"[._]depth$", re.IGNORECASE)


def _folders(folders: Sequence[Path], left_out: LeftOut) -> Iterator[Entry]:
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: give the folder that holds a folder for each class")
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES | MEDIA_SUFFIXES)
        for file in files:
            inside = file.relative_to(folder)
            if _BESIDE.search(file.stem) or "depth" in (part.lower() for part in inside.parts[:-1]):
                continue  # not a picture of its own
            if len(inside.parts) < 2:
                left_out["no class folder"] += 1
                continue
            above = inside.parts[:-2]
            split = next((_split(part) for part in above if _is_split(part)), "")
            depth = next((path for path in _depths(folder, inside) if path.is_file()), None)
            yield Entry((str(file.absolute()),), split=split, label=file.parent.name, depth=str(depth or ""))


def _depths(folder: Path, inside: Path) -> Iterator[Path]:
    file = folder / inside
    yield file.with_name(f"{file.stem}.depth.png")
    yield file.with_name(f"{file.stem}_depth.png")
    for place, part in enumerate(inside.parts[:-1]):
        if part.lower() in {"rgb", "images", "image"}:
            yield folder.joinpath(*inside.parts[:place], "depth", *inside.parts[place + 1 :]).with_suffix(".png")


# --- files ----------------------------------------------------------------------------------------------------

_TRAIN, _VAL, _TEST = ("train", "development", "restval"), ("val",), ("test", "eval")
"""Beginnings of words; `restval` of Karpathy's COCO is trained on, `development` and `evaluation` are Clotho's."""


def _split(word: str) -> str:
    """train, val or test, as the name of a split or of a file says; "" if it does not."""
    for part in re.split(r"[^a-z]+", word.lower()):
        for name, beginnings in (("train", _TRAIN), ("val", _VAL), ("test", _TEST)):
            if part.startswith(beginnings):
                return name
    return ""


def _is_split(folder: str) -> bool:
    return folder.lower() in {"train", "training", "val", "valid", "validation", "test", "testing"}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error


def _json(file: Path) -> Any:
    text = _text(file)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: no JSON: {error}") from error


def _csv(file: Path, *needed: str) -> Iterator[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(_text(file), newline=""))
    lacking = [name for name in needed if name not in (rows.fieldnames or ())]
    if lacking:
        raise ValueError(f"{file}: no column {', '.join(lacking)} in its first line")
    for row in rows:
        yield {name: value or "" for name, value in row.items() if isinstance(value, str | None)}


LAYOUTS: Mapping[str, Reader] = {
    "msrvtt": _msrvtt,
    "vatex": _vatex,
    "youcook2": _youcook2,
    "didemo": _didemo,
    "audiocaps": _audiocaps,
    "clotho": _clotho,
    "coco": _coco,
    "karpathy": _karpathy,
    "msrvtt-qa": _asked(_msrvtt_name),
    "msvd-qa": _asked(_msvd_name),
    "folders": _folders,
}
