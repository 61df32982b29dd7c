"""Batches in parts: the gradients of the whole batch with the memory of a part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from omniloom.modalities.base import Window
from omniloom.pipeline.batch import Batch
from omniloom.trainer.accumulate import Recompute, encode_in_parts, join_contexts, recompute_layers, split_batch
from omniloom.trainer.mico import MiCo, MiCoConfig
from omniloom.trainer.objectives import Objective, ObjectiveConfig
from omniloom.trainer.tasks import parse_tasks
from tests.toys import SMALL, World, make_mico, make_world

torch.set_num_threads(1)
CONFIG = replace(SMALL, modalities=("frames", "audio", "transcript", "depth", "points"))
TASKS = parse_tasks("ret%tva%tvasdp_cap%tvas", (*CONFIG.modalities, "caption"))


@cache
def _world() -> World:
    window: Window = SMALL.window(train=False)
    return make_world(7, 0, window)


def _batch() -> Batch:
    """Seven samples; some lack a modality, and the first two parts of three have no depth at all."""
    batch = _world().batch(range(7))
    batch.present["audio"][2] = False
    batch.present["depth"][:5] = False
    batch.present["transcript"] = torch.tensor([True, False, True, True, False, True, True])
    said = ["one", "", "two words", "no", "", "a much longer thing was said here", "yes"]
    batch.texts["transcript"] = said
    return batch


def _gradients(
    accumulate: int, recompute: Recompute = "none", config: MiCoConfig = CONFIG
) -> tuple[float, dict[str, Tensor]]:
    model = make_mico(_world(), config)
    recompute_layers(model, recompute)
    objective = Objective(model, ObjectiveConfig(), accumulate).train()
    losses = objective(_batch(), TASKS, torch.Generator().manual_seed(1))
    losses["loss"].backward()
    return losses["loss"].item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_gradients_of_parts_are_those_of_the_whole_batch(parts: int) -> None:
    loss, whole = _gradients(1)
    same, split = _gradients(parts)
    assert same == pytest.approx(loss, rel=1e-6)
    assert split.keys() == whole.keys()
    assert len(whole) > 50
    for name, gradient in whole.items():
        error = (split[name] - gradient).norm() / gradient.norm().clamp_min(1e-4)
        assert error < 1e-4, f"{name}: {error}"


@pytest.mark.parametrize("recompute", ["text", "all"])
def test_layers_computed_again_give_the_same_bits(recompute: Recompute) -> None:
    loss, whole = _gradients(1)
    same, again = _gradients(1, recompute)
    assert same == loss
    assert all(torch.equal(again[name], gradient) for name, gradient in whole.items())


def test_random_numbers_of_a_part_are_the_same_both_times() -> None:
    """With dropout, gradients of recomputed parts are those of parts whose activations were kept."""

    def gradient(encode: Callable[[MiCo, Batch], Any]) -> Tensor:
        model = make_mico(_world(), CONFIG).train()
        model.encoder.vit.blocks[0].mlp.drop1.p = 0.5
        torch.manual_seed(7)
        tokens = encode(model, _batch()).tokens["frames"]
        (tokens * torch.linspace(-1, 1, tokens.numel()).view_as(tokens)).sum().backward()
        found = model.encoder.vit.blocks[0].mlp.fc1.weight.grad
        assert found is not None
        return found

    kept = gradient(lambda model, batch: join_contexts([model.encode_context(b) for b in split_batch(batch, 3)]))
    again = gradient(lambda model, batch: encode_in_parts(model, batch, 3))
    assert torch.equal(again, kept)


def test_parts_and_layers_keep_less_for_the_way_back() -> None:
    def kept_bytes(accumulate: int, recompute: Recompute) -> int:
        seen: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model = make_mico(_world(), CONFIG)
            recompute_layers(model, recompute)
            held = [p.untyped_storage().data_ptr() for p in model.parameters()]
            objective = Objective(model, ObjectiveConfig(caption_weight=0), accumulate).train()
            losses = objective(_batch(), TASKS[:1], torch.Generator().manual_seed(1))
        assert losses["loss"].requires_grad
        return sum(size for place, size in seen.items() if place not in held)

    whole = kept_bytes(1, "none")
    assert kept_bytes(7, "none") < 0.7 * whole
    assert kept_bytes(1, "all") < 0.7 * whole
    assert kept_bytes(1, "all") < kept_bytes(1, "text") < whole


def test_a_batch_in_parts_is_the_batch() -> None:
    batch = _batch()
    parts = split_batch(batch, 3)
    assert [len(part) for part in parts] == [2, 2, 3]
    assert [key for part in parts for key in part.keys] == batch.keys
    assert [text for part in parts for text in part.texts["transcript"]] == batch.texts["transcript"]
    for name, tensor in batch.tensors.items():
        assert torch.equal(torch.cat([part.tensors[name] for part in parts]), tensor)
    assert len(split_batch(batch, 20)) == 7

    model = make_mico(_world(), CONFIG).eval()
    with torch.no_grad():
        whole, joined = model.encode_context(batch), encode_in_parts(model, batch, 3)
    assert joined.size == whole.size
    assert set(joined.tokens) == set(whole.tokens)
    for name, mask in whole.masks.items():
        assert torch.equal(joined.masks[name], mask)
        assert torch.equal(joined.present[name], whole.present[name])
        torch.testing.assert_close(joined.tokens[name][mask], whole.tokens[name][mask], rtol=1e-4, atol=1e-5)
