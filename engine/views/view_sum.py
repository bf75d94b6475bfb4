"""The sum of the probabilities of all views: on a GPU they wait for one another.

All views of a frame in one launch read and write the sum once, ten views one by one ten times.
Until then their logits are kept, at stride 4: about 6 MB for ten views of a 480 x 640 frame for
every 7 classes. On a CPU each is added while the caches still hold it.

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
        *,
        together: bool | None = None,
    ) -> None:
        """`together`: whether views wait for one another; by default on a GPU."""
        self._total_BTCHW = total_BTCHW
        self._temperatures = temperatures
        self._accumulate = accumulate
        self._together = total_BTCHW.is_cuda if together is None else together
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
            if not self._together:
                sum_bTCHW = self._total_BTCHW[own]
                self._accumulate(sum_bTCHW, [logits_bChw], self._temperatures, [view])
                continue
            if kept_BChw is None:
                shape = len(self._total_BTCHW), *logits_bChw.shape[1:]
                # In float32 and class after class, as the launch reads them fastest.
                kept_BChw = torch.empty(shape, device=logits_bChw.device)
                self._kept.append(kept_BChw)
                self._views.append(view)
            kept_BChw[own] = logits_bChw

    def finish(self) -> None:
        """Add what has been kept; the host does not wait for it."""
        if self._kept:
            self._accumulate(self._total_BTCHW, self._kept, self._temperatures, self._views)
        self._kept, self._views = [], []
