"""Where clips should begin and end so that no sentence is cut: planned from what is said, before any decoding.

All functions are pure and give intervals [start_ns, end_ns) of the source's presentation time, in order, none beginning
before the last has ended, `min_s` to `max_s` long wherever what is said allows it. What is shorter (a sentence wedged
between two long ones) is given all the same: the `Clipper` closes it as too short, so that nothing is lost silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from omniloom.modalities.sample import NS_PER_S
from omniloom.modalities.transcript import Transcript
from omniloom.pipeline.clips import ClipsConfig

Interval = tuple[int, int]

SENTENCE_PAUSE_NS = 6 * NS_PER_S // 10
"""Where a text has no full stops, a pause this long counts as one."""

REGION_PAUSE_NS = NS_PER_S // 2
"""Stretches of speech parted by less are one."""

REST_NS = 2 * NS_PER_S
"""A pause this long is never inside a clip: it ends every sentence, full stop or not."""

_SENTENCE_PAD_NS = NS_PER_S // 4
_REGION_PAD_NS = NS_PER_S // 5

_FULL_STOP = re.compile(r"[.!?…。！？।؟][\"'”’»)\]]*$")
_NO_FULL_STOP = re.compile(r"(?:^|\W)(?:[A-HJ-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|e\.g|i\.e)\.$")


class Timed(Protocol):
    """A cue: text on screen during [start_ns, end_ns) of the source's presentation time."""

    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...
    @property
    def text(self) -> str: ...


def from_transcript(heard: Iterable[Transcript], config: ClipsConfig) -> list[Interval]:
    """Whole sentences of transcripts whose times are seconds of the source.

    A sentence ends with a word that ends in a full stop, or the like; where none does, with a pause of
    `SENTENCE_PAUSE_NS`. One longer than `max_s` is cut in its longest pause, of equals at the end of a segment.
    """
    pieces: list[_Piece] = []
    for segment in (segment for transcript in heard for segment in transcript.segments):
        timed = segment.words or (segment,)
        for said in timed:
            text = segment.text if said is segment else said.word  # type: ignore[union-attr]
            pieces.append(_Piece(_ns(said.start), _ns(said.end), text, said is timed[-1]))
    return _plan(_sentences(_tidy(pieces)), config, _SENTENCE_PAD_NS)


def from_cues(cues: Iterable[Timed], config: ClipsConfig) -> list[Interval]:
    """Whole sentences of a subtitle stream; clips begin and end with a cue, as a sentence is taken to do."""
    pieces = [_Piece(cue.start_ns, cue.end_ns, cue.text, True) for cue in cues]
    return _plan(_sentences(_tidy(pieces)), config, _SENTENCE_PAD_NS)


