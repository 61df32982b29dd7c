"""The GPU half of the loader benchmark: JPEGs by DALI's mixed decoder beside H.264 by torchcodec on CUDA.

Written where there was no GPU: it has not run yet, and its rows say "left out" until it has.
Each clip gives the same eight frames, decoded on the device; cutting and scaling are done there too, or by neither.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniloom.benchmarks.loader_meter import used
from omniloom.benchmarks.loader_peers import Spec, samples_of
from omniloom.benchmarks.loader_spawn import Failed, answer_of
from omniloom.benchmarks.loader_work import FACTS, WINDOW

if TYPE_CHECKING:
    from omniloom.benchmarks.loader_corpus import Data

_ROWS = {
    "DALI mixed, our layout": ("omniloom", "dali"),
    "torchcodec CUDA, H.264": ("webdataset + torchcodec", "torchcodec"),
}
"""Row -> whose interpreter it takes, and the loop."""
_BATCH = 32


def measure(data: Data, interpreters: Mapping[str, str], seconds: float, workers: int) -> dict[str, Any]:
    """Samples a second and CPU time of both; a row that cannot run says why."""
    found: dict[str, Any] = {}
    device = ""
    for name, (row, loop) in _ROWS.items():
        if row not in interpreters:
            found[name] = {"left_out": f"no interpreter can run {row}"}
            continue
        layout = "ours" if loop == "dali" else "h264"
        tars = data.corpus.parent / f"tars-{layout}"
        if not tars.is_dir():
            found[name] = {"left_out": f"no peer of the layout {layout} runs here, so its tars were not written"}
            continue
        spec = Spec(loop, "frames", layout, "torchcodec", str(tars), workers, _BATCH)
        answer = answer_of(interpreters[row], {"do": "gpu", "spec": asdict(spec), "seconds": seconds})
        if isinstance(answer, Failed):
            found[name] = {"left_out": answer.why}
            continue
        device = answer["device"]
        found[name] = {
            "samples_per_s": answer["samples"] / answer["seconds"],
            "cpu_ms_per_sample": 1000 * answer["cpu_s"] / answer["samples"],
        }
    return {"device": device, "rows": found} if device else {"left_out": json.dumps(found)}


def loop_on_gpu(spec: Spec, seconds: float) -> dict[str, Any]:
    """Decodes batches of eight frames a clip on the device for `seconds`; clips are in memory already."""
    import torch

    if not torch.cuda.is_available():
        raise ValueError("this needs an NVIDIA GPU: torch.cuda.is_available() is False")
    clips = list(samples_of(Path(spec.data)))
    decode = (_dali if spec.loader == "dali" else _torchcodec)(spec.workers)
    rng = random.Random(0)
    drawn = [rng.choices(clips, k=_BATCH) for _ in range(64)]
    for batch in drawn[:3]:
        decode(batch)
    torch.cuda.synchronize()
    before, began, samples = used(os.getpid()), time.perf_counter(), 0
    while (elapsed_s := time.perf_counter() - began) < seconds:
        samples += decode(drawn[samples // _BATCH % len(drawn)])
        torch.cuda.synchronize()
    after = used(os.getpid())
    return {
        "samples": samples,
        "seconds": elapsed_s,
        "cpu_s": after.cpu_s - before.cpu_s,
        "device": torch.cuda.get_device_name(),
    }


def _dali(workers: int) -> Callable[[Sequence[Mapping[str, Any]]], int]:
    """The JPEGs that are shown, of a whole batch at once, to float32 squares on the device: as the loader does it."""
    from omniloom.modalities import load
    from omniloom.pipeline.dali import DaliDecoder
    from omniloom.pipeline.device import Feed, feed_of

    decoder = DaliDecoder(device_id=0, num_threads=workers)
    module, numbers = load("frames"), random.Random(1)

    def decode(batch: Sequence[Mapping[str, Any]]) -> int:
        feeds: dict[tuple[int, str], Feed] = {}
        for number, clip in enumerate(batch):
            window = replace(WINDOW, train=True, seed=numbers.getrandbits(63))
            shown = module.narrow(json.loads(clip[FACTS])["frames"], window)
            spans = module.pieces(shown, len(clip["frames"]))
            pieces = [clip["frames"][offset : offset + size] for offset, size in spans]
            feed = feed_of(module, pieces, shown, window, None, gpu=True)
            assert feed is not None, "frames have a graph"
            feeds[number, "frames"] = feed
        squares, failed = decoder.show(feeds, len(batch))
        assert not failed
        assert len(squares) == len(batch)
        return len(batch)

    return decode


def _torchcodec(_: int) -> Callable[[Sequence[Mapping[str, Any]]], int]:
    """NVDEC, clip by clip, to float32 squares on the device."""
    import torch

    decoders = import_module("torchcodec.decoders")
    numbers = random.Random(1)
    side = WINDOW.image_px

    def decode(batch: Sequence[Mapping[str, Any]]) -> int:
        for clip in batch:
            window = replace(WINDOW, seed=numbers.getrandbits(63))
            chosen = [int(at) for at in window.choose(len(json.loads(clip[FACTS])["video"]["pts_ns"]))]
            frames = decoders.VideoDecoder(clip["video"], device="cuda").get_frames_at(indices=chosen).data
            short = min(frames.shape[2:])
            top, left = (frames.shape[2] - short) // 2, (frames.shape[3] - short) // 2
            square = frames[:, :, top : top + short, left : left + short].float() / 127.5 - 1
            shown = torch.nn.functional.interpolate(square, (side, side), mode="bilinear", antialias=True)
            assert shown.shape == (WINDOW.num_frames, 3, side, side)
        return len(batch)

    return decode
