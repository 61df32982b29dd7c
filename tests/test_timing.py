"""Pictures and sound keep the container's presentation time: flash and beep are found where they were put."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from omniloom.modalities.sample import to_ns
from omniloom.pipeline.decode import Damage, pictures
from omniloom.pipeline.probe import probe
from omniloom.pipeline.sound import Soundtrack
from omniloom.pipeline.subtitles import read_cues
from omniloom.pipeline.tape import sample_at
from tests.media import beep_onsets, make_clip

FLASH = (2.0, 2.2)
VARIABLE = sorted({*np.cumsum(np.random.default_rng(5).choice([0.02, 0.04, 0.1, 0.3], 24)).round(3).tolist(), 0.0, 2.0})


def _decode(path: Path) -> tuple[list[tuple[int, int]], list[float], np.ndarray]:
    """Times on screen of all pictures, times of white pictures in seconds, and sound from time 0."""
    spans: list[tuple[int, int]] = []
    white: list[float] = []
    info = probe(str(path))
    for item in pictures(str(path), info):
        assert not isinstance(item, Damage), item
        spans.append((item.start_ns, item.end_ns))
        assert item.frame is not None
        if item.frame.to_ndarray(format="gray").mean() > 180:
            white.append(item.start_ns / 1e9)
    heard = Soundtrack(str(path), info).read(0, 60_000_000_000)
    assert not heard.damage
    return spans, white, heard.samples


MUXES = {
    "cfr.mp4": {},
    "cfr.mkv": {},
    "cfr.mov": {"audio_codec": "pcm_s16le"},
    "b-frames.mp4": {"options": {"preset": "medium", "bf": "3"}},
    "ntsc.mp4": {"fps": 30000 / 1001},
    "vfr.mp4": {"picture_times": VARIABLE},
    "vfr.mkv": {"picture_times": VARIABLE},
    "late.mp4": {"audio_start_s": 1.5},
    "late.mkv": {"audio_start_s": 1.5},
    "late.mov": {"audio_start_s": 1.5, "audio_codec": "pcm_s16le"},
    "opus.mkv": {"audio_codec": "libopus", "audio_start_s": 1.5},
    "44100.mp4": {"sample_rate_hz": 44_100},
    "16000.mp4": {"sample_rate_hz": 16_000},
    "late-video.mp4": {"video_start_s": 0.52},
}


@pytest.mark.parametrize("name", list(MUXES))
def test_flash_and_beep_are_where_they_were_put(tmp_path: Path, name: str) -> None:
    options = MUXES[name]
    path = make_clip(tmp_path / name, seconds=4, flashes=[FLASH], tone=[FLASH], **options)  # type: ignore[arg-type]
    spans, white, sound = _decode(path)
    video_start_s = options.get("video_start_s", 0.0)
    assert isinstance(video_start_s, float)
    frame_s = 1 / 25 if "picture_times" not in options else 0.0
    assert abs(white[0] - (2.0 + video_start_s)) <= frame_s + 1e-3
    lossless = options.get("audio_codec") == "pcm_s16le"
    assert beep_onsets(sound)[0] == pytest.approx(2.0, abs=0.001 if lossless else 0.005)
    assert all(a[1] == b[0] for a, b in pairwise(spans)), "each picture lasts until the next"


CONTAINERS = {
    "b-frames.avi": ["-c:v", "libx264", "-bf", "2", "-c:a", "pcm_s16le"],
    "packed.avi": ["-c:v", "mpeg4", "-bf", "2", "-c:a", "mp3"],
    "a.flv": ["-c:v", "libx264", "-bf", "2", "-c:a", "aac"],
    "a.ts": ["-c:v", "libx264", "-bf", "2", "-c:a", "aac"],
    "a.mpg": ["-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2"],
    "a.webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"],
    "a.ogv": ["-c:v", "libtheora", "-c:a", "libvorbis"],
    "fragments.mp4": ["-c:v", "libx264", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"],
}


@pytest.mark.parametrize("name", list(CONTAINERS))
def test_every_container_gives_every_frame_and_keeps_sound_and_picture_together(tmp_path: Path, name: str) -> None:
    source = make_clip(tmp_path / "source.mp4", 4, flashes=[FLASH], tone=[FLASH])
    path = tmp_path / name
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", "-i", str(source)]
    subprocess.run([*command, *CONTAINERS[name], str(path)], check=True)
    spans, white, sound = _decode(path)
    # Theora stores a repeated picture as an empty packet: the one before stays on screen.
    assert len(spans) == 100 or (name == "a.ogv" and len(spans) > 90)
    assert spans[-1][1] - spans[0][0] == pytest.approx(4e9, abs=0.05e9)
    assert white[0] == pytest.approx(beep_onsets(sound)[0], abs=0.041)


def test_every_pts_of_a_variable_rate_survives_to_the_nanosecond(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "v.mp4", seconds=4, picture_times=VARIABLE)
    spans, _, _ = _decode(path)
    assert [start for start, _ in spans] == [to_ns(round(t * 90_000), Fraction(1, 90_000)) for t in VARIABLE]


def test_silence_stands_where_a_late_stream_has_no_sound(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "late.mov", seconds=3, audio_start_s=1.5, audio_codec="pcm_s16le")
    _, _, sound = _decode(path)
    assert not sound[: sample_at(1_499_000_000)].any()
    assert np.abs(sound[sample_at(1_501_000_000) :][:200]).max() > 5000


def test_an_edit_list_moves_both_tracks_together(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "a.mp4", seconds=4, flashes=[FLASH], tone=[FLASH], options={"preset": "medium", "bf": "2"}
    )
    cut = tmp_path / "cut.mp4"
    command = ["-v", "error", "-ss", "1.3", "-i", str(path), "-c", "copy", str(cut)]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *command], check=True)
    _, white, sound = _decode(cut)
    assert white[0] == pytest.approx(0.7, abs=0.041)
    assert beep_onsets(sound)[0] == pytest.approx(0.7, abs=0.005)


def test_a_missing_stretch_of_sound_is_silence_and_what_follows_keeps_its_time(tmp_path: Path) -> None:
    import av

    whole = make_clip(tmp_path / "whole.mkv", seconds=5, tone=[(0.5, 0.6), (4.0, 4.2)], audio_codec="pcm_s16le")
    holed = tmp_path / "holed.mkv"
    with av.open(str(whole)) as source, av.open(str(holed), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is None or (packet.stream.type == "audio" and 1.0 <= packet.pts * packet.time_base < 2.7):
                continue
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    _, _, sound = _decode(holed)
    assert beep_onsets(sound) == pytest.approx([0.5, 4.0], abs=0.0015)


def test_slow_drift_between_timestamps_and_samples_is_taken_out(tmp_path: Path) -> None:
    import av

    steady = make_clip(tmp_path / "steady.mkv", seconds=30, fps=5, tone=[(29.0, 29.2)], audio_codec="pcm_s16le")
    drifting = tmp_path / "drifting.mkv"
    with av.open(str(steady)) as source, av.open(str(drifting), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio":  # the clock that stamped the packets runs 0.2 % fast
                packet.pts = packet.dts = round(packet.pts * 1.002)
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    _, _, sound = _decode(drifting)
    assert beep_onsets(sound)[0] == pytest.approx(29.0 * 1.002, abs=0.002)


def test_times_are_exact_integers_rounded_to_nearest() -> None:
    assert to_ns(1, Fraction(1, 3)) == 333_333_333
    assert to_ns(2, Fraction(1, 3)) == 666_666_667
    assert to_ns(-1, Fraction(1, 3)) == -333_333_333
    assert to_ns(10**15, Fraction(1001, 30_000)) == 10**15 * 1001 * 10**9 // 30_000 + 1
    assert sample_at(1_000_000_000) == 16_000
    assert sample_at(31_250) == 1


def test_subtitle_lines_come_with_their_times() -> None:
    path = Path(__file__).parents[2] / "shared/data/nasa_13013.mp4"
    if not path.exists():
        pytest.skip("the shared NASA clip is not here")
    cues = read_cues(str(path), probe(str(path)))
    assert "the Webb" in cues[0].text
    assert (cues[0].start_ns, cues[0].end_ns) == (210_000_000, 4_260_000_000)
    assert len(cues) == 4
