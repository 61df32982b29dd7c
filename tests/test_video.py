"""Movies hold a clip's pictures at their own times and its sound with them, encoded anew or copied."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import imageio_ffmpeg
import numpy as np
import pytest

from omniloom.modalities import Rejected, Sample, remux, video
from omniloom.modalities.base import Waveform, read
from omniloom.pipeline.clips import ClipsConfig
from omniloom.pipeline.extract import weave
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.sources import Source, identify
from tests import independent
from tests.media import make_clip

MS = 1_000_000
TICK_NS = 10**9 / 90_000
PICTURES = "-f lavfi -i testsrc2=s=160x96:r=25:d=5"
SOUND = "-f lavfi -i sine=f=440:r=48000:d=5"
X264 = "-c:v libx264 -preset veryfast -bf 3 -g 40 -x264-params threads=1"
X265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=3:keyint=40:open-gop=1:pools=1"
SOURCES = {
    "open-gop.mp4": f"{X264}:open-gop=1 -c:a aac",
    "annex-b.ts": f"{X264}:open-gop=1 -c:a aac",
    "millisecond.mkv": f"{X264} -c:a libopus",
    "counted.avi": f"{X264} -c:a mp3",
    "b-frames.avi": "-c:v mpeg4 -bf 2 -g 40 -q:v 4 -c:a mp3",
    "part2.mp4": "-c:v mpeg4 -bf 2 -g 40 -q:v 4 -c:a aac",
    "hevc.mkv": f"{X265} -c:a ac3",
    "hevc.ts": f"{X265} -c:a mp2",
    "vp9.webm": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 10 -g 40 -c:a libopus",
    "av1.mkv": "-c:v libaom-av1 -usage realtime -cpu-used 8 -g 40 -c:a flac",
    "mpeg2.ts": "-c:v mpeg2video -bf 2 -g 40 -q:v 4 -c:a mp2",
    "mpeg2.mpg": "-c:v mpeg2video -bf 2 -g 40 -q:v 4 -c:a mp2",
    "intra.avi": "-c:v mjpeg -q:v 4 -c:a pcm_s16le",
}


class Seen(NamedTuple):
    """A picture of a source: on screen during [start_ns, end_ns); frame as decoded."""

    start_ns: int
    end_ns: int
    frame: av.VideoFrame

    @property
    def rgb(self) -> np.ndarray:
        return self.frame.to_ndarray(format="rgb24")


def ffmpeg(*arguments: object) -> None:
    words = [
        word
        for argument in arguments
        for word in ([str(argument)] if isinstance(argument, Path) else str(argument).split())
    ]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *words], check=True)


def source(path: Path) -> Path:
    ffmpeg(PICTURES, SOUND, SOURCES[path.name], path)
    return path


def seen(path: Path) -> list[Seen]:
    """All pictures of the file, decoded from its start."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = list(container.decode(stream))
        ticks: list[Any] = list(range(len(frames))) if path.suffix == ".avi" else [frame.pts for frame in frames]
        starts = [remux.to_ns(tick, Fraction(stream.time_base or 1)) for tick in ticks]
    return [
        Seen(start, end, frame)
        for start, end, frame in zip(starts, [*starts[1:], starts[-1] + 40 * MS], frames, strict=True)
    ]


def on_screen(pictures: list[Seen], start_ns: int, end_ns: int) -> list[Seen]:
    return [picture for picture in pictures if picture.start_ns < end_ns and picture.end_ns > start_ns]


