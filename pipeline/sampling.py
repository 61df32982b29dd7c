"""Which frames of a clip are kept, chosen while they stream by and the clip's end is not yet known."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from omniloom.modalities.sample import NS_PER_S


def sample_times(start_ns: int, end_ns: int, per_second: float, at_least: int) -> list[int]:
    """The times t_k = start + k / rate before the end; rate = max(per_second, at_least / duration)."""
    duration_ns = end_ns - start_ns
    if duration_ns * per_second < at_least * NS_PER_S:
        return [start_ns + k * duration_ns // at_least for k in range(at_least)]
    times: list[int] = []
    while (time_ns := start_ns + round(len(times) * (NS_PER_S / per_second))) < end_ns:
        times.append(time_ns)
    return times


class FrameSampler:
    """Keeps the frames of one clip that are on screen at its sample times, whatever its length turns out to be.

    A short clip is sampled the denser the shorter it is, so until the end is known every frame is kept that would be on
    screen at a sample time of some length between the soonest and the latest end foreseen; `choose` then picks
    exactly. When the end is foreseen well that is hardly more than the frames needed.
    """

    def __init__(self, start_ns: int, soonest_ns: int, latest_ns: int, per_second: float, at_least: int) -> None:
        self._start_ns = start_ns
        self._soonest_ns = soonest_ns - start_ns
        self._latest_ns = latest_ns - start_ns
        self._per_second = per_second
        self._at_least = at_least
        self._times: list[int] = []
        self._images: list[np.ndarray | None] = []

    def wants(self, start_ns: int, end_ns: int) -> bool:
        """Whether the frame on screen during [start_ns, end_ns) may be needed."""
        if not self._times:
            return True
        shown_ns, gone_ns = start_ns - self._start_ns, end_ns - self._start_ns
        shortest_ns = max(self._soonest_ns, gone_ns)  # the clip lasts as long as what it shows
        longest_ns = max(self._latest_ns, shortest_ns)
        enough_ns = self._at_least / self._per_second * NS_PER_S
        if longest_ns >= enough_ns:
            step_ns = NS_PER_S / self._per_second
            near = int(shown_ns // step_ns)
            if any(shown_ns <= round(k * step_ns) < gone_ns for k in (near, near + 1, near + 2)):
                return True
        if shortest_ns < enough_ns:
            count = self._at_least
            longest_ns = min(longest_ns, enough_ns)
            # A nanosecond of slack at both ends, for the rounding of the times.
            return any(
                k * shortest_ns / count < gone_ns + 1 and k * longest_ns / count >= shown_ns - 1 for k in range(count)
            )
        return False

    def keep(self, start_ns: int, image: np.ndarray | None) -> None:
        """Takes a wanted frame: uint8 (H, W, 3), first shown at start_ns; all of one size, in order.

        None stands for a frame when only times are foreseen; then there is nothing to choose from.
        """
        self._times.append(start_ns)
        self._images.append(image)

    def choose(self, end_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """The clip's frames, uint8 (T, H, W, 3), and the times they came on screen, int64 (T,), from the clip's start.

        Frame k is the last kept that came on screen by t_k. A frame that stands longer than the sampling step is there
        more than once.
        """
        assert self._times, "a clip opens with a frame"
        times = sample_times(self._start_ns, end_ns, self._per_second, self._at_least)
        chosen = [max(0, bisect_right(self._times, time_ns) - 1) for time_ns in times]
        pts_ns = np.array([self._times[index] - self._start_ns for index in chosen], np.int64)
        images = [image for image in (self._images[index] for index in chosen) if image is not None]
        return np.stack(images), pts_ns
