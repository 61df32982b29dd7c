"""Frames of every kind become upright 8-bit pictures of the right size and the right colours, HDR too."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter

from omniloom.modalities.sample import Rejected
from omniloom.pipeline.hdr import Look, look_of, to_bt709
from omniloom.pipeline.picture import Scaler
from tests.media import make_clip

COLOURS = np.array(
    [
        [255, 255, 255],
        [0, 0, 0],
        [128, 128, 128],
        [200, 30, 40],
        [30, 180, 60],
        [40, 50, 220],
        [220, 200, 40],
        [60] * 3,
    ],
    np.uint8,
)
"""Patches, two rows of four."""
BT601 = np.array([0.299, 0.587, 0.114])


def _patches(values: np.ndarray, px: int = 96) -> np.ndarray:
    """(8, C) as a picture (2 px, 4 px, C)."""
    return np.repeat(np.repeat(values.reshape(2, 4, -1), px, 0), px, 1)


def _middles(picture: np.ndarray) -> np.ndarray:
    """The colours of a picture of patches: int (8, C)."""
    px = picture.shape[0] // 2
    return picture[px // 2 :: px, px // 2 :: px].reshape(8, -1).astype(int)


def _frame(pix_fmt: str, full: bool = False) -> Any:
    base = av.VideoFrame.from_ndarray(_patches(COLOURS), format="rgb24")
    if pix_fmt == "pal8":
        return _with_palette(base)
    flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    return VideoReformatter().reformat(
        base, format=pix_fmt, dst_colorspace=5, dst_color_range=2 if full else 1, interpolation=flags
    )


def _with_palette(base: Any) -> Any:
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(width=base.width, height=base.height, format=base.format, time_base=Fraction(1, 25))
    split, learn, use = graph.add("split"), graph.add("palettegen"), graph.add("paletteuse", dither="none")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(learn, 0, 0)
    split.link_to(use, 1, 0)
    learn.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    base.pts = 0
    source.push(base)
    source.push(None)
    return sink.pull()


YUV = (
    "yuv420p yuvj420p yuv422p yuv444p yuv440p yuv411p yuva420p nv12 p010le yuyv422 yuv420p10le yuv444p12le yuv420p10be"
)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize(
    "pix_fmt", [*YUV.split(), "rgb24", "rgba", "gbrp", "gbrp10le", "pal8", "gray", "gray10le", "ya8"]
)
def test_every_pixel_format_gives_the_same_colours(pix_fmt: str, full: bool) -> None:
    frame = _frame(pix_fmt, full)
    meant = COLOURS.astype(int)
    if pix_fmt in ("gray", "gray10le", "ya8"):
        meant = np.rint(meant @ BT601).astype(int)[:, None].repeat(3, 1)
    scaler = Scaler()
    assert np.abs(_middles(scaler.rgb(frame, (96, 48))) - meant).max() <= 3
    movie = scaler.yuv(frame, (96, 48))
    assert (movie.format.name, movie.width, movie.height, movie.color_range) == ("yuv420p", 96, 48, 1)
    assert np.abs(_middles(movie.to_ndarray(format="rgb24")) - meant).max() <= 4, "read by its own tags"

    luma = meant @ BT601
    assert np.abs(_middles(scaler.thumbnail(frame, 8, 4, "gray")[..., None])[:, 0] - luma).max() <= 2
    tiny = _middles(scaler.thumbnail(frame, 8, 4))
    assert np.abs(tiny[:, 0] - (16 + luma * 219 / 255)).max() <= 2
    assert np.abs(tiny[:, 1] - (128 + (meant[:, 2] - luma) / 1.772 * 224 / 255)).max() <= 2
    assert np.abs(tiny[:, 2] - (128 + (meant[:, 0] - luma) / 1.402 * 224 / 255)).max() <= 2
    for order, format in ((1, "rgb24"), (-1, "bgr24")):  # noqa: A001
        assert np.abs(_middles(scaler.thumbnail(frame, 8, 4, format)) - meant[:, ::order]).max() <= 3


def test_thumbnails_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="yuv444p, gray, rgb24 or bgr24"):
        Scaler().thumbnail(_frame("yuv420p"), 8, 4, "yuv420p")


@pytest.mark.parametrize("size", [(1280, 720), (640, 360)])
@pytest.mark.parametrize("told", [False, True], ids=["untold", "told"])
def test_the_matrix_of_a_movie_is_the_sources_own_and_is_told(size: tuple[int, int], told: bool) -> None:
    # What does not state its matrix means BT.709 from 720 lines up, and BT.601 below.
    luma = np.full((size[1] * 3 // 2, size[0]), 120, np.uint8)
    luma[size[1] :] = 90
    frame = av.VideoFrame.from_ndarray(luma, format="yuv420p")
    if told:
        frame.colorspace = 1
    movie = Scaler().yuv(frame, (320, 180))
    assert (movie.to_ndarray() == np.concatenate([np.full((180, 320), 120), np.full((90, 320), 90)])).all()
    assert movie.colorspace in ((1,) if told or size[1] == 720 else (5, 6))
    r_v, b_u = (1.5748, 1.8556) if movie.colorspace == 1 else (1.402, 1.772)
    y, chroma = (120 - 16) / 219, (90 - 128) / 224
    shown = Scaler().rgb(frame, (320, 180))[90, 160].astype(int)
    assert abs(shown[0] - 255 * (y + r_v * chroma)) < 1.5
    assert abs(shown[2] - 255 * (y + b_u * chroma)) < 1.5


def test_colours_that_cannot_be_read_are_rejected_by_name_instead_of_shown_wrong() -> None:
    frame = _frame("yuv420p")
    frame.colorspace = 8  # YCgCo
    for form in (Scaler().rgb, Scaler().yuv):
        with pytest.raises(Rejected, match="unknown-colours"):
            form(frame, (96, 48))


def test_colours_keep_their_resolution_when_a_frame_shrinks() -> None:
    # Columns of red and blue 4 wide, halved: straight to RGB, swscale averages colours of two columns that came out.
    rgb = np.zeros((64, 128, 3), np.uint8)
    rgb[..., 0] = np.tile(np.repeat([200, 20], 4), 16)
    rgb[..., 2] = np.tile(np.repeat([20, 200], 4), 16)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv444p")
    small = Scaler().rgb(frame, (64, 32)).astype(int)
    assert np.abs(small - rgb[::2, ::2]).max() <= 3


def test_shrinking_is_by_area() -> None:
    noise = np.random.default_rng(0).integers(16, 236, (720 * 3 // 2, 1280), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="yuv420p")
    exact = noise[:720].reshape(180, 4, 320, 4).mean((1, 3))
    error = Scaler().yuv(frame, (320, 180)).to_ndarray()[:180] - exact
    assert 10 * np.log10(255**2 / (error**2).mean()) > 55


def _save(path: Path, yuv: np.ndarray, size: tuple[int, int], transfer: str, primaries: str, matrix: str) -> Any:
    """The first frame of an H.265 file of 10-bit 4:4:4 pictures, lossless and tagged: uint16 (3, H, W) in."""
    tags = f"log-level=none:lossless=1:colorprim={primaries}:transfer={transfer}:colormatrix={matrix}:range=limited"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx265", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv444p10le"
        stream.options = {"preset": "ultrafast", "x265-params": tags + ":pools=1:frame-threads=1"}
        frame = av.VideoFrame(*size, "yuv444p10le")
        for plane, values in zip(frame.planes, yuv, strict=True):
            rows = np.zeros((size[1], plane.line_size // 2), np.uint16)
            rows[:, : size[0]] = values
            plane.update(rows.tobytes())
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


KR, KB = 0.2627, 0.0593


def _coded(rgb: np.ndarray) -> np.ndarray:
    """Colours in [0, 1], (N, 3), as 10-bit limited YUV of BT.2020, uint16 (N, 3)."""
    luma = rgb @ [KR, 1 - KR - KB, KB]
    blue, red = (rgb[:, 2] - luma) / (2 - 2 * KB), (rgb[:, 0] - luma) / (2 - 2 * KR)
    return np.rint(np.stack([64 + 876 * luma, 512 + 896 * blue, 512 + 896 * red], 1)).astype(np.uint16)


def _meant(nits: np.ndarray) -> np.ndarray:
    """What light in BT.2020, (N, 3) nits, must look like in 8 bits: written here a second time, from the standards."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875

    def pq(light: float) -> float:
        y = (light / 10_000) ** m1
        return ((c1 + c2 * y) / (1 + c3 * y)) ** m2

    def light(code: float) -> float:
        root = code ** (1 / m2)
        return 10_000 * (max(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)

    def eetf(light_in: float) -> float:
        e1, top = min(pq(light_in) / pq(1000), 1.0), pq(203) / pq(1000)
        ks = 1.5 * top - 0.5
        if e1 < ks:
            return light_in
        t = (e1 - ks) / (1 - ks)
        e2 = (2 * t**3 - 3 * t**2 + 1) * ks + (t**3 - 2 * t**2 + t) * (1 - ks) + (-2 * t**3 + 3 * t**2) * top
        return light(e2 * pq(1000))

    toned = np.vectorize(eetf)(nits) / 203
    # BT.2087: the matrix of the other direction is the one that is printed.
    linear = np.linalg.solve([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]], toned.T).T
    return 255 * np.clip(linear, 0, 1) ** (1 / 2.4)


