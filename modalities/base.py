"""What a modality is: a module that extracts, encodes, decodes and shows one view of a clip.

A new modality is one new file in this folder (or any importable module). Its name is the file's name; nothing
registers it. `tests/test_modality_contract.py` tests it by its mere existence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np

from omniloom.modalities.sample import Clip, Fact, Part

if TYPE_CHECKING:
    import av
    import av.audio
    import av.video

FactType = Literal["string", "int64", "double", "bool", "list<int64>", "list<double>", "list<string>"]
"""Arrow types a modality may declare for the sidecar columns of its own."""

Codec = Literal["jpeg", "png", "flac", "npy", "json", "mp4", "picture", "sound", "movie", "text"]
"""How one piece of a member becomes an array; `codecs.py` reads all of them, DALI most.

The last four read what other people store (`others.py`): no modality writes them.
"""


# --- extraction: what a modality sees of a clip ---------------------------------------------------------------


KSource = Literal["given", "metadata", "estimated", "assumed"]
"""Who says what the intrinsics are: files beside the video, its container, a network, nobody."""


@dataclass(frozen=True, slots=True)
class FrameCamera:
    """What is known of the camera behind sampled frames."""

    k: np.ndarray
    """float64 (3, 3): intrinsics of the frames' pixels."""
    k_source: KSource
    poses: np.ndarray | None = None
    """float64 (T, 4, 4), camera to world in metres, zeros where unknown; None where nobody knows any."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames sampled from a clip: rgb uint8 (T, H, W, 3); pts_ns int64 (T,), from the clip's start."""

    rgb: np.ndarray
    pts_ns: np.ndarray
    camera: FrameCamera | None = None
    """What took them, where somebody knows."""

    def __post_init__(self) -> None:
        if self.rgb.ndim != 4 or self.rgb.shape[3] != 3 or self.rgb.dtype != np.uint8:
            raise ValueError(f"frames are uint8 (T, H, W, 3), got {self.rgb.dtype} {self.rgb.shape}")
        if self.pts_ns.shape != (len(self.rgb),):
            raise ValueError(f"one pts a frame, got {self.pts_ns.shape = } for {len(self.rgb)} frames")
        poses = self.camera.poses if self.camera else None
        if poses is not None and poses.shape != (len(self.rgb), 4, 4):
            raise ValueError(f"one pose a frame, got {poses.shape} for {len(self.rgb)} frames")


@dataclass(frozen=True, slots=True)
class Waveform:
    """Mono sound: samples int16 (N,); the first one sounds at the clip's start."""

    samples: np.ndarray
    sample_rate_hz: int = 16_000


@dataclass(frozen=True, slots=True)
class SoundBlock:
    """Part of a source's sound: int16 (N,) mono at 16 kHz; the first one sounds at `start_ns` of the source."""

    start_ns: int
    samples: np.ndarray


@dataclass(frozen=True, slots=True)
class Cue:
    """A timed line of text, in seconds from the clip's start; it may begin before or end after the clip."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Footage:
    """All that one decode of the source learned about one clip, and what lies beside the file."""

    clip: Clip
    path: str
    frames: Frames | None
    audio: Waveform | None
    recorded: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """By modality name: what its `Recorder` made of every frame of the clip."""
    subtitles: tuple[Cue, ...] = ()
    """Cues of the subtitle streams inside the file that overlap the clip."""
    row: Mapping[str, str] = field(default_factory=dict[str, str])
    """The source's row of the source list (caption, split, ...), when there was a list."""
    heard: Any = None
    """What the modality's own `listen` made of the blocks that the clip lies in; None where it has no `listen`."""
    made: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """By modality name: values of the modalities in `needs`, already extracted from this clip."""
    also: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """By modality name: what networks asked for earlier modalities of this clip said of it in passing (`Made.also`)."""


@dataclass(frozen=True, slots=True)
class Made:
    """An extracted value and where it came from."""

    value: Any
    model: str = ""
    """What produced it: "given", "measured", a hub name, a file name; with its revision below."""
    revision: str = ""
    also: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """By modality name: what the same network said of another one, as that modality's file says it wants it."""


class Recorder(Protocol):
    """Sees every decoded frame of one clip, in presentation order, without holding them."""

    def picture(self, frame: av.VideoFrame, pts_ns: int) -> None:
        """One frame, at full rate, already scaled to `short_side`, yuv420p, upright; pts from the clip's start."""

    def finish(self, audio: Waveform | None) -> Any:
        """Called once after the last frame: the value that `Footage.recorded` holds for the modality."""


