"""The command line: every verb reads its recipe, calls one function and shows what came of it.

Exit codes: 0 done; 1 failed; 2 wrong usage or recipe; 3 finished, but nothing was produced; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omniloom import __version__

if TYPE_CHECKING:
    from omniloom.pipeline.generate import GenerateProgress
    from omniloom.pipeline.index import IndexProgress
    from omniloom.pipeline.jobs import BuildProgress

app = typer.Typer(
    name="omniloom",
    help="Raw video to omni-modal corpora, and a compact MiCo model trained on them.",
    epilog="Start with: omniloom demo",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NOTHING_PRODUCED = 3
INTERRUPTED = 130

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, all else on standard error.")
]
Recipe = Annotated[str | None, typer.Option("--recipe", "-r", help="A recipe's name, or the path of a .yaml file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Recipe keys, e.g. clips.length_s=5")
]


def _version(show: bool) -> None:
    if show:
        sys.stdout.write(f"omniloom {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


@app.command(epilog="Example: omniloom build videos/ more/*.mp4 --out corpus clips.by=shots")
def build(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE... [KEY=VALUE]...", help="Files, folders, globs, lists.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The corpus: made, or continued.")],
    recipe: Recipe = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; without it Ray runs here.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes here; 0 means this one, without Ray.")] = None,
    json: Json = False,
) -> None:
    """Make a corpus from raw video. Run it again and it continues."""
    _spare_pandas()
    from omniloom.pipeline.jobs import build as run
    from omniloom.recipes.config import build_recipe
    from omniloom.recipes.show import bar, emit

    paths, overrides = _split_overrides(sources)
    if not paths:
        raise typer.BadParameter("name at least one file, folder, glob or list", param_hint="SOURCE")
    described = build_recipe(recipe, overrides)
    with bar("build", "sources") as line:

        def show(at: BuildProgress) -> None:
            line.update(at.done_sources, at.all_sources, f"{at.samples} samples, {at.dropped} dropped")

        report = run(described, paths, out, address=address, workers=workers, on_progress=show)
    emit(report, json)
    if report.corpus_samples == 0:
        _say_drops(report.dropped)
        raise typer.Exit(NOTHING_PRODUCED)


@app.command(
    name="list", epilog="Example: omniloom list msrvtt MSRVTT_data.json MSRVTT_JSFUSION_test.csv --media videos"
)
def write_list(
    layout: Annotated[str, typer.Argument(help="msrvtt, vatex, youcook2, didemo, audiocaps, clotho, coco, ...")],
    annotations: Annotated[
        list[Path], typer.Argument(help="Its annotation files; of `folders` the folder of classes.")
    ],
    media: Annotated[Path | None, typer.Option("--media", "-m", help="Folder of the media files.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The list; without it LAYOUT.jsonl.")] = None,
    json: Json = False,
) -> None:
    """Write the source list of a benchmark from its annotations, for `build --recipe benchmark`."""
    from omniloom.pipeline.layouts import LAYOUTS
    from omniloom.pipeline.listing import write_list as run
    from omniloom.recipes.show import emit

    if layout not in LAYOUTS:
        raise typer.BadParameter(f"{layout!r} is none of {', '.join(LAYOUTS)}", param_hint="LAYOUT")
    emit(run(layout, annotations, media, out or Path(f"{layout}.jsonl")), json)


@app.command(epilog="Example: omniloom index laion/ --out corpus")
def index(
    folder: Annotated[Path, typer.Argument(help="Of plain WebDataset tars: img2dataset, video2dataset, yours.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The corpus; without it the folder is it.")] = None,
    test_fraction: Annotated[float, typer.Option(help="Share held out, where samples name no split.")] = 0.1,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; without it Ray runs here.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes here; 0 means this one, without Ray.")] = None,
    json: Json = False,
) -> None:
    """Make a corpus of other people's tars by sidecars alone: nothing is copied. Run it again and it continues."""
    _spare_pandas()
    from omniloom.pipeline.index import index as run
    from omniloom.recipes.show import bar, emit

    with bar("index", "tars") as line:

        def show(at: IndexProgress) -> None:
            line.update(at.done_tars, at.all_tars, f"{at.samples} samples, {at.dropped} dropped")

        report = run(folder, out, test_fraction=test_fraction, address=address, workers=workers, on_progress=show)
    emit(report, json)
    if report.corpus_samples == 0:
        _say_drops(report.dropped)
        raise typer.Exit(NOTHING_PRODUCED)


