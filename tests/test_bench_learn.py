"""The learning benchmark goes from raw files to a page, keeps what is trained, and tells differences from luck."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omniloom.benchmarks import Options, run_benchmark
from omniloom.benchmarks import learn_runs as runs
from omniloom.benchmarks.learn import SIZES
from omniloom.benchmarks.learn_report import findings
from omniloom.benchmarks.learn_runs import STAMPS, WORLD, recipe_of, stamp_variants, subsets, world_variants
from omniloom.benchmarks.learn_stamps import find_stamps, split_by_caption, stamps_folder
from omniloom.benchmarks.learn_views import Kept, Views

CAPTIONS = ["A fox.", "A blue ball.", "A boat.", "A pear.", "A hat.", "A drum.", "A tree.", "A lamp.", "A kite."]


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few pictures as the package has them: in folders, with captions in many languages and sounds beside some."""
    root = tmp_path_factory.mktemp("stamps") / "usr/share/tuxpaint/stamps"
    rng = np.random.default_rng(0)
    for number, caption in enumerate(CAPTIONS):
        folder = root / ("animals" if number % 2 else "symbols/math")
        folder.mkdir(parents=True, exist_ok=True)
        drawn = np.zeros((40, 30 + number, 4), np.uint8)
        drawn[5:35, 5:25] = [*rng.integers(0, 255, 3), 255]
        for ending in ("", "_mirror"):
            Image.fromarray(drawn).save(folder / f"s{number}{ending}.png")
        (folder / f"s{number}.txt").write_text(f"{caption}\nde.utf8=Ein Ding.\n", encoding="utf-8")
        for ending in ("", "_desc"):
            with wave.open(str(folder / f"s{number}{ending}.wav"), "wb") as file:
                file.setparams((1, 2, 22_050, 0, "NONE", ""))
                file.writeframes((3000 * np.sin(np.arange(22_050) * 0.1)).astype("<i2").tobytes())
    again = root / "animals/again.png"
    Image.fromarray(drawn).save(again)
    again.with_suffix(".txt").write_text("a KITE.\n")
    Image.fromarray(drawn).save(root / "animals/wordless.png")
    return root


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learn")


@pytest.fixture(scope="module")
def report(work: Path, stamps: Path) -> dict[str, Any]:
    return run_benchmark("learn", Options(quick=True, out=work / "out", work=work / "work", stamps=stamps))


def test_a_quick_run_goes_from_raw_files_to_a_page_with_every_experiment(report: dict[str, Any], work: Path) -> None:
    assert {runs.BASE, "V", runs.GEN, "untrained"} == report[WORLD].keys()
    assert {"picture", "frozen EfficientNet-lite0"} == report[STAMPS].keys()
    base = report[WORLD][runs.BASE]
    assert base["query"] == "t->vadnp"
    assert {"t->v", "vad->t", "t->adnp", "t->vadnp, a exchanged", "t->vadnp, half hidden"} <= base["r1_of"].keys()
    assert report["clips"] == {WORLD: {"train": 8, "test": 5}, STAMPS: {"train": 7, "test": 3}}
    full = report[WORLD][runs.GEN]
    assert {"auc", "cider", "dnll"} <= full.keys()
    assert "t->vadnp, re-ranked" in full["r1_of"]
    page = (work / "out" / "learn.md").read_text(encoding="utf-8")
    assert "measures nothing" in page
    assert all(f"| {name} |" in page for name in [*report[WORLD], *report[STAMPS]])
    assert json.loads((work / "out" / "learn.json").read_text())["claims"] == report["claims"]
    with Image.open(work / "out" / "learn.png") as plot:
        assert plot.width > 400


def test_what_is_trained_is_not_trained_again_and_no_time_begins_nothing(
    report: dict[str, Any], work: Path, stamps: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (work / "work").rglob("*") if path.is_file()}
    gone = next((work / "work" / "runs" / WORLD).glob(f"{runs.slug('V')}_*")) / runs.SCORES
    scores = json.loads(gone.read_text())
    gone.unlink()
    options = Options(quick=True, out=work / "again", work=work / "work", stamps=stamps)
    halted = run_benchmark("learn", replace(options, minutes=1e-6))
    assert "V" not in halted[WORLD]
    assert "world: V, seed 0: not trained yet" in halted["missing"]
    assert "world: V, seed 0" in (work / "again" / "learn.md").read_text()
    again = run_benchmark("learn", options)
    assert again[WORLD] == {**report[WORLD], "V": again[WORLD]["V"]}
    assert json.loads(gone.read_text())["ranks"] == scores["ranks"], "the checkpoint that was there is what is scored"
    changed = {path for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert {path.parent.name for path in changed} <= {gone.parent.name}


def test_stamps_are_told_apart_by_caption_and_speak_no_words(stamps: Path) -> None:
    found = find_stamps(stamps_folder(stamps.parents[3], Path("nowhere")))
    assert len(found) == len(CAPTIONS) + 1, "neither mirror images nor what has no caption"
    assert all(stamp.description is not None for stamp in found if stamp.picture.stem != "again")
    assert {stamp.picture.parent.name for stamp in found if stamp.effect} == {"animals"}, "symbols say their names"
    train, test = split_by_caption(found, 4)
    assert len({stamp.caption.lower() for stamp in test}) == len(test) == 4
    assert not {stamp.caption.lower() for stamp in train} & {stamp.caption.lower() for stamp in test}
    kites = [stamp for stamp in (*train, *test) if stamp.caption.lower() == "a kite."]
    assert len(kites) in ({2} if any(stamp in train for stamp in kites) else {1})


def test_without_stamps_the_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="apt-get download tuxpaint-stamps-default"):
        run_benchmark("learn", Options(quick=True, work=tmp_path, stamps=tmp_path, minutes=1e-6))


