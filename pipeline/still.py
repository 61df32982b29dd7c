"""A picture as a source: one clip of one frame, which has no length, no sound and no neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omniloom.modalities import load
from omniloom.modalities.base import Frames
from omniloom.modalities.others import decode_picture
from omniloom.modalities.sample import Clip, Rejected
from omniloom.pipeline.gather import Gathered
from omniloom.pipeline.picture import Scaler

if TYPE_CHECKING:
    from omniloom.pipeline.recipe import BuildRecipe
    from omniloom.pipeline.sources import Source

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""What is taken for a picture. Folders are not searched for them: beside videos they are covers and previews."""


def is_still(path: str) -> bool:
    """Whether the file is named as a picture is."""
    return Path(path).suffix.lower() in SUFFIXES


def still(source: Source, recipe: BuildRecipe) -> Gathered:
    """The picture, upright and scaled as frames are, as the one clip [0, 1) ns of its source.

    Raises Rejected("decode", "damaged-picture").
    """
    import av

    try:
        rgb = decode_picture(Path(source.path).read_bytes())
    except ValueError as error:
        raise Rejected("decode", "damaged-picture", str(error)) from error
    settings: Any = recipe.sections["frames"] if "frames" in recipe.sections else load("frames").Config()
    scaler, frame = Scaler(), av.VideoFrame.from_ndarray(rgb, format="rgb24")
    shown = scaler.rgb(frame, scaler.size(frame, settings.short_side))
    return Gathered(
        clip=Clip(source.id, 0, 1),
        time_base="",
        frames=Frames(shown[None], np.zeros(1, np.int64)),
        audio=None,
        recorders={},
        cues=(),
        facts={
            "duration_ns": 1,
            "audio_offset_ns": None,
            "av_check": None,
            "width": rgb.shape[1],
            "height": rgb.shape[0],
        },
        heard=None,
        listener=None,
        luma=None,
        tags={},
    )
