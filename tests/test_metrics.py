"""What a run writes about itself: numbers that sinks read too, operations counted, curves drawn, a mean of weights."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from omniloom.recipes.config import RecipeError, train_recipe
from omniloom.trainer.ema import Ema
from omniloom.trainer.flops import training_flops
from omniloom.trainer.metrics import StepReport
from omniloom.trainer.mico import MiCo
from omniloom.trainer.train import TrainConfig, fit
from tests.toys import SMALL, Shuffled, make_mico, make_world

torch.set_num_threads(1)
CONFIG = TrainConfig(steps=4, batch_size=4, checkpoint_every=2, tasks="ret%tva_cap%tva", device="cpu")


def _records(path: Path) -> Iterator[bytes]:
    """Of a TFRecord file: length, its checksum, data, its checksum."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_a_run_shows_itself_as_numbers_events_and_a_picture(tmp_path: Path) -> None:
    world = make_world(8, 0, SMALL.window(train=False))
    seen: list[StepReport] = []
    report = fit(make_mico(world), replace(CONFIG, log_to=("tensorboard",)), Shuffled(world, 4), tmp_path, seen.append)
    assert report.skipped == 0
    assert [at.step for at in seen] == [1, 2, 3, 4]
    assert all(at.taken and at.tflops and at.tflops > 0 and at.mfu is None for at in seen)
    assert set(seen[0].losses) == {"contrastive", "matching", "caption"}

    event = import_module("tensorboardX.proto.event_pb2").Event
    (path,) = (tmp_path / "tensorboard").iterdir()
    scalars = [
        (found.step, value.tag, value.simple_value)
        for found in map(event.FromString, _records(path))
        for value in found.summary.value
        if value.WhichOneof("value") == "simple_value"
    ]
    losses = [(step, value) for step, tag, value in scalars if tag == "loss"]
    assert losses == [(at.step, pytest.approx(at.loss, rel=1e-5)) for at in seen]
    assert {"grad_norm", "samples_per_second", "contrastive", "temperature"} <= {tag for _, tag, _ in scalars}

    picture = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert picture.shape[0] > 300
    left = picture[60:-60, 60 : picture.shape[1] // 2 - 40].reshape(-1, 3).astype(int)
    assert (np.ptp(left, axis=1) > 60).mean() > 0.001  # coloured lines, not an empty frame


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_sink_that_is_not_installed_is_refused_with_its_repair(tmp_path: Path) -> None:
    world = make_world(4, 0, SMALL.window(train=False))
    with pytest.raises(ValueError, match=r"train\.log_to asks for wandb.*pip install wandb"):
        fit(make_mico(world), replace(CONFIG, log_to=("wandb",)), Shuffled(world, 4), tmp_path)
    with pytest.raises(ValueError, match=r"train\.log_to takes tensorboard, wandb, got 'tensorbord'"):
        replace(CONFIG, log_to=("tensorbord",))


def test_operations_are_counted_as_a_person_would() -> None:
    x = torch.rand(5, 7)
    assert training_flops(lambda: nn.Linear(7, 11)(x)) == 3 * 2 * 5 * 7 * 11
    q = torch.rand(2, 3, 10, 8)
    assert training_flops(lambda: F.scaled_dot_product_attention(q, q, q)) == 3 * 2 * (2 * 2 * 3 * 10 * 10 * 8)


def test_the_mean_of_weights_follows_its_formula() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.6)
    expected = model.weight.detach().double().clone()
    for step in range(20):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(ema.weights["weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_run_with_a_mean_is_evaluated_by_it(tmp_path: Path) -> None:
    world = make_world(8, 0, SMALL.window(train=False))
    model = make_mico(world)
    fit(model, replace(CONFIG, ema=0.9), Shuffled(world, 4), tmp_path)
    loaded = MiCo.from_pretrained(tmp_path)
    last = MiCo.from_pretrained(tmp_path / "checkpoints/00000002")
    name = "text_head.weight"
    assert not torch.equal(loaded.state_dict()[name], model.state_dict()[name])
    assert not torch.equal(loaded.state_dict()[name], last.state_dict()[name])
    assert all(torch.isfinite(tensor).all() for tensor in loaded.state_dict().values())


def test_the_keys_of_the_loop_are_recipe_keys_and_wrong_values_name_theirs() -> None:
    keys = ("train.guard.spike=5", "train.log_to=[tensorboard]", "train.recompute=all", "train.parallel=fsdp")
    config = train_recipe("mico-base", keys).train
    assert (config.guard.spike, config.log_to, config.recompute, config.parallel) == (
        5,
        ("tensorboard",),
        "all",
        "fsdp",
    )
    assert config.accumulate == 8
    for wrong in ("train.guard.spike=0.5", "train.ema=1.5", "train.recompute=some", "train.log_to=[tensorbord]"):
        with pytest.raises(RecipeError, match=r"train.*(spike|ema|recompute|log_to)"):
            train_recipe("mico-tiny", [wrong])
