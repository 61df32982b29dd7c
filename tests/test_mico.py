"""The network: invariances, masks, causality, the front ends, and what is saved is what is loaded."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from omniloom.pipeline.batch import Batch
from omniloom.trainer.evaluate import encode_all, hide, right_answers, search
from omniloom.trainer.mico import MiCo
from omniloom.trainer.objectives import Objective, ObjectiveConfig, drop_modalities, tasks_of_step
from omniloom.trainer.stems import LogMel, MelImages, farthest_points, group_points
from omniloom.trainer.tasks import parse_tasks
from omniloom.trainer.text import MASK, Tokenizer, Tokens
from tests.toys import SMALL, World, make_mico, make_world

torch.set_num_threads(1)
ALL = ("frames", "audio", "depth", "normal", "points")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(16, 0, SMALL.window(train=False))


@pytest.fixture(scope="module")
def model(world: World) -> MiCo:
    return make_mico(world).eval()


def _without(batch: Batch, name: str, row: int) -> Batch:
    """The batch with one sample's modality absent, and junk where it was."""
    present = batch.present[name].clone()
    present[row] = False
    tensor = batch.tensors[name].clone()
    tensor[row] = 1e3
    return replace(batch, tensors={**batch.tensors, name: tensor}, present={**batch.present, name: present})


@torch.no_grad()
def _seen(model: MiCo, batch: Batch, names: tuple[str, ...]) -> list[torch.Tensor]:
    """Everything the model says of a batch: pooled features, match logits, caption likelihoods."""
    context = model.encode_context(batch)
    tokens = model.tokenize(batch.texts["caption"])
    return [
        model.pool(context, names),
        model.match_logits(tokens, context, names),
        model.text.token_nll(tokens, *model.context.select(context, names)),
    ]


def test_losses_start_near_ln_b_and_ln_2_and_ln_v(model: MiCo, world: World) -> None:
    tasks = parse_tasks("ret%tva_cap%tva")
    objective = Objective(model, ObjectiveConfig(label_smoothing=0.0))
    with torch.no_grad():
        losses = objective(world.batch(range(16)), tasks, torch.Generator().manual_seed(0))
    assert abs(float(losses["contrastive"]) - math.log(16)) < 0.8  # a temperature of .07 spreads it
    assert abs(float(losses["matching"]) - math.log(2)) < 0.15
    assert abs(float(losses["caption"]) - math.log(len(model.tokenizer))) < 0.7