@app.command(epilog="Example: omniloom generate corpus depth normal points transcript caption")
def generate(
    corpus: Annotated[Path, typer.Argument(help="A corpus.")],
    modalities: Annotated[
        list[str], typer.Argument(metavar="MODALITY... [KEY=VALUE]...", help="What to add, e.g. depth normal points.")
    ],
    recipe: Recipe = "generate",
    replace: Annotated[bool, typer.Option("--replace", help="Begin a column again that was made otherwise.")] = False,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; without it Ray runs here.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes here; 0 means this one, without Ray.")] = None,
    json: Json = False,
) -> None:
    """Add modalities to a corpus, as columns beside its shards. Run it again and it continues."""
    _spare_pandas()
    from omniloom.pipeline.generate import generate as run
    from omniloom.recipes.config import generate_sections
    from omniloom.recipes.show import bar, emit_columns

    named, overrides = _split_overrides(modalities)
    if not named:
        raise typer.BadParameter("name at least one modality, e.g. depth", param_hint="MODALITY")
    sections = generate_sections(recipe, named, overrides)
    with bar("generate", "samples") as line:

        def show(at: GenerateProgress) -> None:
            made = ", ".join(f"{name} {count}" for name, count in at.made.items())
            line.update(at.done_samples, at.all_samples, f"{made}, {at.dropped} dropped")

        reports = run(corpus, named, sections, replace=replace, address=address, workers=workers, on_progress=show)
    emit_columns(reports, json)
    if not any(report.corpus_samples for report in reports):
        dropped = {reason: count for report in reports for reason, count in report.dropped.items()}
        _say_drops(dropped, "no sample has any of it")
        raise typer.Exit(NOTHING_PRODUCED)


@app.command(epilog="Example: omniloom check corpus")
def check(
    corpus: Annotated[Path, typer.Argument(help="A corpus: a folder or a URL.")],
    json: Json = False,
) -> None:
    """Verify every hash, count, time and geometry record of a corpus; exit 1 on any fault."""
    from omniloom.pipeline.check import check as run
    from omniloom.pipeline.corpus import open_corpus
    from omniloom.recipes.show import bar, emit

    opened = open_corpus(corpus)
    with bar("check", "shards") as line:
        faults = run(opened, on_progress=line.update)
    emit({"samples": opened.count_readable(), "shards": len(opened.shards), "faults": faults}, json)
    if faults:
        raise typer.Exit(1)


@app.command(epilog="Example: omniloom stats corpus")
def stats(corpus: Annotated[Path, typer.Argument(help="A corpus: a folder or a URL.")], json: Json = False) -> None:
    """Count what a corpus holds: hours, modalities, bytes, drops by reason."""
    from omniloom.pipeline.corpus import open_corpus
    from omniloom.recipes.show import emit

    emit(open_corpus(corpus).stats(), json)


@app.command(epilog="Example: omniloom train --recipe mico-tiny --corpus corpus --run runs/first train.steps=300")
def train(
    corpus: Annotated[Path, typer.Option("--corpus", "-c", help="What to train on: a folder or a URL.")],
    run: Annotated[Path, typer.Option("--run", help="Folder of the run: made, or continued.")],
    overrides: Overrides = None,
    recipe: Recipe = "mico-tiny",
    workers: Annotated[int, typer.Option(min=1, help="Processes (ranks), one a GPU where there are GPUs.")] = 1,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster to train on.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each process that decode.")] = 1,
    json: Json = False,
) -> None:
    """Train MiCo on a corpus; a run that exists continues."""
    from omniloom.recipes.config import train_recipe
    from omniloom.recipes.live import training_view
    from omniloom.recipes.show import emit
    from omniloom.trainer.train import train as fit

    described = train_recipe(recipe, overrides or ())
    with training_view("train") as show:
        if workers > 1 or address:
            from omniloom.trainer.launch import launch

            report = launch(described, corpus, run, ranks=workers, address=address, threads=threads, on_step=show)
        else:
            report = fit(described, corpus, run, on_step=show, workers=threads)
    emit(report, json)


@app.command(name="eval", epilog="Example: omniloom eval --run runs/first --corpus corpus --split test")
def evaluate(
    run: Annotated[Path, typer.Option("--run", help="Folder of a run.")],
    corpus: Annotated[Path, typer.Option("--corpus", "-c", help="What to evaluate on: a folder or a URL.")],
    split: Annotated[str, typer.Option(help="train, val, test, or all.")] = "test",
    strict: Annotated[
        bool, typer.Option("--strict", help="Only a caption's own clip is right; else those of equal captions are too.")
    ] = False,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help='Around class names, e.g. "a photo of a {}"; several are averaged.'),
    ] = None,
    json: Json = False,
) -> None:
    """Measure retrieval, captions, answers and classes of a run, beside chance and an untrained model."""
    from omniloom.recipes.show import bar, emit
    from omniloom.trainer.classify import PROMPTS
    from omniloom.trainer.evaluate import evaluate as measure

    with bar("eval", "samples") as line:
        report = measure(run, corpus, split=split, strict=strict, prompts=prompt or PROMPTS, on_progress=line.update)
    if json:
        emit(report, json)
    else:
        from omniloom.recipes import show
        from omniloom.recipes.tables import show_evaluation

        show_evaluation(report, show.out)


