"""The words of a recording by way of a whole build: decoded, heard in blocks, cut into clips, written and read back."""

from __future__ import annotations

import tempfile
import wave
from pathlib import Path

import numpy as np

from omniloom.modalities import transcript
from omniloom.modalities.base import read
from omniloom.modalities.sample import NS_PER_S
from omniloom.pipeline.corpus import open_corpus
from omniloom.pipeline.jobs import build
from omniloom.recipes.config import build_recipe

RATE_HZ = 16_000
_CHOICES = ("modalities=[audio,transcript]", "require=[audio]", "clips.audio_only=true")


def built(samples: np.ndarray) -> list[tuple[str, float]]:
    """(word, when it begins in the recording, in seconds) of int16 (N,) at RATE_HZ, clip after clip."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "recording.wav"
        with wave.open(str(source), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes(samples.astype("<i2").tobytes())
        build(build_recipe(None, list(_CHOICES)), [str(source)], Path(folder) / "corpus", workers=0)
        clips = sorted(open_corpus(Path(folder) / "corpus").samples(), key=lambda sample: sample.clip.start_ns)
        return [
            (word.word, sample.clip.start_ns / NS_PER_S + word.start)
            for sample in clips
            if "transcript" in sample.parts
            for said in read(transcript, sample.parts["transcript"]).segments
            for word in said.words
        ]
