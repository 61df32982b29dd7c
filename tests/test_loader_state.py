"""One sequence of samples, whoever reads it: ranks, threads and decoders come and go, runs die and are continued."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from omniloom.modalities.base import Window
from omniloom.pipeline import Loader
from omniloom.pipeline.corpus import Corpus
from tests.shards import make_corpus

GLOBAL_BATCH, MICRO_BATCH, EPOCHS = 8, 2, 4
_folder = TemporaryDirectory()
_made: list[Corpus] = []


def corpus() -> Corpus:
    if not _made:
        _made.append(make_corpus(Path(_folder.name), units=3, per_unit=7))
    return _made[0]


class Training(RuleBasedStateMachine):
    """Ranks that read side by side, one step after the other; state is what a checkpoint would hold."""

    @initialize(
        shuffle=st.sampled_from(["global", "blocks"]),
        share=st.sampled_from([(), ("audio",)]),
        tail=st.sampled_from(["drop", "pad", "partial"]),
        seed=st.integers(0, 3),
    )
    def begin(self, shuffle: str, share: tuple[str, ...], tail: str, seed: int) -> None:
        self.asked: dict[str, Any] = {
            "shuffle": shuffle,
            "open_shards": 2,
            "share": share,
            "micro_batch": MICRO_BATCH,
            "tail": tail,
            "seed": seed,
            "epochs": EPOCHS,
        }
        alone = self.loader(0, 1, 0, "cpu")
        assert alone.num_steps is not None
        self.foretold = [alone.keys_at(step) for step in range(alone.num_steps)]
        self.step = 0
        self.state = alone.state_dict()
        self.start(1, 0, "cpu")

    def loader(self, rank: int, world_size: int, workers: int, backend: Any, processes: bool = False) -> Loader:
        return Loader(
            corpus(),
            ("audio", "caption"),
            GLOBAL_BATCH // world_size,
            rank=rank,
            world_size=world_size,
            workers=workers,
            processes=processes,
            backend=backend,
            window=Window(1, 8, 160),
            **self.asked,
        )

    def start(self, world_size: int, workers: int, backend: str, processes: bool = False) -> None:
        self.ranks = [self.loader(rank, world_size, workers, backend, processes) for rank in range(world_size)]
        for loader in self.ranks:
            loader.load_state_dict(json.loads(json.dumps(self.state)))
        self.streams = [iter(loader) for loader in self.ranks]

    @rule(steps=st.integers(1, 4))
    def train(self, steps: int) -> None:
        for _ in range(min(steps, len(self.foretold) - self.step)):
            batches = [next(stream) for stream in self.streams]
            assert [key for batch in batches for key in batch.keys] == self.foretold[self.step]
            assert all(batch.real == [bool(key) for key in batch.keys] for batch in batches)
            self.step += 1
        if self.step == len(self.foretold):
            assert [next(stream, None) for stream in self.streams] == [None] * len(self.streams), (
                "all ranks end at once"
            )
            self.state = {**self.state, "position": 0}
            self.step = 0
            self.streams = [iter(loader) for loader in self.ranks]

    @rule(which=st.integers(0, 3))
    def save(self, which: int) -> None:
        self.state = self.ranks[which % len(self.ranks)].state_dict()
        self.saved = self.step

    @rule(
        world_size=st.sampled_from([1, 2, 4]),
        workers=st.sampled_from([0, 1, 2, 4]),
        decoder=st.sampled_from(["cpu", "dali", "processes"]),
    )
    def die_and_continue(self, world_size: int, workers: int, decoder: str) -> None:
        self.teardown()
        self.step = self.state["position"] // GLOBAL_BATCH % len(self.foretold)
        self.start(world_size, workers, "dali" if decoder == "dali" else "cpu", decoder == "processes" and workers > 0)

    def teardown(self) -> None:
        for stream in getattr(self, "streams", ()):
            getattr(stream, "close", lambda: None)()


TestTraining = Training.TestCase
TestTraining.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


def test_every_sample_comes_once_an_epoch_whatever_the_tail() -> None:
    keys = corpus().table(["key"])["key"].to_pylist()
    for tail, world_size in (("pad", 1), ("partial", 1), ("partial", 4), ("pad", 4)):
        seen: list[list[str]] = []
        for rank in range(world_size):
            loader = Loader(
                corpus(),
                ("caption",),
                8 // world_size,
                rank=rank,
                world_size=world_size,
                workers=0,
                backend="cpu",
                epochs=1,
                tail=tail,  # pyright: ignore[reportArgumentType]
            )
            seen.append([key for batch in loader for key in batch.keys])
            assert loader.num_steps == 3
        assert sorted(key for rank in seen for key in rank if key) == sorted(keys)
        if tail == "pad":
            assert [len(rank) for rank in seen] == [24 // world_size] * world_size
        else:
            assert max(map(len, seen)) - min(map(len, seen)) <= 1
