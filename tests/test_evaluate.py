"""What a run is measured by: figures that are known by hand, and all of them at the end of list, build and training."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from omniloom.modalities.qa import Pair
from omniloom.pipeline.jobs import build
from omniloom.pipeline.listing import write_list
from omniloom.recipes.cli import app
from omniloom.recipes.config import build_recipe
from omniloom.trainer.answering import answer_accuracy
from omniloom.trainer.bleu import bleu4
from omniloom.trainer.classify import Labelled, encode_labelled, linear_probe, scores_of, zero_shot
from omniloom.trainer.encoded import Encoded, encode, right_answers, with_captions, without
from omniloom.trainer.evaluate import chance, confidence, matching_auc, ranks, rerank, score, summary
from omniloom.trainer.mico import MiCo
from omniloom.trainer.retrieval import between, missing, retrieval, search, similarities
from omniloom.trainer.spread import effective_rank, modality_gap
from omniloom.trainer.tasks import parse_tasks
from omniloom.trainer.train import TrainConfig, TrainRecipe, train
from tests.media import make_clip
from tests.toys import COLOURS, SHAPES, SMALL, World, make_mico, make_world

torch.set_num_threads(1)
BOTH = ("frames", "audio")
WORDS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
"""One for each clip, of words that the tokenizer knows: what it does not know is all alike to it."""
TASKS = parse_tasks("ret%tva%tv%ta_cap%tva")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(12, 0, SMALL.window(train=False))


@pytest.fixture(scope="module")
def model(world: World) -> MiCo:
    return make_mico(world).eval()


@pytest.fixture(scope="module")
def encoded(model: MiCo, world: World) -> Encoded:
    return encode(model, world.batch(range(12), [f"a {words}" for words in WORDS]))


# --- several captions -----------------------------------------------------------------------------------------------


def _several(model: MiCo, encoded: Encoded) -> Encoded:
    said = {
        key: [f"a {words}", f"{words} on the left", "a tone sounds"]
        for key, words in zip(encoded.keys[:4], WORDS, strict=False)
    }
    return with_captions(model, encoded, said)


def test_every_caption_asks_and_any_caption_answers(model: MiCo, encoded: Encoded) -> None:
    several = _several(model, encoded)
    assert several.asked.texts[:4] == ["a red disc", "red disc on the left", "a tone sounds", "a red square"]
    assert several.asked.clips.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, *range(4, 12)]
    assert several.references[1] == ["a red square", "red square on the left", "a tone sounds"]
    assert several.references[7] == ["a blue square"]
    strict, shared = right_answers(several, strict=True), right_answers(several)
    assert strict.shape == (20, 12)
    assert strict.sum(1).tolist() == [1] * 20
    assert shared.sum(1).tolist() == [1, 1, 4] * 4 + [1] * 8  # four clips are called the same
    there, back = search(model, several, BOTH, strict=True)
    assert (there.shape, back.shape) == ((20,), (12,))
    similar = similarities(model, several, BOTH)
    for row, clip in enumerate(several.asked.clips.tolist()):
        assert there[row] == 1 + (similar[row] > similar[row, clip]).sum()
    for clip in range(12):
        own = (several.asked.clips == clip).nonzero()[:, 0]
        assert back[clip] == 1 + (similar[:, clip] > similar[own, clip].max()).sum()


def test_one_caption_a_clip_is_as_if_nobody_had_asked_for_more(model: MiCo, encoded: Encoded) -> None:
    same = with_captions(model, encoded, {key: [text] for key, text in zip(encoded.keys, encoded.texts, strict=True)})
    assert same is encoded
    assert retrieval(model, encoded, [BOTH]) == retrieval(model, encoded, [BOTH], strict=True)


def test_chance_is_what_random_similarities_get(model: MiCo, encoded: Encoded) -> None:
    several = _several(model, encoded)
    draw = torch.Generator().manual_seed(0)
    for right in (right_answers(several), right_answers(several).T, right_answers(several, strict=True).T):
        found = [summary(ranks(torch.rand(right.shape, generator=draw), right)) for _ in range(400)]
        expected = chance(right)
        for name in ("r1", "r5", "mrr"):
            assert np.mean([one[name] for one in found]) == pytest.approx(expected[name], abs=0.012), name
    assert chance(right_answers(several).T)["r1"] > chance(right_answers(several, strict=True))["r1"]


def test_captions_of_one_clip_are_not_taken_for_so_many_clips() -> None:
    clips = torch.arange(20).repeat_interleave(10)
    hits = torch.where(clips % 2 == 0, 1.0, 2.0)  # all captions of a clip, or none, are found
    low, high = confidence(hits, 0, clips)
    alone_low, alone_high = confidence(hits, 0)
    assert low < 0.5 < high
    assert high - low > 2 * (alone_high - alone_low)


def test_reranking_and_matching_take_all_captions(model: MiCo, encoded: Encoded) -> None:
    several = _several(model, encoded)
    right, similar = right_answers(several), similarities(model, several, BOTH)
    assert rerank(model, several, BOTH, similar, right, 5, text_asks=True).shape == (20,)
    assert rerank(model, several, BOTH, similar, right, 50, text_asks=False).shape == (12,)
    judged = torch.stack(
        [
            model.match_logits(several.asked.tokens.rows(torch.full((12,), row)), several.context, BOTH).softmax(-1)[
                :, 1
            ]
            for row in range(20)
        ]
    ).detach()
    assert torch.equal(rerank(model, several, BOTH, similar, right, 12, text_asks=True), ranks(judged, right))
    others = [
        (row, (clip - shift) % 12) for shift in (1, 2, 3) for row, clip in enumerate(several.asked.clips.tolist())
    ]
    wrong = torch.stack([judged[row, clip] for row, clip in others if not right[row, clip]])
    above = [
        float((judged[row, clip] > wrong).double().mean() + (judged[row, clip] == wrong).double().mean() / 2)
        for row, clip in enumerate(several.asked.clips.tolist())
    ]
    assert matching_auc(model, several, BOTH, right) == pytest.approx(np.mean(above), abs=0.01)


# --- senses that ask each other, and that are missing ---------------------------------------------------------------


@pytest.mark.parametrize("similarity", ["cosine", "volume"])
def test_senses_ask_each_other_where_they_can_be_compared(world: World, similarity: Any) -> None:
    one = make_mico(world, replace(SMALL, similarity=similarity)).eval()
    batch = world.batch(range(12))
    batch.present["audio"][[2, 5]] = False
    whole = encode(one, batch)
    found = between(one, whole, [("frames", "audio"), ("frames", "depth")])
    pairs = {"v->a", "a->v", "v->d", "d->v", "a->d", "d->a", "va->d", "d->va", "vd->a", "a->vd"}
    # Sight and sound are two vectors for a volume, and cannot ask as one; frames and depth are one.
    assert set(found) == (pairs if similarity == "cosine" else pairs - {"va->d"})
    assert found["v->a"]["n"] == 10
    assert found["v->a"]["chance"] == 0.1
    assert found["v->d"]["n"] == 12
    rows = batch.present["audio"].nonzero()[:, 0]
    with torch.no_grad():
        seen, heard = (one.pool(whole.context, [name])[rows] for name in ("frames", "audio"))
        expected = summary(ranks(one.similar(seen, heard), torch.eye(10, dtype=torch.bool)))
    assert {name: found["v->a"][name] for name in expected} == expected


def test_a_missing_modality_is_one_that_was_never_there(model: MiCo, world: World, encoded: Encoded) -> None:
    batch = world.batch(range(12), [f"a {words}" for words in WORDS])
    batch.present["audio"][:] = False
    never = encode(model, batch)
    hidden = replace(encoded, context=without(encoded.context, "audio"))
    for names in (BOTH, ("audio",), (*BOTH, "depth")):
        assert torch.equal(search(model, hidden, names)[0], search(model, never, names)[0])
    found = missing(model, encoded, BOTH, right_answers(encoded))
    assert set(found) == {"v", "a"}
    assert found["a"] == retrieval(model, encoded, [("frames",)])["t->v"]["r1"]


# --- BLEU, spread ---------------------------------------------------------------------------------------------------


def test_bleu_counts_phrases_as_by_hand() -> None:
    assert bleu4(["a red ball rolls past"], [["a red ball rolls past"]]) == pytest.approx(1)
    assert bleu4(["a red ball"], [["a blue box"]]) == 0
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 fours; as long as the reference.
    found = bleu4(["the cat sat on a mat"], [["the cat sat on the mat", "nothing of that kind at all, really, not"]])
    assert found == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # Counts are clipped to what one reference has; "the" is there twice at most.
    assert bleu4(["the the the the cat sat on it"], [["the cat sat on the mat it", "cat sat on it"]]) == pytest.approx(
        (6 / 8 * 4 / 7 * 3 / 6 * 2 / 5) ** 0.25
    )
    # Half as long as the nearest reference: marked down by exp(1 - 8 / 4).
    short = bleu4(["one two three four"], [["one two three four five six seven eight"]])
    assert short == pytest.approx(math.exp(-1))
    with pytest.raises(ValueError, match="references"):
        bleu4(["a"], [[]])


def test_gap_and_rank_are_known_of_simple_vectors() -> None:
    eye = torch.eye(6)
    assert effective_rank(eye) == pytest.approx(6)
    assert effective_rank(eye[:1].expand(5, -1)) == pytest.approx(1)
    assert effective_rank(torch.zeros(4, 3)) == 0
    assert modality_gap(eye[:3], eye[:3]) == 0
    assert modality_gap(eye[:1], -eye[:1]) == pytest.approx(2)
    assert modality_gap(eye[:1], eye[1:2]) == pytest.approx(math.sqrt(2))


# --- classes --------------------------------------------------------------------------------------------------------


def test_scores_of_classes_are_counted_as_by_hand() -> None:
    scores = torch.tensor([[3.0, 1, 0], [3, 1, 0], [0, 2, 1], [1, 1, 1]])
    found = scores_of(scores, ["a", "b", "b", "c"], ["a", "b", "c"])
    assert found == {
        "n": 4,
        "classes": 3,
        "top1": 0.5,
        "top5": 1,
        "mean_class": pytest.approx((1 + 0.5 + 0) / 3),
        "chance": pytest.approx(1 / 3),
        "majority": 0.5,
    }


def test_the_nearest_class_name_is_said(model: MiCo, world: World) -> None:
    """A class whose prompts are the clip's own direction wins: the model is asked as it compares."""
    clips = encode_labelled(model, [world.batch(range(12))], {f"key-{row}": "ab"[row % 2] for row in range(11)})
    assert clips is not None
    assert len(clips.labels) == 11
    found = zero_shot(model, clips, BOTH, ["a", "b"], ["{}"])
    with torch.no_grad():
        names = model.text_features(model.tokenize(["a", "b"]))
        likest = model.similar(names, model.vectors(clips.context, BOTH)).argmax(0)
    hits = [int(likest[row]) == row % 2 for row in range(11)]
    assert found["top1"] == pytest.approx(np.mean(hits))
    with pytest.raises(ValueError, match="where the class's name stands"):
        zero_shot(model, clips, BOTH, ["a", "b"], ["a photo"])


