"""Ranks: the processes of one training, which device each has, and how they agree."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

Parallel = Literal["auto", "ddp", "fsdp"]
_LOCK_WAIT_S = 30.0
"""Processes whose driver was killed take some seconds to notice."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EINVAL}
"""Some network file systems have none: then nobody is kept out."""


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


def several() -> bool:
    """Whether there is another rank to agree with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def wait_for_all() -> None:
    if several():
        dist.barrier()


def from_first(number: int, device: torch.device) -> int:
    """Rank 0's number, on every rank."""
    if not several():
        return number
    told = torch.tensor(number, device=device)
    dist.broadcast(told, 0)
    return int(told)


def mean_over_ranks(numbers: Tensor) -> Tensor:
    """The same mean on every rank; not finite wherever any rank's number is not."""
    if several():
        dist.all_reduce(numbers)
        numbers = numbers / dist.get_world_size()
    return numbers


def spread(objective: nn.Module, device: torch.device, parallel: Parallel) -> nn.Module:
    """The module with its gradients averaged over ranks as they arise (DDP), or split over them (FSDP2).

    One rank alone needs neither: the module itself.
    """
    if not several():
        return objective
    if parallel == "fsdp":
        from omniloom.trainer.sharded import Sharded

        return Sharded(objective, device)
    devices = [device] if device.type == "cuda" else None
    # Which parameters a step touches depends on its tasks and on what its samples have.
    return nn.parallel.DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=True)


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds only its part of the tensor."""
    return hasattr(tensor, "full_tensor")


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks, which must all ask; any other as it is."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def sharded_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """The tensor, which every rank holds whole, sharded as the pattern is."""
    if not is_sharded(pattern):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    like = cast(Any, pattern)
    return distribute_tensor(tensor.to(like.to_local().device), like.device_mesh, like.placements)


@contextmanager
def only_trainer_of(run: Path) -> Generator[None]:
    """Holds a run's folder for this process. Raises ValueError if another one is training into it."""
    with (run / ".lock").open("ab") as file:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    break
                if not isinstance(error, BlockingIOError):
                    raise
                if time.monotonic() - began > _LOCK_WAIT_S:
                    raise ValueError(
                        f"another process is training into {run}: wait for it, end it, or use another --run"
                    ) from None
                time.sleep(0.2)
        yield
