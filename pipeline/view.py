"""One sample of a corpus as a model sees it: sidecar row -> bytes -> pieces -> array."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from omniloom.modalities import Clip, Modality, Rejected, codecs, load
from omniloom.modalities.base import Codec, Window, codec_of
from omniloom.pipeline.device import Feed, LeftToCpuError, feed_of
from omniloom.pipeline.joined import part_facts
from omniloom.pipeline.movies import frames_in, sound_in
from omniloom.pipeline.ranges import Span
from omniloom.pipeline.reader import Ahead, ShardReader, SpanReader
from omniloom.pipeline.remote import RemoteError
from omniloom.pipeline.rows import Entry, Member

if TYPE_CHECKING:
    import torch

    from omniloom.pipeline.dali import DaliDecoder

View: TypeAlias = Mapping[str, "np.ndarray | torch.Tensor | str | None"]
"""By modality: the array or text that its stem describes; None where the sample lacks it. Tensors: what DALI made."""


class BadSampleError(ValueError):
    """A sample could not be read: its bytes are damaged, or not what its modality writes."""

    def __init__(self, entry: Entry, modality: str, what: str) -> None:
        self.key = entry.key
        self.shard, self.member = _place(entry, modality)
        self.modality = modality
        self.what = what
        self._made_of = entry, modality, what
        super().__init__(
            f"sample {entry.key} of {self.shard} has bad {modality}: {what} (member {self.member}); run"
            f" `omniloom check {entry.corpus}`, or go on without it with on_bad='skip'"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        notes = {"__notes__": self.__notes__} if hasattr(self, "__notes__") else {}
        return type(self), self._made_of, notes  # whole, also where it came from another process


class Decoder:
    """Parts -> arrays: DALI where asked for and able, our own codecs for the rest. Counts who did what."""

    def __init__(self, backend: Literal["auto", "dali", "cpu"], threads: int) -> None:
        self.dali = _dali(backend, threads)
        self._ran: Counter[tuple[str, str]] = Counter()
        self._left: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    @property
    def ran(self) -> Counter[tuple[str, str]]:
        """Pieces by codec and who decoded them."""
        with self._lock:
            return self._ran.copy()

    def note(self, ran: Counter[tuple[str, str]]) -> None:
        """Adds pieces that another process decoded."""
        with self._lock:
            self._ran += ran

    def report(self, codecs_used: Sequence[str]) -> str:
        """For example "jpeg: dali (cpu) 96 pieces; json: cpu 24 pieces", and what DALI left to the CPU, and why."""
        lines: list[str] = []
        for codec in sorted({*codecs_used, *(name for name, _ in self._ran)}):
            ran = [f"{who} {count} pieces" for (name, who), count in sorted(self._ran.items()) if name == codec]
            lines.append(f"{codec}: {', '.join(ran) or 'nothing decoded yet'}")
        lines += [f"{name}: left to the cpu {count} times: {why}" for (name, why), count in sorted(self._left.items())]
        return "; ".join(lines)

    def close(self) -> None:
        """Gives back what DALI holds."""
        if self.dali:
            self.dali.close()

    @contextmanager
    def lane(self) -> Iterator[None]:
        """Where a batch is made: on a GPU on a stream of its own, whose work is done when the lane is left."""
        if self.dali is None or self.dali.device_id is None:
            yield
            return
        import torch

        stream = torch.cuda.Stream(self.dali.device_id)
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()

    def decode(self, codec: Codec, pieces: Sequence[bytes]) -> list[Any]:
        """On the CPU, by our own codecs. Raises ValueError for damaged bytes."""
        self._count(codec, "cpu", len(pieces))
        made: dict[int, Any] = {}
        for piece in pieces:  # one that is shown twice is the same object twice
            if id(piece) not in made:
                made[id(piece)] = codecs.decode(codec, piece)
        return [made[id(piece)] for piece in pieces]

    def _count(self, codec: str, who: str, pieces: int) -> None:
        with self._lock:
            self._ran[codec, who] += pieces

    def _leave(self, name: str, why: str, said: str = "") -> None:
        """Counts what DALI is not given or could not read, and says so once, with what DALI said the first time."""
        with self._lock:
            self._left[name, why] += 1
            first = self._left[name, why] == 1
        if first:
            what = f"DALI leaves {name} to the CPU where there are {why}"
            warnings.warn(f"{what}: {said}" if said else what, RuntimeWarning, stacklevel=2)

    def decode_many(
        self, samples: Sequence[dict[str, Any]], windows: Sequence[Window], modules: Mapping[str, Modality]
    ) -> None:
        """Replaces, in samples as `fetch` gave them, what DALI can read: parts by `Shown`, other pieces by arrays.

        What stays as bytes is decoded by `finish`, which finds out what is damaged.
        """
        dali = self.dali
        assert dali is not None
        feeds: dict[tuple[int, str], Feed] = {}
        by_codec: dict[Codec, list[tuple[list[Any], int]]] = {}
        for number, (sample, window) in enumerate(zip(samples, windows, strict=True)):
            for name, fetched in sample.items():
                if fetched is None or not all(isinstance(piece, bytes) for piece in fetched.pieces):
                    continue
                clip = fetched.member.movie if fetched.member else None
                try:
                    feed = feed_of(
                        modules[name], fetched.pieces, fetched.facts, window, clip, dali.device_id is not None
                    )
                    if feed is not None and dali.gave_up(feed.branch):
                        raise LeftToCpuError("parts that DALI failed on though they are whole")
                except LeftToCpuError as why:
                    self._leave(name, str(why))
                    continue
                if feed is not None:
                    feeds[number, name] = feed
                else:
                    places = by_codec.setdefault(codec_of(modules[name], fetched.facts), [])
                    places += ((fetched.pieces, position) for position in range(len(fetched.pieces)))
        shown, failed = dali.show(feeds, len(samples))
        for (number, name), row in shown.items():
            fetched = samples[number][name]
            codec = "movie" if fetched.member else codec_of(modules[name], fetched.facts)
            self._count(codec, dali.name, len(fetched.pieces))
            samples[number][name] = Shown(row)
        for parts, said in failed:
            self._retry(parts, said, samples, windows, modules, feeds)
        for codec, places in by_codec.items():
            arrays = dali.decode(codec, [pieces[position] for pieces, position in places])
            for (pieces, position), array in zip(places, arrays, strict=True):
                if array is not None:
                    pieces[position] = array
                    self._count(codec, dali.name, 1)

    def _retry(
        self,
        parts: Sequence[tuple[int, str]],
        said: str,
        samples: Sequence[dict[str, Any]],
        windows: Sequence[Window],
        modules: Mapping[str, Modality],
        feeds: Mapping[tuple[int, str], Feed],
    ) -> None:
        """Decodes on the CPU parts among which DALI met one that it cannot read; finds out whether that is damaged."""
        assert self.dali is not None
        damaged = False
        for number, name in parts:
            self._leave(name, "batches with a part that it cannot read", said)
            fetched: Fetched = samples[number][name]
            try:
                if fetched.member is None:
                    fetched.pieces[:] = self.decode(codec_of(modules[name], fetched.facts), fetched.pieces)
                else:
                    samples[number][name] = _from_movie(name, fetched, windows[number])
            except (ValueError, Rejected) as error:
                fetched.pieces[:] = [error]  # of one sample: `finish` raises it
                damaged = True
        if not damaged:
            self.dali.blame(feeds[parts[0]].branch)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a model reads, already: float32, a tensor on the device that made it."""

    row: torch.Tensor


