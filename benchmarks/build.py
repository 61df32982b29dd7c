"""What a build costs, in D, beside the one-pass FFmpeg graph that makes the same outputs; and its peak memory.

    python -m benchmarks.build [--runs 5] [--seconds 120] [--hour]

D is the CPU time of one single-threaded decode of the same file. Every command is a whole process, user plus system
time of it and its children; the commands of one run follow each other, so that a machine that drifts drifts for all.
`--hour` builds a one-hour file instead and reports the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
RESULTS = Path(__file__).parent / "results"
WITHOUT_PROXY, WITH_PROXY = "modalities=[frames,audio]", "modalities=[frames,video,audio]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each command, after one that warms up")
    parser.add_argument("--seconds", type=int, default=120, help="length of the generated 720p file")
    parser.add_argument("--hour", action="store_true", help="measure the memory of building a one-hour file instead")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.hour:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(measure_hour(Path(scratch), arguments.out)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = make_source(folder / "source.mp4", arguments.seconds)
        mbit_per_s = source.stat().st_size * 8 / arguments.seconds / 1e6
        report = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "ffmpeg": version(),
            "source": f"{arguments.seconds} s, 1280x720 H.264 at 30 a second, {mbit_per_s:.1f} Mb/s",
            "cost": measure(source, folder, arguments.runs),
        }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "build.json").write_text(json.dumps(report, indent=2) + "\n")
    text = as_markdown(report)
    (arguments.out / "build.md").write_text(text)
    print(text)


def make_source(path: Path, seconds: int, rate: int = 30) -> Path:
    """A moving 720p picture with grain and a sweeping tone: compressible like footage, not like a test card."""
    picture = ffmpeg.input(
        f"gradients=size=1280x720:rate={rate}:speed=0.02:nb_colors=6:seed=3:duration={seconds}", f="lavfi"
    )
    card = ffmpeg.input(f"testsrc2=size=480x360:rate={rate}:duration={seconds}", f="lavfi")
    picture = ffmpeg.overlay(picture, card, x="400+300*sin(t/2)", y="180+120*cos(t/3)").filter(
        "noise", alls=6, allf="t"
    )
    sound = ffmpeg.input(f"aevalsrc=0.3*sin(2*PI*(200+40*t)*t):sample_rate=48000:duration={seconds}", f="lavfi")
    out = ffmpeg.output(
        picture, sound, str(path), vcodec="libx264", preset="veryfast", crf=27, pix_fmt="yuv420p", acodec="aac", g=60
    )
    out.global_args("-v", "error").overwrite_output().run(cmd=FFMPEG)
    return path


def measure(source: Path, folder: Path, runs: int) -> dict[str, dict[str, Any]]:
    """CPU-seconds and ratios to D of each command; medians over runs, with the range."""
    commands = {
        "decode (D)": [FFMPEG, "-v", "error", "-threads", "1", "-i", str(source), "-map", "0:v", "-f", "null", "-"],
        "ffmpeg, frames + flac": one_pass(source, folder / "floor", proxy=False),
        "omniloom, frames + flac": build(source, folder / "corpus", WITHOUT_PROXY),
        "ffmpeg, frames + flac + proxy": one_pass(source, folder / "floor", proxy=True),
        "omniloom, frames + flac + proxy": build(source, folder / "corpus", WITH_PROXY),
    }
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for run in range(runs + 1):
        for name, command in commands.items():
            shutil.rmtree(folder / "corpus", ignore_errors=True)
            shutil.rmtree(folder / "floor", ignore_errors=True)
            (folder / "floor").mkdir()
            seconds = cpu_seconds(command)
            if run:  # the first one warms up
                spent[name].append(seconds)
    decode = spent["decode (D)"]
    return {
        name: {
            "cpu_seconds": summary(values),
            "D": summary([value / base for value, base in zip(values, decode, strict=True)]),
        }
        for name, values in spent.items()
    }


def one_pass(source: Path, folder: Path, *, proxy: bool) -> list[str]:
    """The floor: one process whose filter graph makes the same outputs as the build, in one decode."""
    graph = "[0:v]split=2[a][b];[a]fps=2,scale=-2:256:flags=bilinear[frames];[b]scale=-2:256:flags=bilinear[proxy]"
    outputs = ["-map", "[frames]", "-c:v", "mjpeg", "-q:v", "3", str(folder / "frames.mov")]
    if proxy:
        outputs += ["-map", "[proxy]", "-map", "0:a", "-c:v", "libx264", "-preset", "veryfast", "-threads", "1"]
        outputs += ["-crf", "28", "-ac", "1", "-ar", "16000", "-b:a", "48k"]  # as the recipe's own proxy
        outputs += ["-c:a", "aac", str(folder / "proxy.mp4")]
    else:
        graph = "[0:v]fps=2,scale=-2:256:flags=bilinear[frames]"
    outputs += ["-map", "0:a", "-ac", "1", "-ar", "16000", str(folder / "audio.flac")]
    start = [FFMPEG, "-v", "error", "-y", "-threads", "1", "-filter_complex_threads", "1", "-i", str(source)]
    return [*start, "-filter_complex", graph, *outputs]


def build(source: Path, corpus: Path, modalities: str) -> list[str]:
    """The build in one process, so that its memory and time are one number."""
    start = [sys.executable, "-m", "omniloom.recipes.cli", "build", str(source), "--out", str(corpus), "--workers", "0"]
    return [*start, "--json", modalities, "require=[frames]"]


def measure_hour(folder: Path, out: Path) -> dict[str, Any]:
    """Peak memory of the one process that builds a one-hour 720p file; ten pictures a second keep it to minutes."""
    minute = make_source(folder / "minute.mp4", 60, rate=10)
    hour = folder / "hour.mp4"
    repeat = ["-stream_loop", "59", "-i", str(minute), "-c", "copy", str(hour)]
    subprocess.run([FFMPEG, "-v", "error", *repeat], check=True)
    status, usage = run_alone(build(hour, folder / "corpus", WITH_PROXY))
    if status:
        raise RuntimeError(f"the build of the one-hour file failed with status {status}")
    report = {
        "source": f"3600 s, 1280x720 H.264 at 10 a second, {hour.stat().st_size / 1e6:.0f} MB",
        "peak_rss_mb": round(usage.ru_maxrss / 1024),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "build-hour.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def cpu_seconds(command: Sequence[str]) -> float:
    status, usage = run_alone(command)
    if status:
        raise RuntimeError(f"status {status} from: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime


def run_alone(command: Sequence[str]) -> tuple[int, resource.struct_rusage]:
    """Exit status and resource use of one process and the children it waited for."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage


def summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def version() -> str:
    return subprocess.run([FFMPEG, "-version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def as_markdown(report: dict[str, Any]) -> str:
    lines = [
        "# Cost of a build",
        "",
        f"Source: {report['source']}. Machine: {report['machine']}. {report['ffmpeg']}.",
        "Whole processes, user + system time; `omniloom` runs include the interpreter's start and its imports.",
        "",
        "| command | CPU s, median (range) | in D, median (range) |",
        "|---|---:|---:|",
    ]
    for name, figures in report["cost"].items():
        cells = (
            f"{figure['median']:.2f} ({figure['min']:.2f} to {figure['max']:.2f})"
            for figure in (figures["cpu_seconds"], figures["D"])
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Made by `python -m benchmarks.build`.", ""])


if __name__ == "__main__":
    main()
