"""What a GPU is fed with to show a sample: bytes, and the numbers of its window; and what is left to torch after it.

Which frames, which box, which stretch: all that a window says is computed here, by the modalities' own functions, and
fed as plain numbers. So what a batch shows depends on nothing but the window, whatever decodes it and wherever.
Headers are read here too: a part that is not what its facts say, or that the decoder would read otherwise than
our own codecs, is left to them, and they tell damage from what is merely rare.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from omniloom.modalities import Modality, audio, depth, frames, geometry, normal, points
from omniloom.modalities.base import Window, codec_of
from omniloom.modalities.others import look_at_picture
from omniloom.modalities.sample import Clip, Fact

if TYPE_CHECKING:
    import torch

GraphName = Literal["pictures", "movie", "depth", "normals", "wave", "points"]

MOVIES_ON_CPU = frozenset({"vp8", "vp9"})
MOVIES_ON_GPU = frozenset({"h264", "hevc", "vp8", "vp9"})
"""Codecs of movies that DALI reads, as FFmpeg names them."""

_SOF = frozenset({0xC0, 0xC1, 0xC2})
"""JPEG's baseline, extended and progressive frames; lossless and arithmetic coding are rare."""
_BEFORE_SOF = frozenset({0xFFC4, 0xFFDB, 0xFFDD, *range(0xFFE0, 0xFFF0), 0xFFFE})
"""Markers of JPEG's tables, of applications and comments; each with a length."""
_MIRRORED = np.array([-1, 1, 1], np.float32)


@dataclass(frozen=True, slots=True)
class Branch:
    """One way of decoding and showing: parts of equal branches go through the same graph."""

    graph: GraphName
    shape: tuple[int, ...]
    """What the window fixes: (num_frames, image_px), (num_samples,) or (num_points,)."""
    coding: str = ""
    """Codec of a movie, dtype of an array: what may not be mixed in a batch."""


@dataclass(frozen=True, slots=True)
class Feed:
    """One part of one sample: the graph's inputs by name, and what torch needs after it."""

    branch: Branch
    inputs: Mapping[str, np.ndarray]
    after: np.ndarray | None = None


class LeftToCpuError(Exception):
    """A part that is decoded by our own codecs; its text says what kind of part that is."""


def feed_of(
    module: Modality, pieces: Sequence[bytes], facts: Mapping[str, Fact], window: Window, clip: Clip | None, gpu: bool
) -> Feed | None:
    """What to feed for one part; None for a modality that has no graph.

    clip: of the sample, if the only piece is its movie. gpu: whether there is one. Raises LeftToCpuError for parts that
    DALI does not read, or not as our own codecs do.
    """
    if clip is not None:
        return _movie(pieces[0], facts, window, clip, gpu)
    feed = _FEEDS.get(getattr(module, "__name__", ""))
    if feed is None:
        return None
    try:
        return feed(pieces, facts, window, codec_of(module, facts))
    except (struct.error, IndexError, KeyError, TypeError, ValueError) as error:
        raise LeftToCpuError("damaged parts") from error  # which our codecs will say in their own words


# --- what is fed ----------------------------------------------------------------------------------------------


def _pictures(pieces: Sequence[bytes], facts: Mapping[str, Fact], window: Window, codec: str) -> Feed:
    del facts  # of other people's pictures they say nothing
    chosen = [pieces[index] for index in window.choose(len(pieces))]
    sizes = {picture_size(piece, codec) for piece in {id(piece): piece for piece in pieces}.values()}
    if len(sizes) != 1:
        raise LeftToCpuError("frames of several sizes")
    inputs = {f"raw{number}": np.frombuffer(piece, np.uint8) for number, piece in enumerate(chosen)}
    return Feed(Branch("pictures", (window.num_frames, window.image_px)), inputs | _box(sizes.pop(), window))


def _movie(movie: bytes, facts: Mapping[str, Fact], window: Window, clip: Clip, gpu: bool) -> Feed:
    from omniloom.pipeline.movies import coding_of, pictures_at

    coding = coding_of(movie, facts)
    if isinstance(coding, str):
        raise LeftToCpuError(coding)
    if coding.codec not in (MOVIES_ON_GPU if gpu else MOVIES_ON_CPU):
        raise LeftToCpuError(f"{coding.codec} movies")
    chosen = pictures_at(facts, clip, frames.Config(), window)
    inputs = {
        "raw": np.frombuffer(movie, np.uint8),
        "frames": np.array(chosen, np.int32),
        **_box((coding.width, coding.height), window),
    }
    return Feed(Branch("movie", (window.num_frames, window.image_px), coding.codec), inputs, _MATRICES[coding.matrix])


def _box(size: tuple[int, int], window: Window) -> dict[str, np.ndarray]:
    view = geometry.view_of(window)
    left, top, right, bottom = view.box(*size)
    return {
        "start": np.array([top, left], np.int32),
        "end": np.array([bottom, right], np.int32),
        "mirror": np.array(view.flip, np.int32),
    }


