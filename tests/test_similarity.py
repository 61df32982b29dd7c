"""Volume and area: values known by hand, what they do not depend on, and gradients where vectors coincide."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from omniloom.trainer.losses import Identity, digest, info_nce, sigmoid_loss
from omniloom.trainer.similarity import (
    Similarity,
    area,
    area_similarity,
    cosine,
    similarity_of,
    volume,
    volume_similarity,
)

torch.set_num_threads(1)
EVERY = (cosine, volume, area, volume_similarity, area_similarity)


def _unit(*shape: int, seed: int = 0) -> torch.Tensor:
    """Float64 unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def _identity(count: int) -> Identity:
    return Identity(digest([f"s{i // 2}" for i in range(count)]), digest([f"c{i % 4}" for i in range(count)]))


def test_orthogonal_vectors_span_a_unit_cube_and_a_triangle_of_known_area() -> None:
    axes = torch.eye(4)
    assert float(volume(axes[:1], axes[None, 1:])) == pytest.approx(1, abs=1e-5)
    assert float(area(axes[:1], axes[None, 1:3])) == pytest.approx(math.sqrt(3) / 2, abs=1e-5)
    assert float(area(axes[:1], axes[None, 1:])) == pytest.approx(math.sqrt(3) / 2, abs=1e-5)  # three equal triangles
    assert float(area(axes[:1], axes[None, 1:2])) == pytest.approx(math.sqrt(2) / 2, abs=1e-5)  # half the distance
    assert float(volume_similarity(axes[:1], axes[None, 1:])) == pytest.approx(-1, abs=1e-5)


