"""Does the model learn? Ladders of modalities, objectives, similarities and embeddings, controls, scaling, swaps.

    omniloom bench learn                                     # the demo world, and Tux Paint's stamps if they are there
    omniloom bench learn --work DIR --minutes 120            # goes on where it stopped, for so long
    omniloom bench learn --runs 5 --stamps DIR               # five seeds, and where the stamps lie
    omniloom bench learn --quick                             # everything once, on next to nothing

Both corpora are built from raw files by `build`, and read by the loader. Runs are trained one a core, the most
important first, each in a folder of its own below --work (default: runs/bench-learn): what is finished is not repeated,
what was cut off continues. The report is made of what there is and says what is missing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from omniloom.benchmarks import Options
from omniloom.benchmarks import learn_runs as runs
from omniloom.benchmarks.learn_features import KINDS, PX, keep_features, keep_words, linear_ranks, seen_by, sentences
from omniloom.benchmarks.learn_report import as_markdown, draw, findings
from omniloom.benchmarks.learn_runs import STAMPS, WORLD, Size, Variant, run_folder, train_and_score
from omniloom.benchmarks.learn_stamps import TEST_CAPTIONS, find_stamps, make_clips, split_by_caption, stamps_folder
from omniloom.benchmarks.learn_views import keep, open_views
from omniloom.benchmarks.learn_weights import packaged_text
from omniloom.benchmarks.timing import machine, say, versions
from omniloom.modalities.base import Window
from omniloom.pipeline.corpus import Corpus, open_corpus
from omniloom.pipeline.jobs import build
from omniloom.recipes.config import build_recipe, train_recipe
from omniloom.recipes.world import make_world
from omniloom.trainer.run import replace_text
from omniloom.trainer.text import Tokenizer
from omniloom.trainer.train import corpus_texts

SEEDS = 3
WORLD_CLIPS = (640, 240)
VIEWS = 4
_LARGE_VIEWS = 2
"""Of pictures for frozen networks, which take a tenth of a second for each."""
SIZES = {WORLD: Size(320, 64), STAMPS: Size(320, 64, "va")}
_QUICK_CLIPS = (8, 5)
_QUICK_SIZES = {WORLD: Size(2, 8), STAMPS: Size(2, 4, "va")}
_QUICK = {
    WORLD: (runs.BASE, "V", "untrained", runs.GEN),
    STAMPS: (runs.PICTURE, "frozen EfficientNet-lite0"),
}
_PER_REPORT_S = 300.0

Job = tuple[Variant, int]


def run(options: Options) -> dict[str, Any]:
    """Trains what is missing of every variant and seed, as long as it may, and reports all that is there."""
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        if options.work is None and options.quick:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            work = options.work or Path("runs") / "bench-learn"
        return _run(options, work)


def _run(options: Options, work: Path) -> dict[str, Any]:
    began = time.monotonic()
    seeds = options.runs or (1 if options.quick else SEEDS)
    sizes = _QUICK_SIZES if options.quick else SIZES
    cores = len(os.sched_getaffinity(0))
    missing: list[str] = []
    folder = None
    try:
        folder = stamps_folder(options.stamps, work / "debian")
    except FileNotFoundError as error:
        if options.stamps is not None:
            raise ValueError(str(error)) from error
        missing.append(str(error))
    _make_world(work / WORLD, _QUICK_CLIPS if options.quick else WORLD_CLIPS, 1 if options.quick else VIEWS, cores)
    blocks = runs.world_variants()
    peers: dict[str, Any] = {}
    if folder is not None:
        frozen, absent = _make_stamps(work / STAMPS, folder, options.quick)
        missing += absent
        peers = _peers(work / STAMPS, frozen)
        stamps = runs.stamp_variants(frozen, words=(work / STAMPS / "words.pt").exists())
        blocks = [blocks[0], stamps[0], *blocks[1:3], stamps[1], *blocks[3:]]
    chosen = [[one for one in block if not options.quick or one.name in _QUICK[one.corpus]] for block in blocks]
    jobs: list[Job] = [(variant, seed) for block in chosen for seed in range(seeds) for variant in block]
    made_s = time.monotonic() - began
    ends = began + 60 * options.minutes if options.minutes else float("inf")

    def told(*, final: bool = False) -> dict[str, Any]:
        report = {
            "benchmark": "learn",
            "machine": machine(),
            "versions": versions("omniloom", "torch", "timm"),
            "quick": options.quick,
            "seeds": seeds,
            "sizes": {name: [size.steps, size.batch_size] for name, size in sizes.items()},
            "clips": {name: _count(work / name) for name in sizes if (work / name / "test.pt").exists()},
            "minutes": round((time.monotonic() - began) / 60, 1),
            "material_minutes": round(made_s / 60, 1),
            "missing": [*missing, *_waiting(work, jobs, sizes)],
            **findings(_scores(work, jobs, sizes), peers),
        }
        _write(report, options.folder)
        if final:
            say(f"{len(jobs) - len(_waiting(work, jobs, sizes))} of {len(jobs)} runs are there")
        return report

    _train_all(work, jobs, sizes, 1 if options.quick else cores, ends, told)
    return told(final=True)


def _train_all(work: Path, jobs: Sequence[Job], sizes: dict[str, Size], cores: int, ends: float, report: Any) -> None:
    """Every job that has no scores yet, in order, one a core; none is begun once the time is over."""
    waiting = [
        (variant, seed)
        for variant, seed in jobs
        if not (run_folder(work, variant, sizes[variant.corpus], seed) / runs.SCORES).exists()
    ]
    if cores == 1:
        torch.set_num_threads(1)  # what several threads train is not what one does
        for variant, seed in waiting:
            if time.monotonic() < ends:
                _told(variant, seed, train_and_score(work, variant, sizes[variant.corpus], seed))
        return
    # One thread each: two runs side by side are faster than two threads in one.
    os.environ["OMP_NUM_THREADS"] = "1"
    reported = time.monotonic()
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        running: dict[Future[dict[str, Any]], Job] = {}
        while running or (waiting and time.monotonic() < ends):
            while waiting and len(running) < cores and time.monotonic() < ends:
                variant, seed = waiting.pop(0)
                future = pool.submit(train_and_score, work, variant, sizes[variant.corpus], seed)
                running[future] = (variant, seed)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                _told(*running.pop(future), future.result())
            if time.monotonic() - reported > _PER_REPORT_S:
                report()
                reported = time.monotonic()


def _one_thread() -> None:
    torch.set_num_threads(1)


def _told(variant: Variant, seed: int, scores: dict[str, Any]) -> None:
    query = f"t->{scores['letters']}"
    first = sum(rank <= 1 for rank in scores["ranks"][query]) / scores["n"]
    say(f"{variant.corpus}: {variant.name}, seed {seed}: {query} R@1 {first:.3f}, {scores['train_s']:.0f} s")


def _scores(work: Path, jobs: Sequence[Job], sizes: dict[str, Size]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By corpus and variant the scores of its finished runs, in the order of their seeds."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for variant, seed in sorted(jobs, key=lambda job: job[1]):
        path = run_folder(work, variant, sizes[variant.corpus], seed) / runs.SCORES
        if path.exists():
            scores = {"seed": seed, **json.loads(path.read_text())}
            found.setdefault(variant.corpus, {}).setdefault(variant.name, []).append(scores)
    return found


def _waiting(work: Path, jobs: Sequence[Job], sizes: dict[str, Size]) -> list[str]:
    return [
        f"{variant.corpus}: {variant.name}, seed {seed}: not trained yet"
        for variant, seed in jobs
        if not (run_folder(work, variant, sizes[variant.corpus], seed) / runs.SCORES).exists()
    ]


def _write(report: dict[str, Any], folder: Path | None) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "learn.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "learn.md").write_text(as_markdown(report), encoding="utf-8")
    draw(report, folder / "learn.png")


# --- material --------------------------------------------------------------------------------------------------


def _make_world(folder: Path, clips: tuple[int, int], views: int, cores: int) -> None:
    """The demo world, from raw files to views."""
    if (folder / "test.pt").exists():
        return
    say(f"the demo world: {clips[0]} + {clips[1]} raw clips")
    if not (folder / "raw" / "sources.csv").exists():
        make_world(folder / "raw", num_train=clips[0], num_test=clips[1], jobs=cores)
    chosen = ["modalities=[frames,audio,caption,depth,normal,points]", "signals.speech=false"]
    corpus = _build(folder, chosen, cores)
    _views(corpus, folder, "mico-tiny", ["frames", "audio", "depth", "normal", "points"], views)


def _make_stamps(folder: Path, stamps: Path, quick: bool) -> tuple[list[str], list[str]]:
    """The stamps, from raw files to views and features. Returns the frozen networks that are there, and what is not."""
    cores = len(os.sched_getaffinity(0))
    if not (folder / "test.pt").exists():
        say("Tux Paint's stamps: raw clips")
        every = find_stamps(stamps)
        train, test = split_by_caption(every, min(TEST_CAPTIONS, len({stamp.caption for stamp in every}) // 3))
        make_clips({"train": train, "test": test}, folder / "raw", {"train": 1 if quick else 2, "test": 1})
        chosen = ["modalities=[frames,audio,caption]", "signals.speech=false"]
        corpus = _build(folder, chosen, cores)
        _views(corpus, folder, "mico-tiny", ["frames", "audio"], 1 if quick else VIEWS)
    absent: list[str] = []
    frozen: list[str] = []
    for kind in KINDS if not quick else ["EfficientNet-lite0"]:
        targets = {split: folder / f"{split}-{runs.slug(kind)}.pt" for split in ("train", "test")}
        if not all(path.exists() for path in targets.values()):
            see = seen_by(kind, folder)
            if see is None:
                absent.append(f"stamps: {kind}, whose package is not installed")
                continue
            say(f"what {kind} sees")
            corpus = open_corpus(folder / "corpus")
            for split, target in targets.items():
                keep_features(_large(corpus, folder, split, 1 if quick else _LARGE_VIEWS), see, target)
        frozen.append(kind)
    if not quick and keep_words(folder) is None:
        absent.append("stamps: what MiniLM knows of words, whose package or `transformers` is not installed")
    return frozen, absent


def _large(corpus: Corpus, folder: Path, split: str, views: int) -> Path:
    """Views of one picture each, as large as the frozen networks want."""
    windows = [Window(num_frames=1, image_px=PX, num_samples=1, num_points=1, train=split == "train")]
    return keep(
        corpus, ["frames", "caption"], windows * (views if split == "train" else 1), split, folder / f"{split}-large.pt"
    )


def _build(folder: Path, chosen: Sequence[str], cores: int) -> Corpus:
    recipe = build_recipe("demo", list(chosen))
    # In this process where there is one core, or next to nothing to do.
    workers = 0 if cores == 1 or sum(1 for _ in (folder / "raw").rglob("*.mp4")) < 100 else cores
    build(recipe, [str(folder / "raw" / "sources.csv")], folder / "corpus", workers=workers)
    return open_corpus(folder / "corpus")


def _views(corpus: Corpus, folder: Path, recipe: str, names: Sequence[str], views: int) -> None:
    typed = train_recipe(recipe, [f"model.modalities=[{','.join(names)}]", "train.tasks=con%tv"])
    tokenizer = Tokenizer.train(corpus_texts(typed, corpus), typed.model.vocab_size)
    replace_text(folder / "tokenizer.json", tokenizer.to_json())
    window = typed.model.window(train=True)
    keep(corpus, [*names, "caption"], [window] * views, "train", folder / "train.pt")
    keep(corpus, [*names, "caption"], [replace(window, train=False)], "test", folder / "test.pt")


def _count(folder: Path) -> dict[str, int]:
    return {split: len(open_views(folder / f"{split}.pt").keys) for split in ("train", "test")}


def _peers(folder: Path, frozen: Sequence[str]) -> dict[str, Any]:
    """Linear maps from each frozen network's features to MiniLM's vectors, on the same clips."""
    embed = sentences(packaged_text())
    if embed is None:
        return {}
    found: dict[str, Any] = {}
    for kind in frozen:
        path = folder / f"linear-{runs.slug(kind)}.json"
        if not path.exists():
            train, test = (open_views(folder / f"{split}-{runs.slug(kind)}.pt") for split in ("train", "test"))
            replace_text(path, json.dumps(linear_ranks(train, test, embed)))
        found[f"linear: {kind} to MiniLM"] = {"seed": 0, "ranks": json.loads(path.read_text())}
    return found