def test_every_variant_is_a_recipe_and_every_experiment_has_its_own_runs() -> None:
    every = [variant for block in world_variants() for variant in block]
    every += [variant for block in stamp_variants(["pretrained ViT-S/14"], words=True) for variant in block]
    for variant in every:
        recipe = recipe_of(variant, SIZES[variant.corpus], seed=2)
        assert recipe.train.seed == 2
    folders = {runs.run_folder(Path(), variant, SIZES[variant.corpus], 0) for variant in every}
    assert len(folders) == len(every)
    assert subsets("vad") == ["v", "a", "d", "va", "vad", "ad", "vd"]
    assert subsets("v") == ["v"]


def _views(count: int = 12) -> Views:
    names = [f"c{number}" for number in range(count)]
    told = [[f"{name} in view {view}" for name in names] for view in range(3)]
    pictures = torch.arange(3 * count).view(3, count, 1).half()
    there = torch.ones(count, dtype=torch.bool)
    return Views(names, names, {"frames": pictures}, {"frames": there, "caption": there}, {"caption": told})


def test_batches_of_views_hold_every_clip_once_an_epoch_and_continue_anywhere() -> None:
    whole = iter(Kept(_views(), 4, seed=1))
    batches = [next(whole) for _ in range(9)]
    for epoch in range(3):
        keys = [key for batch in batches[3 * epoch : 3 * epoch + 3] for key in batch.keys]
        assert sorted(keys) == sorted(_views().keys)
    seen = {(key, text) for batch in batches for key, text in zip(batch.keys, batch.texts["caption"], strict=True)}
    assert len(seen) == 36, "three epochs show three views"
    assert all(text.startswith(f"{key} ") for key, text in seen)
    for batch in batches:
        views = [int(text[-1]) for text in batch.texts["caption"]]
        rows = [int(key[1:]) for key in batch.keys]
        wanted = [12 * view + row for view, row in zip(views, rows, strict=True)]
        assert batch.tensors["frames"][:, 0].tolist() == wanted
    later = Kept(_views(), 4, seed=1)
    later.load_state_dict({"position": 20})
    assert next(iter(later)).keys == batches[5].keys


def test_permuted_captions_are_always_the_same_other_clip_s_and_shares_lie_within_each_other() -> None:
    permuted = iter(Kept(_views(), 4, seed=1, permuted=True))
    told = {}
    for _ in range(9):
        batch = next(permuted)
        for key, text in zip(batch.keys, batch.texts["caption"], strict=True):
            assert told.setdefault(key, text.split()[0]) == text.split()[0] != key
    assert sorted(told.values()) == sorted(told)
    clips = [{key for _, key in zip(range(60), _keys(share), strict=False)} for share in (0.25, 0.5, 1.0)]
    assert [len(found) for found in clips] == [3, 6, 12]
    assert clips[0] < clips[1] < clips[2]


def _keys(share: float) -> Any:
    for batch in Kept(_views(), 2, seed=0, share=share):
        yield from batch.keys


def _scored(right: float, seed: int, letters: str = "vadnp") -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found = [1.0 if lucky else 30.0 for lucky in rng.random(200) < right]
    queries = [f"t->{letters}", f"{letters}->t", *(f"t->{letters}, {letter} exchanged" for letter in letters)]
    chance = {"r1": 0.005, "r5": 0.025, "r10": 0.05, "medr": 100.0, "mrr": 0.03}
    return {"seed": seed, "letters": letters, "ranks": dict.fromkeys(queries, found), "chance": chance, "train_s": 1}


def test_a_difference_is_told_from_luck_by_an_interval_over_seeds_and_clips() -> None:
    scores = {
        WORLD: {
            runs.BASE: [_scored(0.5, seed) for seed in range(3)],
            "volume": [_scored(0.1, 10 + seed) | {"seed": seed} for seed in range(3)],
            "area": [_scored(0.5, seed + 20) | {"seed": seed} for seed in range(3)],
        }
    }
    found = findings(scores, {})
    worse, alike = (found["differences"]["similarities"][name]["r1"] for name in ("volume", "area"))
    assert worse["low"] < worse["mean"] < worse["high"] < -0.2
    assert alike["low"] < 0 < alike["high"]
    assert found[WORLD][runs.BASE]["r1"]["mean"] == pytest.approx(0.5, abs=0.05)
    assert "V+A+D+N" not in found[WORLD], "what is not trained is not told"
