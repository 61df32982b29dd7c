"""A shard appears whole or not at all, and the same samples always give the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from omniloom.modalities import Drop, Part, Sample
from omniloom.pipeline.check import check, leftovers
from omniloom.pipeline.commit import Unfinished, remove_dead, replace_file, unfinished_files
from omniloom.pipeline.corpus import create_corpus, open_corpus
from omniloom.pipeline.shard import UnitReport, committed_units, write_drops, write_unit
from omniloom.pipeline.sidecar import DamagedError, read_sidecar, sealed_bytes, sidecar_bytes
from tests.shards import SMALL, make_corpus, make_sample, outcomes


def _files(corpus: Path) -> dict[str, bytes]:
    return {str(path.relative_to(corpus)): path.read_bytes() for path in sorted(corpus.rglob("0*"))}


def test_two_writes_give_byte_identical_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_corpus(tmp_path / name, units=2)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert len(_files(tmp_path / "a")) == 6


def test_tars_do_not_depend_on_where_the_source_lay(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_unit(tmp_path / name, 0, [make_sample(1, path=f"{name}/clip.mp4")], SMALL)
    a, b = _files(tmp_path / "a"), _files(tmp_path / "b")
    assert a["shards/000000.tar"] == b["shards/000000.tar"]
    assert a["shards/000000.parquet"] != b["shards/000000.parquet"]


def test_members_are_plain_and_sorted_by_suffix(tmp_path: Path) -> None:
    samples = [make_sample(2), make_sample(1)]
    write_unit(tmp_path, 0, samples, SMALL)
    with tarfile.open(tmp_path / "shards/000000.tar") as tar:
        members = tar.getmembers()
    suffixes = ("audio.flac", "caption.json", "frames.mov", "json")
    assert [member.name for member in members] == [
        f"{sample.key}.{suffix}" for sample in samples for suffix in suffixes
    ]
    assert {(member.mtime, member.uid, member.gid, member.mode, member.uname) for member in members} == {
        (0, 0, 0, 0o644, "")
    }
    assert not any(member.pax_headers for member in members)


def test_samples_read_back_as_they_were_written(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=2, per_unit=4)
    written = [item for unit in range(2) for item in outcomes(unit, 4) if isinstance(item, Sample)]
    for before, after in zip(written, corpus.samples(), strict=True):
        assert (after.key, after.clip, after.path, after.time_base) == (
            before.key,
            before.clip,
            before.path,
            before.time_base,
        )
        assert after.facts == before.facts
        assert after.signals == {name: value for name, value in before.signals.items() if value is not None}
        assert dict(after.parts) == dict(before.parts)
        assert corpus[before.key].clip == before.clip
    with pytest.raises(KeyError, match="no sample"):
        corpus["nothing"]


def test_signals_are_a_column_of_their_own_and_stand_in_the_json_member(tmp_path: Path) -> None:
    import duckdb

    corpus = make_corpus(tmp_path, units=2, per_unit=4)
    motions = [0.0, 0.01, None, 0.03, 0.04, 0.05, None, 0.07]
    assert [row and row["motion"] for row in corpus.table(["signals"])["signals"].to_pylist()] == motions
    query = f"SELECT signals.motion, signals.phash FROM '{tmp_path}/shards/*.parquet' WHERE signals.motion > 0.035"
    assert sorted(duckdb.sql(query).fetchall()) == [(0.04, -4), (0.05, -5), (0.07, -7)]
    stored: list[dict[str, Any]] = []
    for shard in corpus.shards:
        with tarfile.open(shard) as tar:
            members = (tar.extractfile(member) for member in tar if member.name.split(".")[1:] == ["json"])
            stored += [json.load(file) for file in members if file]
    signals = [record["signals"] for record in stored]
    assert [record.get("motion") for record in signals] == motions
    assert all("sync_ms" not in record for record in signals), "null is not stored"
    assert check(tmp_path) == []


def test_check_finds_signals_that_the_json_member_does_not_state(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=1, per_unit=4)
    path = tmp_path / "shards/000000.parquet"
    table, record = read_sidecar(path)
    rows = table.to_pylist()
    rows[1]["signals"]["motion"] = 0.5
    path.write_bytes(sidecar_bytes(rows, corpus.modalities, record))
    [fault] = check(tmp_path)
    assert (fault.key, fault.what) == (rows[1]["key"], "json and sidecar disagree about signals")


def test_a_corpus_from_before_there_were_signals_still_reads(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=1, per_unit=4)
    path = tmp_path / "shards/000000.parquet"
    table, record = read_sidecar(path)
    path.write_bytes(sealed_bytes(table.drop_columns("signals"), {"format": 1, **asdict(record)}))
    assert corpus.table()["signals"].null_count == len(corpus) == 4
    assert [dict(sample.signals) for sample in corpus.samples()] == [{}] * 4


def test_writing_a_committed_unit_again_looks_at_no_sample(tmp_path: Path) -> None:
    report = write_unit(tmp_path, 7, outcomes(0, 4), SMALL)
    assert report == UnitReport(4, {"no-video-frames": 1}, (tmp_path / "shards/000007.tar").stat().st_size)

    def must_not_run():
        raise AssertionError("a committed unit was decoded again")
        yield

    assert write_unit(tmp_path, 7, must_not_run(), SMALL) == report
    assert committed_units(tmp_path) == {7}


def test_a_unit_of_drops_commits_no_tar(tmp_path: Path) -> None:
    create_corpus(tmp_path, modalities=SMALL, recipe={})
    report = write_unit(tmp_path, 0, [Drop("bad\udcff\n.mp4", "probe", "not-media")], SMALL)
    corpus = open_corpus(tmp_path)
    assert report == UnitReport(0, {"not-media": 1}, 0)
    assert not (tmp_path / "shards/000000.tar").exists()
    assert len(corpus) == 0
    assert corpus.drops()["path"].to_pylist() == ["bad\\udcff\n.mp4"]
    assert corpus.check() == []


def test_drops_of_no_unit_are_listed_and_replaced(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=1)
    write_drops(tmp_path, "listing", [Drop("x", "list", "unreadable")] * 3)
    write_drops(tmp_path, "listing", [Drop("x", "list", "unreadable")])
    assert corpus.stats()["drops"] == {"no-video-frames": 1, "unreadable": 1}


def test_a_source_of_samples_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing():
        yield make_sample(0)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_unit(tmp_path, 0, failing(), SMALL)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample("a.b", make_sample(0).clip, "", "", {}), "splits names at dots"),
        (Sample("a", make_sample(0).clip, "", "", {"depth": Part(b"x")}), "add them to its modalities"),
        (Sample("a", make_sample(0).clip, "", "", {"audio": Part(b"x", {"loudness": 1.0})}), "declare them"),
        (Sample("a", make_sample(0).clip, "", "", {}, {"score": float("nan")}), "not JSON compliant"),
        (Sample("a", make_sample(0).clip, "", "", {}, {}, {"mood": 1.0}), "declare them in SIGNALS"),
        (Sample("a", make_sample(0).clip, "", "", {}, {}, {"motion": float("inf")}), "not JSON compliant"),
    ],
)
def test_samples_the_format_cannot_hold_are_refused(tmp_path: Path, sample: Sample, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_unit(tmp_path, 0, [sample], SMALL)
    assert committed_units(tmp_path) == set()


def test_one_key_twice_in_a_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keys must differ"):
        write_unit(tmp_path, 0, [make_sample(0), make_sample(0)], SMALL)


_WRITER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.shards import SMALL, outcomes
from omniloom.modalities import Drop
from omniloom.pipeline import commit, shard

def slowly():
    for outcome in outcomes(0, 6):
        yield outcome
        if not isinstance(outcome, Drop):
            print("sample", flush=True)
            time.sleep(0.2 if sys.argv[3] == "samples" else 0)

if sys.argv[3] == "publish":  # stands still between the tar's name and the sidecar's
    publish = commit.Unfinished.publish
    def still(self):
        publish(self)
        print("published", flush=True)
        time.sleep(60)
    commit.Unfinished.publish = still
shard.write_unit(Path(sys.argv[2]), 0, slowly(), SMALL)
"""


