"""Speed claims: each a ratio against a named peer, measured side by side in one run.

Every file with a function `run(options)` is a benchmark of that name; `main(argv)` serves a script. Others are helpers.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
RESULTS = _HERE / "results"


@dataclass(frozen=True, slots=True)
class Options:
    """What every benchmark understands; `run(options)` returns plain values and writes its results to `folder`."""

    runs: int | None = None
    """Counted repetitions; None: the benchmark's own number."""
    seconds: float | None = None
    """Length of its media; None: the benchmark's own."""
    quick: bool = False
    """The smallest thing that runs every command once: shows that all works, measures nothing."""
    out: Path | None = None
    """Folder of the results; None: benchmarks/results in a checkout, results/ elsewhere, nowhere when quick."""
    peers_python: Path | None = None
    """Interpreter that has the packages of peers which live in an environment of their own; None: this one."""
    gpu: bool = False
    """Also what needs an NVIDIA GPU."""
    minutes: float | None = None
    """Nothing more is begun after so long; None: everything is."""
    work: Path | None = None
    """Folder of what is built and trained on the way, where a later call goes on."""
    stamps: Path | None = None
    """Folder of Debian's tuxpaint-stamps-default, unpacked; None: where it is installed."""

    def __post_init__(self) -> None:
        if (self.runs is not None and self.runs < 1) or (self.seconds is not None and self.seconds < 1):
            raise ValueError(f"a benchmark needs runs >= 1 and seconds >= 1, got {self.runs = }, {self.seconds = }")

    @property
    def folder(self) -> Path | None:
        """Where results go, if anywhere."""
        if self.out is None and self.quick:
            return None
        return self.out or (RESULTS if RESULTS.is_dir() else Path("results"))

    def words(self) -> list[str]:
        """The same options as words of a command line, only those that were chosen."""
        words = [] if self.runs is None else ["--runs", str(self.runs)]
        words += [] if self.seconds is None else ["--seconds", f"{self.seconds:g}"]
        words += ["--quick"] if self.quick else []
        words += [] if self.peers_python is None else ["--peers-python", str(self.peers_python)]
        words += ["--gpu"] if self.gpu else []
        words += [] if self.minutes is None else ["--minutes", f"{self.minutes:g}"]
        words += [] if self.work is None else ["--work", str(self.work)]
        words += [] if self.stamps is None else ["--stamps", str(self.stamps)]
        return words + ([] if self.out is None else ["--out", str(self.out)])


def benchmarks() -> dict[str, str]:
    """Name and first sentence of every benchmark, without importing any."""
    found: dict[str, str] = {}
    for path in sorted(_HERE.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if functions & {"run", "main"}:
            found[path.stem] = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    return found


def run_benchmark(name: str, options: Options) -> dict[str, Any]:
    """Runs one benchmark and returns what it measured. Raises LookupError for a name that is none."""
    known = benchmarks()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise LookupError(f"no benchmark {name!r}: {hint}known are {', '.join(known)}")
    module = importlib.import_module(f"{__name__}.{name}")
    if hasattr(module, "run"):
        return module.run(options)
    return _run_main(name, module.main, options.words())


def _run_main(name: str, main: Any, words: Sequence[str]) -> dict[str, Any]:
    """A benchmark that is a script: what it prints is for people, so it goes to standard error."""
    takes_words = bool(inspect.signature(main).parameters)
    if words and not takes_words:
        raise ValueError(f"the benchmark {name} takes no options, got {' '.join(words)}")
    with redirect_stdout(sys.stderr):
        result = main(list(words)) if takes_words else main()
    if isinstance(result, int) and result:
        raise RuntimeError(f"the benchmark {name} failed with status {result}")
    return result if isinstance(result, dict) else {"benchmark": name}
