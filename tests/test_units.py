"""Work units: what is written once stays, new sources come after it, and no content is taken twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from omniloom.modalities import Drop
from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline.commit import write_durably
from omniloom.pipeline.probe import StreamsConfig
from omniloom.pipeline.sidecar import read_sealed, sealed_bytes
from omniloom.pipeline.sources import Found
from omniloom.pipeline.spans import DAWN, DUSK, Span
from omniloom.pipeline.units import Identified, Reading, UnitsConfig, plan_units
from tests.media import make_clip


class Hashing:
    """Identifies files and counts how many it had to read."""

    def __init__(self, span_s: float = 0) -> None:
        self.read = 0
        self._reading = Reading(StreamsConfig(), span_s)

    def __call__(self, paths: Sequence[str]) -> list[Identified | Drop]:
        self.read += len(paths)
        return [self._reading.read(path) for path in paths]


def files(folder: Path, contents: dict[str, str]) -> list[Found]:
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_text(text)
    return [Found(str(folder / name)) for name in contents]


def test_a_second_listing_reads_no_file_and_gives_the_same_units(tmp_path: Path) -> None:
    found = files(tmp_path / "media", {f"{n}.mp4": f"content {n}" for n in range(7)})
    hashing = Hashing()
    first, _ = plan_units(tmp_path, found, hashing, UnitsConfig(max_sources=3))
    again, _ = plan_units(tmp_path, found, hashing, UnitsConfig(max_sources=3))
    assert again == first
    assert [len(unit.sources) for unit in first] == [3, 3, 1]
    assert hashing.read == 7


def test_units_keep_their_ids_when_sources_are_added_in_between(tmp_path: Path) -> None:
    found = files(tmp_path / "media", {"b.mp4": "b", "d.mp4": "d"})
    first, _ = plan_units(tmp_path, found, Hashing())
    more = files(tmp_path / "media", {"a.mp4": "a", "b.mp4": "b", "c.mp4": "c", "d.mp4": "d"})
    second, _ = plan_units(tmp_path, more, Hashing())
    assert second[0] == first[0]
    assert [Path(source.path).name for source in second[1].sources] == ["a.mp4", "c.mp4"]


def test_a_moved_file_is_known_by_its_content(tmp_path: Path) -> None:
    before, _ = plan_units(tmp_path, files(tmp_path / "here", {"a.mp4": "a"}), Hashing())
    moved = files(tmp_path / "there", {"z.mp4": "a"})
    (tmp_path / "here" / "a.mp4").unlink()
    after, drops = plan_units(tmp_path, moved, Hashing())
    assert [unit.id for unit in after] == [unit.id for unit in before]
    assert after[0].sources[0].path == moved[0].path
    assert drops == []


def test_a_file_that_changed_is_a_new_source(tmp_path: Path) -> None:
    plan_units(tmp_path, files(tmp_path / "media", {"a.mp4": "a"}), Hashing())
    after, _ = plan_units(tmp_path, files(tmp_path / "media", {"a.mp4": "changed"}), Hashing())
    assert [unit.id for unit in after] == [1]


def test_the_same_content_twice_is_one_source_and_one_drop(tmp_path: Path) -> None:
    units, drops = plan_units(tmp_path, files(tmp_path / "media", {"a.mp4": "same", "b.mp4": "same"}), Hashing())
    assert [len(unit.sources) for unit in units] == [1]
    assert [(drop.reason, Path(drop.path).name) for drop in drops] == [("duplicate-content", "b.mp4")]


def test_a_unit_closes_before_it_grows_too_large(tmp_path: Path) -> None:
    found = files(tmp_path / "media", {f"{n}.mp4": f"{n}" * 100 for n in range(5)})
    units, _ = plan_units(tmp_path, found, Hashing(), UnitsConfig(max_bytes=250))
    assert [len(unit.sources) for unit in units] == [2, 2, 1]


def test_a_file_that_vanished_is_a_drop(tmp_path: Path) -> None:
    units, drops = plan_units(tmp_path, [Found(str(tmp_path / "gone.mp4"))], Hashing())
    assert units == []
    assert [drop.reason for drop in drops] == ["unreadable"]


def test_a_flipped_byte_in_the_plan_is_noticed(tmp_path: Path) -> None:
    plan_units(tmp_path, files(tmp_path / "media", {"a.mp4": "a", "b.mp4": "b"}), Hashing())
    path = tmp_path / "plan.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        plan_units(tmp_path, [], Hashing())


def long_one(path: Path, seconds: float = 40) -> Found:
    path.parent.mkdir(exist_ok=True)
    return Found(str(make_clip(path, seconds=seconds, fps=5, size=(32, 32), tone=False)))


def edges_s(spans: Sequence[Span | None]) -> list[float]:
    return [span.start_ns / NS_PER_S for span in spans if span is not None and span.start_ns != DAWN]


def test_each_span_of_a_long_source_is_a_unit_and_short_sources_around_it_share_theirs(tmp_path: Path) -> None:
    found = files(tmp_path / "media", {"a.mp4": "a", "z.mp4": "z"})
    found.insert(1, long_one(tmp_path / "media" / "film.mp4"))
    units, _ = plan_units(tmp_path, found, Hashing(10))
    assert [[Path(source.path).name for source in unit.sources] for unit in units] == [
        ["a.mp4", "z.mp4"], ["film.mp4"], ["film.mp4"], ["film.mp4"], ["film.mp4"],
    ]  # fmt: skip
    assert units[0].span is None
    assert edges_s([unit.span for unit in units]) == [10, 20, 30]
    assert [unit.id for unit in units] == [0, 1, 2, 3, 4]
    assert str(units[2]) == f"{found[1].path} (from 10 s to 20 s)"
    again, _ = plan_units(tmp_path, found, Hashing(10))
    assert again == units


def test_a_planned_source_keeps_its_spans_whatever_length_is_asked_for_later(tmp_path: Path) -> None:
    film, short = long_one(tmp_path / "media" / "film.mp4"), long_one(tmp_path / "media" / "other.mp4", seconds=36)
    first, _ = plan_units(tmp_path, [film], Hashing(10))
    Path(film.path).touch()  # it is read again, and known by its content
    hashing = Hashing(15)
    later, _ = plan_units(tmp_path, [film, short], hashing)
    assert hashing.read == 2
    assert later[: len(first)] == first
    assert edges_s([unit.span for unit in later[len(first) :]]) == [15]
    assert [unit.id for unit in later] == list(range(len(later)))


def test_a_source_planned_whole_stays_whole(tmp_path: Path) -> None:
    film = long_one(tmp_path / "media" / "film.mp4")
    first, _ = plan_units(tmp_path, [film], Hashing(0))
    Path(film.path).touch()
    assert plan_units(tmp_path, [film], Hashing(10))[0] == first
    assert [unit.span for unit in first] == [None]


def test_a_plan_of_an_earlier_version_knows_no_spans_and_is_continued(tmp_path: Path) -> None:
    short = files(tmp_path / "media", {"a.mp4": "a"})
    first, _ = plan_units(tmp_path, short, Hashing())
    path = tmp_path / "plan.parquet"
    table, record = read_sealed(path, None)
    write_durably(path, sealed_bytes(table.drop_columns(["span_start_ns", "span_end_ns"]), record))
    later, _ = plan_units(tmp_path, [*short, long_one(tmp_path / "media" / "film.mp4")], Hashing(10))
    assert later[:1] == first
    assert [unit.span for unit in later[:2]] == [None, Span(DAWN, 10 * NS_PER_S)]
    assert later[-1].span == Span(30 * NS_PER_S, DUSK)


def test_a_span_length_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="span_s"):
        UnitsConfig(span_s=-1)
