"""Two ranks: the gradients of one, the same decisions, and a run that goes on with any number of them."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from omniloom.pipeline.batch import Batch
from omniloom.pipeline.loader import Loader
from omniloom.trainer.checkpoint import fault
from omniloom.trainer.mico import MiCoConfig
from omniloom.trainer.objectives import Objective, ObjectiveConfig
from omniloom.trainer.optim import clip_gradients
from omniloom.trainer.ranks import Parallel, full, join_ranks, spread
from omniloom.trainer.sharded import Sharded
from omniloom.trainer.tasks import parse_tasks
from omniloom.trainer.train import TrainConfig, fit
from tests.shards import make_corpus
from tests.toys import SMALL, Shuffled, World, make_mico, make_world

torch.set_num_threads(1)
WINDOW = SMALL.window(train=False)
CPU = torch.device("cpu")
PLAIN = ObjectiveConfig(modality_dropout=0.0, matching_weight=0.0)
"""Nothing in it is drawn at random."""
CONFIG = TrainConfig(batch_size=4, tasks="ret%tva%tvadnp", objective=PLAIN, device="cpu", ema=0.5)
MODEL: MiCoConfig = replace(SMALL, modalities=("frames", "audio", "points"))


def _two(work: Callable[[Path], None], folder: Path) -> None:
    """Runs the work on two ranks, forked from a process that has imported all."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = mp.get_context("forkserver")
    processes.set_forkserver_preload(["tests.ready", "tests.toys"])
    mp.start_processes(_rank, args=(port, work, folder), nprocs=2, start_method="forkserver")


