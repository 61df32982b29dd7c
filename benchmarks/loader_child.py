"""One job of the loader benchmark in an interpreter of its own: a rate, an epoch, a resumption, a conversion.

    python -c START PACKAGE_FOLDER JOB_JSON

The interpreter may be a peer's, which has no omniloom: `START` makes the package importable there from its folder.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from omniloom.benchmarks.loader_meter import Batches, measure
from omniloom.benchmarks.loader_peers import LOOPS, Batch, Loop, Spec, convert
from omniloom.benchmarks.loader_work import KEY

START = (
    "import importlib.util, sys;"
    "spec = importlib.util.spec_from_file_location('omniloom', sys.argv[1] + '/__init__.py',"
    " submodule_search_locations=[sys.argv[1]]);"
    "sys.modules['omniloom'] = module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module);"
    "from omniloom.benchmarks.loader_child import child; child(sys.argv[2])"
)
"""Of the folder, nothing but omniloom becomes importable: beside it may lie the packages of another environment."""

NEEDS: Mapping[str, tuple[str, ...]] = {
    "webdataset": ("webdataset", "torch"),
    "energon": ("megatron.energon", "torch"),
    "litdata": ("litdata", "torch"),
    "streaming": ("streaming", "torch"),
    "dali": ("nvidia.dali", "torch"),
    "pyav": ("av",),
    "torchcodec": ("torchcodec.decoders",),
    "ours": ("torch", "pyarrow"),
}
"""What an interpreter must be able to import for a loader or a decoder of pictures."""


def child(text: str) -> None:
    """Does the job and prints one JSON object as the last line."""
    job: dict[str, Any] = json.loads(text)
    jobs = {"probe": _probe, "rate": _rate, "epoch": _epoch, "resume": _resume, "convert": _convert, "gpu": _gpu}
    out = os.dup(1)
    os.dup2(2, 1)  # what peers print is no answer
    answer = jobs[job["do"]](job)
    os.write(out, (json.dumps(answer) + "\n").encode())
    _end()


def _probe(job: Mapping[str, Any]) -> dict[str, Any]:
    """For each thing asked for: the versions of what it needs, or why it cannot be imported."""
    from importlib.metadata import packages_distributions, version

    names = packages_distributions()
    found: dict[str, Any] = {}
    for thing in job["things"]:
        try:
            for module in NEEDS[thing]:
                import_module(module)
        except Exception as error:  # noqa: BLE001 - a missing library fails in any way
            found[thing] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        else:
            needed = [names.get(module.partition(".")[0], []) for module in NEEDS[thing]]
            found[thing] = {
                name: version(name) for group in needed for name in sorted(set(group)) if _named(thing, name)
            }
    return found


def _named(thing: str, package: str) -> bool:
    """Several packages share a namespace such as `nvidia`: only the one that was asked for is told."""
    return not package.startswith("nvidia") or package.startswith(f"nvidia-{thing}")


def _rate(job: Mapping[str, Any]) -> dict[str, Any]:
    spec = Spec(**job["spec"])
    if spec.loader == "bare":
        from omniloom.benchmarks.loader_ours import bare

        return bare(spec, job["kind"], job["seconds"])
    _import(spec)  # not counted in the first batch
    start_s = time.time() - job["began"]

    def begin() -> Batches:
        for batch in _loop(spec).batches(once=False):
            yield batch[KEY], _shapes(batch)

    return {**measure(begin, job["seconds"], spec.workers), "start_s": start_s}


def _epoch(job: Mapping[str, Any]) -> dict[str, Any]:
    """Every sample once: which came, and what ended it if it did not end by itself."""
    keys: list[str] = []
    fault = ""
    try:
        for batch in _loop(Spec(**job["spec"])).batches(once=True):
            keys += batch[KEY]
    except Exception as error:  # noqa: BLE001 - whatever it raises is its answer
        fault = f"{type(error).__name__}: {error}"
    return {"keys": keys, "fault": fault}


def _resume(job: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds from a state to the first batch after it; without a state, of replaying up to there.

    Also whether that batch is the one that came in the run that was not interrupted. Every run is a process of its own,
    with the packages imported already: two loaders of one folder may stand in each other's way.
    """
    spec = Spec(**job["spec"])
    steps = sorted({int(step) for step in job["steps"]})
    _import(spec)
    order, states = _apart(_until, spec, steps)
    return {str(step): _apart(_resumed, spec, step, states[step], order[step]) for step in steps}


def _until(spec: Spec, steps: Sequence[int]) -> tuple[list[list[str]], dict[int, Any]]:
    """Keys of batches up to that of the last step, and states after so many batches."""
    loop = _loop(spec)
    order: list[list[str]] = []
    states: dict[int, Any] = dict.fromkeys(steps)
    for batch in loop.batches(once=False):
        order.append(batch[KEY])
        if len(order) in states:
            states[len(order)] = loop.state()
        if len(order) > steps[-1]:
            break
    return order, states


def _resumed(spec: Spec, step: int, state: Any, expected: Sequence[str]) -> dict[str, Any]:
    loop = _loop(spec)
    began = time.perf_counter()
    if state is not None:
        loop.restore(state)
    batches: Iterator[Batch] = loop.batches(once=False)
    replayed = step if state is None else 0
    for _ in range(replayed):
        next(batches)
    keys = next(batches)[KEY]
    return {"seconds": time.perf_counter() - began, "same": keys == expected, "replayed": replayed > 0}


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, called in a fork of this process. Raises RuntimeError with what it raised there."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_tell, args=(there, function, arguments))
    process.start()
    there.close()
    try:
        answer, fault = here.recv()
        here.send("taken")
    except EOFError:
        answer, fault = None, "it ended without an answer"
    process.join()
    if fault:
        raise RuntimeError(fault)
    return answer


def _tell(there: Any, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    try:
        there.send((function(*arguments), ""))
    except Exception as error:  # noqa: BLE001 - told to the process that asked
        there.send((None, f"{type(error).__name__}: {error}"))
    there.recv()  # tensors are taken from the memory of this process: it must not end before
    _end()


def _end() -> None:
    """Some loaders never come to an end by themselves."""
    for process in multiprocessing.active_children():
        process.kill()
    sys.stderr.flush()
    os._exit(0)


def _convert(job: Mapping[str, Any]) -> dict[str, Any]:
    convert(job["loader"], Path(job["tars"]), Path(job["out"]))
    return {}


def _gpu(job: Mapping[str, Any]) -> dict[str, Any]:
    from omniloom.benchmarks.loader_gpu import loop_on_gpu

    return loop_on_gpu(Spec(**job["spec"]), job["seconds"])


def _import(spec: Spec) -> None:
    for thing in (spec.loader, spec.video):
        if thing == "pyav" and (spec.layout == "ours" or spec.loader == "dali"):
            continue  # nothing is decoded with PyAV
        for module in NEEDS[thing]:
            import_module(module)
    if spec.loader == "ours":
        import_module("omniloom.benchmarks.loader_ours")


def _loop(spec: Spec) -> Loop:
    if spec.loader == "ours":
        from omniloom.benchmarks.loader_ours import Ours

        return Ours(spec)
    import torch

    torch.set_num_threads(1)
    return LOOPS[spec.loader](spec)


def _shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    return {
        name: (len(value),) if isinstance(value, list) else tuple(value.shape)
        for name, value in batch.items()
        if name != KEY
    }