@pytest.mark.parametrize(("where", "line"), [("samples", "sample"), ("publish", "published")])
def test_a_killed_writer_leaves_no_shard_and_the_next_run_completes(tmp_path: Path, where: str, line: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    make_corpus(whole, units=1, per_unit=6)
    create_corpus(killed, modalities=SMALL, recipe={"clips": {"length_s": 2.0}})
    command = [sys.executable, "-c", _WRITER, str(Path(__file__).parents[1]), str(killed), where]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as writer:
        assert writer.stdout is not None
        while writer.stdout.readline().strip() != line:
            assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
    assert committed_units(killed) == set()
    assert len(open_corpus(killed)) == 0
    assert check(killed) == []
    assert leftovers(killed) != []
    write_unit(killed, 0, outcomes(0, 6), SMALL)
    assert _files(killed) == _files(whole)
    assert leftovers(killed) == []


def test_two_writers_of_one_unit_leave_one_whole_shard(tmp_path: Path) -> None:
    create_corpus(tmp_path, modalities=SMALL, recipe={})
    barrier = threading.Barrier(2)

    def write(numbers: range) -> None:
        def samples():
            yield from (make_sample(number) for number in numbers)
            barrier.wait()  # both have written everything, neither has committed

        write_unit(tmp_path, 0, samples(), SMALL)

    writers = [threading.Thread(target=write, args=(numbers,)) for numbers in (range(3), range(10, 15))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(open_corpus(tmp_path)) in {3, 5}
    assert check(tmp_path) == []
    assert leftovers(tmp_path) == []


def test_only_the_unfinished_files_of_dead_writers_are_removed(tmp_path: Path) -> None:
    dead = tmp_path / ".000001.tar.0123456789ab.part"
    dead.write_bytes(b"half a shard")
    with Unfinished(tmp_path / "000002.tar") as alive:
        assert remove_dead(tmp_path) == [dead]
        assert unfinished_files(tmp_path) == [alive.path]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "plan.parquet"
    path.write_text("old")

    def fail_half_way() -> None:
        with replace_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_text() == "old"
    with replace_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_any_changed_bit_of_a_sidecar_is_found(tmp_path: Path) -> None:
    make_corpus(tmp_path, units=1, per_unit=2)
    path = tmp_path / "shards/000000.parquet"
    data = path.read_bytes()
    assert read_sidecar(path)[1].samples == 2
    for position in range(0, len(data), 31):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        with pytest.raises(DamagedError):
            read_sidecar(path)
