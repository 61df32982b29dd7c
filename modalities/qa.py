"""Questions about a clip with their answers, as people wrote them: what a model is taught to answer.

Exact: `read` returns what was written. Looked for in the source list, columns `question` and `answer`, or `questions`
with a JSON list of records as below, and beside `X.mp4` in `X.qa.json`: {"question": "what rolls past?", "answer": "a
ball"} or a list of such. They hold for every clip of their source. Nothing is made up: a source without questions has
none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.modalities import codecs
from omniloom.modalities.base import Ask, Codec, FactType, Footage, Made, Stem, Window
from omniloom.modalities.base import all_facts as narrow
from omniloom.modalities.base import no_models as models
from omniloom.modalities.base import whole_member as pieces
from omniloom.modalities.others import decode_text
from omniloom.modalities.sample import Fact, Part, Rejected

__all__ = ["models", "narrow", "pieces"]

_MAX_FILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """One question and its answer, neither empty, each on one line."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Questions:
    """All that is asked about a clip."""

    pairs: tuple[Pair, ...]


suffix = "qa.json"
codec: Codec = "json"
letter = "q"
needs: tuple[str, ...] = ()
facts: Mapping[str, FactType] = {"num_pairs": "int64"}
stem = Stem("text")


@dataclass(frozen=True, slots=True)
class Config:
    """Nothing to choose: what is there is taken."""


def extract(footage: Footage, config: Config, ask: Ask) -> Made | None:
    """The source's questions; None if it has none. Raises Rejected "bad-qa-file" if the file beside it is none."""
    path = Path(footage.path).with_suffix(".qa.json")
    row = footage.row
    pairs = _pairs([{"question": row.get("question") or "", "answer": row.get("answer") or ""}])
    try:
        pairs += _pairs(json.loads(row.get("questions") or "[]"))
        if path.is_file():  # nor a pipe, nor a folder
            status = path.stat()
            if status.st_size > _MAX_FILE_BYTES:
                raise ValueError(f"{status.st_size} bytes is no file of questions")
            pairs += _from_file(str(path), status.st_mtime_ns)
    except ValueError as error:
        raise Rejected("extract", "bad-qa-file", f"{path.name}, or the list: {error}") from error
    return Made(Questions(tuple(dict.fromkeys(pairs))), "given") if pairs else None


def encode(value: Questions) -> Part:
    """JSON: [{"question": ..., "answer": ...}, ...]."""
    record = [{"question": pair.question, "answer": pair.answer} for pair in value.pairs]
    return Part(codecs.encode_json(record), {"num_pairs": len(record)})


def assemble(pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Questions:
    """Questions from the JSON list. Raises ValueError if it is none."""
    return Questions(_pairs(pieces[0]))


def tensor(value: Questions, window: Window) -> str:
    """One question and its answer, on a line each: any in training, the first otherwise; `split` takes them apart."""
    if not value.pairs:
        return ""
    pair = value.pairs[int(window.rng(5).integers(len(value.pairs))) if window.train else 0]
    return f"{pair.question}\n{pair.answer}"


def split(text: str) -> tuple[str, str]:
    """(question, answer) of what `tensor` gives; ("", "") of a sample that has none."""
    question, _, answer = text.partition("\n")
    return question, answer


def example(rng: np.random.Generator) -> Questions:
    """Two questions, one of them in another language."""
    number = int(rng.integers(2, 1000))
    return Questions((Pair("how many balls roll past?", str(number)), Pair("¿de qué color son?", "rojas")))


@lru_cache(maxsize=32)
def _from_file(path: str, modified_ns: int) -> tuple[Pair, ...]:
    """A long video asks for the same file clip after clip."""
    try:
        record = json.loads(decode_text(Path(path).read_bytes()))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return _pairs(record)


def _pairs(record: Any) -> tuple[Pair, ...]:
    """Pairs of a record or a list of them; those without words are left out. Raises ValueError if it is none."""
    records: Iterable[Any] = record if isinstance(record, list) else [record]
    found: list[Pair] = []
    for one in records:
        try:
            question, answer = one["question"], one["answer"]
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(f"damaged questions: {str(one)[:80]!r} has no question and answer") from error
        if not isinstance(question, str) or not isinstance(answer, str):
            raise ValueError(f"damaged questions: question and answer must be texts, got {str(one)[:80]!r}")
        pair = Pair(" ".join(question.split()), " ".join(answer.split()))
        if pair.question and pair.answer:
            found.append(pair)
    return tuple(found)
