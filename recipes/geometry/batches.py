"""Training batches of the geometry network: rendered and real pictures, cropped, turned, mirrored and recoloured.

Shapes: B pictures, H and W the batch's size; truth is at half that size, h and w, which is what the network answers.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Frames:
    """One shard in memory: rgb uint8 (N, H, W, 3) and what is known of each pixel, NaN or 0 where it is not."""

    rgb: np.ndarray
    log_z: np.ndarray | None
    """float16 (N, H, W) log metres; inf: sky."""
    normal: np.ndarray | None
    """int8 (N, H, W, 3) x127, OpenCV camera axes."""
    inverse: np.ndarray | None
    """float16 (N, H, W): a teacher's inverse depth up to a factor and an offset."""


@dataclass(frozen=True, slots=True)
class Batch:
    """image float32 (B, 3, H, W) 0..255; the rest (B, h, w): log_z, normal (B, 3, h, w), inverse; NaN or 0: unknown."""

    image: Tensor
    log_z: Tensor
    normal: Tensor
    inverse: Tensor


WEIGHTS = {"grotto": 2.0, "crags": 1.5, "railings": 1.5, "home": 1.5, "world": 0.5}
"""How often kinds are drawn, 1 for the others: rough, thin and crowded ones are the hardest, the demo world easiest."""


