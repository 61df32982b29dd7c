"""The narrator: one spoken sentence, about something in the picture or about something that is nowhere to be seen."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from omniloom.recipes.world.scene import Scene
from omniloom.recipes.world.sound import NUM_SAMPLES, SAMPLE_RATE_HZ

_NAMES = ("Anna", "David", "Emma", "Henry", "Julia", "Martin", "Oliver", "Peter", "Sarah", "Thomas")
_CITIES = ("Berlin", "Boston", "Chicago", "Dublin", "London", "Madrid", "Paris", "Rome", "Sydney", "Vienna")
_FOODS = ("apples", "bread", "cheese", "coffee", "honey", "lemons", "pancakes", "soup", "strawberries", "tomatoes")
_ANIMALS = ("cat", "dog", "elephant", "horse", "lion", "monkey", "rabbit", "tiger", "turtle", "wolf")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_HOURS = ("two", "three", "four", "five", "six", "seven", "nine", "ten", "eleven")
_PLACES = ("the kitchen", "the garden", "the library", "the station", "the river", "the market", "the school")


def sentence(scene: Scene) -> str | None:
    """What the narrator says in this scene, or None; a third of the sentences are about an object in view."""
    if not scene.narrated:
        return None
    rng = np.random.default_rng(scene.seeds[2])

    def pick(values: tuple[str, ...]) -> str:
        return values[int(rng.integers(len(values)))]

    thing = scene.things[int(rng.integers(len(scene.things)))]
    shown = (
        f"Look at the {thing.colour} {_SPOKEN.get(thing.shape, thing.shape)}.",
        f"Can you see the {thing.colour} {_SPOKEN.get(thing.shape, thing.shape)}?",
    )
    told = (
        f"The train to {pick(_CITIES)} leaves at {pick(_HOURS)}.",
        f"{pick(_NAMES)} will visit {pick(_CITIES)} on {pick(_DAYS)}.",
        f"{pick(_NAMES)} bought {pick(_FOODS)} and {pick(_FOODS)}.",
        f"The {pick(_ANIMALS)} is sleeping near {pick(_PLACES)}.",
        f"My {pick(_ANIMALS)} likes to eat {pick(_FOODS)}.",
        f"We will meet {pick(_NAMES)} at {pick(_PLACES)}.",
    )
    return pick(shown) if rng.random() < 0.33 else pick(told)


_SPOKEN = {"torus": "ring"}


def speak(text: str) -> np.ndarray:
    """The sentence in the voice of hibari-tts: float32 (N,) at SAMPLE_RATE_HZ, peak 0.6, shorter than a clip.

    The same text gives the same samples. Raises ModuleNotFoundError naming the extra that brings the voice.
    """
    voice = _voice()
    longest = NUM_SAMPLES - SAMPLE_RATE_HZ // 4
    samples = np.asarray(voice(text, seed=0), np.float32)
    if len(samples) > longest:
        samples = np.asarray(voice(text, seed=0, speed=1.05 * len(samples) / longest), np.float32)[:longest]
    return samples * np.float32(0.6 / max(float(np.abs(samples).max()), 1e-3))


@lru_cache(maxsize=1)
def _voice() -> Any:
    """The loaded voice; once a process, it costs half a second."""
    try:
        from hibari import Hibari
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("the narrator needs hibari-tts: pip install 'omniloom[demo]'") from missing
    return Hibari(threads=1)
