"""The demo, small: raw files to a trained model and a picture, in one command that can be run again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from omniloom import open_corpus
from tests.clock.walk import walk

SMALL = ["demo.train_clips=10", "demo.test_clips=6", "train.steps=3", "train.batch_size=4"]


def run_demo(out: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "omniloom.recipes.cli", "demo", "--out", str(out), "--json", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The demo's folder, and what it reported."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, run_demo(folder)


def test_the_demo_makes_every_modality_trains_scores_and_draws_and_continues(
    demo: tuple[Path, dict[str, object]],
) -> None:
    folder, report = demo
    assert {"build", "generate", "train", "control", "eval", "seconds", "picture"} <= set(report)
    corpus = open_corpus(folder / "corpus")
    stats = corpus.stats()
    assert stats["splits"] == {"test": 6, "train": 10 + stats["samples"] - 16}
    assert all(values["present"] for values in stats["modalities"].values())
    assert corpus.check() == []
    real = [sample for sample in corpus if "real" in sample.path]
    assert real
    assert all({"depth", "normal", "points"} <= set(sample.parts) for sample in real)
    assert {sample.parts["depth"].facts["model"] for sample in corpus} == {"given", "omniloom-geometry.onnx"}
    scores = report["eval"]
    assert isinstance(scores, dict)
    assert scores["n"] == 6
    assert set(scores["controls"]) == {"untrained", "permuted captions"}
    with Image.open(folder / "demo.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24) or ()) > 1000
    again = run_demo(folder)["build"]
    assert isinstance(again, dict)
    assert (again["samples"], again["decoded_seconds"]) == (0, 0)


def test_text_pictures_sound_and_geometry_of_every_sample_cite_times_that_agree(
    demo: tuple[Path, dict[str, object]],
) -> None:
    seen = walk(open_corpus(demo[0] / "corpus"))
    assert set(seen) == {"frames", "video", "audio", "transcript", "caption", "depth", "normal", "points"}
