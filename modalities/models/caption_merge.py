"""One text out of several: what people wrote, what is seen, what is heard and what is said, in this order.

Nothing is added but the words that say which is which, and nothing is changed but spaces and the last full stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omniloom.modalities.models.caption_given import Kind


@dataclass(frozen=True, slots=True)
class Heard:
    """What is said in a clip."""

    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Merged:
    """The text, and the sources whose words are in it, in their order."""

    text: str
    sources: tuple[str, ...]


_OPENINGS: Mapping[Kind, str] = {"omni": "", "visual": "Seen: ", "audio": "Heard: "}


def merged(found: Mapping[Kind, Sequence[tuple[str, str]]], said: Heard | None) -> Merged | None:
    """(text, source) by kind -> one text; None where there would be nothing to put together.

    Of each kind the first text of each source is taken, so that four frames do not say the same four times; one that
    another one holds already is left out.
    """
    sentences: list[str] = []
    sources: list[str] = []
    taken: list[str] = []
    for kind, opening in _OPENINGS.items():
        for text, source in _firsts(found.get(kind, ())):
            plain = _plain(text)
            if not plain or any(plain in other for other in taken):
                continue
            taken.append(plain)
            # What is a sentence already, begun with a capital, needs nobody to introduce it.
            sentences.append(_ended(text if _is_sentence(text) else opening + text))
            sources.append(source)
    if said is not None and (words := " ".join(said.text.split())) and not any(_plain(words) in t for t in taken):
        sentences.append(f'Said: "{words}"')
        sources.append("transcript")
    if len(sources) < 2:
        return None
    return Merged(" ".join(sentences), tuple(dict.fromkeys(sources)))


def _firsts(texts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    firsts: dict[str, str] = {}
    for text, source in texts:
        firsts.setdefault(source, " ".join(text.split()))
    return [(text, source) for source, text in firsts.items()]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!?… ")


def _is_sentence(text: str) -> bool:
    return text[:1].isupper() and text.endswith(_ENDS)


_ENDS = (".", "!", "?", "…", "。", "！", "？", '."', '!"', '?"')


def _ended(text: str) -> str:
    return text if text.endswith(_ENDS) else text + "."
