"""The loops over peers' loaders, each as its own documentation shows it, and how their files are made from tars.

Runs in the interpreter that has the peer. Every loop gives batches of the same arrays (`loader_work.py`), has the same
number of workers, and shuffles as it does by default.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from omniloom.benchmarks.loader_work import FACTS, KEY, WINDOW, Layout, Video, arrays, stack, suffixes

SHUFFLE_BUFFER = 100
"""Samples, where a loader shuffles by a buffer."""

Batch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spec:
    """Which loop to run, over what."""

    loader: str
    task: str
    layout: Layout
    video: Video
    data: str
    """Folder of files in the loader's own format."""
    workers: int
    batch: int
    skip_bad: bool = False
    """Go on after a bad sample, where the loader has a way to be told so."""
    processes: bool = True
    """Of our own loader: whether processes decode, as with the others, or threads."""


class Loop(Protocol):
    """A loader, ready to be iterated over."""

    def batches(self, once: bool) -> Iterator[Batch]:
        """Endless, or every sample once."""
        ...

    def state(self) -> Any:
        """Where it stands, or None if it cannot tell."""
        ...

    def restore(self, state: Any) -> None: ...


# --- webdataset -----------------------------------------------------------------------------------------------


class WebDataset:
    """Tars read from start to end; samples are shuffled in a buffer. It keeps no state: resuming is replaying."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def batches(self, once: bool) -> Iterator[Batch]:
        wds = import_module("webdataset")
        spec = self._spec
        handler: Any = wds.warn_and_continue if spec.skip_bad else wds.reraise_exception
        urls = [str(path) for path in sorted(Path(spec.data).glob("*.tar"))]
        data: Any = wds.WebDataset(urls, shardshuffle=len(urls), handler=handler)
        data = data.shuffle(SHUFFLE_BUFFER).map(self._decoded, handler=handler)
        data = data.batched(spec.batch, collation_fn=stack, partial=once)
        yield from wds.WebLoader(data if once else data.repeat(), batch_size=None, num_workers=spec.workers)

    def state(self) -> Any:
        return None

    def restore(self, state: Any) -> None:
        raise NotImplementedError("webdataset keeps no state")

    def _decoded(self, sample: Mapping[str, Any]) -> Batch:
        spec = self._spec
        raw = {name: sample[suffix] for name, suffix in suffixes(spec.layout, spec.task).items()}
        return arrays(sample["__key__"], raw, spec.task, spec.layout, spec.video)


# --- energon --------------------------------------------------------------------------------------------------


class Energon:
    """The same tars with an index beside them; parts that are not asked for are not read."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._state: Any = None
        self._loader: Any = None

    def batches(self, once: bool) -> Iterator[Batch]:
        energon = import_module("megatron.energon")
        spec = self._spec
        wanted = suffixes(spec.layout, spec.task)

        def cook(sample: Mapping[str, Any]) -> Batch:
            return {**energon.basic_sample_keys(sample), **{name: sample[suffix] for name, suffix in wanted.items()}}

        def encode_sample(_: Any, sample: Batch) -> Batch:
            # Here and not in the cooker, which runs before the shuffle: its buffer would hold pictures.
            made = arrays(
                sample["__key__"], {name: sample[name] for name in wanted}, spec.task, spec.layout, spec.video
            )
            return {**{name: sample[name] for name in sample if name.startswith("__")}, **made}

        def batch(_: Any, samples: list[Batch]) -> Batch:
            return stack(samples)

        cooker = energon.Cooker(energon.stateless(cook))
        methods = {"encode_sample": energon.stateless(encode_sample), "batch": batch}
        kind = type("Task", (energon.DefaultTaskEncoder,), {"decoder": None, "cookers": [cooker], **methods})
        dataset = energon.get_train_dataset(
            spec.data,
            worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=spec.workers),
            batch_size=spec.batch,
            batch_drop_last=not once,
            shuffle_buffer_size=SHUFFLE_BUFFER,
            max_samples_per_sequence=None,
            task_encoder=kind(),
            repeat=not once,
            part_filter=list(wanted.values()),
        )
        self._loader = energon.get_savable_loader(dataset)
        if self._state is not None:
            self._loader.restore_state_rank(self._state)
        yield from self._loader

    def state(self) -> Any:
        return self._loader.save_state_rank()

    def restore(self, state: Any) -> None:
        self._state = state


def _index_for_energon(tars: Path, out: Path) -> None:
    for tar in sorted(tars.glob("*.tar")):
        os.link(tar, out / tar.name)
    words = ["prepare", str(out), "--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"]
    script = "from megatron.energon.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", script, *words, "--no-progress"], check=True, stdout=subprocess.DEVNULL)


# --- litdata --------------------------------------------------------------------------------------------------


class LitData:
    """Chunks of samples, each read whole."""

    def __init__(self, spec: Spec) -> None:
        litdata = import_module("litdata")
        dataset = litdata.StreamingDataset(spec.data, shuffle=True, drop_last=False, transform=_Decode(spec))
        self._loader = litdata.StreamingDataLoader(
            dataset,
            batch_size=spec.batch,
            num_workers=spec.workers,
            collate_fn=stack,
            persistent_workers=spec.workers > 0,
        )

    def batches(self, once: bool) -> Iterator[Batch]:
        yield from self._loader
        while not once:
            yield from self._loader

    def state(self) -> Any:
        return self._loader.state_dict()

    def restore(self, state: Any) -> None:
        self._loader.load_state_dict(state)


