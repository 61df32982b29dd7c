"""A sound card's clock runs a thousandth fast or slow, for ten minutes: sound stays with the pictures throughout."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from omniloom.modalities import Sample, load
from omniloom.pipeline.clips import ClipsConfig
from omniloom.pipeline.corpus import create_corpus, open_corpus
from omniloom.pipeline.extract import weave
from omniloom.pipeline.recipe import BuildRecipe
from omniloom.pipeline.shard import write_unit
from omniloom.pipeline.sources import Source, identify
from tests import independent
from tests.clock.seen import NS, loaded, stitched
from tests.media import Times, make_clip

FPS = 5
BEATS_AT = (0.002, 0.25, 0.5, 0.75, 0.98)
"""Of the film's length."""

RECIPE = BuildRecipe(
    modalities=("frames", "audio"),
    clips=ClipsConfig(length_s=20.0, min_s=0.2),
    sections={"frames": load("frames").Config(per_second=FPS, short_side=24)},
)

CLOCKS = {
    "fast.mkv": (600.0, 1.001, "pcm_s16le", 0.0015),
    "slow.mkv": (100.0, 0.999, "flac", 0.0015),
    "fast.mp4": (100.0, 1.001, "aac", 0.001),
}
"""Length in seconds; seconds that the timestamps of sound count while the samples last one; codec; how far off a beep
may lie, in seconds: 1 ms, and in Matroska the half millisecond by which its timestamps are rounded."""


def make_drifting(path: Path, seconds: float, rate: float, codec: str, beats: Times) -> Path:
    """A film whose sound is stamped by another clock than it was sampled with; beats are on the stamps' clock."""
    steady = make_clip(
        path.with_name(f"steady.{path.name}"),
        seconds,
        FPS,
        size=(32, 24),
        gop=50,
        flashes=beats,
        tone=[(start / rate, end / rate) for start, end in beats],
        audio_codec=codec,
        sample_rate_hz=16_000,
    )
    with av.open(str(steady)) as source, av.open(str(path), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None or packet.pts is None:
                continue
            if packet.stream.type == "audio":
                packet.pts = packet.dts = round(packet.pts * rate)
                packet.duration = round(packet.duration * rate)
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    return path


@pytest.mark.parametrize("name", list(CLOCKS))
def test_flash_and_beep_come_together_to_the_end(tmp_path: Path, name: str) -> None:
    seconds, rate, codec, tolerance_s = CLOCKS[name]
    put_s = [round(share * seconds * FPS) / FPS for share in BEATS_AT]
    path = make_drifting(tmp_path / name, seconds, rate, codec, [(start, start + 0.4) for start in put_s])
    outcomes = list(weave(Source(str(path), identify(str(path))), RECIPE, _no_model))
    samples = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
    assert len(samples) == len(outcomes) == seconds / 20
    create_corpus(tmp_path / "corpus", modalities=RECIPE.modalities, recipe=RECIPE.as_dict())
    write_unit(tmp_path / "corpus", 0, samples, RECIPE.modalities)
    corpus = open_corpus(tmp_path / "corpus")
    shown, heard = independent.pictures(path), independent.sound(path)
    assert heard.beeps_s == pytest.approx(put_s, abs=0.002), "the file is what this test takes it for"
    for seen in (stitched(samples), stitched(corpus.samples()), loaded(corpus, length_s=21.0)):
        assert seen.frame_ns == shown.pts_ns
        assert [time_ns / NS for time_ns in seen.frame_flashes_ns] == pytest.approx(put_s, abs=0.001)
        assert seen.beeps_s == pytest.approx(put_s, abs=tolerance_s)


def _no_model(ref: object, *inputs: object) -> object:
    raise AssertionError(f"no model is asked here, but {ref} was")
