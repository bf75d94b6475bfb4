"""Between which rows those of a view and of the base lie, for both forms of the kernel."""

import numpy as np

from kernels.cpu import Taps, taps
from kernels.tta_accumulate.reference import View


def row_taps(view: View, h: int, H: int) -> tuple[Taps, Taps]:
    """From the logits' h rows to all of the view's, and from those to the sum's H."""
    height, aligned = view.hw[0], view.align_corners
    if view.band is None:
        view_V = taps(height, h, np.float32, align_corners=aligned)
        return view_V, taps(H, height, np.float32)
    first, rows, first_cell, cells = view.band
    first_V, second_V, part_V = taps(height, cells, np.float32, align_corners=aligned)
    # Rows of the view that no row of the sum is made of may have cells that are not there.
    held_V, next_V = (
        np.clip(of_V.astype(np.int64) - first_cell, 0, h - 1).astype(np.uint32)
        for of_V in (first_V, second_V)
    )
    base_H = taps(rows, height, np.float32)
    own = slice(first, first + H)
    return Taps(held_V, next_V, part_V), Taps(*(each[own] for each in base_H))
