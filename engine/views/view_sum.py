"""The sum of the probabilities of all views, which wait for one another.

All views of a frame in one call read and write the sum once, ten views one by one ten times. Until
then their logits are kept, at stride 4: about 6 MB for ten views of a 480 x 640 frame for every 7
classes.

Axes: B batch, T temperature, C class, H W base pixels, h w cells of stride 4.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from kernels.tta_accumulate import View

Accumulate = Callable[[Tensor, Sequence[Tensor], Sequence[float], Sequence[View]], None]
"""`kernels.tta_accumulate.tta_accumulate`, or its reference."""


class ViewSum:
    """Adds to `total_BTCHW` (B, T, C, H, W), which holds all views once `finish` has returned."""

    def __init__(
        self,
        total_BTCHW: Tensor,
        temperatures: Sequence[float],
        accumulate: Accumulate,
    ) -> None:
        self._total_BTCHW = total_BTCHW
        self._temperatures = temperatures
        self._accumulate = accumulate
        self._kept: list[Tensor] = []
        self._views: list[View] = []

    def add(self, parts: Iterable[Tensor], view: View) -> None:
        """Add the logits of a view, (b, C, h, w) of the next b frames each until there are B.

        A part may be overwritten as soon as the next is asked for.
        """
        first, kept_BChw = 0, None
        for logits_bChw in parts:
            own = slice(first, first + len(logits_bChw))
            first = own.stop
            if kept_BChw is None:
                shape = len(self._total_BTCHW), *logits_bChw.shape[1:]
                # In float32, and laid out as the sum is, as the kernels read them.
                gpu = logits_bChw.is_cuda
                layout = torch.contiguous_format if gpu else torch.channels_last
                kept_BChw = torch.empty(shape, device=logits_bChw.device, memory_format=layout)
                self._kept.append(kept_BChw)
                self._views.append(view)
            kept_BChw[own] = logits_bChw

    def finish(self) -> None:
        """Add what has been kept; the host does not wait for it."""
        if self._kept:
            self._accumulate(self._total_BTCHW, self._kept, self._temperatures, self._views)
        self._kept, self._views = [], []