def _depth(pieces: Sequence[bytes], facts: Mapping[str, Fact], window: Window, codec: str) -> Feed:
    inputs, _ = _stacked(pieces[0], facts, window, codec, (16, 0))
    is_inverse = facts["kind"] == "relative-inverse"
    numbers = np.array([facts["scale_m"], facts["shift"], is_inverse], np.float32)
    return Feed(Branch("depth", (window.num_frames, window.image_px)), inputs | {"numbers": numbers})


def _normals(pieces: Sequence[bytes], facts: Mapping[str, Fact], window: Window, codec: str) -> Feed:
    inputs, flip = _stacked(pieces[0], facts, window, codec, (8, 2))
    signs = (_MIRRORED if flip else np.ones(3, np.float32)).reshape(1, 3, 1, 1)
    return Feed(Branch("normals", (window.num_frames, window.image_px)), inputs | {"signs": signs})


def _stacked(
    piece: bytes, facts: Mapping[str, Fact], window: Window, codec: str, kind: tuple[int, int]
) -> tuple[dict[str, np.ndarray], bool]:
    """A PNG of frames one below the other, and the rows and columns of it that the window shows, mirrored or not."""
    if codec != "png":
        raise LeftToCpuError(f"{codec} in place of PNG")
    (width, height), bits_and_colours = png_head(piece)
    facts_width, facts_height = cast(int, facts["width"]), cast(int, facts["height"])
    shown = cast("list[int] | None", facts.get("shown"))
    count = height // facts_height
    indices = list(range(count)) if shown is None else shown
    if bits_and_colours != kind or width != facts_width or height % facts_height or max(indices) >= count:
        raise LeftToCpuError("damaged parts")
    view = geometry.view_of(window)
    rows, columns = geometry.nearest_pixels(view, facts_width, facts_height, window.image_px)
    chosen = np.array(indices)[window.choose(len(indices))]
    return {
        "raw": np.frombuffer(piece, np.uint8),
        "rows": (chosen[:, None] * facts_height + rows).ravel().astype(np.int32),
        "columns": (columns[::-1] if view.flip else columns).astype(np.int32),
    }, view.flip


def _wave(pieces: Sequence[bytes], facts: Mapping[str, Fact], window: Window, codec: str) -> Feed:
    if codec != "flac":
        raise LeftToCpuError(f"{codec} other than FLAC" if codec == "sound" else f"{codec} in place of FLAC")
    piece, num_samples = pieces[0], cast(int, facts["num_samples"])
    if piece[:4] != b"fLaC" or piece[4] & 0x7F:
        raise LeftToCpuError("damaged parts")
    head = int.from_bytes(piece[18:26], "big")  # rate 20 bits, channels - 1 in 3, bits - 1 in 5, samples in 36
    if (head >> 41 & 7, head >> 36 & 31, head & (1 << 36) - 1) != (0, 15, num_samples):
        raise LeftToCpuError("damaged parts")
    start = np.array([audio.first_shown(num_samples, window)], np.int32)
    return Feed(Branch("wave", (window.num_samples,)), {"raw": np.frombuffer(piece, np.uint8), "start": start})


def _points(pieces: Sequence[bytes], facts: Mapping[str, Fact], window: Window, codec: str) -> Feed:
    if codec != "npy":
        raise LeftToCpuError(f"{codec} in place of NPY")
    piece, num_points = pieces[0], cast(int, facts["num_points"])
    start = 10 + int.from_bytes(piece[8:10], "little")
    head = piece[10:start].decode("latin-1")
    is_right = piece[:8] == b"\x93NUMPY\x01\x00" and re.search(r"'descr': *'<f2'", head) and "True" not in head
    shape = re.search(r"'shape': *\((\d+), *6\)", head)
    if not is_right or shape is None or int(shape[1]) != num_points or len(piece) != start + 12 * num_points:
        raise LeftToCpuError("damaged parts")
    order = points.chosen_points(num_points, window).astype(np.int32)
    return Feed(Branch("points", (window.num_points,), "<f2"), {"raw": np.frombuffer(piece, np.uint8), "order": order})


_FEEDS: Mapping[str, Callable[[Sequence[bytes], Mapping[str, Fact], Window, str], Feed]] = {
    module.__name__: feed
    for module, feed in (
        (frames, _pictures),
        (depth, _depth),
        (normal, _normals),
        (audio, _wave),
        (points, _points),
    )
}
"""By the module whose `assemble` and `tensor` they do; others are decoded piece by piece, and shown by their own."""


# --- headers --------------------------------------------------------------------------------------------------


