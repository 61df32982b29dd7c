"""Checkpoints: weights, optimiser, random state and loader position in one folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omniloom.trainer.mico import MiCo

_STATE = "state.json"


def checkpoints(run: Path | str) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = (path for path in Path(run).glob("checkpoints/*") if path.name.isdigit() and (path / _STATE).exists())
    return sorted(found)


def newest_checkpoint(run: Path | str) -> Path | None:
    """The last complete checkpoint, or None."""
    return next(reversed(checkpoints(run)), None)


def save_checkpoint(
    run: Path, step: int, model: MiCo, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Writes checkpoints/<step>, then removes all but the newest `keep`.

    The folder is made under another name, flushed to disk and renamed: a kill at any moment leaves the checkpoint
    before or this one. No pickle: safetensors and JSON only. `state` is anything JSON can hold.
    """
    from safetensors.torch import save_file

    final = run / "checkpoints" / f"{step:08d}"
    temporary = final.with_name(f".{final.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tensors = _optimizer_tensors(model, optimizer)
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    save_file(tensors, str(temporary / "optimizer.safetensors"))
    (temporary / _STATE).write_text(json.dumps({"step": step, **state}, indent=1) + "\n")
    for path in [*temporary.iterdir(), temporary]:
        _flush(path)
    shutil.rmtree(final, ignore_errors=True)  # of a run that was continued from an earlier step
    temporary.rename(final)
    _flush(final.parent)
    for old in checkpoints(run)[: -max(keep, 1)]:
        shutil.rmtree(old)
    return final


def load_checkpoint(folder: Path, model: MiCo, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Fills model and optimiser, restores torch's random state, and gives the state that was saved.

    Raises ValueError if the optimiser's parameters are not those of the checkpoint.
    """
    from safetensors.torch import load_file

    device = model.log_scale.device
    model.load_state_dict(load_file(str(folder / "model.safetensors"), device=str(device)))
    tensors = load_file(str(folder / "optimizer.safetensors"))
    torch.set_rng_state(tensors.pop("random.cpu"))
    cuda = tensors.pop("random.cuda", None)
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    known = set(names.values())
    if unknown := {name.partition(":")[2] for name in tensors} - known:
        raise ValueError(
            f"{folder} holds optimiser state of {sorted(unknown)[0]!r}, which this model lacks: use the run's recipe"
        )
    settings = optimizer.state_dict()
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for index, name in enumerate(order):
        entries = {key.partition(":")[0]: value for key, value in tensors.items() if key.partition(":")[2] == name}
        if entries:
            state[index] = entries
    optimizer.load_state_dict({**settings, "state": state})
    return dict(json.loads((folder / _STATE).read_text()))


def _optimizer_tensors(model: MiCo, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors named like exp_avg:encoder.vit.norm.weight, of every parameter that has been stepped."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}:{name}"] = value.detach().cpu().contiguous()
    return tensors


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
