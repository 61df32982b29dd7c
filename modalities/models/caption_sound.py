"""Words for what is heard, offline: only what can be measured. Whether there is sound, how loud, whether one speaks.

No word is said of music or of noises: nothing that is small enough to be carried here tells them apart reliably; an
audio classifier of `transformers` does (`caption.model=given+sound:NAME`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omniloom.modalities.base import Ask, ModelRef
from omniloom.modalities.models import vad

_SILENT_DBFS = -50.0
"""Windows of 20 ms below this are silent, as in the signals of `docs/design/010-cheap-signals.md`."""
_LOUD_DBFS, _QUIET_DBFS = -15.0, -40.0
"""RMS of what is not silent: speech and music are mastered to lie between."""
_MOSTLY = 0.5
_HARDLY = 0.05


def reference() -> ModelRef:
    """The voice detector, the one network that is asked."""
    return vad.reference()


def words(samples: np.ndarray, sample_rate_hz: int, ref: ModelRef, ask: Ask) -> str:
    """Words for int16 (N,), parted by commas: "silence", or of loudness and speech what stands out, or ""."""
    window = sample_rate_hz // 50
    if len(samples) < window:
        return ""
    windows = samples[: len(samples) // window * window].reshape(-1, window).astype(np.float64) / 32768
    power = np.mean(windows**2, axis=1)
    heard = power[power > 10 ** (_SILENT_DBFS / 10)]
    if len(heard) < _HARDLY * len(power):
        return "silence"
    regions: Sequence[vad.Region] = ask(ref, samples, sample_rate_hz)
    speech = vad.share(regions, len(samples) / sample_rate_hz)
    level = 10 * np.log10(heard.mean())
    found = ["speech" if speech >= _MOSTLY else "some speech" if speech >= _HARDLY else "sound without speech"]
    if level >= _LOUD_DBFS:
        found.append("loud")
    elif level <= _QUIET_DBFS:
        found.append("quiet")
    return ", ".join(found)
