"""What the crossings add up to: bins along the line, and the exact peak of mIoU.

Axes: K bins, J = K + 1 edges, C class, E crossings.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.blend_sweep.cpu import Crossings, compiled
from kernels.cpu import Array, Bytes, Doubles, Integers

HIT_GAIN, HIT_LOSS, MISS_GAIN, MISS_LOSS = range(4)
"""Rows of a bin's notes, by class: right and wrong predictions that come and go in it."""

SKIPPED, SINGLE, LISTED = range(3)
"""What is known of a bin: it holds no peak; one share at most changes something; every crossing."""


@compiled
def add_to_bins(
    note_K4C: Integers, low_K: Doubles, high_K: Doubles, edge_J: Doubles, crossings: Crossings
) -> None:
    """Note a frame's crossings in bins along the line.

    Args:
        note_K4C: (K, 4, C) added to: right predictions of each class that come into being in the
            bin and that vanish, then wrong ones.
        low_K: (K,) the lowest share noted in each bin; lowered.
        high_K: (K,) the highest; raised.
        edge_J: (K + 1,) ascending from 0 to 1. A crossing belongs to the bin with
            edge < share <= next edge, so that the counts at an edge have all bins before it.
        crossings: of one frame.
    """
    share_E, kind_E3 = crossings.share_E, crossings.kind_E3
    for e in range(len(share_E)):
        k = _bin_of(share_E[e], edge_J)
        truth, before, after = kind_E3[e]
        note_K4C[k, HIT_LOSS if before == truth else MISS_LOSS, before] += 1
        note_K4C[k, HIT_GAIN if after == truth else MISS_GAIN, after] += 1
        low_K[k] = min(low_K[k], share_E[e])
        high_K[k] = max(high_K[k], share_E[e])


@compiled
def inside(crossings: Crossings, edge_J: Doubles, wanted_K: NDArray[np.bool_]) -> Crossings:
    """The crossings in some bins, `wanted_K`; see `add_to_bins`."""
    count_CC, share_E, kind_E3 = crossings
    kept_E = np.empty(len(share_E), np.bool_)
    for e in range(len(share_E)):
        kept_E[e] = wanted_K[_bin_of(share_E[e], edge_J)]
    return Crossings(count_CC, share_E[kept_E], kind_E3[kept_E])


@compiled
def _bin_of(share: float, edge_J: Doubles) -> int:
    """Where even edges would have it, or beside that; else it is searched for."""
    K = len(edge_J) - 1
    k = min(int(share * K), K - 1)
    if k > 0 and share <= edge_J[k]:
        k -= 1
    if edge_J[k] < share <= edge_J[k + 1]:
        return k
    return min(max(int(np.searchsorted(edge_J, share)) - 1, 0), K - 1)


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
def edge_values(hit_JC: Array, miss_JC: Array, truth_C: Array) -> Doubles:
    """(K + 1,) mean IoU at the edges, by the same arithmetic as that of `widest_peak`.

    Args:
        hit_JC: (K + 1, C) right predictions at the edges.
        miss_JC: (K + 1, C) wrong ones.
        truth_C: (C,) pixels by true class.
    """
    return np.array([mean_iou(hit_JC[j], miss_JC[j], truth_C) for j in range(len(hit_JC))])


class Bins(NamedTuple):
    """The line cut into bins, and what is known at their edges and of their inside."""

    edge_J: Doubles
    """(K + 1,) edges of the bins, from 0 to 1."""
    state_K: Bytes
    """(K,) SKIPPED, SINGLE or LISTED."""
    low_K: Doubles
    """(K,) where a SINGLE bin changes; inf if nowhere."""
    hit_JC: Integers
    """(K + 1, C) right predictions at the edges."""
    miss_JC: Integers
    """(K + 1, C) wrong ones."""
    truth_C: Integers
    """(C,) pixels by true class."""


@compiled
def widest_peak(bins: Bins, share_E: Doubles, kind_E3: Bytes) -> tuple[float, float, float]:
    """The highest mean IoU on the line and the widest interval that reaches it.

    Args:
        bins: of the line.
        share_E: (E,) the crossings of all LISTED bins, ascending.
        kind_E3: (E, 3) truth, winner before, winner after; see `Crossings`.

    Returns:
        (mean IoU, from, to): the interval includes its start and, but for 1, not its end.
    """
    edge_J, state_K, low_K, hit_JC, miss_JC, truth_C = bins
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
                truth, before, after = kind_E3[e]
                _add(hit_C, miss_C, truth, before, -1)
                _add(hit_C, miss_C, truth, after, 1)
                e += 1
            here = mean_iou(hit_C, miss_C, truth_C)
    if value > best or (value == best and 1.0 - since > best_to - best_from):
        best, best_from, best_to = value, since, 1.0
    return best, best_from, best_to