def test_a_probe_finds_what_is_linear_in_the_vectors_and_not_what_is_not_there(model: MiCo) -> None:
    world = make_world(120, 3, SMALL.window(train=False))
    pitch = {
        f"key-{row}": next(p for p in ("low", "middle", "high") if p in text) for row, text in enumerate(world.texts)
    }
    parts = [world.batch(range(80)), world.batch(range(80, 120))]
    classes = ["high", "low", "middle"]

    def probed(labels: dict[str, str], names: tuple[str, ...]) -> dict[str, float]:
        taught, asked = (encode_labelled(model, [part], labels) for part in parts)
        assert isinstance(taught, Labelled)
        assert isinstance(asked, Labelled)
        return linear_probe(model, taught, asked, names, classes)

    heard = probed(pitch, ("audio",))
    assert heard["top1"] > 0.9  # untrained as it is, a tone's pitch is in the spectrogram's tokens
    assert heard["train_n"] == 80
    assert heard == probed(pitch, ("audio",))
    seen = probed(pitch, ("frames",))  # pictures know nothing of it
    assert seen["top1"] < 0.6
    assert Counter(pitch[f"key-{row}"] for row in range(80, 120)).most_common(1)[0][1] / 40 == heard["majority"]


# --- answers --------------------------------------------------------------------------------------------------------


