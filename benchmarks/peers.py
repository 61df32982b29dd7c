"""What a build is measured against: one FFmpeg process that does it all, and a process for each operator and clip.

The chain is what public pipelines run on CPUs, as their sources show. NeMo Curator's `ClipTranscodingStage`
(nemo_curator/stages/video/clipping/clip_extraction_stages.py) and Panda-70M (splitting/video_splitting.py) find cuts in
one decode, transcode each clip at full resolution from `-ss START` on with libx264's default preset (medium, crf 23),
and decode the clips again for each later operator; video2dataset's `precise` clipping re-encodes at that preset too.
The chain here transcodes with `veryfast`, which is cheaper than what they run. PySceneDetect finds the cuts where it is
installed, FFmpeg's scdet elsewhere.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ffmpeg

from omniloom.benchmarks.timing import FFMPEG, Step

SHORT_SIDE = 256
FRAMES_PER_S = 2
_ONE = {"threads": 1}
_MJPEG = {"vcodec": "mjpeg", "qscale:v": 3, **_ONE}
_FLAC = {"ac": 1, "ar": 16_000, "acodec": "flac"}
_SMALL_SOUND = {"acodec": "aac", "b:a": "48k", "ac": 1, "ar": 16_000}
_VERYFAST = {"vcodec": "libx264", "preset": "veryfast", "pix_fmt": "yuv420p", "fps_mode": "passthrough", **_ONE}
_PROXY = {**_VERYFAST, "crf": 28, "g": 60, **_SMALL_SOUND}
"""As modalities/video.py makes it."""
_TRANSCODE = {**_VERYFAST, "crf": 23, "acodec": "aac"}


def one_decode(source: Path) -> Step:
    """D: every picture decoded by one thread, and nothing else."""
    command = (FFMPEG, "-v", "error", "-threads", "1", "-i", str(source), "-map", "0:v", "-f", "null", "-")
    return Step("decode", (command,), dict)


def one_pass(
    source: Path, folder: Path, clip_s: float, *, signals: bool = False, proxy: bool = False, shots: bool = False
) -> Step:
    """The floor: one decode whose filter graph makes the clips' frames, sound and, if asked for, proxies.

    The segment muxer cuts them on the same grid. With `signals` the graph also measures what a build does, as far as
    FFmpeg has filters for it; with `shots` it looks for cuts on thumbnails.
    """
    media = ffmpeg.input(str(source), **_ONE)
    branches = iter(media.video.filter_multi_output("split", 1 + signals + proxy + shots).stream(n) for n in range(4))
    sampled = next(branches).filter("fps", FRAMES_PER_S).filter("scale", -2, SHORT_SIDE, flags="area")
    sound = media.audio
    measured: list[Any] = []
    if signals:
        frames, heard = sampled.filter_multi_output("split", 2), sound.filter_multi_output("asplit", 2)
        measured = _signals(next(branches), frames.stream(1), heard.stream(1), folder)
        sampled, sound = frames.stream(0), heard.stream(0)
    cut = {"f": "segment", "segment_time": clip_s, "reset_timestamps": 1}
    outputs = [
        ffmpeg.output(sampled, str(folder / "frames%05d.mov"), segment_format="mov", **cut, **_MJPEG),
        ffmpeg.output(sound, str(folder / "audio%05d.flac"), segment_format="flac", **cut, **_FLAC),
        *measured,
    ]
    if proxy:
        small = next(branches).filter("scale", -2, SHORT_SIDE, flags="area")
        keys = {"force_key_frames": f"expr:gte(t,n_forced*{clip_s:g})"}
        target = str(folder / "proxy%05d.mp4")
        outputs.append(ffmpeg.output(small, media.audio, target, segment_format="mp4", **cut, **_PROXY, **keys))
    if shots:
        thumbnails = next(branches).filter("scale", 64, 36, flags="neighbor").filter("scdet")
        outputs.append(ffmpeg.output(thumbnails, "-", f="null"))
    graph = ffmpeg.merge_outputs(*outputs).global_args("-v", "error", "-filter_complex_threads", "1")
    parts = ["frames", "audio", *(["proxy"] if proxy else [])]
    asked = {"proxy": proxy, "signals": signals, "shots": shots}
    name = ", ".join(["one pass", *(word for word, is_asked in asked.items() if is_asked)])
    return Step(name, (tuple(graph.compile(cmd=FFMPEG, overwrite_output=True)),), lambda: _made(folder, *parts))


def _signals(pictures: Any, frames: Any, sound: Any, folder: Path) -> list[Any]:
    """Brightness of every picture, for sync with the sound; looks of the sampled frames; loudness and silence.

    There is no filter for A/V sync, and FFmpeg's perceptual hash (`signature`) compares whole videos at a far higher
    cost than one hash a clip: both are left out, in the floor's favour.
    """

    def told(stream: Any, name: str, **only: str) -> Any:
        printer = "ametadata" if name == "sound" else "metadata"
        return ffmpeg.output(stream.filter(printer, "print", file=str(folder / f"{name}.txt"), **only), "-", f="null")

    luma = pictures.filter("scale", 16, 9, flags="neighbor").filter("format", "gray").filter("signalstats")
    for name in ("signalstats", "scdet", "blackdetect", "freezedetect", "cropdetect", "blurdetect"):
        frames = frames.filter(name)
    sound = sound.filter("ebur128", metadata=1, peak="sample").filter("silencedetect")
    return [
        told(luma, "brightness", key="lavfi.signalstats.YAVG"),
        told(frames, "looks"),
        told(sound, "sound"),
    ]


def chain(source: Path, folder: Path, clip_s: float, seconds: float) -> list[Step]:
    """Operator by operator: each a process and a decode of its own, clip by clip once the cuts are known.

    Steps that end in "of spans" seek in the source; those that end in "of clips" read the transcoded clips.
    """
    count = max(1, round(seconds / clip_s))
    spans = [(number * clip_s, clip_s) for number in range(count)]
    clips = [folder / f"clip{number:05d}.mp4" for number in range(count)]
    whole = [ffmpeg.input(str(source), ss=start, t=length, **_ONE) for start, length in spans]
    cut = [ffmpeg.input(str(clip), **_ONE) for clip in clips]

    def each(name: str, inputs: Iterable[Any], part: str, suffix: str, coding: dict[str, Any], **keep: Any) -> Step:
        targets = [folder / f"{part}{number:05d}{suffix}" for number in range(count)]
        made = (ffmpeg.output(media, str(to), **coding, **keep) for media, to in zip(inputs, targets, strict=True))
        return Step(name, tuple(map(_compiled, made)), lambda: _made(folder, part))

    size = f"scale=-2:{SHORT_SIDE}"

    def operators(of: str, inputs: list[Any]) -> list[Step]:
        return [
            each(f"frames{of}", inputs, "frames", ".mov", _MJPEG, an=None, vf=f"fps={FRAMES_PER_S},{size}"),
            each(f"sound{of}", inputs, "audio", ".flac", _FLAC, vn=None),
            each(f"proxy{of}", inputs, "proxy", ".mp4", _PROXY, vf=size),
        ]

    return [
        Step("probe", ((FFMPEG, "-v", "error", "-i", str(source), "-t", "0", "-f", "null", "-"),), dict),
        Step("find cuts", (_find_cuts(source),), dict),
        *operators(" of spans", whole),
        each("transcode", whole, "clip", ".mp4", _TRANSCODE),
        *operators(" of clips", cut),
    ]


def finder_of_cuts() -> str:
    """Which program the chain finds cuts with."""
    return "scenedetect" if find_spec("scenedetect") else "ffmpeg scdet"


def _find_cuts(source: Path) -> tuple[str, ...]:
    if finder_of_cuts() == "scenedetect":
        program = "import sys; from scenedetect import ContentDetector, detect; detect(sys.argv[1], ContentDetector())"
        return (sys.executable, "-c", program, str(source))
    command = ffmpeg.input(str(source), **_ONE).video.filter("scdet").output("-", f="null")
    return _compiled(command)


def _compiled(output: Any) -> tuple[str, ...]:
    command = output.global_args("-v", "error", "-filter_threads", "1").compile(cmd=FFMPEG, overwrite_output=True)
    return tuple(command)


def _made(folder: Path, *parts: str) -> dict[str, int]:
    """Clips, and the sampled frames, movie pictures and sound (ms) in them."""
    counts: dict[str, int] = {}
    for part in parts:
        paths = sorted(folder.glob(f"{part}[0-9]*"))
        counts["clips"] = min(counts.get("clips", len(paths)), len(paths))
        units = {"frames": "frames", "proxy": "pictures", "clip": "pictures", "audio": "sound_ms"}
        counts[units[part]] = sum(_length(path, sound=part == "audio") for path in paths)
    return counts


def _length(path: Path, *, sound: bool) -> int:
    import av

    with av.open(str(path)) as container:
        if sound:
            decoded = sum(frame.samples for frame in container.decode(container.streams.audio[0]))
            return math.floor(decoded / 16)
        return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
