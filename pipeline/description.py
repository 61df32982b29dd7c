"""corpus.json: what a corpus is made of, read before anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omniloom.modalities import load, short_name
from omniloom.pipeline.commit import write_durably
from omniloom.pipeline.sidecar import FORMAT_VERSION, canonical_json

GEOMETRY = {
    "axes": "OpenCV camera: x right, y down, z forward",
    "points": "X = (u - cx) Z / fx, Y = (v - cy) Z / fy, in the unit of the depth",
    "normals": "camera frame, facing the camera; a horizontal flip negates x",
    "intrinsics": "after resize and crop",
    "time": "integer nanoseconds of presentation time; pts_ns count from the clip's start",
}
_FORMAT = "omniloom-corpus"


def describe(modalities: Sequence[str], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What corpus.json of a new corpus says. modalities: names or module paths; recipe: plain values."""
    return {
        "format": _FORMAT,
        "version": FORMAT_VERSION,
        "modalities": list(modalities),
        "suffixes": {short_name(name): load(name).suffix for name in modalities},
        "geometry": GEOMETRY,
        "recipe": json.loads(canonical_json(recipe)),
    }


def write_description(corpus: Path, description: Mapping[str, Any]) -> None:
    write_durably(corpus / "corpus.json", (json.dumps(description, indent=1, sort_keys=True) + "\n").encode())


def read_description(corpus: Path) -> dict[str, Any]:
    """What corpus.json says. Raises ValueError, naming the repair, if there is none, a damaged or a later one."""
    path = corpus / "corpus.json"
    try:
        description = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"{corpus} is no corpus, it has no corpus.json: make one with `omniloom build SOURCE --out {corpus}`"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or build the same recipe again") from error
    if not isinstance(description, dict) or cast("dict[str, Any]", description).get("format") != _FORMAT:
        raise ValueError(f"{path} describes no omniloom corpus: give the folder that `omniloom build` wrote")
    values = cast("dict[str, Any]", description)
    if values["version"] > FORMAT_VERSION:
        raise ValueError(
            f"{corpus} has format {values['version']}, this omniloom reads up to {FORMAT_VERSION}: upgrade omniloom"
        )
    return values


def differing_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Which settings of the recipe differ between two descriptions, or which other entries."""
    was, wanted = before.get("recipe", {}), now["recipe"]
    keys = sorted(name for name in {*was, *wanted} if was.get(name) != wanted.get(name))
    return keys or [name for name, value in now.items() if before.get(name) != value]
