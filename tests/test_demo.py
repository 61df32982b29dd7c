"""The demo, small: raw files to a trained model and a picture, in one command that can be run again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from omniloom import open_corpus

SMALL = ["demo.train_clips=10", "demo.test_clips=6", "train.steps=3", "train.batch_size=4"]


def run_demo(out: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "omniloom.recipes.cli", "demo", "--out", str(out), "--json", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_demo_makes_every_modality_trains_scores_and_draws_and_continues(tmp_path: Path) -> None:
    report = run_demo(tmp_path)
    assert {"build", "train", "control", "eval", "seconds", "picture"} <= set(report)
    corpus = open_corpus(tmp_path / "corpus")
    stats = corpus.stats()
    assert stats["splits"] == {"test": 6, "train": 10 + stats["samples"] - 16}
    assert all(values["present"] for values in stats["modalities"].values())
    assert corpus.check() == []
    scores = report["eval"]
    assert isinstance(scores, dict)
    assert scores["n"] == 6
    assert set(scores["controls"]) == {"untrained", "permuted captions"}
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24) or ()) > 1000
    again = run_demo(tmp_path)["build"]
    assert isinstance(again, dict)
    assert (again["samples"], again["decoded_seconds"]) == (0, 0)
