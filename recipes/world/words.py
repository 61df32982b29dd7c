"""Captions of a scene in varied words: what is seen, what is heard, and both together.

Each call draws from the scene's own seed; a clip's three variants differ in order, detail and choice of words.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from omniloom.recipes.world.narrate import sentence
from omniloom.recipes.world.scene import (
    VOICE_OF,
    Ambience,
    Backdrop,
    CameraMove,
    Ground,
    Motion,
    Rhythm,
    Scene,
    Shape,
    Texture,
    Thing,
    Timbre,
)

Pick = Callable[[tuple[str, ...]], str]
VARIANTS = 3

_SHAPES: dict[Shape, tuple[str, ...]] = {
    "sphere": ("ball", "sphere"), "cube": ("cube", "box"), "cylinder": ("cylinder", "drum"), "cone": ("cone",),
    "torus": ("ring", "torus"), "pyramid": ("pyramid",), "capsule": ("capsule", "pill"), "diamond": ("diamond", "gem"),
}  # fmt: skip
_TEXTURES: dict[Texture, tuple[str, ...]] = {
    "plain": ("", "", "plain "), "striped": ("striped ",), "checkered": ("checkered ",),
    "dotted": ("dotted ", "spotted "),
}  # fmt: skip
_SIZES = {"small": ("small", "little"), "large": ("large", "big")}
_MOVES: dict[Motion, tuple[str, ...]] = {
    "still": ("stands still", "rests", "does not move"),
    "rising": ("rises", "floats upward", "climbs into the air"),
    "sinking": ("sinks", "comes down slowly", "descends to the ground"),
    "left": ("slides to the left", "glides left", "moves left"),
    "right": ("slides to the right", "glides right", "moves right"),
    "bouncing": ("bounces", "hops up and down", "keeps bouncing"),
    "circling": ("circles", "goes round in circles", "moves in a circle"),
    "spinning": ("spins", "turns round and round", "keeps spinning"),
    "approaching": ("comes closer", "approaches", "moves toward us"),
    "receding": ("moves away", "drifts off into the distance", "goes farther away"),
}
_GROUNDS: dict[Ground, tuple[str, ...]] = {
    "grass": ("on the grass", "on a green lawn"), "sand": ("on the sand", "on sandy ground"),
    "tiles": ("on a tiled floor", "on grey tiles"), "snow": ("in the snow", "on snowy ground"),
    "wood": ("on a wooden floor", "on brown planks"),
}  # fmt: skip
_BACKDROPS: dict[Backdrop, tuple[str, ...]] = {
    "blue sky": ("under a blue sky", "on a bright day"), "sunset": ("at sunset", "under an orange evening sky"),
    "night": ("at night", "under the stars"), "clouds": ("under a grey sky", "on a cloudy day"),
    "white wall": ("before a white wall", "in a room with a white wall"),
    "brick wall": ("before a brick wall", "against red bricks"),
}  # fmt: skip
_CAMERAS: dict[CameraMove, tuple[str, ...]] = {
    "still": ("the camera does not move", "the view is still"), "left": ("the camera drifts left",),
    "right": ("the camera drifts right",), "forward": ("the camera moves in", "the camera moves forward"),
    "backward": ("the camera pulls back", "the camera moves backward"), "rising": ("the camera rises",),
}  # fmt: skip
_VOICES: dict[Timbre, tuple[str, ...]] = {
    "bell": ("bell",), "buzz": ("buzzer",), "flute": ("flute",), "horn": ("horn",), "gong": ("gong",),
    "organ": ("organ",), "string": ("plucked string", "banjo"), "whistle": ("whistle",),
}  # fmt: skip
_PITCHES = {"small": ("high", "bright"), "large": ("low", "deep")}
_SOUNDS: dict[Motion, tuple[str, ...]] = {
    "still": ("holds one steady note", "plays a constant tone"),
    "rising": ("glides up in pitch", "climbs higher and higher"),
    "sinking": ("slides down in pitch", "falls lower and lower"),
    "left": ("wavers", "plays a wavering note"),
    "right": ("wavers", "plays a wavering note"),
    "bouncing": ("is struck again and again", "sounds in repeated hits"),
    "circling": ("swells and fades", "comes and goes in waves"),
    "spinning": ("ticks quickly", "rattles in fast pulses"),
    "approaching": ("grows louder", "gets louder and louder"),
    "receding": ("grows softer", "fades away"),
}
_RHYTHMS: dict[Rhythm, tuple[str, ...]] = {
    "steady": ("drones on", "sounds all the time"), "pulsing": ("beeps on and off", "pulses"),
    "striking": ("tolls once a second", "sounds slow strokes"),
}  # fmt: skip
_AMBIENCES: dict[Ambience, tuple[str, ...]] = {
    "quiet": ("in a quiet place", "with nothing in the background"), "wind": ("in the wind", "while wind blows"),
    "rain": ("in the rain", "while rain falls"), "hum": ("over an electric hum", "while a machine hums"),
    "crickets": ("among crickets", "while crickets chirp"),
}  # fmt: skip


def captions(scene: Scene) -> dict[str, list[str]]:
    """`visual`, `audio` and `omni` captions, three of each; a silent scene has no audio captions."""
    rng = np.random.default_rng(scene.seeds[1])

    def pick(values: tuple[str, ...]) -> str:
        return values[int(rng.integers(len(values)))]

    orders = [int(n) for n in rng.permutation(4)]
    return {
        "visual": [_finish(_seen(scene, pick, orders[n])) for n in range(VARIANTS)],
        "audio": [] if scene.silent else [_finish(_heard(scene, pick, orders[n])) for n in range(VARIANTS)],
        "omni": [_finish(_both(scene, pick, orders[n])) for n in range(VARIANTS)],
    }


def _seen(scene: Scene, pick: Pick, order: int) -> str:
    """One of four orders: objects then place, place then objects, near to far, or camera first."""
    place = f"{pick(_GROUNDS[scene.ground])} {pick(_BACKDROPS[scene.backdrop])}"
    acts = [f"{_name(thing, pick)} {pick(_MOVES[thing.motion])}" for thing in scene.things]
    match order:
        case 0:
            return f"{acts[0]} {place}, {pick(('while', 'and'))} {_join(acts[1:])}"
        case 1:
            return f"{place}, {_join(acts)}"
        case 2:
            near = sorted(scene.things, key=lambda thing: thing.z_m)
            names = {id(thing): f"the {thing.colour} {pick(_SHAPES[thing.shape])}" for thing in near}
            depth = [
                f"{names[id(b)]} is {pick(('behind', 'farther away than'))} {names[id(a)]}" for a, b in pairwise(near)
            ]
            return f"{_join(acts)}; {_join(depth)}, {place}"
        case _:
            nearest = min(scene.things, key=lambda thing: thing.z_m)
            closest = (
                f"{pick(('closest to us is', 'in front stands'))} the {nearest.colour} {pick(_SHAPES[nearest.shape])}"
            )
            return f"{pick(_CAMERAS[scene.camera])} {place}: {_join(acts)}, {closest}"


def _heard(scene: Scene, pick: Pick, order: int) -> str:
    """The voices, the unseen source, the place's sound and the narrator, in one of four orders."""
    parts = [
        f"a {pick(_PITCHES[t.size])} {pick(_VOICES[VOICE_OF[t.shape]])} {pick(_SOUNDS[t.motion])}"
        for t in scene.things
        if t.sounds
    ]
    if scene.unseen is not None:
        parts.append(_unseen(scene, pick, ""))
    said = sentence(scene)
    around = pick(_AMBIENCES[scene.ambience])
    if said is not None:
        says = _says(said, pick)
        if order == 1:
            return f"{says}, {pick(('while', 'and'))} {_join(parts)} {around}"
        parts.append(says)
    match order:
        case 0:
            return f"{_join(parts)}, {around}"
        case 1:
            return f"{around}, {_join(parts)}"
        case 2:
            return f"{pick(('we hear how', 'one can hear how'))} {_join(parts)}, {around}"
        case _:
            return f"{pick(('the sound of this clip', 'listen'))}: {_join(parts)} {around}"


