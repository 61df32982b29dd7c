"""Question answering: a question is read both ways, its answer is written word by word, and it can be learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from omniloom.modalities import Clip, Rejected, qa
from omniloom.modalities.base import Footage, Window
from omniloom.pipeline.batch import Batch
from omniloom.pipeline.loader import Loader
from omniloom.trainer.evaluate import answer_accuracy, evaluate
from omniloom.trainer.mico import MiCo
from omniloom.trainer.objectives import Objective, ObjectiveConfig
from omniloom.trainer.tasks import Task, parse_tasks
from omniloom.trainer.text import MASK, PAD, SEP, Tokenizer, Tokens
from omniloom.trainer.train import TrainConfig, TrainRecipe, train
from tests.shards import make_corpus
from tests.toys import SMALL, World, make_world

torch.set_num_threads(1)
NAMES = ("frames", "audio")
QUESTIONS = ("is it red?", "is there a disc to be seen?")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(16, 0, SMALL.window(train=False))


@pytest.fixture
def model(world: World) -> MiCo:
    torch.manual_seed(0)
    return MiCo(SMALL, Tokenizer.train([*world.texts, *QUESTIONS, "yes", "no"], 500))


def _answer(world: World, row: int, question: str) -> str:
    return "yes" if ("red" if "red" in question else "disc") in world.texts[row] else "no"


def _asking(world: World, seed: int) -> Batch:
    """The world with one of two questions about each sample, and nothing else said of it."""
    batch = world.batch(range(16))
    asked = np.random.default_rng(seed).integers(2, size=16)
    texts = [f"{QUESTIONS[which]}\n{_answer(world, row, QUESTIONS[which])}" for row, which in enumerate(asked)]
    there = {name: mask for name, mask in batch.present.items() if name != "caption"}
    return replace(batch, texts={"qa": texts}, present={**there, "qa": torch.ones(16).bool()})


def test_the_task_is_parsed_into_a_type() -> None:
    assert parse_tasks("ret%tv_qa%tva")[-1] == Task("answer", (("frames", "audio"),))
    with pytest.raises(ValueError, match="answer twice"):
        parse_tasks("qa%tva_qa%tv")


def test_a_question_is_read_both_ways_and_an_answer_is_not(model: MiCo, world: World) -> None:
    model.eval()
    with torch.no_grad():
        seen = model.context.select(model.encode_context(world.batch(range(2))), NAMES)
        question = model.tokenize(["is it red?", "is there a disc to be seen?"])
        answer = model.tokenize_answers(["a low tone", "a disc on the left"])
        before = model.text.answer(question, answer, *seen)
        later = Tokens(answer.ids.clone(), answer.mask)
        later.ids[:, 2] = MASK
        after = model.text.answer(question, later, *seen)
        torch.testing.assert_close(before[:, :2], after[:, :2])
        assert float((before[:, 2:] - after[:, 2:]).abs().amax()) > 1e-3
        asked = Tokens(question.ids.clone(), question.mask)
        asked.ids[:, 3] = MASK  # the last word of the shorter question
        assert float((model.text.answer(asked, answer, *seen) - before)[:, 0].abs().amax(-1).min()) > 1e-4
        # The question's own states do not depend on the answer: what `begin` keeps is right for every answer.
        alone = model.text.answer(
            question.rows(torch.tensor([0])), answer.rows(torch.tensor([0])), *(x[:1] for x in seen)
        )
        torch.testing.assert_close(alone[0, :4], before[0, :4], atol=1e-5, rtol=1e-4)  # nor on its neighbour's length


def test_answers_are_short_and_end(model: MiCo) -> None:
    tokens = model.tokenize_answers(["yes", "a " * 30, ""])
    assert tokens.ids.shape == (3, SMALL.answer_tokens)
    assert tokens.ids[0, 1:].tolist() == [SEP] + [PAD] * 8
    assert int(tokens.ids[1, -1]) == SEP
    assert tokens.ids[2].tolist() == [SEP] + [PAD] * 9
    assert model.question_tokens == 60
    with pytest.raises(ValueError, match="room for a question"):
        replace(SMALL, answer_tokens=70)


def test_a_model_learns_to_answer(model: MiCo, world: World) -> None:
    objective = Objective(model.train(), ObjectiveConfig(modality_dropout=0.0))
    tasks = parse_tasks("qa%tva%tv")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses: list[float] = []
    for step in range(150):
        optimizer.zero_grad()
        loss = objective(_asking(world, step), tasks, torch.Generator().manual_seed(step))["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.35 < np.mean(losses[:3])  # ln 2 / 2 where the end alone is known
    model.eval()
    for beams in (1, 3):
        right = [
            given == _answer(world, row, question)
            for question in QUESTIONS
            for row, given in enumerate(model.answer(world.batch(range(16)), [question] * 16, "va", beams))
        ]
        assert np.mean(right) > 0.9
    every = {
        f"key-{row}": [qa.Pair(question, _answer(world, row, question)) for question in QUESTIONS] for row in range(16)
    }
    found = answer_accuracy(model, [_asking(world, 7)], ("frames", "audio"), every)
    assert found["n"] == 16 * len(QUESTIONS)
    assert found["accuracy"] > 0.9
    asking = _asking(world, 7)
    asking.present["qa"][3:6] = False
    found = answer_accuracy(model, [asking, asking], ("frames", "audio"))
    by_hand = model.answer(asking, [qa.split(text)[0] for text in asking.texts["qa"]], "va")
    hits = [text.endswith(f"\n{said}") for text, said in zip(asking.texts["qa"], by_hand, strict=True)]
    yes = [text.endswith("yes") for text in asking.texts["qa"]]
    kept = [0, 1, 2, *range(6, 16)]
    assert found["n"] == 26
    assert found["accuracy"] == pytest.approx(np.mean([hits[row] for row in kept]))
    often = float(np.mean([yes[row] for row in kept]))
    assert found["commonest"] == pytest.approx(max(often, 1 - often))
    with pytest.raises(ValueError, match="one question about each"):
        model.answer(world.batch(range(3)), QUESTIONS)


def test_samples_without_a_question_or_without_what_it_is_about_teach_nothing(model: MiCo, world: World) -> None:
    objective = Objective(model.eval(), ObjectiveConfig(answer_mask=1.0))
    tasks = parse_tasks("qa%tv")
    batch = _asking(world, 0)
    batch.present["qa"][[1, 4]] = False
    batch.present["frames"][7] = False

    def loss(one: Batch) -> float:
        # Nothing that is drawn changes with what the unused samples say.
        return float(objective(one, tasks, torch.Generator().manual_seed(0))["answer"].detach())

    other = replace(batch, texts={"qa": list(batch.texts["qa"])})
    for row in (1, 7):
        question, answer = qa.split(other.texts["qa"][row])
        other.texts["qa"][row] = f"{question}\n{'no' if answer == 'yes' else 'yes'}"
    assert loss(other) == loss(batch)
    other.texts["qa"][0] = f"{qa.split(other.texts['qa'][0])[0]}\nsound"
    assert loss(other) != loss(batch)
    with pytest.raises(ValueError, match="remove qa from"):
        objective(world.batch(range(2)), tasks, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("permute", [False, True])
def test_a_corpus_of_questions_trains_a_model_that_answers(permute: bool, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=1, per_unit=10, modalities=("frames", "qa"))
    recipe = TrainRecipe(
        replace(SMALL, modalities=("frames",)),
        TrainConfig(steps=2, batch_size=4, tasks="qa%tv", device="cpu", permute_captions=permute),
    )
    report = train(recipe, corpus, tmp_path / "run", workers=0)
    assert report.steps == 2
    assert np.isfinite(report.loss)
    model = MiCo.from_pretrained(tmp_path / "run")
    assert "many" in model.tokenizer.to_json()  # it learned its words from the questions
    batch = next(iter(Loader(corpus, ("frames", "qa"), 4, window=SMALL.window(train=False), train=False)))
    questions = [qa.split(text)[0] for text in batch.texts["qa"]]
    assert questions == ["how many balls roll past?"] * 4
    assert len(model.answer(batch, questions)) == 4


def test_answers_are_evaluated_with_all_else_and_told_in_the_card(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=1, per_unit=15, modalities=("frames", "caption", "qa"))
    recipe = TrainRecipe(
        replace(SMALL, modalities=("frames",)), TrainConfig(steps=1, batch_size=4, tasks="con%tv_qa%tv", device="cpu")
    )
    train(recipe, corpus, tmp_path / "run", workers=0)
    report = evaluate(tmp_path / "run", corpus, split="all", workers=0)
    assert report["answers"]["v"]["n"] == 30  # two of every clip
    assert 0 <= report["answers"]["v"]["accuracy"] <= 1
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    card = (checkpoint / "README.md").read_text()
    assert "| corpus | corpus |" in card
    assert "Split `all`, 15 clips" in card
    assert "Answers from v: " in card
    assert str(tmp_path) not in card
    assert MiCo.from_pretrained(tmp_path / "run").about.figures["all"]["n"] == 15


# --- the modality -----------------------------------------------------------------------------------------------


def _footage(path: Path, **row: str) -> Footage:
    return Footage(Clip("source", 0, 10**9), str(path), None, None, row=row)


def _extract(footage: Footage) -> qa.Questions | None:
    made = qa.extract(footage, qa.Config(), lambda *_: None)
    return made.value if made else None


def test_questions_come_from_the_list_and_from_beside_the_video(tmp_path: Path) -> None:
    video = tmp_path / "x.mp4"
    assert _extract(_footage(video)) is None
    assert _extract(_footage(video, question="who\n sings?", answer="a bird")) == qa.Questions(
        (qa.Pair("who sings?", "a bird"),)
    )
    pairs = [{"question": "who sings?", "answer": "a bird"}, {"question": "where?", "answer": "there", "id": 3}]
    (tmp_path / "x.qa.json").write_text(json.dumps(pairs))
    both = _extract(_footage(video, question="who sings?", answer="a bird"))
    assert both == qa.Questions((qa.Pair("who sings?", "a bird"), qa.Pair("where?", "there")))


@pytest.mark.parametrize(
    "text", ["", "nonsense", '["who?"]', '{"question": "who?"}', '{"question": 1, "answer": "2"}', "[" * 100_000]
)
def test_a_file_that_holds_no_questions_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.qa.json").write_text(text)
    with pytest.raises(Rejected, match="bad-qa-file"):
        _extract(_footage(tmp_path / "x.mp4"))


def test_training_shows_all_pairs_and_evaluation_the_first() -> None:
    value = qa.Questions((qa.Pair("who?", "a bird"), qa.Pair("where?", "there")))
    shown = {qa.tensor(value, Window(train=True, seed=seed)) for seed in range(20)}
    assert shown == {"who?\na bird", "where?\nthere"}
    assert qa.split(qa.tensor(value, Window())) == ("who?", "a bird")
    assert qa.split("") == ("", "")
