"""The loader over long runs and bad days: memory stays, kills leave nothing, errors arrive whole, hung reads end."""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from omniloom.modalities import codecs
from omniloom.modalities.base import Window
from omniloom.pipeline import Loader
from omniloom.pipeline.corpus import Corpus
from omniloom.pipeline.sidecar import DamagedError
from omniloom.pipeline.threads import Threads, Watch
from omniloom.pipeline.view import BadSampleError
from tests.range_server import serving
from tests.shards import SMALL, flip, make_corpus

ALL = (*SMALL, "transcript", "depth", "normal", "points")
WINDOW = Window(num_frames=2, image_px=16, num_samples=1600)
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("faults") / "data/corpus", 3, 8, ALL)


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, corpus: Corpus) -> Iterator[str]:
    if request.param == "local":
        yield str(corpus.path)
        return
    with serving(corpus.path.parent.parent) as server:
        yield f"{server.url}/data/corpus"


@pytest.fixture(params=[False, True], ids=["threads", "processes"])
def processes(request: pytest.FixtureRequest) -> bool:
    return request.param


def make(corpus: Any, modalities: tuple[str, ...] = SMALL, **kwargs: Any) -> Loader:
    return Loader(corpus, modalities, 4, **{"window": WINDOW, "workers": 2, "backend": "cpu", **kwargs})


def child(script: str, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        cwd=Path(__file__).parent.parent,
    )


# --- memory -----------------------------------------------------------------------------------------------------------

EPOCHS = """
import gc, os, sys
from pathlib import Path
from omniloom.modalities.base import Window
from omniloom.pipeline import Loader

place, keep, processes, *names = sys.argv[1:]
window = Window(4, 96, 32_000, 512)
loader = Loader(place, names, 8, workers=2, processes=bool(processes), backend="cpu", epochs=11, window=window)
kept = []
for step, batch in enumerate(loader, 1):
    if step % 3 == 0:
        kept += [batch] if keep == "leak" else []
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        print(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, flush=True)
"""
MAY_GROW_MB = 15.0
"""Of the most in epochs 2 to 5 and in 7 to 10: how many batches are on their way at one moment is chance.

A batch has some 9 MB: one that stayed each epoch makes 45. Over 240 epochs the most wavers by 10 and does not grow.
"""


def growth_mb(place: str, cache: Path, keep: str, processes: str = "") -> float:
    said = child(EPOCHS, place, keep, processes, *ALL, OMNILOOM_CACHE=str(cache)).communicate()[0]
    resident = [float(line) for line in said.split()]
    assert len(resident) == 11
    return max(resident[6:10]) - max(resident[1:5])


def test_memory_does_not_grow_over_ten_epochs(place: str, tmp_path: Path) -> None:
    assert growth_mb(place, tmp_path / "cache", "nothing") < MAY_GROW_MB


def test_memory_of_processes_does_not_grow_over_ten_epochs(corpus: Corpus, tmp_path: Path) -> None:
    assert growth_mb(str(corpus.path), tmp_path / "cache", "nothing", "yes") < MAY_GROW_MB


def test_a_batch_that_stayed_each_epoch_would_be_seen(corpus: Corpus, tmp_path: Path) -> None:
    assert growth_mb(str(corpus.path), tmp_path / "cache", "leak") > 2 * MAY_GROW_MB


# --- kills ------------------------------------------------------------------------------------------------------------

ENDLESS = """
import sys
from omniloom.modalities.base import Window
from omniloom.pipeline import Loader

place, processes, *names = sys.argv[1:]
for batch in Loader(place, names, 4, workers=2, processes=bool(processes), backend="cpu", window=Window(2, 16, 1600)):
    print(*batch.keys, flush=True)
"""


def _shared_memory() -> set[Path]:
    """Files there, but for those of Ray, which other tests may be using."""
    return {path for path in SHARED_MEMORY.iterdir() if not path.name.startswith("plasma")}


def test_a_killed_process_leaves_no_child_no_shared_memory_no_file_and_no_lock(
    place: str, processes: bool, tmp_path: Path
) -> None:
    cache, scratch = tmp_path / "cache", tmp_path / "scratch"
    scratch.mkdir()
    shared = _shared_memory()
    for steps in (1, 5):
        running = child(
            ENDLESS, place, "yes" if processes else "", *SMALL, OMNILOOM_CACHE=str(cache), TMPDIR=str(scratch)
        )
        assert running.stdout
        for _ in range(steps):
            assert running.stdout.readline()
        children = psutil.Process(running.pid).children(recursive=True)
        assert len(children) == (3 if processes else 0), "two that decode, and the one that they were forked from"
        running.send_signal(signal.SIGKILL)
        running.communicate()
        assert running.returncode == -signal.SIGKILL
        assert not psutil.wait_procs(children, timeout=5)[1]
    assert _shared_memory() <= shared
    assert not list(scratch.iterdir())
    locks = [path for path in cache.rglob(".*") if path.is_file() and path.name.startswith((".lock", ".used"))]
    assert bool(locks) == place.startswith("http")
    for path in locks:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    after = child(ENDLESS, place, "yes" if processes else "", *SMALL, OMNILOOM_CACHE=str(cache), TMPDIR=str(scratch))
    assert after.stdout
    expected = next(iter(make(place)))
    assert after.stdout.readline().split() == expected.keys
    after.kill()
    after.communicate()


LEFT = """
import sys
from omniloom.pipeline import Loader

stream = iter(Loader(sys.argv[1], sys.argv[3:], 4, workers=2, processes=bool(sys.argv[2]), backend="cpu"))
print(len(next(stream)))
"""


