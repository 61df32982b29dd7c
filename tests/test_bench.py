"""Benchmarks run from the command line, count what they and their peers made, and state ratios with their spread."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omniloom.benchmarks import Options, benchmarks, run_benchmark
from omniloom.benchmarks.timing import Step, cost_of, spend

SECONDS, PICTURES, CLIPS, FRAMES = 5, 150, 2, 10
"""What the quick source holds at 30 a second, in clips of 2.5 s with 2 frames a second."""


def omniloom(*words: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "omniloom.recipes.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def report(out: Path) -> dict[str, Any]:
    done = omniloom("bench", "decode", "--quick", "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_command_of_the_decode_benchmark_made_its_outputs(report: dict[str, Any]) -> None:
    (source,) = report["sources"]
    steps = {name: step["made"] for name, step in source["steps"].items()}
    whole = (
        "one pass",
        "frames, no signals",
        "one pass, signals",
        "frames",
        "one pass, proxy, signals",
        "frames, proxy",
    )
    for name in whole:
        assert steps[name]["clips"] == CLIPS, name
        assert steps[name]["frames"] == FRAMES, name
        assert steps[name]["sound_ms"] == pytest.approx(1000 * SECONDS, abs=40), name
    for name in ("one pass, proxy, signals", "frames, proxy", "transcode", "proxy of spans", "proxy of clips"):
        assert steps[name]["pictures"] == PICTURES, name
    for name in ("frames of spans", "frames of clips"):
        assert steps[name] == {"clips": CLIPS, "frames": FRAMES}, name
    for name in ("sound of spans", "sound of clips"):
        assert steps[name]["clips"] == CLIPS, name
        assert steps[name]["sound_ms"] == pytest.approx(1000 * SECONDS, abs=40), name


def test_the_decode_benchmark_states_every_row_in_d_with_its_spread_and_versions(report: dict[str, Any]) -> None:
    from omniloom.benchmarks.decode import CLAIMS, OURS_COPY, ROWS

    (source,) = report["sources"]
    left_out = {note.split(": left out")[0] for note in source["notes"]}
    assert left_out <= {OURS_COPY}
    assert source["rows"].keys() | left_out == {row.name for row in ROWS}
    for row in source["rows"].values():
        assert row["D"]["min"] <= row["D"]["median"] <= row["D"]["max"]
        assert row["cpu_s"]["min"] > 0
    assert source["rows"]["ffmpeg: one decode (D)"]["D"] == {"median": 1, "min": 1, "max": 1}
    claimed = {claim.name for claim in CLAIMS if claim.ours not in left_out}
    assert claimed <= source["claims"].keys()
    assert {"python", "ffmpeg", "omniloom", "av"} <= report["versions"].keys()


def test_the_decode_benchmark_leaves_a_table_and_a_plot(report: dict[str, Any], out: Path) -> None:
    from PIL import Image

    assert json.loads((out / "decode.json").read_text())["claims"] == report["claims"]
    table = (out / "decode.md").read_text()
    assert all(f"| {name} |" in table for name in report["sources"][0]["rows"])
    with Image.open(out / "decode.png") as plot:
        assert plot.width > 400


def test_the_folder_benchmark_builds_all_files_at_once_and_leaves_a_table(tmp_path: Path) -> None:
    report = run_benchmark("folder", Options(quick=True, out=tmp_path))
    d, *others = report["rows"]
    assert report["rows"][d]["D"]["median"] == 1
    assert all(report["rows"][name]["cpu_s"]["min"] > 0 for name in others)
    ours, with_proxy, copied = report["claims"].values()
    assert ours["goal"] == with_proxy["goal"] == 1.15
    assert copied["goal"] == 0.1
    assert all(f"| {name} |" in (tmp_path / "folder.md").read_text() for name in (*report["claims"], *report["rows"]))


def test_costs_of_unlike_outputs_are_not_compared() -> None:
    from omniloom.benchmarks.folder import same

    same({"clips": 8, "frames": 160}, {"clips": 8, "frames": 161, "pictures": 4000})
    with pytest.raises(RuntimeError, match="cannot be compared"):
        same({"clips": 8, "frames": 160}, {"clips": 8, "frames": 200})


def test_a_wrong_name_is_answered_with_the_nearest_and_the_list() -> None:
    done = omniloom("bench", "dekode")
    assert done.returncode == 2
    assert "did you mean 'decode'?" in done.stderr
    assert "memory" in done.stderr


def test_without_a_name_every_benchmark_is_listed_with_its_sentence_and_no_helper() -> None:
    listed = omniloom("bench").stdout.splitlines()
    assert {line.split()[0] for line in listed} == set(benchmarks())
    assert {"decode", "memory"} <= set(benchmarks())
    assert not {"timing", "media", "peers", "figure"} & set(benchmarks())
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in listed)


def test_a_script_without_run_gets_the_options_as_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import omniloom.benchmarks.geometry_codecs as script

    heard: list[list[str]] = []

    def main(argv: list[str]) -> None:
        heard.append(argv)

    monkeypatch.setattr(script, "main", main)
    assert run_benchmark("geometry_codecs", Options(runs=2, quick=True, out=Path("x"))) == {
        "benchmark": "geometry_codecs"
    }
    assert heard == [["--runs", "2", "--quick", "--out", "x"]]


def test_costs_are_of_the_process_and_its_children_and_a_failure_is_told() -> None:
    busy = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    assert spend([sys.executable, "-c", parent]).cpu_s > 0.3
    empty = Step("nothing", ((sys.executable, "-c", ""),), lambda: {"clips": 0})
    with pytest.raises(RuntimeError, match="nothing made"):
        cost_of(empty)
    broken = Step("broken", ((sys.executable, "-c", "raise SystemExit('no such thing')"),), dict)
    with pytest.raises(RuntimeError, match="no such thing"):
        cost_of(broken)


def test_a_build_does_not_import_pandas_and_whoever_needs_it_gets_it() -> None:
    probe = (
        "import sys; from omniloom.recipes.cli import _spare_pandas; _spare_pandas();"
        "import pyarrow as pa; table = pa.table({'a': ['x', None]}); print('pandas' in sys.modules);"
        "print(len(table.to_pandas()))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "2"]
