"""High dynamic range and wide gamut turned into the ordinary 8-bit colours that models and screens expect.

The colours are computed once, exactly, for a grid of 33 x 33 x 33 inputs; FFmpeg's `lut3d` filter interpolates between
them. Nothing is measured on the picture, so that a frame looks the same wherever decoding began.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame

WHITE_NITS = 203.0
"""HDR reference white (ITU-R BT.2408), which is the white of SDR video."""
PEAK_NITS = 1000.0
"""The brightest light that is told apart: what most HDR video is graded for. Brighter light is shown as white."""
_GRID = 33
_GAMMA = 2.4  # of the screens that SDR video is made for: ITU-R BT.1886

_PQ, _HLG = 16, 18  # AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67
_UNSPECIFIED = (0, 2)
Gamut = Literal["bt709", "bt2020", "p3"]
_GAMUTS: dict[int, Gamut] = {9: "bt2020", 12: "p3"}  # AVCOL_PRI_BT2020, AVCOL_PRI_SMPTE432

# Linear light in the gamut to linear light in BT.709; all have the white D65. BT.2020: ITU-R BT.2087, inverted.
_TO_BT709 = {
    "bt709": np.eye(3),
    "bt2020": np.linalg.inv([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]),
    "p3": np.array([[1.2249402, -0.2249402, 0.0], [-0.0420570, 1.0420570, 0.0], [-0.0196376, -0.0786361, 1.0982737]]),
}
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593])  # of BT.2020


@dataclass(frozen=True, slots=True)
class Look:
    """How a frame's colours are coded, where that differs from ordinary video."""

    transfer: Literal["pq", "hlg", "sdr"]
    gamut: Gamut


def look_of(frame: VideoFrame) -> Look | None:
    """The frame's look by its tags; None for ordinary video, which is meant to be shown as it is coded."""
    transfer, primaries = frame.color_trc, frame.color_primaries
    if not is_special(transfer, primaries):
        return None
    gamut: Gamut = _GAMUTS.get(primaries, "bt709")
    if transfer not in (_PQ, _HLG):
        return Look("sdr", gamut)
    # HDR video that does not state its primaries is BT.2100, and so BT.2020.
    return Look("pq" if transfer == _PQ else "hlg", "bt2020" if primaries in _UNSPECIFIED else gamut)


def is_special(transfer: int, primaries: int) -> bool:
    """Whether these numbers of ITU-T H.273 mean a high dynamic range or a wide gamut."""
    return transfer in (_PQ, _HLG) or primaries in _GAMUTS


def to_bt709(rgb: np.ndarray, look: Look) -> np.ndarray:
    """Coded colours in [0, 1], (..., 3), as BT.709 colours for an SDR screen, in [0, 1].

    Light by the curves of ITU-R BT.2100 (HLG for a screen of 1000 nits), on each channel the tone curve of BT.2390 from
    1000 to 203 nits, primaries by BT.2087 with what lies outside BT.709 clipped, and the inverse of BT.1886. Light up
    to 88 nits keeps its ratios; reference white (203 nits) becomes 0.90 and 1000 nits becomes 1.
    """
    rgb = np.asarray(rgb, np.float64)
    if look.transfer == "sdr":
        light = np.clip(rgb, 0, 1) ** _GAMMA
    else:
        nits = pq_nits(rgb) if look.transfer == "pq" else _hlg_nits(rgb)
        light = _tone(nits) / WHITE_NITS
    return np.clip(light @ _TO_BT709[look.gamut].T, 0, 1) ** (1 / _GAMMA)


def pq_nits(code: np.ndarray) -> np.ndarray:
    """Light of a PQ value in [0, 1]: 0 to 10,000 nits (ITU-R BT.2100, table 4)."""
    root = np.clip(code, 0, 1) ** (32 / 2523)
    return 10_000 * (np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)


def nits_pq(nits: np.ndarray) -> np.ndarray:
    """The PQ value of a light, the inverse of `pq_nits`."""
    root = np.clip(np.asarray(nits) / 10_000, 0, 1) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * root) / (1 + 2392 / 128 * root)) ** (2523 / 32)


def _hlg_nits(code: np.ndarray) -> np.ndarray:
    """Light of HLG colours (..., 3) on a screen of 1000 nits (ITU-R BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    code = np.clip(code, 0, 1)
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    return 1000 * (scene @ _LUMINANCE)[..., None] ** 0.2 * scene


def _tone(nits: np.ndarray) -> np.ndarray:
    """Light for a screen of 203 nits, from light up to 1000: ITU-R BT.2390, section 5.4, for a black of 0."""
    peak = nits_pq(np.array(PEAK_NITS))
    code = np.clip(nits_pq(nits) / peak, 0, 1)
    top = nits_pq(np.array(WHITE_NITS)) / peak
    knee = 1.5 * top - 0.5
    t = np.clip((code - knee) / (1 - knee), 0, 1)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * top
    return pq_nits(np.where(code < knee, code, bent) * peak)


class ToneMap:
    """Turns small gbrp16le frames of one look into BT.709 ones, 1.5 ms for 456 x 256 pixels."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._graphs: dict[tuple[int, int], tuple[Any, Any, Any]] = {}

    def apply(self, frame: VideoFrame) -> VideoFrame:
        """A gbrp16le frame as a gbrp16le frame of BT.709."""
        size = (frame.width, frame.height)
        if size not in self._graphs:
            self._graphs[size] = self._graph(*size)
        _, source, sink = self._graphs[size]
        source.push(frame)
        return sink.pull()

    def _graph(self, width: int, height: int) -> tuple[Any, Any, Any]:
        from av import VideoFormat
        from av.filter import Graph

        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=width, height=height, format=VideoFormat("gbrp16le"), time_base=Fraction(1, 1000)
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "look.cube"
            path.write_text(_cube(self._look), encoding="ascii")
            table = graph.add("lut3d", file=str(path), interp="tetrahedral")
        sink = graph.add("buffersink")
        graph.link_nodes(source, table, sink)
        graph.configure()
        return graph, source, sink


@cache
def curve(look: Look) -> np.ndarray:
    """float64 (4096,): BT.709 values of the greys k / 4095."""
    grey = np.linspace(0, 1, 4096)
    return to_bt709(np.repeat(grey[:, None], 3, axis=1), look)[:, 1]


@cache
def _cube(look: Look) -> str:
    """The look as a table in the format of Adobe's .cube files: red runs fastest."""
    steps = np.linspace(0, 1, _GRID)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    table = to_bt709(np.stack([red, green, blue], axis=-1), look).reshape(-1)
    return f"LUT_3D_SIZE {_GRID}\n" + ("%.6f %.6f %.6f\n" * (_GRID**3)) % tuple(table)
