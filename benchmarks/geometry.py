"""How right depth and normals are, per model and kind of scene, beside predictors that never look at the picture.

    omniloom bench geometry [--runs 16] [--quick] [--out DIR]

Scenes of eight kinds that nothing was trained on, with the ray caster's own depth and normals as truth; five frames of
a real depth camera where they lie beside the checkout. `--runs`: scenes of each kind, two pictures a scene.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.benchmarks import Options
from omniloom.benchmarks.geometry_picture import as_markdown, draw, draw_sheet
from omniloom.benchmarks.timing import machine, say, versions
from omniloom.modalities import geometry
from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import depth_onnx
from omniloom.modalities.models.estimate import Estimate
from omniloom.recipes.geometry import measure
from omniloom.recipes.geometry.files import PER_SHARD
from omniloom.recipes.geometry.kinds import HELD_OUT, TRAIN, View, truths, views
from omniloom.recipes.geometry.sequences import glide, still

SHARED = Path(__file__).resolve().parents[1].parent / "shared/data"
CAMERAS = 2
FIRST_SCENE = PER_SHARD
"""Scenes before this one were looked at while the network was made; those from it on never."""
CONSTANT, POSITION, EXACT = "constant plane", "position only", "exact depth"
EMBEDDED, FAST, PEER = "embedded", "embedded-fast", "TCMonoDepth"

Predict = Callable[[np.ndarray, np.ndarray], Estimate]
"""rgb uint8 (T, H, W, 3) and K -> an estimate."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What one picture is judged with: `normal` is 0 where unknown, or absent."""

    rgb: np.ndarray
    z: np.ndarray
    k: np.ndarray
    normal: np.ndarray | None


