"""A batch: aligned tensors and texts of several samples, with masks that say what is present."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Batch:
    """B samples. Where a sample lacks a modality its row is zeros (or "") and its mask is False.

    Padding at the end of an epoch lacks every modality, and its key is "".
    """

    keys: list[str]
    sources: list[str]
    """Source id of each sample: clips of one source are no negatives of each other."""
    tensors: dict[str, torch.Tensor]
    """By modality name: float32 (B, ...), shaped as the modality's `Stem` says; on the GPU where DALI made them."""
    present: dict[str, torch.Tensor]
    """By modality name, texts too: bool (B,)."""
    texts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By modality name, for modalities whose stem is text."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def real(self) -> list[bool]:
        """Of each row, whether it is a sample and no padding."""
        return [bool(key) for key in self.keys]

    def hand_over(self) -> None:
        """To be called by whoever goes on with tensors that another thread made on a GPU, on a stream of its own.

        Their memory is then not used again before what is now asked of the present stream is done.
        """
        import torch

        for tensor in self.tensors.values():
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream(tensor.device))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device, copied without waiting where memory is pinned."""
        import torch

        is_gpu = torch.device(device).type == "cuda"  # nobody waits for what comes back from there
        return Batch(
            keys=self.keys,
            sources=self.sources,
            tensors={name: tensor.to(device, non_blocking=is_gpu) for name, tensor in self.tensors.items()},
            present={name: mask.to(device, non_blocking=is_gpu) for name, mask in self.present.items()},
            texts=self.texts,
        )
