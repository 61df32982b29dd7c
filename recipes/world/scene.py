"""What is in a scene: a few objects, a place, a camera move and the sounds, drawn from a seed.

`compose(seed, split, index)` depends on nothing else, so clip 000017 is the same clip in a world of 20 and of 20,000.

What is held out: for each shape two of the nine colours (`HELD_OUT_COLOURS`) and two of the ten motions
(`HELD_OUT_MOTIONS`) never meet that shape in the train split. The lead object of every test scene shows at least one
of these unseen pairs. Every single value (shape, colour, texture, size, motion, place, sound) occurs in both splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

Split = Literal["train", "test"]
Shape = Literal["sphere", "cube", "cylinder", "cone", "torus", "pyramid", "capsule", "diamond"]
Colour = Literal["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white"]
Texture = Literal["plain", "striped", "checkered", "dotted"]
Size = Literal["small", "large"]
Motion = Literal[
    "still", "rising", "sinking", "left", "right", "bouncing", "circling", "spinning", "approaching", "receding"
]
Ground = Literal["grass", "sand", "tiles", "snow", "wood"]
Backdrop = Literal["blue sky", "sunset", "night", "clouds", "white wall", "brick wall"]
CameraMove = Literal["still", "left", "right", "forward", "backward", "rising"]
Ambience = Literal["quiet", "wind", "rain", "hum", "crickets"]
Timbre = Literal["bell", "buzz", "flute", "horn", "gong", "organ", "string", "whistle"]
Rhythm = Literal["steady", "pulsing", "striking"]

T = TypeVar("T")

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
TEXTURES: tuple[Texture, ...] = get_args(Texture)
MOTIONS: tuple[Motion, ...] = get_args(Motion)
GROUNDS: tuple[Ground, ...] = get_args(Ground)
BACKDROPS: tuple[Backdrop, ...] = get_args(Backdrop)
CAMERA_MOVES: tuple[CameraMove, ...] = get_args(CameraMove)
AMBIENCES: tuple[Ambience, ...] = get_args(Ambience)
TIMBRES: tuple[Timbre, ...] = get_args(Timbre)
RHYTHMS: tuple[Rhythm, ...] = get_args(Rhythm)

VOICE_OF: dict[Shape, Timbre] = dict(zip(SHAPES, TIMBRES, strict=True))
"""Each shape has its own voice: who sees the shape can learn its sound, and the other way round."""

HELD_OUT_COLOURS: frozenset[tuple[Shape, Colour]] = frozenset(
    (shape, COLOURS[(s + step) % len(COLOURS)]) for s, shape in enumerate(SHAPES) for step in (0, 4)
)
HELD_OUT_MOTIONS: frozenset[tuple[Shape, Motion]] = frozenset(
    (shape, MOTIONS[(3 * s + step) % len(MOTIONS)]) for s, shape in enumerate(SHAPES) for step in (0, 5)
)

DURATION_S = 4.0
ROWS_M = (4.9, 6.6, 8.5, 10.4)
"""Distances at which objects stand; a large one in the third row looks as big as a small one in the first."""
RADII_M: dict[Size, float] = {"small": 0.73, "large": 1.18}
SILENT_SHARE, HIDDEN_SHARE, NARRATED_SHARE, DUET_SHARE = 0.12, 0.22, 0.3, 0.3


@dataclass(frozen=True, slots=True)
class Thing:
    """One object. Metres in the world's axes: x right, y down with the ground at 0, z away from the first camera."""

    shape: Shape
    colour: Colour
    texture: Texture
    size: Size
    motion: Motion
    radius_m: float
    x_m: float
    z_m: float
    yaw_rad: float
    period_s: float
    """Of a bounce, a circle or a turn; other motions ignore it."""
    phase_s: float
    """Time of the first bounce, or of the nearest point of the circle."""
    sounds: bool
    pitch_hz: float

    @property
    def held_out(self) -> tuple[str, ...]:
        """The pairs of this object that no train scene shows, as "colour+shape" and "motion+shape"."""
        pairs: list[str] = []
        if (self.shape, self.colour) in HELD_OUT_COLOURS:
            pairs.append(f"{self.colour}+{self.shape}")
        if (self.shape, self.motion) in HELD_OUT_MOTIONS:
            pairs.append(f"{self.motion}+{self.shape}")
        return tuple(pairs)


