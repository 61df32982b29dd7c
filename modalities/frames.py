"""The frames on screen at the sampled times, as JPEGs inside one MJPEG movie: what training reads.

Every frame stands alone: the facts hold each JPEG's byte span, so a window of 4 frames reads 4 JPEGs and no more, and
any JPEG decoder (nvJPEG and DALI too) serves. The movie is also a movie: players, PyAV and DALI open it.
What files beside the video or its container state of the camera is kept with them: `k` (fx, fy, cx, cy of the frames'
pixels) with who said so, and `poses` (camera to world, 12 numbers a frame); all empty where nobody says anything.
Lossy: on smooth pictures `read` returns every value within 5 % of the range; times are exact.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import numpy as np

from omniloom.modalities import codecs, geometry
from omniloom.modalities.base import Ask, Codec, FactType, Footage, FrameCamera, Frames, KSource, Made, Stem, Window
from omniloom.modalities.base import no_models as models
from omniloom.modalities.cameras import flat_poses, poses_of
from omniloom.modalities.sample import Fact, Part

__all__ = ["models"]

suffix = "frames.mov"
codec: Codec = "jpeg"
letter = "v"
needs: tuple[str, ...] = ()
facts: Mapping[str, FactType] = {
    "pts_ns": "list<int64>",
    "offsets": "list<int64>",
    "sizes": "list<int64>",
    "width": "int64",
    "height": "int64",
    "k": "list<double>",
    "intrinsics": "string",
    "poses": "list<double>",
}
stem = Stem("image", 3)
tolerance = 0.05

_TICKS_PER_S = 1_000_000


@dataclass(frozen=True, slots=True)
class Config:
    """Which frames of a clip to keep, and how large: the decoder samples them, at these settings."""

    per_second: float = 2.0
    at_least: int = 8
    """Frames of a clip too short to give as many at `per_second`."""
    short_side: int = 256
    """Pixels; smaller sources are not enlarged."""

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.at_least < 1 or self.short_side < 1:
            raise ValueError(f"frames needs per_second > 0, at_least >= 1 and short_side >= 1, got {self}")


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """The sampled frames as the decoder saw them; None for a clip without pictures."""
    if footage.frames is None or not len(footage.frames.rgb):
        return None
    return Made(footage.frames, model="measured")


def encode(value: Frames) -> Part:
    """JPEGs in a QuickTime movie, and where each of them lies."""
    jpegs = [codecs.encode_jpeg(picture) for picture in value.rgb]
    height, width = value.rgb.shape[1:3]
    movie = _movie(jpegs, value.pts_ns, width, height)
    offsets: list[int] = []
    end = 0
    for jpeg in jpegs:
        start = movie.find(jpeg, end)
        assert start >= 0, "the muxer writes packets as they come, in order"
        offsets.append(start)
        end = start + len(jpeg)
    return Part(
        movie,
        {
            "pts_ns": [int(pts) for pts in value.pts_ns],
            "offsets": offsets,
            "sizes": [len(jpeg) for jpeg in jpegs],
            "width": width,
            "height": height,
            **_camera_facts(value.camera),
        },
    )


def narrow(facts: Mapping[str, Fact], window: Window) -> Mapping[str, Fact]:
    """Only the frames that the window shows, in its order (one shown twice is listed twice)."""
    chosen = window.choose(len(cast("list[int]", facts["sizes"])))
    lists = {name: cast("list[int]", facts[name]) for name in ("pts_ns", "offsets", "sizes")}
    narrowed: dict[str, Fact] = {name: [values[index] for index in chosen] for name, values in lists.items()}
    poses = cast("list[float] | None", facts.get("poses"))
    if poses:
        narrowed["poses"] = [number for index in chosen for number in poses[12 * index : 12 * index + 12]]
    return {**facts, **narrowed}


def pieces(facts: Mapping[str, Fact], size: int) -> Sequence[tuple[int, int]]:
    """One span a JPEG. Raises ValueError if one lies outside the member."""
    spans = list(zip(cast("list[int]", facts["offsets"]), cast("list[int]", facts["sizes"]), strict=True))
    for offset, length in spans:
        if offset < 0 or length <= 0 or offset + length > size:
            raise ValueError(f"a frame at bytes {offset}..{offset + length} of a member of {size}")
    return spans


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Frames:
    """Frames from uint8 (H, W, 3) pictures."""
    return Frames(np.stack(pieces), np.array(facts["pts_ns"], np.int64), _camera(facts))


def tensor(value: Frames, window: Window) -> np.ndarray:
    """float32 (num_frames, 3, px, px) in [-1, 1]: the window's frames, its square of the picture."""
    shown = geometry.show_rgb(window.shown(value.rgb), geometry.view_of(window), window.image_px)
    out = np.ascontiguousarray(shown.transpose(0, 3, 1, 2)).astype(np.float32)
    out /= np.float32(127.5)
    out -= np.float32(1)
    return out


def example(rng: np.random.Generator) -> Frames:
    """Five frames of a moving gradient, 64 x 48, at uneven times."""
    y, x = np.mgrid[0:48, 0:64] / 64
    phase = rng.random(3) * 6
    moments = np.linspace(0, 1, 5)
    waves = [[np.sin(4 * x + 3 * y + phase[c] + 2 * moment) for c in range(3)] for moment in moments]
    rgb = (127.5 + 100 * np.array(waves)).astype(np.uint8).transpose(0, 2, 3, 1)
    poses = np.repeat(np.eye(4)[None], 5, axis=0)
    poses[:, 0, 3] = moments
    camera = FrameCamera(geometry.assumed_intrinsics(64, 48), "given", poses)
    return Frames(rgb, np.array([0, 40_000_000, 333_333_333, 400_000_000, 999_999_999], np.int64), camera)


def _camera_facts(camera: FrameCamera | None) -> dict[str, Fact]:
    if camera is None:
        return {"k": [], "intrinsics": "", "poses": []}
    k = [float(camera.k[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2))]
    return {"k": k, "intrinsics": camera.k_source, "poses": flat_poses(camera.poses)}


def _camera(facts: Mapping[str, Fact]) -> FrameCamera | None:
    k = cast("list[float] | None", facts.get("k"))
    if not k:  # older corpora know nothing of cameras
        return None
    poses = poses_of(cast("list[float]", facts["poses"]))
    return FrameCamera(geometry.intrinsics(*k), cast(KSource, facts["intrinsics"]), poses)


def _movie(jpegs: Sequence[bytes], pts_ns: np.ndarray, width: int, height: int) -> bytes:
    import av

    out = io.BytesIO()
    options = {**codecs.BITEXACT, "video_track_timescale": str(_TICKS_PER_S)}
    with av.open(out, "w", format="mov", options=options) as container:
        stream = container.add_mux_stream("mjpeg", rate=_TICKS_PER_S, width=width, height=height)
        stream.time_base = Fraction(1, _TICKS_PER_S)
        ticks = -1
        for jpeg, pts in zip(jpegs, pts_ns, strict=True):
            packet = av.Packet(jpeg)
            # The facts keep the exact times; a movie wants them rising and not below zero.
            ticks = max(ticks + 1, int(pts) * _TICKS_PER_S // 1_000_000_000)
            packet.pts = packet.dts = ticks
            packet.time_base = Fraction(1, _TICKS_PER_S)
            packet.stream = stream
            packet.is_keyframe = True
            container.mux(packet)
    return out.getvalue()
