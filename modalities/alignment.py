"""Depth of a clip's frames, answered one by one, brought to one scale: the network's wavering out, real change kept.

Neighbouring frames are compared where they show the same thing: `motion` tells how the camera moved, so a thing that
came nearer because the camera did is not taken for wavering. One scale a frame (and one shift, for inverse depth) is
fitted to all pairs at once, by least squares with weights that pass over what disagrees. Frames that nothing connects
keep their own scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from omniloom.modalities import geometry
from omniloom.modalities.models.estimate import Kind
from omniloom.modalities.motion import Look, look, motion, unlikeness

_CERTAIN = 0.4
"""Of what is to be seen in one frame, the share that the next must show for the two to be compared."""
_APART = (1, 2)
"""Frames are compared with the next and the one after it."""
_SHARES = (0.1, 0.35, 0.6)
"""Tried for what inverse depth leaves open, the usual one first."""
_PAIRS = 600
"""Pixels a pair of frames gives, at most."""


@dataclass(frozen=True, slots=True)
class Scales:
    """For each of T frames: what its depth is to be multiplied by, and then raised by."""

    scale: np.ndarray
    """float64 (T,), 1 for a frame that is left as it is."""
    shift: np.ndarray
    """float64 (T,), 0 but for inverse depth."""
    group: np.ndarray
    """int64 (T,): frames of one number are on one scale."""

    def apply(self, z: np.ndarray) -> np.ndarray:
        """Depth (T, H, W) on the common scale."""
        return (z * self.scale[:, None, None] + self.shift[:, None, None]).astype(z.dtype)


def one_scale(z: np.ndarray, kind: Kind, rgb: np.ndarray, k: np.ndarray) -> Scales:
    """Scales that bring depth (T, H, W) of frames rgb uint8 (T, H, W, 3) together; K is of their pixels.

    Each group keeps the mean scale (geometric, of depth; arithmetic, of inverse depth) that its frames had.
    """
    count = len(z)
    unchanged = Scales(np.ones(count), np.zeros(count), np.arange(count))
    if count < 2:
        return unchanged
    looks = [look(frame, k) for frame in rgb]
    small, _ = geometry.resize_nearest(z, k, looks[0].gray[0].shape[::-1])
    share = _share(looks, small, kind)
    pairs: list[_Pair] = []
    for step in _APART:
        for first in range(count - step):
            pair = _compare(looks, small, kind, share, first, first + step)
            if pair is not None:
                pairs.append(pair)
    group = _groups(count, pairs)
    if not pairs:
        return unchanged
    if kind == "relative-inverse":
        scale, shift = _fit_lines(count, pairs, group)
    else:
        scale, shift = np.exp(_fit_offsets(count, pairs, group)), np.zeros(count)
    return Scales(scale, shift, group)


@dataclass(frozen=True, slots=True)
class _Pair:
    """What two frames say of the same points, in log z or inverse depth: foretold by one, met in the other."""

    first: int
    second: int
    foretold: np.ndarray
    met: np.ndarray


def _compare(looks: list[Look], z: np.ndarray, kind: Kind, share: float, first: int, second: int) -> _Pair | None:
    """The same points in two frames, or None if they cannot be told."""
    inverse, from_inverse = _as_inverse(z[first], kind, share)
    if np.isfinite(inverse).sum() < 100:
        return None
    moved = motion(looks[first], looks[second], inverse)
    if moved.certainty < _CERTAIN:
        return None
    height, width = inverse.shape
    there = np.clip(np.rint(moved.at), 0, [width - 1, height - 1]).astype(np.int64)
    foretold = from_inverse(inverse / np.where(moved.stretch > 0, moved.stretch, np.nan))
    met = z[second] if kind == "relative-inverse" else np.log(np.where(z[second] > 0, z[second], np.nan))
    met = met[there[..., 1], there[..., 0]]
    use = moved.agrees & np.isfinite(foretold) & np.isfinite(met)
    chosen = np.flatnonzero(use)
    if len(chosen) < 100:
        return None
    # Evenly over the picture, and always the same.
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(_PAIRS, len(chosen))).astype(np.int64)]
    return _Pair(first, second, foretold.ravel()[chosen], met.ravel()[chosen])


def _as_inverse(z: np.ndarray, kind: Kind, share: float) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """1 / z up to a factor, and the way back from it to what frames are compared in."""
    if kind != "relative-inverse":
        inverse = 1 / np.where(z > 0, z, np.nan).astype(np.float64)
        return inverse, lambda q: -np.log(np.where(q > 0, q, np.nan))
    known = z[np.isfinite(z)]
    far, near = np.percentile(known, [2, 98]) if known.size else (0.0, 1.0)
    per = (1 - share) / max(float(near - far), 1e-9)
    return share + (z.astype(np.float64) - far) * per, lambda q: far + (q - share) / per


def _share(looks: list[Look], z: np.ndarray, kind: Kind) -> float:
    """1 / z of the far end over that of the near one, which inverse depth leaves open: under which frames fit best."""
    if kind != "relative-inverse":
        return _SHARES[0]
    firsts = np.unique(np.linspace(0, len(z) - 2, 3).astype(np.int64))
    costs: list[float] = []
    for share in _SHARES:
        total = 0.0
        for first in firsts:
            inverse, _ = _as_inverse(z[first], kind, share)
            moved = motion(looks[first], looks[first + 1], inverse)
            total += unlikeness(looks[first], looks[first + 1], inverse, moved.rotation, moved.translation)
        costs.append(total * (1 if share == _SHARES[0] else 1.02))
    return _SHARES[int(np.argmin(costs))]


def _groups(count: int, pairs: list[_Pair]) -> np.ndarray:
    group = np.arange(count)
    for pair in pairs:
        group[group == group[pair.second]] = group[pair.first]
    return np.unique(group, return_inverse=True)[1].astype(np.int64)


def _fit_offsets(count: int, pairs: list[_Pair], group: np.ndarray) -> np.ndarray:
    """(T,) numbers to add to log z so that pairs agree, with mean 0 in each group."""
    rows = np.zeros((len(pairs), count))
    wanted, weight = np.zeros(len(pairs)), np.zeros(len(pairs))
    for index, pair in enumerate(pairs):
        rows[index, pair.first], rows[index, pair.second] = 1, -1
        apart = pair.met - pair.foretold
        wanted[index] = np.median(apart)
        weight[index] = 1 / max(1.48 * float(np.median(np.abs(apart - wanted[index]))), 0.01)
    offsets = np.zeros(count)
    for _ in range(5):
        offsets = np.linalg.lstsq(rows * weight[:, None], wanted * weight, rcond=None)[0]
        weight = weight / (1 + (np.abs(rows @ offsets - wanted) / 0.05))
    means = np.array([offsets[group == g].mean() for g in range(group.max() + 1)])
    return offsets - means[group]


def _fit_lines(count: int, pairs: list[_Pair], group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) scales and shifts of inverse depth so that pairs agree, with mean 1 and 0 in each group."""
    values = np.concatenate([np.concatenate([pair.foretold, pair.met]) for pair in pairs])
    low, middle, high = (float(v) for v in np.percentile(values, [2, 50, 98]))
    spread = max((high - low) / 2, 1e-6 * abs(middle), 1e-12)
    size = sum(len(pair.met) for pair in pairs)
    # A pair touches four unknowns, so its normal equations are 4 x 4: a few numbers a pixel, however many frames.
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for pair in pairs:
        foretold, met = (pair.foretold - middle) / spread, (pair.met - middle) / spread
        ones = np.ones(len(met))
        unknowns = np.array([pair.first, count + pair.first, pair.second, count + pair.second])
        # Scales are 1 + what is solved for: all of them 0 would agree best.
        parts.append((unknowns, np.stack([foretold, ones, -met, -ones], axis=1), met - foretold))
    prior = np.diag(np.r_[np.full(count, 1e-3 * size / count), np.full(count, 1e-6 * size)])
    solved = np.zeros(2 * count)
    for round_ in range(12):
        left, right = prior.copy(), np.zeros(2 * count)
        for unknowns, rows, wanted in parts:
            off = rows @ solved[unknowns] - wanted if round_ else np.zeros(len(rows))
            # Nearly least absolute values: a wall that is most of the picture must not outvote the floor's slope.
            weighted = rows * (1 + (off[:, None] / 0.01) ** 2) ** -0.5
            left[np.ix_(unknowns, unknowns)] += weighted.T @ rows
            right[unknowns] += weighted.T @ wanted
        solved = np.linalg.solve(left, right)
    scale, shift = 1 + solved[:count], solved[count:]
    for g in range(group.max() + 1):
        mine = group == g
        shift[mine] -= shift[mine].mean()
        shift[mine] /= scale[mine].mean()
        scale[mine] /= scale[mine].mean()
    # In the units that came: spread (s (d - middle) / spread + t) + middle = s d + middle (1 - s) + spread t.
    return scale, middle * (1 - scale) + spread * shift