@dataclass(frozen=True, slots=True)
class Fetched:
    """One part's pieces, and the facts of just those."""

    facts: Mapping[str, Any]
    pieces: list[Any]
    """Bytes, or what they decode to, or the error that they gave."""
    member: Member | None = None
    """Set where the only piece is the sample's movie, of which frames are still to be taken."""


def fetch(
    entry: Entry, window: Window, modules: Mapping[str, Modality], reader: SpanReader, decoder: Decoder | None
) -> dict[str, Any]:
    """Reads, checks and (given a decoder) decodes the pieces that the window shows: `Fetched` or None, by modality.

    Raises BadSampleError, naming the modality; RemoteError if a store does not answer and other OSErrors if a disk
    fails: that is no fault of the sample.
    """
    fetched: dict[str, Any] = {}
    movies: dict[tuple[Path, int], bytes] = {}
    for name, module in modules.items():
        member = entry.members[name]
        if member is None:
            fetched[name] = None
            continue
        try:
            if member.movie is not None:
                place = member.tar, member.column["offset"]
                if place not in movies:  # one movie gives frames and sound
                    [movies[place]] = reader.read_many(member.tar, _spans(member, module, window)[1])
                if decoder is None and name == "frames":  # DALI may decode it
                    fetched[name] = Fetched(part_facts(member.column), [movies[place]], member)
                else:
                    fetched[name] = _taken(name, movies[place], member.column, member.movie, window)
                continue
            facts, pieces = _read_pieces(member, module, window, reader)
            if decoder is not None:
                pieces = decoder.decode(codec_of(module, facts), pieces)
            fetched[name] = Fetched(facts, pieces)
        except (ValueError, Rejected) as error:
            raise BadSampleError(entry, name, str(error)) from error
        except RemoteError as error:
            raise RemoteError(f"sample {entry.key}, its {name}: {error}") from error
        except OSError as error:
            what = f"sample {entry.key}, its {name}: {error.strerror or error}"
            raise OSError(error.errno, what, str(member.tar)) from error
        except Exception as error:
            error.add_note(f"While reading the {name} of sample {entry.key}, member {_place(entry, name)}.")
            raise
    return fetched


