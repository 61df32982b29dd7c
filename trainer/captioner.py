"""MiCo's captioning head as a family of captioners: `caption.model=given+mico:RUN`.

A loaded model takes a clip's values by modality name ({"frames": Frames, "audio": Waveform, ...}) and gives a list with
its caption, greedy, of all that it was trained on and the clip has; [] for a clip that has none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from omniloom.modalities import load as modality
from omniloom.modalities import short_name
from omniloom.modalities.base import ModelRef

GPUS = 0.25

_REPAIRS = "give mico:RUN the folder of a training run with a checkpoint, or one written by save_pretrained"


def check(ref: ModelRef) -> None:
    """Raises ValueError, naming the repair, if torch or the model is not there."""
    try:
        from omniloom.trainer.checkpoint import newest_checkpoint
    except ImportError as error:
        raise ValueError(f"caption.model=mico:{ref.name} needs torch: pip install 'omniloom[train]'") from error
    folder = Path(ref.name).expanduser()
    if not (folder / "model.json").is_file() and newest_checkpoint(folder) is None:
        raise ValueError(f"there is no MiCo in {ref.name!r}: {_REPAIRS}")


def describe(ref: ModelRef) -> tuple[str, str]:
    """Its folder's name after "mico/", and a hash of the weights."""
    import xxhash

    folder = _folder(ref)
    digest = xxhash.xxh3_128()
    for name in ("model.json", "tokenizer.json", "model.safetensors"):
        digest.update((folder / name).read_bytes())
    return f"mico/{Path(ref.name).expanduser().resolve().name}", f"xxh3:{digest.hexdigest()}"


def licence(ref: ModelRef) -> str:  # noqa: ARG001 - a family's functions take the same
    """Whoever trained it says."""
    return ""


def load(ref: ModelRef) -> Callable[[Mapping[str, Any]], list[str]]:
    """The newest checkpoint of the run, on the GPU where there is one."""
    check(ref)
    import torch

    from omniloom.pipeline.batch import Batch
    from omniloom.trainer.mico import MiCo
    from omniloom.trainer.tasks import context_letters

    model = MiCo.from_pretrained(_folder(ref))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    window = model.config.window(train=False)
    paths = {short_name(path): path for path in model.config.modalities}

    def answer(values: Mapping[str, Any]) -> list[str]:
        seen = {name: modality(path) for name, path in paths.items() if name in values}
        if not seen:
            return []
        shown = {name: module.tensor(values[name], window) for name, module in seen.items()}
        batch = Batch(
            keys=[""],
            sources=[""],
            tensors={name: torch.from_numpy(a)[None] for name, a in shown.items() if isinstance(a, np.ndarray)},
            present={name: torch.ones(1, dtype=torch.bool) for name in shown},
            texts={name: [text] for name, text in shown.items() if isinstance(text, str)},
        )
        return model.caption(batch, context_letters([paths[name] for name in seen]))

    return answer


def _folder(ref: ModelRef) -> Path:
    from omniloom.trainer.checkpoint import newest_checkpoint

    folder = Path(ref.name).expanduser()
    return folder if (folder / "model.json").is_file() else newest_checkpoint(folder) or folder
