"""One decode of a file becomes its samples: aligned, in order, the same every time, in bounded memory."""

from __future__ import annotations

import subprocess
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from omniloom.modalities import Drop, Rejected, Sample, load
from omniloom.modalities.base import Waveform, read
from omniloom.pipeline.clips import ClipsConfig
from omniloom.pipeline.extract import split_of, weave
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.sampling import sample_times
from omniloom.pipeline.signals import SignalsConfig
from omniloom.pipeline.sources import Source, identify
from tests.media import beep_onsets, make_clip


def _never(ref: object, *inputs: object) -> object:
    raise AssertionError(f"no model is asked here, but {ref} was")


def _source(path: Path, **row: str) -> Source:
    return Source(str(path), identify(str(path)), row)


def _weave(path: Path, recipe: BuildRecipe, **row: str) -> list[Sample | Drop]:
    return list(weave(_source(path, **row), recipe, _never))


def _samples(path: Path, recipe: BuildRecipe) -> list[Sample]:
    outcomes = _weave(path, recipe)
    assert all(isinstance(outcome, Sample) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Sample)]


def _recipe(*modalities: str, **clips: Any) -> BuildRecipe:
    return BuildRecipe(modalities=modalities or ("frames", "audio"), clips=ClipsConfig(**clips))


def test_flash_and_beep_lie_in_the_same_place_of_every_part(tmp_path: Path) -> None:
    spans = [(1.0, 1.2), (5.0, 5.2), (9.0, 9.2)]
    path = make_clip(tmp_path / "a.mp4", 12, flashes=spans, tone=spans)
    samples = _samples(path, _recipe("frames", "audio", "video", length_s=4.0))
    assert [sample.clip.start_ns for sample in samples] == [0, 4_000_000_000, 8_000_000_000]
    for sample in samples:
        audio = read(load("audio"), sample.parts["audio"])
        assert len(audio.samples) == 64_000
        assert beep_onsets(audio.samples)[0] == pytest.approx(1.0, abs=0.005)
        for name in ("frames", "video"):
            shown = read(load(name), sample.parts[name])
            white = shown.rgb.mean(axis=(1, 2, 3)) > 180
            assert shown.pts_ns[white][0] / 1e9 == pytest.approx(1.0, abs=0.04), name
        assert sample.facts["audio_offset_ns"] == 0
        assert sample.facts["av_check"] == "ok"


def test_sound_that_starts_late_keeps_its_place_and_is_measured(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "late.mov", 8, audio_start_s=1.5, tone=[(2, 2.2), (5, 5.2)], audio_codec="pcm_s16le")
    first, second = _samples(path, _recipe(length_s=4.0))
    assert first.facts["audio_offset_ns"] == 1_500_000_000
    assert first.facts["av_check"] == "audio-late:1500ms"
    assert second.facts["av_check"] == "ok"
    for sample, at_s in ((first, 2.0), (second, 1.0)):
        assert beep_onsets(read(load("audio"), sample.parts["audio"]).samples) == pytest.approx([at_s], abs=0.001)


def test_sound_that_ends_early_is_said_to_be_short(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "short.mov", 8, audio_seconds=3.0, audio_codec="pcm_s16le")
    first, second = _weave(path, _recipe(length_s=4.0))
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert first.facts["av_check"] == "audio-short:1000ms"
    assert "audio" not in second.parts
    assert second.facts["av_check"] == "no-audio"


def test_frames_are_those_on_screen_at_the_sample_times(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 10.5, fps=24)
    outcomes = _weave(path, _recipe(length_s=4.0))
    for sample in (outcome for outcome in outcomes if isinstance(outcome, Sample)):
        pts_ns = np.array(sample.parts["frames"].facts["pts_ns"])
        wanted = np.array(sample_times(0, sample.clip.duration_ns, 2.0, 8))
        assert len(pts_ns) == len(wanted)
        behind = wanted - pts_ns
        assert (behind >= 0).all()
        assert (behind < 1e9 / 24 + 1).all(), "the next frame was not yet on screen"


