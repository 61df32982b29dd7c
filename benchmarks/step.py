"""A training step beside the matrix products that it is made of, and the share of time that it waits for data.

    omniloom bench step [--runs 5] [--quick] [--out DIR]

Builds a small demo world, trains the tiny recipe on it with its loader, then takes one batch: a whole step (losses,
gradients, clipping, optimiser) and nothing but its products of matrices, convolutions and attention, of the same
shapes, layouts and number, by the same kernels, in turn. What a step takes beyond those is what could be saved.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from omniloom.benchmarks import Options
from omniloom.benchmarks.timing import as_row, machine, say, spread, versions
from omniloom.modalities import short_name
from omniloom.pipeline.batch import Batch
from omniloom.pipeline.corpus import Corpus, open_corpus
from omniloom.pipeline.jobs import build
from omniloom.pipeline.loader import Loader
from omniloom.recipes.config import build_recipe, train_recipe
from omniloom.recipes.world import make_world
from omniloom.trainer.objectives import Objective, tasks_of_step
from omniloom.trainer.optim import clip_gradients, make_optimizer
from omniloom.trainer.tasks import parse_tasks
from omniloom.trainer.text import Tokenizer
from omniloom.trainer.train import TrainRecipe, make_model, text_modalities, train

RUNS, STEPS, CLIPS = 5, 24, 80
RECIPES = ("mico-tiny", "demo")
GOALS = {"step / its products": 1.3, "data wait": 0.1}
_QUICK = ("train.batch_size=3", "model.vocab_size=300")
_LISTED = 12

_aten = torch.ops.aten
_PRODUCTS = frozenset(
    {
        _aten.mm,
        _aten.addmm,
        _aten.bmm,
        _aten.baddbmm,
        _aten.convolution,
        _aten.convolution_backward,
        _aten._scaled_dot_product_flash_attention_for_cpu,
        _aten._scaled_dot_product_flash_attention_for_cpu_backward,
    }
)


@dataclass(frozen=True, slots=True)
class _Like:
    """What is needed to make a tensor that a kernel takes as long for."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self) -> Tensor:
        last = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return torch.randn(last + 1, dtype=self.dtype).as_strided(self.shape, self.stride)  # also of one repeated


