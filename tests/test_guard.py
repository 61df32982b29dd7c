"""The guard: what is not finite or far too large is skipped and counted, the same after every resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from omniloom.trainer.guard import Guard, GuardConfig
from omniloom.trainer.metrics import StepReport
from omniloom.trainer.train import TrainConfig, fit
from tests.toys import SMALL, Shuffled, make_mico, make_world

torch.set_num_threads(1)
SHORT = TrainConfig(steps=6, batch_size=8, checkpoint_every=3, tasks="ret%tva", device="cpu")


def test_a_spike_is_measured_against_the_usual_norm() -> None:
    guard = Guard(GuardConfig(spike=10, window=8, after=4))
    assert guard.accepts(1.0, 500.0)  # too early to judge
    assert all(guard.accepts(1.0, norm) for norm in (1.0, 2.0, 3.0))
    assert guard.accepts(1.0, 24.9)  # the median of four is 2.5
    assert not guard.accepts(1.0, 30.1)  # of five it is 3
    assert guard.skipped == 1
    for _ in range(8):
        assert guard.accepts(1.0, 0.1)
    assert not guard.accepts(1.0, 2.0)  # what is usual changes
    assert Guard(GuardConfig(spike=0)).accepts(1.0, 1e30)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf), (1.0, math.nan), (-math.inf, 0.0)])
def test_what_is_not_finite_is_skipped_and_too_many_stop_the_run(loss: float, norm: float) -> None:
    guard = Guard(GuardConfig(max_skips=3))
    assert not guard.accepts(loss, norm)
    assert not guard.accepts(loss, norm)
    assert guard.accepts(1.0, 1.0)  # the count in a row begins again
    assert not guard.accepts(loss, norm)
    assert not guard.accepts(loss, norm)
    with pytest.raises(FloatingPointError, match=r"3 steps in a row were skipped.*lower train\.optim\.lr"):
        guard.accepts(loss, norm)
    assert guard.skipped == 5


def test_a_saved_guard_judges_as_the_living_one() -> None:
    norms = torch.rand(200, generator=torch.Generator().manual_seed(0)).pow(-1.5).tolist()
    config = GuardConfig(spike=3, window=10, after=5, max_skips=100)
    whole = Guard(config)
    expected = [whole.accepts(1.0, norm) for norm in norms]
    assert 0 < sum(expected) < 200
    guard = Guard(config)
    found: list[bool] = []
    for norm in norms:
        again = Guard(config)
        again.load_state_dict(json.loads(json.dumps(guard.state_dict())))
        guard = again
        found.append(guard.accepts(1.0, norm))
    assert found == expected


def test_a_bad_sample_costs_its_steps_and_nothing_else(tmp_path: Path) -> None:
    """One of 24 samples is not finite: its batch of each epoch is skipped, and a resumed run skips the same."""
    world = make_world(24, 0, SMALL.window(train=False))
    world.tensors["frames"][5] = math.nan
    seen: list[StepReport] = []
    report = fit(make_mico(world), SHORT, Shuffled(world, 8), tmp_path / "whole", seen.append)
    assert report.skipped == 2
    assert math.isfinite(report.loss)
    skipped = [at.step for at in seen if not at.taken]
    assert len(skipped) == 2
    assert skipped[0] <= 3 < skipped[1]  # one of three batches, each epoch
    assert all(math.isnan(at.grad_norm) for at in seen if not at.taken)

    def strict(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    text = (tmp_path / "whole/metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=strict) for line in text.splitlines()]
    assert [line["step"] for line in lines if line["loss"] is None] == skipped
    assert [StepReport.from_numbers(line, 6).taken for line in lines] == [at.taken for at in seen]

    def kill(at: StepReport) -> None:
        if at.step == 5:
            raise KeyboardInterrupt

    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        fit(make_mico(world), SHORT, Shuffled(world, 8), broken, kill)
    resumed = fit(make_mico(world, seed=1), SHORT, Shuffled(world, 8), broken)
    assert resumed.skipped == 2
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        first, second = (run / "checkpoints/00000006" / name for run in (tmp_path / "whole", broken))
        assert first.read_bytes() == second.read_bytes()
