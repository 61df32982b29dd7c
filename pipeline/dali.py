"""Decodes lists of pieces with NVIDIA DALI, on the GPU where there is one; the only file that imports it.

Shards are read by spans and not by DALI's own reader, so each codec has a pipeline fed from memory. On one machine
without a GPU, DALI's JPEG equals Pillow's; nvJPEG differs by a level here and there. PNG, FLAC and NPY are exact.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from omniloom.modalities.base import Codec

_MAX_BATCH = 64
"""Pieces decoded at once; longer lists are cut."""


def installed() -> bool:
    """Whether DALI is there to be imported."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


class DaliDecoder:
    """One pipeline a kind of piece, built when the first such piece comes. Safe to share between threads."""

    def __init__(self, device_id: int | None, num_threads: int = 2) -> None:
        """device_id: the GPU, or None to decode on the CPU. Raises ValueError if DALI is not installed."""
        if not installed():
            raise ValueError("backend 'dali' needs NVIDIA DALI: pip install 'omniloom[dali]', or use backend='cpu'")
        self.device_id = device_id
        self.name = "dali (cpu)" if device_id is None else f"dali (gpu {device_id})"
        self._num_threads = num_threads
        self._pipelines: dict[str, Any] = {}
        self._lock = threading.Lock()

    def decode(self, codec: Codec, pieces: Sequence[bytes]) -> list[np.ndarray | None]:
        """Arrays as `codecs.decode` gives them; None for each piece that DALI cannot read.

        A bad piece fails its whole batch, all None: decode those one by one elsewhere to learn which it was.
        """
        out: list[np.ndarray | None] = [None] * len(pieces)
        kinds: dict[str, list[int]] = {}
        for position, piece in enumerate(pieces):
            kind = _kind(codec, piece)
            if kind is not None:
                kinds.setdefault(kind, []).append(position)
        for kind, positions in kinds.items():
            for first in range(0, len(positions), _MAX_BATCH):
                chosen = positions[first : first + _MAX_BATCH]
                for position, array in zip(chosen, self._run(kind, [pieces[at] for at in chosen]), strict=True):
                    out[position] = array
        return out

    def _run(self, kind: str, pieces: list[bytes]) -> Sequence[np.ndarray | None]:
        with self._lock:
            pipeline = self._pipelines.get(kind) or self._build(kind)
            self._pipelines[kind] = pipeline
            try:
                pipeline.feed_input("raw", [np.frombuffer(piece, np.uint8) for piece in pieces])
                (decoded,) = pipeline.run()
            except RuntimeError:  # what DALI raises for undecodable bytes; the pipeline cannot be used after it
                del self._pipelines[kind]
                return [None] * len(pieces)
            arrays = decoded.as_cpu()  # the same object where it is there already
            # Copies: the next run reuses the memory.
            return [_shaped(kind, np.array(arrays.at(position))) for position in range(len(pieces))]

    def _build(self, kind: str) -> Any:
        from nvidia.dali import Pipeline, fn
        from nvidia.dali import types as dali_types

        types: Any = dali_types  # its members are made at import: type checkers do not see them
        image_device = "cpu" if self.device_id is None else "mixed"
        readers: dict[str, Callable[[Any], Any]] = {
            "rgb": lambda raw: fn.decoders.image(raw, device=image_device, output_type=types.RGB),
            "gray16": lambda raw: fn.decoders.image(
                raw, device=image_device, output_type=types.ANY_DATA, dtype=types.UINT16
            ),
            "flac": lambda raw: fn.decoders.audio(raw, dtype=types.INT16)[0],
            "npy": fn.decoders.numpy,
        }
        pipeline = Pipeline(
            batch_size=_MAX_BATCH,
            num_threads=self._num_threads,
            device_id=self.device_id,
            prefetch_queue_depth=1,
            exec_async=False,
            exec_pipelined=False,
        )
        with pipeline:
            raw = fn.external_source(name="raw", device="cpu", dtype=types.UINT8, ndim=1)
            decoded = readers[kind.partition(":")[0]](raw)
            pipeline.set_outputs(decoded)
        pipeline.build()
        return pipeline


def _kind(codec: Codec, piece: bytes) -> str | None:
    """Which pipeline reads the piece: pieces of one batch must agree in type. None where DALI has no reader."""
    if codec in {"jpeg", "picture"}:
        return "rgb"
    if codec == "png":
        bit_depth, colour_type = struct.unpack_from("BB", piece, 24) if len(piece) > 26 else (0, 0)  # of IHDR
        return {(8, 2): "rgb", (16, 0): "gray16"}.get((bit_depth, colour_type))
    if codec == "flac":
        return "flac"
    if codec == "npy" and piece[6:8] == b"\x01\x00":
        header = piece[10:128].partition(b")")[0]
        descr = header.partition(b"'descr': '")[2].partition(b"'")[0].decode("latin-1")
        num_axes = header.partition(b"(")[2].strip(b", ").count(b",") + 1
        # A scalar's shape is "()": DALI wants an axis. Big-endian numbers it reads as little-endian.
        return f"npy:{descr}:{num_axes}" if b"()" not in piece[10:128] and descr[:1] in {"<", "|"} else None
    return None


def _shaped(kind: str, array: np.ndarray) -> np.ndarray:
    """Without the channel axis that DALI gives to gray pictures and mono sound."""
    return array[..., 0] if kind in {"gray16", "flac"} else array
