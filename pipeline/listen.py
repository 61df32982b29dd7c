"""What models make of a source's sound, block by block, each block heard at most once and only when it is needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from omniloom.modalities.base import Ask
from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline.clips import ALIGNED
from omniloom.pipeline.sound import Soundtrack
from omniloom.pipeline.spans import DAWN, DUSK, Span
from omniloom.pipeline.subtitles import TimedText

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
        return {name: self._all(name, start_ns, end_ns) for name in self._modalities}

    def speech(self, start_ns: int, end_ns: int) -> float | None:
        """Share of that span in which somebody speaks, in [0, 1]; None if nobody is to tell."""
        if not self._recipe.signals.speech or self._soundtrack.first_ns is None:
            return None
        spoken_ns = 0
        for regions in self._all(_SPEECH, start_ns, end_ns):
            spoken_ns += sum(max(0, min(stop, end_ns) - max(start, start_ns)) for start, stop in regions)
        return spoken_ns / (end_ns - start_ns)

    def intervals(self, cues: list[TimedText], span: Span | None) -> list[tuple[int, int]] | None:
        """Where clips by transcript, captions or speech lie that begin in the span; None if clips are cut otherwise.

        Sentences of one block are packed apart from the next block's, so that a span needs no other's sound.
        """
        clips = self._recipe.clips
        if clips.by not in ALIGNED:
            return None
        from omniloom.pipeline import aligned

        start_ns, end_ns = (span.start_ns, span.end_ns) if span else (DAWN, DUSK)
        if clips.by == "captions":
            found = aligned.from_cues([(cue.start_ns, cue.end_ns, cue.text) for cue in cues], clips)
        elif clips.by == "speech":
            found = [
                one for regions in self._all(_SPEECH, start_ns, end_ns) for one in aligned.from_speech(regions, clips)
            ]
        else:
            heard = self._all("transcript", start_ns, end_ns)
            found = [one for said in heard for one in aligned.from_transcript(said, clips)]
        return [one for one in found if start_ns <= one[0] < end_ns]

    def _all(self, name: str, start_ns: int, end_ns: int) -> tuple[Any, ...]:
        with self._lock:
            answers = [self._answer(name, *times) for times in self._soundtrack.listening(start_ns, end_ns)]
        return tuple(answer for answer in answers if answer is not None)

    def _answer(self, name: str, begin_ns: int, until_ns: int) -> Any:
        key = (name, begin_ns)
        if key not in self._answers:
            block = self._soundtrack.block(begin_ns, until_ns)
            if block is None:
                self._answers[key] = None
            elif name == _SPEECH:
                from omniloom.modalities.models import vad

                self._answers[key] = [
                    (block.start_ns + round(start * NS_PER_S), block.start_ns + round(stop * NS_PER_S))
                    for start, stop in self._ask(vad.reference(), block.samples)
                ]
            else:
                listen: Any = getattr(self._modalities[name], "listen")  # noqa: B009 - the protocol does not ask for it
                self._answers[key] = listen(block, self._recipe.sections[name], self._ask)
        return self._answers[key]