def test_a_script_that_ends_in_the_middle_of_an_iteration_ends_well(corpus: Corpus, processes: bool) -> None:
    for _ in range(3):
        running = child(LEFT, str(corpus.path), "yes" if processes else "", *SMALL)
        assert (running.communicate(timeout=60)[0], running.returncode) == ("4\n", 0)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_damage_met_by_a_worker_arrives_with_key_shard_member_and_cause(processes: bool, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, 2, 4)
    row = corpus.table().to_pylist()[5]
    flip(corpus.shards[1], row["audio"]["offset"] + 40)
    with pytest.raises(BadSampleError) as caught:
        list(make(corpus, epochs=1, processes=processes))
    error = caught.value
    assert (error.key, error.shard, error.modality) == (row["key"], "shards/000001.tar", "audio")
    assert error.member == f"{row['key']}.audio.flac"
    assert all(word in str(error) for word in (error.key, error.shard, error.member, "do not match their hash"))
    if processes:
        assert "in fetch" in error.__notes__[0]
        assert "DamagedError: " in error.__notes__[0]
    else:
        assert isinstance(error.__cause__, DamagedError)
        assert any(entry.name == "fetch" for entry in caught.traceback), "where in the thread it happened"
    elsewhere = pickle.loads(pickle.dumps(error))  # noqa: S301  as Ray and torch bring it from another process
    assert (str(elsewhere), elsewhere.key, elsewhere.member) == (str(error), error.key, error.member)


def test_a_disk_that_fails_is_no_bad_sample_and_is_named(processes: bool, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, 1, 4)
    [shard] = corpus.shards
    shard.unlink()
    shard.mkdir()  # what can be opened and not be read
    loader = make(corpus, ("caption",), epochs=1, on_bad="skip", processes=processes)
    with pytest.raises(OSError, match=r"sample \w{32}, its caption: Is a directory: '.*shards/000000.tar'"):
        list(loader)
    assert not loader.bad


def test_an_error_nobody_foresaw_says_at_which_sample_it_happened(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such thing was thought of")

    monkeypatch.setattr(codecs, "decode", fail)
    with pytest.raises(RuntimeError, match="thought of") as caught:
        list(make(corpus, ("caption",), epochs=1))
    assert "While reading the caption of sample " in "".join(caught.value.__notes__)


# --- reads that hang --------------------------------------------------------------------------------------------------

HUNG = """
import sys, time
from omniloom.pipeline import Loader

began = time.monotonic()
try:
    options = {"workers": 2, "processes": bool(sys.argv[2]), "backend": "cpu", "epochs": 1, "on_bad": "skip"}
    list(Loader(sys.argv[1], ("caption",), 4, **options))
except TimeoutError as error:
    print(error, flush=True)
"""


def test_a_read_that_hangs_ends_the_run_with_the_shard_named(processes: bool, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 2, 4)
    shard = corpus.shards[1]
    shard.unlink()
    os.mkfifo(shard)  # nobody writes: opening it never returns
    began = time.monotonic()
    running = child(HUNG, str(corpus.path), "yes" if processes else "", OMNILOOM_TIMEOUT_S="1")
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 0, "the process ends, though a thread never will"
    assert time.monotonic() - began < 45
    assert f"of {shard}, " in said
    assert "OMNILOOM_TIMEOUT_S says how long is waited" in said


def test_other_shards_are_read_while_one_hangs_and_leaving_waits_no_longer_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path, 2, 4)
    unit_of = {row["key"]: row["unit"] for row in corpus.table(["key", "unit"]).to_pylist()}
    order = [batch.keys for batch in make(corpus, train=False, workers=0)]
    here = unit_of[order[0][0]]
    hung = corpus.shards[1 - here]
    hung.unlink()
    os.mkfifo(hung)
    monkeypatch.setenv("OMNILOOM_TIMEOUT_S", "1")
    loader = Loader(corpus, ("caption",), 1, workers=2, backend="cpu", train=False)
    began = time.monotonic()
    stream = iter(loader)
    assert next(stream).keys == order[0][:1]
    while (reading := set(loader._reader.watch._under_way)) == set() and time.monotonic() < began + 5:
        time.sleep(0.01)
    assert reading
    row = corpus.table(["unit", "caption"]).to_pylist()[4 * here]
    assert loader._reader.read(corpus.shards[here], *(row["caption"][name] for name in ("offset", "size", "xxh3")))
    stream.close()
    assert time.monotonic() - began < 10
    with hung.open("wb"):  # frees those who wait
        pass
    while loader._reader.watch.hangs() and time.monotonic() < began + 20:
        time.sleep(0.05)
    assert not loader._reader.watch.hangs()


def test_a_pool_that_is_left_behind_ends_its_threads_when_it_can() -> None:
    watch, gate = Watch(0.2), threading.Event()

    def hang() -> int:
        with watch.reading(Path("shard.tar")):
            gate.wait(30)
        return 7

    pool = Threads(2, watch.hangs)
    hung, queued = pool.submit(hang), [pool.submit(hang), pool.submit(int)]
    with pytest.raises(TimeoutError, match=r"began with shard.tar, 0 s ago"):
        watch.result(hung)
    pool.shutdown(cancel_futures=True)
    assert queued[1].cancelled()
    gate.set()
    assert hung.result(5) == 7
    with pytest.raises(RuntimeError, match="was shut down"):
        pool.submit(int)
    deadline = time.monotonic() + 5
    while any(thread.is_alive() for thread in pool._threads) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.is_alive() for thread in pool._threads)
