"""Where work runs: in this process, or on Ray with a task a work unit and a pool of actors a model.

The only file that imports ray. What crosses between tasks and actors is what a model eats (sampled frames, 16 kHz
sound) and what it answers.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from omniloom.modalities.base import Ask, ModelRef
from omniloom.modalities.models import ask_here, family_of
from omniloom.pipeline.together import Together, at_once

UNIT_RETRIES = 2
"""Times a unit is tried again when its worker dies (killed, out of memory, lost node)."""
QUESTION_RETRIES = 3
"""Times a question is asked again when the model's process dies over it."""
_RESTARTS = 100
"""Of one model's process; more mean that something is wrong with it or with the machine."""
_WAITING = 32
"""Questions that may wait inside one model's process, to be answered together."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Cluster(Protocol):
    """Runs functions of this package on items; functions and items are picklable, and the models are loaded once."""

    def each(self, function: Callable[..., Result], items: Sequence[Any], *shared: Any) -> list[Result]:
        """function(item, *shared) of every item, in their order."""
        ...

    def run(self, function: Callable[..., Result], units: Sequence[Any], *shared: Any) -> Iterator[Result]:
        """function(*shared, unit, ask) of every unit, as they finish.

        Raises what a function raised, and RuntimeError naming the unit if its worker died over and over.
        """
        ...

    def model_cpu_seconds(self) -> float:
        """Of processes that only run models."""
        ...


@contextmanager
def cluster(address: str | None, workers: int | None, models: Sequence[ModelRef]) -> Iterator[Cluster]:
    """`workers=0` without an address is this process; otherwise Ray: see `ray_session`."""
    if workers == 0 and address is None:
        yield _Here(models)
        return
    with ray_session(address, workers):
        yield _OnRay(models)


def share_out(gpus: float, wanted: Sequence[float], cpus: int) -> list[tuple[float, int]]:
    """(fraction of a GPU, number of actors) for each model, given the fraction that each asks for.

    Together they never ask for more than there is: an actor that no node can hold would be waited for, for ever.
    Without GPUs each model gets an actor a core.
    """
    if not gpus:
        return [(0.0, cpus) for _ in wanted]
    each = gpus / max(1, len(wanted))
    # Ray counts in ten-thousandths, and an actor's GPU lies on one card.
    shares = [min(ask, math.floor(1e4 * each) / 1e4, 1.0) for ask in wanted]
    return [(share, max(1, int(each / share))) for share in shares]


class _Here:
    """Runs everything in this process: for debugging, and for a handful of files."""

    def __init__(self, models: Sequence[ModelRef]) -> None:
        self._models = {ref: Together(partial(ask_here(), ref), at_once(ref)) for ref in models}

    def each(self, function: Callable[..., Result], items: Sequence[Any], *shared: Any) -> list[Result]:
        return [function(item, *shared) for item in items]

    def run(self, function: Callable[..., Result], units: Sequence[Any], *shared: Any) -> Iterator[Result]:
        for unit in units:
            yield function(*shared, unit, self._ask)

    def model_cpu_seconds(self) -> float:
        return 0.0  # counted with the units: it is the same process

    def _ask(self, ref: ModelRef, *inputs: Any) -> Any:
        return self._models[ref](*inputs) if ref in self._models else ask_here()(ref, *inputs)


class _OnRay:
    """Runs units as tasks and models as actors of a Ray cluster."""

    def __init__(self, models: Sequence[ModelRef]) -> None:
        import ray

        resources = ray.cluster_resources()
        self._cpus = max(1, int(resources.get("CPU", 1)))
        shares = share_out(resources.get("GPU", 0.0), [family_of(ref).GPUS for ref in models], self._cpus)
        self._actors = {ref: self._start_actors(ref, *share) for ref, share in zip(models, shares, strict=True)}

    @staticmethod
    def _start_actors(ref: ModelRef, gpus: float, count: int) -> list[Any]:
        import ray

        # On CPUs an actor claims no slot: the task that waits for its answer leaves its own core idle meanwhile.
        actor: Any = ray.remote(_ModelActor).options(
            num_cpus=0,
            num_gpus=gpus,
            max_restarts=_RESTARTS,
            max_task_retries=QUESTION_RETRIES,
            max_concurrency=_WAITING,
        )
        return [actor.remote(ref) for _ in range(count)]

    def each(self, function: Callable[..., Result], items: Sequence[Any], *shared: Any) -> list[Result]:
        import ray

        task: Any = ray.remote(function)
        return ray.get([task.remote(item, *shared) for item in items])

    def run(self, function: Callable[..., Result], units: Sequence[Any], *shared: Any) -> Iterator[Result]:
        import ray
        from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

        task: Any = ray.remote(function).options(num_cpus=1, max_retries=UNIT_RETRIES)
        refs = [ray.put(value) for value in shared]
        waiting = enumerate(units)
        # Two units a core in flight keep every core fed; more would only queue.
        running: dict[Any, Any] = {}
        while True:
            for turn, unit in itertools.islice(waiting, 2 * self._cpus - len(running)):
                ask: Ask = _AskActors(self._actors, turn)
                running[task.remote(*refs, unit, ask)] = unit
            if not running:
                return
            ready, _ = ray.wait(list(running), num_returns=1)
            for ref in ready:
                unit = running.pop(ref)
                try:
                    yield ray.get(ref)
                except RayTaskError as error:
                    raise error.cause from None  # what went wrong there, not how it travelled
                except (WorkerCrashedError, OutOfMemoryError) as error:
                    raise RuntimeError(
                        f"the worker of a unit died {UNIT_RETRIES + 1} times ({type(error).__name__}); all other units"
                        f" keep what they committed. Free memory, or leave these out: {unit}"
                    ) from error

    def model_cpu_seconds(self) -> float:
        import ray

        actors = itertools.chain.from_iterable(self._actors.values())
        return sum(ray.get([actor.cpu_seconds.remote() for actor in actors]))


class _ModelActor:
    """One loaded model; Ray calls it from many tasks, and what waits is answered together."""

    def __init__(self, ref: ModelRef) -> None:
        self._cpu_before = time.process_time()
        self._model: Together | None = None
        self._fault: Exception | None = None
        try:
            self._model = Together(family_of(ref).load(ref), at_once(ref))
        except Exception as error:  # noqa: BLE001 - told to whoever asks: an actor that cannot start tells nobody why
            self._fault = error

    def answer(self, *inputs: Any) -> Any:
        if self._model is None:
            assert self._fault is not None
            raise self._fault
        return self._model(*inputs)

    def cpu_seconds(self) -> float:
        return time.process_time() - self._cpu_before


class _AskActors:
    """An `Ask` that a task carries: takes the actors of a model in turn and waits for the answer."""

    def __init__(self, actors: dict[ModelRef, list[Any]], turn: int) -> None:
        self._actors = actors
        self._turn = itertools.count(turn)

    def __call__(self, ref: ModelRef, *inputs: Any) -> Any:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        actors = self._actors[ref]
        try:
            return ray.get(actors[next(self._turn) % len(actors)].answer.remote(*inputs))
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            raise RuntimeError(
                f"the process of {ref.family} {ref.name} died {QUESTION_RETRIES + 1} times over one question"
                f" ({' '.join(str(error).split())[:200]}): what is committed stays. Free memory, then run this again"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return (_AskActors, (self._actors, next(self._turn)))


@contextmanager
def ray_session(address: str | None = None, workers: int | None = None) -> Iterator[None]:
    """Joins the cluster at `address`, or starts a private Ray here and ends it afterwards, and only it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():  # the caller's own session: use it, leave it
        yield
        return
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
        return
    # A short path: Ray's sockets live in it, and their names are limited to 107 bytes.
    scratch = tempfile.mkdtemp(prefix="loom-", dir="/tmp" if Path("/tmp").is_dir() else None)
    try:
        ray.init(
            address="local",
            num_cpus=workers or os.cpu_count(),
            include_dashboard=False,
            object_store_memory=512 * 1024 * 1024,
            _temp_dir=scratch,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