class PacketRecorder(Protocol):
    """A `Recorder` that wants a clip as it is coded in the file, and no picture decoded for its sake."""

    wants_packets: Literal[True]

    def coded(
        self,
        video: av.video.VideoStream,
        pictures: Sequence[av.Packet],
        audio: av.audio.AudioStream | None,
        sounds: Sequence[av.Packet],
        start_ns: int,
        end_ns: int,
    ) -> None:
        """The clip's packets, once, when it closes and while the file is open; raises nothing and changes none of them.

        pictures: in decoding order, from a keyframe shown at `start_ns` or before; of AVI, where only decoding tells
        when a packet is shown, all that were read so far; of others at least to the last packet shown before `end_ns`.
        sounds: those heard in [start_ns, end_ns), and where there is one the packet before, from which the first
        one's sound is made too. Times are the packets' own, in their streams' time bases.
        """

    def finish(self, audio: Waveform | None) -> Any:
        """As of `Recorder`. Raises `Rejected` for a clip that cannot be copied."""


AnyRecorder = Recorder | PacketRecorder


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A pretrained network to call: the file in `modalities/models/` that knows its family, and which one."""

    family: str
    name: str
    options: tuple[tuple[str, str | int | float | bool], ...] = ()


class Ask(Protocol):
    """Runs a model wherever it lives (this process, an actor on a GPU) and waits for its answer."""

    def __call__(self, ref: ModelRef, *inputs: Any) -> Any: ...


# --- training: what a model sees of a sample ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stem:
    """How a network turns the modality's array into tokens.

    image   float32 (n, channels, px, px), one image a sampled time
    mel     float32 (num_samples,) in [-1, 1] at 16 kHz; the network computes the filterbank
    points  float32 (num_points, channels), x y z first, metres or the clip's own unit
    text    str
    none    not for training
    """

    kind: Literal["image", "mel", "points", "text", "none"]
    channels: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """The view of one sample that a batch wants. Equal windows give equal arrays, whatever decodes them."""

    num_frames: int = 4
    image_px: int = 128
    num_samples: int = 64_000
    num_points: int = 1024
    train: bool = False
    seed: int = 0
    """Of this sample at this epoch; no other randomness enters."""

    def rng(self, salt: int = 0) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed & (2**64 - 1), salt]))

    def positions(self) -> np.ndarray:
        """Times of the sampled frames, float64 (num_frames,), as fractions of the clip.

        One in each of n equal segments: random in training, the middle in evaluation (MiCo, section 3).
        """
        offsets = self.rng(1).random(self.num_frames) if self.train else np.full(self.num_frames, 0.5)
        return (np.arange(self.num_frames) + offsets) / self.num_frames

    def choose(self, count: int) -> np.ndarray:
        """Indices int64 (num_frames,) of the frames to show out of `count`; the same for every visual modality."""
        if count < 1:
            raise ValueError(f"a window needs at least one frame to choose from, got {count = }")
        return np.minimum((self.positions() * count).astype(np.int64), count - 1)

    def shown(self, frames: np.ndarray) -> np.ndarray:
        """The frames (num_frames, ...) to show out of these: all of them, not copied, where only those were read."""
        return frames if len(frames) == self.num_frames else frames[self.choose(len(frames))]


class Modality(Protocol):
    """The contract that every module in `modalities/` meets; V is the modality's own value type.

    Value types are the modality's own: `read(modality, encode(value))` equals value within the tolerance that the
    module's first docstring states, and `example(rng)` makes one.

    A module may also define `recorder(config) -> AnyRecorder | None`, if it wants every frame and not
    just the sampled ones, and `tolerance: float`, if it is lossy: the largest difference that a round trip makes to any
    number of its value's arrays, as a fraction of that array's range (0, exact, if there is none), and
    `listen(block, config, ask) -> Any`, if what it hears in a clip depends on what comes before and after: it is given
    each `SoundBlock` of the source, up to ten minutes long, once. Most take three of the functions below as they
    stand here:

        from omniloom.modalities.base import all_facts as narrow, no_models as models, whole_member as pieces
    """

    suffix: str
    """Member suffix, e.g. "depth.png": modality + format."""
    codec: Codec
    letter: str
    """In task strings ("ret%tva"); "" for a modality that is not trained on."""
    needs: tuple[str, ...]
    """Modalities whose values `extract` reads from `Footage.made`."""
    facts: Mapping[str, FactType]
    """Sidecar columns of its own, beside offset, size, hash, model, revision and params."""
    stem: Stem
    Config: type[Any]
    """Frozen dataclass with defaults: the recipe section of the modality's name."""

    def models(self, config: Any) -> Sequence[ModelRef]:
        """The networks `extract` will ask, so that a missing one is found before any work starts."""
        ...

    def extract(self, footage: Footage, config: Any, ask: Ask) -> Made | None:
        """The modality's value for one clip, or None if the clip has none. Raises `Rejected` for bad media."""
        ...

    def encode(self, value: Any) -> Part: ...

    def narrow(self, facts: Mapping[str, Fact], window: Window) -> Mapping[str, Fact]:
        """Facts of only the pieces the window shows, so that only their bytes are read; or `facts` itself."""
        ...

    def pieces(self, facts: Mapping[str, Fact], size: int) -> Sequence[tuple[int, int]]:
        """(offset, size) inside the member of each independently decodable piece; normally the whole of it."""
        ...

    def assemble(self, pieces: Sequence[Any], facts: Mapping[str, Fact]) -> Any:
        """The value, from the pieces as the codec read them: see `read`."""
        ...

    def tensor(self, value: Any, window: Window) -> np.ndarray | str:
        """The fixed-shape array (or text) that `stem` describes."""
        ...

    def example(self, rng: np.random.Generator) -> Any:
        """A plausible value, small: for the contract test and for trying things out."""
        ...