def test_permuting_the_batch_permutes_the_outputs(model: MiCo, world: World) -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1)).tolist()
    straight = _seen(model, world.batch(range(8)), ALL)
    for one, other in zip(straight, _seen(model, world.batch(order), ALL), strict=True):
        torch.testing.assert_close(one[order], other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_an_absent_modality_gives_exactly_the_result_of_dropping_it(model: MiCo, world: World, name: str) -> None:
    batch = world.batch(range(4))
    rest = tuple(other for other in ALL if other != name)
    masked = _seen(model, _without(batch, name, row=2), ALL)
    dropped_batch = replace(
        batch,
        tensors={other: batch.tensors[other] for other in rest},
        present={other: batch.present[other] for other in (*rest, "caption")},
    )
    dropped = _seen(model, dropped_batch, ALL)
    whole = _seen(model, batch, ALL)
    for masked_part, dropped_part, whole_part in zip(masked, dropped, whole, strict=True):
        torch.testing.assert_close(masked_part[2], dropped_part[2], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(masked_part[:2], whole_part[:2], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(whole_part[2], dropped_part[2], atol=1e-4)  # it did say something


def test_the_papers_fusion_and_positions_keep_that_promise(world: World) -> None:
    config = replace(
        SMALL,
        stem="shared_rgb",
        fusion="concat_linear",
        combinations=("vad",),
        context_position="paper",
        pool_video=False,
    )
    model, names = make_mico(world, config).eval(), ("frames", "audio", "depth")
    batch = world.batch(range(4))
    masked = _seen(model, _without(batch, "audio", row=1), names)
    dropped = _seen(model, replace(batch, present={**batch.present, "audio": torch.zeros(4).bool()}), names)
    for masked_part, dropped_part in zip(masked, dropped, strict=True):
        torch.testing.assert_close(masked_part[1], dropped_part[1], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="no head for"):
        model.embed(batch, "va")


def test_what_is_hidden_in_search_is_as_what_is_absent(world: World, model: MiCo) -> None:
    batch, names = world.batch(range(6)), ("frames", "audio")
    encoded = encode_all(model, [batch])
    gone = torch.tensor([True, False, False, True, False, False])
    hidden = hide(encoded.context, {"audio": gone})
    lacking = replace(batch, present={**batch.present, "audio": batch.present["audio"] & ~gone})
    absent = encode_all(model, [lacking])
    for mine, theirs in zip(search(model, encoded, names, hidden), search(model, absent, names), strict=True):
        torch.testing.assert_close(mine, theirs)
    vectors = model.vectors(hidden, names)
    torch.testing.assert_close(vectors, model.vectors(absent.context, names), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(vectors, model.vectors(encoded.context, names), atol=1e-3)
    assert right_answers(encoded).diagonal().all()


def test_each_embedding_of_the_context_can_be_left_out(world: World) -> None:
    paper = replace(SMALL, context_position="paper")
    batch = world.batch(range(4))
    for name in ("time", "modality", "presence", "position", "sample"):
        whole, lacking = make_mico(world, paper), make_mico(world, replace(paper, context_without=(name,)))
        frozen = [key for key, parameter in lacking.context.named_parameters() if not parameter.requires_grad]
        (left_out,) = frozen
        assert not lacking.get_parameter(f"context.{left_out}").any()
        weights = {key: value for key, value in whole.state_dict().items() if key != f"context.{left_out}"}
        torch.testing.assert_close(weights, {key: lacking.state_dict()[key] for key in weights}, rtol=0, atol=0)
        seen, unseen = (
            model.context.select(model.encode_context(batch), ("frames", "audio"))[0] for model in (whole, lacking)
        )
        assert not torch.allclose(seen, unseen, atol=1e-3), name
    with pytest.raises(ValueError, match="no embedding 'sample' here, only time, modality, presence"):
        make_mico(world, replace(SMALL, context_without=("sample",)))


def test_a_transcript_is_a_context_of_words(world: World) -> None:
    model = make_mico(world, replace(SMALL, modalities=("frames", "transcript"))).eval()
    batch = world.batch(range(4))
    spoken = torch.tensor([True, False, True, True])
    batch.texts["transcript"] = ["a low red note", "", "left", "a bar at the right while it sounds"]
    batch.present["transcript"] = spoken
    silent = replace(batch, present={**batch.present, "transcript": torch.zeros(4).bool()})
    heard, unheard = (_seen(model, each, ("frames", "transcript")) for each in (batch, silent))
    for with_speech, without in zip(heard, unheard, strict=True):
        torch.testing.assert_close(with_speech[1], without[1], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(with_speech[0], without[0], atol=1e-4)


def test_generation_does_not_see_later_words(model: MiCo, world: World) -> None:
    context = model.context.select(model.encode_context(world.batch(range(2))), ALL)
    tokens = model.tokenize(world.texts[:2])
    changed = Tokens(tokens.ids.clone(), tokens.mask)
    changed.ids[:, 5] = MASK
    with torch.no_grad():
        before, after = model.text.generate(tokens, *context), model.text.generate(changed, *context)
        both_ways = model.text.match(changed, *context) - model.text.match(tokens, *context)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert float((before[:, 5:] - after[:, 5:]).abs().amax()) > 1e-3
    assert float(both_ways[:, :5].abs().amax()) > 1e-3  # matching does see them


def test_one_pass_likelihoods_are_those_of_generating_word_by_word(model: MiCo, world: World) -> None:
    context = model.context.select(model.encode_context(world.batch(range(2))), ALL)
    tokens = model.tokenize(world.texts[:2])
    with torch.no_grad():
        nll = model.text.token_nll(tokens, *context)
        for place in range(1, 6):
            asked = tokens.ids[:, : place + 1].clone()
            asked[:, place] = MASK
            hidden = model.text.generate(Tokens(asked, asked != 0), *context)
            one = -model.text.words(hidden[:, place]).log_softmax(-1)[torch.arange(2), tokens.ids[:, place]]
            torch.testing.assert_close(nll[:, place - 1], one, atol=1e-4, rtol=1e-4)


def test_embeddings_are_unit_vectors_and_zero_where_nothing_is_there(model: MiCo, world: World) -> None:
    batch = world.batch(range(4))
    for what in ("t", "v", "va", "vadnp", "p"):
        torch.testing.assert_close(model.embed(batch, what).norm(dim=-1), torch.ones(4))
    batch.present["audio"][3] = False
    assert float(model.embed(batch, "a")[3].abs().sum()) == 0
    with pytest.raises(ValueError, match="unknown modality letter"):
        model.embed(batch, "vs")


def test_a_saved_model_is_the_loaded_model(model: MiCo, world: World, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "kept")
    again = MiCo.from_pretrained(tmp_path / "kept")
    batch = world.batch(range(3))
    assert torch.equal(again.embed(batch, "vad"), model.embed(batch, "vad"))
    assert again.caption(batch, "va") == model.caption(batch, "va")
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".safetensors", ".json", ".md"}
    with pytest.raises(FileNotFoundError, match="no model in"):
        MiCo.from_pretrained(tmp_path / "nothing")


def test_modality_dropout_leaves_every_sample_something(world: World) -> None:
    batch = drop_modalities(world.batch([0] * 500), ALL, 0.7, torch.Generator().manual_seed(0))
    kept = torch.stack([batch.present[name] for name in ALL], 1)
    assert bool(kept.any(1).all())
    assert 0.25 < float(kept.float().mean()) < 0.5
    assert bool(batch.present["caption"].all())


def test_the_tasks_of_a_step_depend_on_seed_and_step_alone() -> None:
    tasks = parse_tasks("ret%tva%tv%ta_cap%tva%tv")
    config = ObjectiveConfig(matching_contexts="one")
    drawn = [tasks_of_step(tasks, config, 3, step) for step in range(30)]
    assert drawn == [tasks_of_step(tasks, config, 3, step) for step in range(30)]
    assert all(step[0] == tasks[0] and len(step[1].contexts) == 1 for step in drawn)
    assert len({step[1].contexts for step in drawn}) == 3


def test_the_mel_filterbank_is_kaldis() -> None:
    transformers = pytest.importorskip("transformers", reason="the reference filterbank is in transformers")
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    reference = transformers.ASTFeatureExtractor(num_mel_bins=64, max_length=98, do_normalize=False)
    if hasattr(reference, "mel_filters"):
        expected = reference._extract_fbank_features(wave, max_length=98)
        found = LogMel(64)(torch.from_numpy(wave / 2**15)[None])[0]  # the reference is not at 16-bit scale
        np.testing.assert_allclose(found.numpy(), np.asarray(expected), atol=2e-3)
    else:
        pytest.skip("transformers uses torchaudio here")


def test_a_mel_image_has_its_tone_in_the_right_row() -> None:
    images = MelImages(48, 2, 0.5, hop_ms=10)
    seconds = torch.arange(16_000) / 16_000
    wave = torch.where(seconds < 0.5, torch.sin(2 * math.pi * 300 * seconds), torch.sin(2 * math.pi * 4000 * seconds))
    low, high = images(wave[None])[0, :, 0].mean(1).argmax(-1).tolist()
    mel = [1127 * math.log1p(hz / 700) for hz in (20, 300, 4000, 8000)]
    for row, pitch in ((low, mel[1]), (high, mel[2])):
        assert abs(row - (49 * (pitch - mel[0]) / (mel[3] - mel[0]) - 1)) <= 1
    assert images(torch.zeros(1, 4000)).shape == (1, 2, 1, 48, 48)  # shorter sound is padded


def test_farthest_points_are_far_and_groups_are_near() -> None:
    corners = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]])
    cloud = torch.cat(
        [corners + 0.01 * torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    )
    chosen = cloud[farthest_points(cloud[None], 4)[0]]
    assert sorted((chosen / 10).round().tolist()) == sorted((corners / 10).tolist())
    groups, centres = group_points(torch.cat([cloud, torch.rand(32, 3)], 1)[None], 4, 8)
    assert groups.shape == (1, 4, 8, 6)
    assert float(groups[..., :3].norm(dim=-1).max()) < 0.1 < float(torch.pdist(centres[0]).min())


def test_points_have_no_order(model: MiCo, world: World) -> None:
    batch = world.batch(range(3))
    shuffled = batch.tensors["points"][:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    other = replace(batch, tensors={**batch.tensors, "points": shuffled})
    torch.testing.assert_close(model.embed(batch, "p"), model.embed(other, "p"), atol=1e-4, rtol=1e-3)


def test_the_same_texts_in_any_order_give_the_same_vocabulary() -> None:
    texts = ["a red disc", "the red bar, left", "Ein Ton", "a a a"]
    one, other = Tokenizer.train(texts, 30), Tokenizer.train(reversed(texts), 30)
    assert one.to_json() == other.to_json()
    assert len(one) == 30
    whole = Tokenizer.train(texts, 1000)
    assert whole.decode(whole.encode(["THE red bar"], 10).ids[0].tolist()) == "the red bar"
    assert whole.encode(["a red disc"], 4).ids.shape == (1, 4)
