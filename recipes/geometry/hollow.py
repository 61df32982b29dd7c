"""Rough bodies and hollows: noise in space and the surface where a field on a grid of points changes its sign."""

from __future__ import annotations

import numpy as np

from omniloom.recipes.geometry.shapes import Mesh

Rng = np.random.Generator


def noise3(rng: Rng, shape: tuple[int, int, int], slope: float, stretch: np.ndarray) -> np.ndarray:
    """Noise of standard deviation 1 whose amplitude falls with frequency to the power `slope`, float32 of `shape`.

    `stretch` (3,): an axis along which it is 4 changes a quarter as fast: ledges and flutes.
    """
    waves = [np.fft.fftfreq(n) * s for n, s in zip(shape[:2], stretch[:2], strict=True)]
    waves.append(np.fft.rfftfreq(shape[2]) * stretch[2])
    square = waves[0][:, None, None] ** 2 + waves[1][:, None] ** 2 + waves[2] ** 2
    square[0, 0, 0] = np.inf
    spectrum = np.fft.rfftn(rng.standard_normal(shape, np.float32)) * square ** (-slope / 2)
    field = np.fft.irfftn(spectrum, shape, axes=(0, 1, 2)).astype(np.float32)
    return field / max(float(field.std()), 1e-9)


def blended(fields: list[np.ndarray], width: float) -> np.ndarray:
    """The union of bodies (negative inside), their seams filled over about `width` metres."""
    least = np.minimum.reduce(fields)
    return least - width * np.log(sum(np.exp((least - field) / width) for field in fields))


def surface(field: np.ndarray, corner: np.ndarray, cell_m: float) -> Mesh:
    """Where `field` (X, Y, Z) is zero, one vertex in each cell that it passes (surface nets; Gibson 1998).

    `corner` (3,) is the place of the first point in metres. It is left open where it runs out of the grid.
    """
    cells = tuple(n - 1 for n in field.shape)
    total, count = np.zeros((*cells, 3), np.float32), np.zeros(cells, np.int32)
    index = [np.arange(n, dtype=np.float32) for n in field.shape]
    crossings: list[np.ndarray] = []
    for axis in range(3):
        near, far = (np.take(field, range(start, start + cells[axis]), axis) for start in (0, 1))
        crossed = (near < 0) != (far < 0)
        crossings.append(crossed)
        at = np.nonzero(crossed)
        place = np.stack([index[a][i] for a, i in enumerate(at)], axis=1)
        place[:, axis] += near[at] / (near[at] - far[at])
        others = [a for a in range(3) if a != axis]
        # Each edge belongs to the four cells around it.
        for back in ((0, 0), (0, 1), (1, 0), (1, 1)):
            cell = list(at)
            for a, step in zip(others, back, strict=True):
                cell[a] = at[a] - step
            inside = np.all([(cell[a] >= 0) & (cell[a] < cells[a]) for a in others], axis=0)
            where = tuple(c[inside] for c in cell)
            np.add.at(total, where, place[inside])
            np.add.at(count, where, 1)
    used = count > 0
    number = np.cumsum(used.ravel()).reshape(cells) - 1
    vertices = corner + cell_m * (total[used] / count[used][:, None]).astype(np.float64)
    faces: list[np.ndarray] = []
    for axis in range(3):
        at = np.nonzero(crossings[axis])
        others = [a for a in range(3) if a != axis]
        whole = np.all([(at[a] >= 1) & (at[a] < cells[a]) for a in others], axis=0)
        at = [i[whole] for i in at]
        corners = []
        for back in ((1, 1), (0, 1), (0, 0), (1, 0)):
            cell = list(at)
            for a, step in zip(others, back, strict=True):
                cell[a] = at[a] - step
            corners.append(number[tuple(cell)])
        a, b, c, d = corners
        faces += [np.stack([a, b, c], 1), np.stack([a, c, d], 1)]
    return vertices, np.concatenate(faces)
