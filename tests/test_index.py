"""Other people's shards: indexed where they lie, read by the loader, and nothing in them stops it."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from omniloom import open_corpus
from omniloom.modalities import load
from omniloom.modalities.base import Window, read
from omniloom.modalities.frames import Config as FramesConfig
from omniloom.pipeline import Loader
from omniloom.pipeline.generate import generate
from omniloom.pipeline.index import IndexReport, index
from omniloom.pipeline.movies import frames_in
from omniloom.pipeline.picture import Scaler
from omniloom.pipeline.untar import Hole, Listed, members
from tests.media import beep_onsets, make_clip
from tests.shards import flip

SMALL = Window(num_frames=4, image_px=32, num_samples=16_000)
ONE = Window(num_frames=1, image_px=32, num_samples=16_000)


def here(folder: Path, out: Path | None = None, **options: Any) -> IndexReport:
    return index(folder, out, workers=0, **options)


def picture(number: int, size: tuple[int, int] = (48, 40)) -> np.ndarray:
    """uint8 (H, W, 3): smooth, so that JPEG keeps it, and another for each number."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / 40
    waves = [np.sin(2 * x + y * (1 + number % 3) + number + channel) for channel in range(3)]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def stored(rgb: np.ndarray, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, kind, **options)
    return out.getvalue()


def write_tar(path: Path, samples: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path)) as sink:
        for sample in samples:
            sink.write(sample)
    return path


