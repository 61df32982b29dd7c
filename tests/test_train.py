"""Training: the loss falls, what was learned holds, the control learns nothing, and a killed run loses nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from omniloom.trainer.checkpoint import checkpoints, newest_checkpoint
from omniloom.trainer.evaluate import chance, encode, ranks, rerank, score, summary
from omniloom.trainer.guard import GuardConfig
from omniloom.trainer.metrics import StepReport
from omniloom.trainer.mico import MiCo
from omniloom.trainer.objectives import ObjectiveConfig
from omniloom.trainer.optim import OptimConfig, learning_rate, make_optimizer
from omniloom.trainer.run import prepare_run
from omniloom.trainer.tasks import parse_tasks
from omniloom.trainer.train import TrainConfig, TrainRecipe, fit
from tests.toys import SMALL, Shuffled, make_mico, make_world

torch.set_num_threads(1)
WINDOW = SMALL.window(train=False)
SHORT = TrainConfig(
    steps=6, batch_size=8, checkpoint_every=3, tasks="ret%tva_cap%tva", objective=ObjectiveConfig(), device="cpu"
)


class Killed(Exception):
    """Stands for the end of a process."""


def test_a_killed_run_continues_bit_exactly(tmp_path: Path) -> None:
    world = make_world(24, 0, WINDOW)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    straight = fit(make_mico(world), SHORT, Shuffled(world, 8), whole)

    def kill(at: StepReport) -> None:
        if at.step == 5:
            raise Killed

    with pytest.raises(Killed):
        fit(make_mico(world), SHORT, Shuffled(world, 8), broken, kill)
    assert newest_checkpoint(broken) == broken / "checkpoints/00000003"
    torch.manual_seed(99)  # whatever the new process begins with
    continued = fit(make_mico(world, seed=5), SHORT, Shuffled(world, 8), broken)

    assert continued.steps == straight.steps == 6
    assert continued.samples == 24
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (whole / "checkpoints/00000006" / name).read_bytes() == (
            broken / "checkpoints/00000006" / name
        ).read_bytes()
    losses = [
        [(line["step"], line["loss"]) for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
        for run in (whole, broken)
    ]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[1]] == [1, 2, 3, 4, 5, 6]


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    world = make_world(8, 0, WINDOW)
    fit(make_mico(world), replace(SHORT, steps=2, checkpoint_every=1), Shuffled(world, 8), tmp_path)
    torn = tmp_path / "checkpoints/.00000003.writing"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoints/00000004").mkdir()  # a name without its contents
    assert [path.name for path in checkpoints(tmp_path)] == ["00000001", "00000002"]
    assert MiCo.from_pretrained(tmp_path).config == SMALL
    report = fit(make_mico(world), replace(SHORT, steps=3, checkpoint_every=1), Shuffled(world, 8), tmp_path)
    assert report.checkpoint.endswith("00000003")
    assert [path.name for path in checkpoints(tmp_path)] == ["00000002", "00000003"]  # the last two are kept


def test_a_run_that_is_done_is_left_alone(tmp_path: Path) -> None:
    world = make_world(8, 0, WINDOW)
    first = fit(make_mico(world), replace(SHORT, steps=1), Shuffled(world, 8), tmp_path)
    again = fit(make_mico(world), replace(SHORT, steps=1), Shuffled(world, 8), tmp_path)
    assert (again.steps, again.samples, again.loss) == (1, 0, first.loss)


def test_a_run_of_another_recipe_is_refused_by_key(tmp_path: Path) -> None:
    recipe = TrainRecipe(SMALL, SHORT)
    prepare_run(asdict(recipe), tmp_path)
    prepare_run(asdict(replace(recipe, train=replace(SHORT, steps=99))), tmp_path)  # longer is allowed
    calmer = replace(SHORT, optim=OptimConfig(lr=1e-4), guard=GuardConfig(spike=30))
    prepare_run(asdict(replace(recipe, train=calmer)), tmp_path)  # what the guard asks for when it stops a run
    with pytest.raises(ValueError, match=r"another train\.seed: use another --run"):
        prepare_run(asdict(replace(recipe, train=replace(SHORT, seed=1))), tmp_path)


def test_a_loss_that_is_not_a_number_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    world = make_world(8, 0, WINDOW)
    model = make_mico(world)
    with torch.no_grad():
        model.text_head.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"lower train\.optim\.lr"):
        fit(model, replace(SHORT, checkpoint_every=1), Shuffled(world, 8), tmp_path)
    assert newest_checkpoint(tmp_path) is None


def test_training_finds_unseen_clips_and_the_permuted_control_does_not(tmp_path: Path) -> None:
    """Held-out retrieval of the model against chance, an untrained model and a model of shuffled captions."""
    world, held_out = make_world(192, 0, WINDOW), make_world(64, 1, WINDOW)
    config = replace(
        SHORT,
        steps=80,
        batch_size=32,
        checkpoint_every=1000,
        tasks="ret%tva%tv%ta_cap%tva",
        objective=ObjectiveConfig(matching_contexts="one", matching_rows=8),
        optim=OptimConfig(lr=3e-3),
    )
    model, control, untrained = (make_mico(world) for _ in range(3))
    seen: list[StepReport] = []
    fit(model, config, Shuffled(world, 32), tmp_path / "model", seen.append)
    others = world.texts[7:] + world.texts[:7]
    fit(control, config, Shuffled(world, 32, others), tmp_path / "control")

    first, last = seen[0], seen[-1]
    assert last.losses["contrastive"] < first.losses["contrastive"] - 0.8
    assert last.losses["caption"] < 0.6 * first.losses["caption"]
    tasks = parse_tasks(config.tasks)
    report = score(model.eval(), encode(model, held_out.batch(range(64))), tasks)
    alone, blind = (
        score(other.eval(), encode(other, held_out.batch(range(64))), tasks)["retrieval"]["t->va"]["mrr"]
        for other in (untrained, control)
    )
    floor, found = report["chance"]["mrr"], report["retrieval"]
    assert found["t->va"]["mrr"] > 3.5 * floor
    assert found["va->t"]["mrr"] > 3.5 * floor
    assert found["t->va"]["mrr"] > max(found["t->v"]["mrr"], found["t->a"]["mrr"])
    assert blind < 2 * floor
    assert alone < 2 * floor
    # Each part is used: another clip's picture or sound makes the right clip hard to find.
    assert report["swaps"]["t->va"]["v"] < 0.5 * found["t->va"]["r1"]
    assert report["swaps"]["t->va"]["a"] < found["t->va"]["r1"]
    assert report["caption"]["va"]["dnll"] > 0
    assert set(report["reranked"]) == {"t->va", "va->t", "t->v", "v->t", "t->a", "a->t"}


def test_ranks_count_equal_captions_as_right_and_ties_as_half() -> None:
    similar = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3], [0.0, 0.2, 0.1]])
    assert ranks(similar, torch.eye(3).bool()).tolist() == [3.0, 2.0, 2.0]
    twins = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    assert ranks(similar, twins).tolist() == [1.0, 1.5, 2.0]
    assert summary(torch.tensor([1.0, 2, 4, 20])) == {
        "r1": 0.25,
        "r5": 0.75,
        "r10": 0.75,
        "medr": 3.0,
        "mrr": pytest.approx((1 + 0.5 + 0.25 + 0.05) / 4),
    }


def test_chance_is_what_random_orders_give() -> None:
    same = torch.eye(40).bool()
    same[0, 1] = same[1, 0] = True
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([ranks(torch.rand(40, 40, generator=generator), same) for _ in range(500)])
    measured, expected = summary(drawn), chance(same)
    for name in ("r1", "r5", "r10", "mrr"):
        assert measured[name] == pytest.approx(expected[name], rel=0.1)
    assert abs(measured["medr"] - expected["medr"]) <= 2


def test_reranking_changes_the_order_inside_the_top_only() -> None:
    world = make_world(12, 0, WINDOW)
    model = make_mico(world).eval()
    encoded = encode(model, world.batch(range(12)))
    similar, same = torch.rand(12, 12, generator=torch.Generator().manual_seed(0)), torch.eye(12).bool()
    before = ranks(similar, same)
    after = rerank(model, encoded, ("frames",), similar, same, 5, text_asks=True)
    outside = before > 5
    assert torch.equal(after[outside], before[outside])
    assert bool((after[~outside] <= 5).all())


def test_the_learning_rate_warms_up_and_comes_down() -> None:
    config = OptimConfig(lr=1.0, warmup_fraction=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert max(rates) == 1.0
    assert rates[99] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_norms_biases_and_places_do_not_decay() -> None:
    model = make_mico(make_world(4, 0, WINDOW))
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.05))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (parameter.ndim < 2 or "pos_embed" in name):
            assert decays[id(parameter)] == 0, name
    assert decays[id(model.text_head.weight)] == 0.05