def test_clips_cut_by_shots_end_at_the_cuts(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "cuts.mp4", 7, cuts=[2.4, 3.0, 5.2])
    outcomes = _weave(path, _recipe(by="shots", min_s=1.0))
    spans = [(round(o.clip.start_ns / 1e9, 3), round(o.clip.end_ns / 1e9, 3)) for o in outcomes if o.clip is not None]
    assert spans == [(0, 2.4), (2.4, 3.0), (3.0, 5.2), (5.2, 7.0)]
    assert [o.reason if isinstance(o, Drop) else "" for o in outcomes] == ["", "too-short", "", ""]


def test_two_runs_make_equal_samples_whatever_the_threads(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", 9, fps=10)
    recipe = _recipe("frames", "audio", "video", length_s=2.0)
    runs = [list(weave(_source(path), recipe, _never, threads=threads)) for threads in (1, 4)]
    assert runs[0] == runs[1]
    assert [type(outcome).__name__ for outcome in runs[0]] == ["Sample"] * 4 + ["Drop"]


def test_parts_say_what_made_them(tmp_path: Path) -> None:
    recipe = _recipe()
    (sample,) = _samples(make_clip(tmp_path / "a.mp4"), recipe)
    assert sample.key == sample.clip.key_under(recipe.hash)
    assert sample.time_base == "1/12800"
    for name, part in sample.parts.items():
        assert part.facts["model"] == "measured"
        assert part.facts["params"] == recipe.params_hash(name)


def test_a_required_modality_that_is_absent_drops_the_clip(tmp_path: Path) -> None:
    recipe = BuildRecipe(modalities=("frames", "audio"), require=("frames", "audio"))
    (drop,) = _weave(make_clip(tmp_path / "mute.mp4", tone=False), recipe)
    assert isinstance(drop, Drop)
    assert (drop.stage, drop.reason) == ("extract", "no-audio")


def test_the_row_decides_the_split_and_otherwise_the_source(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4")
    (sample,) = _weave(path, _recipe(), split="test")
    assert isinstance(sample, Sample)
    assert sample.facts["split"] == "test"
    ids = [f"{k:064x}"[::-1] for k in range(4096)]
    share = sum(split_of(id_, {}, 0.25) == "test" for id_ in ids) / len(ids)  # type: ignore[arg-type]
    assert share == pytest.approx(0.25, abs=0.03)


@dataclass(frozen=True, slots=True)
class _EchoConfig:
    fails_at_ns: int = -1


class _Echo:
    """A modality that needs audio, asks a model, and can reject: stands where transcripts and depth stand."""

    suffix = "echo.npy"
    codec = "npy"
    letter = ""
    needs = ("audio",)
    facts: dict[str, str] = {}  # noqa: RUF012 - a module's global, in a class for the test
    Config = _EchoConfig
    __name__ = "echo"

    def models(self, config: _EchoConfig) -> Sequence[Any]:
        return ()

    def extract(self, footage: Any, config: _EchoConfig, ask: Any) -> Any:
        from omniloom.modalities.base import Made

        assert set(footage.made) == {"audio"}
        if footage.clip.start_ns == config.fails_at_ns:
            raise Rejected("extract", "too-quiet", "as told")
        heard: Waveform = footage.made["audio"]
        return Made(ask("model", int(np.abs(heard.samples.astype(int)).max())), model="echo", revision="1")

    def encode(self, value: Any) -> Any:
        from omniloom.modalities import Part

        return Part(str(value).encode())


class _WithEcho(BuildRecipe):
    def by_name(self) -> dict[str, Any]:
        return {**BuildRecipe.by_name(self), "echo": _Echo()}


def _with_echo(fails_at_ns: int) -> BuildRecipe:
    recipe = _WithEcho(modalities=("frames", "audio"), clips=ClipsConfig(length_s=2.0))
    object.__setattr__(recipe, "sections", {**recipe.sections, "echo": _EchoConfig(fails_at_ns)})
    return recipe


def test_a_rejection_by_a_modality_drops_only_its_clip_and_order_is_kept(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 8, fps=10)
    lock, asked = threading.Lock(), [0]

    def ask(_ref: Any, value: int) -> int:
        with lock:
            asked[0] += 1
            slow = asked[0] == 1
        if slow:
            threading.Event().wait(0.3)  # the first answer comes last
        return value

    outcomes = list(weave(_source(path), _with_echo(4_000_000_000), ask))
    assert [o.clip.start_ns // 10**9 for o in outcomes if o.clip] == [0, 2, 4, 6]
    assert [o.reason if isinstance(o, Drop) else "" for o in outcomes] == ["", "", "too-quiet", ""]
    assert isinstance(outcomes[0], Sample)
    assert outcomes[0].parts["echo"].facts["revision"] == "1"


def test_a_failing_model_is_no_bad_media_and_is_raised(tmp_path: Path) -> None:
    def ask(_ref: Any, _value: int) -> int:
        raise RuntimeError("the model's machine is gone")

    with pytest.raises(RuntimeError, match="machine is gone"):
        list(weave(_source(make_clip(tmp_path / "a.mp4")), _with_echo(-1), ask))


def _count(outcomes: Iterator[Sample | Drop]) -> int:
    return sum(isinstance(outcome, Sample) for outcome in outcomes)


def test_memory_does_not_grow_with_the_length_of_the_source(tmp_path: Path) -> None:
    recipe = _recipe(length_s=2.0)
    peaks: list[int] = []
    for seconds in (16, 64):
        path = make_clip(tmp_path / f"{seconds}.mkv", seconds, fps=5, size=(96, 64), gop=50, tone=[(1, 2)])
        tracemalloc.start()
        assert _count(weave(_source(path), recipe, _never, threads=2)) == seconds // 2
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 1_000_000


def test_sound_that_surely_comes_late_is_dropped_where_the_recipe_says_so(tmp_path: Path) -> None:
    flashes = [(k + 0.4 + 0.13 * (k % 3), k + 0.6 + 0.13 * (k % 3)) for k in range(8)]
    late = [(start + 0.24, end + 0.24) for start, end in flashes]
    path = make_clip(tmp_path / "late.mp4", 8, flashes=flashes, tone=late)
    modalities = ("frames", "audio")
    (kept,) = _samples(path, BuildRecipe(modalities=modalities))
    assert kept.signals["sync_ms"] == pytest.approx(240, abs=45)
    strict = BuildRecipe(modalities=modalities, signals=SignalsConfig(max_desync_ms=80))
    (drop,) = _weave(path, strict)
    assert isinstance(drop, Drop)
    assert drop.reason == "out-of-sync"
    together = make_clip(tmp_path / "together.mp4", 8, flashes=flashes, tone=flashes)
    assert all(isinstance(outcome, Sample) for outcome in _weave(together, strict))


def test_a_clip_whose_sound_claims_the_same_time_twice_is_dropped(tmp_path: Path) -> None:
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]
    parts: list[bytes] = []
    for name, offset_s, picture_s in (("a", "0", 0.0), ("b", "4.7", 0.3)):  # the sound's clock was set back by 0.3 s
        part = make_clip(tmp_path / f"{name}.mkv", 5, video_start_s=picture_s, audio_codec="mp2")
        stream = part.with_suffix(".ts")
        copy = ["-c", "copy", "-copyts", "-output_ts_offset", offset_s, "-muxdelay", "0", "-muxpreload", "0"]
        subprocess.run([*ffmpeg, "-i", str(part), *copy, str(stream)], check=True)
        parts.append(stream.read_bytes())
    doubled = tmp_path / "doubled.ts"
    doubled.write_bytes(b"".join(parts))
    first, second, *_ = _weave(doubled, _recipe(length_s=4.0))
    assert isinstance(first, Sample)
    assert isinstance(second, Drop)
    assert second.reason == "sound-overlaps"
    assert 250 < float(second.detail.split()[0]) < 350
