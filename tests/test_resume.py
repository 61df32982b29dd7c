"""A long source in one, two or seven spans gives the same samples, killed in the middle or not."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from omniloom import open_corpus
from omniloom.benchmarks import Options
from omniloom.benchmarks.long import run, samples
from omniloom.modalities.sample import NS_PER_S, to_ns
from omniloom.pipeline import jobs
from omniloom.pipeline.decode import pictures
from omniloom.pipeline.jobs import BuildProgress, BuildReport, build
from omniloom.pipeline.probe import probe
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.shard import committed_units
from omniloom.pipeline.units import UnitsConfig
from omniloom.recipes.config import build_recipe
from tests.media import make_clip

SECONDS = 42
SPANS = {1: 0.0, 2: 21.0, 7: 6.0}
"""The length of a span that gives so many of them."""
SHOTS = ["clips.by=shots", "clips.min_s=0.3", "clips.max_s=4"]
FIXED = ["clips.length_s=2.5", "clips.min_s=0.5"]
SMALL: dict[str, Any] = {
    "seconds": SECONDS,
    "fps": 10,
    "size": (64, 48),
    "cuts": [1.4 + 3.7 * k for k in range(11)],
    "tone": [(k + k % 7 / 10, k + k % 7 / 10 + 0.2) for k in range(SECONDS - 2)],
    "flashes": [(k + k % 7 / 10, k + k % 7 / 10 + 0.2) for k in range(SECONDS - 2)],
}
UNEVEN = [k / 10 + (k * 7 % 5) / 71 for k in range(10 * SECONDS)]
OPEN_GROUPS = {"preset": "veryfast", "x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=25:scenecut=0"}

MEDIA: dict[str, dict[str, Any]] = {
    "open-groups.mp4": {"options": OPEN_GROUPS},
    "closed.mov": {"options": {"preset": "veryfast", "bf": "2"}, "sample_rate_hz": 44_100},
    "broadcast.ts": {"options": OPEN_GROUPS, "video_start_s": 1.3, "audio_start_s": 0.9, "sample_rate_hz": 44_100},
    "uneven.mkv": {"options": OPEN_GROUPS, "picture_times": UNEVEN, "audio_codec": "libopus"},
    "late.mkv": {"options": OPEN_GROUPS, "video_start_s": 2.345, "audio_start_s": 0.0},
    "hevc.mkv": {
        "video_codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": "keyint=25:bframes=3:log-level=error:pools=1"},
        "audio_codec": "libopus",
    },
    "vp9.webm": {
        "video_codec": "libvpx-vp9",
        "options": {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "12"},
        "audio_codec": "libopus",
    },
}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


def source(media: Path, name: str) -> Path:
    path = media / name
    return path if path.exists() else make_clip(path, **(SMALL | MEDIA[name]))


def recipe(*overrides: str, modalities: str = "frames,audio") -> BuildRecipe:
    return build_recipe(None, [f"modalities=[{modalities}]", "frames.short_side=32", "frames.per_second=2", *overrides])


def in_spans(path: Path, out: Path, count: int, chosen: BuildRecipe) -> BuildReport:
    report = build(chosen, [str(path)], out, workers=0, units=UnitsConfig(span_s=SPANS[count]))
    assert len(committed_units(out)) == count, "the source is not split as this test wants it to be"
    return report


def outcome(corpus: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Samples by key, with the hashes of their parts; and drops. Nothing of where they lie."""
    drops = open_corpus(corpus).drops().drop_columns(["unit"]).to_pylist()
    return samples(corpus), sorted(json.dumps(drop, sort_keys=True) for drop in drops)


def assert_spans_change_nothing(path: Path, folder: Path, chosen: BuildRecipe) -> None:
    reports = {count: in_spans(path, folder / str(count), count, chosen) for count in SPANS}
    whole = outcome(folder / "1")
    assert len(whole[0]) > 7
    for count in (2, 7):
        parts = outcome(folder / str(count))
        assert parts[0].keys() == whole[0].keys()
        assert parts == whole
        assert reports[count].sources == 1
        # Where clips overlap, two spans decode what both need of a border.
        shared_s = (count - 1) * chosen.clips.overlap_s
        assert reports[count].decoded_seconds == pytest.approx(reports[1].decoded_seconds + shared_s, abs=1e-6)


