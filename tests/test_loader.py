"""The loader gives the same samples in the same order whatever reads them, and says what is missing or bad."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from omniloom.modalities import load
from omniloom.modalities.base import Window
from omniloom.pipeline import Loader
from omniloom.pipeline.batch import Batch
from omniloom.pipeline.corpus import Corpus
from omniloom.pipeline.view import BadSampleError
from tests.shards import SMALL, make_corpus

WINDOW = Window(num_frames=2, image_px=16, num_samples=1600)
UNITS, PER_UNIT = 3, 8
TOTAL = UNITS * PER_UNIT


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("loader"), UNITS, PER_UNIT)


def make(corpus: Any, modalities: tuple[str, ...] = SMALL, batch_size: int = 4, **kwargs: Any) -> Loader:
    return Loader(corpus, modalities, batch_size, **{"window": WINDOW, "workers": 0, "backend": "cpu", **kwargs})


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def assert_equal(a: Batch, b: Batch) -> None:
    assert (a.keys, a.sources, a.texts) == (b.keys, b.sources, b.texts)
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), name
    for name, mask in a.present.items():
        assert torch.equal(mask, b.present[name]), name


def test_a_batch_has_the_shapes_its_stems_declare(corpus: Corpus) -> None:
    batch = next(iter(make(corpus)))
    assert len(batch) == 4
    assert batch.tensors["frames"].shape == (4, 2, 3, 16, 16)
    assert batch.tensors["audio"].shape == (4, 1600)
    assert all(tensor.dtype == torch.float32 for tensor in batch.tensors.values())
    assert set(batch.tensors) == {"frames", "audio"}
    assert [len(text) > 0 for text in batch.texts["caption"]] == [True] * 4


def test_the_sequence_is_the_same_for_any_number_of_ranks_and_workers(corpus: Corpus) -> None:
    alone = list(islice(make(corpus, batch_size=8, seed=5), 6))
    for world_size in (1, 2, 4):
        for workers in (0, 1, 2, 4):
            ranks = [
                list(
                    islice(
                        make(
                            corpus,
                            batch_size=8 // world_size,
                            seed=5,
                            rank=rank,
                            world_size=world_size,
                            workers=workers,
                        ),
                        6,
                    )
                )
                for rank in range(world_size)
            ]
            for step, whole in enumerate(alone):
                parts = [rank[step] for rank in ranks]
                assert [key for part in parts for key in part.keys] == whole.keys
                for name, tensor in whole.tensors.items():
                    assert torch.equal(torch.cat([part.tensors[name] for part in parts]), tensor)


def test_an_epoch_shows_every_sample_once(corpus: Corpus) -> None:
    batches = list(make(corpus, epochs=2))
    assert len(batches) == 2 * TOTAL // 4
    assert (
        sorted(keys(batches[: TOTAL // 4]))
        == sorted(keys(batches[TOTAL // 4 :]))
        == sorted(corpus.table()["key"].to_pylist())
    )
    assert keys(batches[: TOTAL // 4]) != keys(batches[TOTAL // 4 :])


def test_training_drops_the_tail_and_evaluation_keeps_it_in_key_order(corpus: Corpus) -> None:
    assert [len(batch) for batch in make(corpus, batch_size=5, epochs=1)] == [5] * 4
    loader = make(corpus, batch_size=5, train=False)
    first, second = list(loader), list(loader)
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 4]
    assert keys(first) == sorted(keys(first)) == keys(second)
    assert loader.num_steps == 5
    ranks = [list(make(corpus, batch_size=5, train=False, rank=rank, world_size=3)) for rank in range(3)]
    assert sorted(key for rank in ranks for key in keys(rank)) == keys(first)


def test_only_the_asked_split_is_read(corpus: Corpus) -> None:
    test = make(corpus, split="test", train=False)
    assert keys(list(test)) == sorted(corpus.table(["key"], split="test")["key"].to_pylist())
    with pytest.raises(ValueError, match=r"split 'validation' of .* holds no samples"):
        make(corpus, split="validation")


def test_a_resumed_loader_gives_exactly_the_rest(corpus: Corpus) -> None:
    whole = list(islice(make(corpus, seed=1, workers=2), 20))
    loader = make(corpus, seed=1, workers=2)
    for step, batch in enumerate(loader):
        assert_equal(batch, whole[step])
        if step == 6:
            break
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = make(corpus, seed=1)
    resumed.load_state_dict(state)
    for batch, expected in zip(resumed, whole[7:], strict=False):
        assert_equal(batch, expected)
    wider = make(corpus, seed=1, batch_size=2, rank=1, world_size=2)
    wider.load_state_dict(state)
    assert next(iter(wider)).keys == whole[7].keys[2:]


def test_a_state_of_another_sequence_is_refused(corpus: Corpus) -> None:
    state = make(corpus, seed=1).state_dict()
    for other in (make(corpus, seed=2), make(corpus, seed=1, split="train"), make(corpus, seed=1, train=False)):
        with pytest.raises(ValueError, match="another sequence"):
            other.load_state_dict(state)


def test_keys_are_known_before_anything_is_read(corpus: Corpus) -> None:
    loader = make(corpus, rank=1, world_size=2)
    foretold = [loader.keys_at(step) for step in range(9)]
    assert loader.bytes_read == 0
    assert [batch.keys for batch in islice(loader, 9)] == foretold


def test_absent_modalities_are_masked_rows_of_zeros(corpus: Corpus) -> None:
    absent = set(corpus.table().filter(corpus.table()["audio"].is_null())["key"].to_pylist())
    assert len(absent) == TOTAL // 4
    for batch in make(corpus, epochs=1):
        for row, key in enumerate(batch.keys):
            assert bool(batch.present["audio"][row]) == (key not in absent)
            assert bool(batch.tensors["audio"][row].any()) == (key not in absent)
        assert batch.present["frames"].all()


def test_reading_only_audio_reads_only_its_bytes(corpus: Corpus) -> None:
    loader = make(corpus, ("audio",), train=False)
    list(loader)
    assert loader.bytes_read < 1.1 * corpus.stats()["modalities"]["audio"]["bytes"]


def test_a_window_of_two_frames_reads_two_jpegs(corpus: Corpus) -> None:
    loader = make(corpus, ("frames",), train=False)
    list(loader)
    assert loader.bytes_read < 2.2 / 5 * corpus.stats()["modalities"]["frames"]["bytes"]


def test_the_view_of_a_sample_depends_on_seed_epoch_and_key_alone(corpus: Corpus) -> None:
    def views(**kwargs: Any) -> dict[str, torch.Tensor]:
        return {
            key: batch.tensors["audio"][row]
            for batch in make(corpus, ("audio",), epochs=1, **kwargs)
            for row, key in enumerate(batch.keys)
        }

    once, twice, otherwise = (
        views(seed=1, batch_size=2),
        views(seed=1, batch_size=6, workers=2),
        views(seed=2, batch_size=2),
    )
    assert all(torch.equal(once[key], twice[key]) for key in once)
    assert any(not torch.equal(once[key], otherwise[key]) for key in once)


def test_permuting_reads_a_modality_from_another_source_and_nothing_else(corpus: Corpus) -> None:
    plain, permuted = make(corpus, train=False), make(corpus, train=False, permute=("audio",))
    own = {key: batch.tensors["audio"][row] for batch in plain for row, key in enumerate(batch.keys)}
    source = dict(zip(*(corpus.table()[name].to_pylist() for name in ("key", "source_id")), strict=True))
    donors: list[str] = []
    for a, b in zip(plain, permuted, strict=True):
        assert torch.equal(a.tensors["frames"], b.tensors["frames"])
        assert a.texts == b.texts
        assert torch.equal(a.present["audio"], b.present["audio"])
        for row, key in enumerate(b.keys):
            if b.present["audio"][row]:
                [donor] = [other for other, sound in own.items() if torch.equal(sound, b.tensors["audio"][row])]
                assert source[donor] != source[key]
                donors.append(donor)
    assert len(set(donors)) == len(donors) == 18


def test_a_mixture_draws_from_corpora_by_weight(corpus: Corpus, tmp_path: Path) -> None:
    other = make_corpus(tmp_path, units=1, per_unit=4, modalities=("audio",))
    loader = make(None, ("frames", "audio"), mixture={corpus: 3, other.path: 1}, batch_size=50, window=Window(1, 8, 16))
    batches = list(islice(loader, 20))
    share = sum(int((~batch.present["frames"]).sum()) for batch in batches) / 1000
    assert share == 0.25
    with pytest.raises(ValueError, match="evaluation goes once through one corpus"):
        make(None, ("audio",), mixture={corpus: 3, other: 1}, train=False)


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Corpus, str]:
    """A corpus with one flipped bit, in the sound of one sample; and the sample's key."""
    corpus = make_corpus(tmp_path, UNITS, PER_UNIT)
    row = corpus.table().to_pylist()[4]
    with corpus.shards[0].open("r+b") as tar:
        tar.seek(row["audio"]["offset"] + 50)
        byte = tar.read(1)[0]
        tar.seek(-1, 1)
        tar.write(bytes([byte ^ 8]))
    return corpus, row["key"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("backend", ["cpu", "dali"])
def test_a_bad_sample_is_named_or_replaced_and_never_fails_its_batch(
    damaged: tuple[Corpus, str], workers: int, backend: str
) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    corpus, bad = damaged
    with pytest.raises(BadSampleError, match=rf"sample {bad} of shards/000000.tar has bad audio: .*omniloom check"):
        list(make(corpus, epochs=1, workers=workers, backend=backend))

    skipping = make(corpus, epochs=1, workers=workers, backend=backend, on_bad="skip")
    batches = list(skipping)
    assert [len(batch) for batch in batches] == [4] * 6
    assert bad not in keys(batches)
    assert [(item.key, item.shard, item.modality) for item in skipping.bad] == [(bad, "shards/000000.tar", "audio")]
    assert keys(batches) == keys(list(make(corpus, epochs=1, on_bad="skip")))
    assert not (corpus.path / "quarantine.jsonl").exists()

    evaluation = list(make(corpus, train=False, workers=workers, backend=backend, on_bad="quarantine"))
    assert len(keys(evaluation)) == TOTAL - 1
    [line] = (corpus.path / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == bad
    assert len(keys(list(make(corpus, ("frames", "caption"), train=False, workers=workers)))) == TOTAL


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_beside_a_bad_sample_stays_as_it_was_and_batches_stay_as_they_were_given(
    damaged: tuple[Corpus, str], workers: int
) -> None:
    corpus, bad = damaged
    whole = {
        key: batch.tensors["frames"][row]
        for batch in make(corpus, ("frames",), train=False)
        for row, key in enumerate(batch.keys)
    }
    batches = [(batch, deepcopy(batch)) for batch in make(corpus, train=False, workers=workers, on_bad="skip")]
    for batch, then in batches:
        assert_equal(batch, then)
        for row, key in enumerate(batch.keys):
            assert torch.equal(batch.tensors["frames"][row], whole[key])
            assert bool(batch.tensors["audio"][row].any()) == bool(batch.present["audio"][row])
    assert sorted(key for batch, _ in batches for key in batch.keys) == sorted(whole.keys() - {bad})


def test_more_bad_samples_than_allowed_are_an_error(damaged: tuple[Corpus, str]) -> None:
    corpus, _ = damaged
    with pytest.raises(ValueError, match="more than 0 samples are bad"):
        list(make(corpus, epochs=1, on_bad="skip", max_bad=0))


def test_any_flip_in_the_bytes_it_reads_is_found(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=1, per_unit=1)
    row = corpus.table().to_pylist()[0]
    spans = [
        *(
            (row["frames"]["offset"] + offset, size)
            for offset, size in zip(row["frames"]["offsets"], row["frames"]["sizes"], strict=True)
        ),
        *((row[name]["offset"], row[name]["size"]) for name in ("audio", "caption")),
    ]
    whole = corpus.shards[0].read_bytes()
    window = Window(num_frames=5, image_px=8, num_samples=16)
    for offset, size in spans:
        for at in range(offset, offset + size, 211):
            corpus.shards[0].write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(BadSampleError):
                list(make(corpus, train=False, window=window))
    corpus.shards[0].write_bytes(whole)
    assert len(list(make(corpus, train=False, window=window))) == 1


def test_a_missing_or_shortened_shard_is_a_bad_sample(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, units=1, per_unit=2)
    whole = corpus.shards[0].read_bytes()
    corpus.shards[0].write_bytes(whole[:600])
    with pytest.raises(BadSampleError, match="cut short"):
        list(make(corpus, train=False))
    corpus.shards[0].unlink()
    with pytest.raises(BadSampleError, match="is missing"):
        list(make(corpus, train=False))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"modalities": ("depth",)}, "has no modality 'depth': it has audio, caption, frames"),
        ({"modalities": ()}, "name the modalities"),
        ({"rank": 1}, "rank < world_size"),
        ({"batch_size": 100, "epochs": 1}, "lower batch_size"),
        ({"micro_batch": 3}, "micro_batch divides batch_size, got 3 and 4"),
        ({"share": ("audio",), "train": False}, "are for training"),
        ({"buckets": {"caption.length": [3]}}, "no number 'caption.length'.* caption.size"),
        ({"batch_size": 8, "micro_batch": 8, "split": "test"}, "no 8 of the 5 samples"),
        ({"permute": ("points",)}, "permute names points"),
        ({"backend": "cuda"}, "backend is auto, dali or cpu"),
        ({"mixture": {"a": 1.0}}, "give a corpus, or None and a mixture"),
    ],
)
def test_impossible_requests_name_the_repair(corpus: Corpus, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(corpus, **kwargs)


def test_the_report_says_which_decoder_ran(corpus: Corpus) -> None:
    loader = make(corpus, ("frames", "audio"), backend="auto", train=False)
    assert loader.backend_report == "flac: nothing decoded yet; jpeg: nothing decoded yet"
    list(loader)
    if not torch.cuda.is_available():
        assert loader.backend_report == "flac: cpu 18 pieces; jpeg: cpu 48 pieces"


def test_leaving_the_loop_early_leaves_no_thread(corpus: Corpus) -> None:
    import threading

    before = threading.active_count()
    for _ in range(3):
        next(iter(make(corpus, workers=2)))
    assert threading.active_count() == before


def test_modalities_that_are_not_for_training_are_refused(tmp_path: Path) -> None:
    kinds = [name for name in ("video",) if load(name).stem.kind == "none"]
    corpus = make_corpus(tmp_path, units=1, per_unit=1, modalities=("audio", *kinds))
    with pytest.raises(ValueError, match="is for looking"):
        make(corpus, ("audio", "video"))


# --- batches of like samples ------------------------------------------------------------------------------------


def test_micro_batches_share_modalities_lie_in_one_bucket_and_mix_sources_as_asked(corpus: Corpus) -> None:
    facts = {row["key"]: row for row in corpus.table(["key", "source_id", "audio", "caption"]).to_pylist()}
    middle = sorted(row["caption"]["size"] for row in facts.values())[TOTAL // 2]
    loader = make(corpus, ("audio", "caption"), micro_batch=2, share=("audio",), buckets={"caption.size": [middle]})
    for batch in islice(loader, 30):
        for first, second in zip(batch.keys[::2], batch.keys[1::2], strict=True):
            a, b = facts[first], facts[second]
            assert (a["audio"] is None) == (b["audio"] is None)
            assert (a["caption"]["size"] < middle) == (b["caption"]["size"] < middle)
    same: dict[str, int] = {}
    for sources in ("any", "apart", "together"):
        loader = make(corpus, ("caption",), micro_batch=2, sources=sources)
        drawn = [loader.keys_at(step) for step in range(300)]
        pairs = [pair for keys in drawn for pair in zip(keys[::2], keys[1::2], strict=True)]
        same[sources] = sum(facts[a]["source_id"] == facts[b]["source_id"] for a, b in pairs)
    assert 2 * same["apart"] < same["any"] < 75 < 300 < same["together"], "of 600 pairs; a source has three clips"


def test_damage_found_before_a_stop_counts_after_it(damaged: tuple[Corpus, str]) -> None:
    corpus, key = damaged
    loader = make(corpus, on_bad="skip", epochs=1)
    list(loader)
    resumed = make(corpus, on_bad="skip", epochs=1)
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert [bad.key for bad in resumed.bad] == [key]
