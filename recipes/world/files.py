"""A scene as files: X.mp4, X.depth.npz and X.json, the same bytes for the same scene, each complete or absent."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.recipes.world.motion import DEPTH_RATE_HZ, FPS, HEIGHT, NUM_FRAMES, WIDTH, hit_times_s, intrinsics
from omniloom.recipes.world.narrate import sentence, speak
from omniloom.recipes.world.render import exact_depth_m, frames
from omniloom.recipes.world.scene import DURATION_S, VOICE_OF, Scene
from omniloom.recipes.world.sound import SAMPLE_RATE_HZ, mix
from omniloom.recipes.world.words import captions

FARTHEST_M = 20.0
"""Depth beyond this is stored as 0, not known, as a depth camera's range ends: the stage and its wall lie within it."""


def write_scene(scene: Scene, folder: Path) -> None:
    """Write the three files of one scene into `folder`, named by its index; files that exist are replaced."""
    said = sentence(scene)
    sound = mix(scene, speak(said) if said is not None else None)
    stem = folder / f"{scene.index:06d}"
    put(stem.with_suffix(".depth.npz"), _depth_npz(scene))
    text = json.dumps({**captions(scene), "labels": labels(scene)}, ensure_ascii=False, indent=1, sort_keys=True)
    put(stem.with_suffix(".json"), text.encode() + b"\n")
    # The video last: whoever lists *.mp4 finds its companions beside it.
    put(stem.with_suffix(".mp4"), encode_mp4(frames(scene), sound))


def labels(scene: Scene) -> dict[str, Any]:
    """The exact truth of a scene as JSON values: every field of `Scene`, and what follows from it."""
    out = dataclasses.asdict(scene)
    out["duration_s"], out["fps"] = DURATION_S, FPS
    out["narration"] = sentence(scene)
    for thing, entry in zip(scene.things, out["things"], strict=True):
        entry["timbre"] = VOICE_OF[thing.shape] if thing.sounds else None
        entry["held_out"] = list(thing.held_out)
        if thing.motion == "bouncing":
            entry["bounces_s"] = [round(float(t), 6) for t in hit_times_s(thing)]
    return out


def encode_mp4(pictures: Iterable[np.ndarray], sound: np.ndarray | None) -> bytes:
    """H.264 at FPS, with AAC when there is sound; one thread and bit-exact, so equal input gives equal bytes.

    Args:
        pictures: uint8 (HEIGHT, WIDTH, 3) each.
        sound: float32 (N,) in [-1, 1] at SAMPLE_RATE_HZ, or None for a file without an audio stream.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as box:
        video = box.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.thread_count = 1
        video.codec_context.time_base = Fraction(1, FPS)
        # A key frame a second: clips may begin anywhere, and real cameras do so too.
        video.options = {"preset": "veryfast", "crf": "16", "g": str(FPS), "flags": "+bitexact"}
        audio = None
        if sound is not None:
            audio = box.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
            audio.bit_rate = 64_000
            audio.codec_context.options = {"flags": "+bitexact"}
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            box.mux(video.encode(frame))
        box.mux(video.encode(None))
        if audio is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                chunk = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], format="fltp", layout="mono")
                chunk.sample_rate, chunk.pts, chunk.time_base = SAMPLE_RATE_HZ, start, Fraction(1, SAMPLE_RATE_HZ)
                box.mux(audio.encode(chunk))
            box.mux(audio.encode(None))
    return file.getvalue()


def _depth_npz(scene: Scene) -> bytes:
    """Depth twice a second, at frame times: the frames that sampling at 1 or 2 a second picks."""
    numbers = range(0, NUM_FRAMES, FPS // DEPTH_RATE_HZ)
    depth_m = np.stack([exact_depth_m(scene, number / FPS) for number in numbers])
    depth_mm = np.where(depth_m <= FARTHEST_M, np.rint(np.minimum(depth_m, FARTHEST_M) * 1000), 0).astype(np.uint16)
    pts_ns = np.array([number * 1_000_000_000 // FPS for number in numbers], np.int64)
    file = io.BytesIO()
    np.savez_compressed(file, depth_mm=depth_mm, pts_ns=pts_ns, K=intrinsics(), kind=np.array("z"))
    return file.getvalue()


def put(path: Path, data: bytes) -> None:
    """Write a file so that it is never seen half written."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
