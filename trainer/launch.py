"""Trains on several ranks: Ray Train starts one process each, here or on a cluster, and `train` runs in all of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omniloom.pipeline.cluster import ray_session
from omniloom.pipeline.remote import url_of
from omniloom.trainer.metrics import StepReport
from omniloom.trainer.run import replace_text
from omniloom.trainer.train import TrainRecipe, TrainReport, train

_POLL_S = 0.5
_REFUSED = "refused.json"


def launch(
    recipe: TrainRecipe,
    corpus: Path | str,
    run: Path | str,
    *,
    ranks: int,
    address: str | None = None,
    threads: int = 2,
    restarts: int = 3,
    on_step: Callable[[StepReport], None] | None = None,
) -> TrainReport:
    """Trains with `ranks` processes, each with a GPU where the cluster has them, and waits for the end.

    `train.batch_size` counts samples a rank; `corpus` and `run` are paths that every node sees; `corpus` may be a
    URL. When a rank or its node dies, all ranks begin again from the newest checkpoint, at most `restarts` times.
    Raises ValueError or FloatingPointError where `train` does, and Ray Train's own error when ranks kept dying.
    """
    if ranks < 1 or restarts < 0:
        raise ValueError(
            f"training needs at least one rank and no fewer than 0 restarts, got {ranks = }, {restarts = }"
        )
    corpus, run = url_of(corpus) or Path(corpus).resolve(), Path(run).resolve()
    run.mkdir(parents=True, exist_ok=True)
    report_path = run / "report.json"
    report_path.unlink(missing_ok=True)
    refused = run / _REFUSED
    refused.unlink(missing_ok=True)
    # One core more than ranks: Ray Train's own controller takes one.
    with ray_session(address, max(ranks + 1, os.cpu_count() or 1) if address is None else None):
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchTrainer

        gpus = ray.cluster_resources().get("GPU", 0) >= ranks
        settings: dict[str, Any] = {"recipe": recipe, "corpus": str(corpus), "run": str(run), "threads": threads}
        trainer = TorchTrainer(
            _rank,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=ranks, use_gpu=gpus),
            run_config=RunConfig(
                name="ray", storage_path=str(run), failure_config=FailureConfig(max_failures=restarts)
            ),
        )
        with _Watcher(run / "metrics.jsonl", recipe.train.steps, on_step):
            try:
                trainer.fit()
            except TrainingFailedError as error:
                if refused.exists():
                    raise _refusal(refused) from error
                raise
    return TrainReport(**json.loads(report_path.read_text()))


def _rank(settings: dict[str, Any]) -> None:
    run = Path(settings["run"])
    if (run / _REFUSED).exists():
        raise _refusal(run / _REFUSED)  # it would end the same way again
    try:
        report = train(settings["recipe"], settings["corpus"], run, workers=settings["threads"])
    except (ValueError, FloatingPointError) as error:
        replace_text(run / _REFUSED, json.dumps([type(error).__name__, str(error)]))
        raise
    if int(os.environ.get("RANK", "0")) == 0:
        replace_text(run / "report.json", json.dumps(asdict(report)))


def _refusal(path: Path) -> Exception:
    """What a rank said when it could not go on: an error in its own words instead of Ray's pages about it."""
    kind, text = json.loads(path.read_text())
    return FloatingPointError(text) if kind == "FloatingPointError" else ValueError(text)


class _Watcher:
    """Follows the metrics that rank 0 writes, so that progress is seen where the training was started."""

    def __init__(self, metrics: Path, steps: int, on_step: Callable[[StepReport], None] | None) -> None:
        import threading

        self._metrics, self._steps, self._on_step = metrics, steps, on_step
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        if self._on_step:
            self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(2 * _POLL_S)

    def _follow(self) -> None:
        assert self._on_step is not None
        shown = 0
        while not self._end.is_set():
            time.sleep(_POLL_S)
            lines = self._metrics.read_text().splitlines() if self._metrics.exists() else []
            line = next((line for line in reversed(lines) if line.endswith("}")), None)
            if line is None:
                continue
            values = json.loads(line)
            if values["step"] != shown:
                shown = values["step"]
                self._on_step(StepReport.from_numbers(values, self._steps))
