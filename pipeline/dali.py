"""Decodes and shows batches with NVIDIA DALI, on the GPU where there is one; the only file that imports it.

Parts that `device.py` knows go through graphs: decoded, cut, scaled, mirrored and normalised in one pipeline for each
set of modalities that samples have. The pieces of others are only decoded. The graphs are the same with and without a
GPU, which tests rely on. Shards are read by spans and not by DALI's own readers: everything is fed from memory.
On one machine without a GPU, DALI's JPEG equals Pillow's; nvJPEG differs by a level here and there. PNG, FLAC and NPY
are exact.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from omniloom.modalities.base import Codec
from omniloom.pipeline.device import Branch, Feed, finish

if TYPE_CHECKING:
    import torch

_MAX_BATCH = 64
"""Samples or pieces decoded at once; longer lists are cut."""
_MAX_PIPELINES = 12
"""Kept built; the one that was used the longest ago goes first."""
_SMALL_GROUP = 8
"""A set of modalities that fewer than one in so many samples have is not worth a pipeline: it goes one by one."""
_STRIKES = 3
"""Times that DALI may fail on parts our own codecs read, before parts of that branch are no longer given to it."""
_PADDING = 1 << 20
"""Bytes that nvJPEG sets aside a thread and decoder: it grows where needed, and frames are small."""

Part = tuple[int, str]
"""A sample's number in its batch, and the name of a modality."""


class UnreadableError(Exception):
    """DALI failed: on bytes that it cannot decode, or on this machine."""


