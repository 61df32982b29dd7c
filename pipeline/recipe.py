"""What a build is asked to make: the one object that every stage of the pipeline reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from omniloom.modalities import load, short_name
from omniloom.modalities.base import Modality, ModelRef
from omniloom.modalities.models import vad
from omniloom.pipeline.clips import ClipsConfig
from omniloom.pipeline.probe import StreamsConfig
from omniloom.pipeline.sidecar import FORMAT_VERSION
from omniloom.pipeline.signals import SignalsConfig

DEFAULT_MODALITIES = ("frames", "video", "audio", "transcript", "caption", "depth", "normal", "points")


@dataclass(frozen=True)
class BuildRecipe:
    """A build, fully resolved. Equal recipes make byte-identical samples of equal sources."""

    modalities: tuple[str, ...] = DEFAULT_MODALITIES
    """Names in this package, or module paths of others ("mylab.thermal")."""
    require: tuple[str, ...] = ("frames",)
    """A clip that lacks one of these is dropped."""
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    streams: StreamsConfig = field(default_factory=StreamsConfig)
    signals: SignalsConfig = field(default_factory=SignalsConfig)
    sections: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The `Config` of each modality, by short name; a missing one means its defaults."""
    test_fraction: float = 0.1
    """Share of the sources held out, by a hash of the source, where a source list names no split."""

    def __post_init__(self) -> None:
        chosen = {short_name(name) for name in self.modalities}
        for name in self.modalities:
            lacking = [need for need in load(name).needs if need not in chosen]
            if lacking:
                raise ValueError(
                    f"modality {name!r} is made from {', '.join(lacking)}: add it to modalities, or leave {name!r} out"
                )
        unknown = [name for name in self.require if name not in chosen]
        if unknown:
            raise ValueError(
                f"require names {', '.join(unknown)}, which is not among modalities: {', '.join(sorted(chosen))}"
            )
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction is a share in [0, 1), got {self.test_fraction}")
        if self.clips.by == "transcript" and "transcript" not in chosen:
            raise ValueError(
                "clips.by=transcript cuts by what is said: add transcript to modalities, or use clips.by=speech"
            )
        defaults = {short_name(name): load(name).Config() for name in self.modalities}
        object.__setattr__(self, "sections", {**defaults, **self.sections})

    def by_name(self) -> dict[str, Modality]:
        """The modalities, each after the ones it needs."""
        return in_order(self.modalities)

    def models(self) -> tuple[ModelRef, ...]:
        """Every network the build will ask, each once."""
        refs = [ref for name, modality in self.by_name().items() for ref in modality.models(self.sections[name])]
        if self.signals.speech or self.clips.by == "speech":
            refs.append(vad.reference())
        if self.clips.needs_cuts and self.clips.detector == "transnetv2":
            refs.append(ModelRef("transnetv2", "embedded"))
        return tuple(dict.fromkeys(refs))

    def params_hash(self, name: str) -> str:
        """Of one modality's section, 12 hex digits: the sidecar's `params`."""
        return params_hash(self.sections[name])

    @property
    def hash(self) -> str:
        """Of everything that decides what a sample holds; where the corpus lies and how fast it is made do not."""
        return hash_of(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for corpus.json."""
        return {
            "format": FORMAT_VERSION,
            "modalities": list(self.modalities),
            "require": list(self.require),
            "clips": asdict(self.clips),
            "streams": asdict(self.streams),
            "signals": asdict(self.signals),
            "test_fraction": self.test_fraction,
            **{name: asdict(self.sections[name]) for name in sorted(map(short_name, self.modalities))},
        }


def reads(modality: Modality) -> tuple[str, ...]:
    """Modalities whose values `extract` looks at: those it needs, and those it `uses` where the clip has them."""
    return (*modality.needs, *getattr(modality, "uses", ()))


def in_order(modalities: Sequence[str]) -> dict[str, Modality]:
    """Modalities by their short names, each after those of them that it reads. Raises ValueError for a circle."""
    waiting = {short_name(name): load(name) for name in modalities}
    ordered: dict[str, Modality] = {}
    while waiting:
        ready = [name for name, modality in waiting.items() if not any(other in waiting for other in reads(modality))]
        if not ready:
            raise ValueError(f"modalities need each other in a circle: {', '.join(sorted(waiting))}")
        for name in ready:
            ordered[name] = waiting.pop(name)
    return ordered


def params_hash(section: Any) -> str:
    """Of one modality's `Config`, 12 hex digits: the `params` of what is made with it."""
    return hash_of(asdict(section))


def recipe_from(values: Mapping[str, Any]) -> BuildRecipe:
    """The inverse of `BuildRecipe.as_dict`."""
    modalities: Sequence[str] = values["modalities"]
    return BuildRecipe(
        modalities=tuple(modalities),
        require=tuple(values["require"]),
        clips=ClipsConfig(**values["clips"]),
        streams=StreamsConfig(**values["streams"]),
        signals=SignalsConfig(**values["signals"]),
        test_fraction=values["test_fraction"],
        sections={short_name(name): load(name).Config(**values[short_name(name)]) for name in modalities},
    )


def hash_of(values: Any) -> str:
    """Of plain values, 12 hex digits."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()
