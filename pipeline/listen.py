"""What models make of a source's sound, block by block, each block heard at most once and only when it is needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omniloom.modalities.base import Ask
from omniloom.modalities.models import vad
from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline import aligned
from omniloom.pipeline.clips import ALIGNED
from omniloom.pipeline.sound import Soundtrack
from omniloom.pipeline.spans import DAWN, DUSK, Span
from omniloom.pipeline.subtitles import TimedText
from omniloom.pipeline.tape import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from omniloom.pipeline.recipe import BuildRecipe

_SPEECH = "speech"
"""Not the name of a modality: what the voice detector answers."""


class Listener:
    """Asks for one source; threads may share it.

    Models hear whole blocks of up to ten minutes, not clips: names and sentence ends need what comes before and after,
    and a window of 30 s costs Whisper the same however little of it a clip fills.
    """

    def __init__(self, soundtrack: Soundtrack, recipe: BuildRecipe, ask: Ask) -> None:
        self._soundtrack = soundtrack
        self._recipe = recipe
        self._ask = ask
        self._modalities = {name: m for name, m in recipe.by_name().items() if hasattr(m, "listen")}
        self._answers: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()

    def heard(self, start_ns: int, end_ns: int) -> dict[str, tuple[Any, ...]]:
        """What each modality with a `listen` made of the blocks that reach into [start_ns, end_ns), by its name."""
        return {name: tuple(answer for _, _, answer in self._all(name, start_ns, end_ns)) for name in self._modalities}

    def speech(self, start_ns: int, end_ns: int) -> float | None:
        """Share of that span in which somebody speaks, in [0, 1]; None if nobody is to tell."""
        if not self._recipe.signals.speech or self._soundtrack.first_ns is None:
            return None
        start_s, end_s = start_ns / NS_PER_S, end_ns / NS_PER_S
        regions = [region for _, _, regions in self._all(_SPEECH, start_ns, end_ns) for region in regions]
        spoken_s = sum(max(0.0, min(stop, end_s) - max(start, start_s)) for start, stop in regions)
        return spoken_s / (end_s - start_s)

    def intervals(self, cues: Sequence[TimedText], span: Span | None) -> list[tuple[int, int]] | None:
        """Where clips by transcript, captions or speech lie, up to the span's end; None if clips are cut otherwise.

        Sentences of one block are packed apart from the next block's, so that a span needs no other's sound.
        """
        clips = self._recipe.clips
        if clips.by not in ALIGNED:
            return None
        start_ns, end_ns = (span.start_ns, span.end_ns) if span else (DAWN, DUSK)
        if clips.by == "captions":
            found = aligned.from_cues(cues, clips)
        else:
            name = "transcript" if clips.by == "transcript" else _SPEECH
            found = []
            for begin_ns, until_ns, answer in self._all(name, start_ns, end_ns):
                said = [answer] if clips.by == "transcript" else answer
                planned = aligned.from_transcript(said, clips) if name != _SPEECH else aligned.from_speech(said, clips)
                found += [(max(first, begin_ns), min(last, until_ns)) for first, last in planned]
        return [one for one in found if one[0] < end_ns]

    def _all(self, name: str, start_ns: int, end_ns: int) -> list[tuple[int, int, Any]]:
        """(begin_ns, until_ns, answer) of the blocks of which there is something to say."""
        with self._lock:
            blocks = self._soundtrack.listening(start_ns, end_ns)
            found = [(begin_ns, until_ns, self._answer(name, begin_ns, until_ns)) for begin_ns, until_ns in blocks]
        return [one for one in found if one[2] is not None]

    def _answer(self, name: str, begin_ns: int, until_ns: int) -> Any:
        key = (name, begin_ns)
        if key not in self._answers:
            block = self._soundtrack.block(begin_ns, until_ns)
            if block is None:
                self._answers[key] = None
            elif name == _SPEECH:
                start_s = block.start_ns / NS_PER_S
                regions = self._ask(vad.reference(), block.samples, SAMPLE_RATE_HZ)
                self._answers[key] = [(start_s + first, start_s + last) for first, last in regions]
            else:
                listen: Any = getattr(self._modalities[name], "listen")  # noqa: B009 - the protocol does not ask for it
                self._answers[key] = listen(block, self._recipe.sections[name], self._ask)
        return self._answers[key]