@app.command(epilog="Example: omniloom demo --out demo")
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("demo"),
    recipe: Recipe = "demo",
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """All of it on small real and rendered media, offline: raw files, corpus, training, retrieval, a picture."""
    from omniloom.recipes.demo import demo as run
    from omniloom.recipes.show import emit

    report = run(out, recipe or "demo", overrides or (), quiet=json)
    if json:
        emit(report, json)


@app.command(epilog="Example: omniloom bench decode --quick")
def bench(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Without one: what there is.")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="Counted repetitions.")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Length of its media.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Run everything once on the smallest media.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of tables and plots.")] = None,
    peers_python: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Python that has the peers' packages.")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Also measure what needs an NVIDIA GPU.")] = False,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="Begin nothing more after so long.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of corpora and runs, where a later call goes on.")] = None,
    stamps: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Debian's tuxpaint-stamps-default, unpacked.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure what omniloom costs beside named peers, and whether the model learns, in one run."""
    from importlib import import_module

    from omniloom.recipes.show import emit

    # By name: benchmarks lie above recipes, and import them.
    benchmarks = import_module("omniloom.benchmarks")
    if name is None:
        known = benchmarks.benchmarks()
        if json:
            emit(known, json)
        for stem, sentence in () if json else known.items():
            sys.stdout.write(f"{stem:18} {sentence}\n")
        return
    try:
        chosen = benchmarks.Options(runs, seconds, quick, out, peers_python, gpu, minutes, work, stamps)
        report = benchmarks.run_benchmark(name, chosen)
    except LookupError as error:
        raise typer.BadParameter(str(error.args[0]), param_hint="NAME") from error
    emit(report if json else report.get("claims", report), json)


def _split_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Sources and recipe overrides: a word with "=" that is no file is an override."""
    overrides = [word for word in arguments if "=" in word and not Path(word).exists()]
    return [word for word in arguments if word not in overrides], overrides


def _spare_pandas() -> None:
    """Pyarrow imports pandas with the first array it makes: 0.4 CPU-seconds that a build has no use for.

    While that array is made pandas cannot be found; whoever asks for it later gets it.
    """

    class Absent:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:  # noqa: ARG004 - the protocol's
            if name == "pandas":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    finder: Any = Absent()
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow as pa

        pa.array([0])
    finally:
        sys.meta_path.remove(finder)


def _say_drops(dropped: dict[str, int], otherwise: str = "no sources") -> None:
    from omniloom.recipes.show import say

    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items())) or otherwise
    say(f"omniloom: nothing was produced: {listed}")


def main() -> None:
    """The `omniloom` command: turns every failure into one line and an exit code."""
    try:
        result: Any = app(standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except typer.Exit as leave:
        code = leave.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost boundary: one line for the user, exit code for scripts
        code = _explain(error)
    if code == INTERRUPTED:  # typer may turn Ctrl-C into this code by itself
        _fail("interrupted: run the same command again to continue", code)
    sys.exit(code)


def _explain(error: Exception) -> int:
    import os

    # Usage errors: click's own classes in older typer, typer's in newer, so they are known by what they can do.
    describe = getattr(error, "format_message", None)
    if describe is not None:
        return _fail(f"{describe()} (see {_help_of(error)})", 2)
    if os.environ.get("OMNILOOM_TRACEBACK"):
        raise error
    from omniloom.recipes.config import RecipeError

    if isinstance(error, RecipeError):
        return _fail(str(error), 2)
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("omniloom"):
        return _fail(
            f"package {error.name!r} is not installed: pip install 'omniloom[all]' (or the extra of this job)", 1
        )
    if isinstance(error, (ValueError, OSError, RuntimeError)):
        return _fail(str(error).strip() or type(error).__name__, 1)
    return _fail(f"{type(error).__name__}: {error} (a fault of omniloom's: OMNILOOM_TRACEBACK=1 shows where)", 1)


def _help_of(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'omniloom'} --help"


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"omniloom: {line}\n")
    return code


if __name__ == "__main__":
    main()
