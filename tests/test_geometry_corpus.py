"""From files to a corpus to batches: depth and normals as exact as stated, and a modality of one's own in one file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from omniloom import open_corpus
from omniloom.modalities import depth, geometry, load, normal
from omniloom.modalities.base import Window, read
from omniloom.pipeline import Loader
from omniloom.pipeline.jobs import build
from omniloom.recipes.config import build_recipe
from tests.media import make_clip
from tests.test_modality_contract import THERMAL

K = geometry.intrinsics(90.0, 90.0, 47.5, 31.5)
N = np.array([0.2, -0.4, -0.9]) / np.linalg.norm([0.2, -0.4, -0.9])
Z = -3 / (geometry.rays(K, 96, 64) @ N)


@pytest.fixture
def thermal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A modality that is one file outside the package."""
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "thermal.py").write_text(THERMAL)
    monkeypatch.syspath_prepend(str(tmp_path))
    load.cache_clear()
    yield "mylab.thermal"
    load.cache_clear()
    for name in ("mylab.thermal", "mylab"):
        sys.modules.pop(name, None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two seconds of pictures of 96 x 64 with float depth of a plane, and the camera's poses."""
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / "x.mp4"
    make_clip(path, seconds=2, fps=10, size=(96, 64), tone_hz=300, flashes=[(0.5, 0.7)])
    times = np.arange(20) * 100_000_000
    np.savez(path.with_suffix(".depth.npz"), depth_m=np.repeat(Z[None], 20, axis=0), pts_ns=times, K=K, kind="z")
    record = {"K": K.tolist(), "width": 96, "height": 64, "poses": [np.eye(4).tolist()] * 20, "pts_ns": times.tolist()}
    path.with_suffix(".camera.json").write_text(json.dumps(record))
    return path


def test_depth_and_normals_come_out_of_a_corpus_as_exact_as_its_facts_state(source: Path, tmp_path: Path) -> None:
    names = "frames,video,audio,caption,depth,normal"
    recipe = build_recipe(None, [f"modalities=[{names}]", "clips.length_s=2", "clips.min_s=1", "video.short_side=64"])
    build(recipe, [str(source)], tmp_path / "corpus", workers=0)
    corpus = open_corpus(tmp_path / "corpus")
    (sample,) = corpus.samples(["depth", "normal"])
    facts = sample.parts["depth"].facts
    value = read(depth, sample.parts["depth"])
    assert (facts["kind"], facts["intrinsics"]) == ("metric-z", "given")
    assert np.abs(value.z - Z).max() <= facts["max_error"] + 1e-6
    assert facts["max_error"] <= np.ptp(Z) / 131_000
    assert value.poses is not None
    assert np.array_equal(value.poses, np.repeat(np.eye(4)[None], len(value.z), axis=0))
    points = geometry.unproject(value.z[0].astype(np.float64), value.k)
    assert np.abs(points @ N + 3).max() < 1e-4 * Z.max()
    n = read(normal, sample.parts["normal"]).n
    assert np.degrees(np.arccos(np.clip(n @ N, -1, 1))).max() < 0.6, "half a code is 0.37 degrees"
    window = Window(num_frames=2, image_px=32)
    (batch,) = islice(Loader(corpus, ["depth", "normal"], 1, window=window, workers=0, train=False), 1)
    assert np.array_equal(batch.tensors["depth"][0].numpy(), depth.tensor(value, window))
    assert batch.present["normal"].all()


def test_a_modality_of_ones_own_is_one_file(source: Path, tmp_path: Path, thermal: str) -> None:
    recipe = build_recipe(
        None,
        [
            f"modalities=[frames,{thermal}]",
            "clips.length_s=2",
            "clips.min_s=1",
            "thermal.offset_c=20",
            "require=[frames]",
        ],
    )
    build(recipe, [str(source)], tmp_path / "corpus", workers=0)
    corpus = open_corpus(tmp_path / "corpus")
    assert corpus.stats()["modalities"]["thermal"]["present"] == 1
    assert corpus.table(["thermal"])["thermal"].to_pylist()[0]["unit"] == "C"
    (batch,) = islice(Loader(corpus, ["frames", "thermal"], 1, window=Window(num_frames=2, image_px=32), workers=0), 1)
    assert batch.tensors["thermal"].shape == (1, 2, 1, 32, 32)
    assert 20 <= float(batch.tensors["thermal"].min()) <= float(batch.tensors["thermal"].max()) <= 275
