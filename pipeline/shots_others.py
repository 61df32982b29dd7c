"""Two detectors made by others, fed from our one decode: PySceneDetect's and the network TransNetV2."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import transnetv2
from omniloom.pipeline.peaks import Peaks

if TYPE_CHECKING:
    from omniloom.modalities.base import Ask

_SHORTEST = 5
"""Pictures between two cuts at least, as in the built-in detector: of cuts closer than that the first one stands."""


class PySceneDetect:
    """PySceneDetect's AdaptiveDetector or ContentDetector (0.7, BSD) with the thresholds of its authors.

    Differs from what its command line does in two ways, both so that answers are local. Its own minimum of 15 pictures
    between cuts, counted from whichever cut came before, gives way to a minimum of five that looks only at the
    neighbours. And pictures are numbered rather than timed: neither detector looks at the time otherwise.
    """

    size = (160, 90)
    pix_fmt = "bgr24"

    def __init__(self, kind: Literal["adaptive", "content"] = "adaptive") -> None:
        if find_spec("scenedetect") is None:
            raise ValueError(
                "clips.detector=pyscenedetect needs scenedetect-headless: pip install 'omniloom[shots]', "
                "or use clips.detector=builtin"
            )
        from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode

        # min_scene_len=0 switches their flash filter off, which remembers every cut since the beginning.
        adaptive = kind == "adaptive"
        self._detector: Any = AdaptiveDetector(min_scene_len=0) if adaptive else ContentDetector(min_scene_len=0)
        self._window = self._detector.window_width if adaptive else 0
        self._zero: Any = FrameTimecode(0, fps=25.0)
        self.reach = self._window + 1 + _SHORTEST
        self._peaks = Peaks(lambda _: _SHORTEST - 1, _SHORTEST - 1)
        self._seen = 0

    def picture(self, thumbnail: np.ndarray) -> list[bool]:
        found = self._detector.process_frame(self._zero + self._seen, np.ascontiguousarray(thumbnail))
        self._seen += 1
        # An answer to picture k comes with picture k + window; nothing is said of the very first picture.
        at = self._seen - 1 - self._window
        if at < 0:
            return []
        return self._peaks.add(float(at > 0 and any(cut.frame_num == at for cut in found)))

    def finish(self) -> list[bool]:
        answers: list[bool] = []
        for _ in range(min(self._window, self._seen)):  # too near the end to be compared with what comes after
            answers += self._peaks.add(0.0)
        return answers + self._peaks.finish()


class TransNetV2:
    """The shot boundary network TransNetV2 (arXiv 2008.04838), asked once for every hundred pictures.

    Its authors cut a video into windows of 100 pictures, 50 apart, so that an answer depends on where the windows
    happen to begin. Here every picture is judged with the 98 pictures before and after it that the network can see, so
    answers depend on nothing else (but for rounding, about 1e-6 of a probability; the threshold is 0.5, as theirs).
    A run of pictures above it is one change, and the picture after the run's middle is the first of the new shot.
    """

    size = (144, 81)
    """Three times what the network takes: means of 3 x 3 points, since points alone flicker where there is detail."""
    pix_fmt = "rgb24"
    reach = transnetv2.SEES + 26

    _STRIDE = 100
    _LONGEST = 24
    """Pictures on each side of a run's middle; longer runs are no single change."""

    def __init__(self, ask: Ask, threshold: float = 0.5) -> None:
        self._ask = ask
        self._ref = ModelRef("transnetv2", "embedded")
        transnetv2.check(self._ref)
        self._threshold = threshold
        self._pictures: list[np.ndarray] = []
        """From `SEES` before the one to be judged next, or from the first."""
        self._before = 0
        """How many of them are already judged."""
        self._likely: list[float] = []
        self._at = 0

    def picture(self, thumbnail: np.ndarray) -> list[bool]:
        height, width = thumbnail.shape[0] // 3, thumbnail.shape[1] // 3
        means = thumbnail.reshape(height, 3, width, 3, 3).mean(axis=(1, 3), dtype=np.float32)
        self._pictures.append(np.rint(means).astype(np.uint8))
        if len(self._pictures) - self._before < self._STRIDE + transnetv2.SEES:
            return []
        self._judge(self._STRIDE)
        return self._answers(len(self._likely) - self._LONGEST - 1)

    def finish(self) -> list[bool]:
        if self._pictures:
            self._judge(len(self._pictures) - self._before)
        return self._answers(len(self._likely))

    def _judge(self, count: int) -> None:
        """Asks about the next `count` pictures; beyond the video's ends the first and the last picture stand still."""
        missing = transnetv2.SEES - self._before
        after = transnetv2.SEES - (len(self._pictures) - self._before - count)
        shown = [self._pictures[0]] * missing + self._pictures + [self._pictures[-1]] * after
        likely: np.ndarray = self._ask(self._ref, np.stack(shown))
        self._likely += likely[transnetv2.SEES :][:count].tolist()
        self._before += count
        surplus = self._before - transnetv2.SEES
        if surplus > 0:
            del self._pictures[:surplus]
            self._before -= surplus

    def _answers(self, until: int) -> list[bool]:
        """Of the pictures up to `until`: an index of `likely`, which keeps a little of what was answered."""
        answers = [at > 0 and self._middle(at - 1) for at in range(self._at, until)]
        self._at = max(self._at, until)
        surplus = self._at - self._LONGEST - 2
        if surplus > 0:
            del self._likely[:surplus]
            self._at -= surplus
        return answers

    def _middle(self, at: int) -> bool:
        """Whether a run of likely pictures has its middle here (the earlier of two)."""
        if self._likely[at] <= self._threshold:
            return False
        begin = end = at
        while begin > 0 and self._likely[begin - 1] > self._threshold and at - begin <= self._LONGEST:
            begin -= 1
        while end + 1 < len(self._likely) and self._likely[end + 1] > self._threshold and end - at <= self._LONGEST:
            end += 1
        return max(at - begin, end - at) <= self._LONGEST and (begin + end) // 2 == at