def _pq(nits: np.ndarray) -> np.ndarray:
    y = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


GREYS = np.array([0.0, 1, 10, 50, 100, 203, 500, 1000])
TINTS = np.array(
    [[60, 30, 20], [20, 60, 30], [30, 25, 80], [200, 150, 100], [90, 100, 150], [10, 8, 5], [300, 203, 150], [3, 4, 5]]
)


@pytest.mark.parametrize("nits", [GREYS[:, None].repeat(3, 1), TINTS], ids=["greys", "tints"])
def test_pq_of_known_light_becomes_the_8_bit_values_of_the_standards(tmp_path: Path, nits: np.ndarray) -> None:
    yuv = _patches(_coded(_pq(nits.astype(float)))).transpose(2, 0, 1)
    frame = _save(tmp_path / "pq.mkv", yuv, (384, 192), "smpte2084", "bt2020", "bt2020nc")
    assert look_of(frame) == Look("pq", "bt2020")
    shown = _middles(Scaler().rgb(frame, (96, 48)))
    assert np.abs(shown - _meant(nits)).max() <= 2.5
    if nits[0].sum() == 0:
        assert np.ptp(shown, axis=1).max() <= 1, "neutral stays neutral"
        assert (np.diff(shown[:, 1]) > 0).all(), "brighter light stays brighter"
        assert 220 <= shown[5, 1] <= 240, "SDR white is bright, and there is room above it"
        assert (shown[0, 1], shown[7, 1]) == (0, 255)
    movie = Scaler().yuv(frame, (96, 48))
    assert (movie.colorspace, movie.color_trc, movie.color_primaries, movie.color_range) == (1, 1, 1, 1)
    assert np.abs(_middles(movie.to_ndarray(format="rgb24")) - shown).max() <= 3
    thumbnail = _middles(Scaler().thumbnail(frame, 8, 4, "gray")[..., None])[:, 0]
    assert np.abs(thumbnail - shown @ [0.2126, 0.7152, 0.0722]).max() <= (2 if nits[0].sum() == 0 else 14)


def test_hlg_of_known_light_becomes_the_8_bit_values_of_the_standards(tmp_path: Path) -> None:
    # BT.2100: on a screen of 1000 nits, 75 % is reference white and 100 % is the peak.
    code = np.array([0.0, 0.1, 0.25, 0.38, 0.5, 0.6, 0.75, 1.0])
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    nits = 1000 * scene**1.2
    assert nits[6] == pytest.approx(203, abs=0.5)
    yuv = _patches(_coded(code[:, None].repeat(3, 1))).transpose(2, 0, 1)
    frame = _save(tmp_path / "hlg.mkv", yuv, (384, 192), "arib-std-b67", "bt2020", "bt2020nc")
    assert look_of(frame) == Look("hlg", "bt2020")
    shown = _middles(Scaler().rgb(frame, (96, 48)))
    assert np.abs(shown - _meant(nits[:, None].repeat(3, 1))).max() <= 2


def test_wide_gamut_sdr_becomes_bt709(tmp_path: Path) -> None:
    light = np.array([[0.7, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.3, 0.6], [1, 1, 1], [0.5, 0.5, 0.5], [0.6, 0.5, 0.3]])
    light = np.concatenate([light, [[0, 0, 0], [0.2, 0.2, 0.2]]])
    wide = light @ np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]).T
    yuv = _patches(_coded(wide ** (1 / 2.4))).transpose(2, 0, 1)
    frame = _save(tmp_path / "wide.mkv", yuv, (384, 192), "bt2020-10", "bt2020", "bt2020nc")
    assert np.abs(_middles(Scaler().rgb(frame, (96, 48))) - 255 * light ** (1 / 2.4)).max() <= 2


def test_ten_bit_video_equals_the_eight_bit_video_of_the_same_colours(tmp_path: Path) -> None:
    eight = np.random.default_rng(0).integers(40, 200, (3, 24, 48), np.uint16).repeat(8, 1).repeat(8, 2)
    frame = _save(tmp_path / "ten.mkv", eight * 4, (384, 192), "bt709", "bt709", "bt709")
    plain = av.VideoFrame.from_ndarray(eight.astype(np.uint8), format="yuv444p")
    plain.colorspace = 1
    assert look_of(frame) is None
    for shrink in (1, 2, 3):
        size = (384 // shrink, 192 // shrink)
        pairs = [
            (Scaler().rgb(f, size).astype(int), Scaler().yuv(f, size).to_ndarray().astype(int)) for f in (frame, plain)
        ]
        assert np.abs(pairs[0][1] - pairs[1][1]).max() <= 1
        assert np.abs(pairs[0][0] - pairs[1][0]).max() <= 4, "one level of chroma is worth two of blue"
        assert np.abs(pairs[0][0] - pairs[1][0]).mean() < 0.4
    assert np.abs(Scaler().thumbnail(frame).astype(int) - Scaler().thumbnail(plain)).max() <= 1


@pytest.mark.parametrize("transfer", ["pq", "hlg", "sdr"])
@pytest.mark.parametrize("gamut", ["bt709", "bt2020", "p3"])
def test_every_look_keeps_black_white_grey_and_order(transfer: Any, gamut: Any) -> None:
    greys = to_bt709(np.linspace(0, 1, 500)[:, None].repeat(3, 1), Look(transfer, gamut))
    assert np.abs(greys - greys[:, :1]).max() < 0.002
    assert (np.diff(greys[:, 1]) >= 0).all()
    assert (greys[0] < 0.002).all()
    assert (greys[-1] > 0.998).all()


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_and_oblong_pixels_give_upright_square_pictures(tmp_path: Path, rotation: int) -> None:
    def corner(_index: int, _time: float) -> np.ndarray:
        rgb = np.zeros((96, 160, 3), np.uint8)
        rgb[:48, :80, 0] = 220  # red at the top left, as coded
        return rgb

    path = make_clip(tmp_path / "a.mp4", 0.2, 25, (160, 96), picture=corner, tone=False, rotation_deg=rotation)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    for aspect, coded in ((1.0, (160, 96)), (0.5, (80, 96)), (2.0, (160, 48))):
        scaler = Scaler(aspect)
        size = scaler.size(frame, 256)
        assert size == (coded if rotation % 180 == 0 else coded[::-1])
        rgb = scaler.rgb(frame, size)
        movie = scaler.yuv(frame, size)
        assert (movie.width, movie.height) == rgb.shape[1::-1] == size
        seen = movie.to_ndarray(format="rgb24")
        quarters = [(y, x) for y in (size[1] // 4, size[1] * 3 // 4) for x in (size[0] // 4, size[0] * 3 // 4)]
        red = {0: 0, 90: 2, 180: 3, 270: 1}[rotation]  # counter-clockwise: top left, bottom left, ...
        for picture in (rgb, seen):
            assert int(np.argmax([int(picture[at][0]) for at in quarters])) == red


@pytest.mark.parametrize("codec", ["h264", "vp9"])
@pytest.mark.parametrize("matrix", [1, 5])
def test_a_movie_is_read_back_in_the_colours_of_its_source(codec: Any, matrix: int) -> None:
    from omniloom.modalities import video
    from omniloom.modalities.base import read

    base = av.VideoFrame.from_ndarray(_patches(COLOURS), format="rgb24")
    source = VideoReformatter().reformat(base, format="yuv420p", dst_colorspace=matrix, dst_color_range=1)
    recorder = video.recorder(video.Config(codec=codec, crf=4))
    assert recorder is not None
    for index in range(3):
        recorder.picture(Scaler().yuv(source, (192, 96)), index * 40_000_000)
    movie: Any = recorder.finish(None)
    back = read(video, video.encode(movie)).rgb[1]
    assert np.abs(_middles(back) - COLOURS.astype(int)).max() <= 5
