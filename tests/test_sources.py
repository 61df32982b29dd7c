"""What a build is pointed at becomes a list of media files, or of drops that say why not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omniloom.modalities import Rejected
from omniloom.pipeline.sources import Found, find_sources, identify


def _touch(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_folder_is_walked_in_sorted_order_by_media_suffix(tmp_path: Path) -> None:
    for name in ("b.mp4", "a/z.MKV", "a/notes.txt", "c.jpg", "a/b/deep.webm"):
        _touch(tmp_path / name)
    found, drops = find_sources([str(tmp_path)])
    assert [item.path for item in found] == [str(tmp_path / name) for name in ("a/b/deep.webm", "a/z.MKV", "b.mp4")]
    assert drops == []


def test_a_path_named_twice_is_found_once(tmp_path: Path) -> None:
    file = _touch(tmp_path / "a.mp4")
    found, _ = find_sources([str(file), str(tmp_path), str(tmp_path / "*.mp4")])
    assert [item.path for item in found] == [str(file)]


def test_globs_find_files_and_say_when_they_match_nothing(tmp_path: Path) -> None:
    _touch(tmp_path / "x/a.mp4")
    _touch(tmp_path / "y/b.odd")
    found, _ = find_sources([str(tmp_path / "**/*.*")])
    assert [Path(item.path).name for item in found] == ["a.mp4", "b.odd"]
    with pytest.raises(ValueError, match="matches nothing"):
        find_sources([str(tmp_path / "*.nothing")])


def test_lists_of_every_kind_give_rows_and_paths_relative_to_the_list(tmp_path: Path) -> None:
    media = _touch(tmp_path / "media/a.mp4")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "l.csv").write_text('path,caption,split\n../media/a.mp4,"a dog, barking",test\n')
    (lists / "l.jsonl").write_text('{"path": "../media/a.mp4", "caption": "a dog, barking", "split": "test"}\n\n')
    row = {"path": ["../media/a.mp4"], "caption": ["a dog, barking"], "split": ["test"]}
    pq.write_table(pa.table(row), lists / "l.parquet")
    for name in ("l.csv", "l.jsonl", "l.parquet"):
        found, drops = find_sources([str(lists / name)])
        assert found == [Found(str(media), {"caption": "a dog, barking", "split": "test"})], name
        assert drops == []
    (lists / "l.txt").write_text("# clips\n../media/a.mp4\n\n")
    assert find_sources([str(lists / "l.txt")])[0] == [Found(str(media))]


def test_a_list_without_a_path_column_names_the_repair(tmp_path: Path) -> None:
    file = tmp_path / "l.csv"
    file.write_text("file,caption\na.mp4,hi\n")
    with pytest.raises(ValueError, match="name the column of files `path`"):
        find_sources([str(file)])


def test_what_cannot_be_a_source_is_a_drop_with_a_stable_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "dangling.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/up").symlink_to(tmp_path)
    good = _touch(tmp_path / "good.mp4")
    found, drops = find_sources([str(tmp_path)])
    assert [item.path for item in found] == [str(good)]
    assert {Path(drop.path).name: drop.reason for drop in drops} == {
        "fifo.mp4": "not-a-file",
        "dangling.mp4": "not-found",
        "loop.mp4": "link-loop",
        "up": "link-loop",
    }
    assert {drop.stage for drop in drops} == {"list"}


def test_a_listed_file_that_is_not_there_is_a_drop_and_one_named_directly_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("gone.mp4\n")
    found, drops = find_sources([str(tmp_path / "l.txt")])
    assert found == []
    assert [drop.reason for drop in drops] == ["not-found"]
    with pytest.raises(ValueError, match="no such file"):
        find_sources([str(tmp_path / "gone.mp4")])
    with pytest.raises(ValueError, match="download it first"):
        find_sources(["s3://bucket/a.mp4"])


@pytest.mark.parametrize(
    "name", [b"-dash.mp4", b"new\nline.mp4", b"$(x);'\".mp4", b"\xff\xfe.mp4", b"n" * 250 + b".mp4"]
)
def test_odd_file_names_are_only_names(tmp_path: Path, name: bytes) -> None:
    path = os.fsencode(_touch(tmp_path / os.fsdecode(name)))
    found, drops = find_sources([str(tmp_path)])
    assert [os.fsencode(item.path) for item in found] == [path]
    assert drops == []
    assert identify(found[0].path) == hashlib.sha256(b"x").hexdigest()


def test_identity_is_content_and_no_file_is_a_rejection(tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    assert identify(str(_touch(tmp_path / "a.mp4", data))) == hashlib.sha256(data).hexdigest()
    with pytest.raises(Rejected, match="not-found"):
        identify(str(tmp_path / "gone.mp4"))
    with pytest.raises(Rejected, match="not-a-file"):
        identify(str(tmp_path))
