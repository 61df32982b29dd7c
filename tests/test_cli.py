"""The command as scripts see it: exit codes, one JSON object last, one line when something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.media import make_clip

SMALL = ["modalities=[frames,audio]", "clips.length_s=2", "clips.min_s=1", "--workers", "0"]
BUILD_KEYS = {"sources", "clips", "samples", "dropped", "shards", "bytes", "seconds"}
BUILD_KEYS |= {"cpu_seconds", "decoded_seconds", "skipped_committed"}


def omniloom(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "omniloom.recipes.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    make_clip(folder / "a.mp4", seconds=4, fps=12, size=(96, 64))
    done = omniloom("build", folder / "a.mp4", "--out", folder / "corpus", *SMALL)
    assert done.returncode == 0, done.stderr
    return folder / "corpus"


def test_build_prints_one_json_object_and_nothing_else_on_standard_output(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", seconds=4, fps=12, size=(96, 64))
    done = omniloom("build", tmp_path / "a.mp4", "--out", tmp_path / "corpus", "--json", *SMALL)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert set(report) >= BUILD_KEYS
    assert report["samples"] == 2
    assert report["bytes"] == sum(tar.stat().st_size for tar in (tmp_path / "corpus" / "shards").glob("*.tar"))


def test_only_bad_files_is_exit_code_3_and_good_beside_bad_is_0(tmp_path: Path) -> None:
    (tmp_path / "poem.mp4").write_text("I am a text.\n")
    (tmp_path / "empty.mp4").write_bytes(b"")
    bad = omniloom("build", tmp_path, "--out", tmp_path / "one", "--json", *SMALL)
    assert bad.returncode == 3
    assert sum(json.loads(bad.stdout)["dropped"].values()) == 2
    make_clip(tmp_path / "good.mp4", seconds=2, fps=12, size=(96, 64))
    assert omniloom("build", tmp_path, "--out", tmp_path / "two", *SMALL).returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["buidl"], 2, "build"),
        (["build"], 2, "SOURCE"),
        (["build", "x.mp4", "--out", "{}", "clips.lenght_s=3"], 2, "length_s"),
        (["build", "x.mp4", "--out", "{}", "--recipe", "biuld"], 2, "'build'"),
        (
            ["build", "{}/no-such-file.mp4", "--out", "{}/c", "--workers", "0", "modalities=[frames]"],
            1,
            "no-such-file.mp4",
        ),
        (["build", "x.mp4", "--out", "{}", "transcript.model=/no/such/folder"], 1, "/no/such/folder"),
        (["check", "{}/nothing-here"], 1, "omniloom build"),
        (["stats", "{}/nothing-here"], 1, "omniloom build"),
        (["train", "--corpus", "{}/nothing-here", "--run", "{}/run"], 1, "omniloom build"),
        (["eval", "--run", "{}/no-run", "--corpus", "{}/nothing-here"], 1, "omniloom build"),
    ],
)
def test_what_goes_wrong_is_one_line_that_names_the_repair(
    tmp_path: Path, words: list[str], code: int, named: str
) -> None:
    done = omniloom(*(word.replace("{}", str(tmp_path)) for word in words))
    complaint = [line for line in done.stderr.splitlines() if line.startswith("omniloom: ")]
    assert done.returncode == code, done.stderr
    assert len(complaint) == 1
    assert named in complaint[0]
    assert "Traceback" not in done.stderr


def test_an_interrupted_build_says_how_to_go_on_and_goes_on(tmp_path: Path) -> None:
    for n in range(3):
        make_clip(tmp_path / f"{n}.mp4", seconds=30, fps=25, size=(320, 240), tone_hz=300 + 100 * n)
    words = ["build", *(str(tmp_path / f"{n}.mp4") for n in range(3)), "--out", str(tmp_path / "corpus"), "--json"]
    # Whoever runs the tests in the background may have made them, and so this child, deaf to Ctrl-C.
    hearing = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{hearing}; from omniloom.recipes.cli import main; main()", *words, *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / "corpus" / "shards").glob(".*.part")):
        time.sleep(0.02)  # until the first shard is being written
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "run the same command again" in complaint.splitlines()[-1]
    done = omniloom(*words, *SMALL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["corpus_samples"] == 45


def test_check_is_silent_about_a_whole_corpus_and_exits_1_for_a_flipped_bit(corpus: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(corpus, tmp_path / "copy"))
    whole = omniloom("check", copy, "--json")
    assert whole.returncode == 0
    assert json.loads(whole.stdout) == {"samples": 2, "shards": 1, "faults": []}
    (tar,) = (copy / "shards").glob("*.tar")
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    broken = omniloom("check", copy, "--json")
    assert broken.returncode == 1
    assert {"shard", "key", "what"} <= set(json.loads(broken.stdout)["faults"][0])


def test_a_run_that_is_not_there_is_named(corpus: Path, tmp_path: Path) -> None:
    done = omniloom("eval", "--run", tmp_path / "no-run", "--corpus", corpus)
    assert done.returncode == 1
    assert "omniloom train --run" in done.stderr.splitlines()[-1]


def test_stats_counts_what_is_there(corpus: Path) -> None:
    stats = json.loads(omniloom("stats", corpus, "--json").stdout)
    assert stats["samples"] == 2
    assert stats["hours"] == pytest.approx(4 / 3600, rel=0.1)
    assert {name: values["present"] for name, values in stats["modalities"].items()} == {"frames": 2, "audio": 2}
    assert stats["drops"] == {}


def test_help_answers_in_under_half_a_second_and_every_verb_shows_an_example() -> None:
    seconds: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        done = omniloom("--help")
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.5
    for verb in ("build", "list", "index", "check", "stats", "train", "eval", "demo"):
        assert verb in done.stdout
        assert f"Example: omniloom {verb}" in omniloom(verb, "--help").stdout


def test_help_imports_none_of_the_heavy_packages() -> None:
    probe = "import sys; sys.argv=['omniloom']; import omniloom.recipes.cli; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "av", "open3d", "timm", "pyarrow", "nvidia", "whisper", "faster_whisper"} & set(loaded)
