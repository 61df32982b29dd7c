"""Of several videos and sounds in a file those are read that were asked for; a wrong wish is told what there is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

from omniloom.modalities.sample import Rejected
from omniloom.pipeline.probe import StreamsConfig, probe

NASA = Path(__file__).parents[2] / "shared/data/nasa_13013.mp4"


def _many(path: Path) -> Path:
    """0 video 64x48 eng, 1 video 128x96 ger, 2 audio 8 kHz eng, 3 audio 16 kHz fre, 4 audio 44.1 kHz comment, und."""
    sources = [
        "testsrc2=s=64x48:r=10:d=1",
        "testsrc2=s=128x96:r=10:d=1",
        "sine=d=1:r=8000",
        "sine=d=1:r=16000",
        "sine=d=1:r=44100",
    ]
    inputs = [word for source in sources for word in ("-f", "lavfi", "-i", source)]
    maps = [word for index in range(len(sources)) for word in ("-map", str(index))]
    tags = "-metadata:s:0 language=eng -metadata:s:1 language=ger -metadata:s:2 language=eng -metadata:s:3 language=fre"
    rest = f"{tags} -disposition:a:2 comment -c:v libx264 -preset ultrafast -c:a flac"
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([exe, "-v", "error", *inputs, *maps, *rest.split(), str(path)], check=True)
    return path


def _chosen(path: Path, video: str = "best", audio: str = "best") -> tuple[int | None, int | None]:
    info = probe(str(path), StreamsConfig(video, audio))
    return info.video.index if info.video else None, info.audio.index if info.audio else None


def test_streams_are_chosen_by_rank_index_and_language(tmp_path: Path) -> None:
    path = _many(tmp_path / "many.mkv")
    assert _chosen(path) == (1, 3), "most pixels; the main sound, though a comment has a higher rate"
    assert _chosen(path, "0", "4") == (0, 4)
    assert _chosen(path, "eng", "eng") == (0, 2)
    assert _chosen(path, "de", "fra") == (1, 3), "ISO 639-1 and both forms of 639-2 mean one language"
    assert _chosen(path, "DEU", "fr-CA") == (1, 3)
    assert _chosen(path, audio="none") == (1, None)


@pytest.mark.parametrize(
    ("video", "audio"), [("2", "best"), ("best", "0"), ("9", "best"), ("best", "ja"), ("best", "und")]
)
def test_a_wish_that_no_stream_meets_is_rejected_with_a_list_of_the_streams(
    tmp_path: Path, video: str, audio: str
) -> None:
    path = _many(tmp_path / "many.mkv")
    with pytest.raises(Rejected) as caught:
        probe(str(path), StreamsConfig(video, audio))
    assert (caught.value.stage, caught.value.reason) == ("probe", "no-such-stream")
    for words in ("0 video h264 64x48 eng", "1 video h264 128x96 ger", "3 audio flac 16000 Hz fre"):
        assert words in caught.value.detail


def test_a_sound_file_without_its_sound_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / "sound.flac"
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([exe, "-v", "error", "-f", "lavfi", "-i", "sine=d=1", str(path)], check=True)
    with pytest.raises(Rejected, match="no-streams"):
        probe(str(path), StreamsConfig(audio="none"))


def test_the_best_video_is_one_that_can_be_decoded_and_no_cover(tmp_path: Path) -> None:
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    path = tmp_path / "odd.mkv"
    inputs = "-f lavfi -i testsrc2=s=64x48:r=10:d=1 -f lavfi -i testsrc2=s=320x240:r=10:d=1 -map 0 -map 1"
    codecs = "-c:v:0 libx264 -c:v:1 mpeg4 -bsf:v:1 dump_extra"
    subprocess.run([exe, "-v", "error", *inputs.split(), *codecs.split(), str(path)], check=True)
    assert _chosen(path)[0] == 1
    data = path.read_bytes()
    assert b"V_MPEG4/ISO/ASP" in data
    path.write_bytes(data.replace(b"V_MPEG4/ISO/ASP", b"V_MPEG4/ISO/XXX"))
    assert _chosen(path)[0] == 0
    with pytest.raises(Rejected, match=r"no-such-stream.*1 video \(no decoder\)"):
        probe(str(path), StreamsConfig("1"))

    covered = tmp_path / "covered.mp4"
    inputs = "-f lavfi -i testsrc2=s=64x48:r=10:d=1 -f lavfi -i testsrc2=s=640x480:r=1:d=1 -map 0 -map 1"
    codecs = "-c:v:0 libx264 -c:v:1 png -frames:v:1 1 -disposition:v:1 attached_pic"
    subprocess.run([exe, "-v", "error", *inputs.split(), *codecs.split(), str(covered)], check=True)
    assert _chosen(covered)[0] == 0
    with pytest.raises(Rejected, match=r"no-such-stream.*1 video png 640x480 \(a cover picture\)"):
        probe(str(covered), StreamsConfig("1"))


@pytest.mark.skipif(not NASA.is_file(), reason="the clip with two programmes is not there")
def test_a_real_file_with_two_programmes_gives_the_better_one_or_the_one_asked_for() -> None:
    assert _chosen(NASA) == (3, 4)
    assert _chosen(NASA, "0", "1") == (0, 1)
    assert _chosen(NASA, "en", "en") == (3, 4)


@pytest.mark.parametrize(
    ("video", "audio", "named"),
    [("none", "best", "streams.video"), ("first", "best", "streams.video"), ("best", "", "streams.audio")],
)
def test_a_wish_that_means_nothing_is_refused_at_once_and_the_message_says_what_is_possible(
    video: str, audio: str, named: str
) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        StreamsConfig(video, audio)
    assert '"best"' in str(caught.value)
    assert '"eng"' in str(caught.value)
