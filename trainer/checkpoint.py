"""Checkpoints: weights, optimiser and loader position in one folder that appears whole or not at all.

Every file's length and hash stand in state.json, which carries a hash of itself: what a disk damaged is noticed on
loading, and the checkpoint before serves instead. No pickle: safetensors and JSON only.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from omniloom.trainer.card import ABOUT, CARD
from omniloom.trainer.ema import Ema
from omniloom.trainer.mico import MiCo
from omniloom.trainer.ranks import full, sharded_like

_STATE = "state.json"
_UNSEALED = "0" * 32
_BLOCK = 1 << 24
"""Bytes hashed at a time."""


# --- finding -----------------------------------------------------------------------------------------------------


def checkpoints(run: Path | str) -> list[Path]:
    """Checkpoints of a run by name, oldest first: complete when they were written, not verified."""
    found = (path for path in Path(run).glob("checkpoints/*") if path.name.isdigit() and (path / _STATE).exists())
    return sorted(found)


def newest_checkpoint(run: Path | str, *, set_aside: bool = False) -> Path | None:
    """The last checkpoint whose every byte is as it was written, or None if there are no checkpoints.

    A line on standard error tells of damaged ones; `set_aside` also renames them, so that the run can be continued.
    Raises ValueError if there are checkpoints and none of them is whole.
    """
    damaged: list[str] = []
    for path in reversed(checkpoints(run)):
        what = fault(path)
        if not what:
            return path
        damaged.append(f"{path.name}: {what}")
        sys.stderr.write(f"{path} is damaged, {what}: taking the checkpoint before it\n")
        if set_aside:
            aside = path.with_name(f".{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
    if damaged:
        raise ValueError(
            f"no checkpoint of {run} is whole ({'; '.join(damaged)}): restore one from a copy, or use another --run"
        )
    return None


def fault(folder: Path) -> str:
    """What is wrong with a checkpoint, or "": reads all of it."""
    try:
        files = _read_state(folder)["files"]
        for name, (size, digest) in files.items():
            if (folder / name).stat().st_size != size:
                return f"{name} has {(folder / name).stat().st_size} bytes, not {size}"
            if _digest(folder / name) != digest:
                return f"{name} does not have the hash that {_STATE} states"
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def clear_leftovers(run: Path) -> None:
    """Removes what kills left behind: half-written checkpoints, and half-removed ones."""
    for path in [*run.glob("checkpoints/.*.writing"), *run.glob("checkpoints/.*.removing")]:
        shutil.rmtree(path)


# --- writing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of everything a checkpoint holds, in host memory: training goes on while it is written."""

    step: int
    model: MiCo
    """For its config and tokenizer, which never change; the weights are those below."""
    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: Mapping[str, Any]


def take_snapshot(
    step: int, model: MiCo, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], ema: Ema | None = None
) -> Snapshot:
    """Copies model, optimiser and mean. `state` is anything JSON can hold. With sharded weights all ranks call it."""
    weights = {name: _copy(tensor) for name, tensor in model.state_dict().items()}
    averaged = {name: _copy(tensor) for name, tensor in ema.weights.items()} if ema else {}
    moments: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            moments[f"{key}:{name}"] = _copy(value)
    return Snapshot(
        step, model, weights, {**weights, **averaged} if averaged else {}, moments, json.loads(json.dumps(state))
    )


