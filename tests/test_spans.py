"""A long source is split where any part of it can be decoded by itself, and only there."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline.probe import probe
from omniloom.pipeline.spans import DAWN, DUSK, Span, split
from tests.media import make_clip

SMALL: dict[str, Any] = {"fps": 5, "size": (32, 32), "tone": False}


def spans(path: Path, length_s: float) -> list[Span] | None:
    return split(str(path), probe(str(path)), length_s)


def borders_s(path: Path, length_s: float) -> list[float]:
    found = spans(path, length_s)
    assert found is not None
    assert (found[0].start_ns, found[-1].end_ns) == (DAWN, DUSK)
    assert [span.end_ns for span in found[:-1]] == [span.start_ns for span in found[1:]]
    return [span.start_ns / NS_PER_S for span in found[1:]]


def copied(path: Path, to: Path, *options: str) -> Path:
    """The same packets in another container, or with another clock."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-c", "copy", *options, str(to)]
    subprocess.run(command, check=True)
    return to


def test_spans_have_the_length_asked_for_and_a_short_remainder_joins_the_last(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", seconds=40, **SMALL)
    assert borders_s(clip, 10) == [10, 20, 30]
    assert borders_s(clip, 9) == [9, 18, 27]  # and 4 s more in the last
    assert borders_s(clip, 7) == [7, 14, 21, 28, 35]  # the remainder of 5 s is a span


def test_spans_are_counted_from_the_first_picture(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "late.mkv", seconds=30, video_start_s=4.2, **SMALL)
    assert borders_s(clip, 10) == [14.2, 24.2]


def test_a_source_of_less_than_one_and_a_half_lengths_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(tmp_path / "a.mp4", seconds=14, **SMALL)
    info = probe(str(clip))
    clip.unlink()
    assert split(str(clip), info, 10) is None


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts", "a.flv"])
def test_h264_with_b_frames_and_open_groups_is_split_in_every_container_with_times(tmp_path: Path, name: str) -> None:
    options = {"preset": "veryfast", "x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}
    clip = make_clip(tmp_path / "raw.mp4", seconds=20, options=options, **SMALL)
    assert len(borders_s(copied(clip, tmp_path / name), 5)) == 3


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "frag_keyframe+empty_moov+skip_trailer"])
def test_a_fragmented_file_is_split(tmp_path: Path, flags: str) -> None:
    clip = make_clip(tmp_path / "raw.mp4", seconds=20, **SMALL)
    assert len(borders_s(copied(clip, tmp_path / "a.mp4", "-movflags", flags), 5)) == 3


def test_a_variable_frame_rate_is_no_reason_to_keep_a_source_whole(tmp_path: Path) -> None:
    times = [k * 0.1 + (k // 40) * 3.7 for k in range(200)]
    clip = make_clip(tmp_path / "a.mkv", picture_times=times, size=(32, 32), tone=False)
    assert len(borders_s(clip, 5)) == 6


def test_avi_knows_no_presentation_times_and_stays_whole(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.avi", seconds=20, video_codec="mpeg4", **SMALL)
    assert spans(clip, 5) is None


def test_sound_without_pictures_stays_whole(tmp_path: Path) -> None:
    assert spans(make_clip(tmp_path / "a.m4a", seconds=20, video=False), 5) is None


def test_a_file_that_was_cut_short_stays_whole(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", seconds=40, container_options={"movflags": "faststart"}, **SMALL)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 3 // 4])
    assert spans(clip, 5) is None


def test_a_source_whose_clock_jumps_stays_whole(tmp_path: Path) -> None:
    times = [k / 5 + (70 if k > 60 else 0) for k in range(120)]
    clip = make_clip(tmp_path / "a.mkv", picture_times=times, size=(32, 32), tone=False)
    assert spans(clip, 5) is None


def test_a_source_with_a_keyframe_in_two_minutes_stays_whole(tmp_path: Path) -> None:
    options = {"x264-params": "scenecut=0:keyint=100000"}
    clip = make_clip(tmp_path / "a.mp4", seconds=130, fps=2, size=(32, 32), tone=False, gop=100_000, options=options)
    assert spans(clip, 20) is None


def test_a_transport_stream_whose_clock_is_set_back_stays_whole(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.ts", seconds=20, **SMALL)
    twice = tmp_path / "twice.ts"
    twice.write_bytes(2 * clip.read_bytes())
    assert spans(twice, 5) is None


def test_packets_that_share_a_time_keep_a_source_whole(tmp_path: Path) -> None:
    times = [k / 5 for k in range(100)]
    times[50] = times[49] + 0.0001  # equal, in Matroska's milliseconds
    clip = make_clip(tmp_path / "a.mkv", picture_times=times, size=(32, 32), tone=False, options={"bf": "0"})
    assert spans(clip, 5) is None


def test_bytes_that_are_damaged_in_the_middle_raise_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mkv", seconds=30, **SMALL)
    data = bytearray(clip.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    clip.write_bytes(data)
    spans(clip, 5)


def test_a_span_says_what_it_is() -> None:
    texts = [str(span) for span in (Span(DAWN, 900 * NS_PER_S), Span(900 * NS_PER_S, 1800 * NS_PER_S), Span(0, DUSK))]
    assert texts == ["up to 900 s", "from 900 s to 1800 s", "from 0 s"]
    with pytest.raises(ValueError, match="end_ns > start_ns"):
        Span(5, 5)
