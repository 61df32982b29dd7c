"""`omniloom check` finds whatever is wrong with a column that was added later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omniloom.pipeline.check import check, leftovers
from omniloom.pipeline.columns import remove_column
from omniloom.pipeline.corpus import open_corpus
from omniloom.pipeline.sidecar import DamagedError, column_bytes, read_column
from tests.shards import NS, SMALL, add_column, flip, make_corpus


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two units of four samples, and their depth."""
    make_corpus(tmp_path, 2, 4)
    return add_column(tmp_path).path


def test_every_flip_and_cut_of_a_column_is_found(tmp_path: Path) -> None:
    """120 random faults on tar, sidecar and column.json."""
    make_corpus(tmp_path, 1, 3)
    add_column(tmp_path)
    rng = np.random.Generator(np.random.Philox(1))
    paths = [tmp_path / "columns/depth" / name for name in ("000000.tar", "000000.parquet", "column.json")]
    for number in range(120):
        path = paths[number % 3]
        whole = path.read_bytes()
        at = int(rng.integers(len(whole) - 1))
        cut = number % 10 == 9
        if cut:
            path.write_bytes(whole[:at])
        else:
            flip(path, at, int(rng.integers(8)))
        if path.suffix != ".json" or _meaning(path) != json.loads(whole):
            assert check(tmp_path), f"{'cut' if cut else 'flip'} at {at} of {path.name} was not found"
        path.write_bytes(whole)
    assert check(tmp_path) == []


def _meaning(path: Path) -> Any:
    """Flips that turn one white space into another change nothing."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda rows: rows[:-1], "is missing, its shard has it"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "is out of order"),
        (lambda rows: [*rows, {"key": "other", "reason": "absent"}], "is not in its shard"),
        (lambda rows: [*rows[:-1], {**rows[-1], "key": "other"}], "is missing, its shard has it"),
        (lambda rows: [{"key": rows[0]["key"], "reason": "present"}, *rows[1:]], "is wrong about whether its shard"),
        (lambda rows: [{**rows[0], "reason": "absent"}, *rows[1:]], "has neither a depth nor a reason, or both"),
        (lambda rows: [{"key": rows[0]["key"]}, *rows[1:]], "has neither a depth nor a reason, or both"),
        (lambda rows: [_with(rows[0], fx=0.0), *rows[1:]], "depth: fx is above zero, got 0.0"),
        (lambda rows: [_with(rows[0], pts_ns=[0, 3 * NS]), *rows[1:]], f"depth: a frame begins at {3 * NS} ns"),
        (lambda rows: [_with(rows[0], kind="ray"), *rows[1:]], "depth.facts.json and sidecar disagree about parts"),
        (lambda rows: [_with(rows[0], model="else"), *rows[1:]], "depth.facts.json and sidecar disagree about parts"),
    ],
)
def test_a_sidecar_that_is_sealed_but_wrong_is_found(
    small: Path, change: Callable[[list[Any]], list[Any]], what: str
) -> None:
    path = small / "columns/depth/000000.parquet"
    table, record, made_by = read_column(path)
    path.write_bytes(column_bytes(change(table.to_pylist()), "depth", record, made_by))
    faults = check(small)
    assert any(fault.what.startswith(what) for fault in faults), faults
    assert {fault.shard.rpartition(".")[0] for fault in faults} == {"columns/depth/000000"}


def _with(row: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    return {**row, "depth": {**row["depth"], **facts}}


def test_a_column_of_other_samples_cannot_be_read(small: Path) -> None:
    folder = small / "columns/depth"
    shutil.copy(folder / "000001.parquet", folder / "000000.parquet")
    with pytest.raises(DamagedError, match=r"is of other samples than its shard: remove it and run `omniloom generate"):
        open_corpus(small).table(["depth"])
    assert "is of unit 1: the file was renamed" in {fault.what for fault in check(small)}


def test_strays_and_missing_files_of_a_column_are_faults_and_remains_are_not(small: Path) -> None:
    folder = small / "columns/depth"
    shutil.copy(folder / "000000.tar", folder / "000007.tar")
    shutil.copy(folder / "000001.parquet", folder / "000005.parquet")
    (folder / "000001.tar").unlink()
    assert {(fault.shard, fault.what) for fault in check(small)} == {
        ("columns/depth/000001.tar", "missing: restore it, or remove its sidecar and build again"),
        ("columns/depth/000005.parquet", "has no shard: restore it, or remove this"),
    }
    assert leftovers(small) == [folder / "000007.tar"]


def test_a_column_is_checked_also_where_its_shards_sidecar_is_damaged(small: Path) -> None:
    flip(small / "shards/000000.parquet", 100)
    flip(small / "columns/depth/000000.tar", 600)
    assert {fault.shard for fault in check(small)} == {"shards/000000.parquet", "columns/depth/000000.tar"}


def test_a_damaged_description_is_a_fault_of_its_column_alone(small: Path) -> None:
    (small / "columns/depth/column.json").write_text("{")
    [fault] = check(small)
    assert fault.shard == "columns/depth/column.json"
    assert "--replace" in fault.what
    assert len(open_corpus(small).table(["key", "split"])) == 8
    with pytest.raises(DamagedError, match="--replace"):
        _ = open_corpus(small).modalities
    remove_column(small, "depth")
    assert open_corpus(small).modalities == SMALL
