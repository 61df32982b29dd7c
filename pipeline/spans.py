"""Parts of a long source that are built apart, and together give the samples that the whole would give."""

from __future__ import annotations

from dataclasses import dataclass

DAWN = -(2**62)
DUSK = 2**62
"""Times in nanoseconds before and after everything: where the first span begins and the last one ends."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The runs (grid cells, shots, sentences) of a source that begin in [start_ns, end_ns) of presentation time.

    A run belongs to the span in which it begins, however far it reaches beyond.
    """

    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.end_ns <= self.start_ns:
            raise ValueError(f"a span needs end_ns > start_ns, got {self.start_ns = }, {self.end_ns = }")