def picture_size(piece: bytes, codec: str) -> tuple[int, int]:
    """(width, height), upright, of a picture that every decoder reads alike. Raises LeftToCpuError for any other."""
    if codec not in {"jpeg", "picture"}:
        raise LeftToCpuError(f"{codec} in place of JPEG")
    if piece[:2] == b"\xff\xd8":
        if piece.rstrip(b"\0\n\r")[-2:] != b"\xff\xd9":
            raise LeftToCpuError("damaged parts")
        size = _jpeg_size(piece)
        return size if codec == "jpeg" else look_at_picture(piece)
    if codec == "picture" and piece[:4] == b"\x89PNG":
        size, kind = png_head(piece)
        if kind == (8, 2) and b"tRNS" not in piece[:4096] and b"eXIf" not in piece[:4096]:
            return size
        raise LeftToCpuError("PNGs other than 8-bit RGB")
    raise LeftToCpuError("pictures other than JPEG and PNG" if codec == "picture" else "damaged parts")


def png_head(piece: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height), (bits a value, colour type) of a PNG. Raises LeftToCpuError for what is none."""
    if piece[:8] != b"\x89PNG\r\n\x1a\n" or piece[12:16] != b"IHDR" or piece[-8:-4] != b"IEND":
        raise LeftToCpuError("damaged parts")
    width, height, bits, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", piece, 16)
    if interlaced:
        raise LeftToCpuError("interlaced PNGs")
    return (width, height), (bits, colours)


def _jpeg_size(piece: bytes) -> tuple[int, int]:
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", piece, at)
        if marker & 0xFF in _SOF:
            bits, height, width, components = struct.unpack_from(">BHHB", piece, at + 4)
            if bits != 8 or components not in {1, 3} or not width or not height:
                raise LeftToCpuError("JPEGs other than grey and YCbCr")
            return width, height
        if marker not in _BEFORE_SOF:
            raise LeftToCpuError("JPEGs of rare coding")
        at += 2 + length


# --- colours --------------------------------------------------------------------------------------------------


def _to_rgb(red: float, blue: float) -> np.ndarray:
    """RGB of Y, Cb, Cr by the weights of red and blue in Y: ITU-T H.273, 8.3."""
    green = 1 - red - blue
    cb, cr = 2 * (1 - blue), 2 * (1 - red)
    return np.array([[1, 0, cr], [1, -blue * cb / green, -red * cr / green], [1, cb, 0]])


_BT601, _BT709 = _to_rgb(0.299, 0.114), _to_rgb(0.2126, 0.0722)
_MATRICES = {"bt601": np.eye(3, dtype=np.float32), "bt709": (_BT709 @ np.linalg.inv(_BT601)).astype(np.float32)}
"""What makes RGB right that DALI made by BT.601, as it does of every movie, whatever matrix that states."""


# --- what torch does after it ------------------------------------------------------------------------------------


def finish(graph: GraphName, outputs: Sequence[torch.Tensor], after: Sequence[np.ndarray | None]) -> torch.Tensor:
    """What is no operator of DALI's: float32 (B, ...) as the stem describes it, on the device of the outputs."""
    import torch

    if graph == "depth":
        return _nearness(*outputs)
    (shown,) = outputs
    if graph == "movie":
        matrices = torch.from_numpy(np.stack(cast("Sequence[np.ndarray]", after))).to(shown.device)
        # Each keeps grey as it is, and so [-1, 1] serves as well as [0, 1].
        return torch.einsum("brc,bnchw->bnrhw", matrices, shown).clamp_(-1, 1)
    return shown


def _nearness(near: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """(B, n, 2, px, px) of nearness and whether it is known, (B, n, 1, px, px) each: see `depth.tensor`."""
    import torch

    is_known = known.flatten(1) > 0
    number = is_known.cumsum(1) - 1
    is_ranked = is_known & (number % depth.every(number[:, -1:] + 1) == 0)
    ranked = torch.where(is_ranked, near.flatten(1), torch.inf).sort(1).values
    last = (is_ranked.sum(1, keepdim=True) - 1).clamp_min(0)
    low, middle, high = (_at(ranked, fraction * last.double(), last) for fraction in (0.1, 0.5, 0.9))
    spread = torch.maximum((high - low) / 2, 1e-3 * middle.abs().clamp_min(1))
    shown = torch.where(is_known, ((near.flatten(1) - middle) / spread).clamp(-3, 3), 0.0).view_as(near)
    return torch.cat([shown, known], 2)


def _at(ranked: torch.Tensor, place: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Values (B, 1) between those at the two ranks beside a place, as NumPy's percentiles."""
    import torch

    lower = place.long()
    below, above = ranked.gather(1, lower), ranked.gather(1, torch.minimum(lower + 1, last))
    return torch.lerp(below, above, (place - lower).to(ranked.dtype))


def stacked(values: Sequence[Any], shape: tuple[int, ...]) -> torch.Tensor:
    """float32 (B, *shape) on the device of those values that are tensors; arrays are copied there, None is zeros."""
    import torch

    device = next(value.device for value in values if isinstance(value, torch.Tensor))
    absent = torch.zeros(shape, device=device)
    rows = [
        absent
        if value is None
        else torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value)
        for value in values
    ]
    return torch.stack([row.to(device, torch.float32) for row in rows])
