"""Decoded audio frames laid on a 16 kHz grid of presentation time, as their timestamps say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from omniloom.modalities.sample import NS_PER_S

if TYPE_CHECKING:
    import av

SAMPLE_RATE_HZ = 16_000
_BLOCK = 4000
"""Samples given out at once: what is done once a block costs little then."""
_SMOOTHING_S = 0.3
_DRIFT_S = 0.0004
"""Drift below this is left alone: rounding to milliseconds, smoothed over so long, stays below it."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A block of mono sound: int16 (N,). Sample i of it is heard at (at + i) / 16000 s of presentation time."""

    at: int
    samples: np.ndarray

    @property
    def start_ns(self) -> int:
        return self.at * NS_PER_S // SAMPLE_RATE_HZ

    @property
    def end_ns(self) -> int:
        return (self.at + len(self.samples)) * NS_PER_S // SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Mend:
    """A place where timestamps and samples disagreed, and by how many samples of the grid.

    drift    the clock that stamped the frames runs ahead of the samples (or behind, below 0); the sound was bent to it
    overlap  two frames claim the same time; what came second was cut
    """

    kind: str
    at: int
    samples: int


def sample_at(time_ns: int) -> int:
    """Index on the 16 kHz grid of presentation time of the sample nearest to a time."""
    return (2 * time_ns * SAMPLE_RATE_HZ + NS_PER_S) // (2 * NS_PER_S)


class Tape:
    """Takes one stream's decoded frames in order; gives sound whose blocks never overlap."""

    def __init__(self, time_base: Fraction) -> None:
        # Plain numbers: a Fraction an audio frame would cost as much as decoding it.
        self._samples_per_tick = float(time_base * SAMPLE_RATE_HZ)
        self._resampler: Any = None
        self._shape: tuple[Any, ...] = ()
        self._next = 0
        """Grid position of the next resampled sample of this run of contiguous frames."""
        self._written: int | None = None
        """Grid position up to which sound was given out: nothing is laid over it."""
        self._run_start = 0.0
        self._run_taken = 0
        self._drift = 0.0
        self._drifts = 0.0
        """How fast the drift grows: samples a sample."""
        self._owed = 0

    def frame(self, frame: av.AudioFrame) -> Iterator[Sound | Mend]:
        """The sound that is certain after one more frame."""
        if not frame.samples:
            return
        rate_hz = frame.sample_rate
        shape = (frame.format.name, frame.layout.name, rate_hz)
        expected = self._run_start + self._run_taken * SAMPLE_RATE_HZ / rate_hz
        actual = expected if frame.pts is None else frame.pts * self._samples_per_tick
        lasts = frame.samples / rate_hz * SAMPLE_RATE_HZ
        # A lost packet or a jump starts a new run, later or earlier; less than that is jitter or drift.
        jumps = abs(actual - expected) > max(0.010 * SAMPLE_RATE_HZ, 0.75 * lasts)
        if self._resampler is None or shape != self._shape or jumps:
            yield from self.finish()
            self._begin(shape, actual)
        else:
            self._follow(actual - expected, lasts)
        self._run_taken += frame.samples
        frame.pts = None  # the resampler is to count, not to fill: that is done here
        resampler: Any = self._resampler
        for out in resampler.resample(frame):
            yield from self._lay(out)

    def _follow(self, apart: float, lasts: float) -> None:
        """Takes drift out, a little at a time: timestamps and samples are `apart` at a frame that `lasts` samples.

        Timestamps of whole milliseconds jitter by half of one, so what is apart is smoothed: by an alpha-beta filter,
        which also follows how fast the clocks drift and so does not lag behind them.
        """
        alpha = min(0.5, lasts / (_SMOOTHING_S * SAMPLE_RATE_HZ))
        surprise = apart - self._drift - self._drifts * lasts
        self._drift += self._drifts * lasts + alpha * surprise
        self._drifts += alpha * alpha / 4 * surprise / lasts
        if abs(self._drift) > _DRIFT_S * SAMPLE_RATE_HZ:
            most = lasts / 100
            step = round(max(-most, min(most, self._drift)))
            self._owed += step
            self._run_start += step
            self._drift -= step

    def finish(self) -> Iterator[Sound | Mend]:
        """The sound that the resampler still holds."""
        if self._resampler is not None:
            for out in self._resampler.resample(None):
                if out is not None and out.samples:
                    yield from self._lay(out)
            self._resampler = None

    def _begin(self, shape: tuple[Any, ...], position: float) -> None:
        from av.audio.resampler import AudioResampler

        self._resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ, frame_size=_BLOCK)
        self._shape = shape
        self._run_start, self._run_taken, self._owed = position, 0, 0
        self._drift = self._drifts = 0.0
        self._next = round(position)

    def _lay(self, out: av.AudioFrame) -> Iterator[Sound | Mend]:
        samples = np.frombuffer(memoryview(out.planes[0]), np.int16)[: out.samples].copy()
        count = len(samples)
        if self._owed and count > 2 * abs(self._owed):
            length = count + self._owed
            at = np.arange(length) * ((count - 1) / (length - 1))
            samples = np.rint(np.interp(at, np.arange(count), samples)).astype(np.int16)
            yield Mend("drift", self._next, self._owed)
            self._owed = 0
        first = self._next
        self._next += len(samples)
        if self._written is not None and first < self._written:
            yield Mend("overlap", first, min(self._written - first, len(samples)))
            samples = samples[self._written - first :]
            first = self._written
        if len(samples):
            self._written = first + len(samples)
            yield Sound(first, samples)