def installed() -> bool:
    """Whether DALI is there to be imported."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


class DaliDecoder:
    """Pipelines by what they decode, built when they are first needed. Safe to share between threads."""

    def __init__(self, device_id: int | None, num_threads: int = 2) -> None:
        """device_id: the GPU, or None to decode on the CPU. Raises ValueError if DALI is not installed."""
        if not installed():
            raise ValueError("backend 'dali' needs NVIDIA DALI: pip install 'omniloom[dali]', or use backend='cpu'")
        self.device_id = device_id
        self.name = "dali (cpu)" if device_id is None else f"dali (gpu {device_id})"
        self._num_threads = num_threads
        self._pipelines: OrderedDict[Any, Any] = OrderedDict()
        self._strikes: dict[Branch, int] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Gives back the pipelines' threads and memory; they are built again when needed."""
        with self._lock:
            self._pipelines.clear()

    # --- whole parts ------------------------------------------------------------------------------------------

    def gave_up(self, branch: Branch) -> bool:
        """Whether DALI failed on such parts so often, without their being damaged, that it is not asked any more."""
        return self._strikes.get(branch, 0) >= _STRIKES

    def blame(self, branch: Branch) -> None:
        """To be told when our own codecs could read all parts of a branch that DALI failed on."""
        with self._lock:
            self._strikes[branch] = self._strikes.get(branch, 0) + 1

    def show(
        self, feeds: Mapping[Part, Feed], num_samples: int
    ) -> tuple[dict[Part, torch.Tensor], list[tuple[list[Part], str]]]:
        """The arrays that a model reads, float32, on this decoder's device, of all parts that DALI could read.

        Also lists of parts among which it met one that it cannot read, and what it said: none of them is among the
        arrays. On a GPU the arrays are ready for work on torch's current stream.
        """
        shown: dict[Part, torch.Tensor] = {}
        failed: list[tuple[list[Part], str]] = []
        for names, samples in _groups(feeds, num_samples):
            for first in range(0, len(samples), _MAX_BATCH):
                self._show_group(names, samples[first : first + _MAX_BATCH], feeds, shown, failed)
        return shown, failed

    def _show_group(
        self,
        names: tuple[str, ...],
        samples: Sequence[int],
        feeds: Mapping[Part, Feed],
        shown: dict[Part, torch.Tensor],
        failed: list[tuple[list[Part], str]],
    ) -> None:
        columns = {name: [feeds[sample, name] for sample in samples] for name in names}
        try:
            arrays = self._run_graph(columns)
        except UnreadableError as error:
            if len(names) == 1:
                failed.append(([(sample, names[0]) for sample in samples], str(error)))
                return
            for name in names:  # of the others nothing need be decoded elsewhere
                self._show_group((name,), samples, feeds, shown, failed)
            return
        for name, array in arrays.items():
            shown.update(zip([(sample, name) for sample in samples], array, strict=True))

    def _run_graph(self, columns: Mapping[str, Sequence[Feed]]) -> dict[str, torch.Tensor]:
        branches = {name: column[0].branch for name, column in columns.items()}
        inputs = {
            f"{name}_{wanted}": [feed.inputs[wanted] for feed in column]
            for name, column in columns.items()
            for wanted in column[0].inputs
        }
        outputs = self._run(tuple(branches.items()), lambda: self._graph(branches), inputs)
        made: dict[str, torch.Tensor] = {}
        for name, column in columns.items():
            count = _NUM_OUTPUTS.get(branches[name].graph, 1)
            mine, outputs = outputs[:count], outputs[count:]
            made[name] = finish(branches[name].graph, [_to_torch(output) for output in mine], [f.after for f in column])
        return made

    def _graph(self, branches: Mapping[str, Branch]) -> Any:
        fn, _, types = _operators()
        pipeline = self._pipeline()
        with pipeline:
            outputs: list[Any] = []
            for name, branch in branches.items():

                def given(wanted: str, dtype: str, ndim: int, name: str = name) -> Any:
                    return fn.external_source(
                        name=f"{name}_{wanted}", device="cpu", dtype=getattr(types, dtype), ndim=ndim
                    )

                outputs += _GRAPHS[branch.graph](given, branch.shape, self.device_id is not None)
            pipeline.set_outputs(*outputs)
        return pipeline

    # --- pieces -----------------------------------------------------------------------------------------------

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
                for position, array in zip(chosen, self._decode(kind, [pieces[at] for at in chosen]), strict=True):
                    out[position] = array
        return out

    def _decode(self, kind: str, pieces: list[bytes]) -> Sequence[np.ndarray | None]:
        try:
            inputs = {"raw": [np.frombuffer(piece, np.uint8) for piece in pieces]}
            (decoded,) = self._run(kind, lambda: self._reader(kind), inputs)
        except UnreadableError:
            return [None] * len(pieces)
        arrays = decoded.as_cpu()  # the same object where it is there already
        return [_shaped(kind, np.array(arrays.at(position))) for position in range(len(pieces))]

    def _reader(self, kind: str) -> Any:
        fn, _, types = _operators()
        image_device = "cpu" if self.device_id is None else "mixed"
        readers: dict[str, Callable[[Any], Any]] = {
            "rgb": lambda raw: fn.decoders.image(raw, device=image_device, output_type=types.RGB),
            "gray16": lambda raw: fn.decoders.image(
                raw, device=image_device, output_type=types.ANY_DATA, dtype=types.UINT16
            ),
            "flac": lambda raw: fn.decoders.audio(raw, dtype=types.INT16)[0],
            "npy": fn.decoders.numpy,
        }
        pipeline = self._pipeline()
        with pipeline:
            raw = fn.external_source(name="raw", device="cpu", dtype=types.UINT8, ndim=1)
            pipeline.set_outputs(readers[kind.partition(":")[0]](raw))
        return pipeline

    # --- running ----------------------------------------------------------------------------------------------

    def _pipeline(self) -> Any:
        from nvidia.dali import Pipeline

        # One batch at a time: what comes next is decided outside. The default executor gives its outputs away, so that
        # they outlive the next run. All randomness is in what is fed.
        return Pipeline(
            batch_size=_MAX_BATCH,
            num_threads=self._num_threads,
            device_id=self.device_id,
            prefetch_queue_depth=1,
            seed=0,
        )

    def _run(self, key: Any, build: Callable[[], Any], inputs: Mapping[str, Any]) -> Sequence[Any]:
        """Outputs of the pipeline of that key. Raises UnreadableError if there is one that it cannot read."""
        with self._lock:
            pipeline = self._pipelines.pop(key, None)
            try:
                if pipeline is None:
                    pipeline = build()
                    pipeline.build()
                outputs = pipeline.run(self._stream(), **inputs)
            except (RuntimeError, ValueError, IndexError) as error:  # and the pipeline cannot be used after it
                raise UnreadableError(_said(error)) from error
            self._pipelines[key] = pipeline
            while len(self._pipelines) > _MAX_PIPELINES:
                self._pipelines.popitem(last=False)
            return outputs

    def _stream(self) -> Any:
        if self.device_id is None:
            return None
        import torch

        return torch.cuda.current_stream(self.device_id)