def run(options: Options, shards: Path | None = None) -> dict[str, Any]:
    """Measures every model on every kind; `shards`: a folder of pictures rendered before, those of seed 1."""
    began = time.monotonic()
    scenes = 1 if options.quick else options.runs or 16
    kinds = list(HELD_OUT)[:2] if options.quick else list(HELD_OUT)
    report: dict[str, Any] = {
        "benchmark": "geometry",
        "machine": machine(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "versions": versions("omniloom", "numpy", "onnxruntime", "open3d-cpu"),
        "pictures_a_kind": scenes * CAMERAS,
        "notes": [],
    }
    say("fitting the position-only predictor on the kinds for training")
    models: dict[str, Predict] = {CONSTANT: _constant, POSITION: _position_only(1 if options.quick else 12)}
    report["notes"] += _add_networks(models)
    samples = {kind: list(_samples(kind, scenes, shards)) for kind in kinds}
    report["kinds"] = {
        kind: {name: _judged(predict, some) for name, predict in models.items()} for kind, some in samples.items()
    }
    for kind in kinds:
        report["kinds"][kind][EXACT] = _control(kind, min(scenes, 4))
        say(f"{kind}: " + ", ".join(f"{name} {row['spearman']}" for name, row in report["kinds"][kind].items()))
    real = redwood()
    if real:
        report["redwood"] = {name: _judged(predict, real) for name, predict in models.items()}
    else:
        report["notes"].append("redwood left out: its frames are not beside the checkout")
    report["films"] = _films(models, kinds, 3 if options.quick else 8)
    report["cpu_ms_a_frame"] = {
        name: _cpu_ms(models[name], samples[kinds[0]][0], 1 if options.quick else 5) for name in models
    }
    report["claims"] = _claims(report)
    report["minutes"] = round((time.monotonic() - began) / 60, 1)
    report = _plain(report)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "geometry.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.folder / "geometry.md").write_text(as_markdown(report))
        draw(report, options.folder / "geometry.png")
        shown = {name: models[name] for name in (EMBEDDED, PEER) if name in models}
        rows = [(kind, some[len(some) // 2]) for kind, some in samples.items()] + [("redwood", real[0])] * bool(real)
        draw_sheet(rows, shown, options.folder / "geometry_sheet.png")
    return report


# --- models ---------------------------------------------------------------------------------------------------


def _constant(rgb: np.ndarray, k: np.ndarray) -> Estimate:
    normals = np.broadcast_to(np.array([0, 0, -1], np.float32), (*rgb.shape[:3], 3))
    return Estimate(np.ones(rgb.shape[:3], np.float32), "relative", normals)


def _position_only(scenes: int) -> Predict:
    pictures = ((z, normal) for kind in TRAIN for seed in range(scenes) for z, normal, _ in truths(kind, seed, 4))
    fitted = measure.PositionOnly.fitted(pictures)
    depth, normal = fitted.depth.astype(np.float32), fitted.normal.astype(np.float32)

    def predict(rgb: np.ndarray, k: np.ndarray) -> Estimate:
        height, width = rgb.shape[1:3]
        rows, columns = geometry.nearest_grid(depth.shape[0], height), geometry.nearest_grid(depth.shape[1], width)
        here, facing = depth[rows[:, None], columns], normal[rows[:, None], columns]
        return Estimate(np.stack([here] * len(rgb)), "relative", np.stack([facing] * len(rgb)))

    return predict


def _add_networks(models: dict[str, Predict]) -> list[str]:
    """Adds those that are there; a note for each that is not."""
    notes: list[str] = []
    if depth_onnx.EMBEDDED.is_file():
        models |= {name: depth_onnx.load(ModelRef("depth_onnx", name)) for name in (EMBEDDED, FAST)}
    else:
        notes.append("embedded left out: the network is not in this installation")
    peer = SHARED / "tcmonodepth_tcsmallnet_192x320.onnx"
    if peer.is_file():
        models[PEER] = _peer(peer)
    else:
        notes.append(f"{PEER} left out: {peer.name} is not beside the checkout")
    return notes


def _peer(path: Path) -> Predict:
    """TCMonoDepth (Li and others, 2021, MIT): RGB 0..255 of 192x320 -> relative inverse depth."""
    import onnxruntime
    from PIL import Image

    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), threads, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def predict(rgb: np.ndarray, k: np.ndarray) -> Estimate:
        height, width = rgb.shape[1:3]
        out = np.empty(rgb.shape[:3], np.float32)
        for index, picture in enumerate(rgb):
            fed = np.asarray(Image.fromarray(picture).resize((320, 192), Image.Resampling.BILINEAR), np.float32)
            answer = np.asarray(session.run(None, {name: fed.transpose(2, 0, 1)[None]})[0]).reshape(192, 320)
            out[index] = np.asarray(Image.fromarray(answer).resize((width, height), Image.Resampling.BILINEAR))
        return Estimate(out, "relative-inverse")

    return predict


# --- pictures with their truth --------------------------------------------------------------------------------


def _samples(kind: str, scenes: int, shards: Path | None) -> Iterable[Sample]:
    path = shards and shards / f"{kind}-00001.npz"
    if path and path.is_file():
        with np.load(path, allow_pickle=False) as shard:
            rgb, z, normal, k = (shard[name][: scenes * CAMERAS] for name in ("rgb", "z", "normal", "k"))
        yield from (Sample(r, d, c, n.astype(np.float32) / 127) for r, d, n, c in zip(rgb, z, normal, k, strict=True))
        return
    say(f"rendering {kind}")
    for seed in range(FIRST_SCENE, FIRST_SCENE + scenes):
        yield from (_sample(view) for view in views(kind, seed, CAMERAS))


def _sample(view: View) -> Sample:
    return Sample(view.rgb, view.z, view.k, view.normal)


def redwood() -> list[Sample]:
    """Five frames of a real depth camera, 320x240, with normals of the measured depth; empty where they are absent."""
    from PIL import Image

    k = geometry.resized_intrinsics(geometry.intrinsics(525.0, 525.0, 319.5, 239.5), (640, 480), (320, 240))
    out: list[Sample] = []
    for colour in sorted((SHARED / "redwood").glob("*.color.jpg")):
        rgb = np.asarray(Image.open(colour).convert("RGB").resize((320, 240), Image.Resampling.BOX))
        mm = np.asarray(Image.open(colour.with_name(colour.name.replace("color.jpg", "depth.png"))), np.float64)
        full = geometry.intrinsics(525.0, 525.0, 319.5, 239.5)
        z, kept = geometry.resize_nearest(np.where(mm > 0, mm / 1000, np.nan)[None], full, (320, 240))
        normal = geometry.normals_from_depth(z[0], kept, radius=4, step=0.003)
        out.append(Sample(rgb, z[0], k, normal))
    return out


# --- judging --------------------------------------------------------------------------------------------------


def _judged(predict: Predict, samples: Sequence[Sample]) -> dict[str, float]:
    """Means over pictures; the normals' error is the mean of the pictures' medians."""
    rows: list[dict[str, float]] = []
    for sample in samples:
        said = predict(sample.rgb[None], sample.k)
        assert said.depth is not None
        rows.append(_row(said.depth[0], said.kind, said.normals, sample))
    names = rows[0].keys()
    with np.errstate(all="ignore"):
        out = {name: _digits(float(np.nanmean([row[name] for row in rows]))) for name in names}
    out["spearman_tenth"] = _digits(float(np.nanquantile([row["spearman"] for row in rows], 0.1)))
    return out


def _row(depth: np.ndarray, kind: measure.Kind, normals: np.ndarray | None, sample: Sample) -> dict[str, float]:
    truth = np.where(np.isfinite(sample.z), sample.z, np.nan)
    z = measure.aligned(depth, truth, kind)
    ours = normals[0] if normals is not None else geometry.normals_from_depth(z, sample.k, radius=2)
    unknown = float("nan")
    return {
        "spearman": measure.depth_spearman(depth, truth, kind),
        "abs_rel": measure.abs_rel(z, truth),
        "delta": measure.delta(z, truth),
        "point": measure.point_error(z, truth, sample.k),
        "normal_deg": measure.normal_error(ours, sample.normal) if sample.normal is not None else unknown,
    }


def _control(kind: str, scenes: int) -> dict[str, float]:
    """Normals from the caster's own depth, in full precision: what is lost on the way from depth to normals."""
    rows: list[dict[str, float]] = []
    for seed in range(FIRST_SCENE, FIRST_SCENE + scenes):
        for z, normal, k in truths(kind, seed, 1):
            known = np.where(np.isfinite(z), z, np.nan)
            rows.append(_row(known, "metric-z", None, Sample(np.zeros((*z.shape, 3), np.uint8), z, k, normal)))
    return {name: _digits(float(np.nanmean([row[name] for row in rows]))) for name in rows[0]}


def _films(models: dict[str, Predict], kinds: Sequence[str], frames: int) -> dict[str, dict[str, float]]:
    """Flicker before a scene that stands still, and how the scale of depth drifts while a camera glides."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in models}
    for kind in kinds:
        fixed = still(kind, FIRST_SCENE, frames)
        moving = [view for view, _ in glide(kind, FIRST_SCENE, frames)]
        for name, predict in models.items():
            said = predict(np.stack([view.rgb for view in fixed]), fixed[0].k)
            assert said.depth is not None
            truth = np.stack([np.where(np.isfinite(view.z), view.z, np.nan) for view in fixed])
            z = np.where(np.isfinite(truth), measure.aligned(said.depth, truth, said.kind), np.nan)
            turn = measure.normal_flicker(said.normals) if said.normals is not None else float("nan")
            found[name].append((measure.flicker(z), turn, _drift(predict, moving)))
    out: dict[str, dict[str, float]] = {}
    for name, rows in found.items():
        means = np.mean(rows, axis=0)
        keys = ("flicker", "normal_flicker_deg", "scale_drift")
        out[name] = {key: _digits(float(mean)) for key, mean in zip(keys, means, strict=True)}
    return out


def _drift(predict: Predict, views_: Sequence[View]) -> float:
    """Standard deviation over the frames of the log factor between true and predicted depth, one alignment for all."""
    said = predict(np.stack([view.rgb for view in views_]), views_[0].k)
    assert said.depth is not None
    truth = np.stack([np.where(np.isfinite(view.z), view.z, np.nan) for view in views_])
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.log(truth) - np.log(measure.aligned(said.depth, truth, said.kind))
    return float(np.std([np.nanmedian(frame) for frame in factor]))


def _cpu_ms(predict: Predict, sample: Sample, times: int) -> float:
    """CPU milliseconds for a frame of 256x192, one at a time; the best of several."""
    spent: list[float] = []
    for _ in range(times):
        start = time.process_time()
        predict(sample.rgb[None], sample.k)
        spent.append(1000 * (time.process_time() - start))
    return round(min(spent), 1)


def _claims(report: dict[str, Any]) -> dict[str, Any]:
    """What the embedded network is held to; empty without it."""
    kinds = report["kinds"]
    if EMBEDDED not in next(iter(kinds.values())):
        return {}
    ours, theirs = ({kind: rows[name] for kind, rows in kinds.items()} for name in (EMBEDDED, POSITION))
    claims: dict[str, Any] = {
        "Spearman, mean of the kinds": _mean(ours, "spearman"),
        "Spearman, worst kind": min(row["spearman"] for row in ours.values()),
        "kinds where it beats position only": sum(ours[k]["spearman"] > theirs[k]["spearman"] for k in kinds),
        "normal error / position only's": round(_mean(ours, "normal_deg") / _mean(theirs, "normal_deg"), 3),
        "CPU ms a frame": report["cpu_ms_a_frame"][EMBEDDED],
        "flicker": report["films"][EMBEDDED]["flicker"],
    }
    if "redwood" in report:
        claims["Spearman, redwood"] = report["redwood"][EMBEDDED]["spearman"]
    return claims


def _mean(rows: dict[str, dict[str, float]], name: str) -> float:
    return _digits(float(np.mean([row[name] for row in rows.values()])))


def _plain(value: Any) -> Any:
    """The same without NaN, which JSON does not have: null."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _digits(value: float) -> float:
    return float(f"{value:.3g}") if np.isfinite(value) else float("nan")
