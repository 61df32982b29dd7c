"""A unit of a column appears whole or not at all, and a column goes at one instant."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from omniloom.modalities import Part
from omniloom.modalities.base import Window
from omniloom.pipeline import Loader, columns, commit
from omniloom.pipeline.check import check, leftovers
from omniloom.pipeline.columns import create_column, open_columns, remove_column, write_column_unit
from omniloom.pipeline.corpus import open_corpus
from omniloom.pipeline.shard import UnitReport
from omniloom.pipeline.sidecar import DamagedError
from tests.shards import SMALL, add_column, column_outcomes, make_corpus, make_sample


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two units of four samples, and their depth."""
    make_corpus(tmp_path, 2, 4)
    return add_column(tmp_path).path


def _files(corpus: Path, folder: str) -> dict[str, bytes]:
    paths = sorted((corpus / folder).rglob("*"))
    return {str(path.relative_to(corpus)): path.read_bytes() for path in paths if path.is_file()}


def _keys(corpus: Path, unit: int) -> list[str]:
    return [sample.key for sample in open_corpus(corpus).samples([], [unit])]


def test_adding_a_column_rewrites_nothing_and_the_same_outcomes_give_the_same_bytes(tmp_path: Path) -> None:
    written: list[dict[str, bytes]] = []
    for name in ("a", "b"):
        make_corpus(tmp_path / name, 2, 4)
        before = {folder: _files(tmp_path / name, folder) for folder in ("shards", "drops")}
        add_column(tmp_path / name)
        assert {folder: _files(tmp_path / name, folder) for folder in ("shards", "drops")} == before
        written.append(_files(tmp_path / name, "columns"))
    assert written[0] == written[1]
    files = {"column.json", *(f"00000{unit}.{kind}" for unit in range(2) for kind in ("tar", "parquet"))}
    assert {Path(name).name for name in written[0]} == files


def test_a_committed_unit_is_not_made_again_and_its_report_stays(small: Path) -> None:
    def must_not_run() -> Iterator[Any]:
        raise AssertionError("a committed unit was made again")
        yield

    tar = small / "columns/depth/000001.tar"
    assert write_column_unit(small, "depth", 1, must_not_run()) == UnitReport(2, {"no-depth": 1}, tar.stat().st_size)


def test_a_unit_whose_samples_have_none_of_it_commits_no_tar(tmp_path: Path) -> None:
    make_corpus(tmp_path, 1, 4)
    create_column(tmp_path, "depth", {}, [])
    keys = _keys(tmp_path, 0)
    assert write_column_unit(tmp_path, "depth", 0, [(key, None) for key in keys]) == UnitReport(0, {}, 0)
    assert set(_files(tmp_path, "columns")) == {"columns/depth/column.json", "columns/depth/000000.parquet"}
    assert open_corpus(tmp_path).stats()["columns"]["depth"]["missing"] == {"absent": 4}
    assert check(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "has 4 samples, got outcomes for 3"),
        (lambda rows: [*rows, ("more", None)], "sample 4 of unit 0 is none, got more"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "sample 0 of unit 0 is"),
        (lambda rows: [rows[0], rows[0], *rows[2:]], "sample 1 of unit 0 is"),
        (lambda rows: [(rows[0][0], Part(b"x", {"loudness": 1.0})), *rows[1:]], "declare them in its `facts`"),
    ],
)
def test_outcomes_that_are_not_of_the_samples_in_their_order_leave_nothing(
    tmp_path: Path, change: Callable[[list[Any]], list[Any]], message: str
) -> None:
    make_corpus(tmp_path, 1, 4)
    create_column(tmp_path, "depth", {}, [])
    with pytest.raises(ValueError, match=message):
        write_column_unit(tmp_path, "depth", 0, change(list(column_outcomes(tmp_path, 0, "depth"))))
    assert set(_files(tmp_path, "columns")) == {"columns/depth/column.json"}


def test_a_part_that_its_shard_would_hide_is_refused(tmp_path: Path) -> None:
    make_corpus(tmp_path, 1, 4)
    create_column(tmp_path, "audio", {}, [])
    with pytest.raises(ValueError, match="has a audio in its shard, which would hide this one"):
        write_column_unit(tmp_path, "audio", 0, [(key, make_sample(0).parts["audio"]) for key in _keys(tmp_path, 0)])


def test_what_is_not_there_is_named_with_the_repair(small: Path) -> None:
    with pytest.raises(ValueError, match=r"omniloom generate .* normal"):
        write_column_unit(small, "normal", 0, [])
    with pytest.raises(ValueError, match="no committed unit 9: build it first"):
        write_column_unit(small, "depth", 9, [])
    with pytest.raises(ValueError, match="has no column 'normal': it has depth"):
        remove_column(small, "normal")
    with pytest.raises(ValueError, match="has no column"):
        remove_column(small, "../shards")
    with pytest.raises(ValueError, match=r"is no corpus, it has no corpus.json"):
        create_column(small / "shards", "depth", {}, [])