def test_known_angles_give_known_volumes_and_areas() -> None:
    third = torch.tensor([math.cos(math.pi / 3), math.sin(math.pi / 3), 0.0])
    flat = torch.tensor([math.cos(math.pi / 3), -math.sin(math.pi / 3), 0.0])
    text = torch.tensor([[1.0, 0, 0]])
    assert float(volume(text, third[None, None])) == pytest.approx(math.sin(math.pi / 3), abs=1e-5)
    # 60 degrees to either side: in one plane, so no volume, and a triangle of base sqrt 3 and height a half.
    pair = torch.stack([third, flat])[None]
    assert float(volume(text, pair)) == pytest.approx(1e-3, abs=1e-4)
    assert float(area(text, pair)) == pytest.approx(math.sqrt(3) / 4, abs=1e-5)
    assert float(cosine(text, pair)) == pytest.approx(0.5, abs=1e-6)
    # Cosines of a half between all three: the determinant is a half.
    corner = torch.linalg.cholesky(torch.full((3, 3), 0.5) + 0.5 * torch.eye(3))
    assert float(volume(corner[:1], corner[None, 1:])) == pytest.approx(math.sqrt(0.5), abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_volume_is_the_root_of_the_gram_determinant(count: int) -> None:
    texts, samples = _unit(3, 9), _unit(5, count, 9, seed=1)
    everything = torch.cat([texts[:, None, None].expand(-1, 5, -1, -1), samples.expand(3, -1, -1, -1)], 2)
    expected = torch.linalg.det(everything @ everything.mT).sqrt()
    torch.testing.assert_close(volume(texts, samples), expected, atol=1e-5, rtol=1e-5)


def test_the_area_is_herons() -> None:
    texts, samples = _unit(3, 9), _unit(5, 2, 9, seed=1)
    for i, text in enumerate(texts):
        for j, (one, other) in enumerate(samples):
            a, b, c = ((text - one).norm(), (text - other).norm(), (one - other).norm())
            half = (a + b + c) / 2
            expected = (half * (half - a) * (half - b) * (half - c)).sqrt()
            torch.testing.assert_close(area(texts, samples)[i, j], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("similarity", EVERY)
def test_turning_all_vectors_and_their_order_change_nothing(similarity: Similarity) -> None:
    texts, samples = _unit(4, 8), _unit(6, 3, 8, seed=1)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(similarity(texts @ turn, samples @ turn), similarity(texts, samples))
    torch.testing.assert_close(similarity(texts, samples[:, [2, 0, 1]]), similarity(texts, samples))


@pytest.mark.parametrize("similarity", EVERY)
def test_an_absent_vector_counts_as_if_it_had_never_been(similarity: Similarity) -> None:
    texts, samples = _unit(4, 8), _unit(6, 3, 8, seed=1)
    gone = samples.clone()
    gone[::2, 1] = 0
    found = similarity(texts, gone)
    torch.testing.assert_close(found[:, ::2], similarity(texts, samples[::2, [0, 2]]))
    torch.testing.assert_close(found[:, 1::2], similarity(texts, samples[1::2]))
    gone[0, 0] = 0
    torch.testing.assert_close(similarity(texts, gone)[:, :1], similarity(texts, samples[:1, 2]))


@pytest.mark.parametrize("similarity", [volume_similarity, area_similarity])
def test_perfect_alignment_is_the_best_there_is(similarity: Similarity) -> None:
    text = _unit(1, 16)
    same = text[:, None].expand(1, 3, 16)
    assert float(similarity(text, same)) == pytest.approx(1, abs=2e-3)
    others = similarity(text, _unit(500, 3, 16, seed=1))
    assert float(others.max()) < 0.8
    # Volume alone calls a sample perfect whose vectors coincide, whatever the text; the cosine does not.
    collapsed = _unit(500, 1, 16, seed=2).expand(-1, 3, -1)
    assert float(volume(text, collapsed).max()) < 2e-3
    assert float(similarity(text, collapsed).max()) < 0.9


@pytest.mark.parametrize("similarity", EVERY)
def test_gradients_are_those_of_finite_differences(similarity: Similarity) -> None:
    texts, samples = _unit(3, 6).requires_grad_(), _unit(2, 3, 6, seed=1)
    samples[1, 0] = 0
    free = samples[:, 1:].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t, s: similarity(t, torch.cat([samples[:, :1], s], 1)), (texts, free))


@pytest.mark.parametrize("similarity", EVERY)
@pytest.mark.parametrize("which", ["all coincide", "two coincide", "opposite", "one present", "none present"])
def test_gradients_are_finite_where_vectors_coincide(similarity: Similarity, which: str) -> None:
    text, samples = _unit(4, 8).float().requires_grad_(), _unit(4, 3, 8, seed=1).float()
    with torch.no_grad():
        match which:
            case "all coincide":
                samples[:] = text[:, None]
            case "two coincide":
                samples[:, 1] = samples[:, 0]
            case "opposite":
                samples[:] = -text[:, None]
            case "one present":
                samples[:, 1:] = 0
            case _:
                samples[:] = 0
    samples.requires_grad_()
    found = similarity(F.normalize(text, dim=-1), F.normalize(samples, dim=-1))
    assert bool(found.isfinite().all())
    # What a loss at a temperature of .01 would send back.
    (100 * found).sum().backward()
    for leaf in (text, samples):
        assert leaf.grad is not None
        assert bool(leaf.grad.isfinite().all())
        assert float(leaf.grad.abs().max()) < 1e4


@pytest.mark.parametrize("similarity", EVERY)
def test_half_precision_around_them_changes_nothing(similarity: Similarity) -> None:
    texts, samples = _unit(4, 64).float(), _unit(5, 3, 64, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = similarity(texts, samples)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, similarity(texts, samples), atol=0, rtol=0)


def test_sigmoid_loss_is_the_papers_formula() -> None:
    texts, samples = _unit(4, 8), _unit(4, 8, seed=1)
    distinct = Identity(digest(list("abcd")), digest(list("efgh")))
    scale, bias = torch.tensor(10.0), torch.tensor(-3.0)
    expected = 0.0
    for i in range(4):
        for j in range(4):
            z = 1 if i == j else -1
            expected += math.log(1 + math.exp(-z * (10 * float(texts[i] @ samples[j]) - 3))) / 4
    found = sigmoid_loss(texts, samples, scale, bias, torch.ones(4).bool(), distinct)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    start = sigmoid_loss(_unit(64, 256), _unit(64, 256, seed=1), scale, torch.tensor(-10.0), torch.ones(64).bool(),
                         Identity(torch.arange(64), torch.arange(64)))  # fmt: skip
    assert float(start) == pytest.approx(10, abs=0.3)  # nearly all of it is the positives'


def test_sigmoid_loss_leaves_false_negatives_and_absent_samples_out() -> None:
    texts, samples = _unit(4, 8), _unit(4, 8, seed=1)
    scale, bias = torch.tensor(10.0), torch.tensor(-3.0)
    twins = Identity(digest(["a", "a", "b", "c"]), digest(["w", "x", "y", "y"]))
    valid = torch.tensor([True, True, True, False])
    sign = 2 * torch.eye(4) - 1
    pairs = -F.logsigmoid(sign * (10 * texts @ samples.T - 3))
    # 0 and 1 are of one source, 3 is not there (and would have been 2's twin).
    expected = (pairs[0, [0, 2]].sum() + pairs[1, [1, 2]].sum() + pairs[2, [0, 1, 2]].sum()) / 3
    torch.testing.assert_close(sigmoid_loss(texts, samples, scale, bias, valid, twins), expected)


@pytest.mark.parametrize("similarity", [cosine, volume_similarity, area_similarity])
def test_the_losses_gradients_are_those_of_finite_differences(similarity: Similarity) -> None:
    texts, samples = _unit(5, 6).requires_grad_(), _unit(5, 2, 6, seed=1).requires_grad_()
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (5.0, -2.0))
    valid = torch.tensor([True, True, False, True, True])

    def softmax(t: torch.Tensor, s: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return info_nce(t, s, by, valid, _identity(5), similarity=similarity)

    def sigmoid(t: torch.Tensor, s: torch.Tensor, by: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return sigmoid_loss(t, s, by, shift, valid, _identity(5), similarity)

    assert torch.autograd.gradcheck(softmax, (texts, samples, scale))
    assert torch.autograd.gradcheck(sigmoid, (texts, samples, scale, bias))


def test_a_similarity_that_does_not_exist_is_refused_with_the_repair() -> None:
    with pytest.raises(ValueError, match="cosine, volume or area"):
        similarity_of("euclidean")  # pyright: ignore[reportArgumentType]