def from_speech(regions: Iterable[tuple[float, float]], config: ClipsConfig) -> list[Interval]:
    """Regions of speech (start, end) in seconds of the source; what lasts longer than `max_s` is cut in a pause."""
    pieces = _tidy([_Piece(_ns(start), _ns(end), "", True) for start, end in regions])
    return _plan(_parted(pieces, REGION_PAUSE_NS), config, _REGION_PAD_NS)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is never cut unless it alone is too long: a word, a cue, a region of speech."""

    start_ns: int
    end_ns: int
    text: str
    last: bool
    """Of its segment."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """What stays whole in a clip, a sentence mostly, and how much of the pauses around it belongs to it."""

    start_ns: int
    end_ns: int
    before_ns: int
    after_ns: int

    @property
    def span(self) -> Interval:
        return self.start_ns - self.before_ns, self.end_ns + self.after_ns


# --- sentences ------------------------------------------------------------------------------------------------


def _tidy(pieces: Sequence[_Piece]) -> list[_Piece]:
    """In order of time; each ends where the next begins, or before."""
    ordered = sorted(pieces, key=lambda piece: (piece.start_ns, piece.end_ns))
    ends = [*(later.start_ns for later in ordered[1:]), *(last.end_ns for last in ordered[-1:])]
    return [
        _Piece(piece.start_ns, max(piece.start_ns, min(piece.end_ns, end_ns)), piece.text, piece.last)
        for piece, end_ns in zip(ordered, ends, strict=True)
    ]


def _sentences(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    for stretch in _parted(pieces, REST_NS):
        sentence: list[_Piece] = []
        for piece in stretch:
            sentence.append(piece)
            if _ends_sentence(piece.text):
                yield sentence
                sentence = []
        yield from _parted(sentence, SENTENCE_PAUSE_NS)


def _ends_sentence(text: str) -> bool:
    text = text.strip()
    return bool(_FULL_STOP.search(text)) and not _NO_FULL_STOP.search(text)


def _parted(pieces: Sequence[_Piece], pause_ns: int) -> Iterator[list[_Piece]]:
    """Pieces with shorter pauses between them, together."""
    group: list[_Piece] = []
    for piece in pieces:
        if group and piece.start_ns - group[-1].end_ns >= pause_ns:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _fitting(sentence: list[_Piece], least_ns: int, most_ns: int) -> Iterator[Interval]:
    """The sentence, or if it lasts too long parts of it, cut in the longest pauses."""
    waiting = [sentence]
    while waiting:
        part = waiting.pop()
        start_ns, end_ns = part[0].start_ns, part[-1].end_ns
        if end_ns - start_ns <= most_ns:
            yield start_ns, end_ns
        elif len(part) == 1:
            count = -((start_ns - end_ns) // most_ns)
            ticks = [start_ns + k * (end_ns - start_ns) // count for k in range(count + 1)]
            yield from pairwise(ticks)
        else:
            at = max(range(1, len(part)), key=lambda k: _worth(part, k, least_ns))
            waiting += [part[at:], part[:at]]


def _worth(part: list[_Piece], at: int, least_ns: int) -> tuple[bool, int, bool, int]:
    """How well a cut before piece `at` would do."""
    start_ns, end_ns, left, right = part[0].start_ns, part[-1].end_ns, part[at - 1], part[at]
    enough = left.end_ns - start_ns >= least_ns and end_ns - right.start_ns >= least_ns
    return enough, right.start_ns - left.end_ns, left.last, -abs(left.end_ns + right.start_ns - start_ns - end_ns)


# --- packing --------------------------------------------------------------------------------------------------


def _plan(sentences: Iterable[list[_Piece]], config: ClipsConfig, pad_ns: int) -> list[Interval]:
    least_ns, most_ns = round(config.min_s * NS_PER_S), round(config.max_s * NS_PER_S)
    spans = [span for sentence in sentences for span in _fitting(sentence, least_ns, most_ns)]
    groups = _packed(_padded(spans, pad_ns, most_ns), least_ns, most_ns)
    intervals = _widened([(group[0].span[0], group[-1].span[1]) for group in groups], least_ns)
    return [(start_ns, end_ns) for start_ns, end_ns in intervals if end_ns > start_ns]  # a word may last no time


def _padded(spans: Sequence[Interval], pad_ns: int, most_ns: int) -> list[_Unit]:
    """Edges lie in the middle of the pause on either side, `pad_ns` from what is said at most."""
    units: list[_Unit] = []
    for index, (start_ns, end_ns) in enumerate(spans):
        before_ns = (start_ns - spans[index - 1][1]) // 2 if index else start_ns - min(0, start_ns)
        after_ns = -((end_ns - spans[index + 1][0]) // 2) if index + 1 < len(spans) else pad_ns
        before_ns, after_ns = min(before_ns, pad_ns), min(after_ns, pad_ns)
        spare_ns = most_ns - (end_ns - start_ns)
        before_ns = min(before_ns, max(spare_ns // 2, spare_ns - after_ns))
        units.append(_Unit(start_ns, end_ns, before_ns, min(after_ns, spare_ns - before_ns)))
    return units


def _packed(units: Sequence[_Unit], least_ns: int, most_ns: int) -> list[list[_Unit]]:
    """As many units as fit in each clip; one that is left over too short takes some from the clip before."""
    groups: list[list[_Unit]] = []
    for unit in units:
        if groups and _fits([*groups[-1], unit], most_ns):
            groups[-1].append(unit)
            continue
        groups.append([unit])
    for earlier, later in pairwise(groups):
        while _length(later) < least_ns and len(earlier) > 1:
            if not _fits([earlier[-1], *later], most_ns) or _length(earlier[:-1]) < least_ns:
                break
            later.insert(0, earlier.pop())
    return groups


def _fits(group: Sequence[_Unit], most_ns: int) -> bool:
    rests = any(later.start_ns - earlier.end_ns >= REST_NS for earlier, later in pairwise(group))
    return not rests and _length(group) <= most_ns


def _length(group: Sequence[_Unit]) -> int:
    return group[-1].span[1] - group[0].span[0]


def _widened(intervals: list[Interval], least_ns: int) -> list[Interval]:
    """What is too short takes from the silence around it, as far as there is any."""
    result: list[Interval] = []
    for index, (start_ns, end_ns) in enumerate(intervals):
        lack_ns = max(0, least_ns - (end_ns - start_ns))
        before_ns = start_ns - (result[-1][1] if result else min(0, start_ns))
        after_ns = intervals[index + 1][0] - end_ns if index + 1 < len(intervals) else lack_ns
        before_ns = min(before_ns, max(lack_ns // 2, lack_ns - after_ns))
        result.append((start_ns - before_ns, end_ns + min(after_ns, lack_ns - before_ns)))
    return result


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
