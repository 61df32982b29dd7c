"""How often the embedded tagger is right, how often it says anything, and what it costs.

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
    python -m omniloom.benchmarks.tags stamps/usr/share/tuxpaint/stamps        # about a minute

Debian's stamps are single things on white, each with a caption: easier than a film in that one thing fills the picture,
harder in that most have no class of their own. Cartoons, letters and symbols are left out. Temperature and threshold
were chosen on half of them (by a hash of the name), the other half is reported. Chance: what is said of one photograph,
held against the caption of another.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import numpy as np

from omniloom.benchmarks import RESULTS
from omniloom.benchmarks.tags_truth import right_words
from omniloom.modalities.models import caption_tags

_LEFT_OUT = ("cartoon", "symbols", "alphabet", "_mirror")
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)


def main(folder: Path) -> None:
    """Prints the table and writes it to `benchmarks/results/tags.md`."""
    vocabulary = caption_tags._vocabulary()  # pyright: ignore[reportPrivateUsage]
    paths = [path for path in sorted(folder.rglob("*.png")) if not any(part in str(path) for part in _LEFT_OUT)]
    if not paths:
        raise SystemExit(f"no stamps in {folder}: see the first lines of this file")
    names = [path.relative_to(folder).as_posix() for path in paths]
    truth = [right_words(name, _caption(path), vocabulary) for name, path in zip(names, paths, strict=True)]
    tuned = np.array([int(hashlib.sha1(name.encode()).hexdigest(), 16) % 2 == 0 for name in names])
    answer = caption_tags.load(caption_tags.reference())
    likely: list[np.ndarray] = []
    cost_s = np.inf
    for first in range(0, len(paths), 8):
        batch = np.stack([_picture(path) for path in paths[first : first + 8]])
        began = time.process_time()
        likely += answer(batch)
        cost_s = min(cost_s, (time.process_time() - began) / len(batch))

    lines = [
        f"{len(paths)} photographs, half to choose on, half held out. CPU {cost_s * 1e3:.0f} ms a frame on one core.",
        "",
        "| half | threshold | words said | right | by chance | photographs with a word |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for half, chosen in (("chosen on", tuned), ("held out", ~tuned)):
        rows = np.flatnonzero(chosen)
        for threshold in _THRESHOLDS:
            said = {int(row): caption_tags.words([likely[row]], threshold) for row in rows}
            count = sum(map(len, said.values()))
            right = sum(word in truth[row] for row, words in said.items() for word in words)
            rng = np.random.default_rng(0)  # names in order stand beside their like: any other photograph
            others = [rng.permutation(rows) for _ in range(20)]
            lucky = sum(
                word in truth[other]
                for shifted in others
                for (_, words), other in zip(said.items(), shifted, strict=True)
                for word in words
            )
            spoken = sum(map(bool, said.values())) / len(rows)
            lines.append(
                f"| {half} | {threshold} | {count} | {right / max(count, 1):.3f} | "
                f"{lucky / max(20 * count, 1):.3f} | {spoken:.2f} |"
            )
    words = sorted(vocabulary)
    single = [word for word in words if len(vocabulary[word]) == 1]
    ours = [row for row in np.flatnonzero(~tuned) if any(word in truth[row] for word in single)]
    index = {next(iter(vocabulary[word])): word for word in single}
    best = [index.get(int(np.argmax(likely[row])), "") in truth[row] for row in ours]
    lines += ["", f"Top-1 of the {len(ours)} held-out photographs whose caption names a class: {np.mean(best):.3f}."]
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / "tags.md").write_text("# The embedded tagger (`python -m omniloom.benchmarks.tags`)\n\n" + text)


def _caption(path: Path) -> str:
    text = path.with_suffix(".txt")
    return text.read_text(encoding="utf-8").splitlines()[0] if text.is_file() else ""


def _picture(path: Path) -> np.ndarray:
    """uint8 (224, 224, 3): the stamp on a white square."""
    from PIL import Image

    stamp = Image.open(path).convert("RGBA")
    side = max(stamp.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    square.alpha_composite(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2))
    return np.asarray(square.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
