"""Training: the loop, from top to bottom, over the loader's batches."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import nn

from omniloom.modalities import load, short_name
from omniloom.modalities.base import Window, read
from omniloom.pipeline.batch import Batch
from omniloom.trainer.accumulate import Recompute, recompute_layers
from omniloom.trainer.card import name_of
from omniloom.trainer.checkpoint import (
    CheckpointWriter,
    clear_leftovers,
    load_ema,
    load_optimizer,
    load_weights,
    newest_checkpoint,
    take_snapshot,
    trim,
)
from omniloom.trainer.curves import draw_curves
from omniloom.trainer.ema import Ema
from omniloom.trainer.flops import peak_flops, training_flops
from omniloom.trainer.guard import Guard, GuardConfig
from omniloom.trainer.metrics import SINKS, Metrics, StepReport, open_sinks
from omniloom.trainer.mico import MiCo, MiCoConfig
from omniloom.trainer.objectives import Objective, ObjectiveConfig, tasks_of_step
from omniloom.trainer.optim import OptimConfig, clip_gradients, learning_rate, make_optimizer, set_learning_rate
from omniloom.trainer.ranks import (
    Parallel,
    from_first,
    join_ranks,
    mean_over_ranks,
    only_trainer_of,
    pick_device,
    spread,
    wait_for_all,
)
from omniloom.trainer.run import prepare_run, replace_text
from omniloom.trainer.sharded import Sharded
from omniloom.trainer.tasks import QUESTIONS, Task, parse_tasks
from omniloom.trainer.text import Tokenizer

if TYPE_CHECKING:
    from omniloom.pipeline.corpus import Corpus

Autocast = AbstractContextManager[Any]

_VIEWS = 8
"""Random views of a sample's texts that the tokenizer learns from: most clips have a few captions."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long, on what and how often; the defaults suit `tiny`."""

    steps: int = 600
    batch_size: int = 64
    """Samples a rank and step."""
    seed: int = 0
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    tasks: str = "ret%tva%tvadnp%tv%ta_cap%tva"
    permute_captions: bool = False
    """The control of an experiment: every clip learns another clip's captions, and answers where there are any."""
    split: str = "train"
    """"" trains on every sample."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """"auto" is bf16 on a GPU."""
    device: str = "auto"
    accumulate: int = 1
    """Parts in which a batch is encoded, each again going back: memory of a part, negatives of the whole batch.

    Parts of one sample where there are fewer samples than that.
    """
    recompute: Recompute = "none"
    """Activation checkpointing of "all" layers, or of the "text" transformer, which `accumulate` does not split."""
    ema: float = 0.0
    """Decay of a running mean of the weights, such as 0.999, which evaluation then uses; 0 keeps none."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    parallel: Parallel = "auto"
    """Across ranks: "ddp", which "auto" is, holds the model whole on each, "fsdp" a part of it and of the optimiser."""
    log_every: int = 1
    log_to: tuple[str, ...] = ()
    """Beside metrics.jsonl: "tensorboard", "wandb"."""
    max_tokenizer_samples: int = 50_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_to", tuple(self.log_to))
        for name in ("steps", "batch_size", "checkpoint_every", "keep_checkpoints", "log_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"train.ema is a decay in [0, 1), 0 for none, got {self.ema}")
        if unknown := [name for name in self.log_to if name not in SINKS]:
            raise ValueError(f"train.log_to takes {', '.join(SINKS)}, got {unknown[0]!r}")


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """One run, typed: the network and how it learns."""

    model: MiCoConfig = field(default_factory=MiCoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a call of `train` did: `steps` is the run's total, `loss` of its last tenth, the rest of this call."""

    steps: int
    samples: int
    seconds: float
    samples_per_second: float
    data_wait_fraction: float
    loss: float
    checkpoint: str
    skipped: int = 0
    """Steps of the run that the guard has not taken."""


class Batches(Protocol):
    """What `fit` learns from: the Loader, or anything that iterates and knows its place."""

    def __iter__(self) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def train(
    recipe: TrainRecipe,
    corpus: Corpus | Path | str,
    run: Path | str,
    on_step: Callable[[StepReport], None] | None = None,
    workers: int = 2,
) -> TrainReport:
    """Trains the recipe's model on a corpus into the folder `run`; continues a run that exists, bit-exactly.

    Under torchrun every rank calls it with the same arguments. `workers` are the loader's, a rank.
    Raises ValueError if the folder holds a run of another recipe or the corpus lacks what the recipe needs.
    """
    from omniloom.pipeline.corpus import open_corpus
    from omniloom.pipeline.loader import Loader

    config, run = recipe.train, Path(run)
    corpus = open_corpus(corpus) if isinstance(corpus, (str, Path)) else corpus
    rank, world_size = join_ranks()
    needed = [*recipe.model.modalities, *text_modalities(recipe)]
    if missing := [name for name in needed if short_name(name) not in map(short_name, corpus.modalities)]:
        raise ValueError(
            f"{corpus.path} lacks {', '.join(missing)}: generate them, or set model.modalities to a subset of"
            f" {', '.join(corpus.modalities)}"
        )
    if rank == 0:
        prepare_run(asdict(recipe), run)
        if not (run / "tokenizer.json").exists():
            tokenizer = Tokenizer.train(corpus_texts(recipe, corpus), recipe.model.vocab_size)
            replace_text(run / "tokenizer.json", tokenizer.to_json())
    wait_for_all()
    if pick_device(config.device).type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # A core for the decoding threads: where all are torch's, each of its parallel sections waits for the slowest.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - min(workers, 1)))
    model = make_model(recipe, Tokenizer.from_json((run / "tokenizer.json").read_text()))
    run_facts = {"tasks": config.tasks, "data": name_of(corpus.path), "steps": config.steps}
    model.about = replace(model.about, **run_facts, batch_size=config.batch_size * world_size)
    loader = Loader(
        corpus,
        needed,
        config.batch_size,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        workers=workers,
        window=recipe.model.window(train=True),
        train=True,
        split=config.split or None,
        permute=tuple(map(short_name, text_modalities(recipe))) if config.permute_captions else (),
    )
    return fit(model, config, loader, run, on_step)


def fit(
    model: MiCo,
    config: TrainConfig,
    batches: Batches,
    run: Path,
    on_step: Callable[[StepReport], None] | None = None,
) -> TrainReport:
    """The loop itself: model and optimiser from the run's newest whole checkpoint if there is one, else from scratch.

    Raises FloatingPointError if the guard gives up or the weights are no longer finite, and whatever went wrong
    while a checkpoint was written.
    """
    rank, world_size = join_ranks()
    device = pick_device(config.device)
    run.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        start = 0
        if rank == 0:
            stack.enter_context(only_trainer_of(run))
            clear_leftovers(run)
            found = newest_checkpoint(run, set_aside=True)
            trim(run, config.keep_checkpoints)
            start = int(found.name) if found else 0
        start = from_first(start, device)
        checkpoint = run / "checkpoints" / f"{start:08d}" if start else None

        model = model.to(device).train()
        guard = Guard(config.guard)
        if checkpoint:
            state = load_weights(checkpoint, model)
            guard.load_state_dict(state["guard"])
            batches.load_state_dict(state["loader"])
        recompute_layers(model, config.recompute)
        objective = spread(Objective(model, config.objective, config.accumulate).train(), device, config.parallel)
        optimizer = make_optimizer(model, config.optim)
        ema = Ema(model, config.ema) if config.ema else None
        if checkpoint:
            load_optimizer(checkpoint, model, optimizer)
            if ema:
                load_ema(checkpoint, ema)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        tasks = parse_tasks(config.tasks, (*model.config.modalities, model.config.text))
        half = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=half)

        sinks = open_sinks(config.log_to, run, start, asdict(config)) if rank == 0 else []
        metrics = stack.enter_context(Metrics(run, start, sinks)) if rank == 0 else None
        writer = stack.enter_context(CheckpointWriter(run, config.keep_checkpoints))
        peak = peak_flops(device)
        flops = 0.0  # of a step on this device, once the first batch is there

        began = time.perf_counter()
        waited = 0.0
        samples = 0
        iterator = iter(batches)
        for step in range(start, config.steps):
            asked = time.perf_counter()
            batch = next(iterator, None)
            waited += time.perf_counter() - asked
            if batch is None:
                raise ValueError(
                    f"the data ended at step {step} of {config.steps}: it needs at least one full batch a rank"
                )
            batch = batch.to(device)
            samples += len(batch) * world_size

            rate = learning_rate(step, config.steps, config.optim)
            set_learning_rate(optimizer, rate)
            chosen = tasks_of_step(tasks, config.objective, config.seed, step)
            if step == start:
                flops, spent = _flops_of_step(objective, device, batch, chosen, autocast)
                began += spent
            # All of a step's randomness comes from its number: nothing has to be stored to continue.
            seed = step_seed(config.seed, step, rank)
            torch.manual_seed(seed)
            generator = torch.Generator(device).manual_seed(seed)
            with autocast:
                losses: dict[str, torch.Tensor] = objective(batch, chosen, generator)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            if isinstance(objective, Sharded):
                objective.average_whole()
            norm = clip_gradients(parameters, config.optim.clip_norm)
            mean_loss, mean_norm = mean_over_ranks(torch.stack([losses["loss"].detach().float(), norm])).tolist()
            taken = guard.accepts(mean_loss, mean_norm)
            if taken:
                optimizer.step()
                if ema:
                    ema.update(step)

            done = step + 1
            if metrics and (done % config.log_every == 0 or done == config.steps or not taken):
                seconds = time.perf_counter() - began
                values = {name: float(loss.detach()) for name, loss in losses.items() if name != "loss"}
                rate_of_flops = flops * (done - start) / seconds
                report = StepReport(
                    step=done,
                    steps=config.steps,
                    loss=mean_loss,
                    losses=values,
                    lr=rate,
                    grad_norm=mean_norm,
                    samples_per_second=samples / seconds,
                    data_wait_fraction=waited / seconds,
                    skipped=guard.skipped,
                    taken=taken,
                    tflops=rate_of_flops / 1e12,
                    mfu=rate_of_flops / peak if peak else None,
                )
                metrics.write({**report.numbers(), "temperature": 1 / float(model.scale().detach())})
                if on_step:
                    on_step(report)
            if done % config.checkpoint_every == 0 or done == config.steps:
                position = {"loader": batches.state_dict(), "guard": guard.state_dict()}
                state = {**position, "seed": config.seed, "world_size": world_size}
                if rank == 0 or isinstance(objective, Sharded):  # the parts are gathered from all ranks
                    snapshot = take_snapshot(done, model, optimizer, state, ema)
                    if rank == 0:
                        writer.write(snapshot)
        writer.wait()
        seconds = time.perf_counter() - began
        if metrics and samples:
            draw_curves(metrics.path, run / "curves.png")
        wait_for_all()  # no rank ends before the last checkpoint is on disk
        return TrainReport(
            steps=max(start, config.steps),
            samples=samples,
            seconds=seconds,
            samples_per_second=samples / seconds,
            data_wait_fraction=waited / seconds,
            loss=metrics.recent_loss() if metrics else float("nan"),
            checkpoint=str(writer.written or checkpoint or ""),
            skipped=guard.skipped,
        )


def _flops_of_step(
    objective: nn.Module, device: torch.device, batch: Batch, tasks: Sequence[Task], autocast: Autocast
) -> tuple[int, float]:
    """Operations that the step's batch and tasks need, and the seconds that counting them took."""
    began = time.perf_counter()
    generator = torch.Generator(device).manual_seed(0)
    with autocast:
        flops = training_flops(lambda: objective(batch, tasks, generator))
    return flops, time.perf_counter() - began


def make_model(recipe: TrainRecipe, tokenizer: Tokenizer) -> MiCo:
    """The recipe's untrained model: its weights are a function of train.seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        return MiCo(recipe.model, tokenizer)


def text_modalities(recipe: TrainRecipe) -> list[str]:
    """What the tasks learn to say: captions, answers to questions, or both."""
    tasks = parse_tasks(recipe.train.tasks, (*recipe.model.modalities, recipe.model.text))
    return list(dict.fromkeys(QUESTIONS if task.objective == "answer" else recipe.model.text for task in tasks))


def corpus_texts(recipe: TrainRecipe, corpus: Corpus) -> list[str]:
    """The texts a tokenizer learns from: captions and transcripts of the training split, several views of each."""
    said = [name for name in recipe.model.modalities if load(name).stem.kind == "text"]
    names = [*text_modalities(recipe), *said]
    texts: set[str] = set()
    seen = 0
    for sample in corpus.samples():
        if recipe.train.split and sample.facts.get("split") != recipe.train.split:
            continue
        for name in names:
            if short_name(name) in sample.parts:
                modality = load(name)
                value = read(modality, sample.parts[short_name(name)])
                texts |= {str(modality.tensor(value, Window(train=True, seed=seed))) for seed in range(_VIEWS)}
        seen += 1
        if seen == recipe.train.max_tokenizer_samples:
            break
    if not texts:
        raise ValueError(f"{corpus.path} has no {names[0]} in split {recipe.train.split!r}: build it with captions")
    return sorted(texts)


def step_seed(seed: int, step: int, rank: int) -> int:
    """All randomness of a step on a rank: nothing has to be stored to continue it."""
    digest = hashlib.blake2b(f"{seed}:{step}:{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