def _said(error: Exception) -> str:
    """The one line of DALI's page that says what happened."""
    lines = [line.strip() for line in str(error).partition("encountered:")[2].splitlines() or str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def _groups(feeds: Mapping[Part, Feed], num_samples: int) -> list[tuple[tuple[str, ...], list[int]]]:
    """Modalities that go through one pipeline, and the samples that do: those that have the same, coded alike."""
    of_sample: dict[int, dict[str, Branch]] = {}
    for (sample, name), feed in feeds.items():
        of_sample.setdefault(sample, {})[name] = feed.branch
    groups: dict[tuple[tuple[str, Branch], ...], list[int]] = {}
    for sample, branches in of_sample.items():
        groups.setdefault(tuple(sorted(branches.items(), key=lambda item: item[0])), []).append(sample)
    chosen: dict[tuple[tuple[str, Branch], ...], list[int]] = {}
    for key, samples in groups.items():
        whole = len(samples) * _SMALL_GROUP >= num_samples
        for part in [key] if whole else [(one,) for one in key]:
            chosen.setdefault(part, []).extend(samples)
    return [(tuple(name for name, _ in key), samples) for key, samples in chosen.items()]


# --- graphs -----------------------------------------------------------------------------------------------------

Given = Callable[[str, str, int], Any]
"""(name, dtype, number of axes) -> the input of that name, on the host."""


def _pictures(given: Given, shape: tuple[int, ...], gpu: bool) -> list[Any]:
    """Pictures of equal size, one a frame -> (n, 3, px, px) in [-1, 1], one box of all of them."""
    fn, _, types = _operators()
    count, px = shape
    box = given("start", "INT32", 1), given("end", "INT32", 1)
    padding = {"device_memory_padding": _PADDING, "host_memory_padding": _PADDING, "affine": False} if gpu else {}
    frames = [
        _boxed(
            fn.decoders.image(
                given(f"raw{number}", "UINT8", 1),
                device="mixed" if gpu else "cpu",
                output_type=types.RGB,
                jpeg_fancy_upsampling=True,  # as libjpeg does, which decodes them elsewhere
                **padding,
            ),
            box,
            px,
        )
        for number in range(count)
    ]
    return [_normalised(fn.reinterpret(fn.stack(*frames), layout="FHWC"), given)]


def _movie(given: Given, shape: tuple[int, ...], gpu: bool) -> list[Any]:
    """A movie's pictures of given numbers -> (n, 3, px, px) in [-1, 1], as made by BT.601."""
    fn, _, _ = _operators()
    px = shape[1]
    box = given("start", "INT32", 1), given("end", "INT32", 1)
    affine = {"affine": False} if gpu else {}
    frames = fn.decoders.video(
        given("raw", "UINT8", 1), device="mixed" if gpu else "cpu", frames=given("frames", "INT32", 1), **affine
    )
    return [_normalised(_boxed(frames, box, px), given)]


def _boxed(pictures: Any, box: tuple[Any, Any], px: int) -> Any:
    """The box of each picture at px x px: triangles as wide as what they shrink, as Pillow's bilinear.

    Cut first: a resize of a region looks beyond its edges.
    """
    fn, _, types = _operators()
    cut = fn.slice(pictures, start=box[0], end=box[1], axis_names="HW")
    return fn.resize(cut, size=[px, px], interp_type=types.INTERP_LINEAR, antialias=True)


def _normalised(pictures: Any, given: Given) -> Any:
    fn, _, types = _operators()
    half = [127.5] * 3
    mirror = given("mirror", "INT32", 0)
    return fn.crop_mirror_normalize(
        pictures, mean=half, std=half, mirror=mirror, dtype=types.FLOAT, output_layout="FCHW"
    )


def _picked(given: Given, shape: tuple[int, ...], gpu: bool, channels: int, dtype: str) -> Any:
    """Chosen rows and columns of a PNG that holds frames one below the other -> float32 (n, channels, px, px).

    They are picked by number, since a resize by nearest would decide ties by its own rounding.
    """
    fn, _, types = _operators()
    count, px = shape
    colours = types.RGB if channels == 3 else types.ANY_DATA
    # PNG is decoded on the CPU wherever it is; so the rows that are not shown need not travel.
    picture = fn.decoders.image(
        given("raw", "UINT8", 1), device="cpu", output_type=colours, dtype=getattr(types, dtype)
    )
    rows = fn.sequence_rearrange(fn.reinterpret(picture, layout="FWC"), new_order=given("rows", "INT32", 1))
    rows = rows.gpu() if gpu else rows
    across = fn.reinterpret(fn.transpose(rows, perm=[1, 0, 2], transpose_layout=False), layout="FWC")
    both = fn.sequence_rearrange(across, new_order=given("columns", "INT32", 1))
    frames = fn.transpose(fn.reshape(both, shape=[px, count, px, channels], layout=""), perm=[1, 3, 2, 0])
    return fn.cast(frames, dtype=types.FLOAT)


def _depth(given: Given, shape: tuple[int, ...], gpu: bool) -> list[Any]:
    """Nearness before it is centred and scaled, and whether it is known: (n, 1, px, px) each."""
    fn, math, types = _operators()
    codes = _picked(given, shape, gpu, 1, "UINT16")
    numbers = given("numbers", "FLOAT", 1)
    numbers = numbers.gpu() if gpu else numbers
    scale, shift, is_inverse = (numbers[at] for at in range(3))
    values = codes * scale + shift
    known = (codes > 0) & ((values > 0) | (is_inverse > 0))
    near = is_inverse * values - (1.0 - is_inverse) * math.log(math.max(values, 1e-30))
    return [near, fn.cast(known, dtype=types.FLOAT)]


def _normals(given: Given, shape: tuple[int, ...], gpu: bool) -> list[Any]:
    """Unit normals (n, 3, px, px), 0 where unknown; the signs turn x where the picture is mirrored."""
    fn, math, types = _operators()
    codes = _picked(given, shape, gpu, 3, "UINT8")
    signs = given("signs", "FLOAT", 4)
    vectors = codes * (1 / 127.5) - 1.0
    lengths = math.sqrt(fn.reductions.sum(vectors * vectors, axes=[1], keep_dims=True))
    known = fn.reductions.max(math.abs(codes - 128.0), axes=[1], keep_dims=True) > 0.5  # not all three the middle
    return [vectors / lengths * fn.cast(known, dtype=types.FLOAT) * (signs.gpu() if gpu else signs)]


def _wave(given: Given, shape: tuple[int, ...], gpu: bool) -> list[Any]:
    """A stretch of sound, followed by zeros where the sound ends: (num_samples,) in [-1, 1]."""
    fn, _, types = _operators()
    sound, _ = fn.decoders.audio(given("raw", "UINT8", 1), dtype=types.INT16)
    start = given("start", "INT32", 1)
    shown = fn.slice(sound, start=start, shape=list(shape), axes=[0], out_of_bounds_policy="pad", fill_values=0)
    shown = fn.reshape(shown, shape=list(shape))
    return [fn.cast(shown.gpu() if gpu else shown, dtype=types.FLOAT) * (1 / 32768)]


def _points(given: Given, shape: tuple[int, ...], gpu: bool) -> list[Any]:
    """Chosen points around the mean of all: (num_points, 6). Where that lies is not fed: it would be taken away."""
    fn, _, types = _operators()
    del shape
    stored = fn.decoders.numpy(given("raw", "UINT8", 1))
    cloud = fn.cast(stored.gpu() if gpu else stored, dtype=types.FLOAT)
    mean = fn.reductions.mean(cloud[:, :3], axes=[0], keep_dims=True)
    shown = fn.sequence_rearrange(cloud, new_order=given("order", "INT32", 1))
    return [fn.cat(shown[:, :3] - mean, shown[:, 3:], axis=1)]


_GRAPHS: Mapping[str, Callable[[Given, tuple[int, ...], bool], list[Any]]] = {
    "pictures": _pictures,
    "movie": _movie,
    "depth": _depth,
    "normals": _normals,
    "wave": _wave,
    "points": _points,
}
_NUM_OUTPUTS = {"depth": 2}


def _operators() -> tuple[Any, Any, Any]:
    """DALI's fn, math and types: their members are made at import, and type checkers see few of them."""
    from nvidia.dali import fn, math, types

    return fn, math, types


def _to_torch(output: Any) -> torch.Tensor:
    """Without a copy: the default executor does not write to an output again."""
    import torch

    return torch.from_dlpack(output.as_tensor())


# --- pieces -----------------------------------------------------------------------------------------------------


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