def copied(path: Path, start_ns: int, end_ns: int, audio: Waveform | None = None) -> video.Movie:
    """The movie that the recorder makes of [start_ns, end_ns) when it is handed the packets as a build hands them."""
    recorder: Any = video.recorder(video.Config(codec="copy"))
    with av.open(str(path)) as container:
        pictures: Any = container.streams.video[0]
        sounds: Any = container.streams.audio[0] if container.streams.audio else None
        coded: list[av.Packet] = []
        heard: list[av.Packet] = []
        for packet in container.demux([stream for stream in (pictures, sounds) if stream is not None]):
            if packet.size:
                (coded if packet.stream is pictures else heard).append(packet)

        def at(packet: av.Packet) -> int:
            return remux.to_ns(packet.pts or 0, packet.time_base)

        first = max((n for n, packet in enumerate(coded) if packet.is_keyframe and at(packet) <= start_ns), default=0)
        last = max(n for n, packet in enumerate(coded) if at(packet) < end_ns)
        last = len(coded) if path.suffix == ".avi" else last + 1
        ends = [remux.to_ns((packet.pts or 0) + (packet.duration or 0), packet.time_base) for packet in heard]
        over = [n for n, packet in enumerate(heard) if at(packet) < end_ns and ends[n] > start_ns]
        sound = heard[max(0, over[0] - 1) : over[-1] + 1] if over else []
        before = [(packet.pts, packet.dts, bytes(packet)) for packet in [*coded, *heard]]
        recorder.coded(pictures, coded[first:last], sounds, sound, start_ns, end_ns)
        assert before == [(packet.pts, packet.dts, bytes(packet)) for packet in [*coded, *heard]], "packets changed"
    return recorder.finish(audio)


def encoded(codec: Any, pictures: list[Seen], start_ns: int, audio: Waveform | None = None) -> video.Movie:
    recorder: Any = video.recorder(video.Config(codec=codec))
    for picture in pictures:
        recorder.picture(picture.frame, max(0, picture.start_ns - start_ns))
    return recorder.finish(audio)


