"""Training: the loop, from top to bottom, over the loader's batches."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from omniloom.modalities import load, short_name
from omniloom.modalities.base import Window, read
from omniloom.pipeline.batch import Batch
from omniloom.trainer.card import name_of
from omniloom.trainer.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from omniloom.trainer.mico import MiCo, MiCoConfig
from omniloom.trainer.objectives import Objective, ObjectiveConfig, tasks_of_step
from omniloom.trainer.optim import OptimConfig, clip_gradients, learning_rate, make_optimizer, set_learning_rate
from omniloom.trainer.tasks import QUESTIONS, parse_tasks
from omniloom.trainer.text import Tokenizer

if TYPE_CHECKING:
    from omniloom.pipeline.corpus import Corpus

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
    log_every: int = 1
    max_tokenizer_samples: int = 50_000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """One run, typed: the network and how it learns."""

    model: MiCoConfig = field(default_factory=MiCoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did: steps counted from 1, losses in nats."""

    step: int
    steps: int
    loss: float
    losses: Mapping[str, float]
    lr: float
    grad_norm: float
    samples_per_second: float
    data_wait_fraction: float


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

    Under torchrun every rank calls it with the same arguments. `workers` are the loader's threads a rank.
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
        prepare_run(recipe, run)
        if not (run / "tokenizer.json").exists():
            tokenizer = Tokenizer.train(corpus_texts(recipe, corpus), recipe.model.vocab_size)
            (run / "tokenizer.json").write_text(tokenizer.to_json())
    if world_size > 1:
        dist.barrier()
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
    """The loop itself: model and optimiser from the run's newest checkpoint if there is one, else from scratch."""
    rank, world_size = join_ranks()
    device = pick_device(config.device)
    run.mkdir(parents=True, exist_ok=True)
    model = model.to(device).train()
    optimizer = make_optimizer(model, config.optim)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tasks = parse_tasks(config.tasks, (*model.config.modalities, model.config.text))

    start = 0
    checkpoint = newest_checkpoint(run)
    if checkpoint:
        state = load_checkpoint(checkpoint, model, optimizer)
        start = int(state["step"])
        batches.load_state_dict(state["loader"])
    metrics = run / "metrics.jsonl"
    logged = _lines_until(metrics, start)

    objective: nn.Module = Objective(model, config.objective).train()
    if world_size > 1:
        devices = [device] if device.type == "cuda" else None
        # Which parameters a step touches depends on its tasks and on what its samples have.
        objective = nn.parallel.DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=True)
    half = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")

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
        generator = torch.Generator(device).manual_seed(step_seed(config.seed, step, rank))
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            losses: dict[str, Tensor] = objective(batch, chosen, generator)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = clip_gradients(parameters, config.optim.clip_norm)
        optimizer.step()

        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            seconds = time.perf_counter() - began
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            report = StepReport(
                step=done,
                steps=config.steps,
                loss=values.pop("loss"),
                losses=values,
                lr=rate,
                grad_norm=float(norm),
                samples_per_second=samples / seconds,
                data_wait_fraction=waited / seconds,
            )
            if not torch.isfinite(norm) or report.loss != report.loss:
                raise FloatingPointError(
                    f"step {done}: loss {report.loss}, gradient norm {report.grad_norm}: lower train.optim.lr;"
                    " the run's checkpoint is from before"
                )
            if rank == 0:
                logged.append(_metrics_line(report, float(model.scale().detach())))
                with metrics.open("a") as file:
                    file.write(logged[-1])
                if on_step:
                    on_step(report)
        if done % config.checkpoint_every == 0 or done == config.steps:
            if rank == 0:
                state = {"loader": batches.state_dict(), "seed": config.seed, "world_size": world_size}
                checkpoint = save_checkpoint(run, done, model, optimizer, state, config.keep_checkpoints)
            if world_size > 1:
                dist.barrier()

    seconds = time.perf_counter() - began
    recent = [json.loads(line)["loss"] for line in logged[-max(1, len(logged) // 10) :]]
    return TrainReport(
        steps=max(start, config.steps),
        samples=samples,
        seconds=seconds,
        samples_per_second=samples / seconds,
        data_wait_fraction=waited / seconds,
        loss=sum(recent) / len(recent) if recent else float("nan"),
        checkpoint=str(checkpoint or ""),
    )


def make_model(recipe: TrainRecipe, tokenizer: Tokenizer) -> MiCo:
    """The recipe's untrained model: its weights are a function of train.seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        return MiCo(recipe.model, tokenizer)


def prepare_run(recipe: TrainRecipe, run: Path) -> None:
    """Makes the run's folder with recipe.json, or makes sure that the one there is of this recipe.

    Only train.steps, checkpointing and logging may change between calls. Raises ValueError naming what else did.
    """
    run.mkdir(parents=True, exist_ok=True)
    path = run / "recipe.json"
    now = json.loads(json.dumps(asdict(recipe)))
    if path.exists():
        before = json.loads(path.read_text())
        differing = [
            f"{section}.{name}"
            for section, values in now.items()
            for name, value in values.items()
            if before[section].get(name) != value and f"{section}.{name}" not in _MAY_CHANGE
        ]
        if differing:
            raise ValueError(
                f"{run} was trained with another {', '.join(differing)}: use another --run, or the same recipe"
            )
    temporary = path.with_suffix(".writing")
    temporary.write_text(json.dumps(now, indent=1) + "\n")
    temporary.replace(path)


_MAY_CHANGE = {f"train.{name}" for name in ("steps", "checkpoint_every", "keep_checkpoints", "log_every", "device")}


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


def pick_device(name: str) -> torch.device:
    """A device by name; "auto" is this rank's GPU if there is one."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def join_ranks() -> tuple[int, int]:
    """(rank, world size); joins the process group that torchrun describes: NCCL on GPUs, gloo elsewhere."""
    if not dist.is_available() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def _metrics_line(report: StepReport, scale: float) -> str:
    record = {**asdict(report), **report.losses, "temperature": 1 / scale}
    del record["losses"], record["steps"]
    numbers = {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in record.items()}
    return json.dumps(numbers) + "\n"


def _lines_until(metrics: Path, step: int) -> list[str]:
    """Metrics up to a step, and the file cut to them: a killed run logged steps that its checkpoint does not hold."""
    if not metrics.exists():
        return []
    lines: list[str] = []
    for line in metrics.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line)
        except ValueError:
            break  # half a line: the kill came while it was written
    temporary = metrics.with_suffix(".writing")
    temporary.write_text("".join(lines))
    temporary.replace(metrics)
    return lines