def test_the_same_settings_continue_a_column_and_others_are_refused(tmp_path: Path) -> None:
    make_corpus(tmp_path, 1, 4)
    models = [{"name": "net", "revision": "1", "licence": "MIT"}, {"name": "other", "licence": "BSD-3-Clause"}]
    column = create_column(tmp_path, "depth", {"model": "net", "size": (1, 2)}, models)
    assert create_column(tmp_path, "depth", {"model": "net", "size": [1, 2]}, models) == column
    assert column == open_columns(tmp_path)["depth"]
    assert column.licence == "MIT; BSD-3-Clause"
    for config, other, differing in (({}, models, "config"), (column.config, models[:1], "models")):
        with pytest.raises(ValueError, match=f"made with other {differing}: .*--replace"):
            create_column(tmp_path, "depth", config, other)


def test_an_interrupted_writer_leaves_no_column_and_the_next_one_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path / "whole", 1, 4)
    make_corpus(tmp_path / "killed", 1, 4)
    whole = _files(add_column(tmp_path / "whole").path, "columns")
    publish = commit.Unfinished.publish

    def stop_before_the_sidecar(self: commit.Unfinished) -> None:
        if self.final.suffix == ".parquet":
            raise KeyboardInterrupt
        publish(self)

    with monkeypatch.context() as patch:
        patch.setattr(commit.Unfinished, "publish", stop_before_the_sidecar)
        with pytest.raises(KeyboardInterrupt):
            add_column(tmp_path / "killed")
    killed = open_corpus(tmp_path / "killed")
    assert killed.columns["depth"].committed() == set()
    assert not any("depth" in sample.parts for sample in killed)
    assert leftovers(killed) == [killed.path / "columns/depth/000000.tar"]
    assert check(killed) == []
    add_column(killed.path)
    assert _files(killed.path, "columns") == whole
    assert leftovers(killed) == []


def test_two_writers_of_one_unit_leave_one_whole_column(tmp_path: Path) -> None:
    make_corpus(tmp_path, 1, 4)
    create_column(tmp_path, "depth", {}, [])
    keys = _keys(tmp_path, 0)
    barrier = threading.Barrier(2)

    def write(first: int) -> None:
        def rows() -> Iterator[tuple[str, Part]]:
            yield from ((key, make_sample(first + at, ("depth",)).parts["depth"]) for at, key in enumerate(keys))
            barrier.wait()  # both have written everything, neither has committed

        write_column_unit(tmp_path, "depth", 0, rows())

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 50)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert check(tmp_path) == []
    assert leftovers(tmp_path) == []
    assert all("depth" in sample.parts for sample in open_corpus(tmp_path))


def test_a_column_is_removed_at_one_instant(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(columns.shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            remove_column(small, "depth")
    assert open_corpus(small).modalities == SMALL
    assert open_columns(small) == {}
    assert check(small) == []
    assert len(leftovers(small)) == 1
    corpus = add_column(small, units=[0])
    assert leftovers(small) == []
    assert sum("depth" in sample.parts for sample in corpus) == 4
    remove_column(small, "depth")
    assert list((small / "columns").iterdir()) == []


def test_a_corpus_that_was_open_when_its_column_went_says_so(small: Path) -> None:
    corpus = open_corpus(small)
    parts = next(corpus.samples()).parts
    loader = Loader(corpus, ("depth",), 4, train=False, workers=0, window=Window(1, 8))
    remove_column(small, "depth")
    with pytest.raises(DamagedError, match=r"went while it was read: open the corpus again"):
        corpus.table(["depth"])
    with pytest.raises(DamagedError, match=r"depth/000000.tar is missing"):
        _ = parts["depth"]
    with pytest.raises(DamagedError, match=r"went while it was read: open the corpus again"):
        list(loader)
    create_column(small, "depth", {"model": "another"}, [])
    write_column_unit(small, "depth", 0, column_outcomes(small, 0, "depth"))
    with pytest.raises(DamagedError, match="other settings"):
        corpus.table(["depth"])


@pytest.mark.parametrize("again", [None, {"model": "another"}])
def test_a_unit_whose_column_went_while_it_was_made_is_not_committed(
    tmp_path: Path, again: Mapping[str, Any] | None
) -> None:
    make_corpus(tmp_path, 1, 4)
    create_column(tmp_path, "depth", {"model": "one"}, [])

    def rows() -> Iterator[Any]:
        yield from column_outcomes(tmp_path, 0, "depth")
        remove_column(tmp_path, "depth")
        if again:
            create_column(tmp_path, "depth", again, [])

    with pytest.raises(ValueError, match="replaced while unit 0" if again else "has no column"):
        write_column_unit(tmp_path, "depth", 0, rows())
    left = _files(tmp_path, "columns")
    assert set(left) == ({"columns/depth/column.json"} if again else set())
