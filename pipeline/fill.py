"""Fills the columns of one unit: looks at each sample once, asks all modalities wanted of it, writes as they answer."""

from __future__ import annotations

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

from omniloom.modalities import Drop, Modality, Part, Rejected, Sample, load, short_name
from omniloom.modalities.base import Ask, Footage, Frames, SoundBlock, Waveform
from omniloom.pipeline.again import Touching, Values, blocks, frames_of, joined, sound_of
from omniloom.pipeline.columns import write_column_unit
from omniloom.pipeline.joined import JoinedRows, sample_of
from omniloom.pipeline.memory import give_back_free_memory
from omniloom.pipeline.probe import say
from omniloom.pipeline.reader import ShardReader
from omniloom.pipeline.recipe import params_hash, reads
from omniloom.pipeline.shard import UnitReport, shard_paths
from omniloom.pipeline.sidecar import schema_of

IN_FLIGHT = 4
"""Samples of a unit that are looked at at the same time: while one waits for a model, others decode and encode."""
_EARS = 2
"""Blocks of sound that are listened to at the same time."""
_AHEAD = 8
"""Outcomes that wait to be written, for each column."""
_POLL_S = 0.1

Outcome = Part | Drop | None


@dataclass(frozen=True, slots=True)
class Wish:
    """A modality to generate, as `load` takes its name, and its section of the recipe."""

    modality: str
    section: Any

    @property
    def name(self) -> str:
        return short_name(self.modality)


@dataclass(frozen=True, slots=True)
class Job:
    """What is wanted of every unit."""

    corpus: Path
    built: tuple[str, ...]
    """Modalities that the corpus was built with."""
    wishes: tuple[Wish, ...]
    """Each after those that it needs."""
    frames: Any
    """The `frames.Config` by which frames are sampled from movies, where a sample has no frames."""


@dataclass(slots=True)
class Filled:
    """What one column of a unit came to in this run."""

    samples: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    bytes: int = 0
    busy_seconds: float = 0.0
    """Spent extracting and encoding, waiting for models included."""
    models: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """(model, revision) of the parts."""


@dataclass(frozen=True, slots=True)
class UnitFilled:
    """What a task did; by the names of the columns."""

    unit: int
    columns: Mapping[str, Filled]
    cpu_seconds: float


