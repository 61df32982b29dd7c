"""Writes the source list of a benchmark: what its annotations say, beside the files that are there."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omniloom.modalities.sample import NS_PER_S, Rejected
from omniloom.pipeline.layouts import Entry, Times, entries
from omniloom.pipeline.probe import probe
from omniloom.pipeline.sources import MEDIA_SUFFIXES
from omniloom.pipeline.still import SUFFIXES as PICTURES

_NAMED = 20
_SLACK_S = 0.5
SOUNDS = frozenset(
    {".aac", ".aif", ".aiff", ".caf", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"}
)
"""Of media that have no picture."""


@dataclass(slots=True)
class ListReport:
    """What a list holds, and what it could not hold."""

    clips: int = 0
    captions: int = 0
    questions: int = 0
    splits: dict[str, int] = field(default_factory=dict[str, int])
    """Clips by split; "" of those whose split a build decides."""
    labels: int = 0
    """Classes."""
    missing: int = 0
    """Clips that are annotated, and whose file is not there."""
    missing_names: list[str] = field(default_factory=list[str])
    """The first of them."""
    left_out: dict[str, int] = field(default_factory=dict[str, int])
    """Annotations that say nothing of use, by what they lack; and those whose file could be any of several."""
    out: str = ""


class Several(Exception):  # noqa: N818, it is an outcome rather than an error
    """Raised where a name is that of several files in different folders: nobody can tell which is meant."""


class Media:
    """The media files under a folder, found by name, by name without suffix, or by the end of their path.

    Of files beside each other that differ in suffix alone a movie is taken before a picture, a picture before a sound.
    """

    def __init__(self, folder: Path) -> None:
        self._by_name: dict[str, list[Path]] = {}
        known = MEDIA_SUFFIXES | PICTURES
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: give the folder of the media with --media")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in known and path.is_file():
                inside = path.relative_to(folder)
                for name in {path.name, path.stem, inside.as_posix(), "/".join(inside.parts[-2:])}:
                    self._by_name.setdefault(name, []).append(path)

    def find(self, names: Iterable[str]) -> Path | None:
        """The file of the first name that there is one of; one whose suffix is another is the same file.

        Raises Several.
        """
        for name in names:
            if Path(name).is_absolute():
                if Path(name).is_file():
                    return Path(name)
                continue
            found = self._by_name.get(name) or self._by_name.get(_stem(name)) or ()
            if len({path.parent for path in found}) > 1:
                raise Several
            if found:
                return min(found, key=lambda path: (path.suffix.lower() in SOUNDS, path.suffix.lower() in PICTURES))
        return None


def write_list(layout: str, annotations: Sequence[Path], media: Path | None, out: Path) -> ListReport:
    """Writes the JSON lines that `omniloom build` takes, one a clip, for every annotated clip whose file is there.

    media: folder of the files, searched through; default: of `folders` the folders themselves. A clip whose own file is
    not there is taken from the file of the video that it was cut from, at the annotated times, unless that file ends
    before the clip does: then it is taken for the clip itself. Raises ValueError, naming the repair, for annotations of
    another layout, and if there is no file of any clip.
    """
    if not annotations:
        raise ValueError("give the annotation files of the layout")
    if media is None and layout != "folders":
        raise ValueError(f"layout {layout} names files: give the folder that they lie in with --media")
    left_out = Counter[str]()
    files = Media(media or annotations[0])
    report = ListReport(out=str(out))
    lines: list[str] = []
    labels: set[str] = set()
    splits = Counter[str]()
    for entry in entries(layout, annotations, left_out):
        try:
            path, times = _placed(entry, files)
        except Several:
            left_out["several files of its name"] += 1
            continue
        if path is None:
            report.missing += 1
            if len(report.missing_names) < _NAMED:
                report.missing_names.append(entry.names[0])
            continue
        lines.append(json.dumps(_row(entry, path, times, out), ensure_ascii=False))
        report.captions += len(entry.captions)
        report.questions += len(entry.questions)
        splits[entry.split] += 1
        labels |= {entry.label} - {""}
    report.clips, report.labels = len(lines), len(labels)
    report.splits, report.left_out = dict(sorted(splits.items())), dict(sorted(left_out.items()))
    if not lines:
        tried = f": {report.missing} are annotated, such as {report.missing_names[0]}" if report.missing else ""
        unclear = f"; left out: {report.left_out}" if report.left_out else ""
        raise ValueError(f"no file of {layout} is under {media or annotations[0]}{tried}{unclear}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return report


def _placed(entry: Entry, files: Media) -> tuple[Path | None, Times | None]:
    """The clip's file, and where in it the clip lies if that is not all of it."""
    path = files.find(entry.names)
    if path is not None or not entry.sources:
        return path, None
    path = files.find(entry.sources)
    if path is None or entry.times is None:
        return path, None
    return path, None if _ends_before(path, entry.times[1]) else entry.times


def _ends_before(path: Path, second: float) -> bool:
    try:
        duration_ns = probe(str(path.absolute())).duration_ns
    except Rejected:
        return False  # the build says why
    return duration_ns is not None and duration_ns < (second - _SLACK_S) * NS_PER_S


def _row(entry: Entry, path: Path, times: Times | None, out: Path) -> dict[str, Any]:
    def from_list(file: Path | str) -> str:
        return os.path.relpath(file, out.parent)

    row: dict[str, Any] = {"path": from_list(path)}
    if times is not None:
        row |= {"start": times[0], "end": times[1]}
    if entry.captions:
        row["captions"] = list(entry.captions)
    if entry.questions:
        row["questions"] = [{"question": question, "answer": answer} for question, answer in entry.questions]
    if entry.depth:
        row["depth"] = from_list(entry.depth)
    return row | {name: value for name, value in (("split", entry.split), ("label", entry.label)) if value}


def _stem(name: str) -> str:
    """The name without a suffix that media have: dots of other names are their own."""
    path = Path(name)
    return path.stem if path.suffix.lower() in MEDIA_SUFFIXES | PICTURES else path.name
