"""Sound can be read at any time of a source's clock, and reads the same wherever reading begins."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline import sound
from omniloom.pipeline.probe import probe
from omniloom.pipeline.sound import Soundtrack
from omniloom.pipeline.tape import SAMPLE_RATE_HZ
from tests.media import make_clip

KINDS = {
    "aac.mp4": ["-c:a", "aac", "-ar", "44100"],
    "aac-low.mkv": ["-c:a", "aac", "-b:a", "24k", "-ar", "48000"],
    "opus.webm": ["-c:a", "libopus", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"],
    "vorbis.mkv": ["-c:a", "libvorbis", "-ar", "44100"],
    "mp3.mkv": ["-c:a", "libmp3lame", "-ar", "44100"],
    "ac3.ts": ["-c:a", "ac3", "-ar", "48000"],
    "pcm.mov": ["-c:a", "pcm_s16le", "-ar", "22050"],
    "flac.mkv": ["-c:a", "flac", "-ar", "48000"],
    "mp3.avi": ["-c:a", "libmp3lame", "-ar", "44100"],
    "a.flv": ["-c:a", "aac", "-ar", "44100"],
}


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "STRETCH_NS", 10 * NS_PER_S)
    monkeypatch.setattr(sound, "_SEARCH_NS", 2 * NS_PER_S)
    monkeypatch.setattr(sound, "_OVERRUN_NS", 4 * NS_PER_S)


@pytest.fixture(scope="module", params=list(KINDS))
def noisy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """35 s of noise that swells and fades, and what FFmpeg itself decodes of it."""
    path = tmp_path_factory.mktemp("sounds") / str(request.param)
    wave = "aevalsrc='(0.3*random(0)-0.15)*(1+sin(t))+0.2*sin(2*PI*(300+20*t)*t)':duration=35:sample_rate=48000"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]
    inputs = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=35", "-f", "lavfi", "-i", wave]
    subprocess.run([*ffmpeg, *inputs, "-ac", "1", *KINDS[request.param], str(path)], check=True)
    command = [*ffmpeg, "-i", str(path), "-map", "0:a", "-ac", "1", "-ar", "16000", "-f", "s16le", "-"]
    return path, np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.int16)


def test_reading_begins_anywhere_and_hears_the_same(noisy: tuple[Path, np.ndarray]) -> None:
    path, _ = noisy
    info = probe(str(path))
    first_ns = (Soundtrack(str(path), info).first_ns or 0) // NS_PER_S * NS_PER_S
    whole = Soundtrack(str(path), info).read(first_ns, first_ns + 34 * NS_PER_S)
    assert whole.present[SAMPLE_RATE_HZ:].all()
    assert whole.overlap_ms == 0
    for start_s, end_s in ((3, 9), (19, 21), (28, 34), (10, 20), (25, 26)):
        part = Soundtrack(str(path), info).read(first_ns + start_s * NS_PER_S, first_ns + end_s * NS_PER_S)
        span = slice(start_s * SAMPLE_RATE_HZ, end_s * SAMPLE_RATE_HZ)
        assert np.array_equal(part.samples, whole.samples[span])
        assert np.array_equal(part.present, whole.present[span])


def test_stretches_join_in_time(noisy: tuple[Path, np.ndarray]) -> None:
    path, reference = noisy
    info = probe(str(path))
    track = Soundtrack(str(path), info)
    start_ns = track.first_ns or 0
    heard = track.read(start_ns, start_ns + 33 * NS_PER_S).samples
    # FFmpeg counts from the stream's first sample and knows no stretches: one lag fits everywhere.
    lags = [_lag(heard, reference, second * SAMPLE_RATE_HZ) for second in (4, 8, 11, 14, 18, 21, 26, 31)]
    milliseconds = path.suffix in (".mkv", ".webm", ".flv")
    assert max(lags) - min(lags) <= (16 if milliseconds else 1), lags


def _lag(heard: np.ndarray, reference: np.ndarray, at: int) -> int:
    """Samples by which a second of the reference comes later than what was heard."""
    piece = heard[at : at + SAMPLE_RATE_HZ].astype(np.float64)
    around = reference[at - 1500 : at + SAMPLE_RATE_HZ + 1500].astype(np.float64)
    return int(np.argmax(np.correlate(around, piece, "valid"))) - 1500


def test_blocks_to_listen_to_cover_the_sound_once_and_are_the_same_from_anywhere(
    noisy: tuple[Path, np.ndarray],
) -> None:
    path, _ = noisy
    info = probe(str(path))
    blocks = list(Soundtrack(str(path), info).listening(-(2**62), 2**62))
    assert len(blocks) >= 6
    assert all(before[1] == after[0] for before, after in pairwise(blocks))
    assert blocks[-1][1] - blocks[0][0] == pytest.approx(35 * NS_PER_S, abs=0.15 * NS_PER_S)
    later = list(Soundtrack(str(path), info).listening(22 * NS_PER_S, 23 * NS_PER_S))
    assert later == [block for block in blocks if block[0] < 23 * NS_PER_S and block[1] > 22 * NS_PER_S]


def test_blocks_end_where_it_is_quiet(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mov", 14, fps=5, tone=[(0, 9.1), (9.4, 14)], audio_codec="pcm_s16le")
    (first, second, *_) = Soundtrack(str(path), probe(str(path))).listening(0, 2**62)
    assert 9.1 * NS_PER_S < first[1] < 9.4 * NS_PER_S
    assert second[0] == first[1]


def test_a_source_without_sound_is_silent_and_has_no_blocks(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 2, tone=False)
    track = Soundtrack(str(path), probe(str(path)))
    heard = track.read(0, NS_PER_S)
    assert not heard.present.any()
    assert not heard.samples.any()
    assert track.first_ns is None
    assert not list(track.listening(0, 2**62))
    assert not list(track.spans())
