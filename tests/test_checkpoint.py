"""Checkpoints: killed at any moment a run ends as if nothing had happened, and damage on the disk is noticed."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omniloom.trainer.checkpoint import (
    checkpoints,
    fault,
    load_weights,
    newest_checkpoint,
    take_snapshot,
    write_checkpoint,
)
from omniloom.trainer.mico import MiCo
from omniloom.trainer.optim import OptimConfig, make_optimizer
from omniloom.trainer.ranks import only_trainer_of
from omniloom.trainer.train import TrainConfig, fit
from tests.toys import SMALL, Shuffled, make_mico, make_world

torch.set_num_threads(1)
WINDOW = SMALL.window(train=False)
CONFIG = TrainConfig(
    steps=8, batch_size=4, checkpoint_every=2, keep_checkpoints=2, tasks="ret%tva_cap%tva", ema=0.9, device="cpu"
)
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json")


def _train(run: Path, steps: int = CONFIG.steps) -> None:
    torch.set_num_threads(1)
    world = make_world(12, 0, WINDOW)
    fit(make_mico(world), replace(CONFIG, steps=steps), Shuffled(world, 4), run)


def _leftovers(run: Path) -> list[Path]:
    return list(run.glob("checkpoints/.*"))


def _until(run: Path, process: BaseProcess, reached: Callable[[], object]) -> None:
    while process.is_alive() and not reached():
        time.sleep(0.0005)


def test_killed_at_any_moment_a_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.ready", "tests.toys"])
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def lines() -> int:
        return len((broken / "metrics.jsonl").read_bytes().splitlines()) if (broken / "metrics.jsonl").exists() else 0

    moments: list[Callable[[], object]] = [
        lambda: lines() >= 1,  # before the first checkpoint
        lambda: _leftovers(broken),  # while the first one is written
        lambda: newest_checkpoint(broken),
        lambda: lines() >= 5,  # after it, while the next steps run
        lambda: lines() >= 4 and _leftovers(broken),  # while a later one is written, or an old one removed
        lambda: len(checkpoints(broken)) == 3,  # before the oldest is removed
        lambda: lines() >= 7,
    ]
    torn = 0
    for reached in moments:
        process = processes.Process(target=_train, args=(broken,))
        process.start()
        _until(broken, process, reached)
        process.kill()
        process.join()
        torn += bool(_leftovers(broken))
    assert torn, "no kill came while a checkpoint was being written"
    finishing = [processes.Process(target=_train, args=(run,)) for run in (broken, whole)]
    for process in finishing:
        process.start()
    for process in finishing:
        process.join()
        assert process.exitcode == 0

    assert [path.name for path in checkpoints(broken)] == ["00000006", "00000008"]
    assert not _leftovers(broken)
    for path in checkpoints(whole):
        assert not fault(path)
        for name in FILES:
            assert (path / name).read_bytes() == (broken / "checkpoints" / path.name / name).read_bytes(), name
    losses = [
        [(line["step"], line["loss"]) for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
        for run in (whole, broken)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    _train(run, steps=4)
    return run


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_or_missing_byte_is_noticed(trained: Path, tmp_path: Path, name: str) -> None:
    newest = trained / "checkpoints/00000004"
    assert not fault(newest)
    data = (newest / name).read_bytes()
    copy = tmp_path / newest.name
    shutil.copytree(newest, copy)
    few = [*range(0, len(data), len(data) // 7 + 1), len(data) - 1]
    for place in range(len(data)) if name == "state.json" else few:
        (copy / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert fault(copy), place
    (copy / name).write_bytes(data[: len(data) // 2])
    assert fault(copy)
    (copy / name).unlink()
    assert fault(copy)
    (copy / name).write_bytes(data)
    assert not fault(copy)


def test_an_old_checkpoint_that_a_kill_left_standing_goes_with_the_next_call(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    shutil.copytree(run / "checkpoints/00000002", run / "checkpoints/00000001")
    _train(run, steps=4)
    assert [path.name for path in checkpoints(run)] == ["00000002", "00000004"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    weights = run / "checkpoints/00000004/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 64
    weights.write_bytes(data)

    MiCo.from_pretrained(run)  # whoever only reads leaves all as it is
    assert weights.exists()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "00000004 is damaged, model.safetensors does not have the hash" in said

    _train(run, steps=4)
    assert "taking the checkpoint before it" in capsys.readouterr().err
    assert (run / "checkpoints/.00000004.damaged").is_dir()  # kept for whoever wants to know
    for name in FILES:
        assert (run / "checkpoints/00000004" / name).read_bytes() == (
            trained / "checkpoints/00000004" / name
        ).read_bytes()

    for path in checkpoints(run):
        (path / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no checkpoint of .* is whole .*state\.json is not a state that was sealed"):
        _train(run, steps=4)


def test_a_snapshot_is_what_was_there_when_it_was_taken(tmp_path: Path) -> None:
    world = make_world(4, 0, WINDOW)
    model = make_mico(world)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    snapshot = take_snapshot(1, model, make_optimizer(model, OptimConfig()), {"loader": {}})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    folder = write_checkpoint(tmp_path, snapshot)
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, before[name]), name
    other = make_mico(world, seed=3)
    assert load_weights(folder, other)["step"] == 1
    assert torch.equal(other.text_head.weight, before["text_head.weight"])


def test_a_disk_that_fails_stops_the_training(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="checkpoints"):
        _train(tmp_path, steps=4)


def test_two_processes_do_not_train_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omniloom.trainer.ranks._LOCK_WAIT_S", 0.1)
    with only_trainer_of(tmp_path), pytest.raises(ValueError, match="another process is training into"):
        _train(tmp_path, steps=1)
