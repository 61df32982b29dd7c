"""Interlaced pictures come out without combs, as many and at the same times; progressive ones are left alone."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from omniloom.modalities import Sample, load
from omniloom.modalities.base import read
from omniloom.pipeline.clips import ClipsConfig
from omniloom.pipeline.decode import Damage, Picture, pictures
from omniloom.pipeline.extract import weave
from omniloom.pipeline.interlace import deinterlace
from omniloom.pipeline.probe import probe
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.sources import Source, identify
from omniloom.pipeline.spans import DAWN, DUSK, Span

WIDTH, HEIGHT, FIELDS = 160, 96, 48


def _moments() -> np.ndarray:
    """uint8 (FIELDS, HEIGHT, WIDTH): a bright bar with soft edges that moves 3 pixels a field, over a slope of grey."""
    x = np.arange(WIDTH)
    bars = [40 + 160 / (1 + np.exp(np.abs(x - 10 - 3 * k) - 6)) for k in range(FIELDS)]
    slope = np.linspace(0, 30, HEIGHT)[:, None]
    return np.array([slope + bar for bar in bars]).astype(np.uint8)


def _encode(path: Path, moments: np.ndarray, *options: str) -> Path:
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    raw = f"-f rawvideo -pix_fmt gray -s {moments.shape[2]}x{moments.shape[1]} -r 50 -i -".split()
    command = [exe, "-v", "error", *raw, *options, "-threads", "1", "-y", str(path)]
    subprocess.run(command, input=moments.tobytes(), check=True)
    return path


KINDS = {
    "mpeg2-top": ("a.ts", "top", "-c:v mpeg2video -q:v 2 -flags +ildct+ilme"),
    "mpeg2-bottom": ("a.mkv", "bottom", "-c:v mpeg2video -q:v 2 -flags +ildct+ilme"),
    "h264-top": ("a.mp4", "top", "-c:v libx264 -crf 8 -flags +ildct+ilme -x264-params tff=1"),
    "h264-bottom": ("a.mkv", "bottom", "-c:v libx264 -crf 8 -flags +ildct+ilme -x264-params bff=1"),
}


def _interlaced(folder: Path, kind: str) -> Path:
    name, first, codec = KINDS[kind]
    order = "tff" if first == "top" else "bff"
    filters = f"tinterlace=mode=interleave_{first},setfield={order},format=yuv420p"
    return _encode(folder / name, _moments(), "-vf", filters, *codec.split())


def _pictures(path: Path) -> list[Picture]:
    items = list(pictures(str(path), probe(str(path))))
    assert all(isinstance(item, Picture) for item in items)
    return [item for item in items if isinstance(item, Picture)]


def _luma(picture: Picture | Damage) -> np.ndarray:
    assert isinstance(picture, Picture)
    assert picture.frame is not None
    return picture.frame.to_ndarray(format="gray").astype(float)


def _comb(luma: np.ndarray) -> float:
    """How much lines differ from the mean of the lines beside them."""
    return float(np.abs(2 * luma[1:-1] - luma[:-2] - luma[2:]).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_moving_bar_has_no_combs_and_shows_the_moment_of_its_time(tmp_path: Path, kind: str) -> None:
    before = _pictures(_interlaced(tmp_path, kind))
    assert len(before) == FIELDS // 2
    assert all(picture.frame is not None and picture.frame.interlaced_frame for picture in before)
    after = list(deinterlace(iter(before)))
    assert [(p.start_ns, p.end_ns) for p in after if isinstance(p, Picture)] == [(p.start_ns, p.end_ns) for p in before]
    moments = _moments().astype(float)
    for index in range(1, FIELDS // 2 - 1):
        progressive, was, now = moments[2 * index], _luma(before[index]), _luma(after[index])
        assert _comb(was) > 10 * _comb(progressive), "the control: it is a comb"
        assert _comb(now) < 0.15 * _comb(was)
        errors = [float(np.abs(now - moments[2 * index + step]).mean()) for step in (-1, 0, 1)]
        assert errors[1] < 2
        assert errors[1] < 0.5 * min(errors[0], errors[2]), "the first field's moment, not the second's"


def test_progressive_pictures_are_the_same_objects_and_are_not_held_back(tmp_path: Path) -> None:
    path = _encode(tmp_path / "p.mp4", _moments(), "-c:v", "libx264", "-pix_fmt", "yuv420p")
    waiting = iter(_pictures(path))
    stage = deinterlace(waiting)
    for picture in _pictures(path):
        out = next(stage)
        assert isinstance(out, Picture)
        assert (out.start_ns, out.end_ns) == (picture.start_ns, picture.end_ns)
    seen = _pictures(path)
    assert all(out is given for out, given in zip(deinterlace(seen), seen, strict=True))


def test_a_picture_depends_on_its_neighbours_only_and_so_not_on_where_decoding_began(tmp_path: Path) -> None:
    before = _pictures(_interlaced(tmp_path, "h264-top"))
    whole = list(deinterlace(before))
    for begin in (1, 7, 20):
        part = list(deinterlace(before[begin:]))
        assert all((_luma(a) == _luma(b)).all() for a, b in zip(part[1:], whole[begin + 1 :], strict=True))
    for index in range(1, len(before) - 1):
        assert (_luma(list(deinterlace(before[index - 1 : index + 2]))[1]) == _luma(whole[index])).all()


def test_changes_of_flag_and_size_damage_and_gaps_keep_order_times_and_neighbours(tmp_path: Path) -> None:
    woven = _pictures(_interlaced(tmp_path, "mpeg2-top"))
    plain = _pictures(_encode(tmp_path / "p.mp4", _moments()[::2], "-c:v", "libx264", "-pix_fmt", "yuv420p"))
    small = _pictures(_encode(tmp_path / "s.mp4", _moments()[:, :64], "-c:v", "libx264", "-pix_fmt", "yuv420p"))
    damage = [Damage("video", k, "x") for k in range(4)]
    unseen = Picture(None, 5, 6)
    items: list[Picture | Damage] = [*plain[:3], damage[0], *woven[3:6], damage[1], *plain[6:9], woven[9], damage[2]]
    items += [woven[10], small[0], *woven[11:13], *small[1:3], unseen, *woven[13:15], unseen, *woven[15:17], damage[3]]
    out = list(deinterlace(iter(items)))
    assert len(out) == len(items)
    for given, got in zip(items, out, strict=True):
        assert type(given) is type(got)
        if isinstance(given, Picture) and isinstance(got, Picture):
            assert (got.start_ns, got.end_ns) == (given.start_ns, given.end_ns)
            touched = given.frame is not None and given.frame.interlaced_frame
            assert (got is given) != touched
            if touched:
                assert _comb(_luma(got)) < 0.5 * _comb(_luma(given))
        else:
            assert got is given
    assert [p for p in out if isinstance(p, Picture) and p.frame is None] == [unseen, unseen]
    # A progressive neighbour counts as a neighbour: with and without what came before it.
    alone = list(deinterlace([plain[2], woven[3], woven[4]]))
    assert (_luma(alone[1]) == _luma(out[4])).all()


def test_one_picture_alone_and_pictures_too_small_for_the_filter_come_out(tmp_path: Path) -> None:
    (picture, *_) = _pictures(_interlaced(tmp_path, "mpeg2-top"))
    (out,) = deinterlace([picture])
    assert _luma(out).shape == (HEIGHT, WIDTH)
    frame = picture.frame
    assert frame is not None
    tiny = frame.reformat(width=2, height=2)
    assert tiny.interlaced_frame, "scaling keeps the flag"
    given = Picture(tiny, 0, 1)
    assert list(deinterlace([given])) == [given]
    assert list(deinterlace([])) == []


@pytest.mark.parametrize("pix_fmt", ["yuv422p10le", "yuv411p", "uyvy422", "nv12", "yuvj420p"])
def test_every_pixel_format_is_deinterlaced(tmp_path: Path, pix_fmt: str) -> None:
    before = _pictures(_interlaced(tmp_path, "mpeg2-top"))[5:8]
    others = [Picture(p.frame.reformat(format=pix_fmt), p.start_ns, p.end_ns) for p in before if p.frame is not None]
    for was, now in list(zip(before, deinterlace(others), strict=True))[1:2]:
        assert _comb(_luma(now)) < 0.2 * _comb(_luma(was))


def test_times_rise_in_a_real_decode(tmp_path: Path) -> None:
    path = _interlaced(tmp_path, "h264-bottom")
    out = [p for p in deinterlace(pictures(str(path), probe(str(path)))) if isinstance(p, Picture)]
    assert all(a.end_ns == b.start_ns for a, b in pairwise(out))
    with av.open(str(path)) as container:
        assert len(out) == sum(1 for _ in container.decode(video=0))


def test_a_build_deinterlaces_and_spans_of_the_source_give_the_same_samples(tmp_path: Path) -> None:
    moments = np.concatenate([_moments(), _moments()[::-1]] * 5)[:450]
    filters = "tinterlace=mode=interleave_top,setfield=tff,format=yuv420p"
    codec = "-c:v libx264 -crf 12 -g 12 -flags +ildct+ilme -x264-params tff=1"
    path = _encode(tmp_path / "long.mp4", moments, "-vf", filters, *codec.split())
    recipe = BuildRecipe(modalities=("frames", "video"), clips=ClipsConfig(length_s=3.0))
    source = Source(str(path), identify(str(path)), {})

    def samples(span: Span | None) -> list[Sample]:
        outcomes = list(weave(source, recipe, ask=lambda *_: None, span=span))
        assert all(isinstance(outcome, Sample) for outcome in outcomes), outcomes
        return [outcome for outcome in outcomes if isinstance(outcome, Sample)]

    whole = samples(None)
    edges = [DAWN, 2_900_000_000, 5_500_000_000, DUSK]
    parts = [sample for start, end in pairwise(edges) for sample in samples(Span(start, end))]
    assert len(whole) == 3
    assert [sample.parts["frames"].data for sample in parts] == [sample.parts["frames"].data for sample in whole]
    assert [sample.parts["video"].data for sample in parts] == [sample.parts["video"].data for sample in whole]
    shown = read(load("frames"), whole[0].parts["frames"]).rgb.astype(float).mean(-1)
    with av.open(str(path)) as container:
        woven = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(float).mean(-1)
    assert np.mean([_comb(picture) for picture in shown]) < 0.3 * _comb(woven)