def write_checkpoint(run: Path, snapshot: Snapshot, keep: int = 2) -> Path:
    """Writes checkpoints/<step>, then removes all but the newest `keep`.

    The folder is made under another name, flushed to disk and renamed: a kill at any moment leaves the checkpoint
    before or this one. Raises FloatingPointError, and writes nothing, if a weight is not finite.
    """
    from safetensors.torch import save_file

    for name, tensor in snapshot.weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FloatingPointError(
                f"step {snapshot.step}: {name} is no longer finite, so nothing was saved: lower train.optim.lr and"
                " continue from the checkpoint before"
            )
    final = run / "checkpoints" / f"{snapshot.step:08d}"
    temporary = final.with_name(f".{final.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    snapshot.model.save_pretrained(temporary, snapshot.weights)
    if snapshot.ema:
        save_file(snapshot.ema, str(temporary / "ema.safetensors"))
    save_file(snapshot.optimizer, str(temporary / "optimizer.safetensors"))
    lasting = sorted(path for path in temporary.iterdir() if path.name not in {ABOUT, CARD})  # evaluation changes these
    files = {path.name: (path.stat().st_size, _digest(path)) for path in lasting}
    _write_state(temporary, {"step": snapshot.step, **snapshot.state, "files": files})
    for path in [*temporary.iterdir(), temporary]:
        _flush(path)
    _remove(final)  # of a run that was continued from an earlier step
    temporary.rename(final)
    _flush(final.parent)
    trim(run, keep)
    return final


def trim(run: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints, also those that a kill left standing."""
    for old in checkpoints(run)[: -max(keep, 1)]:
        _remove(old)


class CheckpointWriter:
    """Writes snapshots in a thread of its own, one after the other; an error there comes out of the next call."""

    def __init__(self, run: Path, keep: int) -> None:
        self._run, self._keep = run, keep
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.written: Path | None = None
        """The last one on disk."""

    def write(self, snapshot: Snapshot) -> None:
        """Begins to write, after the one before is on disk: at most one snapshot waits in memory."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Returns when everything is on disk. Raises what went wrong on the way there."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.wait()
        elif self._thread:
            self._thread.join()  # the run ends by another error, which is the one to be seen

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self.written = write_checkpoint(self._run, snapshot, self._keep)
        except Exception as error:  # noqa: BLE001 - raised again where the training is
            self._error = error


# --- loading -----------------------------------------------------------------------------------------------------


def load_weights(folder: Path, model: MiCo) -> dict[str, Any]:
    """Fills a model that is not sharded yet; gives the state that was saved."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(str(folder / "model.safetensors"), device=str(model.log_scale.device)))
    return _read_state(folder)


def load_ema(folder: Path, ema: Ema) -> None:
    """Fills the mean of the weights; with the weights where the checkpoint has none."""
    from safetensors.torch import load_file

    averaged = folder / "ema.safetensors"
    ema.load(load_file(str(averaged if averaged.exists() else folder / "model.safetensors")))


def load_optimizer(folder: Path, model: MiCo, optimizer: torch.optim.Optimizer) -> None:
    """Fills the optimiser. Raises ValueError if its parameters are not those of the checkpoint."""
    from safetensors.torch import load_file

    tensors = load_file(str(folder / "optimizer.safetensors"))
    parameters = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    if unknown := {name.partition(":")[2] for name in tensors} - set(parameters):
        raise ValueError(
            f"{folder} holds optimiser state of {sorted(unknown)[0]!r}, which this model lacks: use the run's recipe"
        )
    moments: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(":")
        # AdamW counts its steps in a scalar, which is no part of the parameter's shape.
        moments.setdefault(name, {})[kind] = sharded_like(value, parameters[name]) if value.ndim else value
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state = {index: moments[name] for index, name in enumerate(order) if name in moments}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


# --- files -------------------------------------------------------------------------------------------------------


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    text = json.dumps({**state, "seal": _UNSEALED}, indent=1) + "\n"
    seal = xxhash.xxh3_128_hexdigest(text.encode())
    (folder / _STATE).write_text(text.replace(_UNSEALED, seal))


def _read_state(folder: Path) -> dict[str, Any]:
    """Raises ValueError if a byte of it is not as it was written."""
    data = (folder / _STATE).read_bytes()
    try:
        state = dict(json.loads(data))
        seal = str(state.pop("seal")).encode()
    except (ValueError, KeyError) as error:
        raise ValueError(f"{_STATE} is not a state that was sealed") from error
    if xxhash.xxh3_128_hexdigest(data.replace(seal, _UNSEALED.encode())).encode() != seal:
        raise ValueError(f"{_STATE} does not match its seal")
    return state


def _digest(path: Path) -> str:
    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def _copy(tensor: Tensor) -> Tensor:
    return full(tensor.detach()).to("cpu", copy=True).contiguous()


def _remove(folder: Path) -> None:
    """Removes a checkpoint, which is none any more from the first moment on."""
    if folder.exists():
        removing = folder.with_name(f".{folder.name}.removing")
        shutil.rmtree(removing, ignore_errors=True)
        folder.rename(removing)
        shutil.rmtree(removing)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