def _both(scene: Scene, pick: Pick, order: int) -> str:
    """Picture and sound joined object by object, so that neither alone would be enough to write it."""
    acts: list[str] = []
    for thing in scene.things:
        act = f"{_name(thing, pick)} {pick(_MOVES[thing.motion])}"
        if thing.sounds:
            voice = f"a {pick(_PITCHES[thing.size])} {pick(_VOICES[VOICE_OF[thing.shape]])}"
            together = (
                f"with the sound of {voice}",
                f"and {voice} {pick(_SOUNDS[thing.motion])}",
                f"sounding like {voice}",
            )
            act += " " + pick(together)
        acts.append(act)
    place = f"{pick(_GROUNDS[scene.ground])} {pick(_BACKDROPS[scene.backdrop])}"
    extra: list[str] = []
    if scene.silent:
        extra.append(pick(("there is no sound at all", "the clip is silent")))
    else:
        if scene.unseen is not None:
            extra.append(_unseen(scene, pick, pick((" somewhere out of view", " unseen"))))
        said = sentence(scene)
        if said is not None:
            extra.append(_says(said, pick))
        place = f"{place} {pick(_AMBIENCES[scene.ambience])}"
    match order:
        case 0:
            return f"{_join(acts)} {place}" + (f"; {_join(extra)}" if extra else "")
        case 1:
            return f"{place}, {_join(acts + extra)}"
        case 2:
            return f"{_join(extra)}; {place}, {_join(acts)}" if extra else f"{place}: {_join(acts)}"
        case _:
            return f"{pick(_CAMERAS[scene.camera])} {place} as {_join(acts)}" + (
                f", and {_join(extra)}" if extra else ""
            )


def _name(thing: Thing, pick: Pick) -> str:
    texture, shape = pick(_TEXTURES[thing.texture]), pick(_SHAPES[thing.shape])
    return f"a {pick(_SIZES[thing.size])} {thing.colour} {texture}{shape}"


def _unseen(scene: Scene, pick: Pick, where: str) -> str:
    assert scene.unseen is not None
    pitch = "low" if scene.unseen.low else "high"
    return f"a {pitch} {pick(_VOICES[scene.unseen.timbre])}{where} {pick(_RHYTHMS[scene.unseen.rhythm])}"


def _says(said: str, pick: Pick) -> str:
    """The narrator's sentence as a quotation, without its full stop: it may stand in the middle of a caption."""
    verb = "asks" if said.endswith("?") else "says"
    return f'{pick(("a woman", "a voice", "someone"))} {verb} "{said.rstrip(".?")}"'


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _finish(text: str) -> str:
    return text[0].upper() + text[1:] + "."
