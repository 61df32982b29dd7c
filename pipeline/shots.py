"""Where one shot ends and the next begins: what every detector offers, and how to get one by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from omniloom.pipeline.shots_builtin import Builtin

if TYPE_CHECKING:
    from omniloom.modalities.base import Ask

DetectorName = Literal["builtin", "pyscenedetect", "transnetv2"]


class ShotDetector(Protocol):
    """Tells cuts in a stream of thumbnails. It may look ahead: answers come late, but in order, one a picture.

    A hard cut is answered with True at the first picture of the new shot, a gradual change at its middle picture.
    Answers are local: they depend on at most `reach` pictures before and after, never on how many came before, so that
    a source decoded from its middle is cut where the whole of it would be.
    """

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the thumbnails it wants."""
        ...

    @property
    def pix_fmt(self) -> str:
        """Their format: "yuv444p", "rgb24" or "bgr24"."""
        ...

    @property
    def reach(self) -> int | None:
        """Pictures; None if an answer may depend on everything before it."""
        ...

    def picture(self, thumbnail: np.ndarray) -> list[bool]:
        """Takes uint8 (height, width, 3); gives the answers now certain: does a shot begin with that picture?"""
        ...

    def finish(self) -> list[bool]:
        """The answers still owed, once the last picture has come."""
        ...


def detector_of(name: DetectorName, ask: Ask) -> ShotDetector:
    """A new detector, for one source or one span of it.

    Args:
        name: "builtin" needs nothing; "pyscenedetect" and "transnetv2" need the extra `shots`.
        ask: how to reach a network, see `modalities/base.py`.

    Raises:
        ValueError: no such detector, or its package is not installed; says what to do.
    """
    from omniloom.pipeline import shots_others

    if name == "builtin":
        return Builtin()
    if name == "pyscenedetect":
        return shots_others.PySceneDetect()
    if name == "transnetv2":
        return shots_others.TransNetV2(ask)
    raise ValueError(f"a detector is builtin, pyscenedetect or transnetv2, got {name!r}")