class Products(TorchDispatchMode):
    """Writes down the products that pass, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[Any, tuple[Any, ...], tuple[tuple[str, Any], ...]]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in _PRODUCTS:
            named = tuple(sorted((name, _kept(value)) for name, value in kwargs.items()))
            self.seen[func, tuple(map(_kept, args)), named] += 1
        return func(*args, **kwargs)

    def calls(self) -> list[tuple[int, Callable[[], Any]]]:
        """How often each is to be called, and how."""
        return [(count, _call(*what)) for what, count in self.seen.items()]


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Like(tuple(value.shape), value.stride(), value.dtype)
    return tuple(value) if isinstance(value, list) else value


def _call(func: Any, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> Callable[[], Any]:
    made = [_made(value) for value in args]
    named = {name: _made(value) for name, value in kwargs}
    return lambda: func(*made, **named)


def _made(value: Any) -> Any:
    if isinstance(value, _Like):
        return value.made()
    return list(value) if isinstance(value, tuple) else value


def run(options: Options) -> dict[str, Any]:
    """Trains and measures; with a folder to write to, also a table."""
    rounds = options.runs or (1 if options.quick else RUNS)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        corpus = _world(Path(scratch), 4 if options.quick else CLIPS)
        try:
            cases = {
                name: _measured(name, _QUICK if options.quick else (), corpus, Path(scratch), rounds)
                for name in RECIPES[: 1 if options.quick else None]
            }
        finally:
            torch.set_num_threads(threads)
    report: dict[str, Any] = {
        "benchmark": "step",
        "machine": machine(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "versions": versions("omniloom", "torch", "timm"),
        "goals": GOALS,
        "rounds": rounds,
        "cases": cases,
        "claims": {f"{name}: step / its products": case["step / its products"] for name, case in cases.items()},
    }
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "step.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.folder / "step.md").write_text(as_markdown(report))
    return report


def _world(folder: Path, clips: int) -> Corpus:
    say(f"a demo world of {clips} clips")
    make_world(folder / "raw", num_train=clips, num_test=1)
    recipe = build_recipe("demo", ["modalities=[frames,audio,caption,depth,normal,points]", "signals.speech=false"])
    build(recipe, [str(folder / "raw" / "sources.csv")], folder / "corpus", workers=0 if clips < 20 else None)
    return open_corpus(folder / "corpus")


def _measured(name: str, overrides: Sequence[str], corpus: Corpus, scratch: Path, rounds: int) -> dict[str, Any]:
    steps = STEPS if rounds > 1 else 2
    few = [*overrides, f"train.steps={steps}", f"train.checkpoint_every={steps}"]
    recipe = train_recipe(name, few)
    say(f"{name}: {steps} steps with the loader")
    trained = train(recipe, corpus, scratch / name, workers=1)  # leaves torch as many threads as a training has
    step, products = _step_of(recipe, corpus, scratch / name / "tokenizer.json")
    say(f"{name}: a step beside its products")
    timed: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        pair = _seconds(step), sum(_seconds(call, count) for count, call in products)
        timed += [pair] if number else []  # the first of each finds its memory
    return {
        "batch": recipe.train.batch_size,
        "threads": torch.get_num_threads(),
        "tasks": recipe.train.tasks,
        "step_s": spread([took for took, _ in timed]),
        "products_s": spread([took for _, took in timed]),
        "products": sum(count for count, _ in products),
        "step / its products": spread([took / bare for took, bare in timed]),
        "data wait": round(trained.data_wait_fraction, 4),
        "trained_step_s": round(trained.seconds / max(1, trained.steps), 4),
        "operators": _profile(step),
    }


def _step_of(
    recipe: TrainRecipe, corpus: Corpus, tokenizer: Path
) -> tuple[Callable[[], object], list[tuple[int, Callable[[], Any]]]]:
    """A training step on one batch, as the loop takes it, and the calls of the products in it."""
    config = recipe.train
    needed = [*map(short_name, recipe.model.modalities), *map(short_name, text_modalities(recipe))]
    window = recipe.model.window(train=True)
    loader = Loader(corpus, needed, config.batch_size, seed=config.seed, workers=1, window=window)
    batch: Batch = next(iter(loader))
    model = make_model(recipe, Tokenizer.from_json(tokenizer.read_text())).train()
    objective = Objective(model, config.objective, config.accumulate).train()
    optimizer = make_optimizer(model, config.optim)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    named = parse_tasks(config.tasks, (*recipe.model.modalities, recipe.model.text))
    tasks = tasks_of_step(named, config.objective, config.seed, 0)

    def step() -> None:
        torch.manual_seed(0)
        losses = objective(batch, tasks, torch.Generator().manual_seed(0))
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        clip_gradients(parameters, config.optim.clip_norm)
        optimizer.step()

    with Products() as products:
        step()
    return step, products.calls()


def _seconds(call: Callable[[], object], times: int = 1) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - began


def _profile(step: Callable[[], object]) -> list[list[Any]]:
    """Operators by their own share of a step's time: name, share, calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step()
    found = profiler.key_averages()
    total = sum(one.self_cpu_time_total for one in found)
    found = sorted(found, key=lambda one: -one.self_cpu_time_total)[:_LISTED]
    return [[one.key, round(one.self_cpu_time_total / total, 4), one.count] for one in found]


def as_markdown(report: Mapping[str, Any]) -> str:
    """Tables of steps, and of what they are spent on."""
    goals = report["goals"]
    lines = [
        "# A training step",
        "",
        "A step: losses, gradients, clipping and the optimiser on one batch in memory. Its products: the same calls of"
        " matrix products, convolutions and attention, forward and backward, with random numbers of the same shapes"
        f" and layouts, in {report['rounds']} rounds that take turns. Data wait: share of a training's time in which"
        " the loop has no batch.",
        "",
        f"{report['machine']}; load {report['load'][0]} at the end;"
        f" {', '.join(f'{name} {version}' for name, version in report['versions'].items())}.",
        "",
        as_row(["", "batch", "threads", "step, s", "its products, s", "how many", "ratio", "data wait"]),
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        as_row(["goal", "", "", "", "", "", f"<= {goals['step / its products']}", f"< {goals['data wait']}"]),
    ]
    for name, case in report["cases"].items():
        times = [_range(case[key]) for key in ("step_s", "products_s")]
        ratio = _range(case["step / its products"])
        lines.append(as_row([name, case["batch"], case["threads"], *times, case["products"], ratio, case["data wait"]]))
    for name, case in report["cases"].items():
        lines += ["", f"## Where a step of {name} goes", "", as_row(["operator", "share", "calls"]), "|---|---:|---:|"]
        lines += [as_row([f"`{key}`", f"{share:.1%}", count]) for key, share, count in case["operators"]]
    return "\n".join([*lines, "", "Made by `omniloom bench step`.", ""])


def _range(values: Mapping[str, float]) -> str:
    return f"{values['median']:.3g} ({values['min']:.3g} to {values['max']:.3g})"
