"""What a plan needs of many sidecars is read once and kept; what is kept is right or is not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omniloom.modalities.base import Window
from omniloom.pipeline import Loader, outline
from omniloom.pipeline.corpus import Corpus, open_corpus
from omniloom.pipeline.joined import JoinedRows
from omniloom.pipeline.outline import Outline
from omniloom.pipeline.shard import shard_paths, write_unit
from omniloom.pipeline.sidecar import DamagedError, read_record, read_sidecar
from tests.shards import SMALL, add_column, flip, make_corpus, outcomes

UNITS, PER_UNIT = 5, 4
FIELDS = ["split", "duration_ns", "audio.size", "caption.size"]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setenv("OMNILOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(outline, "_FEW", 0)
    monkeypatch.setattr(outline, "_TOGETHER", 2)
    return make_corpus(tmp_path / "corpus", UNITS, PER_UNIT)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Units whose sidecars were taken apart."""
    units: list[int] = []
    read = JoinedRows.read

    def counted(self: JoinedRows, unit: int, wanted: Any = None) -> Any:
        units.append(unit)
        return read(self, unit, wanted)

    monkeypatch.setattr(JoinedRows, "read", counted)
    return units


def expected(corpus: Corpus) -> dict[str, list[Any]]:
    rows = open_corpus(corpus.path).table().to_pylist()
    named = [field.partition(".") for field in FIELDS]
    return {
        f"{name}{dot}{inner}": [row[name] if not inner else (row[name] or {}).get(inner) for row in rows]
        for name, dot, inner in named
    }


def got(corpus: Corpus, fields: list[str] = FIELDS) -> dict[str, list[Any]]:
    return {name: column.to_pylist() for name, column in Outline(open_corpus(corpus.path)).read(fields).items()}


def test_fields_are_those_of_the_sidecars_and_the_second_time_none_is_taken_apart(
    corpus: Corpus, parsed: list[int]
) -> None:
    truth = expected(corpus)
    parsed.clear()
    assert got(corpus) == truth
    assert sorted(parsed) == list(range(UNITS)), "all fields of a sidecar in one go"
    parsed.clear()
    assert got(corpus) == truth
    assert got(corpus, ["audio.size"]) == {"audio.size": truth["audio.size"]}
    assert not parsed


def test_a_unit_that_came_or_changed_is_read_and_those_beside_it(corpus: Corpus, parsed: list[int]) -> None:
    got(corpus)
    write_unit(corpus.path, UNITS, outcomes(UNITS, PER_UNIT), SMALL)
    parsed.clear()
    after = got(corpus)
    assert sorted(parsed) == [4, 5], "the block that has the new unit"
    assert after == expected(corpus)
    paths = shard_paths(corpus.path, 1)
    paths.sidecar.unlink()
    write_unit(corpus.path, 1, outcomes(1, PER_UNIT - 1), SMALL)
    parsed.clear()
    after = got(corpus)
    assert sorted(parsed) == [0, 1]
    assert after == expected(corpus)


def test_a_column_that_came_or_was_made_anew_is_seen(corpus: Corpus, parsed: list[int]) -> None:
    add_column(corpus.path, "depth", units=[0, 1])
    before = got(corpus, ["depth.size"])["depth.size"]
    assert [size is not None for size in before].index(False) >= 4
    add_column(corpus.path, "depth", units=[4])
    parsed.clear()
    after = got(corpus, ["depth.size"])["depth.size"]
    assert after[:16] == before[:16]
    assert any(size is not None for size in after[16:])
    assert set(parsed) == {4}
    flip(corpus.path / "columns/depth/000001.parquet", 300)
    with pytest.raises(DamagedError, match=r"000001\.parquet is damaged"):
        got(corpus, ["depth.size"])


def test_damage_is_found_at_every_start_whatever_is_kept(corpus: Corpus) -> None:
    truth = got(corpus)
    sidecar = shard_paths(corpus.path, 3).sidecar
    for at in range(0, sidecar.stat().st_size, 997):
        flip(sidecar, at)
        with pytest.raises(DamagedError, match=r"000003\.parquet is damaged"):
            got(corpus)
        flip(sidecar, at)
    assert got(corpus) == truth


def test_what_is_kept_and_damaged_or_cannot_be_kept_is_read_anew(
    corpus: Corpus, tmp_path: Path, parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = got(corpus)
    kept = sorted((tmp_path / "cache/plans").rglob("*.parquet"))
    assert len(kept) == 3 * len(FIELDS)
    for path in kept:
        flip(path, path.stat().st_size // 2)
    parsed.clear()
    assert got(corpus) == truth
    assert sorted(parsed) == list(range(UNITS))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OMNILOOM_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="keeps nothing"):
        assert got(corpus) == truth


def test_the_quick_way_to_a_record_gives_what_the_parquet_reader_does(corpus: Corpus) -> None:
    write_unit(corpus.path, UNITS, (item for item in outcomes(UNITS, 1) if not hasattr(item, "key")), SMALL)
    for unit in open_corpus(corpus.path).units:
        path = shard_paths(corpus.path, unit).sidecar
        record, seal = read_record(path)
        assert record == read_sidecar(path)[1]
        assert seal.encode() in path.read_bytes()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedError):
        read_record(path)


def test_a_loader_of_many_units_plans_as_one_of_few(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(**options: Any) -> list[list[str]]:
        loader = Loader(corpus.path, SMALL, 2, workers=0, backend="cpu", epochs=1, window=Window(1, 8, 16), **options)
        assert loader.num_steps
        return [loader.keys_at(step) for step in range(loader.num_steps)]

    cases = [
        {},
        {"split": "train"},
        {"train": False},
        {"share": ("audio",), "buckets": {"caption.size": [280], "duration_ns": [1e9]}},
        {"sources": "apart"},
    ]
    many = [keys(**case) for case in cases]
    monkeypatch.setattr(outline, "_FEW", 1000)
    assert many == [keys(**case) for case in cases] == [keys(**case) for case in cases]
