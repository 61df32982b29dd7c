"""The geometry benchmark's figures as tables, as bars, and as a sheet of pictures to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.benchmarks.timing import as_row
from omniloom.modalities.geometry import normals_from_depth, unproject
from omniloom.recipes.geometry.measure import aligned

_MEASURES = {
    "spearman": "Spearman correlation with true depth (1 is best)",
    "abs_rel": "AbsRel: mean |error| / depth after alignment",
    "delta": "Part of the pixels within a factor of 1.25 after alignment",
    "point": "Point error: median distance from the true point / its distance from the camera",
    "normal_deg": "Normals: median error in degrees",
}
_COLOURS = ("#b8bcc4", "#8a8f98", "#1f6feb", "#d9822b", "#5aa469")
_SMALL = (128, 96)


def as_markdown(report: Mapping[str, Any]) -> str:
    """A table for each measure, kinds across; then real frames, films and cost."""
    kinds = report["kinds"]
    names = list(dict.fromkeys(name for rows in kinds.values() for name in rows))
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        "# Depth and normals beside the truth",
        "",
        f"{report['pictures_a_kind']} pictures of each of {len(kinds)} kinds of rendered scenes, none trained on;",
        "means over pictures. Relative depth is multiplied by one factor a picture, relative inverse depth by a factor",
        "and a shift, both taken from the truth; TCMonoDepth has no normals, so they are made from its aligned depth.",
        "Position only answers each picture with the training kinds' mean depth and normals at each place. Exact",
        "depth is the control: normals from the ray caster's own depth, edges included.",
        "",
        f"{report['machine']}; {versions}; {report['minutes']} minutes in all.",
        "",
    ]
    for claim, value in report["claims"].items():
        lines.append(f"- {claim}: {value}")
    for key, title in _MEASURES.items():
        lines += ["", f"## {title}", "", as_row(["", *kinds, "mean"]), as_row(["---", *["---:"] * (len(kinds) + 1)])]
        for name in names:
            cells = [rows[name][key] for rows in kinds.values()]
            lines.append(as_row([name, *(f"{cell:.3g}" for cell in cells), f"{np.mean(cells):.3g}"]))
    if "redwood" in report:
        heads = ["Spearman", "AbsRel", "d<1.25", "point", "normals, degrees"]
        lines += ["", "## Redwood: five real frames", "", as_row(["", *heads]), "|---|---:|---:|---:|---:|---:|"]
        lines += [as_row([name, *(row[key] for key in _MEASURES)]) for name, row in report["redwood"].items()]
        lines += ["", "Its normals' truth is the measured depth's, least squares over 9x9 pixels."]
    heads = ["flicker", "normals' flicker, degrees", "drift of scale", "CPU ms a frame"]
    lines += ["", "## In time", "", as_row(["", *heads]), "|---|---:|---:|---:|---:|"]
    for name, row in report["films"].items():
        cells = ["" if value is None else value for value in row.values()]
        lines.append(as_row([name, *cells, report["cpu_ms_a_frame"][name]]))
    lines += [
        "",
        "Flicker: mean change of log depth between frames of a scene that stands still, under sensor noise and",
        "exposure that wavers by 2 %. Drift: standard deviation of the log of the scale over frames of a camera that",
        "glides. No frame is aligned on its own. CPU: one frame of 256x192 at a time, one thread.",
    ]
    lines += ["", *(f"- {note}" for note in report["notes"])] if report["notes"] else []
    return "\n".join([*lines, "", "Made by `omniloom bench geometry`.", ""])


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Spearman and normal error by kind, bars side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = report["kinds"]
    names = list(dict.fromkeys(name for rows in kinds.values() for name in rows))
    figure = Figure(figsize=(11, 6), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, (key, title) in zip(
        figure.subplots(2, 1),
        (("spearman", "Spearman with true depth"), ("normal_deg", "normals, degrees")),
        strict=True,
    ):
        shown = [name for name in names if not (key == "spearman" and name in ("exact depth", "constant plane"))]
        for place, name in enumerate(shown):
            x = np.arange(len(kinds)) + (place - (len(shown) - 1) / 2) * 0.8 / len(shown)
            values = [rows[name][key] for rows in kinds.values()]
            panel.bar(x, values, 0.8 / len(shown), color=_COLOURS[names.index(name) % len(_COLOURS)], label=name)
        panel.set_xticks(range(len(kinds)), list(kinds))
        panel.set_title(title, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, frameon=False, ncols=5, loc="lower right" if key == "spearman" else "upper right")
    figure.savefig(path, dpi=90)


def draw_sheet(rows: Sequence[tuple[str, Any]], models: Mapping[str, Callable[..., Any]], path: Path) -> None:
    """A row for each picture: input, truth, then each model's depth, normals and points from the side."""
    from PIL import Image, ImageDraw

    sheet: list[np.ndarray] = []
    heads = ["input", "true depth", "true normals", "true points"]
    heads += [f"{name}: {what}" for name in models for what in ("depth", "normals", "points")]
    for _, sample in rows:
        truth = np.where(np.isfinite(sample.z), sample.z, np.nan)
        span = np.nanquantile(np.log(truth), [0.02, 0.98])
        cells = [sample.rgb, _depth(truth, span), _normals(sample.normal), _points(truth, sample.rgb, sample.k)]
        for predict in models.values():
            said = predict(sample.rgb[None], sample.k)
            z = np.where(np.isfinite(truth), aligned(said.depth[0], truth, said.kind), np.nan)
            facing = said.normals[0] if said.normals is not None else normals_from_depth(z, sample.k, radius=2)
            cells += [_depth(z, span), _normals(facing), _points(z, sample.rgb, sample.k)]
        small = [np.asarray(Image.fromarray(cell).resize(_SMALL, Image.Resampling.BOX)) for cell in cells]
        sheet.append(np.concatenate(small, axis=1))
    body = np.concatenate(sheet)
    image = Image.new("RGB", (body.shape[1], body.shape[0] + 14), "white")
    image.paste(Image.fromarray(body), (0, 14))
    pen = ImageDraw.Draw(image)
    for column, head in enumerate(heads):
        pen.text((column * _SMALL[0] + 2, 1), head, fill="black")
    for row, (name, _) in enumerate(rows):
        pen.text((3, 16 + row * _SMALL[1]), name, fill="white", stroke_width=1, stroke_fill="black")
    # A palette: a third of the bytes, and nothing to be read off it is lost.
    image.quantize(256).save(path, optimize=True)


