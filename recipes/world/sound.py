"""What a scene sounds like: each sounding object's voice, shaped by its motion on the same clock as the picture.

Shape gives the timbre, size the pitch, motion the rhythm: a bounce is struck at the instant of contact, a circling
object swells as it comes near, a rising one glides upward. Sliding left and sliding right sound alike, and a source
out of view (`Scene.unseen`) is heard only: neither picture nor sound tells all.
"""

from __future__ import annotations

import numpy as np

from omniloom.recipes.world.motion import circle_angle, hit_times_s
from omniloom.recipes.world.scene import DURATION_S, VOICE_OF, Ambience, Rhythm, Scene, Thing, Timbre

SAMPLE_RATE_HZ = 24_000
NUM_SAMPLES = int(DURATION_S * SAMPLE_RATE_HZ)
HIT_DECAY_S = 0.13

_PARTIALS: dict[Timbre, tuple[tuple[float, float], ...]] = {
    "bell": ((1, 1.0), (2.76, 0.7), (5.4, 0.45), (8.93, 0.25)),
    "buzz": tuple((k, 1.0 / k) for k in range(1, 20, 2)),
    "flute": ((1, 1.0), (2, 0.1)),
    "horn": tuple((k, k**-0.8) for k in range(1, 13)),
    "gong": ((0.5, 0.8), (0.507, 0.8), (0.74, 0.7), (0.985, 0.6), (1.31, 0.5), (1.33, 0.5)),
    "organ": ((1, 1.0), (2, 0.8), (4, 0.7), (8, 0.5)),
    "string": tuple((k, 1.0 / k) for k in range(1, 10)),
    "whistle": ((4, 1.0),),
}
"""(frequency ratio, weight) of the sine waves of each voice."""


def mix(scene: Scene, speech: np.ndarray | None = None) -> np.ndarray | None:
    """The clip's sound: float32 (NUM_SAMPLES,) in [-0.9, 0.9] at SAMPLE_RATE_HZ, or None for a silent scene.

    Args:
        scene: what sounds.
        speech: the narrator's float32 samples at SAMPLE_RATE_HZ, not longer than the clip; the rest is played softer.
    """
    if scene.silent:
        return None
    rng = np.random.default_rng(scene.seeds[0])
    out = ambience(scene.ambience, rng)
    for number, thing in enumerate(thing for thing in scene.things if thing.sounds):
        out += (0.42 if number == 0 else 0.28) * voice(thing, rng)
    if scene.unseen is not None:
        gain = _rhythm(scene.unseen.rhythm)
        out += 0.24 * gain * _tone(scene.unseen.timbre, np.full(NUM_SAMPLES, scene.unseen.pitch_hz), rng)
    if speech is not None:
        out *= 0.22
        start = int(rng.uniform(0.05, 1.0) * (NUM_SAMPLES - len(speech)))
        out[start : start + len(speech)] += speech
    fade = np.minimum(1, np.arange(NUM_SAMPLES, 0, -1) / (0.02 * SAMPLE_RATE_HZ))
    return (out * fade * min(1.0, 0.9 / float(np.abs(out).max()))).astype(np.float32)