def read_ahead(
    items: Sequence[tuple[Entry, Window]], modules: Mapping[str, Modality], reader: ShardReader
) -> SpanReader:
    """Begins to read what samples of corpora elsewhere will show, all at once; gives what `fetch` should read with."""
    remote = {corpus for corpus in {entry.corpus for entry, _ in items} if reader.is_remote(corpus)}
    if not remote:
        return reader
    return Ahead(reader, (_parts(entry, window, modules) for entry, window in items if entry.corpus in remote))


def _parts(entry: Entry, window: Window, modules: Mapping[str, Modality]) -> Iterator[tuple[Path, Sequence[Span]]]:
    for name, module in modules.items():
        if member := entry.members[name]:
            with suppress(ValueError):  # `fetch` says what is wrong with it
                yield member.tar, _spans(member, module, window)[1]


def _place(entry: Entry, modality: str) -> tuple[str, str]:
    """The shard in which a sample's part lies, relative to the corpus, and the member's name there."""
    member = entry.members[modality]
    if member is None:
        return "", ""
    stored = "video" if member.movie is not None else modality
    name = member.column.get("member") or f"{entry.key}.{load(stored).suffix}"
    return member.tar.relative_to(entry.corpus).as_posix(), name


def finish(
    entry: Entry, window: Window, modules: Mapping[str, Modality], fetched: Mapping[str, Any], decoder: Decoder
) -> View:
    """Pieces to the arrays a model reads; those that still are bytes are decoded.

    Raises BadSampleError, naming the modality.
    """
    view: dict[str, Any] = {}
    for name, module in modules.items():
        item: Fetched | Shown | None = fetched[name]
        if item is None or isinstance(item, Shown):
            view[name] = item and item.row
            continue
        try:
            for piece in item.pieces:
                if isinstance(piece, Exception):
                    raise piece
            if item.member is not None:
                item = _from_movie(name, item, window)
            coded = [piece for piece in item.pieces if isinstance(piece, bytes)]
            if coded:
                decoded = iter(decoder.decode(codec_of(module, item.facts), coded))
                item.pieces[:] = [next(decoded) if isinstance(piece, bytes) else piece for piece in item.pieces]
            view[name] = module.tensor(module.assemble(item.pieces, item.facts), window)
        except (ValueError, Rejected) as error:
            raise BadSampleError(entry, name, str(error)) from error
    return view