@dataclass(frozen=True, slots=True)
class Unseen:
    """A sound whose source is never in the picture."""

    timbre: Timbre
    rhythm: Rhythm
    pitch_hz: float
    low: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything a clip shows and plays; `things[0]` leads."""

    split: Split
    index: int
    things: tuple[Thing, ...]
    ground: Ground
    backdrop: Backdrop
    camera: CameraMove
    silent: bool
    """A silent clip has no audio stream at all, so `ambience`, `unseen` and `narrated` are not heard."""
    ambience: Ambience
    unseen: Unseen | None
    narrated: bool
    seeds: tuple[int, int, int]
    """For noise, for words and for the narrator."""


def compose(seed: int, split: Split, index: int) -> Scene:
    """The scene of clip `index` of `split`: a pure function of its three arguments.

    Raises ValueError for a negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed = }, {index = }")
    rng = np.random.default_rng([seed, 0 if split == "train" else 1, index])
    count = int(rng.choice([2, 3, 4], p=[0.45, 0.45, 0.1]))
    lanes = rng.permutation({2: [-0.22, 0.22], 3: [-0.34, 0.0, 0.34], 4: [-0.38, -0.13, 0.13, 0.38]}[count])
    rows = rng.permutation(count)
    silent = bool(rng.random() < SILENT_SHARE)
    duet = bool(rng.random() < DUET_SHARE)
    things: list[Thing] = []
    for place in range(count):
        lead = place == 0
        shape, colour, motion = _cast(rng, split, lead, things)
        texture: Texture = _pick(rng, TEXTURES)
        if shape == "sphere" and motion == "spinning" and texture == "plain":
            texture = "striped"  # a plain ball shows no spin
        # Only a large object may stand in the last rows: a far small one is a smudge at 48 pixels.
        size: Size = "large" if rows[place] >= 2 or rng.random() < 0.5 else "small"
        radius_m = RADII_M[size] * float(rng.uniform(0.94, 1.06))
        z_m = ROWS_M[rows[place]]
        pitch_hz = (146.8 if size == "large" else 392.0) * 2.0 ** float(rng.uniform(-0.12, 0.12))
        period_s = float(rng.choice([0.6, 0.8, 1.0])) if motion == "bouncing" else float(rng.choice([1.6, 2.0, 2.4]))
        things.append(
            Thing(
                shape, colour, texture, size, motion, radius_m,
                x_m=float(lanes[place]) * z_m,
                z_m=z_m,
                yaw_rad=float(rng.uniform(0.3, 0.9)),
                period_s=period_s,
                phase_s=float(rng.uniform(0.1, 0.9)) * period_s,
                sounds=not silent and (lead or (duet and place == 1)),
                pitch_hz=pitch_hz,
            )
        )  # fmt: skip
    heard = {VOICE_OF[thing.shape] for thing in things if thing.sounds}
    low = bool(rng.random() < 0.5)
    unseen = Unseen(
        timbre=_pick(rng, tuple(timbre for timbre in TIMBRES if timbre not in heard)),
        rhythm=_pick(rng, RHYTHMS),
        pitch_hz=(123.5 if low else 523.3) * 2.0 ** float(rng.uniform(-0.12, 0.12)),
        low=low,
    )
    hidden, narrated = rng.random() < HIDDEN_SHARE, bool(rng.random() < NARRATED_SHARE)
    noise, words, voice = (int(n) for n in rng.integers(0, 2**31, 3))
    return Scene(
        split, index, tuple(things),
        ground=_pick(rng, GROUNDS),
        backdrop=_pick(rng, BACKDROPS),
        camera=_pick(rng, CAMERA_MOVES),
        silent=silent,
        ambience=_pick(rng, AMBIENCES),
        unseen=unseen if hidden and not silent else None,
        narrated=narrated and not silent,
        seeds=(noise, words, voice),
    )  # fmt: skip


def _cast(rng: np.random.Generator, split: Split, lead: bool, others: list[Thing]) -> tuple[Shape, Colour, Motion]:
    """Shape, colour and motion of the next object; shapes and colours do not repeat within a scene."""
    used_shapes, used_colours = {o.shape for o in others}, {o.colour for o in others}
    rule = ("colour" if rng.random() < 0.5 else "motion") if split == "test" and lead else None
    while True:
        shape: Shape = _pick(rng, SHAPES)
        colour: Colour = _pick(rng, COLOURS)
        motion: Motion = _pick(rng, MOTIONS)
        new_colour, new_motion = (shape, colour) in HELD_OUT_COLOURS, (shape, motion) in HELD_OUT_MOTIONS
        if shape in used_shapes or colour in used_colours:
            continue
        if split == "train" and (new_colour or new_motion):
            continue
        if (rule == "colour" and not new_colour) or (rule == "motion" and not new_motion):
            continue
        return shape, colour, motion


def _pick(rng: np.random.Generator, values: tuple[T, ...]) -> T:
    return values[int(rng.integers(len(values)))]