def voice(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """One object's sound through the whole clip: float32 (NUM_SAMPLES,), about 1 at its loudest."""
    time_s = _clock()
    u = time_s / DURATION_S
    pitch, gain = np.full(NUM_SAMPLES, thing.pitch_hz), np.ones(NUM_SAMPLES)
    match thing.motion:
        case "rising":
            pitch = thing.pitch_hz * 2 ** (1.3 * u - 0.3)
        case "sinking":
            pitch = thing.pitch_hz * 2 ** (1.0 - 1.3 * u)
        case "left" | "right":
            pitch = thing.pitch_hz * 2 ** (0.09 * np.sin(2 * np.pi * 2.2 * time_s))
        case "bouncing":
            gain = struck(hit_times_s(thing))
        case "circling":
            gain = 0.08 + 0.92 * (0.5 + 0.5 * np.cos(circle_angle(thing, time_s))) ** 1.5
        case "spinning":
            gain = struck(hit_times_s(thing), decay_s=0.05)
        case "approaching":
            gain = 0.04 * 25**u
        case "receding":
            gain = 0.04 * 25 ** (1 - u)
        case "still":
            pass
    return (gain * _tone(VOICE_OF[thing.shape], pitch, rng)).astype(np.float32)


def struck(times_s: np.ndarray, decay_s: float = HIT_DECAY_S) -> np.ndarray:
    """Loudness of something struck at the given times: full within 2 ms, then dying away; float64 (NUM_SAMPLES,)."""
    gain, time_s = np.zeros(NUM_SAMPLES), _clock()
    for hit in times_s:
        start = int(np.ceil(hit * SAMPLE_RATE_HZ))
        since = time_s[start:] - hit
        gain[start:] = np.maximum(gain[start:], np.minimum(since / 0.002, 1) * np.exp(-since / decay_s))
    return gain


def ambience(kind: Ambience, rng: np.random.Generator) -> np.ndarray:
    """The sound of the place: float32 (NUM_SAMPLES,), soft; even a quiet place is not perfectly still."""
    time_s = _clock()
    white = rng.standard_normal(NUM_SAMPLES)
    match kind:
        case "quiet":
            out = 0.002 * white
        case "wind":
            out = 0.16 * _band(white, 80, 500) * (0.55 + 0.45 * np.sin(2 * np.pi * 0.45 * time_s + rng.uniform(0, 6)))
        case "rain":
            drops = (rng.random(NUM_SAMPLES) < 0.002) * rng.standard_normal(NUM_SAMPLES) * 6
            out = 0.07 * _band(white, 1500, 9000) + 0.05 * _band(drops, 1000, 6000)
        case "hum":
            out = 0.002 * white + sum(0.06 / k * np.sin(2 * np.pi * 60 * k * time_s) for k in (1, 2, 3, 5))
        case "crickets":
            chirp = (np.sin(2 * np.pi * 14 * time_s) > 0) * (
                np.sin(2 * np.pi * 1.7 * time_s + rng.uniform(0, 6)) > -0.2
            )
            out = 0.002 * white + 0.06 * chirp * np.sin(2 * np.pi * 4600 * time_s)
    return np.asarray(out, np.float32)


def _tone(timbre: Timbre, pitch_hz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A voice that follows a pitch curve (NUM_SAMPLES,), at a steady loudness; partials above 10 kHz are left out."""
    time_s = _clock()
    if timbre == "whistle":
        pitch_hz = pitch_hz * (1 + 0.012 * np.sin(2 * np.pi * 6 * time_s))
    cycles = np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    top = float(pitch_hz.max())
    out = np.zeros(NUM_SAMPLES, np.float32)
    for ratio, weight in _PARTIALS[timbre]:
        if ratio * top < 10_000:
            # The whole turns are dropped before the float32 sine, or the phase would lose its precision.
            turn = cycles * ratio + rng.random()
            out += weight * np.sin((2 * np.pi * (turn - np.floor(turn))).astype(np.float32))
    if timbre == "flute":
        out += 0.2 * _band(rng.standard_normal(NUM_SAMPLES), 2000, 6000)
    if timbre == "string":
        out *= (0.25 + 0.75 * np.exp(-9 * ((time_s * 9) % 1.0) / 3)).astype(np.float32)
    return out / np.float32(np.abs(out).max())


def _rhythm(rhythm: Rhythm) -> np.ndarray:
    match rhythm:
        case "steady":
            return np.ones(NUM_SAMPLES)
        case "pulsing":
            return (np.sin(2 * np.pi * 3 * _clock()) > 0) * 1.0
        case "striking":
            return struck(np.arange(0.25, DURATION_S, 1.0), decay_s=0.3)


def _band(signal: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """What lies between two frequencies, scaled to a standard deviation of 1."""
    spectrum = np.fft.rfft(signal)
    hertz = np.fft.rfftfreq(len(signal), 1 / SAMPLE_RATE_HZ)
    spectrum[(hertz < low_hz) | (hertz > high_hz)] = 0
    out = np.fft.irfft(spectrum, len(signal))
    return out / out.std()


def _clock() -> np.ndarray:
    return np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ
