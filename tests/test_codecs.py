"""Pieces survive their codec, and damage is never read as data."""

from __future__ import annotations

import io
import os
import pickle
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from omniloom.modalities import codecs, frames, video
from omniloom.modalities.base import Frames, Waveform, read


@given(hnp.arrays(np.int16, st.integers(1, 9000)))
@settings(max_examples=40, deadline=None)
def test_flac_keeps_every_sample(samples: np.ndarray) -> None:
    assert np.array_equal(codecs.decode("flac", codecs.encode("flac", samples)), samples)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory: that is the other way")
def test_flac_is_read_the_same_without_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, 40_000, np.int16)
    data = codecs.encode("flac", samples)
    assert np.array_equal(codecs.decode("flac", data), samples)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ValueError, match="damaged FLAC"):
        codecs.decode("flac", data[:9000])
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    monkeypatch.delattr(os, "memfd_create")
    assert np.array_equal(codecs.decode("flac", data), samples)
    with pytest.raises(ValueError, match="damaged FLAC"):
        codecs.decode("flac", data[:9000])


def test_flac_states_its_length_in_its_header() -> None:
    data = codecs.encode_flac(np.arange(12345, dtype=np.int16))
    assert int.from_bytes(data[21:26], "big") & ((1 << 36) - 1) == 12345


def test_flac_is_read_by_dali_on_the_cpu() -> None:
    dali = pytest.importorskip("nvidia.dali")
    samples = np.random.default_rng(0).integers(-20_000, 20_000, 16_001, dtype=np.int16)
    data = np.frombuffer(codecs.encode_flac(samples), np.uint8)

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline() -> tuple:
        return tuple(dali.fn.decoders.audio(dali.fn.external_source(source=lambda: [data]), dtype=dali.types.INT16))

    pipe = pipeline()
    pipe.build()
    decoded, rate = pipe.run()
    assert np.array_equal(np.asarray(decoded[0])[:, 0], samples)
    assert float(np.asarray(rate[0])) == 16_000


@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
@settings(max_examples=40, deadline=None)
def test_png_keeps_all_16_bits(codes: np.ndarray) -> None:
    back = codecs.decode("png", codecs.encode("png", codes))
    assert back.dtype == np.uint16
    assert np.array_equal(back, codes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (67, 45)])
def test_a_png_is_read_as_pillow_reads_it_whoever_wrote_it(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for array in (rng.integers(0, 2**16, shape, np.uint16), rng.integers(0, 256, (*shape, 3), np.uint8)):
        ours, others = codecs.encode("png", array), io.BytesIO()
        Image.fromarray(array).save(others, "PNG")
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(ours))), array)
        for data in (ours, others.getvalue()):
            back = codecs.decode("png", data)
            assert back.dtype == array.dtype
            assert np.array_equal(back, array)


@pytest.mark.parametrize("height", [*range(1, 19), 99, 100, 101, 5120])
def test_png_keeps_every_row(height: int) -> None:
    rgb = np.random.default_rng(height).integers(0, 256, (height, 5, 3), np.uint8)
    codes = np.random.default_rng(height).integers(0, 65_536, (height, 5), np.uint16)
    assert np.array_equal(codecs.decode("png", codecs.encode("png", rgb)), rgb)
    back = codecs.decode("png", codecs.encode("png", codes))
    assert back.dtype == np.uint16
    assert np.array_equal(back, codes)


def test_png_keeps_colours() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    assert np.array_equal(codecs.decode("png", codecs.encode("png", rgb)), rgb)


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.int64, np.uint8]),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=8),
    )
)
@settings(max_examples=40, deadline=None)
def test_npy_keeps_shape_type_and_numbers(array: np.ndarray) -> None:
    back = codecs.decode("npy", codecs.encode("npy", array))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array, equal_nan=array.dtype.kind == "f")


def test_npy_never_unpickles() -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("a pickle was run",))

    out = io.BytesIO()
    np.lib.format.write_array(out, np.array([Bomb()], object), allow_pickle=True)
    for data in (out.getvalue(), pickle.dumps(Bomb())):
        with pytest.raises(ValueError, match="damaged NPY"):
            codecs.decode("npy", data)


@pytest.mark.parametrize("header", ["(999999999999,)", "(7,9**9)", "(-7, -7)", "(7, 8)", "7", "[" * 60, "(7, 7"])
def test_npy_with_another_shape_than_its_bytes_is_damaged(header: str) -> None:
    data = codecs.encode_npy(np.zeros((7, 7), np.float32))
    text = data[10:128].decode().replace("(7, 7)", header).ljust(117)[:117] + "\n"
    with pytest.raises(ValueError, match="damaged NPY"):
        codecs.decode("npy", data[:10] + text.encode() + data[128:])


def test_every_flipped_bit_of_a_flac_is_noticed() -> None:
    samples = (8000 * np.sin(np.arange(20_000) / 9)).astype(np.int16)
    data = codecs.encode_flac(samples)
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(data), 40):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        try:
            # Bits without a meaning for the samples may be other than they were.
            assert np.array_equal(codecs.decode("flac", bytes(damaged)), samples)
        except ValueError as error:
            assert "damaged FLAC" in str(error)  # noqa: PT017


