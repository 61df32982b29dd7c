"""The nouns everything else speaks: a clip of a source, the sample made from it, the drop made instead."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, NewType

SourceId = NewType("SourceId", str)
"""sha256 of a source file's bytes, 64 hex digits."""

Fact = str | int | float | bool | None | list[int] | list[float] | list[str]
"""One recorded value about a part: what a sidecar column or a JSON field can hold."""

Stage = Literal["list", "probe", "decode", "clip", "extract", "write", "curate"]
"""The stage of the pipeline at which a path or a clip was rejected."""

NS_PER_S = 1_000_000_000


def to_ns(ticks: int, time_base: Fraction) -> int:
    """Nanoseconds of a timestamp, rounded to nearest, without floating point."""
    scaled = ticks * time_base.numerator * NS_PER_S
    return (2 * scaled + time_base.denominator) // (2 * time_base.denominator)


@dataclass(frozen=True, slots=True, order=True)
class Clip:
    """A training span: the half-open interval [start_ns, end_ns) of one source, in presentation time."""

    source: SourceId
    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.end_ns <= self.start_ns:
            raise ValueError(f"a clip needs end_ns > start_ns, got {self.start_ns = }, {self.end_ns = }")

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns

    @property
    def key(self) -> str:
        """Stable hash of the span, 32 hex digits: the same file and times give it on every machine."""
        return _digest(f"{self.source}:{self.start_ns}:{self.end_ns}")

    def key_under(self, recipe_hash: str) -> str:
        """Key of the sample that the recipe with this hash makes of the clip: 32 hex digits, no dots."""
        return _digest(f"{self.key}:{recipe_hash}")


@dataclass(frozen=True, slots=True)
class Part:
    """One modality of one sample as it lies on disk: encoded bytes and the facts needed to read them."""

    data: bytes
    facts: Mapping[str, Fact] = field(default_factory=dict[str, Fact])


@dataclass(frozen=True, slots=True)
class Sample:
    """A clip's aligned parts. A modality without a part is absent, never faked."""

    key: str
    clip: Clip
    path: str
    """Where the source lay when it was read; for people, never for identity."""
    time_base: str
    """The video stream's time base as the container states it, e.g. "1/12800"; "" without video."""
    parts: Mapping[str, Part]
    """By modality name."""
    facts: Mapping[str, Fact] = field(default_factory=dict[str, Fact])
    """About the sample as a whole: audio_offset_ns, av_check, language, split."""
    signals: Mapping[str, Fact] = field(default_factory=dict[str, Fact])
    """Cheap measures of the clip: motion, loudness, ... (`pipeline/signals.py`)."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A rejected path or clip. Rejection is data: it is counted, stored and listed, never lost."""

    path: str
    stage: Stage
    reason: str
    """A stable code in kebab-case, e.g. "no-video-frames"."""
    detail: str = ""
    source: SourceId | None = None
    clip: Clip | None = None


class Rejected(Exception):  # noqa: N818, it is an outcome rather than an error
    """Raised where media turns out to be bad; the pipeline turns it into a `Drop` with this reason."""

    def __init__(self, stage: Stage, reason: str, detail: str = "") -> None:
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage: Stage = stage
        self.reason = reason
        self.detail = detail


class LeftOut(Rejected):
    """Raised by a modality that does not believe what it found: the clip stays without it, and its facts say why."""


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
