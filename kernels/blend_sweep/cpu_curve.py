"""What the crossings add up to: bins along the line, and the exact peak of mIoU.

Axes: K bins, J = K + 1 edges, C class, E crossings.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

compiled = numba.njit(cache=True, nogil=True, error_model="numpy")

HIT_GAIN, HIT_LOSS, MISS_GAIN, MISS_LOSS = range(4)
"""Rows of a bin's notes, by class: right and wrong predictions that come and go in it."""

SKIPPED, SINGLE, LISTED = range(3)
"""What is known of a bin: it holds no peak; one share at most changes something; every crossing."""


@compiled
def add_to_bins(
    note_K4C: NDArray[np.int64],
    low_K: NDArray[np.float64],
    high_K: NDArray[np.float64],
    edge_J: NDArray[np.float64],
    share_E: NDArray[np.float64],
    kind_E3: NDArray[np.uint8],
) -> None:
    """Note each crossing in the bin with edge < share <= next edge; extend the bins' ranges."""
    for e in range(len(share_E)):
        k = min(max(np.searchsorted(edge_J, share_E[e]) - 1, 0), len(note_K4C) - 1)
        truth, before, after = kind_E3[e, 0], kind_E3[e, 1], kind_E3[e, 2]
        note_K4C[k, HIT_LOSS if before == truth else MISS_LOSS, before] += 1
        note_K4C[k, HIT_GAIN if after == truth else MISS_GAIN, after] += 1
        low_K[k] = min(low_K[k], share_E[e])
        high_K[k] = max(high_K[k], share_E[e])


@compiled
def _add(hit_C: Array, miss_C: Array, truth: int, winner: int, pixels: int) -> None:
    if winner == truth:
        hit_C[winner] += pixels
    else:
        miss_C[winner] += pixels


@compiled
def mean_iou(hit_C: Array, miss_C: Array, truth_C: Array) -> float:
    """Mean IoU from right and wrong predictions by class, and pixels by true class."""
    total, present = 0.0, 0
    for c in range(len(hit_C)):
        union = truth_C[c] + miss_C[c]
        if union > 0:
            total += hit_C[c] / union
            present += 1
    return total / max(present, 1)


@compiled
def edge_values(hit_JC: Array, miss_JC: Array, truth_C: Array, value_J: Array) -> None:
    """Write the mean IoU at every edge."""
    for j in range(len(value_J)):
        value_J[j] = mean_iou(hit_JC[j], miss_JC[j], truth_C)


@compiled
def widest_peak(
    edge_J: NDArray[np.float64],
    state_K: NDArray[np.uint8],
    low_K: NDArray[np.float64],
    hit_JC: NDArray[np.int64],
    miss_JC: NDArray[np.int64],
    truth_C: NDArray[np.int64],
    share_E: NDArray[np.float64],
    kind_E3: NDArray[np.uint8],
) -> tuple[float, float, float]:
    """The highest mean IoU, and the widest interval [from, to) of shares that reach it.

    Args:
        edge_J: edges of the bins, from 0 to 1.
        state_K: SKIPPED, SINGLE or LISTED.
        low_K: where a SINGLE bin changes; inf if nowhere.
        hit_JC: right predictions at the edges.
        miss_JC: wrong ones.
        truth_C: pixels by true class.
        share_E: the crossings of all LISTED bins, ascending.
        kind_E3: truth, winner before, winner after.
    """
    best, best_from, best_to = -1.0, 0.0, 0.0
    value, since = -2.0, 0.0  # of the stretch that the walk is in
    e, E = 0, len(share_E)
    for k in range(len(state_K) + 1):
        inside = k < len(state_K)
        hit_C, miss_C = hit_JC[k].copy(), miss_JC[k].copy()
        skipped = inside and state_K[k] == SKIPPED
        here = -1.0 if skipped else mean_iou(hit_C, miss_C, truth_C)
        at = edge_J[k]
        while True:
            if here != value:
                if value > best or (value == best and at - since > best_to - best_from):
                    best, best_from, best_to = value, since, at
                value, since = here, at
            if not inside or skipped:
                break
            if state_K[k] == SINGLE:
                if at == low_K[k] or low_K[k] > edge_J[k + 1]:
                    break
                at, here = low_K[k], mean_iou(hit_JC[k + 1], miss_JC[k + 1], truth_C)
                continue
            if e == E or share_E[e] > edge_J[k + 1]:
                break
            at = share_E[e]
            while e < E and share_E[e] == at:
                truth, before, after = kind_E3[e, 0], kind_E3[e, 1], kind_E3[e, 2]
                _add(hit_C, miss_C, truth, before, -1)
                _add(hit_C, miss_C, truth, after, 1)
                e += 1
            here = mean_iou(hit_C, miss_C, truth_C)
    if value > best or (value == best and 1.0 - since > best_to - best_from):
        best, best_from, best_to = value, since, 1.0
    return best, best_from, best_to