@dataclass(slots=True)
class Pool:
    """The shards of some folders by kind, `real` among them; `refresh` takes in those that were written meanwhile."""

    folders: Sequence[Path]
    limit: int = 400
    kinds: dict[str, list[Frames]] = field(default_factory=dict[str, list[Frames]])
    _seen: set[Path] = field(default_factory=set[Path])

    def refresh(self) -> int:
        """Reads new shards; returns how many pictures there are. A file that is still being written waits."""
        for path in sorted(path for folder in self.folders for path in folder.glob("*.npz")):
            if path in self._seen or len(self._seen) >= self.limit:
                continue
            try:
                frames = read_frames(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                continue
            self.kinds.setdefault(path.stem.rpartition("-")[0], []).append(frames)
            self._seen.add(path)
        return sum(len(frames.rgb) for kind in self.kinds.values() for frames in kind)

    def draw(self, rng: np.random.Generator, count: int, size: tuple[int, int], real_share: float) -> Batch:
        """`count` augmented pictures of `size` (H, W), of rendered kinds as likely as `WEIGHTS` says."""
        rendered = sorted(kind for kind in self.kinds if kind != "real")
        weights = np.array([WEIGHTS.get(kind, 1.0) for kind in rendered])
        made: list[tuple[Tensor, ...]] = []
        num_real = int(count * real_share + rng.random()) if "real" in self.kinds else 0
        for number in range(count):
            is_real = number < num_real or not rendered
            kind = self.kinds[
                "real" if is_real else rendered[int(rng.choice(len(rendered), p=weights / weights.sum()))]
            ]
            frames = kind[int(rng.integers(len(kind)))]
            made.append(view(frames, int(rng.integers(len(frames.rgb))), size, rng))
        image, log_z, normal, inverse = (torch.cat(parts) for parts in zip(*made, strict=True))
        strength = torch.where(torch.arange(count) < num_real, 0.5, 0.8)
        return Batch(recolour(image, rng, strength), log_z, normal, inverse)


def read_frames(path: Path) -> Frames:
    """One shard of `render` (rgb, z, normal) or of `distil` (rgb, inverse)."""
    with np.load(path, allow_pickle=False) as shard:
        if "inverse" in shard:
            return Frames(shard["rgb"], None, None, shard["inverse"])
        with np.errstate(divide="ignore", invalid="ignore"):
            log_z = np.log(np.nan_to_num(shard["z"], nan=np.inf, posinf=np.inf)).astype(np.float16)
        return Frames(shard["rgb"], log_z, shard["normal"], None)


def view(frames: Frames, index: int, size: tuple[int, int], rng: np.random.Generator) -> tuple[Tensor, ...]:
    """One picture and its truth through a random window: zoomed, shifted, rolled, half of the time mirrored."""
    rows, columns = frames.rgb.shape[1:3]
    height, width = size
    window = min(rows / height, columns / width) * rng.uniform(0.55, 1.0)
    roll = math.radians(rng.normal(0, 6)) if rng.random() < 0.6 else 0.0
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    # Upside down now and then: what hangs from above is as near as what stands below.
    flip = -1.0 if rng.random() < 0.12 else 1.0
    spare_x, spare_y = columns - window * width, rows - window * height
    shift_x, shift_y = 0.7 * rng.uniform(-0.5, 0.5) * spare_x, 0.7 * rng.uniform(-0.5, 0.5) * spare_y
    cos, sin = math.cos(roll), math.sin(roll)
    # Output coordinates -1..1 to source coordinates -1..1: scale, mirror, roll (in pixels), shift.
    a_x, a_y = window * width / 2, window * height / 2
    theta = torch.tensor(
        [
            [cos * a_x * mirror * 2 / columns, -sin * a_y * flip * 2 / columns, shift_x * 2 / columns],
            [sin * a_x * mirror * 2 / rows, cos * a_y * flip * 2 / rows, shift_y * 2 / rows],
        ]
    )[None]
    picture = frames.rgb[index].astype(np.float32)
    if frames.log_z is not None and frames.normal is not None and rng.random() < 0.35:
        picture = relit(picture, frames.log_z[index].astype(np.float32), frames.normal[index, ..., 2] / 127, rng)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()
    grid = F.affine_grid(theta, [1, 3, height, width], align_corners=False)
    image = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    half = (height // 2, width // 2)
    grid = F.affine_grid(theta, [1, 3, *half], align_corners=False)
    unknown = torch.full((1, *half), torch.nan)
    log_z = inverse = unknown
    normal = torch.zeros(1, 3, *half)
    outside = (grid.abs() > 1).any(3)
    if frames.log_z is not None and frames.normal is not None:
        log_z = _nearest(torch.from_numpy(frames.log_z[index])[None], grid)[:, 0]
        log_z = torch.where(outside, torch.nan, log_z)
        n = _nearest(torch.from_numpy(frames.normal[index]).permute(2, 0, 1), grid)
        n = torch.where(outside[:, None], 0.0, n / 127)
        # Source axes to output axes: roll back, then mirror.
        across, down = cos * n[:, 0] + sin * n[:, 1], cos * n[:, 1] - sin * n[:, 0]
        normal = torch.stack((mirror * across, flip * down, n[:, 2]), 1)
    if frames.inverse is not None:
        inverse = _nearest(torch.from_numpy(frames.inverse[index])[None], grid)[:, 0]
        inverse = torch.where(outside, torch.nan, inverse)
    return image, log_z, normal, inverse


def relit(picture: np.ndarray, log_z: np.ndarray, normal_z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture by a lamp beside the camera, whose light falls off, or in haze; float32 (H, W, 3) 0..255.

    So neither a bright foreground nor a pale distance is the only sign of depth; log_z and normal_z are (H, W).
    """
    seen = np.isfinite(log_z)
    if not seen.any():
        return picture
    middle = float(np.quantile(log_z[seen], rng.uniform(0.1, 0.6)))
    away = np.where(seen, np.clip(log_z - middle, -4, 4), 4).astype(np.float32)
    if rng.random() < 0.5:
        reach = np.minimum(np.exp(-rng.uniform(0.5, 2.0) * away), 2.5)
        slant = 1 - rng.uniform(0.2, 0.9) * (1 + np.clip(normal_z, -1, 0))
        ambient = rng.uniform(0, 0.3)
        gain = ambient + (1 - ambient) * np.where(seen, reach * slant, 0)
        return np.clip(picture * (gain**0.45)[..., None], 0, 255).astype(np.float32)
    clear = np.exp(-np.exp(away) * rng.uniform(0.15, 0.9))[..., None]
    haze = rng.uniform(20, 240) * np.exp(rng.normal(0, 0.08, 3))
    return (picture * clear + np.clip(haze, 0, 255) * (1 - clear)).astype(np.float32)


def _nearest(map_CHW: Tensor, grid: Tensor) -> Tensor:
    """(C, H, W) at the grid's nearest pixels, float32 (1, C, h, w); unlike grid_sample it lets inf spoil nothing."""
    rows, columns = map_CHW.shape[1:]
    x = ((grid[0, ..., 0] + 1) * (columns / 2)).floor().long().clamp_(0, columns - 1)
    y = ((grid[0, ..., 1] + 1) * (rows / 2)).floor().long().clamp_(0, rows - 1)
    return map_CHW[:, y, x][None].float()


def recolour(image: Tensor, rng: np.random.Generator, strength: Tensor) -> Tensor:
    """Other light, white balance, saturation, hue and gamma, then blur and sensor noise; (B, 3, H, W) 0..255, (B,)."""
    count = len(image)
    matrices, offsets, gammas = [], [], []
    for index in range(count):
        s = float(strength[index])
        grey = np.full((3, 3), 1 / 3)
        saturation = 0.0 if rng.random() < 0.1 else float(np.exp(rng.normal(0, 0.35 * s)))
        matrix = saturation * np.eye(3) + (1 - saturation) * grey
        if rng.random() < 0.5 * s:
            matrix = matrix @ _hue(rng.normal(0, 0.6))
        if rng.random() < 0.1 * s:
            matrix = matrix[rng.permutation(3)]
        gain = np.exp(rng.normal(0, 0.2 * s)) * np.exp(rng.normal(0, 0.1 * s, 3))
        matrices.append(np.diag(gain) @ matrix)
        offsets.append(rng.normal(0, 0.06 * s) + rng.normal(0, 0.02 * s, 3))
        gammas.append(float(np.exp(rng.normal(0, 0.25 * s))))
    matrix = torch.tensor(np.stack(matrices), dtype=torch.float32)
    offset = torch.tensor(np.stack(offsets), dtype=torch.float32)
    x = torch.einsum("bij,bjhw->bihw", matrix, image / 255) + offset[:, :, None, None]
    x = x.clamp_(1e-3, 1).pow_(torch.tensor(gammas)[:, None, None, None])
    seeds = torch.Generator().manual_seed(int(rng.integers(2**62)))
    for index in np.flatnonzero(rng.random(count) < 0.3):
        factor = float(rng.uniform(0.4, 0.9))
        small = F.interpolate(x[index : index + 1], scale_factor=factor, mode="bilinear", antialias=True)
        x[index] = F.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)[0]
    sigma = torch.tensor(np.where(rng.random(count) < 0.7, np.abs(rng.normal(0, 0.025, count)), 0), dtype=torch.float32)
    x += torch.randn(x.shape, generator=seeds) * sigma[:, None, None, None]
    return (x * 255).round_().clamp_(0, 255)


def _hue(angle: float) -> np.ndarray:
    """Rotation of colours about the grey axis (3, 3)."""
    axis = np.ones(3) / math.sqrt(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