def quiet(start_ns: int, end_ns: int) -> Waveform:
    return Waveform(np.zeros((end_ns - start_ns) * 16_000 // 10**9, np.int16))


def save(movie: video.Movie, path: Path) -> Path:
    assert movie.data is not None
    path.write_bytes(movie.data)
    return path


@pytest.mark.parametrize("name", SOURCES)
def test_a_copy_reads_back_as_the_pictures_of_the_source(name: str, tmp_path: Path) -> None:
    path = source(tmp_path / name)
    pictures = seen(path)
    start_ns, end_ns = pictures[53].start_ns, pictures[101].start_ns
    movie = copied(path, start_ns, end_ns, quiet(start_ns, end_ns))
    own = pictures[53:101]
    assert list(movie.pts_ns) == [picture.start_ns - start_ns for picture in own]
    assert movie.has_audio
    back = read(video, video.encode(movie))
    assert np.array_equal(back.rgb, np.stack([picture.rgb for picture in own]))
    assert np.array_equal(back.pts_ns, movie.pts_ns)
    # A player sees the clip and nothing else, though the file holds more.
    assert movie.skip > 0 or name == "intra.avi"
    played = independent.pictures(save(movie, tmp_path / "copy.mp4"))
    assert len(played.pts_ns) == len(own)
    assert np.abs(np.array(played.pts_ns) - movie.pts_ns).max() <= TICK_NS


@pytest.mark.parametrize("name", ["open-gop.mp4", "b-frames.avi", "hevc.ts"])
def test_a_build_copies_every_picture_of_every_clip(name: str, tmp_path: Path) -> None:
    path = source(tmp_path / name)
    recipe = BuildRecipe(
        modalities=("frames", "video", "audio"),
        clips=ClipsConfig(length_s=1.7, min_s=0.5),
        sections={"video": video.Config(codec="copy")},
    )
    found = Source(str(path), identify(str(path)))
    samples = [sample for sample in weave(found, recipe, lambda ref, *_: None) if isinstance(sample, Sample)]
    assert len(samples) == 3
    pictures = seen(path)
    for sample in samples:
        clip, part = sample.clip, sample.parts["video"]
        own = [picture for picture in pictures if clip.start_ns <= picture.start_ns < clip.end_ns]
        back = read(video, part)
        assert back.has_audio
        assert list(back.pts_ns) == [picture.start_ns - clip.start_ns for picture in own]
        assert np.array_equal(back.rgb, np.stack([picture.rgb for picture in own]))


def test_a_copy_of_a_files_beginning_and_end_misses_nothing(tmp_path: Path) -> None:
    path = source(tmp_path / "open-gop.mp4")
    pictures = seen(path)
    for first, last in ((0, 30), (100, 125)):
        end_ns = pictures[last - 1].end_ns
        movie = copied(path, pictures[first].start_ns, end_ns, quiet(pictures[first].start_ns, end_ns))
        assert len(movie.pts_ns) == last - first
        back = read(video, video.encode(movie))
        assert np.array_equal(back.rgb, np.stack([picture.rgb for picture in pictures[first:last]]))
        assert len(independent.pictures(save(movie, tmp_path / "copy.mp4")).pts_ns) == last - first


def test_pictures_that_the_source_hides_stay_hidden(tmp_path: Path) -> None:
    ffmpeg("-ss 2.2 -i", source(tmp_path / "open-gop.mp4"), "-c copy", tmp_path / "edited.mp4")
    pictures = seen(tmp_path / "edited.mp4")
    with av.open(str(tmp_path / "edited.mp4")) as container:
        assert any(packet.is_discard for packet in container.demux(video=0)), "the fixture hides nothing"
    movie = copied(tmp_path / "edited.mp4", pictures[0].start_ns, pictures[20].start_ns)
    assert movie.skip > 0
    assert np.array_equal(read(video, video.encode(movie)).rgb, np.stack([picture.rgb for picture in pictures[:20]]))


def test_a_still_that_stood_before_the_clip_is_its_first_picture(tmp_path: Path) -> None:
    times = [0, 0.04, 0.08, 3.0, 3.04, 3.1]
    path = make_clip(tmp_path / "slides.mkv", picture_times=times, tone=False)
    pictures = seen(path)
    movie = copied(path, 1_500 * MS, 3_050 * MS)
    assert list(movie.pts_ns) == [0, 1_500 * MS, 1_540 * MS]
    assert np.array_equal(read(video, video.encode(movie)).rgb, np.stack([picture.rgb for picture in pictures[2:5]]))
    played = independent.pictures(save(movie, tmp_path / "copy.mp4"))
    assert [round(pts / MS) for pts in played.pts_ns] == [0, 1_500, 1_540]


@pytest.mark.parametrize(
    "turn", ["-display_rotation 90", "-display_rotation 180", "-display_hflip", "-display_rotation 90 -display_vflip"]
)
def test_a_copy_keeps_how_its_pictures_are_turned(turn: str, tmp_path: Path) -> None:
    ffmpeg(turn, "-i", source(tmp_path / "part2.mp4"), "-c copy", tmp_path / "turned.mp4")
    pictures = seen(tmp_path / "turned.mp4")
    movie = copied(tmp_path / "turned.mp4", 0, pictures[3].start_ns)
    ffmpeg("-i", tmp_path / "turned.mp4", "-frames:v 3 -pix_fmt rgb24 -f rawvideo", tmp_path / "upright.raw")
    upright = np.fromfile(tmp_path / "upright.raw", np.uint8).reshape(3, movie.height, movie.width, 3)
    back = read(video, video.encode(movie))
    assert (back.width, back.height) == (movie.width, movie.height) == ((96, 160) if "90" in turn else (160, 96))
    assert np.abs(back.rgb.astype(int) - upright).mean() < 3


def test_a_copy_keeps_the_shape_of_its_pixels(tmp_path: Path) -> None:
    ffmpeg(PICTURES, "-vf setsar=16/15 -c:v mpeg4", tmp_path / "pal.mp4")
    movie = copied(tmp_path / "pal.mp4", 0, 400 * MS)
    assert movie.pixel_aspect == pytest.approx(16 / 15)
    with av.open(str(save(movie, tmp_path / "copy.mp4"))) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 15)


def test_the_same_clip_gives_the_same_bytes(tmp_path: Path) -> None:
    path = source(tmp_path / "open-gop.mp4")
    tone = Waveform((5000 * np.sin(np.arange(32_000) / 9)).astype(np.int16))
    pictures = on_screen(seen(path), 0, 2000 * MS)
    assert copied(path, 0, 2000 * MS, tone).data == copied(path, 0, 2000 * MS, tone).data
    for codec in ("h264", "vp9"):
        assert encoded(codec, pictures, 0, tone).data == encoded(codec, pictures, 0, tone).data


@pytest.mark.parametrize(
    ("options", "why"),
    [("-c:v libvpx -deadline realtime", "cannot hold libvpx|cannot hold vp8"), ("-c:v ffv1", "cannot hold ffv1")],
)
def test_a_codec_that_mp4_cannot_hold_is_a_drop_that_names_the_repair(options: str, why: str, tmp_path: Path) -> None:
    ffmpeg(PICTURES, "-t 1", options, tmp_path / "a.mkv")
    with pytest.raises(Rejected, match=why) as rejected:
        copied(tmp_path / "a.mkv", 0, 500 * MS)
    assert (rejected.value.stage, rejected.value.reason) == ("extract", "codec-not-copyable")
    assert "video.codec=h264" in rejected.value.detail


def test_a_clip_whose_keyframe_is_missing_is_not_copied(tmp_path: Path) -> None:
    path = source(tmp_path / "open-gop.mp4")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size and (packet.pts or 0) > 0]
        with pytest.raises(remux.CannotCopyError, match="no keyframe"):
            remux.cut(container.streams.video[0], packets, None, [], 0, 1000 * MS)


