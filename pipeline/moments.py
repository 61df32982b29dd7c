"""What a source list says of one file in several rows: which of its clips, and what belongs to each.

Columns `start` and `end`, in seconds of presentation time, make a row one of a clip; rows of the same clip, or without
times of the same file, are one, with the captions and the questions of all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from omniloom.modalities.sample import NS_PER_S, Clip, Drop
from omniloom.pipeline.spans import DAWN, DUSK

Row = Mapping[str, str]

CLIPS = "clips"
"""Of a merged row: JSON list of the rows of its clips, each with its `start` and `end`, in order of time."""
MAX_S = 3600.0


def merged(path: str, rows: Sequence[Row]) -> Iterator[Row | Drop]:
    """The one row of a file's rows, in which `CLIPS` are those that state times; and a Drop for each that is no use.

    Drops are of stage "list": bad-row (times that are none, or missing while other rows of the file have them),
    overlapping-clip (a clip that begins before the one before it has ended: the earlier stays).
    """
    if not any("start" in row or "end" in row for row in rows):
        yield _joined(rows)
        return
    clips: dict[tuple[float, float], list[Row]] = {}
    for row in rows:
        try:
            clips.setdefault(_times(row), []).append(row)
        except ValueError as error:
            yield Drop(path, "list", "bad-row", str(error))
    kept: list[Row] = []
    until = -math.inf
    for (start, end), same in sorted(clips.items()):
        if start < until:
            yield Drop(path, "list", "overlapping-clip", f"{start:g} to {end:g} s begins before {until:g} s")
            continue
        kept.append(_joined(same))
        until = end
    if kept:
        yield {CLIPS: json.dumps([dict(row) for row in kept])}


def has_clips(row: Row) -> bool:
    """Whether the list states times of clips of the file."""
    return CLIPS in row


def intervals(row: Row) -> list[tuple[int, int]]:
    """[start_ns, end_ns) of the clips that a merged row names, in order; of one that names none, the whole file."""
    if CLIPS not in row:
        return [(DAWN, DUSK)]
    return [tuple(round(second * NS_PER_S) for second in _times(clip)) for clip in _clips(row)]  # pyright: ignore[reportReturnType]


def row_of(row: Row, clip: Clip) -> Row:
    """What the list says of one clip: the row whose times it shares most of; edges of clips move to pictures."""
    if CLIPS not in row:
        return row

    def shared_ns(one: Row) -> float:
        start, end = _times(one)
        return min(end * NS_PER_S, clip.end_ns) - max(start * NS_PER_S, clip.start_ns)

    return max(_clips(row), key=shared_ns)


def _clips(row: Row) -> list[Row]:
    return json.loads(row[CLIPS])


def _times(row: Row) -> tuple[float, float]:
    """Raises ValueError saying what is wrong."""
    try:
        start, end = float(row["start"]), float(row["end"])
    except KeyError as error:
        raise ValueError(f"a clip needs start and end, got {_short(row)}") from error
    except ValueError as error:
        raise ValueError(f"start and end are seconds, got {row['start']!r} and {row['end']!r}") from error
    if not 0 <= start < end <= 24 * 3600 or end - start > MAX_S:
        raise ValueError(f"a clip ends after it starts, and lasts an hour at most, got {start:g} to {end:g} s")
    return start, end


def _joined(rows: Sequence[Row]) -> Row:
    """The first row, with the captions and the questions of all."""
    if len(rows) == 1:
        return rows[0]
    several = {
        "captions": list(dict.fromkeys(text for row in rows for text in captions_in(row))),
        "questions": [pair for row in rows for pair in questions_in(row)],
    }
    kept = {name: value for name, value in rows[0].items() if name not in {"caption", "question", "answer", *several}}
    return {**kept, **{name: json.dumps(values) for name, values in several.items() if values}}


def captions_in(row: Row) -> list[str]:
    """Of the columns `caption` (a text) and `captions` (a text, or a JSON list of texts)."""
    texts = [row.get("caption") or ""]
    several = row.get("captions") or ""
    listed = _list_of(several)
    texts += [several] if listed is None else [text for text in listed if isinstance(text, str)]
    return [text for text in texts if text.strip()]


def questions_in(row: Row) -> list[Any]:
    """Of the columns `question` and `answer`, and `questions` (a JSON list of {"question", "answer"})."""
    own = [{"question": row["question"], "answer": row["answer"]}] if {"question", "answer"} <= row.keys() else []
    return own + (_list_of(row.get("questions") or "") or [])


def _list_of(text: str) -> list[Any] | None:
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else None
    except ValueError:
        return None
    return found if isinstance(found, list) else None


def _short(row: Iterable[str]) -> str:
    return ", ".join(row)[:80]
