"""Work units: what is written once stays, new sources come after it, and no content is taken twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from omniloom.modalities import Drop, SourceId
from omniloom.pipeline.sources import Found, identify
from omniloom.pipeline.units import UnitsConfig, plan_units


class Hashing:
    """Identifies files and counts how many it had to read."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, paths: Sequence[str]) -> list[SourceId | Drop]:
        self.read += len(paths)
        return [identify(path) for path in paths]


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