def test_sound_that_mp4_cannot_hold_is_encoded(tmp_path: Path) -> None:
    path = source(tmp_path / "intra.avi")
    tone = Waveform((5000 * np.sin(np.arange(16_000) / 9)).astype(np.int16))
    movie = copied(path, 0, 1000 * MS, tone)
    assert (movie.has_audio, movie.audio_offset_ns) == (True, 0)
    with av.open(str(save(movie, tmp_path / "copy.mp4"))) as container:
        assert container.streams.audio[0].codec_context.name == "aac"


def test_a_clip_whose_sound_is_unusable_is_copied_without_it(tmp_path: Path) -> None:
    movie = copied(source(tmp_path / "open-gop.mp4"), 0, 1000 * MS, None)
    assert not movie.has_audio
    with av.open(str(save(movie, tmp_path / "copy.mp4"))) as container:
        assert not container.streams.audio


FILMS = {
    "a.mp4": "aac",
    "a.mov": "alac",
    "a.mkv": "libopus",
    "b.mkv": "flac",
    "a.ts": "aac",
    "c.mkv": "ac3",
}


@pytest.mark.parametrize("how", ["copy", "h264", "vp9"])
@pytest.mark.parametrize("name", FILMS)
def test_flash_and_beep_fall_together_in_the_movie(name: str, how: str, tmp_path: Path) -> None:
    spans = [(at, at + 0.2) for at in (0.8, 2.4, 3.6)]
    path = make_clip(tmp_path / name, 5, flashes=spans, tone=spans, audio_codec=FILMS[name], options={"bf": "2"})
    pictures = seen(path)
    base_ns = pictures[0].start_ns
    start_ns, end_ns = pictures[43].start_ns, pictures[108].start_ns  # 1.72 s and 4.32 s, not keyframes
    heard = independent.sound(path)
    place = (np.arange((end_ns - start_ns) * 16_000 // 10**9) / 16_000 + start_ns / 1e9) * heard.rate_hz - heard.first
    audio = Waveform((heard.samples[np.clip(place.astype(int), 0, len(heard.samples) - 1)] * 30_000).astype(np.int16))
    own = on_screen(pictures, start_ns, end_ns)
    movie = copied(path, start_ns, end_ns, audio) if how == "copy" else encoded(how, own, start_ns, audio)
    saved = save(movie, tmp_path / "movie.mp4")
    played, sounded = independent.pictures(saved), independent.sound(saved)
    wanted = [at + base_ns / 1e9 - start_ns / 1e9 for at in (2.4, 3.6)]
    assert np.array(played.flashes_ns) / 1e9 == pytest.approx(wanted, abs=0.002)
    assert sounded.beeps_s == pytest.approx([at - start_ns / 1e9 for at in heard.beeps_s[1:]], abs=0.005)
    assert sounded.beeps_s == pytest.approx(wanted, abs=0.04)
    if how == "copy":
        assert -300 * MS < movie.audio_offset_ns < 30 * MS


@pytest.mark.parametrize("codec", ["h264", "vp9", "copy"])
@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
def test_variable_frame_rate_survives(name: str, codec: str, tmp_path: Path) -> None:
    steps = np.random.default_rng(3).choice([0.011, 0.0334, 0.04, 0.1, 0.45], 60)
    path = make_clip(tmp_path / name, picture_times=np.cumsum(steps).round(4).tolist(), tone=False, options={"bf": "2"})
    pictures = seen(path)
    own = pictures[17:49]
    start_ns, end_ns = own[0].start_ns, own[-1].end_ns
    movie = copied(path, start_ns, end_ns) if codec == "copy" else encoded(codec, own, start_ns)
    times_ns = np.array([picture.start_ns - start_ns for picture in own])
    assert np.array_equal(movie.pts_ns, times_ns)
    assert np.array_equal(read(video, video.encode(movie)).pts_ns, times_ns)
    played = independent.pictures(save(movie, tmp_path / "movie.mp4"))
    assert len(played.pts_ns) == len(own)
    assert np.abs(np.array(played.pts_ns) - times_ns).max() <= TICK_NS


@pytest.mark.parametrize("codec", ["h264", "vp9", "copy"])
def test_a_movie_lasts_as_long_as_its_clip(codec: str, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", picture_times=[0, 0.1, 0.3, 0.34, 0.38, 0.9], tone=[(0.2, 0.4)], seconds=1.7)
    pictures = [*seen(path)[:-1], replace_end(seen(path)[-1], 1_700 * MS)]
    movie = (
        copied(path, 0, 1_700 * MS, quiet(0, 1_700 * MS))
        if codec == "copy"
        else encoded(codec, pictures, 0, quiet(0, 1_700 * MS))
    )
    saved = save(movie, tmp_path / "movie.mp4")
    with av.open(str(saved)) as container:
        stream = container.streams.video[0]
        assert (container.duration or 0) / 1e6 == pytest.approx(1.7, abs=0.03)
        assert float((stream.duration or 0) * Fraction(stream.time_base or 1)) == pytest.approx(1.7, abs=0.001)


def replace_end(picture: Seen, end_ns: int) -> Seen:
    return Seen(picture.start_ns, end_ns, picture.frame)


@pytest.mark.parametrize("codec", ["h264", "vp9", "copy"])
@pytest.mark.parametrize("size", [(64, 48), (71, 51), (18, 2)])
def test_one_picture_makes_a_movie_of_any_size(size: tuple[int, int], codec: str, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", 0.04, size=size, tone=False, pix_fmt="yuv444p", video_codec="libx264")
    [picture] = seen(path)
    movie = copied(path, 0, 40 * MS) if codec == "copy" else encoded(codec, [picture], 0)
    assert list(movie.pts_ns) == [0]
    back = read(video, video.encode(movie))
    assert (back.width, back.height) == (movie.width, movie.height)
    assert back.width in (size[0], size[0] - 1)
    assert len(independent.pictures(save(movie, tmp_path / "movie.mp4")).pts_ns) == 1


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_pictures_closer_than_a_tick_all_survive_in_order(codec: str, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 0.4, tone=False)
    dense = [Seen(n * 1000, (n + 1) * 1000, picture.frame) for n, picture in enumerate(seen(path))]
    movie = encoded(codec, dense, 0)
    assert list(movie.pts_ns) == [picture.start_ns for picture in dense]
    played = independent.pictures(save(movie, tmp_path / "movie.mp4")).pts_ns
    assert len(played) == len(dense)
    assert all(before < after for before, after in pairwise(played))


def test_a_movie_with_a_picture_too_many_is_damaged(tmp_path: Path) -> None:
    path = source(tmp_path / "part2.mp4")
    part = video.encode(copied(path, 1_000 * MS, 1_400 * MS))
    for name, change in (("skip", 1), ("after", -1), ("skip", 1000)):
        value: Any = part.facts[name]
        with pytest.raises(ValueError, match="damaged MP4"):
            read(video, replace(part, facts={**part.facts, name: value + change}))


def test_codecs_that_are_none_of_ours_are_refused() -> None:
    with pytest.raises(ValueError, match="copy or none"):
        video.Config(codec="xvid")  # pyright: ignore[reportArgumentType]
    assert video.recorder(video.Config(codec="none")) is None