@pytest.mark.parametrize("name", MEDIA)
def test_one_two_and_seven_spans_hold_the_same_shots(media: Path, tmp_path: Path, name: str) -> None:
    assert_spans_change_nothing(source(media, name), tmp_path, recipe(*SHOTS))


CUTTINGS = {
    "fixed": ("open-groups.mp4", FIXED),
    "overlapping": ("uneven.mkv", [*FIXED, "clips.overlap_s=1"]),
    "margins": ("open-groups.mp4", [*FIXED, "clips.cross_cuts=false", "clips.margin_s=0.3"]),
    "shots": ("uneven.mkv", SHOTS),
}


@pytest.mark.parametrize("cutting", CUTTINGS)
def test_however_clips_are_cut_spans_change_no_byte_of_pictures_proxy_or_sound(
    media: Path, tmp_path: Path, cutting: str
) -> None:
    name, settings = CUTTINGS[cutting]
    chosen = recipe(*settings, "video.short_side=32", modalities="frames,video,audio")
    assert_spans_change_nothing(source(media, name), tmp_path, chosen)


ALIGNED: dict[str, list[str]] = {
    "captions": ["clips.by=captions"],
    "speech": ["clips.by=speech"],
    "pyscenedetect": [*SHOTS, "clips.detector=pyscenedetect"],
}


@pytest.mark.parametrize("by", ALIGNED)
def test_clips_that_follow_words_voices_or_another_detector_are_the_same_in_spans(
    media: Path, tmp_path: Path, by: str
) -> None:
    if by != "captions":
        pytest.importorskip({"speech": "faster_whisper", "pyscenedetect": "scenedetect"}[by])
    path = spoken(media)
    limits = ["clips.min_s=0.5", "clips.max_s=6"]
    assert_spans_change_nothing(path, tmp_path, recipe(*ALIGNED[by], *limits))


