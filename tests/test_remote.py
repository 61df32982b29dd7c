"""A corpus behind a URL reads like one on this disk: the same batches, few bytes, whatever the network does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from omniloom.modalities.base import Window
from omniloom.pipeline import Loader, ranges
from omniloom.pipeline.batch import Batch
from omniloom.pipeline.cache import SpanCache, SpanKey
from omniloom.pipeline.columns import create_column, open_columns, remove_column
from omniloom.pipeline.corpus import Corpus, create_corpus, open_corpus
from omniloom.pipeline.generate import generate
from omniloom.pipeline.reader import ShardReader
from omniloom.pipeline.remote import Patience, RemoteError, Store, url_of
from omniloom.pipeline.shard import write_unit
from omniloom.pipeline.sidecar import DamagedError
from omniloom.pipeline.view import BadSampleError
from tests.range_server import RangeServer, serving
from tests.shards import SMALL, add_column, flip, make_corpus, outcomes

WINDOW = Window(num_frames=2, image_px=16, num_samples=1600)
HASTY = Patience(timeout_s=5, attempts=5, wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    path = tmp_path_factory.mktemp("remote") / "corpus"
    make_corpus(path)
    return add_column(path)


@pytest.fixture
def server(local: Corpus, tmp_path: Path) -> Iterator[RangeServer]:
    shutil.copytree(local.path, tmp_path / "there/data/corpus")
    with serving(tmp_path / "there") as server:
        server.url += "/data/corpus"
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMNILOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Patience, "from_env", staticmethod(lambda: HASTY))
    return tmp_path / "cache"


def load(corpus: Any, modalities: tuple[str, ...] = SMALL, **kwargs: Any) -> Loader:
    options = {"window": WINDOW, "workers": 0, "backend": "cpu", **kwargs}
    return Loader(corpus, modalities, 4, **options)


def assert_same(got: list[Batch], expected: list[Batch]) -> None:
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        assert (a.keys, a.sources, a.texts) == (b.keys, b.sources, b.texts)
        assert a.tensors.keys() == b.tensors.keys()
        assert all(torch.equal(tensor, b.tensors[name]) for name, tensor in a.tensors.items())


def spans_of(corpus: Corpus, modality: str) -> list[tuple[Path, ranges.Span]]:
    rows = corpus.table(["unit", modality]).to_pylist()
    return [
        (
            corpus.path / f"shards/{row['unit']:06d}.tar",
            tuple(row[modality][name] for name in ("offset", "size", "xxh3")),
        )
        for row in rows
        if row[modality]
    ]


def cached(cache: Path) -> list[Path]:
    return [path for path in (cache / "spans").rglob("*") if path.is_file() and not path.name.startswith(".used")]


# --- the same as here -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_over_http_are_those_of_the_folder(local: Corpus, server: RangeServer, workers: int) -> None:
    names = (*SMALL, "depth")
    expected = list(islice(load(local, names, seed=3), 12))
    loader = load(server.url, names, seed=3, workers=workers)
    got = list(islice(loader, 12))
    assert_same(got, expected)
    here = load(local, names, seed=3, workers=0)
    list(islice(here, 12))
    assert workers or loader.bytes_read == here.bytes_read
    assert server.tars


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_batches_from_other_stores_are_those_of_the_folder(local: Corpus, tmp_path: Path, scheme: str) -> None:
    import fsspec

    url = f"file://{local.path}" if scheme == "file" else f"memory://{tmp_path.name}/corpus"
    if scheme == "memory":
        fsspec.filesystem("memory").put(str(local.path), f"/{tmp_path.name}/corpus", recursive=True)
    corpus = open_corpus(url)
    assert corpus.path != local.path
    assert_same(list(load(corpus, epochs=1)), list(load(local, epochs=1)))
    assert corpus.table().equals(local.table())
    assert corpus.stats() == local.stats()
    assert [path.name for path in corpus.shards] == [path.name for path in local.shards]


def test_samples_and_their_parts_are_those_of_the_folder(local: Corpus, server: RangeServer) -> None:
    there = open_corpus(server.url)
    assert not list(there.path.rglob("*.tar"))
    for sample, expected in zip(there, local, strict=True):
        assert (sample.key, dict(sample.parts)) == (expected.key, dict(expected.parts))
    assert there[sample.key].parts["frames"] == expected.parts["frames"]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket/corpus/", "s3://bucket/corpus"),
        (Path("s3://bucket/corpus"), "s3://bucket/corpus"),
        (Path("file:///data/corpus"), "file:///data/corpus"),
        (Path("https://host:8000/a/b"), "https://host:8000/a/b"),
        ("corpus", None),
        ("/data/a:b/corpus", None),
        (Path("/data/s3:/x"), None),
    ],
)
def test_a_url_is_told_from_a_path(given: Path | str, url: str | None) -> None:
    assert url_of(given) == url


# --- few bytes, few requests ------------------------------------------------------------------------------------------


def test_audio_only_reads_hardly_more_than_the_audio(local: Corpus, server: RangeServer) -> None:
    wanted = sum(span[1] for _, span in spans_of(local, "audio"))
    loader = load(server.url, ("audio",), train=False)
    assert server.tar_bytes == 0
    list(loader)
    assert wanted <= server.tar_bytes < 1.1 * wanted
    assert server.tar_bytes == loader._reader.bytes_fetched


def test_what_was_read_once_is_read_from_here(local: Corpus, server: RangeServer) -> None:
    first = list(load(server.url, train=False))
    server.forget()
    loader = load(server.url, train=False)
    assert_same(list(loader), first)
    assert (server.tars, loader._reader.requests) == ([], 0)
    assert loader.bytes_read > 0


def test_near_spans_of_a_sample_are_one_request(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNILOOM_CACHE_GB", "0")
    window = Window(num_frames=4, image_px=16, num_samples=1600)

    def requests() -> int:
        server.forget()
        samples = sum(len(batch) for batch in load(server.url, train=False, window=window))
        assert samples == 24
        return len(server.tars)

    together = requests()
    monkeypatch.setattr(ranges, "_GAP_BYTES", -1)
    apart = requests()
    assert together == 24  # frames, sound and caption of a sample lie side by side
    assert apart >= 4 * together


def test_spans_are_joined_over_small_gaps_and_to_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_GAP_BYTES", 10)
    monkeypatch.setattr(ranges, "_REQUEST_BYTES", 100)
    spans: list[ranges.Span] = [(200, 5, 1), (0, 20, 2), (30, 20, 3), (61, 9, 4), (61, 9, 4), (75, 26, 5), (102, 8, 6)]
    assert ranges.joined(spans) == [[(0, 20, 2), (30, 20, 3)], [(61, 9, 4), (75, 26, 5), (102, 8, 6)], [(200, 5, 1)]]
    assert ranges.joined([]) == []
    assert ranges.joined([(0, 500, 1), (5, 20, 2)]) == [[(0, 500, 1)], [(5, 20, 2)]]


def test_many_requests_are_under_way_at_once(server: RangeServer) -> None:
    corpus = open_corpus(server.url)
    server.fault = lambda number: time.sleep(0.2)
    began = time.monotonic()
    list(Loader(corpus, SMALL, 24, train=False, workers=0, backend="cpu", window=WINDOW))
    assert len(server.tars) == 24
    assert time.monotonic() - began < 24 * 0.2 / 2


# --- weather ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["500", "cut", "flip"])
def test_passing_faults_change_nothing(local: Corpus, server: RangeServer, fault: Any) -> None:
    corpus = open_corpus(server.url)
    # A flip is asked for again once: the second time must not be another one's turn.
    faulty = {2, 20} if fault == "flip" else set(range(3, 100, 3))
    server.fault = lambda number: fault if number in faulty else None
    assert_same(list(load(corpus, epochs=1, workers=2)), list(load(local, epochs=1)))
    again = len(server.tars) - 24
    assert again >= 2 if fault == "flip" else again == sum(number <= len(server.tars) for number in faulty)


def test_a_stuck_read_times_out_and_says_where(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = open_corpus(server.url)
    monkeypatch.setattr(
        Patience, "from_env", staticmethod(lambda: Patience(timeout_s=0.3, attempts=2, wait_s=0.01, deadline_s=5))
    )
    server.fault = lambda number: "stuck"
    began = time.monotonic()
    with pytest.raises(RemoteError) as raised:
        next(iter(load(corpus, ("audio",), train=False, workers=2, on_bad="skip")))
    assert time.monotonic() - began < 10
    message = str(raised.value)
    row = corpus.table(["key", "unit", "audio"]).sort_by("key").to_pylist()
    key, unit, part = next((row["key"], row["unit"], row["audio"]) for row in row if row["audio"])
    for words in (
        f"sample {key}, its audio",
        f"bytes {part['offset']}..{part['offset'] + part['size']}",
        f"{server.url}/shards/{unit:06d}.tar",
        "2 attempts",
        "no answer within 0.3 s",
    ):
        assert words in message


def test_a_stuck_store_that_knows_no_timeout_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    store = Store(f"file://{tmp_path}", Patience(timeout_s=0.2, attempts=2, wait_s=0.01))
    assert store.read_range("a.tar", 2, 3) == b"234"
    (tmp_path / "a.tar").unlink()
    os.mkfifo(tmp_path / "a.tar")  # opening it waits for a writer
    with pytest.raises(
        RemoteError, match=r"bytes 2\.\.5 of .*a\.tar could not be read, 2 attempts .*no answer within 0\.2 s"
    ):
        store.read_range("a.tar", 2, 3)


def test_a_store_that_is_down_is_not_asked_for_ever(server: RangeServer) -> None:
    server.fault = lambda number: "500"
    patience = Patience(timeout_s=5, attempts=4, wait_s=0.001, longest_wait_s=0.002, spare_attempts=6)
    store = Store(server.url, patience)
    for number in range(20):
        with pytest.raises(RemoteError, match=r"bytes 0\.\.8 of .* could not be read, \d attempts? .*500"):
            store.read_range("shards/000000.tar", 0, 8)
        assert len(server.tars) == store.requests <= number + 1 + 6 + (number + 10) // 10
    asked = len(server.tars)
    assert asked >= 26
    server.fault = lambda number: "403"
    with pytest.raises(RemoteError, match="403"):
        Store(server.url, patience).read_range("shards/000000.tar", 0, 8)
    assert len(server.tars) == asked + 1  # a refusal does not pass


def test_bytes_that_are_wrong_there_are_never_given(server: RangeServer, cache: Path) -> None:
    corpus = open_corpus(server.url)
    path, span = spans_of(corpus, "audio")[0]
    tar = server.root / "data/corpus/shards" / path.name
    flip(tar, span[0] + span[1] // 2)
    with pytest.raises(DamagedError, match=rf"{server.url}/shards/{path.name} is damaged in bytes {span[0]}\.\."):
        ShardReader().read(path, *span)
    assert len(server.tars) == 2  # it might have been the way
    with pytest.raises(BadSampleError, match=r"of shards/000000.tar has bad audio"):
        list(load(corpus, ("audio",), train=False))
    skipped = load(corpus, ("audio",), train=False, on_bad="skip")
    assert sum(map(len, skipped)) == 23
    with tar.open("r+b") as file:
        file.truncate(span[0] + 10)
    with pytest.raises(DamagedError, match=rf"ends at {span[0] + 10} inside bytes"):
        ShardReader().read_many(path, [span])
    tar.unlink()
    with pytest.raises(DamagedError, match="is missing, though its sidecar is there"):
        ShardReader().read(path, *span)


# --- the cache --------------------------------------------------------------------------------------------------------


def key_of(number: int, data: bytes) -> SpanKey:
    import xxhash

    return SpanKey("memory://x.tar", number, len(data), xxhash.xxh3_64_intdigest(data))


def test_a_damaged_file_of_the_cache_heals(server: RangeServer, cache: Path) -> None:
    corpus = open_corpus(server.url)
    path, span = spans_of(corpus, "audio")[0]
    expected = ShardReader().read_many(path, [span])
    [file] = cached(cache)
    flip(file, 100)
    assert ShardReader().read_many(path, [span]) == expected
    assert len(server.tars) == 2
    file.write_bytes(expected[0][:50])  # as a power cut may leave it
    assert ShardReader().read_many(path, [span]) == expected
    assert len(server.tars) == 3
    assert ShardReader().read_many(path, [span]) == expected
    assert len(server.tars) == 3


def test_the_cache_stays_under_its_bound_and_takes_in_what_is_new(tmp_path: Path) -> None:
    bound = 40 * 4096
    spans = SpanCache(tmp_path, bound)
    data = [os.urandom(4096 * (1 + number % 3)) for number in range(200)]
    for number, item in enumerate(data):
        spans.put(key_of(number, item), item)
        assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= bound
    here = [number for number, item in enumerate(data) if spans.get(key_of(number, item)) == item]
    assert len(here) >= 10
    assert any(number > 150 for number in here)
    big = os.urandom(bound + 1)
    spans.put(key_of(1000, big), big)
    assert spans.get(key_of(1000, big)) is None
    assert len([number for number, item in enumerate(data) if spans.get(key_of(number, item))]) == len(here)
    nothing = SpanCache(tmp_path / "none", 0)
    nothing.put(key_of(0, data[0]), data[0])
    assert nothing.get(key_of(0, data[0])) is None
    assert not (tmp_path / "none").exists()


def test_a_large_cache_keeps_its_bound_by_groups_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omniloom.pipeline import cache as module

    monkeypatch.setattr(module, "_GROUP_BYTES", 8 * 4096)
    bound = 40 * 8 * 4096
    spans = SpanCache(tmp_path, bound)
    assert spans._groups == 32  # divides the folders
    for number in range(800):
        item = number.to_bytes(2, "big") * 1000
        spans.put(key_of(number, item), item)
    files = list(tmp_path.rglob("??/*"))
    assert bound * 0.8 < len(files) * 4096 <= bound
    # Another bound counts what is there, and comes down to it.
    smaller = SpanCache(tmp_path, bound // 4)
    for number in range(800, 2400):
        item = number.to_bytes(2, "big") * 1000
        smaller.put(key_of(number, item), item)
    assert len(list(tmp_path.rglob("??/*"))) * 4096 <= bound // 4


def test_a_full_disk_stops_the_cache_and_not_the_reading(server: RangeServer, cache: Path) -> None:
    corpus = open_corpus(server.url)
    path, span = spans_of(corpus, "audio")[0]
    cache.mkdir(exist_ok=True)
    (cache / "spans").write_bytes(b"a file where the folder should be")
    reader = ShardReader()
    with pytest.warns(RuntimeWarning, match="keeps no more of what is read"):
        [data] = reader.read_many(path, [span])
    assert reader.read_many(path, [span]) == [data]


SHARING = """
import sys
from omniloom.modalities.base import Window
from omniloom.pipeline import Loader
from tests.test_remote import SMALL, WINDOW