def write_members(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of any names, twice the same too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def img2dataset(folder: Path, shards: int = 2, per_shard: int = 5) -> Path:
    """As img2dataset writes them: 00000.tar with 000000000.jpg .txt .json, and 00000.parquet beside it."""
    for shard in range(shards):
        samples: list[dict[str, Any]] = []
        for number in range(per_shard):
            key = f"{shard:05d}{number:04d}"
            record = {"caption": f"picture {key}", "url": f"http://example.com/{key}.jpg", "key": key}
            record |= {"status": "success", "error_message": None, "width": 48, "height": 40, "similarity": 0.25}
            record |= {"exif": "{}", "sha256": "0" * 64, "nested": {"a": 1}}
            jpeg = stored(picture(10 * shard + number), "JPEG", quality=95)
            samples.append({"__key__": key, "jpg": jpeg, "txt": f"picture {key}", "json": record})
        write_tar(folder / f"{shard:05d}.tar", samples)
        (folder / f"{shard:05d}.parquet").write_bytes(b"its own statistics")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clips")
    beeps = ((0.5, 0.7), (1.5, 1.7))
    small: dict[str, Any] = {"size": (96, 64), "fps": 12, "tone": beeps}
    made = {
        "plain.mp4": make_clip(folder / "plain.mp4", seconds=3, **small),
        "late.mkv": make_clip(
            folder / "late.mkv", seconds=4, **{**small, "tone": ((1.5, 1.7), (2.5, 2.7))}, audio_start_s=1.0
        ),
        "turned.mp4": make_clip(folder / "turned.mp4", seconds=2, rotation_deg=90, **small),
        "silent.webm": make_clip(
            folder / "silent.webm",
            size=(96, 64),
            tone=False,
            video_codec="libvpx-vp9",
            picture_times=[0, 0.04, 0.5, 0.54, 1.4, 1.9],
        ),
        "wide.mp4": make_clip(folder / "wide.mp4", seconds=5, gop=8, options={"bf": "2"}, **small),
    }
    return {name: path.read_bytes() for name, path in made.items()}


def video2dataset(folder: Path, clips: Mapping[str, bytes]) -> Path:
    """As video2dataset writes them: the clip, its caption and record; two clips of one video share its address."""
    samples: list[dict[str, Any]] = []
    for number, (name, data) in enumerate(clips.items()):
        record = {"url": f"http://example.com/{number // 2}", "clips": [[0, 3]], "yt_meta_dict": {"info": {}}}
        samples.append({"__key__": f"{number:09d}", name.rpartition(".")[2]: data, "txt": name, "json": record})
    write_tar(folder / "00000.tar", samples)
    return folder


# --- pictures -------------------------------------------------------------------------------------------------


def test_pictures_of_img2dataset_are_read_where_they_lie(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path / "laion")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = here(folder, tmp_path / "corpus")
    assert (report.tars, report.samples, report.shards, report.corpus_samples) == (2, 10, 2, 10)
    assert report.dropped == {}
    assert report.left_out == {"json: nested or long": 10}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sum(path.lstat().st_size for path in (tmp_path / "corpus").rglob("*.tar")) < 1000  # links
    corpus = open_corpus(tmp_path / "corpus")
    sample = corpus["000001-000010002"]
    assert sample.parts["frames"].data == stored(picture(12), "JPEG", quality=95)
    assert sample.facts["similarity"] == 0.25
    assert sample.facts["key"] == "000010002"
    assert (sample.facts["width"], sample.facts["height"], sample.facts["status"]) == (48, 40, "success")
    assert read(load("caption"), sample.parts["caption"]).omni[0].text == "picture 000010002"
    seen = 0
    for batch in Loader(corpus, ["frames", "caption"], 4, window=ONE, train=False, workers=0, backend="cpu"):
        for key, shown, text in zip(batch.keys, batch.tensors["frames"], batch.texts["caption"], strict=True):
            own = key.partition("-")[2]
            expected = np.asarray(Image.open(io.BytesIO(corpus[key].parts["frames"].data)).convert("RGB"))
            value = read(load("frames"), corpus[key].parts["frames"])
            assert np.array_equal(value.rgb[0], expected)
            assert np.array_equal(shown.numpy(), load("frames").tensor(value, ONE))
            assert text == f"picture {own}"
            seen += 1
    assert seen == 10
    assert corpus.check() == []
    assert corpus.stats()["modalities"]["frames"]["present"] == 10


def test_every_kind_of_picture_is_shown_as_it_was_meant(tmp_path: Path) -> None:
    rgb = picture(3, (40, 24))
    grey = (np.arange(24 * 40).reshape(24, 40) * 60).astype(np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned a quarter clockwise
    pictures = {
        "png": ({"png": stored(rgb, "PNG")}, rgb),
        "webp": ({"webp": stored(rgb, "WEBP", lossless=True)}, rgb),
        "grey": ({"png": stored(grey, "PNG")}, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)),
        "exif": ({"jpeg": stored(rgb, "JPEG", quality=95, exif=turned)}, np.rot90(rgb, -1)),
        "palette": ({"png": stored(np.asarray(Image.fromarray(rgb).convert("L")), "PNG")}, None),
    }
    write_tar(tmp_path / "a.tar", [{"__key__": name, **members} for name, (members, _) in pictures.items()])
    assert here(tmp_path).dropped == {}
    corpus = open_corpus(tmp_path)
    for name, (_, expected) in pictures.items():
        part = corpus[f"000000-{name}"].parts["frames"]
        value = read(load("frames"), part)
        assert value.rgb.shape[1:3] == (part.facts["height"], part.facts["width"])
        if expected is not None:
            apart = np.abs(value.rgb[0].astype(int) - expected.astype(int)).mean()
            assert apart < (4 if name == "exif" else 1e-9), name
    assert corpus.check() == []


def test_dali_shows_pictures_as_we_do(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    folder = img2dataset(tmp_path, shards=1)
    write_tar(folder / "png.tar", [{"__key__": "p", "png": stored(picture(1), "PNG")}])
    here(folder)
    loaders = [
        Loader(folder, ["frames"], 6, window=ONE, train=False, workers=0, backend=backend)
        for backend in ("cpu", "dali")
    ]
    ours, theirs = (next(iter(loader)) for loader in loaders)
    assert ours.keys == theirs.keys
    assert float((ours.tensors["frames"] - theirs.tensors["frames"]).abs().mean()) < 0.02
    assert "picture: dali" in loaders[1].backend_report


# --- movies and sound -----------------------------------------------------------------------------------------


def test_movies_of_video2dataset_give_the_frames_that_generate_keeps(
    tmp_path: Path, clips: Mapping[str, bytes]
) -> None:
    folder = video2dataset(tmp_path / "web", clips)
    report = here(folder)
    assert (report.samples, report.dropped) == (5, {})
    corpus = open_corpus(folder)
    assert corpus.check() == []
    loader = Loader(corpus, ["frames", "caption"], 5, window=SMALL, train=False, workers=0, backend="cpu")
    [shown] = list(loader)
    assert shown.present["frames"].all()
    for number, key in enumerate(shown.keys):
        data = clips[shown.texts["caption"][number]]
        pictures = decoded(data)
        sample = corpus[key]
        pts_ns = sample.parts["video"].facts["pts_ns"]
        assert len(pts_ns) == len(pictures)
        times_ns = np.arange(8) * (sample.clip.duration_ns / 8)
        if sample.clip.duration_ns >= 4 * 10**9:
            times_ns = np.arange(0, sample.clip.duration_ns, 5 * 10**8)
        frames = [pictures[np.searchsorted(pts_ns, time_ns + 1, "right") - 1] for time_ns in times_ns]
        chosen = np.stack([frames[place] for place in SMALL.choose(len(frames))])
        expected = load("frames").tensor(load("frames").assemble(list(chosen), {"pts_ns": [0] * 4}), SMALL)
        assert np.abs(shown.tensors["frames"][number].numpy() - expected).mean() < 0.02
    generate(folder, ["frames"], {"frames": FramesConfig()}, workers=0)
    [kept] = list(Loader(folder, ["frames"], 5, window=SMALL, train=False, workers=0, backend="cpu"))
    assert kept.keys == shown.keys
    assert float((kept.tensors["frames"] - shown.tensors["frames"]).abs().mean()) < 0.02  # through a JPEG
    assert open_corpus(folder).check() == []


def decoded(data: bytes) -> list[np.ndarray]:
    """Every picture of a movie, upright."""
    with av.open(io.BytesIO(data)) as movie:
        pictures = [(frame.to_ndarray(format="rgb24"), frame.rotation) for frame in movie.decode(video=0)]
    return [np.rot90(rgb, turn // 90) for rgb, turn in pictures]


def test_a_random_window_decodes_the_same_frames_whichever_keyframe_it_enters_at(
    tmp_path: Path, clips: Mapping[str, bytes]
) -> None:
    write_tar(tmp_path / "a.tar", [{"__key__": "wide", "mp4": clips["wide.mp4"]}])
    here(tmp_path)
    [sample] = open_corpus(tmp_path).samples()
    part = sample.parts["video"]
    settings = FramesConfig(per_second=12)
    every = frames_in(part.data, part.facts, sample.clip, settings)
    scaler = Scaler()
    with av.open(io.BytesIO(part.data)) as movie:  # from its first packet to its last
        pictures = [scaler.rgb(frame, (96, 64)) for frame in movie.decode(video=0)]
    all_ns = part.facts["pts_ns"]
    assert isinstance(all_ns, list)
    assert len(all_ns) == len(pictures) == len(every.rgb) == 60
    assert np.array_equal(every.rgb, np.stack([pictures[all_ns.index(pts_ns)] for pts_ns in every.pts_ns]))
    for seed in range(12):
        window = Window(num_frames=3, train=True, seed=seed)
        some = frames_in(part.data, part.facts, sample.clip, settings, window)
        places = window.choose(60)
        assert np.array_equal(some.rgb, every.rgb[places])
        assert np.array_equal(some.pts_ns, every.pts_ns[places])


def test_sound_comes_from_the_movie_on_its_clock(tmp_path: Path, clips: Mapping[str, bytes]) -> None:
    folder = video2dataset(tmp_path, clips)
    here(folder)
    corpus = open_corpus(folder)
    window = Window(num_samples=5 * 16_000)
    [batch] = list(Loader(corpus, ["audio", "caption"], 5, window=window, train=False, workers=0, backend="cpu"))
    heard = {name: batch.tensors["audio"][at].numpy() for at, name in enumerate(batch.texts["caption"])}
    present = dict(zip(batch.texts["caption"], batch.present["audio"].tolist(), strict=True))
    assert present == {name: name != "silent.webm" for name in clips}
    for name, expected in {"plain.mp4": [0.5, 1.5], "late.mkv": [1.5, 2.5]}.items():
        onsets = beep_onsets((heard[name] * 32767).astype(np.int16))
        assert np.allclose(onsets, expected, atol=0.03), name
    assert not heard["silent.webm"].any()
    assert corpus["000000-000000001"].facts["audio_offset_ns"] == pytest.approx(1e9, abs=3e7)


@pytest.mark.parametrize(
    ("suffix", "codec", "rate_hz", "layout"),
    [
        ("wav", "pcm_s16le", 44_100, "stereo"),
        ("flac", "flac", 48_000, "stereo"),
        ("mp3", "libmp3lame", 44_100, "stereo"),
        ("m4a", "aac", 22_050, "mono"),
        ("wav", "pcm_s16le", 16_000, "mono"),
    ],
)
def test_sound_files_of_any_rate_become_16_khz_mono(
    tmp_path: Path, suffix: str, codec: str, rate_hz: int, layout: str
) -> None:
    path = make_clip(
        tmp_path / f"s.{suffix}",
        seconds=2,
        video=False,
        tone=((0.4, 0.6), (1.2, 1.4)),
        audio_codec=codec,
        sample_rate_hz=rate_hz,
        layout=layout,
        tone_hz=1000,
    )
    write_tar(
        tmp_path / "web" / "a.tar", [{"__key__": "s", suffix: path.read_bytes(), "jpg": stored(picture(0), "JPEG")}]
    )
    assert here(tmp_path / "web").dropped == {}
    corpus = open_corpus(tmp_path / "web")
    [sample] = corpus.samples()
    value = read(load("audio"), sample.parts["audio"])
    assert value.sample_rate_hz == 16_000
    assert abs(len(value.samples) - 32_000) < 2_500  # encoders pad
    assert abs(sample.clip.duration_ns - 2e9) < 2e8
    onsets = np.array(beep_onsets(value.samples))
    assert np.allclose(np.diff(onsets), 0.8, atol=0.005)
    assert np.allclose(onsets[0], 0.4, atol=0.08)
    loud = value.samples[int(16_000 * (onsets[0] + 0.05)) :][:1600].astype(float)
    assert abs(np.argmax(np.abs(np.fft.rfft(loud))) * 10 - 1000) <= 10  # the tone has its pitch
    [batch] = list(Loader(corpus, ["audio", "frames"], 1, window=SMALL, train=False, workers=0, backend="auto"))
    assert batch.present["audio"].all()
    assert batch.present["frames"].all()
    assert corpus.check() == []


def test_a_build_of_movies_alone_is_read_for_frames_and_sound_too(tmp_path: Path) -> None:
    from omniloom.pipeline.jobs import build
    from omniloom.recipes.config import build_recipe

    film = make_clip(tmp_path / "film.mp4", seconds=4, fps=12, size=(96, 64), tone=((0.5, 0.7), (2.5, 2.7)))
    small = ["clips.length_s=2", "clips.min_s=1", "require=[]", "signals.speech=false"]
    for name, modalities in {"movies": "video", "both": "frames,audio"}.items():
        build(build_recipe(None, [f"modalities=[{modalities}]", *small]), [str(film)], tmp_path / name, workers=0)
    movies, both = (
        list(Loader(tmp_path / name, ["frames", "audio"], 2, window=SMALL, train=False, workers=0, backend="cpu"))
        for name in ("movies", "both")
    )
    by_time = [
        {corpus[key].clip.start_ns: at for at, key in enumerate(batch.keys)}
        for corpus, [batch] in ((open_corpus(tmp_path / "movies"), movies), (open_corpus(tmp_path / "both"), both))
    ]
    for start_ns, at in by_time[0].items():
        other = by_time[1][start_ns]
        apart = (movies[0].tensors["frames"][at] - both[0].tensors["frames"][other]).abs().mean()
        assert float(apart) < 0.06
        sounds = [batch[0].tensors["audio"][place].numpy() for batch, place in ((movies, at), (both, other))]
        loud = [np.abs(sound) > 0.06 for sound in sounds]
        assert np.mean(loud[0] != loud[1]) < 0.15


def test_a_control_with_permuted_movies_shows_other_sources(tmp_path: Path, clips: Mapping[str, bytes]) -> None:
    folder = video2dataset(tmp_path, clips)
    here(folder)
    [plain] = list(Loader(folder, ["frames"], 5, window=SMALL, train=False, workers=0))
    [mixed] = list(Loader(folder, ["frames"], 5, window=SMALL, train=False, workers=0, permute=["frames"]))
    assert plain.keys == mixed.keys
    assert len(set(plain.sources)) == 3  # two clips of one address are of one source
    for at, shown in enumerate(mixed.tensors["frames"]):
        [donor] = [other for other in range(5) if np.array_equal(shown.numpy(), plain.tensors["frames"][other].numpy())]
        assert plain.sources[donor] != plain.sources[at]


# --- captions and records -------------------------------------------------------------------------------------


def test_captions_come_from_the_text_and_without_one_from_the_record(tmp_path: Path) -> None:
    jpeg = stored(picture(0), "JPEG")
    samples = {
        "both": ({"txt": "a  dog\nruns", "json": {"caption": "not this"}}, ["a dog runs"]),
        "record": ({"json": {"caption": "a cat", "n": 1}}, ["a cat"]),
        "text": ({"json": {"text": "a cow"}}, ["a cow"]),
        "several": ({"json": {"captions": ["one", "two"]}}, ["one", "two"]),
        "none": ({"json": {"caption": None}}, None),
        "empty": ({"txt": "  \n"}, None),
        "latin": ({"caption": "é".encode("latin-1")}, ["é"]),
        "lone": ({"json": b'{"caption": "x", "odd": "\\ud800", "nan": NaN}'}, ["x"]),
        "number": ({"json": b"7"}, None),
    }

    def encoded(members: Mapping[str, Any]) -> list[tuple[str, bytes]]:
        return [
            (
                name,
                value
                if isinstance(value, bytes)
                else value.encode()
                if isinstance(value, str)
                else json.dumps(value).encode(),
            )
            for name, value in members.items()
        ]

    members = [
        (f"{key}.{suffix}", data)
        for key, (own, _) in samples.items()
        for suffix, data in [("jpg", jpeg), *encoded(own)]
    ]
    write_members(tmp_path / "a.tar", members)
    report = here(tmp_path)
    assert (report.samples, report.dropped) == (9, {})
    corpus = open_corpus(tmp_path)
    for key, (_, expected) in samples.items():
        part = corpus[f"000000-{key}"].parts.get("caption")
        found = None if part is None else [text.text for text in read(load("caption"), part).omni]
        assert found == expected, key
    assert corpus["000000-record"].facts["n"] == 1
    models = {key: corpus[f"000000-{key}"].parts["caption"].facts["model"] for key in ("both", "record")}
    assert models == {"both": "given:txt", "record": "given:json"}
    assert corpus.check() == []


def test_sources_and_splits_follow_the_record(tmp_path: Path) -> None:
    jpegs = [stored(picture(number), "JPEG") for number in range(40)]
    samples = [
        {"__key__": f"{number:03d}", "jpg": jpegs[number], "json": {"split": "val"} if number < 5 else {}}
        for number in range(40)
    ]
    write_tar(tmp_path / "a.tar", samples)
    here(tmp_path, test_fraction=0.3)
    table = open_corpus(tmp_path).table(["split", "source_id"])
    splits = table["split"].to_pylist()
    assert splits[:5] == ["val"] * 5
    assert 0 < splits[5:].count("test") < 25
    assert len(set(table["source_id"].to_pylist())) == 40
    with pytest.raises(ValueError, match=r"another recipe.*index"):
        here(tmp_path, test_fraction=0.2)


# --- what is bad ----------------------------------------------------------------------------------------------


def test_rubbish_costs_its_member_and_no_other(tmp_path: Path, clips: Mapping[str, bytes]) -> None:
    jpeg = stored(picture(1), "JPEG")
    noise = random.Random(0).randbytes(3000)
    write_members(
        tmp_path / "a.tar",
        [
            ("good.jpg", jpeg),
            ("rubbish.jpg", noise),
            ("rubbish.txt", b"words without a picture"),
            ("cut.jpg", jpeg[: len(jpeg) // 2]),
            ("empty.png", b""),
            ("noise.mp4", noise),
            ("short.mp4", clips["plain.mp4"][:9000]),
            ("playlist.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
            ("half.jpg", jpeg),
            ("half.wav", noise),
            ("half.json", b"{not json"),
            ("text.txt", b"only words"),
            ("other.npy", noise),
            ("other.jpg", jpeg),
            (".DS_Store", noise),
            ("a/._good.jpg", noise),
        ],
    )
    report = here(tmp_path)
    assert report.samples == 3
    corpus = open_corpus(tmp_path)
    assert corpus.table(["key"])["key"].to_pylist() == ["000000-good", "000000-half", "000000-other"]
    drops = {row["path"]: row["reason"] for row in corpus.drops().to_pylist()}
    assert drops == {
        "a.tar/rubbish.jpg": "damaged-member",
        "a.tar/cut.jpg": "damaged-member",
        "a.tar/empty.png": "empty-file",
        "a.tar/noise.mp4": "not-media",
        "a.tar/short.mp4": drops["a.tar/short.mp4"],
        "a.tar/playlist.mp4": "playlist",
        "a.tar/half.wav": "not-media",
        "a.tar/half.json": "bad-json",
        "a.tar/text.txt": "no-media",
    }
    assert drops["a.tar/short.mp4"] in {"truncated", "moov-missing"}
    assert report.dropped == corpus.stats()["drops"]
    assert report.left_out["npy"] == 1
    assert report.left_out["no sample's"] == 2
    assert {name for name, part in corpus["000000-half"].parts.items()} == {"frames"}
    assert corpus.check() == []
    batches = list(Loader(corpus, ["frames"], 3, window=ONE, train=False, workers=0))
    assert [len(batch) for batch in batches] == [3]


def test_names_that_come_twice_and_keys_in_folders(tmp_path: Path) -> None:
    jpegs = [stored(picture(number), "JPEG") for number in range(6)]
    write_members(
        tmp_path / "a.tar",
        [
            ("0.jpg", jpegs[0]),
            ("0.txt", b"first"),
            ("0.jpg", jpegs[1]),
            ("v1.2/part.3/0.jpg", jpegs[2]),
            ("v1.2/part.3/0.txt", b"nested"),
            ("./1.JPG", jpegs[3]),
            ("1.seg.png", jpegs[4]),
            ("k\xfc\udcff" + "x" * 120 + ".jpg", jpegs[5]),
        ],
    )
    report = here(tmp_path)
    assert (report.samples, report.dropped) == (4, {"duplicate-key": 1})
    assert report.left_out == {"seg.png": 1}
    corpus = open_corpus(tmp_path)
    keys = corpus.table(["key"])["key"].to_pylist()
    assert len(set(keys)) == 4
    assert all(len(key) <= 64 and "/" not in key and "." not in key for key in keys)
    by_name = {sample.facts["key"]: sample for sample in corpus.samples()}
    assert by_name["0"].parts["frames"].data == jpegs[0]
    nested = by_name["v1.2/part.3/0"]
    assert nested.parts["frames"].data == jpegs[2]
    assert read(load("caption"), nested.parts["caption"]).omni[0].text == "nested"
    assert by_name["1"].parts["frames"].data == jpegs[3]
    groups = {sample["__key__"] for sample in wds.WebDataset(str(write_clean(tmp_path)), shardshuffle=False)}
    assert groups == {"0", "v1.2/part.3/0"}  # webdataset parts names at the same place
    assert corpus.check() == []


def write_clean(folder: Path) -> Path:
    jpeg = stored(picture(0), "JPEG")
    return write_members(folder / "w.tar.plain", [("0.jpg", jpeg), ("v1.2/part.3/0.jpg", jpeg)])


def test_the_same_keys_in_two_shards_are_two_samples(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", [{"__key__": "same", "jpg": stored(picture(number), "JPEG")}])
    here(tmp_path)
    corpus = open_corpus(tmp_path)
    assert corpus.table(["key"])["key"].to_pylist() == ["000000-same", "000001-same"]
    assert corpus["000001-same"].parts["frames"].data == stored(picture(1), "JPEG")


def test_a_truncated_tar_keeps_what_is_whole_and_a_damaged_header_costs_one_member(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path / "web", shards=3)
    whole = folder / "00000.tar"
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        fourth = tar.getmember("000000003.jpg")
    with tarfile.open(folder / "00001.tar") as tar:
        third = tar.getmember("000010002.jpg")
    whole.write_bytes(data[: fourth.offset_data + 100])
    flip(folder / "00001.tar", third.offset_data - 512 + 3)
    (folder / "00002.tar").write_bytes(b"I am no tar. " * 1000)
    (folder / "00003.tar").write_bytes(b"")
    (folder / "00004.tar.gz").write_bytes(b"\x1f\x8b rest")
    (folder / "00005.tar").symlink_to(folder / "nowhere")
    report = here(folder)
    corpus = open_corpus(folder)
    assert report.samples == len(corpus) == 7
    assert report.dropped == {
        "compressed-tar": 1,
        "damaged-tar": 1,
        "empty-file": 1,
        "no-media": 1,
        "not-a-tar": 1,
        "truncated": 1,
        "unreadable": 1,
    }
    lost = {row["reason"]: row["detail"] for row in corpus.drops().to_pylist()}
    assert "000000003.jpg" in lost["truncated"]
    assert corpus.check() == []


def test_no_sample_is_lost_where_webdataset_ends_without_a_word(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path, shards=1)
    with tarfile.open(folder / "00000.tar") as tar:
        third = tar.getmember("000000002.jpg")
    assert third.offset_data - third.offset > 512, "webdataset writes an extended header before each member"
    flip(folder / "00000.tar", third.offset + 3)
    theirs = [sample["__key__"] for sample in wds.WebDataset(str(folder / "00000.tar"), shardshuffle=False)]
    assert len(theirs) == 2
    report = here(folder)
    assert (report.samples, report.dropped) == (5, {"damaged-tar": 1})
    assert open_corpus(folder).check() == []


def test_members_are_listed_past_every_damaged_header(tmp_path: Path) -> None:
    payloads = [(f"{number}.txt", bytes([65 + number]) * (300 * number)) for number in range(8)]
    path = write_members(tmp_path / "a.tar", payloads)
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    for number, offset in enumerate(headers):
        copy = tmp_path / "b.tar"
        shutil.copy(path, copy)
        flip(copy, offset + 5)
        with copy.open("rb") as file:
            found = list(members(file))
            names = []
            for item in found:
                if isinstance(item, Listed):
                    file.seek(item.offset)
                    assert (item.name, file.read(item.size)) in payloads
                    names.append(item.name)
        assert names == [name for place, (name, _) in enumerate(payloads) if place != number]
        assert [item.reason for item in found if isinstance(item, Hole)] == ["damaged-tar"]


def test_a_changed_byte_is_found_by_check_and_by_the_loader(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path / "web", shards=1)
    here(folder)
    part = open_corpus(folder).table(["frames"])["frames"][2].as_py()
    flip(folder / "00000.tar", part["offset"] + part["size"] // 2)
    whats = [fault.what for fault in open_corpus(folder).check()]
    assert any("sha256" in what for what in whats)
    assert any("hash" in what for what in whats)
    loader = Loader(folder, ["frames"], 5, window=ONE, train=False, workers=0, on_bad="skip")
    assert sum(map(len, loader)) == 4
    assert [bad.shard for bad in loader.bad] == ["shards/000000.tar"]


# --- again ----------------------------------------------------------------------------------------------------


def test_what_is_indexed_is_skipped_what_changed_is_read_again_and_what_went_is_gone(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path / "web", shards=3)
    first = here(folder)
    assert (first.samples, first.skipped_committed) == (15, 0)
    times = {path: path.stat().st_mtime_ns for path in (folder / "shards").glob("*.parquet")}
    again = here(folder)
    assert (again.samples, again.skipped_committed, again.corpus_samples, again.tars) == (0, 3, 15, 3)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    write_tar(folder / "00001.tar", [{"__key__": "new", "jpg": stored(picture(5), "JPEG")}])
    (folder / "00002.tar").unlink()
    write_tar(folder / "00000a.tar", [{"__key__": "late", "jpg": stored(picture(6), "JPEG")}])
    third = here(folder)
    assert (third.samples, third.skipped_committed, third.removed, third.corpus_samples) == (2, 1, 1, 7)
    corpus = open_corpus(folder)
    assert corpus["000001-new"].parts["frames"].data == stored(picture(5), "JPEG")
    assert corpus["000003-late"].parts["frames"].data == stored(picture(6), "JPEG")
    assert corpus.check() == []
    assert here(folder).samples == 0


def test_a_run_that_was_cut_off_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = img2dataset(tmp_path / "web", shards=3)
    from omniloom.pipeline import index as module

    commit, committed = module._commit, []

    def dies(out: Path, tar: Any, *rest: Any) -> None:
        if len(committed) == 2:
            raise KeyboardInterrupt
        committed.append(tar)
        commit(out, tar, *rest)

    monkeypatch.setattr(module, "_commit", dies)
    with pytest.raises(KeyboardInterrupt):
        here(folder)
    monkeypatch.undo()
    assert len(open_corpus(folder)) == 10
    report = here(folder)
    assert (report.samples, report.skipped_committed, report.corpus_samples) == (5, 2, 15)
    assert open_corpus(folder).check() == []


def test_with_ray_the_sidecars_are_the_same(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path / "web", shards=3)
    here(folder, tmp_path / "one")
    report = index(folder, tmp_path / "two", workers=2)
    assert report.samples == 15
    one, two = (open_corpus(tmp_path / name).table() for name in ("one", "two"))
    assert one.equals(two)


def test_a_corpus_and_its_tars_can_be_moved_together_or_the_corpus_alone(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path / "web")
    here(folder)
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    assert open_corpus(moved).check() == []
    assert here(moved).skipped_committed == 2
    here(moved, tmp_path / "apart")
    assert open_corpus(shutil.move(tmp_path / "apart", tmp_path / "again")).check() == []


def test_a_column_joins_an_indexed_corpus(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path / "web")
    here(folder)
    [report] = generate(folder, ["tests.warmth"], {}, workers=0)
    assert report.samples == 10
    corpus = open_corpus(folder)
    assert corpus.check() == []
    assert all({"frames", "caption", "warmth"} <= set(sample.parts) for sample in corpus.samples())


# --- the command ----------------------------------------------------------------------------------------------


def omniloom(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "omniloom.recipes.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_one_object_and_the_others_read_what_it_made(tmp_path: Path) -> None:
    folder = img2dataset(tmp_path / "web")
    done = omniloom("index", folder, "--workers", "0", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["tars"], report["samples"], report["corpus_samples"]) == (2, 10, 10)
    assert json.loads(omniloom("check", folder, "--json").stdout)["faults"] == []
    assert json.loads(omniloom("stats", folder, "--json").stdout)["modalities"]["frames"]["present"] == 10


@pytest.mark.parametrize("case", ["nothing", "shards", "built"])
def test_what_cannot_be_indexed_is_one_line(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    if case == "shards":
        img2dataset(folder / "shards")
    if case == "built":
        from tests.shards import make_corpus

        make_corpus(folder, units=1, per_unit=2)
        img2dataset(folder / "more")
    done = omniloom("index", folder, "--workers", "0")
    assert done.returncode == 1, done.stderr
    told = {"nothing": "no .tar under", "shards": "--out", "built": "another"}[case]
    [line] = [line for line in done.stderr.splitlines() if line.startswith("omniloom: ")]
    assert told in line
    if case == "shards":
        assert here(folder, tmp_path / "corpus").samples == 10


def test_rubbish_alone_is_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(os.urandom(4000))
    done = omniloom("index", tmp_path, "--workers", "0")
    assert done.returncode == 3, done.stderr
    assert "not-a-tar 1" in done.stderr