def _rank(rank: int, port: int, work: Callable[[Path], None], folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    join_ranks()
    work(folder)
    dist.destroy_process_group()


# --- gradients ---------------------------------------------------------------------------------------------------


def _world() -> World:
    return make_world(8, 0, WINDOW)


def _gradient(rows: range, parallel: Parallel, accumulate: int) -> dict[str, torch.Tensor]:
    """Of every parameter, and the norm before clipping, over the ranks' rows together."""
    world = _world()
    model = make_mico(world)
    objective = spread(Objective(model, PLAIN, accumulate).train(), CPU, parallel)
    batch = world.batch(rows)
    if rows.start:
        batch.present["points"][:] = False  # this rank's samples leave a stem untouched
    losses = objective(batch, parse_tasks(CONFIG.tasks), torch.Generator().manual_seed(0))
    losses["loss"].backward()
    if isinstance(objective, Sharded):
        objective.average_whole()
    norm = clip_gradients(list(model.parameters()), 0.05)
    found = {name: full(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    return {**found, "norm": norm}


def _save_gradients(folder: Path) -> None:
    rank = dist.get_rank()
    for parallel, accumulate in (("ddp", 1), ("ddp", 2), ("fsdp", 2)):
        found = _gradient(range(4 * rank, 4 * rank + 4), parallel, accumulate)
        save_file(found, folder / f"{parallel}{accumulate}-{rank}.safetensors")


def test_gradients_of_two_ranks_are_those_of_one(tmp_path: Path) -> None:
    _two(_save_gradients, tmp_path)
    world = _world()
    model = make_mico(world)
    batch = world.batch(range(8))
    batch.present["points"][4:] = False
    losses = Objective(model, PLAIN).train()(batch, parse_tasks(CONFIG.tasks), torch.Generator().manual_seed(0))
    losses["loss"].backward()
    norm = clip_gradients(list(model.parameters()), 0.05)
    assert norm > 0.1  # so that clipping did something
    whole = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name in ("ddp1", "ddp2", "fsdp2"):
        for rank in (0, 1):
            found = load_file(tmp_path / f"{name}-{rank}.safetensors")
            assert float(found.pop("norm")) == pytest.approx(float(norm), rel=1e-4)
            for key, gradient in whole.items():
                error = (found.pop(key) - gradient).norm() / gradient.norm().clamp_min(1e-4)
                assert error < 1e-3, f"{name} {rank} {key}: {error}"
            assert all(not gradient.any() for gradient in found.values())  # untouched ones, which are zero


# --- decisions ---------------------------------------------------------------------------------------------------


def _train_with_a_bad_rank(folder: Path) -> None:
    world = make_world(12, dist.get_rank(), WINDOW)
    if dist.get_rank() == 1:
        world.tensors["frames"][5] = math.nan
    for parallel in ("ddp", "fsdp"):
        model = make_mico(world)
        report = fit(model, replace(CONFIG, steps=4, parallel=parallel), Shuffled(world, 4), folder / parallel)
        weights = {name: full(tensor).contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, folder / f"{parallel}-{dist.get_rank()}.safetensors")
        assert report.skipped in {1, 2}  # of three batches of an epoch one has it


def test_all_ranks_skip_a_step_that_one_of_them_cannot_take(tmp_path: Path) -> None:
    _two(_train_with_a_bad_rank, tmp_path)
    losses: dict[str, list[float | None]] = {}
    for parallel in ("ddp", "fsdp"):
        first, second = (load_file(tmp_path / f"{parallel}-{rank}.safetensors") for rank in (0, 1))
        saved = load_file(tmp_path / parallel / "checkpoints/00000004/model.safetensors")
        for name, tensor in first.items():
            assert torch.isfinite(tensor).all()
            assert torch.equal(tensor, second[name]), name
            assert torch.equal(tensor, saved[name]), name
        lines = (tmp_path / parallel / "metrics.jsonl").read_text().splitlines()
        losses[parallel] = [json.loads(line)["loss"] for line in lines]
        assert None in losses[parallel]
    for ddp, fsdp in zip(losses["ddp"], losses["fsdp"], strict=True):
        assert ddp == (None if fsdp is None else pytest.approx(fsdp, rel=1e-4))


# --- elastic -----------------------------------------------------------------------------------------------------


@dataclass
class Noted:
    """A loader that writes down what it gave and was learned from."""

    loader: Loader
    notes: Path
    position: int = field(default=0)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            self.position += 1
            with self.notes.open("a") as file:
                file.write(json.dumps([self.position, batch.keys]) + "\n")
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {**self.loader.state_dict(), "step": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = state["step"]
        self.loader.load_state_dict(state)


def _train_to(folder: Path, steps: int, run: str, parallel: Parallel = "auto") -> None:
    """Four samples a step, however many ranks there are."""
    rank, world_size = join_ranks()
    names = ("frames", "audio", "caption")
    loader = Loader(
        folder / "corpus",
        names,
        4 // world_size,
        seed=3,
        rank=rank,
        world_size=world_size,
        workers=0,
        window=MODEL.window(train=True),
    )
    config = replace(
        CONFIG, steps=steps, batch_size=4 // world_size, checkpoint_every=2, tasks="ret%tva", parallel=parallel
    )
    model = make_mico(make_world(4, 0, WINDOW), replace(MODEL, modalities=("frames", "audio")))
    fit(model, config, Noted(loader, folder / f"{run}-{rank}.jsonl"), folder / run)


def _two_more(folder: Path) -> None:
    _train_to(folder, 4, "elastic")
    _train_to(folder, 6, "elastic", "fsdp")


def test_one_rank_then_two_then_one_see_each_sample_in_its_turn(tmp_path: Path) -> None:
    """1 -> 2 (DDP) -> 2 (FSDP2) -> 1: the sequence, and within rounding the weights, of one rank throughout."""
    make_corpus(tmp_path / "corpus", units=2, per_unit=10, modalities=("frames", "audio", "caption"))
    _train_to(tmp_path, 8, "whole")
    _train_to(tmp_path, 2, "elastic")
    _two(_two_more, tmp_path)
    _train_to(tmp_path, 8, "elastic")

    def keys(run: str) -> list[str]:
        found: dict[int, list[str]] = {}
        for rank in (0, 1):
            if (tmp_path / f"{run}-{rank}.jsonl").exists():
                for line in (tmp_path / f"{run}-{rank}.jsonl").read_text().splitlines():
                    step, batch = json.loads(line)
                    found.setdefault(step, []).extend(batch)
        return [key for _, batch in sorted(found.items()) for key in batch]

    assert len(keys("whole")) == 32
    assert keys("elastic") == keys("whole")
    checkpoints = [tmp_path / run / "checkpoints/00000008" for run in ("whole", "elastic")]
    assert not any(map(fault, checkpoints))
    for name in ("model.safetensors", "ema.safetensors"):
        whole, elastic = (load_file(path / name) for path in checkpoints)
        for key, tensor in whole.items():
            torch.testing.assert_close(elastic[key], tensor, rtol=1e-2, atol=2e-3)
