"""DALI decodes what our own codecs decode, to the same arrays."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from omniloom.modalities import codecs, load, names
from omniloom.modalities.base import Codec, Window
from omniloom.pipeline import Loader
from tests.shards import SMALL, make_corpus

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

from omniloom.pipeline.dali import DaliDecoder

DECODES = {"jpeg", "png", "flac", "npy"}


@pytest.fixture(scope="module")
def dali() -> DaliDecoder:
    return DaliDecoder(device_id=None)


def pieces_of(name: str, seed: int) -> list[bytes]:
    modality = load(name)
    part = modality.encode(modality.example(np.random.Generator(np.random.Philox(seed))))
    return [part.data[offset : offset + size] for offset, size in modality.pieces(part.facts, len(part.data))]


@pytest.mark.parametrize("name", names())
def test_dali_agrees_with_our_codecs_on_every_modality(name: str, dali: DaliDecoder) -> None:
    codec = load(name).codec
    pieces = [piece for seed in range(3) for piece in pieces_of(name, seed)]
    arrays = dali.decode(codec, pieces)
    if codec not in DECODES:
        assert arrays == [None] * len(pieces)
        return
    for piece, array in zip(pieces, arrays, strict=True):
        expected = codecs.decode(codec, piece)
        assert array is not None
        assert array.shape == expected.shape
        assert array.dtype == expected.dtype
        if codec == "jpeg":
            assert np.abs(array.astype(int) - expected).mean() < 2.5
        else:
            assert np.array_equal(array, expected)


def test_lossless_codecs_are_exact_over_their_whole_range(dali: DaliDecoder) -> None:
    rng = np.random.Generator(np.random.Philox(3))
    arrays: dict[Codec, list[np.ndarray]] = {
        "png": [rng.integers(0, 65_536, (33, 47), np.uint16), rng.integers(0, 256, (20, 30, 3), np.uint8)],
        "flac": [rng.integers(-32_768, 32_768, 5000).astype(np.int16), np.array([7], np.int16)],
        "npy": [
            rng.normal(size=(50, 6)).astype(np.float16),
            rng.normal(size=9).astype("<f4"),
            rng.integers(0, 9, (2, 3, 4)),
            rng.normal(size=4).astype(">f4"),
        ],
    }
    for codec, values in arrays.items():
        pieces = [codecs.encode(codec, value) for value in values]
        for value, array in zip(values, dali.decode(codec, pieces), strict=True):
            if value.dtype.byteorder == ">":  # DALI would swap its bytes: left to our codecs
                assert array is None
                continue
            assert array is not None
            assert array.dtype == value.dtype
            assert np.array_equal(array, value), (codec, value.dtype)


def test_a_bad_piece_does_not_break_the_decoder(dali: DaliDecoder) -> None:
    good = pieces_of("frames", 0)
    assert all(array is None for array in dali.decode("jpeg", [good[0], good[1][:60]]))
    assert all(array is not None for array in dali.decode("jpeg", good))


def test_more_pieces_than_fit_one_batch_keep_their_order(dali: DaliDecoder) -> None:
    sounds = [np.full(100 + number, number, np.int16) for number in range(150)]
    for sound, array in zip(sounds, dali.decode("flac", [codecs.encode_flac(sound) for sound in sounds]), strict=True):
        assert np.array_equal(array, sound)


def test_batches_are_the_same_from_dali_and_from_our_codecs(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=1, per_unit=8)
    window = Window(num_frames=2, image_px=16, num_samples=1600)
    ours, dalis = (Loader(corpus, SMALL, 4, backend=backend, workers=2, window=window) for backend in ("cpu", "dali"))
    for a, b in islice(zip(ours, dalis, strict=False), 6):
        assert a.keys == b.keys
        assert a.texts == b.texts
        assert torch.equal(a.tensors["audio"], b.tensors["audio"])
        assert (a.tensors["frames"] - b.tensors["frames"]).abs().mean() < 0.02
    who = "cpu" if not torch.cuda.is_available() else "gpu"
    assert f"jpeg: dali ({who}" in dalis.backend_report
    assert "json: cpu" in dalis.backend_report


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_gpu_decodes_jpegs_to_nearly_the_same_pictures() -> None:
    pieces = pieces_of("frames", 0)
    for piece, array in zip(pieces, DaliDecoder(device_id=0).decode("jpeg", pieces), strict=True):
        assert array is not None
        assert np.abs(array.astype(int) - codecs.decode("jpeg", piece)).mean() < 2.5
