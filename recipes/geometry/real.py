"""Real pictures with a teacher's inverse depth: the part of the training set that no renderer makes.

The teacher is any ONNX network that takes RGB 0..255 (1, 3, h, w) and answers relative inverse depth, as TCMonoDepth
does (MIT). Shards are `real-<number>.npz`: rgb uint8 (64, 192, 320, 3), inverse float16 (64, 192, 320), no pickle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 192, 320
_PER_SHARD = 64
_STILLS = {".jpg", ".jpeg", ".png"}


def write_real(
    sources: Sequence[Path], teacher: Path, out: Path, *, seed: int = 0, frames: int = 40, crops: int = 3
) -> int:
    """Crops of each still and of up to `frames` frames of each video, mirrored at random, with the teacher's answer.

    A still counts as `4 * crops` crops, since no other frame shows its scene. Returns the number of crops written.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(teacher), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    rgb: list[np.ndarray] = []
    inverse: list[np.ndarray] = []
    for source in sources:
        still = source.suffix.lower() in _STILLS
        for picture in [_still(source)] if still else _frames(source, frames):
            for _ in range(4 * crops if still else crops):
                crop = _crop(picture, rng)
                answer = session.run(None, {name: crop.astype(np.float32).transpose(2, 0, 1)[None]})[0]
                rgb.append(crop)
                inverse.append(np.asarray(answer, np.float32).reshape(HEIGHT, WIDTH))
    order = rng.permutation(len(rgb))
    for number, start in enumerate(range(0, len(order), _PER_SHARD)):
        chosen = order[start : start + _PER_SHARD]
        np.savez(
            out / f"real-{number:04d}.npz",
            rgb=np.stack([rgb[i] for i in chosen]),
            inverse=np.stack([_unit(inverse[i]) for i in chosen]).astype(np.float16),
        )
    return len(order)


def _unit(inverse: np.ndarray) -> np.ndarray:
    """Median 0 and mean deviation 1: float16 keeps it, and its factor and offset mean nothing anyway."""
    centred = inverse - np.median(inverse)
    return centred / max(float(np.abs(centred).mean()), 1e-6)


def _still(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def _frames(path: Path, count: int) -> Iterator[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        every = max(1, (stream.frames or 10 * count) // count)
        for number, frame in enumerate(container.decode(stream)):
            if number % every == 0:
                yield frame.to_ndarray(format="rgb24")


def _crop(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A 5:3 window of at least half the largest one, at the teacher's size; mirrored half of the time."""
    from PIL import Image

    rows, columns = picture.shape[:2]
    largest = min(columns, rows * WIDTH / HEIGHT)
    width = largest * rng.uniform(0.5, 1.0) ** 0.7
    height = width * HEIGHT / WIDTH
    left, top = rng.uniform(0, columns - width), rng.uniform(0, rows - height)
    box = (left, top, left + width, top + height)
    image = Image.fromarray(picture).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box)
    crop = np.asarray(image)
    return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)
