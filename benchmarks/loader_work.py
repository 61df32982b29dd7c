"""What is done to one sample, whichever loader brought its bytes: decoding, the same square, the same float arrays.

Runs in the interpreter of a peer, so nothing is imported here but NumPy and what needs nothing more. All but H.264 is
decoded by the functions that `Loader` calls, so that a peer is never slowed by another decoder.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal

import numpy as np

from omniloom.modalities import codecs, frames, load
from omniloom.modalities.base import Frames, Window

Layout = Literal["h264", "ours"]
"""What a peer's files hold of a clip's pictures: the movie with its sound, or the member that our loader reads."""

Video = Literal["pyav", "torchcodec"]
WINDOW = Window(num_frames=8, image_px=224, num_samples=160_000, num_points=1024, train=True)
"""Of a clip of ten seconds: one frame in each eighth, a square of it, all of its sound."""

TASKS: Mapping[str, tuple[str, ...]] = {
    "frames": ("frames",),
    "audio": ("audio",),
    "all": ("frames", "audio", "caption", "depth", "normal", "points"),
    "corrupt": ("frames", "audio"),
}
KEY, FACTS = "key", "facts"
"""Names, beside the modalities', of what a peer's sample holds: its key, and the sidecar's facts as JSON."""

Arrays = dict[str, Any]
"""By modality: float32 array or text of one sample; `KEY`: its key."""


def suffixes(layout: Layout, task: str) -> dict[str, str]:
    """What a loader of tars must ask for: modality -> suffix of the member."""
    names = ["video" if name == "frames" and layout == "h264" else name for name in TASKS[task]]
    return {FACTS: "facts.json", **{name: load(name).suffix for name in names}}


def members(layout: Layout, names: Sequence[str]) -> dict[str, str]:
    """What a peer's files hold: the pictures once, as the layout has them, and all else of a corpus."""
    kept = [name for name in names if name != ("frames" if layout == "h264" else "video")]
    return {FACTS: "facts.json", **{name: load(name).suffix for name in kept}}


def arrays(key: str, raw: Mapping[str, Any], task: str, layout: Layout, video: Video) -> Arrays:
    """The arrays of one sample. Raises whatever a decoder raises for damaged bytes."""
    raw = {name: bytes(data) for name, data in raw.items() if name != KEY}  # some give a view of their memory
    facts = json.loads(raw[FACTS])
    window = replace(WINDOW, seed=random.getrandbits(63))
    made: Arrays = {KEY: key}
    for name in TASKS[task]:
        if name == "frames" and (layout == "h264" or video == "torchcodec"):
            kept = "video" if layout == "h264" else "frames"
            made[name] = _pictures(raw[kept], facts[kept], window, video)
        elif name == "audio" and video == "torchcodec":
            made[name] = _sound(raw[name], window)
        else:
            made[name] = _as_ours(name, raw[name], facts[name], window)
    return made


def arrays_of_movie(data: bytes, facts: Mapping[str, Any], window: Window) -> np.ndarray:
    """The pictures of an H.264 movie, as a batch holds them."""
    return _pictures(data, facts, window, "pyav")


def stack(samples: Sequence[Arrays]) -> dict[str, Any]:
    """A batch: tensors (batch, ...) float32, lists of texts, and the keys."""
    import torch

    return {
        name: values if isinstance(values[0], str) else torch.from_numpy(np.stack(values))
        for name in samples[0]
        if not name.startswith("__")  # of the loader itself
        for values in [[sample[name] for sample in samples]]
    }


def _as_ours(name: str, data: bytes, facts: Mapping[str, Any], window: Window) -> Any:
    """Only the pieces that the window shows are decoded, where the member has pieces: JPEGs of a movie."""
    module = load(name)
    shown = module.narrow(facts, window)
    pieces = [data[offset : offset + size] for offset, size in module.pieces(shown, len(data))]
    return module.tensor(module.assemble([codecs.decode(module.codec, piece) for piece in pieces], shown), window)


def _pictures(data: bytes, facts: Mapping[str, Any], window: Window, video: Video) -> np.ndarray:
    """float32 (num_frames, 3, px, px) in [-1, 1]: decodes no further than the last picture that is shown."""
    chosen = [int(index) for index in window.choose(len(facts["pts_ns"]))]
    rgb = _by_pyav(data, chosen) if video == "pyav" else _by_torchcodec(data, chosen)
    return frames.tensor(Frames(rgb, np.array(facts["pts_ns"])[chosen]), window)


def _by_pyav(data: bytes, chosen: Sequence[int]) -> np.ndarray:
    """In one pass with one thread, turning only the chosen pictures to RGB: faster than a seek to each of them."""
    import av

    found: dict[int, np.ndarray] = {}
    with av.open(io.BytesIO(data), "r", format="mov") as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in chosen:
                found[index] = frame.to_ndarray(format="rgb24")
            if index >= chosen[-1]:
                break
    return np.stack([found[index] for index in chosen])


def _by_torchcodec(data: bytes, chosen: Sequence[int]) -> np.ndarray:
    decoders = import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(data, dimension_order="NHWC", num_ffmpeg_threads=1)
    return decoder.get_frames_at(indices=list(chosen)).data.numpy()


def _sound(data: bytes, window: Window) -> np.ndarray:
    """float32 (num_samples,), shorter sound followed by zeros; clips are as long as the window or shorter."""
    samples = import_module("torchcodec.decoders").AudioDecoder(data).get_all_samples().data[0].numpy()
    shown = np.zeros(window.num_samples, np.float32)
    shown[: len(samples)] = samples[: window.num_samples]
    return shown
