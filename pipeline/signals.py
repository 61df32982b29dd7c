"""Cheap measures of a clip, for choosing among clips later: none of them needs a network or a second decode."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SignalsConfig:
    """What is measured of every clip."""

    sync: bool = True
    """Whether sound and picture change together: looks at every picture, so that all are decoded."""
    speech: bool = True
    """The share of the clip in which somebody speaks, by a voice detector."""
