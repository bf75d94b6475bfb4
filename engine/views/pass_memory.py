"""How many images may pass a network together: what a pass takes, and what memory is free."""

import copy
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.runtime.memory import free_bytes

_PROBE_HW = (128, 128)
"""Of the pass whose memory is counted; what it takes grows with the pixels."""

_SPARE = 2.0
"""Of the counted bytes: libraries reorder what they read, and frames and totals need room too."""

_USABLE = 0.5
"""Of the free memory; the rest is for whoever else runs here."""


@dataclass(frozen=True)
class Room:
    """Memory for passes of one network.

    Attributes:
        free: bytes that passes may take.
        pixel_bytes: bytes that a pass takes for each pixel of its input.
    """

    free: float
    pixel_bytes: float

    @classmethod
    def of(cls, network: nn.Module, in_channels: int, device: torch.device) -> "Room":
        """The room on `device` now, with the network there already."""
        pixels = _PROBE_HW[0] * _PROBE_HW[1]
        return cls(_USABLE * free_bytes(device), _SPARE * pass_bytes(network, in_channels) / pixels)

    def images(self, hw: tuple[int, int]) -> int:
        """How many images of this size may pass together; at least one."""
        return max(1, int(self.free / (self.pixel_bytes * hw[0] * hw[1])))


UNLIMITED = Room(float(1 << 60), 1.0)
"""For a network whose passes are known to fit."""


@torch.inference_mode()
def pass_bytes(network: nn.Module, in_channels: int) -> int:
    """Most bytes that tensors of one float32 pass of one 128 x 128 image hold at a time.

    Counted on the meta device: nothing is computed. Weights are not counted, the input is.
    """
    with torch.device("meta"):
        image_BCHW = torch.empty(1, in_channels, *_PROBE_HW)
    twin = copy.deepcopy(network).to("meta").eval()
    living = _Living(image_BCHW.nbytes)
    with living:
        twin(image_BCHW)
    return living.peak


class _Living(TorchDispatchMode):
    """Counts the bytes of the storages that operations make and that are still referred to."""

    def __init__(self, held: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._held = held
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._held += size
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self._held -= size
