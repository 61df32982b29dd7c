"""Models are found by family, loaded once in a process, and asked one question at a time."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import ask_here, family_of

SLOW_ADDER = """
import time
GPUS = 0.1
loads, inside = [], []
def check(ref): pass
def describe(ref): return ref.name, "1"
def load(ref):
    time.sleep(0.05)
    loads.append(ref)
    def add(number):
        inside.append(1)
        assert len(inside) == 1, "two questions at once"
        time.sleep(0.01)
        inside.pop()
        return number + int(ref.name)
    return add
"""


def test_threads_share_one_model_and_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/adder.py").write_text(SLOW_ADDER)
    monkeypatch.syspath_prepend(str(tmp_path))
    refs = [ModelRef("outside.adder", "10"), ModelRef("outside.adder", "10")]
    ask = ask_here()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda index: ask(refs[index % 2], index), range(8)))
    assert answers == [10 + index for index in range(8)]
    assert sys.modules["outside.adder"].loads == refs[:1]


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ValueError, match="'telepathy'"):
        family_of(ModelRef("telepathy", "x"))
    with pytest.raises(ValueError, match=r"nowhere\.at_all"):
        family_of(ModelRef("nowhere.at_all", "x"))
