"""Pixels, rays and crops: the one place that knows where a pixel is.

Conventions: pixel (u, v) with integer u, v is the CENTRE of that pixel, so an image w wide covers [-0.5, w - 0.5].
Camera axes are OpenCV's: x right, y down, z forward; z is the distance along the optical axis, not along the ray.
X = (u - cx) z / fx, Y = (v - cy) z / fy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omniloom.modalities.base import Window

# --- the square that a window shows, the same for frames, depth and normals --------------------------------------


@dataclass(frozen=True, slots=True)
class View:
    """A square of the picture: side as a fraction of the short side, place as a fraction of the room left, mirrored."""

    side: float = 1.0
    across: float = 0.5
    down: float = 0.5
    flip: bool = False

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixel edges (0 .. width, 0 .. height).

        The same part of any size of picture, to a pixel: whole ones are cut out and resized several times faster.
        """
        side = max(1, round(self.side * min(width, height)))
        left, top = round(self.across * (width - side)), round(self.down * (height - side))
        return left, top, left + side, top + side


def view_of(window: Window) -> View:
    """The centre square in evaluation; in training one of at least 0.8 of its side at a random place.

    Never mirrored: captions say left and right.
    """
    if not window.train:
        return View()
    side, across, down = window.rng(2).random(3)
    return View(side=0.8 + 0.2 * side, across=across, down=down)


def show_rgb(rgb: np.ndarray, view: View, px: int) -> np.ndarray:
    """uint8 (T, H, W, 3) -> uint8 (T, px, px, 3), bilinear with antialiasing: Pillow's, to a level (of noise two).

    By torch, whose kernel for pixels side by side takes an eighth of Pillow's time on processors with AVX2, and there
    runs in the calling thread alone.
    """
    left, top, right, bottom = view.box(rgb.shape[2], rgb.shape[1])
    shown = np.ascontiguousarray(rgb[:, top:bottom, left:right])
    if right - left != px:  # else torch would only copy, with threads of its own
        import torch

        planes = torch.from_numpy(shown).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(planes, (px, px), mode="bilinear", antialias=True)
        shown = resized.permute(0, 2, 3, 1).numpy()
    return shown[:, :, ::-1] if view.flip else shown


def show_nearest(values: np.ndarray, view: View, px: int) -> np.ndarray:
    """(T, H, W, ...) -> (T, px, px, ...), nearest: neither depth nor normals may be mixed across an edge.

    Mirroring is the caller's: it negates n_x.
    """
    rows, columns = nearest_pixels(view, values.shape[2], values.shape[1], px)
    return values.take(rows, axis=1).take(columns, axis=2)  # half the time of one index for both


