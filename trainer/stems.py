"""Stems: how each modality's array becomes patch tokens of the shared transformer's width.

Shapes: N images or clouds, C channels, P tokens, W the transformer's width, K points of a group, G groups.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE_HZ = 16_000
_FFT_SIZE = 512
_WINDOW_MS = 25
_PREEMPHASIS = 0.97
_FLOOR = 1.1920928955078125e-07
# Mean and spread of Kaldi filterbanks of AudioSet at 16-bit scale (BEATs; MiCo uses the same).
_MEL_MEAN, _MEL_SPREAD = 15.41663, 2 * 6.55582


class PatchStem(nn.Module):
    """Images (N, C, px, px) -> tokens (N, (px / patch)^2, W): one linear map of each patch."""

    def __init__(self, channels: int, width: int, patch_px: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, patch_px, patch_px)
        nn.init.trunc_normal_(self.project.weight, std=1 / math.sqrt(channels * patch_px**2))
        nn.init.zeros_(self.project.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, image_NCHW: Tensor) -> Tensor:
        return self.project(image_NCHW).flatten(2).transpose(1, 2)


def mel_filters(num_bins: int, low_hz: float = 20.0, high_hz: float = SAMPLE_RATE_HZ / 2) -> Tensor:
    """Kaldi's triangular mel filters, float32 (257, num_bins): triangles in mel space, over a 512-point spectrum."""
    points_mel = torch.linspace(_mel(low_hz), _mel(high_hz), num_bins + 2, dtype=torch.float64)
    bin_hz = torch.arange(_FFT_SIZE // 2 + 1, dtype=torch.float64) * SAMPLE_RATE_HZ / _FFT_SIZE
    bin_mel = 1127.0 * torch.log1p(bin_hz / 700.0)
    left, centre, right = points_mel[:-2], points_mel[1:-1], points_mel[2:]
    up = (bin_mel[:, None] - left) / (centre - left)
    down = (right - bin_mel[:, None]) / (right - centre)
    return torch.minimum(up, down).clamp_min(0).float()


class LogMel(nn.Module):
    """Waveform float (N, samples) in [-1, 1] at 16 kHz -> log-mel energies (N, frames, bins), as Kaldi's fbank.

    25 ms Hann windows, mean removed, pre-emphasis .97, power spectrum, natural logarithm, at 16-bit scale; not
    normalised. `frames` = 1 + (samples - 400) // (16 hop_ms): only whole windows.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, num_bins: int, hop_ms: int = 10) -> None:
        super().__init__()
        self.hop = SAMPLE_RATE_HZ * hop_ms // 1000
        self.length = SAMPLE_RATE_HZ * _WINDOW_MS // 1000
        self.register_buffer("window", torch.hann_window(self.length, periodic=False), persistent=False)
        self.register_buffer("filters", mel_filters(num_bins), persistent=False)

    @torch.no_grad()
    def forward(self, wave_NS: Tensor) -> Tensor:
        frames = (wave_NS.float() * 2**15).unfold(-1, self.length, self.hop)
        frames = frames - frames.mean(-1, keepdim=True)
        first = frames[..., :1] * (1 - _PREEMPHASIS)  # Kaldi repeats the first sample
        frames = torch.cat([first, frames[..., 1:] - _PREEMPHASIS * frames[..., :-1]], -1) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(frames, n=_FFT_SIZE))
        power = spectrum.square().sum(-1)
        return (power @ self.filters).clamp_min(_FLOOR).log()


class MelImages(nn.Module):
    """Waveform (N, samples) -> normalised spectrogram slices (N, slices, 1, px, px), time down, pitch across.

    Each slice is `slice_s` of sound; with px = 224 and 2.24 s a row is one 10 ms frame, as in the paper, and a smaller
    image averages neighbouring frames. Sound shorter than the slices is padded with silence at the floor.
    """

    def __init__(self, image_px: int, num_slices: int, slice_s: float, hop_ms: int = 10) -> None:
        super().__init__()
        self.mel = LogMel(image_px, hop_ms)
        self.image_px, self.num_slices = image_px, num_slices
        self.num_samples = round(num_slices * slice_s * SAMPLE_RATE_HZ)

    @torch.no_grad()
    def forward(self, wave_NS: Tensor) -> Tensor:
        missing = self.num_samples - wave_NS.shape[1]
        wave_NS = F.pad(wave_NS[:, : self.num_samples], (0, max(missing, 0)))
        mel_NTM = (self.mel(wave_NS) - _MEL_MEAN) / _MEL_SPREAD
        rows = self.num_slices * self.image_px
        pooled = F.adaptive_avg_pool1d(mel_NTM.transpose(1, 2), rows).transpose(1, 2)
        return pooled.reshape(-1, self.num_slices, 1, self.image_px, self.image_px)


class PointStem(nn.Module):
    """Points (N, points, C), x y z first -> tokens (N, G, W): groups around far-apart centres, seen by a mini-PointNet.

    Clouds are centred and scaled to unit spread first, so metres and unknown units read alike. Farthest-point
    centres and nearest neighbours as in Point-BERT (2111.14819).
    """

    def __init__(self, channels: int, width: int, num_groups: int, group_points: int) -> None:
        super().__init__()
        self.num_groups, self.group_points = num_groups, group_points
        hidden = max(width // 2, 32)
        self.lift = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.project = nn.Sequential(nn.Linear(2 * hidden, width), nn.GELU(), nn.Linear(width, width))
        self.position = nn.Sequential(nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, points_NPC: Tensor) -> Tensor:
        groups_NGKC, centres_NG3 = group_points(points_NPC.float(), self.num_groups, self.group_points)
        each_NGKH = self.lift(groups_NGKC)
        # The mini-PointNet joins what a group has at most with what it has on average: both ignore the points' order.
        pooled_NGH = torch.cat([each_NGKH.amax(2), each_NGKH.mean(2)], -1)
        return self.project(pooled_NGH) + self.position(centres_NG3)


def farthest_points(xyz_NP3: Tensor, count: int) -> Tensor:
    """Indices int64 (N, count) of points far from each other, beginning with the one farthest from the mean."""
    rows = torch.arange(len(xyz_NP3), device=xyz_NP3.device)
    chosen: list[Tensor] = []
    last = (xyz_NP3 - xyz_NP3.mean(1, keepdim=True)).square().sum(-1).argmax(1)
    nearest_NP = torch.full(xyz_NP3.shape[:2], math.inf, device=xyz_NP3.device)
    for _ in range(count):
        chosen.append(last)
        distance_NP = (xyz_NP3 - xyz_NP3[rows, last][:, None]).square().sum(-1)
        nearest_NP = torch.minimum(nearest_NP, distance_NP)
        last = nearest_NP.argmax(1)
    return torch.stack(chosen, 1)


@torch.no_grad()
def group_points(points_NPC: Tensor, num_groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Neighbourhoods (N, G, size, C), positions relative to their centre, and the centres (N, G, 3), normalised."""
    xyz = points_NPC[..., :3]
    xyz = xyz - xyz.mean(1, keepdim=True)
    xyz = xyz / xyz.square().sum(-1).mean(1).sqrt().clamp_min(1e-6)[:, None, None]
    centre_index = farthest_points(xyz, num_groups)
    centres = xyz.gather(1, centre_index[..., None].expand(-1, -1, 3))
    near = torch.cdist(centres, xyz).topk(min(size, xyz.shape[1]), largest=False, sorted=False).indices
    everything = torch.cat([xyz, points_NPC[..., 3:]], -1)
    rows = torch.arange(len(xyz), device=xyz.device)[:, None, None]
    groups = everything[rows, near]
    # Relative positions are small: scaled up to the size of the other channels.
    relative = (groups[..., :3] - centres[:, :, None]) * 4
    return torch.cat([relative, groups[..., 3:]], -1), centres


def _mel(hz: float) -> float:
    return 1127.0 * math.log1p(hz / 700.0)