def test_all_questions_of_a_clip_are_asked(model: MiCo, world: World) -> None:
    batch = world.batch(range(3))
    batch.texts["qa"] = ["what?\nthis", "", "who?\nsomebody"]
    batch.present["qa"] = torch.tensor([True, False, True])
    every = {"key-0": [Pair("what?", "red"), Pair("where?", "left")], "key-2": [Pair("who?", "red")]}
    found = answer_accuracy(model, [batch], BOTH, every)
    assert (found["n"], found["commonest"]) == (3, pytest.approx(2 / 3))
    assert answer_accuracy(model, [batch], BOTH)["n"] == 2


def test_scores_of_a_model_have_all_their_parts(model: MiCo, encoded: Encoded) -> None:
    several = _several(model, encoded)
    report = score(model, several, TASKS, strict=True)
    assert (report["n"], report["captions"]) == (12, 20)
    assert set(report["between"]) == {"v->a", "a->v"}
    assert set(report["missing"]["t->va"]) == set(report["swaps"]["t->va"]) == {"v", "a"}
    assert set(report["caption"]["va"]) == {"cider", "bleu4", "nll", "nll_blank", "dnll"}
    assert set(report["spread"]) == {"t", "va", "v", "a"}
    assert 1 <= report["spread"]["va"]["effective_rank"] <= 12
    assert report["chance"]["r1"] == pytest.approx(1 / 12)
    json.dumps(report)


# --- from a list to tables ------------------------------------------------------------------------------------------


def _colour(level: tuple[int, int, int]) -> Any:
    return lambda _index, _time: np.broadcast_to(np.array(level, np.uint8), (48, 64, 3))


def _run(corpus: Path, run: Path, tasks: str) -> None:
    config = TrainConfig(steps=2, batch_size=4, checkpoint_every=2, tasks=tasks, device="cpu")
    model = replace(SMALL, modalities=("frames", "audio") if "a" in tasks.partition("_")[0] else ("frames",))
    train(TrainRecipe(model, config), corpus, run, workers=0)


def _evaluated(run: Path, corpus: Path, *options: str) -> tuple[dict[str, Any], str]:
    arguments = ["eval", "--run", str(run), "--corpus", str(corpus), *options]
    as_json, as_text = (CliRunner().invoke(app, [*arguments, *more]) for more in (["--json"], []))
    assert as_json.exit_code == 0, as_json.output
    assert as_text.exit_code == 0, as_text.output
    return json.loads(as_json.stdout), as_text.stdout


def test_msrvtt_goes_from_its_annotations_to_a_table(tmp_path: Path) -> None:
    videos = [{"video_id": f"video{n}", "split": "train" if n < 4 else "test"} for n in range(8)]
    sentences = [{"video_id": f"video{n}", "caption": f"{word} number {n}"} for n in range(8) for word in ("a", "the")]
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    asked = [{"video_id": n, "id": n, "question": "how many?", "answer": str(n)} for n in range(8) for _ in range(2)]
    media = tmp_path / "media"
    media.mkdir()
    for n in range(8):
        make_clip(
            media / f"video{n}.mp4", 1, size=(64, 48), fps=5, tone_hz=200 + 100 * n, picture=_colour((30 * n,) * 3)
        )
    write_list("msrvtt", [tmp_path / "MSRVTT_data.json"], media, tmp_path / "list.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "list.jsonl").read_text().splitlines()]
    for n, line in enumerate(lines):  # with its questions, so that all is evaluated at once
        line["questions"] = [{"question": one["question"], "answer": one["answer"]} for one in asked[2 * n : 2 * n + 2]]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    build(build_recipe("benchmark", []), [str(tmp_path / "list.jsonl")], corpus, workers=0)
    _run(corpus, run, "ret%tva%tv%ta_cap%tva_qa%tva")
    report, text = _evaluated(run, corpus, "--strict")
    assert (report["n"], report["captions"]) == (4, 8)
    assert report["answers"]["va"]["n"] == 4  # the same question twice is asked once
    assert report["chance_back"]["r1"] == pytest.approx(1 / 4)
    assert report["controls"]["untrained"]["t->va"].keys() == report["retrieval"]["t->va"].keys()
    for words in ("8 captions of 4 held-out clips", "t -> va, re-ranked", "a -> v", "BLEU-4", "without a", "Answers"):
        assert words in text, (words, text)
    card = (next((run / "checkpoints").iterdir()) / "README.md").read_text()
    assert "a->v" in card
    assert "BLEU-4" in card
    # Pictures alone: what only a sound could tell is asked of nobody.
    for n in range(3):
        Image.fromarray(np.full((40, 60, 3), 80 * n, np.uint8)).save(tmp_path / f"{n}.png")
    rows = [{"path": f"{n}.png", "caption": f"a number {n}", "split": "test"} for n in range(3)]
    (tmp_path / "pictures.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pictures = tmp_path / "pictures"
    build(build_recipe("benchmark", ["modalities=[frames,caption]"]), [f"{pictures}.jsonl"], pictures, workers=0)
    report, text = _evaluated(run, pictures)
    assert set(report["retrieval"]) == {"t->va", "va->t", "t->v", "v->t"}
    assert (report["answers"], report["between"]) == ({}, {})
    assert report["missing"]["t->va"].keys() == {"v"}
    assert "3 held-out clips" in text


def test_class_folders_go_from_pictures_to_accuracies(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for n in range(6):
            name, level = ("dark_room", 40) if n % 2 else ("bright_room", 200)
            path = tmp_path / "rooms" / split / name / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(n + 10 * (split == "test")).integers(0, 40, (40, 60, 3))
            Image.fromarray((level + noise).astype(np.uint8)).save(path)
    write_list("folders", [tmp_path / "rooms"], None, tmp_path / "list.jsonl")
    recipe = build_recipe("benchmark", [])
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    build(recipe, [str(tmp_path / "list.jsonl")], corpus, workers=0)
    # Trained on a corpus with captions; labels are all that this one has.
    captioned = tmp_path / "captioned"
    for n, file in enumerate(sorted((tmp_path / "rooms").rglob("*.png"))):
        file.with_suffix(".txt").write_text(f"room {n}")
    build(recipe, [str(tmp_path / "list.jsonl")], captioned, workers=0)
    _run(captioned, run, "ret%tv")
    report, text = _evaluated(run, corpus, "--prompt", "a {}")
    assert report["retrieval"] == {}
    assert report["zero_shot"]["v"]["n"] == 6
    assert report["zero_shot"]["v"]["majority"] == 0.5
    assert report["linear_probe"]["v"]["top1"] == 1.0  # dark and bright differ in any direction
    assert "linear probe" in text
    assert "majority" in text
    result = CliRunner().invoke(app, ["eval", "--run", str(run), "--corpus", str(corpus), "--prompt", "no place"])
    assert result.exit_code != 0


def test_a_split_with_neither_captions_nor_labels_is_refused(tmp_path: Path) -> None:
    from omniloom.trainer.evaluate import evaluate

    for n in range(3):
        make_clip(tmp_path / f"{n}.mp4", 1, size=(64, 48), fps=5, picture=_colour((40 * n,) * 3))
        (tmp_path / f"{n}.txt").write_text(f"clip {n}")
    (tmp_path / "list.csv").write_text("path,split\n0.mp4,train\n1.mp4,train\n2.mp4,test\n")
    build(build_recipe("benchmark", []), [str(tmp_path / "list.csv")], tmp_path / "corpus", workers=0)
    config = TrainConfig(steps=1, batch_size=2, tasks="ret%tv", device="cpu")
    train(TrainRecipe(replace(SMALL, modalities=("frames",)), config), tmp_path / "corpus", tmp_path / "run", workers=0)
    with pytest.raises(ValueError, match="fewer than two captioned clips"):
        evaluate(tmp_path / "run", tmp_path / "corpus", workers=0)
