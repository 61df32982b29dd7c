"""The loader benchmark counts what its loops gave, and states rates, damage and resumption beside the bare loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from omniloom.benchmarks import Options
from omniloom.benchmarks.loader import BARE, BATCH, CLAIMS, OURS, ROWS, measured
from omniloom.benchmarks.loader_corpus import PLAIN, damage, make_corpus, write_tars
from omniloom.benchmarks.loader_meter import measure, tree, used
from omniloom.benchmarks.loader_peers import samples_of
from omniloom.benchmarks.loader_work import FACTS, KEY, TASKS, WINDOW, arrays, stack
from omniloom.pipeline.corpus import open_corpus

CLIPS = 4
FEW = {BARE: ("frames",), OURS: ("frames", "audio"), "omniloom, skip": ("corrupt",)}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loader")


@pytest.fixture(scope="module")
def report(out: Path) -> dict[str, Any]:
    few = [replace(row, tasks=FEW[row.name]) for row in ROWS if row.name in FEW]
    return measured(Options(quick=True, out=out), few)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("clips") / "made", 3, PLAIN)


def test_every_loop_gave_what_its_task_shows_of_every_clip(report: dict[str, Any]) -> None:
    assert not report["notes"]
    assert {task: set(rows) for task, rows in report["tasks"].items()} == {
        "frames": {BARE, OURS},
        "audio": {OURS},
        "corrupt": {"omniloom, skip"},
    }
    batch = report["tasks"]["frames"][OURS]["shapes"]["frames"][0]
    assert 1 <= batch <= BATCH
    frames, audio = [batch, WINDOW.num_frames, 3, WINDOW.image_px, WINDOW.image_px], [batch, WINDOW.num_samples]
    assert report["tasks"]["frames"][OURS]["shapes"] == {"frames": frames}
    assert report["tasks"]["audio"][OURS]["shapes"] == {"audio": audio}
    assert report["tasks"]["corrupt"]["omniloom, skip"]["shapes"] == {"frames": frames, "audio": audio}
    for task in ("frames", "audio"):
        assert report["tasks"][task][OURS]["distinct"] == report["clips"]["plain"]


def test_rates_costs_and_claims_have_their_spread(report: dict[str, Any]) -> None:
    rows = [row for task in report["tasks"].values() for row in task.values()]
    for row in rows:
        for name in ("samples_per_s", "cpu_ms_per_sample", "read_kb_per_sample"):
            assert 0 < row[name]["min"] <= row[name]["median"] <= row[name]["max"]
        assert row["peak_mb"] > 20
    ours, bare = (report["tasks"]["frames"][name]["samples_per_s"]["median"] for name in (OURS, BARE))
    assert report["claims"]["frames / bare loop"]["median"] == pytest.approx(ours / bare, rel=0.01)
    assert report["claims"].keys() <= {claim.name for claim in CLAIMS}


def test_damage_stops_our_loader_or_is_left_out_and_never_given(report: dict[str, Any]) -> None:
    rows = report["corrupt"]["rows"]
    assert report["corrupt"]["damaged"] >= 2
    assert rows[OURS]["outcome"].startswith("stops: BadSampleError: sample ")
    assert rows[OURS]["damaged_samples_named"] >= 1
    assert rows["omniloom, skip"]["outcome"] == "goes on"
    assert rows["omniloom, skip"]["samples"] == report["corrupt"]["of"] - report["corrupt"]["damaged"]
    assert rows["omniloom, skip"]["damaged_samples_named"] == report["corrupt"]["damaged"]
    assert {row["damaged_samples_given"] for row in rows.values()} == {0}


def test_our_loader_resumes_from_a_state_with_the_batch_that_was_next(report: dict[str, Any]) -> None:
    assert report["resume"].keys() == {OURS}
    for at in report["resume"][OURS].values():
        assert at["same"]
        assert not at["replayed"]
        assert at["seconds"] > 0


def test_the_loader_benchmark_leaves_a_table_and_a_plot(report: dict[str, Any], out: Path) -> None:
    from PIL import Image

    assert json.loads((out / "loader.json").read_text())["claims"] == report["claims"]
    table = (out / "loader.md").read_text()
    assert all(f"| {name} |" in table for name in (*FEW, *report["claims"]))
    with Image.open(out / "loader.png") as plot:
        assert plot.width > 400


def test_peers_get_the_same_members_and_the_same_shapes_from_both_layouts(corpus: Path, tmp_path: Path) -> None:
    parts = {sample.key: sample.parts for sample in open_corpus(corpus).samples()}
    for layout, kept, other in (("h264", "video", "frames"), ("ours", "frames", "video")):
        write_tars(corpus, tmp_path / layout, layout)  # type: ignore[arg-type]
        samples = list(samples_of(tmp_path / layout))
        assert [sample[KEY] for sample in samples] == list(parts)
        made = []
        for sample in samples:
            assert other not in sample
            for name in (kept, "audio", "caption"):
                assert sample[name] == parts[sample[KEY]][name].data
                assert json.loads(sample[FACTS])[name].items() <= parts[sample[KEY]][name].facts.items()
            made.append(arrays(sample[KEY], sample, "corrupt", layout, "pyav"))  # type: ignore[arg-type]
        batch = stack(made)
        assert batch["frames"].shape == (len(parts), WINDOW.num_frames, 3, WINDOW.image_px, WINDOW.image_px)
        assert batch["audio"].shape == (len(parts), WINDOW.num_samples)
        assert batch[KEY] == list(parts)
        assert float(batch["frames"].std()) > 0.1
        assert batch.keys() - {KEY} == set(TASKS["corrupt"])


def test_damage_changes_the_same_members_in_every_copy(corpus: Path, tmp_path: Path) -> None:
    write_tars(corpus, tmp_path / "tars", "ours")
    whole = {sample[KEY]: sample for sample in samples_of(tmp_path / "tars")}
    damaged = damage(corpus, [tmp_path / "tars"], 0.01)
    spoilt = {sample[KEY] for sample in samples_of(tmp_path / "tars") if sample != whole[sample[KEY]]}
    assert spoilt == set(damaged)
    assert 0 < len(damaged) <= len(whole)
    with pytest.raises(RuntimeError, match="nothing could be damaged"):
        damage(corpus, [tmp_path / "nowhere"], 0.01)


def test_a_measurement_counts_only_what_comes_after_the_pipes_are_full() -> None:
    given = [([str(number), str(number + 1)], {"audio": (2, 5)}) for number in range(0, 2000, 2)]
    workers = 3
    counted = measure(lambda: iter(given), seconds=0, workers=workers)
    assert counted["samples"] == 2 * 12
    assert counted["distinct"] == 2 * (1 + 2 * workers + 1 + 12)
    assert counted["shapes"] == {"audio": [2, 5]}
    with pytest.raises(RuntimeError, match="ended after"):
        measure(lambda: islice(iter(given), 15), seconds=0, workers=workers)


def test_processor_time_of_children_is_counted_while_they_run_and_after() -> None:

    busy = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass\nprint(flush=True); input()"

    before = used(os.getpid()).cpu_s
    child = subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    assert child.pid in tree(os.getpid())
    assert used(os.getpid()).cpu_s - before >= 0.29
    child.communicate("\n", timeout=60)
    assert child.pid not in tree(os.getpid())
    assert used(os.getpid()).cpu_s - before >= 0.29