def fill_unit(job: Job, task: tuple[int, Sequence[str]], ask: Ask) -> UnitFilled:
    """Makes the columns that a unit lacks, and commits each when all its samples are done.

    task: the unit, and the short names of the wishes whose columns lack it. What those are made from is made again if
    it is itself wished for, so that their bytes do not depend on where an earlier run was cut off. Bad media and parts
    that cannot be read are drops; whatever else a modality raises ends the unit and leaves nothing of it behind.
    """
    cpu_before = time.process_time()
    unit, lacking = task
    stop = Event()
    looker = _Looker(job, unit, lacking, ask, stop)
    feeds = {name: _Feed(stop) for name in lacking}
    passes = looker.passes()

    def guarded(work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except BaseException:
            stop.set()
            raise

    def written(name: str) -> UnitReport:
        try:
            return write_column_unit(job.corpus, name, unit, feeds[name])
        finally:
            feeds[name].is_open = False

    with ThreadPoolExecutor(len(lacking) + len(passes), thread_name_prefix="fill") as threads:
        try:
            writing = {name: threads.submit(guarded, written, name) for name in lacking}
            looking = [threads.submit(guarded, looker.look, names, feeds) for names in passes]
            wait([*looking, *writing.values()])
        finally:
            stop.set()
    faults = [fault for future in (*looking, *writing.values()) if (fault := future.exception()) is not None]
    if faults:
        raise next((fault for fault in faults if not isinstance(fault, _StoppedError)), faults[0])
    for name, future in writing.items():
        report = future.result()
        filled = looker.filled[name]
        filled.samples, filled.dropped, filled.bytes = report.samples, dict(report.dropped), report.bytes
    give_back_free_memory()
    return UnitFilled(unit, looker.filled, time.process_time() - cpu_before)


class _StoppedError(Exception):
    """Another thread of the unit failed."""


class _Feed:
    """Hands outcomes from the thread that makes them to the one that writes a column."""

    def __init__(self, stop: Event) -> None:
        self._stop = stop
        self._queue: queue.Queue[tuple[str, Outcome] | None] = queue.Queue(_AHEAD)
        self.is_open = True
        """False once nobody reads any more: the column was committed meanwhile, by another process."""

    def put(self, item: tuple[str, Outcome] | None) -> None:
        """The next outcome, or None after the last. Waits while the writer is behind."""
        while self.is_open:
            if self._stop.is_set():
                raise _StoppedError
            try:
                self._queue.put(item, timeout=_POLL_S)
                return
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[tuple[str, Outcome]]:
        while True:
            try:
                item = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                if self._stop.is_set():
                    raise _StoppedError from None
                continue
            if item is None:
                return
            yield item


class _Looker:
    """Looks at the samples of one unit. Threads share it."""

    def __init__(self, job: Job, unit: int, lacking: Sequence[str], ask: Ask, stop: Event) -> None:
        self._job, self._unit, self._ask, self._stop = job, unit, ask, stop
        self._wishes = {wish.name: wish for wish in job.wishes}
        self._modules: dict[str, Modality] = {name: load(wish.modality) for name, wish in self._wishes.items()}
        self._params = {name: params_hash(wish.section) for name, wish in self._wishes.items()}
        self._wanted = with_reads(lacking, job.wishes)
        joined_rows = JoinedRows(job.corpus, job.built)
        self._stored = {short_name(name): load(name) for name in joined_rows.modalities}
        read_by_some = {other for name in self._wanted for other in reads(self._modules[name])}
        parts = {"frames", "video", "audio", *self._wishes, *read_by_some}
        names = [name for name in joined_rows.names if name in parts or name in schema_of(()).names]
        self._parts = [name for name in names if name in parts]
        self._rows: list[dict[str, Any]] = joined_rows.read(unit, names)[0].to_pylist()
        self._reader = ShardReader()
        self.filled = {name: Filled() for name in lacking}
        self._lock = Lock()
        self._heard: dict[str, dict[int, Future[Any]]] = {}
        """By modality and place: what its `listen` made of the block that the sample lies in."""

    def passes(self) -> list[list[str]]:
        """Modalities looked for in one go. Those that only listen go their own way: nobody waits for ten minutes of
        sound to be heard who has no use for it.
        """
        hears = {name for name in self._wanted if hasattr(self._modules[name], "listen")}
        read_by_others = {other for name in self._wanted for other in reads(self._modules[name]) if name not in hears}
        alone = {name for name in hears - read_by_others if not {*reads(self._modules[name])} & {*self._wanted}}
        ways = [[name for name in self._wanted if (name in alone) == is_alone] for is_alone in (False, True)]
        return [names for names in ways if names]

    def look(self, names: Sequence[str], feeds: Mapping[str, _Feed]) -> None:
        """Feeds the outcomes of these modalities to the columns that lack them, in the order of the shard."""
        own_feeds = {name: feeds[name] for name in names if name in feeds}
        pending: deque[tuple[str, Future[dict[str, Outcome]]]] = deque()
        ears = ThreadPoolExecutor(_EARS, thread_name_prefix="listen")
        eyes = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="look")

        def hand_over() -> None:
            key, outcomes = pending.popleft()
            found = outcomes.result()
            for name, feed in own_feeds.items():
                feed.put((key, found[name]))

        try:
            self._begin_to_listen(names, ears)
            for place, row in enumerate(self._rows):
                pending.append((row["key"], eyes.submit(self._outcomes, place, names)))
                if len(pending) > IN_FLIGHT:
                    hand_over()
            while pending:
                hand_over()
            for feed in own_feeds.values():
                feed.put(None)
        finally:
            for pool in (eyes, ears):
                pool.shutdown(wait=False, cancel_futures=True)
            for pool in (eyes, ears):
                pool.shutdown(wait=True)

    # --- one sample -------------------------------------------------------------------------------------------

    def _outcomes(self, place: int, names: Sequence[str]) -> dict[str, Outcome]:
        """Why each of the modalities is there or not; None also where the shard has it already."""
        row = self._rows[place]
        todo = [name for name in names if not _is_own(row, name)]
        outcomes: dict[str, Outcome] = dict.fromkeys(names)
        if not todo or self._stop.is_set():
            return outcomes
        sample = self._sample(row)
        try:
            frames = frames_of(sample.parts, sample.clip, self._job.frames)
            sound = sound_of(sample.parts, sample.clip)
        except (ValueError, Rejected) as error:
            drop = Drop(sample.path, "decode", "damaged-sample", str(error), sample.clip.source, sample.clip)
            return outcomes | dict.fromkeys(todo, drop)
        values = Values(sample.parts, self._stored)
        values.made |= {name: value for name, value in (("frames", frames), ("audio", sound)) if value is not None}
        also: dict[str, Any] = {}
        for name in todo:
            outcomes[name] = self._outcome(name, place, sample, frames, sound, values, also)
        return outcomes

    def _outcome(
        self,
        name: str,
        place: int,
        sample: Sample,
        frames: Frames | None,
        sound: Waveform | None,
        values: Values,
        also: dict[str, Any],
    ) -> Outcome:
        """What one modality makes of a sample; its value joins `values`, and what it says of others `also`."""
        import av.error

        modality, section = self._modules[name], self._wishes[name].section
        heard = None
        if name in self._heard:
            said = self._heard[name][place].result()
            heard = () if said is None else (said,)
        footage = Footage(
            clip=sample.clip,
            path=str(shard_paths(self._job.corpus, self._unit).tar / sample.key),  # nothing lies beside it
            frames=frames,
            audio=sound,
            heard=heard,
            made=values.of(reads(modality)),
            also=also,
        )
        began = time.perf_counter()
        try:
            made = modality.extract(footage, section, self._ask)
            if made is None:
                return None
            part = modality.encode(made.value)
        except Rejected as rejected:
            return Drop(sample.path, rejected.stage, rejected.reason, rejected.detail, sample.clip.source, sample.clip)
        except av.error.FFmpegError as error:
            return Drop(sample.path, "extract", "encode-failed", say(error), sample.clip.source, sample.clip)
        finally:
            self._note(name, time.perf_counter() - began)
        values.made[name] = made.value
        also |= made.also
        self._note(name, 0.0, (made.model, made.revision))
        origin = {"model": made.model, "revision": made.revision, "params": self._params[name]}
        return Part(part.data, {**part.facts, **origin})

    def _sample(self, row: Mapping[str, Any]) -> Sample:
        """With the parts that may be looked at: a column's that is wished for now may be half-made."""
        names = [name for name in self._parts if _is_own(row, name) or (row[name] and name not in self._wishes)]
        return sample_of(row, self._job.corpus, names, self._reader)

    def _note(self, name: str, seconds: float, model: tuple[str, str] | None = None) -> None:
        with self._lock:
            if name in self.filled:
                self.filled[name].busy_seconds += seconds
                self.filled[name].models.update([model] if model else [])

    # --- listening --------------------------------------------------------------------------------------------

    def _begin_to_listen(self, names: Sequence[str], ears: ThreadPoolExecutor) -> None:
        hearing = [name for name in names if hasattr(self._modules[name], "listen")]
        if not hearing:
            return
        clips = [self._sample(row).clip for row in self._rows]
        for block in blocks(clips):
            for name in hearing:
                if all(_is_own(self._rows[place], name) for place in block.places):
                    continue
                future = ears.submit(self._listen, name, block)
                self._heard.setdefault(name, {}).update(dict.fromkeys(block.places, future))

    def _listen(self, name: str, block: Touching) -> Any:
        if self._stop.is_set():
            raise _StoppedError
        began = time.perf_counter()
        sound = self._joined(block)
        listen: Any = getattr(self._modules[name], "listen")  # noqa: B009 - the protocol does not ask for it
        answer = None if sound is None else listen(sound, self._wishes[name].section, self._ask)
        self._note(name, time.perf_counter() - began)
        return answer

    def _joined(self, block: Touching) -> SoundBlock | None:
        """The sound of a block; silence where a part is damaged: its sample is dropped for it."""

        def sounds() -> Iterator[tuple[Any, Waveform | None]]:
            for place in block.places:
                sample = self._sample(self._rows[place])
                try:
                    yield sample.clip, sound_of(sample.parts, sample.clip)
                except (ValueError, Rejected):
                    yield sample.clip, None

        return joined(block, sounds())


def with_reads(names: Sequence[str], wishes: Sequence[Wish]) -> list[str]:
    """The names and those of the wishes that are read in making them, directly or not."""
    wanted = set(names)
    for wish in reversed(wishes):
        if wish.name in wanted:
            wanted |= set(reads(load(wish.modality)))
    return [wish.name for wish in wishes if wish.name in wanted]


def _is_own(row: Mapping[str, Any], name: str) -> bool:
    """Whether the shard itself has the part."""
    part = row.get(name)
    return part is not None and not part.get("added")
