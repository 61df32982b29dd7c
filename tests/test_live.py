"""The live view says what a person wants to know of a training, and says it in lines where there is no terminal."""

from __future__ import annotations

import io
import math

from rich.console import Console

from omniloom.recipes.live import TrainingView, course, note
from omniloom.trainer.metrics import StepReport


def _report(step: int, loss: float, skipped: int = 0, mfu: float | None = None) -> StepReport:
    return StepReport(step, 200, loss, {"caption": loss / 2}, 1e-3, 0.7, 41.25, 0.034, skipped, True, 1.5, mfu)


def test_a_course_is_drawn_from_its_means() -> None:
    assert course([3.0, 2.0, 1.0]) == "█▅▁" or course([3.0, 2.0, 1.0]) == "█▄▁"
    assert course([1.0, math.nan, 1.0]) == "▁▁"
    assert course([]) == course([math.nan]) == ""
    long = course([float(100 - step) for step in range(1000)])
    assert len(long) == 36
    assert list(long) == sorted(long, reverse=True)


def test_the_view_shows_losses_speed_and_what_was_skipped() -> None:
    view = TrainingView("train")
    screen = Console(file=io.StringIO(), width=110, force_terminal=True, color_system=None)

    def shown() -> str:
        assert isinstance(screen.file, io.StringIO)
        screen.file.seek(0)
        screen.file.truncate()
        screen.print(view)
        return screen.file.getvalue()

    assert "first batch" in shown()
    for step in range(1, 101):
        view.update(_report(step, 8 - step / 20))
    text = shown()
    assert "100/200 steps" in text
    assert "41.2 samples/s" in text
    assert "data wait 3.4%" in text
    assert "1.5 TFLOP/s" in text
    assert "skipped" not in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("  ")}
    assert lines["loss"][0] == "3.0000"
    assert lines["caption"][0] == "1.5000"
    assert lines["loss"][1][0] == "█"
    assert lines["loss"][1][-1] == "▁"
    view.update(_report(101, 3.0, skipped=2, mfu=0.415))
    assert "2 steps skipped" in shown()
    assert "MFU 41.5%" in shown()
    assert note(_report(5, 1.25, skipped=2)) == "loss 1.250, 41 samples/s, 2 skipped"
