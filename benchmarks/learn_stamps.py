"""Tux Paint's stamps as raw clips: real pictures, captions by people, real sounds.

Debian's `tuxpaint-stamps-default` (GPL-2, 161 MB) has a caption beside each picture and beside some a sound. Each stamp
becomes short films of itself, drifting and growing over a background of its own. Split by caption: a test caption is
the caption of no training clip. Of a stamp's sounds only the effect is heard, the badger's bark, never the spoken
description, which says the caption; `spoken` adds it as a choice of its own. Drawings that exist as SVG only are left
out, mirror images too, and the sounds of symbols, which are their names, spoken.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PACKAGE = "tuxpaint-stamps-default"
INSIDE = "usr/share/tuxpaint/stamps"
SECONDS, RATE, PX, SOUND_HZ = 2.0, 8, 128, 16_000
TEST_CAPTIONS = 150
_SPOKEN_SOUNDS = ("symbols",)
_SEED = 7


@dataclass(frozen=True, slots=True)
class Stamp:
    """One picture with what people say of it and what it sounds like."""

    picture: Path
    caption: str
    effect: Path | None
    description: Path | None
    """The caption, spoken in English."""


def stamps_folder(given: Path | None, unpacked: Path) -> Path:
    """Where the stamps lie: as given, as unpacked there, or as installed.

    Raises FileNotFoundError, naming the package.
    """
    places = [given / INSIDE, given] if given else [unpacked / INSIDE, Path("/") / INSIDE]
    for place in places:
        if place and place.is_dir() and next(place.rglob("*.png"), None):
            return place
    raise FileNotFoundError(
        f"no stamps in {places[0]}: apt-get download {PACKAGE} && dpkg-deb -x {PACKAGE}_*.deb {unpacked},"
        " or say where they are with --stamps DIR"
    )


def find_stamps(folder: Path) -> list[Stamp]:
    """Every stamp that has a picture and an English caption, in the order of their paths."""
    found: list[Stamp] = []
    for picture in sorted(folder.rglob("*.png")):
        text = picture.with_suffix(".txt")
        if picture.stem.endswith("_mirror") or not text.is_file():
            continue
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines and lines[0].strip():
            says_its_name = picture.relative_to(folder).parts[0] in _SPOKEN_SOUNDS
            effect = None if says_its_name else _beside(picture, "")
            found.append(Stamp(picture, lines[0].strip(), effect, _beside(picture, "_desc")))
    return found


def split_by_caption(stamps: list[Stamp], test_captions: int) -> tuple[list[Stamp], list[Stamp]]:
    """Training stamps, and one stamp of each of the test captions; other stamps of those captions are left out."""
    captions = sorted({stamp.caption.lower() for stamp in stamps})
    if len(captions) <= test_captions:
        raise ValueError(f"{len(captions)} captions are too few to keep {test_captions} for the test")
    drawn = np.random.default_rng(_SEED).permutation(len(captions))[:test_captions]
    held = {captions[index] for index in drawn}
    test: dict[str, Stamp] = {}
    for stamp in stamps:
        if stamp.caption.lower() in held:
            test.setdefault(stamp.caption.lower(), stamp)
    return [stamp for stamp in stamps if stamp.caption.lower() not in held], [test[caption] for caption in sorted(held)]


def make_clips(
    stamps: Mapping[str, list[Stamp]], folder: Path, films: Mapping[str, int], *, spoken: bool = False
) -> Path:
    """Writes films of every stamp by split, with captions beside them, and the list of them, which is returned."""
    listed = folder / "sources.csv"
    if listed.exists():
        return listed
    rows: list[tuple[str, str]] = []
    for split, chosen in stamps.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number, stamp in enumerate(chosen):
            for film in range(films[split]):
                name = f"{split}/{number:04d}_{film}.mp4"
                seeds = [_SEED, split == "test", number, film]
                write_film(stamp, folder / name, np.random.default_rng(seeds), spoken=spoken)
                (folder / name).with_suffix(".json").write_text(json.dumps({"captions": [stamp.caption]}))
                rows.append((name, split))
    part = folder / "sources.csv.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split"])
        writer.writerows(rows)
    part.replace(listed)
    return listed


def write_film(stamp: Stamp, path: Path, rng: np.random.Generator, *, spoken: bool = False) -> None:
    """Two seconds of the stamp over a background, H.264, with AAC if it has a sound."""
    import av

    pictures = _pictures(stamp, rng)
    parts = [stamp.effect, stamp.description if spoken else None]
    heard = [_sound(part) for part in parts if part is not None]
    # By its absolute path: names such as "http:x.mp4" mean something else to FFmpeg.
    with av.open(str(path.resolve()), "w") as file:
        video = file.add_stream("libx264", rate=RATE, options={"crf": "18", "preset": "veryfast"})
        video.width = video.height = PX
        video.pix_fmt = "yuv420p"
        audio = file.add_stream("aac", rate=SOUND_HZ, layout="mono") if heard else None
        for picture in pictures:
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())
        if audio is not None:
            mixed = np.clip(np.sum(heard, 0), -1, 1).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(mixed[None], format="fltp", layout="mono")
            frame.sample_rate = SOUND_HZ
            file.mux(audio.encode(frame))
            file.mux(audio.encode())


def _beside(picture: Path, ending: str) -> Path | None:
    for suffix in (".ogg", ".wav"):
        path = picture.with_name(f"{picture.stem}{ending}{suffix}")
        if path.is_file():
            return path
    return None


def _sound(path: Path) -> np.ndarray:
    """Float32 (SECONDS at SOUND_HZ,): mono, its beginning, as loud as the others."""
    import av

    pieces: list[np.ndarray] = []
    with av.open(str(path.resolve())) as file:
        resampler = av.AudioResampler("flt", "mono", SOUND_HZ)
        for frame in file.decode(audio=0):
            pieces += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        pieces += [part.to_ndarray()[0] for part in resampler.resample(None)]
    sound = np.concatenate(pieces or [np.zeros(1, np.float32)])[: round(SECONDS * SOUND_HZ)]
    sound = np.pad(sound, (0, round(SECONDS * SOUND_HZ) - len(sound)))
    return (sound * 0.1 / max(float(np.sqrt(np.mean(sound**2))), 1e-4)).clip(-0.9, 0.9).astype(np.float32)


def _pictures(stamp: Stamp, rng: np.random.Generator) -> list[np.ndarray]:
    """Uint8 (PX, PX, 3), SECONDS at RATE: the stamp moves and grows steadily, what is behind it stays."""
    from PIL import Image

    with Image.open(stamp.picture) as file:
        drawn = file.convert("RGBA")
    behind = Image.fromarray(_background(rng)).convert("RGBA")
    count = round(SECONDS * RATE)
    starts, ends = rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)
    along = np.linspace(starts, ends, count).T
    sizes, across, down = (0.72 + 0.24 * along[0]) * PX, 0.2 + 0.6 * along[1], 0.2 + 0.6 * along[2]
    pictures: list[np.ndarray] = []
    for size, x, y in zip(sizes, across, down, strict=True):
        scale = size / max(drawn.size)
        shown = drawn.resize(
            (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))), Image.Resampling.LANCZOS
        )
        whole = behind.copy()
        whole.alpha_composite(shown, (round(x * (PX - shown.width)), round(y * (PX - shown.height))))
        pictures.append(np.asarray(whole.convert("RGB")))
    return pictures


def _background(rng: np.random.Generator) -> np.ndarray:
    """Uint8 (PX, PX, 3): a gradient between two pale or dull colours, with or without soft spots."""
    corners = rng.uniform(90, 255, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:PX, 0:PX] / PX
    mix = (0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)).clip(0, 1)[..., None]
    ground = corners[0] * (1 - mix) + corners[1] * mix
    if rng.random() < 0.5:
        for _ in range(6):
            cx, cy, spread = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.2)
            spot = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2))[..., None]
            ground = ground + spot * rng.uniform(-40, 40, 3)
    return ground.clip(0, 255).astype(np.uint8)