def test_flac_has_the_samples_of_libsndfile_whoever_reads_it() -> None:
    pytest.importorskip("miniaudio")
    rng = np.random.default_rng(2)
    for count in (1, 5, 4096, 20_001):
        samples = rng.integers(-(2**15), 2**15, count).astype(np.int16)
        data = codecs.encode_flac(samples)
        own = codecs._decode_own_flac(data)
        assert own is not None
        assert np.array_equal(own, samples)
        assert np.array_equal(codecs._decode_any_flac(data), samples)
        assert codecs._decode_own_flac(data[:-3]) is None
        huge = bytearray(data)
        huge[21] |= 15  # the upper bits of the number of samples: 60 thousand million of them
        assert codecs._decode_own_flac(bytes(huge)) is None
        with pytest.raises(ValueError, match="damaged FLAC"):
            codecs.decode("flac", bytes(huge))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_have_the_pixels_that_pillow_reads(mode: str) -> None:
    pytest.importorskip("simplejpeg")
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[0:97, 0:131]
    noise = rng.integers(0, 60, (97, 131, 3))
    rgb = (np.stack([rows + columns, 2 * rows, columns], -1) / 2 + noise).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(data, "JPEG", quality=80)
    with Image.open(data) as picture:
        expected = np.asarray(picture.convert("RGB"))
    # Without colours of its own CMYK has as many ways to RGB as there are programs.
    most = 2 if mode == "CMYK" else 0
    assert np.abs(codecs.decode("jpeg", data.getvalue()).astype(int) - expected).max() <= most


def test_jpegs_that_are_cut_or_flipped_are_refused_or_read_and_nothing_else() -> None:
    pytest.importorskip("simplejpeg")
    rng = np.random.default_rng(4)
    data = codecs.encode("jpeg", rng.integers(0, 255, (64, 80, 3)).astype(np.uint8))
    for end in range(2, len(data) - 2, 97):
        with pytest.raises(ValueError, match="damaged JPEG"):
            codecs.decode("jpeg", data[:end])
    for _ in range(100):
        flipped = bytearray(data)
        flipped[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        with suppress(ValueError):  # anything else that is raised fails the test
            assert codecs.decode("jpeg", bytes(flipped)).shape[2] == 3


def test_a_jpeg_with_bytes_between_its_segments_is_read() -> None:
    data = codecs.encode("jpeg", np.full((16, 24, 3), 90, np.uint8))
    scan = data.index(b"\xff\xda")
    assert np.array_equal(codecs.decode("jpeg", data[:scan] + b"abc" + data[scan:]), codecs.decode("jpeg", data))


@pytest.mark.parametrize("codec", ["jpeg", "png", "flac", "npy", "json", "mp4"])
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"RIFF....WAVE", b"#EXTM3U\nfile:///etc/hostname\n", b"[" * 100_000]
)
def test_bytes_of_another_format_raise_value_error(codec: str, data: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        codecs.decode(codec, data)


def test_an_unknown_codec_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'webp'.*jpeg"):
        codecs.decode("webp", b"")


# --- movies ---------------------------------------------------------------------------------------------------


def test_the_frames_movie_plays_with_its_own_times() -> None:
    value = frames.example(np.random.default_rng(0))
    part = frames.encode(value)
    with av.open(io.BytesIO(part.data)) as movie:
        played = list(movie.decode(video=0))
    assert [round(frame.time, 6) for frame in played] == [pts // 1000 / 1e6 for pts in value.pts_ns]
    spans = [part.data[o : o + s] for o, s in frames.pieces(part.facts, len(part.data))]
    assert all(span.startswith(b"\xff\xd8") and span.endswith(b"\xff\xd9") for span in spans)


def test_frames_shown_twice_or_before_the_clip_keep_their_times() -> None:
    rgb = frames.example(np.random.default_rng(0)).rgb
    value = Frames(rgb, np.array([-20_000_000, -20_000_000, 5, 5, 10**9]))
    part = frames.encode(value)
    assert np.array_equal(read(frames, part).pts_ns, value.pts_ns)
    with av.open(io.BytesIO(part.data)) as movie:
        assert len(list(movie.decode(video=0))) == 5


def test_a_frame_span_outside_the_member_is_refused() -> None:
    part = frames.encode(frames.example(np.random.default_rng(0)))
    with pytest.raises(ValueError, match="of a member of"):
        frames.pieces(part.facts, len(part.data) // 2)


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_a_movie_keeps_uneven_times_and_its_sound(codec: str) -> None:
    times_ns = np.cumsum([20, 33, 33, 100, 7, 250, 41, 41]) * 1_000_000
    recorder = video.recorder(video.Config(codec=codec))
    assert recorder is not None
    grey = np.full((51, 71, 3), 90, np.uint8)  # odd sizes: 4:2:0 cannot hold them
    for step, pts_ns in enumerate(times_ns):
        recorder.picture(av.VideoFrame.from_ndarray(grey + np.uint8(step), format="rgb24"), int(pts_ns))
    click = np.zeros(16_000, np.int16)
    click[8000:8400] = 20_000
    movie = recorder.finish(Waveform(click))
    assert (movie.width, movie.height) == (70, 50)
    assert np.array_equal(movie.pts_ns, times_ns)
    back = codecs.decode("mp4", movie.data)
    assert np.abs(back.pts_ns - times_ns).max() < 10_000
    with av.open(io.BytesIO(movie.data)) as container:
        blocks = [(frame.time, frame.to_ndarray()[0], frame.sample_rate) for frame in container.decode(audio=0)]
    starts = [time + np.argmax(np.abs(b) > 0.2) / rate for time, b, rate in blocks if (np.abs(b) > 0.2).any()]
    assert starts[0] == pytest.approx(0.5, abs=0.01)


def test_a_clip_without_pictures_makes_no_movie() -> None:
    recorder = video.recorder(video.Config())
    assert recorder is not None
    assert recorder.finish(None) is None
    assert video.recorder(video.Config(codec="none")) is None