options = {"workers": 2, "backend": "cpu", "window": WINDOW}
loader = Loader(sys.argv[1], SMALL, 4, seed=3, rank=int(sys.argv[2]), world_size=2, **options)
for step, batch in enumerate(loader):
    sums = [float(batch.tensors[name].double().sum()) for name in ("frames", "audio")]
    print(step, *batch.keys, *sums, flush=True)
    if step == int(sys.argv[3]):
        break
"""


def start(server: RangeServer, rank: int, steps: int, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SHARING, server.url, str(rank), str(steps)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        cwd=Path(__file__).parent.parent,
    )


def test_two_processes_share_a_cache_with_a_tiny_bound(local: Corpus, server: RangeServer, cache: Path) -> None:
    bound = 300_000
    ranks = [start(server, rank, 12, OMNILOOM_CACHE_GB=str(bound / 1e9)) for rank in range(2)]
    most = 0
    while any(rank.poll() is None for rank in ranks):
        sizes = []
        for path in cached(cache):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue
        most = max(most, sum(sizes))
        time.sleep(0.02)
    lines = [(rank.communicate()[0]).splitlines() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert 0 < most <= bound
    for rank, said in enumerate(lines):
        here = Loader(local, SMALL, 4, seed=3, rank=rank, world_size=2, workers=0, backend="cpu", window=WINDOW)
        expected = [
            " ".join([str(step), *batch.keys, *(str(float(batch.tensors[name].double().sum())) for name in SMALL[:2])])
            for step, batch in enumerate(islice(here, 13))
        ]
        assert said == expected


def test_a_killed_reader_leaves_a_cache_that_others_read_rightly(
    local: Corpus, server: RangeServer, cache: Path
) -> None:
    for steps in (0, 6):
        killed = start(server, 0, 1000, OMNILOOM_CACHE_GB="0.0004")
        assert killed.stdout
        for _ in range(steps + 1):
            killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL
    assert cached(cache)
    assert_same(list(load(server.url, epochs=3)), list(load(local, epochs=3)))
    # The name of a cached file is a promise about its bytes only together with the hash that is checked on reading.
    part = cache / "spans/00/.00deadbeef.12345678"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"half")
    os.utime(part, (0, 0))
    spans = SpanCache(cache / "spans", 20 * 4096)
    for number in range(200):
        item = os.urandom(3000)
        spans.put(key_of(number, item), item)
    assert not part.exists()


# --- what changes there -----------------------------------------------------------------------------------------------


def test_a_corpus_that_grew_there_is_brought_up_to_date_when_it_is_opened(server: RangeServer) -> None:
    there = server.root / "data/corpus"
    assert len(open_corpus(server.url)) == 24
    server.forget()
    assert len(open_corpus(server.url)) == 24
    assert server.others == ["data/corpus/corpus.json"]  # the test of ranges
    write_unit(there, 3, outcomes(3, 8), SMALL)
    server.forget()
    grown = open_corpus(server.url)
    assert len(grown) == 32
    assert sorted(server.others) == [
        f"data/corpus/{name}" for name in ("corpus.json", "drops/000003.parquet", "shards/000003.parquet")
    ]
    assert "depth" in grown.columns
    remove_column(there, "depth")
    assert "depth" not in open_corpus(server.url).columns
    (grown.path / "shards/000001.parquet").unlink()
    assert len(open_corpus(server.url)) == 32
    assert len(open_corpus(grown.path)) == 32  # the copy, as it was last


def test_a_server_that_says_nothing_of_changes_is_read_anew(server: RangeServer) -> None:
    server.marks = False
    open_corpus(server.url)
    server.forget()
    open_corpus(server.url)
    assert len(server.others) > 10


def test_a_server_without_index_pages_needs_a_list(local: Corpus, server: RangeServer) -> None:
    server.index = False
    with pytest.raises(ValueError, match=r"gives no listing of the corpus .*autoindex on.*find \. -type f > files.txt"):
        open_corpus(server.url)
    names = subprocess.check_output(["find", ".", "-type", "f"], cwd=local.path, text=True)
    (server.root / "data/corpus/files.txt").write_text(f"{names}../../secret.json\n/etc/secret.json\n")
    assert_same(list(load(server.url, (*SMALL, "depth"), epochs=1)), list(load(local, (*SMALL, "depth"), epochs=1)))


def test_what_cannot_be_read_says_what_to_do(server: RangeServer, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data is no corpus, it has no corpus.json"):
        open_corpus(server.url.removesuffix("/corpus"))
    with pytest.raises(ValueError, match=r"memory://nothing is no corpus"):
        open_corpus("memory://nothing")
    with pytest.raises(ValueError, match=r"fsspec knows no abc://"):
        open_corpus("abc://nothing")
    server.ranges = False
    with pytest.raises(ValueError, match=r"ignores Range requests"):
        open_corpus(server.url)
    with pytest.raises(RemoteError, match=r"http://127.0.0.1:9/.* could not be read, 5 attempts"):
        open_corpus("http://127.0.0.1:9/corpus")


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/corpus", "s3fs"), ("gs://bucket/corpus", "gcsfs")])
def test_a_missing_package_is_named(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    assert fsspec
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.partition(":")[0], raising=False)
    with pytest.raises(ValueError, match=rf"{url} needs the package {package}: `pip install {package}`"):
        open_corpus(url)


def test_nothing_is_written_to_where_a_url_points(server: RangeServer, local: Corpus, tmp_path: Path) -> None:
    mirror = open_corpus(server.url).path
    for corpus in (server.url, Path(server.url), mirror):
        with pytest.raises(ValueError, match="can only be read: build in a folder of this machine"):
            create_corpus(corpus, modalities=SMALL, recipe={})
        with pytest.raises(ValueError, match="can only be read: generate in a folder of this machine"):
            create_column(corpus, "depth", {}, [])
        with pytest.raises(ValueError, match="can only be read: generate in a folder"):
            remove_column(corpus, "depth")
        with pytest.raises(ValueError, match="can only be read: generate in a folder"):
            generate(Path(corpus), ["depth"], {})
    assert "depth" in open_columns(mirror)
    said = subprocess.run(
        [sys.executable, "-m", "omniloom.recipes.cli", "build", str(tmp_path), "--out", "s3://bucket/corpus"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert said.returncode == 1
    assert "s3://bucket/corpus is a URL, which can only be read: build in a folder" in said.stderr
    assert not (tmp_path / "s3:").exists()


# --- commands ---------------------------------------------------------------------------------------------------------


def test_check_reads_a_corpus_elsewhere_whole(server: RangeServer) -> None:
    assert open_corpus(server.url).check() == []
    flip(server.root / "data/corpus/shards/000001.tar", 5000)
    (server.root / "data/corpus/columns/depth/000002.tar").unlink()
    faults = open_corpus(server.url).check()
    assert {fault.shard for fault in faults} == {"shards/000001.tar", "columns/depth/000002.tar"}


def test_stats_takes_a_url(local: Corpus, server: RangeServer) -> None:
    said = subprocess.check_output(
        [sys.executable, "-m", "omniloom.recipes.cli", "stats", server.url, "--json"], text=True
    )
    assert json.loads(said)["samples"] == 24