def spoken(media: Path) -> Path:
    """A film in which somebody counts every four seconds, with what is said as a file of subtitles beside it."""
    pytest.importorskip("hibari")
    from omniloom.recipes.world.narrate import speak
    from omniloom.recipes.world.sound import SAMPLE_RATE_HZ

    path = media / "spoken.mkv"
    if path.exists():
        return path
    silent, voice = make_clip(media / "silent.mkv", **(SMALL | MEDIA["open-groups.mp4"])), media / "voice.wav"
    track = np.zeros(SECONDS * SAMPLE_RATE_HZ, np.int16)
    cues: list[str] = []
    for number in range(SECONDS // 4):
        said = np.asarray(speak(f"This is sentence number {number}.") * 20_000, np.int16)
        start_s = 4 * number + 0.7
        first = int(start_s * SAMPLE_RATE_HZ)
        said = said[: len(track) - first]
        track[first : first + len(said)] += said
        times = [f"00:00:{int(at):02d},{round(at % 1 * 1000):03d}" for at in (start_s, start_s + 2.5)]
        cues.append(f"{number + 1}\n{times[0]} --> {times[1]}\nThis is sentence number {number}.\n")
    with wave.open(str(voice), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(track.tobytes())
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(silent), "-i", str(voice)]
    subprocess.run([*command, "-map", "0:v", "-map", "1:a", "-c:v", "copy", str(path)], check=True)
    path.with_suffix(".srt").write_text("\n".join(cues), encoding="utf-8")
    return path


def test_copied_packets_and_overlapping_clips_are_the_same_in_spans(media: Path, tmp_path: Path) -> None:
    chosen = recipe(*FIXED, "clips.overlap_s=1", "video.codec=copy", modalities="frames,video,audio")
    assert_spans_change_nothing(source(media, "open-groups.mp4"), tmp_path, chosen)


def test_a_source_is_counted_once_and_done_with_its_last_span(media: Path, tmp_path: Path) -> None:
    brief: dict[str, Any] = {**SMALL, "seconds": 3}
    film, short = source(media, "closed.mov"), make_clip(tmp_path / "short.mp4", **brief)
    seen: list[BuildProgress] = []

    def again() -> BuildReport:
        units = UnitsConfig(span_s=6)
        return build(
            recipe(*FIXED),
            [str(film), str(short)],
            tmp_path / "corpus",
            workers=0,
            units=units,
            on_progress=seen.append,
        )

    report = again()
    assert (report.sources, report.skipped_committed, report.shards) == (2, 0, 8)
    assert [(at.done_sources, at.all_sources) for at in seen] == [(0, 2)] * 7 + [(1, 2), (2, 2)]
    second = again()
    assert (second.sources, second.skipped_committed, second.samples, second.decoded_seconds) == (2, 2, 0, 0)


def test_a_detector_whose_cuts_depend_on_all_before_keeps_a_source_whole(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "detector_of", lambda *_: SimpleNamespace(reach=None))
    build(
        recipe(*SHOTS), [str(source(media, "closed.mov"))], tmp_path / "shots", workers=0, units=UnitsConfig(span_s=6)
    )
    build(
        recipe(*FIXED), [str(source(media, "closed.mov"))], tmp_path / "fixed", workers=0, units=UnitsConfig(span_s=6)
    )
    assert (len(committed_units(tmp_path / "shots")), len(committed_units(tmp_path / "fixed"))) == (1, 7)


KILLED = """
import os, signal, sys
from pathlib import Path
from omniloom.pipeline import jobs
from tests.test_resume import FIXED, in_spans, recipe

weave, begun = jobs.weave, []

def weave_and_die(source, recipe, ask, **options):
    begun.append(options)
    for number, sample in enumerate(weave(source, recipe, ask, **options)):
        if len(begun) == 4 and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield sample

jobs.weave = weave_and_die
in_spans(Path(sys.argv[1]), Path(sys.argv[2]), 7, recipe(*FIXED))
"""


def test_a_build_killed_amid_a_long_source_decodes_no_committed_span_again(media: Path, tmp_path: Path) -> None:
    film, corpus = source(media, "open-groups.mp4"), tmp_path / "killed"
    uninterrupted = in_spans(film, tmp_path / "whole", 7, recipe(*FIXED))
    command = [sys.executable, "-c", KILLED, str(film), str(corpus)]
    died = subprocess.run(command, cwd=Path(__file__).parents[1], check=False, capture_output=True, text=True)
    assert died.returncode == -9, died.stderr
    assert committed_units(corpus) == {0, 1, 2}
    assert open_corpus(corpus).check() == []
    held = sum(open_corpus(corpus).table(["duration_ns"])["duration_ns"].to_pylist()) / NS_PER_S
    written = {path: path.stat().st_mtime_ns for path in (corpus / "shards").glob("0*")}
    resumed = in_spans(film, corpus, 7, recipe(*FIXED))
    assert resumed.decoded_seconds == pytest.approx(uninterrupted.decoded_seconds - held, abs=1e-6)
    assert resumed.skipped_committed == 0  # it was not whole
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert outcome(corpus) == outcome(tmp_path / "whole")
    assert not list((corpus / "shards").glob(".*.part"))


@pytest.mark.slow
def test_a_build_whose_workers_are_all_killed_goes_on_within_a_gigabyte_each() -> None:
    report = run(Options(quick=True))
    assert 4 <= report["spans_committed_before_the_kill"] < report["spans"] == 8
    assert (report["spans_rewritten"], report["same_samples"], report["samples"]) == (0, True, 12)
    assert all(0 < one["peak_mb_of_a_worker"] < 1000 for one in report["runs"].values())


@pytest.mark.parametrize("name", MEDIA)
def test_a_late_span_is_entered_close_before_its_border_in_every_container(media: Path, name: str) -> None:
    path = str(source(media, name))
    info = probe(path)
    assert info.video is not None
    read: list[int] = []
    from_ns = (info.video.start_ns or 0) + 35 * NS_PER_S
    stream = pictures(
        path, info, from_ns=from_ns, packets=lambda packet: read.append(to_ns(packet.pts or 0, packet.time_base))
    )
    next(stream)
    assert from_ns - 12 * NS_PER_S < read[0] <= from_ns - NS_PER_S
