"""The ways in which users of these libraries differ."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch


class Recipe(NamedTuple):
    """A variant of the plain recipe; the default is the published one.

    Attributes:
        device: where the network runs.
        amp: float16 autocast with a gradient scaler; CUDA only.
        channels_last: keep weights and images in that memory format.
        shared_passes: softmax one forward pass at every temperature; the published scripts
            repeat all passes for each.
        compiled: run the network through torch.compile.
        onnx: predict by ONNX Runtime; CPU only.
        lightning: train by Lightning's Trainer.
        workers: processes of a DataLoader.
        watch: is given an epoch's batches, the network that averages are validated in, and what
            steps; hands the batches on.
    """

    device: str = "cpu"
    amp: bool = False
    channels_last: bool = False
    shared_passes: bool = False
    compiled: bool = False
    onnx: bool = False
    lightning: bool = False
    workers: int = 2
    watch: Callable[[Iterable[Any], Any, Any], Iterable[Any]] | None = None

    @property
    def memory_format(self) -> torch.memory_format:
        """Of weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(torch.device(self.device).type, torch.float16, enabled=self.amp)
