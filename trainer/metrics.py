"""Metrics: what each step did, as a value, as a line of metrics.jsonl and for whoever else listens."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

Numbers = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did: steps counted from 1, losses in nats, the mean over all ranks."""

    step: int
    steps: int
    loss: float
    losses: Mapping[str, float]
    """By objective, of this rank's samples."""
    lr: float
    grad_norm: float
    """Before clipping."""
    samples_per_second: float
    """Since this call began, on all ranks together."""
    data_wait_fraction: float
    """Share of the time that the loop waited for its next batch."""
    skipped: int = 0
    """Steps of the run that the guard has not taken so far."""
    taken: bool = True
    """Whether this one was."""
    tflops: float | None = None
    """10^12 floating-point operations a second and device that the model needs, without what is done twice."""
    mfu: float | None = None
    """Their share of what the device can do, where that is known."""

    def numbers(self) -> Numbers:
        """One flat mapping, six digits each; None for what is not finite or not known."""
        values = {**asdict(self), **self.losses}
        del values["losses"], values["steps"]
        return {name: _rounded(value) for name, value in values.items()}

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any], steps: int) -> StepReport:
        """The report that a line of metrics.jsonl was made of."""
        own = {field.name for field in fields(cls)} - {"steps", "losses"}
        values: dict[str, Any] = {name: math.nan if value is None else value for name, value in numbers.items()}
        values |= {name: numbers.get(name) for name in ("tflops", "mfu")}
        known = {name: value for name, value in values.items() if name in own}
        losses = {name: value for name, value in values.items() if name not in own}
        return cls(**known, steps=steps, losses=losses)


class Sink(Protocol):
    """Whoever else wants the numbers of a step."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Metrics:
    """A run's metrics.jsonl, cut to the step that is continued from, and the sinks beside it."""

    def __init__(self, run: Path, start: int, sinks: Sequence[Sink] = ()) -> None:
        self.path = run / "metrics.jsonl"
        self._lines = _lines_until(self.path, start)
        self._sinks = sinks

    def write(self, numbers: Numbers) -> None:
        line = json.dumps(numbers) + "\n"
        self._lines.append(line)
        with self.path.open("a") as file:
            file.write(line)
        known = {name: value for name, value in numbers.items() if value is not None and name != "step"}
        for sink in self._sinks:
            sink.write(int(numbers["step"] or 0), known)

    def recent_loss(self) -> float:
        """Mean loss of the last tenth of the run; NaN if there is none."""
        recent = [json.loads(line)["loss"] for line in self._lines[-max(1, len(self._lines) // 10) :]]
        known = [loss for loss in recent if loss is not None]
        return sum(known) / len(known) if known else math.nan

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *error: object) -> None:
        for sink in self._sinks:
            sink.close()


def open_sinks(names: Sequence[str], run: Path, start: int, recipe: Mapping[str, Any]) -> list[Sink]:
    """Sinks by name, "tensorboard" and "wandb". Raises ValueError if one's package is not installed."""
    return [_SINKS[name](run, start, recipe) for name in names]


class TensorBoard:
    """Event files in RUN/tensorboard, for `tensorboard --logdir RUN`."""

    def __init__(self, run: Path, start: int, recipe: Mapping[str, Any]) -> None:
        module = _import("tensorboardX", "tensorboard", "tensorboardX")
        self._writer = module.SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else None)
        self._writer.add_text("recipe", f"```json\n{json.dumps(recipe, indent=1)}\n```", start)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, continued under its id; WANDB_MODE=offline and the like work as everywhere."""

    def __init__(self, run: Path, start: int, recipe: Mapping[str, Any]) -> None:
        module = _import("wandb", "wandb", "wandb")
        kept = run / "wandb.txt"
        name = kept.read_text().strip() if kept.exists() else secrets.token_hex(4)
        kept.write_text(name + "\n")
        self._run = module.init(dir=str(run), id=name, name=run.name, resume="allow", config={"start": start, **recipe})

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


_SINKS = {"tensorboard": TensorBoard, "wandb": WandB}
SINKS = tuple(_SINKS)


def _import(module: str, sink: str, package: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"train.log_to asks for {sink}, whose package is missing: pip install {package}, or take it out"
        ) from error


def _rounded(value: float | None) -> float | None:
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


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