def _depth(z: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Near is yellow, far blue, sky black."""
    with np.errstate(invalid="ignore", divide="ignore"):
        near = 1 - np.clip((np.log(z) - span[0]) / max(span[1] - span[0], 1e-6), 0, 1)
    ramp = np.array([[30, 20, 90], [60, 70, 160], [70, 150, 150], [150, 200, 90], [255, 235, 80]])
    place = np.nan_to_num(near) * 4
    low = np.minimum(place.astype(int), 3)
    colour = ramp[low] + (place - low)[..., None] * (ramp[low + 1] - ramp[low])
    return np.where(np.isfinite(near)[..., None], colour, 0).astype(np.uint8)


def _normals(normals: np.ndarray) -> np.ndarray:
    """Red is right, green is up, blue faces the camera."""
    known = np.isfinite(normals).all(axis=-1, keepdims=True) & (np.abs(normals).sum(axis=-1, keepdims=True) > 0)
    return np.where(known, 127.5 + 127.5 * np.nan_to_num(normals) * [1, -1, -1], 0).astype(np.uint8)


def _points(z: np.ndarray, rgb: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The coloured points from a camera that went to the right and up and looks back at their middle."""
    height, width = z.shape
    known = np.isfinite(z)
    points, colours = unproject(z, k)[known], rgb[known]
    out = np.full((height, width, 3), 255, np.uint8)
    if not len(points):
        return out
    # Far points would make all others a dot.
    middle = float(np.median(points[:, 2]))
    near = points[:, 2] < 4 * middle
    points, colours = points[near], colours[near]
    a, b = np.radians(28), np.radians(-18)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    seen = (points - [0, 0, middle]) @ (nod @ turn).T + [0, 0, 1.25 * middle]
    ahead = seen[:, 2] > 0.05 * middle
    seen, colours = seen[ahead], colours[ahead]
    order = np.argsort(-seen[:, 2])
    u = np.rint(seen[order, 0] / seen[order, 2] * k[0, 0] + k[0, 2]).astype(int)
    v = np.rint(seen[order, 1] / seen[order, 2] * k[1, 1] + k[1, 2]).astype(int)
    for du, dv in ((0, 0), (1, 0), (0, 1), (1, 1)):
        inside = (u + du >= 0) & (u + du < width) & (v + dv >= 0) & (v + dv < height)
        out[v[inside] + dv, u[inside] + du] = colours[order][inside]
    return out
