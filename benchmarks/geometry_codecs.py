"""Why depth is a 16-bit PNG: decode time x bytes x error of ways to keep it, on real and on rendered depth.

    python -m benchmarks.geometry_codecs

Eight frames, one below the other. Real: redwood's camera, 320x240 (left out where its folder is not beside the
checkout). Rendered: a scene of the demo world. Median of eleven runs; the error is the largest, in millimetres.
"""

from __future__ import annotations

import io
import statistics
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from omniloom.modalities import codecs
from omniloom.recipes.world.render import exact_depth_m
from omniloom.recipes.world.scene import compose

RUNS = 11
REDWOOD = Path(__file__).parents[2] / "shared" / "data" / "redwood"
RESULT = Path(__file__).parent / "results" / "geometry_codecs.md"
Codec = tuple[Callable[[np.ndarray], bytes], Callable[[bytes, tuple[int, ...]], np.ndarray]]


def main() -> None:
    tables = {"rendered, 8 x 160x120": rendered()}
    if REDWOOD.is_dir():
        tables = {"redwood, 8 x 320x240": redwood(), **tables}
    lines = [
        "# Ways to keep depth",
        "",
        "Eight frames; median of 11 runs on one core; largest error in millimetres.",
        "",
    ]
    for title, depth_mm in tables.items():
        lines += [
            f"## {title}",
            "",
            "| codec | bytes | encode ms | decode ms | error mm |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, (encode, decode) in CODECS.items():
            data = encode(depth_mm)
            error = np.abs(decode(data, depth_mm.shape).astype(np.float64) - depth_mm).max()
            runs = (partial(encode, depth_mm), partial(decode, data, depth_mm.shape))
            times = [f"{1000 * median(run):.1f}" for run in runs]
            lines.append(f"| {name} | {len(data):,} | {' | '.join(times)} | {error:.1f} |")
        lines.append("")
    text = "\n".join([*lines, "Made by `python -m benchmarks.geometry_codecs`.", ""])
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text)
    print(text)


def redwood() -> np.ndarray:
    """uint16 millimetres (8 x 240, 320): five real frames, three of them twice."""
    frames = [np.asarray(Image.open(path)).astype(np.uint16)[::2, ::2] for path in sorted(REDWOOD.glob("*.depth.png"))]
    return np.concatenate([frames[index % len(frames)] for index in range(8)])


def rendered() -> np.ndarray:
    """uint16 millimetres (8 x 120, 160) of one scene."""
    scene = compose(0, "train", 0)
    frames = [np.nan_to_num(exact_depth_m(scene, index / 2), nan=0, posinf=0) for index in range(8)]
    return np.rint(1000 * np.concatenate(frames)).astype(np.uint16)


def median(run: Callable[[], object]) -> float:
    seconds: list[float] = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _ours() -> Codec:
    return codecs.encode_png, lambda data, _: codecs.decode("png", data)


def _png(level: int) -> Codec:
    def encode(depth: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(depth).save(out, "PNG", compress_level=level)
        return out.getvalue()

    return encode, lambda data, _: np.asarray(Image.open(io.BytesIO(data))).astype(np.uint16)


def _jpeg2000() -> Codec:
    def encode(depth: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(depth).save(out, "JPEG2000", irreversible=False)
        return out.getvalue()

    return encode, lambda data, _: np.asarray(Image.open(io.BytesIO(data))).astype(np.uint16)


def _half() -> Codec:
    return (
        lambda depth: (depth / 1000).astype(np.float16).tobytes(),
        lambda data, shape: 1000 * np.frombuffer(data, np.float16).reshape(shape).astype(np.float32),
    )


def _zlib() -> Codec:
    return (
        lambda depth: zlib.compress(depth.tobytes(), 6),
        lambda data, shape: np.frombuffer(zlib.decompress(data), np.uint16).reshape(shape),
    )


CODECS: dict[str, Codec] = {
    "PNG 16, ours": _ours(),
    "PNG 16, level 1": _png(1),
    "PNG 16, level 3": _png(3),
    "PNG 16, level 6": _png(6),
    "PNG 16, level 9": _png(9),
    "JPEG 2000, lossless": _jpeg2000(),
    "float16, plain": _half(),
    "uint16, zlib 6": _zlib(),
}

if __name__ == "__main__":
    main()