def nearest_pixels(view: View, width: int, height: int, px: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, int64 (px,) each, of the pixels of a picture that stand for the view; not mirrored."""
    left, top, right, bottom = view.box(width, height)
    return top + nearest_grid(bottom - top, px), left + nearest_grid(right - left, px)


def mirror_normals(normals: np.ndarray) -> np.ndarray:
    """Normals (..., H, W, 3) of the mirrored scene: columns reversed and n_x negated."""
    return normals[..., ::-1, :] * np.array([-1, 1, 1], normals.dtype)


# --- sizes and intrinsics -------------------------------------------------------------------------------------


def fit_short_side(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) with the short side at most that long, never enlarged, ratio kept to the pixel."""
    scale = min(1.0, short_side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def intrinsics(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """K float64 (3, 3), pixels."""
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def assumed_intrinsics(width: int, height: int, fov_deg: float = 60.0) -> np.ndarray:
    """K of a camera nobody described: `fov_deg` across the longer side, centre in the middle."""
    focal = 0.5 * max(width, height) / np.tan(np.radians(fov_deg) / 2)
    return intrinsics(float(focal), float(focal), (width - 1) / 2, (height - 1) / 2)


def resized_intrinsics(k: np.ndarray, old_wh: tuple[int, int], new_wh: tuple[int, int]) -> np.ndarray:
    """K after the picture was resized (averaging, bilinear): pixel edges map to pixel edges."""
    (old_w, old_h), (new_w, new_h) = old_wh, new_wh
    sx, sy = new_w / old_w, new_h / old_h
    return intrinsics(k[0, 0] * sx, k[1, 1] * sy, (k[0, 2] + 0.5) * sx - 0.5, (k[1, 2] + 0.5) * sy - 0.5)


def cropped_intrinsics(k: np.ndarray, left: float, top: float) -> np.ndarray:
    """K after `left` columns and `top` rows were cut away."""
    return intrinsics(k[0, 0], k[1, 1], k[0, 2] - left, k[1, 2] - top)


def flipped_intrinsics(k: np.ndarray, width: int) -> np.ndarray:
    """K after mirroring left and right."""
    return intrinsics(k[0, 0], k[1, 1], width - 1 - k[0, 2], k[1, 2])


def turned_intrinsics(k: np.ndarray, width: int) -> np.ndarray:
    """K after a quarter turn to the left of a picture that was `width` wide, as `numpy.rot90` turns it."""
    return intrinsics(k[1, 1], k[0, 0], k[1, 2], width - 1 - k[0, 2])


def turned_vectors(vectors: np.ndarray) -> np.ndarray:
    """Points or normals (..., 3) in the axes of the camera so turned: right was down, down was left."""
    return np.stack([vectors[..., 1], -vectors[..., 0], vectors[..., 2]], axis=-1)


def nearest_grid(old: int, new: int) -> np.ndarray:
    """Source indices int64 (new,) that a nearest resize keeps."""
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)


def resize_nearest(values: np.ndarray, k: np.ndarray, new_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(T, H, W) by nearest to the new size, and K of the rays whose values were kept.

    Halving keeps every second pixel as it was, not the point between two; so cx is that of the kept pixels, up to half
    a source pixel from `resized_intrinsics`, and unprojected points lie on the surface exactly.
    """
    height, width = values.shape[1:3]
    new_w, new_h = new_wh
    columns, rows = nearest_grid(width, new_w), nearest_grid(height, new_h)
    step_x, step_y = width / new_w, height / new_h
    first_x = float(np.mean(columns - step_x * np.arange(new_w)))
    first_y = float(np.mean(rows - step_y * np.arange(new_h)))
    kept = intrinsics(k[0, 0] / step_x, k[1, 1] / step_y, (k[0, 2] - first_x) / step_x, (k[1, 2] - first_y) / step_y)
    return values[:, rows[:, None], columns[None, :]], kept


# --- points and normals ---------------------------------------------------------------------------------------


def rays(k: np.ndarray, width: int, height: int) -> np.ndarray:
    """Points at z = 1 seen by each pixel, float64 (H, W, 3)."""
    x = (np.arange(width) - k[0, 2]) / k[0, 0]
    y = (np.arange(height) - k[1, 2]) / k[1, 1]
    return np.stack([*np.meshgrid(x, y), np.ones((height, width))], axis=-1)


def unproject(z: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Depth (..., H, W) along the axis -> points (..., H, W, 3), in the unit of z; NaN where z is NaN."""
    return z[..., None] * rays(k, z.shape[-1], z.shape[-2])


def normals_from_depth(z: np.ndarray, k: np.ndarray, radius: int = 0, step: float = 0.0) -> np.ndarray:
    """Unit normals float32 (H, W, 3) of depth (H, W), facing the camera; NaN where they cannot be told.

    Planes are planes in inverse depth: 1/z = a u + b v + c for every point of one plane, exactly. So the slopes of 1/z
    give the normal without the bias that differences of points have, and need no neighbour on the far side of an edge:
    each slope takes the side, left or right, up or down, where 1/z bends less. With a radius the plane is fitted by
    least squares to the neighbours within it that those slopes foretell: `step`, the code step of quantised depth in
    the unit of z, says how far off they may be. The fit quiets noise and blunts what is curved, so it is believed only
    where it differs from the slopes by no more than the depth's own noise would make it.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse = 1 / np.where(z > 0, z, np.nan)  # as precise as z: half the work in single precision
    slope_u = _slope(inverse)
    slope_v = np.ascontiguousarray(_slope(np.ascontiguousarray(inverse.T)).T)
    if radius:
        offset, by_u, by_v = _fit(inverse, slope_u, slope_v, radius, step)
        # Four standard deviations of a one-sided slope; half a code is the worst that rounding does.
        believable = 2.8 * np.maximum(_noise(inverse), 0.5 * step * inverse**2)
        apart = np.sqrt(by_u * by_u + by_v * by_v)
        trust = np.clip(2 - apart / np.maximum(believable, 1e-12), 0, 1)
        inverse += trust * offset
        slope_u += trust * by_u
        slope_v += trust * by_v
    height, width = z.shape
    u = (np.arange(width) - k[0, 2]).astype(inverse.dtype)
    v = (np.arange(height) - k[1, 2]).astype(inverse.dtype)
    normal = np.empty((height, width, 3), np.float32)
    # The plane is n.P = positive, and the camera looks along +P: facing it means n.P < 0.
    normal[..., 0], normal[..., 1] = -float(k[0, 0]) * slope_u, -float(k[1, 1]) * slope_v
    normal[..., 2] = u * slope_u + v[:, None] * slope_v - inverse
    normal /= np.sqrt(np.einsum("hwc,hwc->hw", normal, normal))[..., None]
    return normal


def _fit(
    here: np.ndarray, slope_u: np.ndarray, slope_v: np.ndarray, radius: int, step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least-squares plane of 1/z around each pixel: what it adds to the value there and to its two slopes, (H, W)."""
    height, width = here.shape
    padded = np.pad(here, radius, constant_values=np.nan)
    # Half a code off at each end, and at the two neighbours the slope is from; 0.3 % for the surface's own bend.
    bound = (1 + 2 * radius) * step * here**2 + 0.003 * here
    # Where a sensor's noise hides the slope, what is about as far away is of the same surface.
    level = 0.01 * here
    moments = np.zeros((6, height, width), here.dtype)
    values = np.zeros((3, height, width), here.dtype)
    for dv in range(-radius, radius + 1):
        foretold = dv * slope_v - radius * slope_u
        for du in range(-radius, radius + 1):
            rise = padded[radius + dv : radius + dv + height, radius + du : radius + du + width] - here
            miss = rise - foretold
            near = np.abs(rise) <= level
            near |= np.abs(miss) <= bound  # False where NaN
            weight = near.astype(here.dtype)
            miss[~near] = 0
            for row, factor in enumerate((1, du, dv, du * du, du * dv, dv * dv)):
                if factor:
                    moments[row] += weight if factor == 1 else factor * weight
            for row, factor in enumerate((1, du, dv)):
                if factor:
                    values[row] += miss if factor == 1 else factor * miss
            foretold += slope_u
    one, u, v, uu, uv, vv = moments
    # The inverse of the symmetric 3 x 3 matrix [[one, u, v], [u, uu, uv], [v, uv, vv]], by cofactors.
    c00, c01, c02 = uu * vv - uv * uv, uv * v - u * vv, u * uv - uu * v
    c11, c12, c22 = one * vv - v * v, u * v - one * uv, one * uu - u * u
    determinant = one * c00 + u * c01 + v * c02
    # A sum of whole numbers, 0 where all neighbours lie on one line: there nothing is added.
    over = (determinant > 0.5) / np.maximum(determinant, 1)
    r0, r1, r2 = values * over
    return c00 * r0 + c01 * r1 + c02 * r2, c01 * r0 + c11 * r1 + c12 * r2, c02 * r0 + c12 * r1 + c22 * r2


def _noise(values: np.ndarray) -> np.ndarray:
    """Standard deviation of what no smooth surface explains, around each pixel of (H, W): by fourth differences."""
    total, count = np.zeros_like(values), np.zeros_like(values)
    for axis in (0, 1):
        if values.shape[axis] < 5:
            continue
        rough = np.abs(np.diff(values, 4, axis=axis))
        some = rough[::2, ::3]
        some = some[np.isfinite(some)]
        usual = np.percentile(some, 75) if some.size else 0.0
        known = rough < 20 * usual + 1e-9  # those that cross an edge are no noise
        inner = [slice(None), slice(None)]
        inner[axis] = slice(2, -2)
        total[tuple(inner)] += np.where(known, rough, 0)
        count[tuple(inner)] += known
    total, count = (_box(array, 3) for array in (total, count))
    # |d4| of white noise is 0.8 sqrt(70) of its standard deviation, on average.
    return total / np.maximum(count, 1) / 6.7


def _box(values: np.ndarray, radius: int) -> np.ndarray:
    """Sums over the square of 2 radius + 1 around each pixel of (H, W)."""
    for _ in range(2):
        padded = np.pad(values, ((radius + 1, radius), (0, 0))).cumsum(axis=0)
        values = (padded[2 * radius + 1 :] - padded[: -2 * radius - 1]).T
    return values


def _slope(inverse: np.ndarray) -> np.ndarray:
    """Slope of each pixel along its row, (H, W): central where the surface is smooth, else of the smoother side."""
    padded = np.pad(inverse, ((0, 0), (2, 2)), constant_values=np.nan)
    rises = padded[:, 1:] - padded[:, :-1]
    bends = np.abs(rises[:, 1:] - rises[:, :-1])
    width = inverse.shape[1]
    backward, forward = rises[:, 1 : width + 1], rises[:, 2 : width + 2]
    bend_backward, bend_here, bend_forward = (bends[:, start : start + width] for start in range(3))
    # Central differences are an order more exact, so they lose only where the surface really breaks.
    least = np.where(np.isnan(bend_here), np.inf, 0.1 * bend_here)
    is_forward = bend_forward < least  # False where NaN
    least = np.where(is_forward, bend_forward, least)
    is_backward = bend_backward < least
    chosen = np.where(is_forward, forward, 0.5 * (forward + backward))
    chosen = np.where(is_backward, backward, chosen)
    # A side whose second neighbour is missing may still be the only one there is.
    lone = np.isinf(least) & ~is_backward
    return np.where(lone, np.where(np.isnan(forward), backward, forward), chosen)