def view_in(
    row: Mapping[str, np.ndarray],
    entry: Entry,
    window: Window,
    modules: Mapping[str, Modality],
    reader: SpanReader,
    decoder: Decoder,
    *,
    used: bool,
) -> View | BadSampleError:
    """Reads and decodes a sample, whose arrays are put into its row of a batch; the error, if it is a bad one.

    used: the row may hold what another batch left there, so zeros are written where the sample lacks a modality.
    """
    try:
        view = finish(entry, window, modules, fetch(entry, window, modules, reader, decoder), decoder)
    except BadSampleError as error:
        return error
    return placed(view, row, used=used)


def placed(view: View, row: Mapping[str, np.ndarray], *, used: bool) -> View:
    """The view with its arrays copied to a row of the batch: by the thread that made them and has them in its cache."""
    there: dict[str, np.ndarray] = {}
    for name, array in row.items():
        value = view[name]
        if isinstance(value, np.ndarray):
            there[name] = array
            array[...] = value
        elif value is None and used:
            array.fill(0)
    return {**view, **there}


def _from_movie(name: str, fetched: Fetched, window: Window) -> Fetched:
    """The frames that the window shows, out of the movie that was fetched."""
    assert fetched.member is not None
    assert fetched.member.movie is not None
    taken = _taken(name, fetched.pieces[0], fetched.member.column, fetched.member.movie, window)
    assert taken is not None, "a movie has frames"
    return taken


def _taken(name: str, movie: bytes, column: Mapping[str, Any], clip: Clip, window: Window) -> Fetched | None:
    """Frames that the window shows, or all the sound, out of the sample's movie; None if it has none."""
    if name == "audio":
        sound = sound_in(movie, part_facts(column), clip)
        if sound is None:
            return None
        facts = {"num_samples": len(sound.samples), "sample_rate_hz": sound.sample_rate_hz}
        return Fetched(facts, [sound.samples])
    frames = frames_in(movie, part_facts(column), clip, load("frames").Config(), window)
    return Fetched({"pts_ns": frames.pts_ns.tolist()}, list(frames.rgb))


def _read_pieces(
    member: Member, module: Modality, window: Window, reader: SpanReader
) -> tuple[Mapping[str, Any], list[Any]]:
    shown, spans = _spans(member, module, window)
    wanted = list(dict.fromkeys(spans))  # a frame may be shown twice
    read = dict(zip(wanted, reader.read_many(member.tar, wanted), strict=True))
    return shown, [read[span] for span in spans]


def _spans(member: Member, module: Modality, window: Window) -> tuple[Mapping[str, Any], list[Span]]:
    """Facts of the pieces that the window shows, and where in the tar these lie."""
    column = member.column
    if member.movie is not None:
        return {}, [(column["offset"], column["size"], column["xxh3"])]
    facts = part_facts(column)
    shown = module.narrow(facts, window)
    hashes = {(0, column["size"]): column["xxh3"]}
    if column["pieces_xxh3"] is not None:
        hashes |= zip(module.pieces(facts, column["size"]), column["pieces_xxh3"], strict=True)
    pieces = module.pieces(shown, column["size"])
    return shown, [(column["offset"] + offset, size, hashes.get((offset, size))) for offset, size in pieces]


def _dali(backend: Literal["auto", "dali", "cpu"], threads: int) -> DaliDecoder | None:
    if backend not in {"auto", "dali", "cpu"}:
        raise ValueError(f"backend is auto, dali or cpu, got {backend!r}")
    if backend == "cpu":
        return None
    import torch

    from omniloom.pipeline import dali

    gpu = torch.cuda.is_available()
    if backend == "auto" and not (gpu and dali.installed()):
        return None
    return dali.DaliDecoder(device_id=torch.cuda.current_device() if gpu else None, num_threads=threads)
