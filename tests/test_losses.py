"""Losses: where they start, what they leave out, and that two ranks agree with one."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from omniloom.trainer.losses import (
    Identity,
    digest,
    hard_negatives,
    info_nce,
    mask_caption,
    matching_loss,
    sigmoid_loss,
)
from omniloom.trainer.similarity import area_similarity, volume_similarity
from omniloom.trainer.text import CLS, MASK, PAD, SEP, Tokens

torch.set_num_threads(1)


def _distinct(count: int) -> Identity:
    return Identity(digest([f"s{i}" for i in range(count)]), digest([f"c{i}" for i in range(count)]))


def _unit(count: int, width: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_info_nce_of_unrelated_vectors_is_about_ln_b() -> None:
    loss = info_nce(_unit(64, 256, 0), _unit(64, 256, 1), torch.tensor(1.0), torch.ones(64).bool(), _distinct(64))
    assert abs(float(loss) - math.log(64)) < 0.05


def test_info_nce_is_cross_entropy_both_ways_where_nothing_is_masked() -> None:
    texts, contexts, scale = _unit(8, 16, 0), _unit(8, 16, 1), torch.tensor(10.0)
    logits, target = scale * texts @ contexts.T, torch.arange(8)
    expected = sum(F.cross_entropy(side, target, label_smoothing=0.1) for side in (logits, logits.T)) / 2
    torch.testing.assert_close(info_nce(texts, contexts, scale, torch.ones(8).bool(), _distinct(8)), expected)


def test_clips_of_one_source_and_equal_captions_are_no_negatives() -> None:
    texts, contexts, scale = _unit(4, 16, 0), _unit(4, 16, 1), torch.tensor(10.0)
    twins = Identity(digest(["a", "a", "b", "c"]), digest(["w", "x", "y", "y"]))
    expected = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 1]]).bool()
    assert torch.equal(twins.differs(twins) | torch.eye(4).bool(), expected)
    logits = (scale * texts @ contexts.T).masked_fill(~expected, -torch.inf)
    by_hand = sum(F.cross_entropy(side, torch.arange(4)) for side in (logits, logits.T)) / 2
    found = info_nce(texts, contexts, scale, torch.ones(4).bool(), twins, smoothing=0.0)
    torch.testing.assert_close(found, by_hand)


def test_a_sample_that_is_not_valid_is_neither_asked_nor_offered() -> None:
    texts, contexts, scale = _unit(6, 16, 0), _unit(6, 16, 1), torch.tensor(10.0)
    valid = torch.tensor([True] * 5 + [False])
    with_junk = info_nce(texts, contexts, scale, valid, _distinct(6))
    alone = info_nce(texts[:5], contexts[:5], scale, valid[:5], _distinct(5))
    torch.testing.assert_close(with_junk, alone)


def test_hard_negatives_never_pick_a_positive_or_a_twin() -> None:
    identity = Identity(digest([f"s{i // 2}" for i in range(8)]), digest([f"c{i % 5}" for i in range(8)]))
    allowed = identity.differs(identity)
    logits = 100 * torch.eye(8)  # the sampler would love the positives
    for seed in range(200):
        picked, found = hard_negatives(logits, allowed, torch.Generator().manual_seed(seed))
        assert bool(allowed[torch.arange(8), picked].all())
        assert bool(found.all())


def test_hard_negatives_are_the_similar_ones() -> None:
    logits = torch.zeros(3, 3)
    logits[0, 2] = 12.0
    picks = [
        int(hard_negatives(logits, ~torch.eye(3).bool(), torch.Generator().manual_seed(seed))[0][0])
        for seed in range(20)
    ]
    assert picks == [2] * 20


def test_a_row_without_any_negative_says_so() -> None:
    allowed = torch.tensor([[False, False], [True, False]])
    _, found = hard_negatives(torch.zeros(2, 2), allowed, torch.Generator().manual_seed(0))
    assert found.tolist() == [False, True]


def test_matching_starts_at_ln_2_and_its_trivial_solution_is_known() -> None:
    labels = torch.tensor([1, 0, 0] * 10).bool()
    counts = torch.ones(30).bool()
    assert abs(float(matching_loss(torch.zeros(30, 2), labels, counts)) - math.log(2)) < 1e-6
    prior = torch.tensor([2 / 3, 1 / 3]).log().expand(30, 2)
    assert abs(float(matching_loss(prior, labels, counts)) - 0.6365) < 1e-4


def test_masking_hides_sixty_percent_and_never_the_first_token_or_padding() -> None:
    ids = torch.randint(5, 100, (200, 30), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[:, 20], ids[:, 21:] = CLS, SEP, PAD
    tokens = Tokens(ids, ids != PAD)
    masked, hidden = mask_caption(tokens, 0.6, 100, torch.Generator().manual_seed(2))
    assert not hidden[:, 0].any()
    assert not hidden[:, 21:].any()
    assert hidden[:, 20].any()  # the end is learned too
    assert abs(float(hidden[:, 1:21].float().mean()) - 0.6) < 0.03
    assert abs(float((masked.ids[hidden] == MASK).float().mean()) - 0.8) < 0.03
    assert abs(float((masked.ids[hidden] == ids[hidden]).float().mean()) - 0.1) < 0.03
    assert bool((masked.ids[~hidden] == ids[~hidden]).all())


def _rank_gradient(rank: int, port: int, folder: str) -> None:
    """One of two ranks: gradients of a shared linear map on its half of the batch, averaged as DDP does."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model, inputs, valid = _toy_problem()
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    half = slice(4 * rank, 4 * rank + 4)
    _toy_loss(wrapped, inputs[half], valid[half], 4 * rank).backward()
    if rank == 0:
        torch.save([p.grad for p in model.parameters()], Path(folder) / "grads.pt")
    dist.destroy_process_group()


def _toy_problem() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 10)
    valid = torch.tensor([True, True, True, False, True, True, False, False])  # unequal counts on the ranks
    return model, torch.randn(8, 6), valid


def _toy_loss(model: torch.nn.Module, inputs: torch.Tensor, valid: torch.Tensor, first: int) -> torch.Tensor:
    names = [str(first + i) for i in range(len(inputs))]
    identity = Identity(digest(names), digest([name if name != "5" else "0" for name in names]))
    features = model(inputs)
    texts, contexts = F.normalize(features[:, :5], dim=-1), F.normalize(features[:, 5:], dim=-1)
    matching = matching_loss(features[:, :2], valid, valid)
    # Samples of two vectors each, one of which some lack.
    there = torch.tensor([[name not in {"1", "6"}, name != "4"] for name in names])
    several = F.normalize(features[:, 2:].unflatten(1, (2, 4)), dim=-1) * there[..., None]
    short, scale, bias = F.normalize(features[:, :4], dim=-1), torch.tensor(5.0), torch.tensor(-2.0)
    return (
        info_nce(texts, contexts, scale, valid, identity)
        + info_nce(short, several, scale, valid, identity, similarity=volume_similarity)
        + info_nce(short, several, scale, valid, identity, similarity=area_similarity)
        + sigmoid_loss(short, several, scale, bias, valid, identity, volume_similarity)
        + sigmoid_loss(texts, contexts, scale, bias, valid, identity)
        + matching
    )


def test_gradients_of_two_ranks_are_those_of_one(tmp_path: Path) -> None:
    model, inputs, valid = _toy_problem()
    _toy_loss(model, inputs, valid, 0).backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank_gradient, args=(port, str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "grads.pt", weights_only=True)
    for one, two in zip(model.parameters(), found, strict=True):
        torch.testing.assert_close(two, one.grad, atol=1e-6, rtol=1e-5)
