"""What is trained on what: MiCo's task strings, parsed once into types.

`ret%tva%tv_cap%tva` reads: retrieve text with video + audio and with video alone, and caption from video + audio;
`qa%tva`: answer questions about video + audio.
Letters belong to the modalities themselves: t caption, v frames, a audio, s transcript, d depth, n normal, p points,
q questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from omniloom.modalities import load, names, short_name

Objective = Literal["contrastive", "matching", "caption", "answer"]

_HEADS: dict[str, tuple[Objective, ...]] = {
    "ret": ("contrastive", "matching"),  # as in VAST: retrieval is scored by both
    "con": ("contrastive",),
    "mat": ("matching",),
    "cap": ("caption",),
    "qa": ("answer",),
}
QUESTIONS = "qa"
"""The modality that "answer" learns from."""
_EXAMPLE = "e.g. ret%tva%tv_cap%tva"


@dataclass(frozen=True, slots=True)
class Task:
    """One objective between the text and each of several contexts; the contexts' losses are averaged.

    The text is the caption, except of "answer", whose text is the answer to a question: modality `qa`.
    """

    objective: Objective
    contexts: tuple[tuple[str, ...], ...]
    """Each a tuple of modality names in the model's order, such as ("frames", "audio")."""


def letters(modalities: Sequence[str] | None = None) -> dict[str, str]:
    """Letter -> modality name ("v" -> "frames") of every modality that can be trained on; default: all that exist.

    Raises ValueError if two modalities claim one letter.
    """
    found: dict[str, str] = {}
    for name in names() if modalities is None else modalities:
        letter = load(name).letter
        if letter and letter in found:
            raise ValueError(
                f"modalities {found[letter]} and {name} both use the letter {letter!r}: change one of them"
            )
        if letter:
            found[letter] = name
    return found


def parse_context(subset: str, modalities: Sequence[str] | None = None) -> tuple[str, ...]:
    """Modality names of letters such as "va", in order, without the caption's t.

    Raises ValueError naming the letters that exist.
    """
    known = letters(modalities)
    for letter in subset:
        if letter not in known:
            there = ", ".join(f"{key} {short_name(name)}" for key, name in known.items())
            raise ValueError(f"unknown modality letter {letter!r} in {subset!r}: this model knows {there}")
    if len(set(subset)) != len(subset):
        raise ValueError(f"modality letters repeat in {subset!r}: name each once")
    return tuple(short_name(known[letter]) for letter in subset if letter != "t")


def context_letters(context: Iterable[str]) -> str:
    """Letters of modality names: ("frames", "audio") -> "va". Names outside omniloom need their module path."""
    return "".join(load(name).letter for name in context)


def parse_tasks(text: str, modalities: Sequence[str] | None = None) -> tuple[Task, ...]:
    """Typed tasks of a string such as "ret%tva%tv_cap%tva"; `ret` gives a contrastive and a matching task.

    `modalities` are those of the model, the caption included; default: every modality that exists.
    Raises ValueError that says which part is wrong and what would be right.
    """
    if not text.strip():
        raise ValueError(f"no tasks given: write for instance {_EXAMPLE!r}")
    tasks: list[Task] = []
    for part in text.strip().split("_"):
        head, *subsets = part.split("%")
        if head not in _HEADS:
            near = get_close_matches(head, _HEADS, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown task {head!r} in {text!r}{hint} (known: {', '.join(_HEADS)}; {_EXAMPLE})")
        if not subsets:
            raise ValueError(f"task {part!r} names no modalities: add them after %, {_EXAMPLE}")
        contexts = tuple(_context(subset, part, modalities) for subset in subsets)
        if head == "qa" and any(QUESTIONS in context for context in contexts):
            raise ValueError(f"{part!r} would answer from the answers: name what the questions are about, e.g. qa%tva")
        if len(set(contexts)) != len(contexts):
            raise ValueError(f"task {part!r} names the same modalities twice: remove one")
        tasks += [Task(objective, contexts) for objective in _HEADS[head]]
    objectives = [task.objective for task in tasks]
    for objective in set(objectives):
        if objectives.count(objective) > 1:
            raise ValueError(f"{text!r} holds {objective} twice: put all its subsets behind one task, {_EXAMPLE}")
    return tuple(tasks)


def _context(subset: str, part: str, modalities: Sequence[str] | None) -> tuple[str, ...]:
    if "t" not in subset:
        raise ValueError(f"{subset!r} in {part!r} lacks the caption: write {'t' + subset!r}")
    context = parse_context(subset, modalities)
    if not context:
        raise ValueError(f"{subset!r} in {part!r} names only the caption: add what it describes, e.g. 'tv'")
    return context