def _chunks_for_litdata(tars: Path, out: Path) -> None:
    writer = import_module("litdata.streaming.writer")
    cache = writer.BinaryWriter(str(out), chunk_bytes="64MB")
    for number, sample in enumerate(samples_of(tars)):
        cache[number] = sample
    cache.done()
    cache.merge()


# --- mosaicml-streaming ---------------------------------------------------------------------------------------


class Streaming:
    """Shards of samples with their offsets; which sample comes when is planned for the whole epoch."""

    def __init__(self, spec: Spec) -> None:
        streaming = import_module("streaming")
        streaming.base.util.clean_stale_shared_memory()
        decode = _Decode(spec)

        def getitem(self: Any, at: int) -> Batch:
            return decode(streaming.StreamingDataset.__getitem__(self, at))

        kind = type("Clips", (streaming.StreamingDataset,), {"__getitem__": getitem})
        self._loader = streaming.StreamingDataLoader(
            kind(local=spec.data, shuffle=True, batch_size=spec.batch),
            batch_size=spec.batch,
            num_workers=spec.workers,
            collate_fn=stack,
            persistent_workers=spec.workers > 0,
        )

    def batches(self, once: bool) -> Iterator[Batch]:
        yield from self._loader
        while not once:
            yield from self._loader

    def state(self) -> Any:
        return self._loader.state_dict()

    def restore(self, state: Any) -> None:
        self._loader.load_state_dict(state)


def _shards_for_streaming(tars: Path, out: Path) -> None:
    streaming = import_module("streaming")
    writer: Any = None
    for sample in samples_of(tars):
        if writer is None:
            columns = {name: "str" if name == KEY else "bytes" for name in sample}
            writer = streaming.MDSWriter(out=str(out), columns=columns)
        writer.write(sample)
    writer.finish()


class _Decode:
    """Raw sample -> arrays, where a loader gives all that it keeps of one sample."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def __call__(self, sample: Mapping[str, Any]) -> Batch:
        spec = self._spec
        return arrays(sample[KEY], sample, spec.task, spec.layout, spec.video)


# --- DALI -----------------------------------------------------------------------------------------------------


class Dali:
    """DALI's own reader of tars and its own decoder of sound, on the CPU; threads, no processes.

    It gives no keys: a sample is known by what is heard in its middle.
    """

    def __init__(self, spec: Spec) -> None:
        dali = import_module("nvidia.dali")
        fn = import_module("nvidia.dali.fn")
        tars = sorted(Path(spec.data).glob("*.tar"))
        self._pipeline = dali.Pipeline(batch_size=spec.batch, num_threads=spec.workers, device_id=None, seed=1)
        with self._pipeline:
            coded = fn.readers.webdataset(
                paths=[str(tar) for tar in tars],
                ext=[suffixes("h264", "audio")["audio"]],
                random_shuffle=True,
                initial_fill=SHUFFLE_BUFFER,
            )
            sound, _ = fn.decoders.audio(coded, dtype=dali.types.FLOAT, downmix=True)
            whole = fn.slice(sound, 0, WINDOW.num_samples, axes=(0,), out_of_bounds_policy="pad")
            self._pipeline.set_outputs(whole)
        self._pipeline.build()

    def batches(self, once: bool) -> Iterator[Batch]:
        import torch

        (reader,) = self._pipeline.reader_meta().values()
        left = reader["epoch_size"]
        while left > 0 or not once:
            (sound,) = self._pipeline.run()
            audio = torch.from_numpy(sound.as_array().copy())[: left if once else None]
            middle = audio[:, 80_000:80_256].numpy()
            left -= len(audio)
            yield {KEY: [hashlib.md5(row.tobytes()).hexdigest() for row in middle], "audio": audio}

    def state(self) -> Any:
        return None

    def restore(self, state: Any) -> None:
        raise NotImplementedError("left out: only its decoding is compared")


LOOPS: Mapping[str, Callable[[Spec], Loop]] = {
    "webdataset": WebDataset,
    "energon": Energon,
    "litdata": LitData,
    "streaming": Streaming,
    "dali": Dali,
}


# --- files ----------------------------------------------------------------------------------------------------


def samples_of(tars: Path) -> Iterator[dict[str, Any]]:
    """Every sample of plain tars: key and members, by modality."""
    for path in sorted(tars.glob("*.tar")):
        sample: dict[str, Any] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                if sample and sample[KEY] != key:
                    yield sample
                    sample = {}
                file = tar.extractfile(member)
                assert file is not None, f"{member.name} is no file"
                sample |= {KEY: key, FACTS if suffix == "facts.json" else suffix.partition(".")[0]: file.read()}
        if sample:
            yield sample


def convert(loader: str, tars: Path, out: Path) -> None:
    """Makes the loader's own files from plain tars."""
    out.mkdir(parents=True)
    makers: Mapping[str, Callable[[Path, Path], None]] = {
        "energon": _index_for_energon,
        "litdata": _chunks_for_litdata,
        "streaming": _shards_for_streaming,
    }
    makers[loader](tars, out)