def no_models(config: Any) -> Sequence[ModelRef]:
    """`Modality.models` of a modality that asks no network."""
    return ()


def all_facts(facts: Mapping[str, Fact], window: Window) -> Mapping[str, Fact]:
    """`Modality.narrow` of a member that can only be read whole."""
    return facts


def whole_member(facts: Mapping[str, Fact], size: int) -> Sequence[tuple[int, int]]:
    """`Modality.pieces` of a member that decodes as one piece."""
    return ((0, size),)


def narrow_stack(facts: Mapping[str, Fact], window: Window) -> Mapping[str, Fact]:
    """`Modality.narrow` of frames stacked in one picture: it is decoded whole, but only the shown ones are unpacked."""
    pts_ns = cast("list[int]", facts["pts_ns"])
    shown = [int(index) for index in window.choose(len(pts_ns))]
    return {**facts, "pts_ns": [pts_ns[index] for index in shown], "num_frames": len(shown), "shown": shown}


def unstack(picture: np.ndarray, facts: Mapping[str, Fact]) -> np.ndarray:
    """Frames (num_frames, height, width, ...) of a picture that has them one below the other, or those narrowed to.

    Raises ValueError if the picture is not as the facts state.
    """
    height, width, count = (cast(int, facts[name]) for name in ("height", "width", "num_frames"))
    if picture.ndim < 2 or not len(picture) or len(picture) % height or picture.shape[1] != width:
        raise ValueError(f"damaged frames: a picture {picture.shape}, its facts state {width} x {height} a frame")
    frames = picture.reshape(-1, height, width, *picture.shape[2:])
    shown = cast("list[int] | None", facts.get("shown"))
    if len(frames) != count if shown is None else max(shown) >= len(frames):
        raise ValueError(f"damaged frames: {len(frames)} in the picture, its facts state {shown or count}")
    return frames if shown is None else frames[shown]


def recorder_of(modality: Modality, config: Any) -> AnyRecorder | None:
    """The modality's recorder for one clip, if it wants to see every frame."""
    make = getattr(modality, "recorder", None)
    return make(config) if make else None


def codec_of(modality: Modality, facts: Mapping[str, Fact]) -> Codec:
    """How the pieces of a part become arrays: as its modality writes them, unless its facts say `stored_as`."""
    return cast(Codec, facts.get("stored_as") or modality.codec)


def read(modality: Modality, part: Part) -> Any:
    """The value of an encoded part: pieces -> codec -> assemble, on the CPU. Raises ValueError for damaged bytes."""
    from omniloom.modalities import codecs

    spans = modality.pieces(part.facts, len(part.data))
    codec = codec_of(modality, part.facts)
    decoded = [codecs.decode(codec, part.data[offset : offset + size]) for offset, size in spans]
    return modality.assemble(decoded, part.facts)
