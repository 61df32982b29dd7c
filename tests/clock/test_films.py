"""Every film's pictures and sounds have the time that its container gives them: decoded, in the shard, in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from omniloom.modalities import Sample, load
from omniloom.pipeline.clips import ClipsConfig
from omniloom.pipeline.corpus import create_corpus, open_corpus
from omniloom.pipeline.extract import weave
from omniloom.pipeline.jobs import build
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.shard import write_unit
from omniloom.pipeline.sources import Source, identify
from tests import independent
from tests.clock.films import FILMS, Film, make_film
from tests.clock.seen import NS, Seen, loaded, stitched


def recipe_of(film: Film) -> BuildRecipe:
    """Clips of two seconds, so that a boundary cuts the flash and the beep at 1.9 s; frames show every picture."""
    often = "picture_times" in film.clip or film.clip.get("fps", 25) > 30
    return BuildRecipe(
        modalities=("frames", "video", "audio"),
        clips=ClipsConfig(length_s=2.0, min_s=0.02),
        sections={
            "frames": load("frames").Config(per_second=60.0 if often else 30.0, short_side=32),
            "video": load("video").Config(short_side=32),
        },
    )


every_film = pytest.mark.parametrize("name", list(FILMS))
every_level = pytest.mark.parametrize("level", ["decoded", "shard", "batch"])


@dataclass(frozen=True)
class Shown:
    """One film: what an independent reader finds in its file, and what ours makes of it."""

    path: Path
    pictures: independent.Shown
    sound: independent.Heard
    levels: Mapping[str, Seen]
    """By level: decoded, in the shard as it is read back, in a batch."""
    parts: Mapping[str, Mapping[str, bytes]]
    """Bytes of every part of every sample, by key and modality."""


Show = Callable[[str], Shown]


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> Show:
    """Makes, decodes, stores and reads a film, each film once."""
    folder = tmp_path_factory.mktemp("films")

    @cache
    def shown(name: str) -> Shown:
        path, recipe = make_film(folder, name), recipe_of(FILMS[name])
        outcomes = list(weave(Source(str(path), identify(str(path))), recipe, _no_model))
        samples = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
        assert len(samples) == len(outcomes), f"nothing is dropped: {outcomes}"
        create_corpus(folder / f"{name}.corpus", modalities=recipe.modalities, recipe=recipe.as_dict())
        write_unit(folder / f"{name}.corpus", 0, samples, recipe.modalities)
        corpus = open_corpus(folder / f"{name}.corpus")
        levels = {
            "decoded": stitched(samples),
            "shard": stitched(corpus.samples()),
            "batch": loaded(corpus, length_s=3.0),
        }
        parts = {sample.key: {kind: part.data for kind, part in sample.parts.items()} for sample in samples}
        return Shown(path, independent.pictures(path), independent.sound(path), levels, parts)

    return shown


def _no_model(ref: object, *inputs: object) -> object:
    raise AssertionError(f"no model is asked here, but {ref} was")


@every_film
@every_level
def test_every_picture_has_the_time_that_an_independent_reader_finds(show: Show, name: str, level: str) -> None:
    shown, ours = show(name), show(name).levels[level]
    assert set(ours.frame_ns) <= set(shown.pictures.pts_ns)
    if level != "batch":  # of frames; movies are for looking
        assert ours.movie_ns == shown.pictures.pts_ns
        assert ours.movie_flashes_ns == shown.pictures.flashes_ns


@every_film
@every_level
def test_flashes_are_where_they_were_put(show: Show, name: str, level: str) -> None:
    film, ours = FILMS[name], show(name).levels[level]
    tolerance_s = film.frame_s + 0.001
    assert [time_ns / NS for time_ns in ours.frame_flashes_ns] == pytest.approx(film.flashes_s, abs=tolerance_s)
    if level != "batch":
        assert [time_ns / NS for time_ns in ours.movie_flashes_ns] == pytest.approx(film.flashes_s, abs=tolerance_s)


@every_film
@every_level
def test_beeps_are_where_they_were_put_and_where_an_independent_reader_hears_them(
    show: Show, name: str, level: str
) -> None:
    film, ours = FILMS[name], show(name).levels[level]
    assert ours.beeps_s == pytest.approx(film.beeps_s, abs=film.sound_tolerance_s)
    begins_s, ends_s = ours.spans_ns[0][0] / NS, ours.spans_ns[-1][1] / NS
    heard_s = [beep_s for beep_s in show(name).sound.beeps_s if begins_s <= beep_s < ends_s]
    assert ours.beeps_s == pytest.approx(heard_s, abs=0.001)


@every_film
@every_level
def test_flash_and_beep_are_as_far_apart_as_they_were_put(show: Show, name: str, level: str) -> None:
    film, ours = FILMS[name], show(name).levels[level]
    flash_at_s = dict(zip(film.flashes, (time_ns / NS for time_ns in ours.frame_flashes_ns), strict=True))
    beep_at_s = dict(zip(film.beeps, ours.beeps_s, strict=True))
    apart_s = [beep_at_s[beat] - flash_at_s[beat] for beat in film.beeps]
    put_apart_s = [film.apart_s] * len(film.beeps)
    assert apart_s == pytest.approx(put_apart_s, abs=film.frame_s + film.sound_tolerance_s)


@every_film
def test_clips_follow_each_other_from_the_first_picture_to_the_end_of_the_last(show: Show, name: str) -> None:
    spans_ns, pts_ns = show(name).levels["shard"].spans_ns, show(name).pictures.pts_ns
    assert spans_ns[0][0] == pts_ns[0]
    assert all(before[1] == after[0] for before, after in pairwise(spans_ns))
    assert {start_ns for start_ns, _ in spans_ns} <= set(pts_ns), "a clip begins with a picture"
    lasts_ns = spans_ns[-1][1] - pts_ns[-1]
    assert 0 < lasts_ns <= max(after - before for before, after in pairwise(pts_ns)) + 1_000_000


def test_a_build_stores_what_was_decoded_here(show: Show, tmp_path: Path) -> None:
    names = ["29.97.mp4", "early.mkv", "late.ts", "cut.mp4", "wrapped.ts", "behind.mp4"]
    shown = [show(name) for name in names]
    recipe = recipe_of(FILMS[names[0]])
    report = build(recipe, [str(film.path) for film in shown], tmp_path / "corpus", workers=0)
    built = {sample.key: sample for sample in open_corpus(tmp_path / "corpus").samples()}
    assert not report.dropped
    assert set(built) == {key for film in shown for key in film.parts}
    for film in shown:
        for key, parts in film.parts.items():
            assert {kind: part.data for kind, part in built[key].parts.items()} == parts
