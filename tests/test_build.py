"""A build from raw files to shards: again is nothing, bad files are drops, and Ray gives what one process gives."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from omniloom import open_corpus
from omniloom.pipeline.cluster import ray_session, share_out
from omniloom.pipeline.jobs import BuildReport, build
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.units import UnitsConfig
from omniloom.recipes.config import build_recipe
from omniloom.recipes.world.files import write_scene
from omniloom.recipes.world.scene import compose
from tests.media import make_clip

SMALL = ["modalities=[frames,video,audio,caption]", "clips.length_s=2", "clips.min_s=1", "video.short_side=64"]


def recipe(*overrides: str) -> BuildRecipe:
    return build_recipe(None, [*SMALL, *overrides])


def media(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for n in range(count):
        make_clip(
            folder / f"{n}.mp4", seconds=4, fps=12, size=(96, 64), tone_hz=300 + 100 * n, flashes=[(n / 4, n / 4 + 0.2)]
        )
        (folder / f"{n}.txt").write_text(f"clip number {n}\n")
    return folder


def here(sources: Sequence[Path], out: Path, **options: object) -> BuildReport:
    return build(recipe(), [str(path) for path in sources], out, workers=0, **options)  # type: ignore[arg-type]


def hashes(corpus: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((corpus / "shards").glob("*.tar"))
    }


def test_the_second_run_commits_nothing_new_and_decodes_nothing(tmp_path: Path) -> None:
    raw = media(tmp_path / "raw")
    first = here([raw], tmp_path / "corpus")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus" / "shards").iterdir()}
    second = here([raw], tmp_path / "corpus")
    assert (first.sources, first.samples, first.shards) == (3, 6, 1)
    assert first.decoded_seconds == pytest.approx(12, abs=0.5)
    assert (second.samples, second.shards, second.decoded_seconds) == (0, 0, 0)
    assert (second.skipped_committed, second.corpus_samples) == (3, 6)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus" / "shards").iterdir()} == before


def test_two_fresh_builds_give_byte_identical_tars_wherever_the_media_lie(tmp_path: Path) -> None:
    raw = media(tmp_path / "raw")
    here([raw], tmp_path / "one")
    moved = raw.rename(tmp_path / "elsewhere")
    here([moved], tmp_path / "two")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two") != {}


def test_bad_files_become_drops_and_leave_the_good_clips_untouched(tmp_path: Path) -> None:
    raw = media(tmp_path / "raw")
    here([raw], tmp_path / "clean")
    whole = (raw / "0.mp4").read_bytes()
    (raw / "poem.mp4").write_text("I am a text.\n")
    (raw / "empty.mp4").write_bytes(b"")
    (raw / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    report = here([raw], tmp_path / "mixed")
    clean, mixed = open_corpus(tmp_path / "clean"), open_corpus(tmp_path / "mixed")
    parts = {sample.key: {name: part.data for name, part in sample.parts.items()} for sample in clean.samples()}
    after = {sample.key: {name: part.data for name, part in sample.parts.items()} for sample in mixed.samples()}
    assert {key: after[key] for key in parts} == parts
    dropped = {Path(row["path"]).name: row for row in mixed.drops().to_pylist()}
    assert {"poem.mp4", "empty.mp4", "cut.mp4"} <= set(dropped)
    assert all(row["stage"] and row["reason"] and row["source_id"] for row in dropped.values())
    assert sum(report.dropped.values()) == len(mixed.drops())
    assert mixed.check() == []


def test_a_video_without_sound_is_a_sample_and_a_sound_without_video_is_a_drop(tmp_path: Path) -> None:
    make_clip(tmp_path / "silent.mp4", seconds=2, fps=12, size=(96, 64), tone=False)
    make_clip(tmp_path / "radio.mp4", seconds=2, video=False)
    sources = [tmp_path / "silent.mp4", tmp_path / "radio.mp4"]
    report = here(sources, tmp_path / "corpus")
    (sample,) = open_corpus(tmp_path / "corpus").samples()
    assert "audio" not in sample.parts
    assert "frames" in sample.parts
    assert report.dropped == {"no-video": 1}
    heard = build(
        recipe("require=[]", "clips.audio_only=true"), [str(p) for p in sources], tmp_path / "sounds", workers=0
    )
    assert heard.samples == 2


def test_a_corpus_of_another_recipe_is_not_continued(tmp_path: Path) -> None:
    raw = media(tmp_path / "raw", count=1)
    here([raw], tmp_path / "corpus")
    with pytest.raises(ValueError, match=r"another recipe.*clips"):
        build(recipe("clips.length_s=3"), [str(raw)], tmp_path / "corpus", workers=0)


def test_added_sources_make_new_shards_and_change_no_old_one(tmp_path: Path) -> None:
    raw = media(tmp_path / "raw", count=2)
    here([raw], tmp_path / "corpus")
    before = hashes(tmp_path / "corpus")
    make_clip(raw / "00-first-by-name.mp4", seconds=2, fps=12, size=(96, 64))
    here([raw], tmp_path / "corpus")
    after = hashes(tmp_path / "corpus")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1


def test_every_time_of_a_sample_lies_inside_its_clip(tmp_path: Path) -> None:
    here([media(tmp_path / "raw")], tmp_path / "corpus")
    for row in open_corpus(tmp_path / "corpus").table().to_pylist():
        assert row["end_ns"] - row["start_ns"] == row["duration_ns"]
        assert all(0 <= pts < row["duration_ns"] for pts in row["frames"]["pts_ns"])
        assert row["frames"]["pts_ns"] == sorted(row["frames"]["pts_ns"])


@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
@pytest.mark.parametrize("wanted", [[], [0.25], [0.25, 0.25], [0.25] * 7, [1.0, 0.1], [0.5, 0.5, 1.0]])
def test_models_never_ask_for_more_gpus_than_there_are_and_each_gets_an_actor(gpus: float, wanted: list[float]) -> None:
    shares = share_out(gpus, wanted, cpus=4)
    assert len(shares) == len(wanted)
    assert all(count >= 1 for _, count in shares)
    assert sum(share * count for share, count in shares) <= gpus
    assert all(0 < share <= ask for (share, _), ask in zip(shares, wanted, strict=True)) or not gpus


@pytest.fixture(scope="module")
def _ray() -> object:
    with ray_session(workers=2):
        yield


@pytest.mark.usefixtures("_ray")
def test_ray_writes_the_same_shards_as_one_process(tmp_path: Path) -> None:
    raw = media(tmp_path / "raw", count=4)
    here([raw], tmp_path / "one", units=UnitsConfig(max_sources=2))
    report = build(recipe(), [str(raw)], tmp_path / "many", units=UnitsConfig(max_sources=2))
    assert report.samples == 8
    assert hashes(tmp_path / "one") == hashes(tmp_path / "many") != {}


@pytest.mark.usefixtures("_ray")
def test_a_model_in_an_actor_answers_as_it_does_here(tmp_path: Path) -> None:
    scene = next(scene for scene in (compose(0, "train", n) for n in range(100)) if scene.narrated and not scene.silent)
    write_scene(scene, tmp_path)
    clip = tmp_path / f"{scene.index:06d}.mp4"
    talk = build_recipe(None, ["modalities=[frames,audio,transcript]", "clips.length_s=30"])
    build(talk, [str(clip)], tmp_path / "here", workers=0)
    build(talk, [str(clip)], tmp_path / "there")
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there") != {}
    (sample,) = open_corpus(tmp_path / "there").samples()
    assert json.loads(sample.parts["transcript"].data)["segments"]


def test_a_cluster_of_two_nodes_builds_the_same_shards_by_its_address(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    raw = media(tmp_path / "raw", count=4)
    here([raw], tmp_path / "one", units=UnitsConfig(max_sources=1))
    import ray

    ray.shutdown()  # the session of the tests above: a driver belongs to one cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        build(recipe(), [str(raw)], tmp_path / "many", units=UnitsConfig(max_sources=1), address=cluster.address)
    finally:
        cluster.shutdown()
    assert hashes(tmp_path / "one") == hashes(tmp_path / "many") != {}


def test_a_build_killed_at_any_moment_is_finished_by_the_same_command(tmp_path: Path) -> None:
    raw = media(tmp_path / "raw", count=4)
    here([raw], tmp_path / "whole", units=UnitsConfig(max_sources=1))
    command = (
        "from pathlib import Path; from tests.test_build import here; from omniloom.pipeline.units import UnitsConfig;"
        f"here([Path({str(raw)!r})], Path({str(tmp_path / 'killed')!r}), units=UnitsConfig(max_sources=1))"
    )
    root = Path(__file__).parents[1]
    for delay_s in (0.9, 1.3, 1.7):
        process = subprocess.Popen([sys.executable, "-c", command], cwd=root)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "killed" / "corpus.json").exists():
            assert open_corpus(tmp_path / "killed").check() == []
    here([raw], tmp_path / "killed", units=UnitsConfig(max_sources=1))
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole") != {}
    assert not list((tmp_path / "killed" / "shards").glob(".*.part"))
