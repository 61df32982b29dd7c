"""A source becomes samples: every clip of it, seen by every modality of the recipe."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from omniloom.modalities.base import Ask, Footage, Frames, Modality
from omniloom.modalities.cameras import with_camera
from omniloom.modalities.sample import Drop, Fact, LeftOut, Part, Rejected, Sample, SourceId
from omniloom.pipeline.gather import Gathered, gather
from omniloom.pipeline.moments import row_of
from omniloom.pipeline.probe import say
from omniloom.pipeline.recipe import reads
from omniloom.pipeline.signals import measure, out_of_sync
from omniloom.pipeline.sources import Source
from omniloom.pipeline.spans import Span
from omniloom.pipeline.still import is_still, still

if TYPE_CHECKING:
    from omniloom.pipeline.recipe import BuildRecipe


def weave(
    source: Source, recipe: BuildRecipe, ask: Ask, threads: int = 4, span: Span | None = None
) -> Iterator[Sample | Drop]:
    """Samples and drops of one source, or of a span of it, in the order of its clips, from one decode.

    Clips are extracted by `threads` threads while decoding goes on, since `ask` waits for models; at most `threads` + 1
    clips are in memory besides the one being decoded. Bad media gives drops, never an exception: a file that
    cannot be read, a clip that a modality rejects, one that lacks a modality of `recipe.require`. What a modality
    raises otherwise is a bug or a failing system, and passes through.

    A picture is one clip of one frame. A source with sound only is one Drop ("no-video"), or with `clips.audio_only` it
    is cut into samples that need audio instead of what `require` names.
    """
    pending: deque[Future[Sample | Drop] | Drop] = deque()
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="weave")
    weaver = _Weaver(source, recipe, ask)
    try:
        for item in _picture(source, recipe) if is_still(source.path) else gather(source, recipe, ask, span):
            pending.append(pool.submit(weaver.sample, item) if isinstance(item, Gathered) else item)
            while pending and (len(pending) > threads or _is_done(pending[0])):
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _picture(source: Source, recipe: BuildRecipe) -> Iterator[Gathered | Drop]:
    try:
        yield still(source, recipe)
    except Rejected as rejected:
        yield Drop(source.path, rejected.stage, rejected.reason, rejected.detail, source.id)
    except (OSError, MemoryError) as error:
        yield Drop(source.path, "decode", "unreadable", str(error), source.id)


def split_of(source: SourceId, row: Mapping[str, str], test_fraction: float) -> str:
    """The source's row decides; without one a hash of the source does, so that all its clips fall on one side."""
    return row.get("split") or ("test" if int(source[:15], 16) < test_fraction * 16**15 else "train")


class _Weaver:
    """Makes samples of one source's clips. Threads share it; it holds nothing that changes."""

    def __init__(self, source: Source, recipe: BuildRecipe, ask: Ask) -> None:
        self._source = source
        self._recipe = recipe
        self._recipe_hash = recipe.hash
        self._modalities: dict[str, Modality] = recipe.by_name()
        self._params = {name: recipe.params_hash(name) for name in self._modalities}
        self._ask = ask

    def sample(self, gathered: Gathered) -> Sample | Drop:
        import av.error

        try:
            return self._sample(gathered)
        except Rejected as rejected:
            return self._drop(gathered, rejected.stage, rejected.reason, rejected.detail)
        except av.error.FFmpegError as error:  # an encoder that cannot take this clip: its size, its length
            return self._drop(gathered, "extract", "encode-failed", say(error))

    def _sample(self, gathered: Gathered) -> Sample | Drop:
        recorded = {name: recorder.finish(gathered.audio) for name, recorder in gathered.recorders.items()}
        values: dict[str, Any] = {}
        also: dict[str, Any] = {}
        parts: dict[str, Part] = {}
        clip, frames = gathered.clip, self._frames(gathered)
        heard = gathered.listener.heard(clip.start_ns, clip.end_ns) if gathered.listener else {}
        row = row_of(self._source.row, clip)
        split = split_of(self._source.id, row, self._recipe.test_fraction)
        facts: dict[str, Fact] = {**gathered.facts, "split": split, "language": None}
        if row.get("label"):
            facts["label"] = row["label"]
        for name, modality in self._modalities.items():
            footage = Footage(
                clip=gathered.clip,
                path=self._source.path,
                frames=frames,
                audio=gathered.audio,
                recorded=recorded,
                subtitles=gathered.cues,
                row=row,
                heard=heard.get(name),
                made={name: values[name] for name in reads(modality) if name in values},
                also=also,
            )
            try:
                made = modality.extract(footage, self._recipe.sections[name], self._ask)
            except LeftOut as left_out:
                facts[f"{name}_left_out"] = f"{left_out.reason}, {left_out.detail}"
                continue
            if made is None:
                continue
            values[name] = made.value
            also |= made.also
            part = modality.encode(made.value)
            origin = {"model": made.model, "revision": made.revision, "params": self._params[name]}
            parts[name] = Part(part.data, {**part.facts, **origin})
            language = getattr(made.value, "language", None)
            if isinstance(language, str) and language:
                facts["language"] = language
        required = self._recipe.require if gathered.frames is not None else ("audio",)
        for name in required:
            if name not in parts:
                return self._drop(gathered, "extract", f"no-{name}", f"the recipe requires {name}; the clip has none")
        signals = self._signals(gathered)
        lag_ms = out_of_sync(signals, self._recipe.signals)
        if lag_ms is not None:
            return self._drop(gathered, "extract", "out-of-sync", f"sound comes {lag_ms:+.0f} ms after the picture")
        return Sample(
            key=gathered.clip.key_under(self._recipe_hash),
            clip=gathered.clip,
            path=self._source.path,
            time_base=gathered.time_base,
            parts=parts,
            facts=facts,
            signals=signals,
        )

    def _frames(self, gathered: Gathered) -> Frames | None:
        """The sampled frames, and what is known of their camera."""
        if gathered.frames is None or not len(gathered.frames.rgb):
            return gathered.frames
        try:
            return with_camera(gathered.frames, self._source.path, gathered.tags, gathered.clip.start_ns)
        except (ValueError, OSError) as error:
            raise Rejected("extract", "bad-camera-file", str(error)) from error

    def _signals(self, gathered: Gathered) -> dict[str, Fact]:
        clip, heard = gathered.clip, gathered.heard
        return measure(
            gathered.frames,
            heard.samples if heard else None,
            heard.present if heard else None,
            gathered.luma,
            self._recipe.signals,
            gathered.listener.speech(clip.start_ns, clip.end_ns) if gathered.listener else None,
            heard.drift_ms if heard else None,
        )

    def _drop(self, gathered: Gathered, stage: Any, reason: str, detail: str) -> Drop:
        return Drop(self._source.path, stage, reason, detail, self._source.id, gathered.clip)


def _is_done(item: Future[Sample | Drop] | Drop) -> bool:
    return isinstance(item, Drop) or item.done()


def _result(item: Future[Sample | Drop] | Drop) -> Sample | Drop:
    return item if isinstance(item, Drop) else item.result()
