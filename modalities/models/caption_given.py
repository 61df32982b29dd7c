"""Captions people already have: beside the video, in the source list, in its subtitle streams.

Looked for, beside `X.mp4`: `X.txt` (a caption a line), `X.json` (see `_from_json`), `X.srt` and `X.vtt` (the cues that
overlap the clip, as one text); in the source list, the columns `caption` and `captions`; in the file, its subtitles.
A caption that does not say which sense it describes counts as "omni": whoever wrote it could see and hear.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from omniloom.modalities.base import Cue, Footage
from omniloom.modalities.others import decode_text
from omniloom.modalities.sample import NS_PER_S, Clip

Kind = Literal["visual", "audio", "omni"]
KINDS: tuple[Kind, ...] = ("visual", "audio", "omni")

_MAX_FILE_BYTES = 16 << 20


def given(footage: Footage, subtitles: bool, faults: list[str]) -> Iterator[tuple[str, Mapping[Kind, Iterable[str]]]]:
    """(where it came from, texts by kind), place by place; a file that cannot be read is told of in `faults`."""
    yield "given:list", {"omni": _from_row(footage.row)}
    for ending, parse in _PARSERS.items():
        if not subtitles and ending in _TIMED:
            continue
        path = Path(footage.path).with_suffix(ending)
        try:
            yield f"given:{ending[1:]}", _parsed(path, parse, footage.clip)
        except ValueError as error:
            faults.append(f"{path.name}: {error}")
    if subtitles:
        yield "given:subtitles", {"omni": _joined(footage.subtitles)}


def _from_row(row: Mapping[str, str]) -> list[str]:
    """The columns `caption` (one text) and `captions` (one text, or a JSON list of them)."""
    texts = [row.get("caption") or ""]
    several = row.get("captions") or ""
    if several.lstrip().startswith("["):
        try:
            texts += [text for text in json.loads(several) if isinstance(text, str)]
        except ValueError:
            texts.append(several)  # a caption that begins with a bracket
    else:
        texts.append(several)
    return texts


def _parsed(path: Path, parse: Callable[[str], _Texts], clip: Clip) -> Mapping[Kind, list[str]]:
    """What a file beside the video says about the clip; nothing if there is no such file."""
    if not path.is_file():  # nor a pipe, nor a folder
        return {}
    status = path.stat()
    if status.st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{status.st_size} bytes is no caption file")
    texts = _parsed_once(str(path), parse, status.st_mtime_ns)
    if isinstance(texts, dict):
        return texts
    start, end = clip.start_ns / NS_PER_S, clip.end_ns / NS_PER_S
    return {"omni": _joined(cue for cue in texts if cue.start < end and cue.end > start)}


@lru_cache(maxsize=32)
def _parsed_once(path: str, parse: Callable[[str], _Texts], modified_ns: int) -> _Texts:
    """A long video asks for the same file clip after clip."""
    return parse(decode_text(Path(path).read_bytes()))


def _joined(cues: Iterable[Cue]) -> list[str]:
    """The cues as one text; a line that stays on screen over several cues counts once."""
    lines: list[str] = []
    for cue in cues:
        if cue.text and (not lines or lines[-1] != cue.text):
            lines.append(cue.text)
    return [" ".join(lines)] if lines else []


# --- formats --------------------------------------------------------------------------------------------------

_Texts = dict[Kind, list[str]] | tuple[Cue, ...]
"""Untimed texts by kind, or cues on the source's clock."""

_TIMING = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})\s*-->\s*(?:(\d+):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


def _from_lines(text: str) -> _Texts:
    return {"omni": text.splitlines()}


def _from_json(text: str) -> _Texts:
    """{"visual": [...], "audio": [...], "omni": [...]}, {"caption": "..."}, {"captions": [...]}, or a bare list."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    return texts_of(record)


def texts_of(record: Any) -> dict[Kind, list[str]]:
    """The texts of such a record. Raises ValueError if it is none."""
    if isinstance(record, list):
        record = {"captions": record}
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object, but {type(record).__name__}")
    record = cast("dict[str, Any]", record)
    texts: dict[Kind, list[str]] = {kind: _strings(record.get(kind)) for kind in KINDS}
    texts["omni"] += _strings(record.get("caption")) + _strings(record.get("captions"))
    return texts


def _strings(value: Any) -> list[str]:
    """A text, a list of texts, or a list of objects with a "text", as strings."""
    values = cast("list[Any]", value if isinstance(value, list) else [value])
    texts = [cast("dict[str, Any]", item).get("text") if isinstance(item, dict) else item for item in values]
    return [text for text in texts if isinstance(text, str)]


def _from_cues(text: str) -> _Texts:
    """SubRip and WebVTT alike: a line with "-->" begins a cue, an empty line ends it."""
    cues: list[Cue] = []
    lines = iter(text.splitlines())
    for line in lines:
        timing = _TIMING.search(line)
        if not timing:
            continue
        start, end = _seconds(timing.groups()[:4]), _seconds(timing.groups()[4:])
        words: list[str] = []
        for said in lines:
            if not said.strip():
                break
            words.append(html.unescape(_MARKUP.sub("", said)).strip())
        if end > start:
            cues.append(Cue(start, end, " ".join(word for word in words if word)))
    if not cues and text.strip() and text.strip() != "WEBVTT":
        raise ValueError("no line says when to show a text, like '00:00:01,000 --> 00:00:04,000'")
    return tuple(sorted(cues, key=lambda cue: cue.start))


def _seconds(fields: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = fields
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction}")


_PARSERS: Mapping[str, Callable[[str], _Texts]] = {
    ".json": _from_json,
    ".txt": _from_lines,
    ".srt": _from_cues,
    ".vtt": _from_cues,
}
_TIMED = {".srt", ".vtt"}
