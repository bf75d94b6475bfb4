"""The upper envelope of a pixel's classes, along the share of the second of two models.

At share s the blended probability of a class is p_0 + s (p_1 - p_0): a line. Which class wins
changes where the line on top is crossed by a steeper one, the next of which is found for all pixels
of a row at once (the line search of Och 2003, "Minimum Error Rate Training").

Axes: K candidates, C class, n pixels.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.cpu import Array, Bytes, compiled


@compiled
def walk(
    note_CCK: NDArray[np.int32],
    share_K: Array,
    prob_2Cn: Array,
    truth_n: Bytes,
    now_n: NDArray[np.int32],
    last_n: NDArray[np.int32],
) -> None:
    """Follow each pixel's envelope and note where along the candidates a segment begins.

    Args:
        note_CCK: added to: of pixels (truth, winner), how many more there are from candidate k on.
        share_K: share of the second model, ascending.
        prob_2Cn: both models' probabilities of the pixels.
        truth_n: labels.
        now_n: winners at the first candidate; written.
        last_n: winners at the last candidate; written.
    """
    n = len(truth_n)
    gain_Cn = prob_2Cn[1] - prob_2Cn[0]
    cross_n, next_n = np.empty(n, share_K.dtype), np.empty(n, np.int32)
    since_n = np.zeros(n, np.int64)
    going = n > 0
    while going:
        going = False
        _next_crossing(cross_n, next_n, prob_2Cn[0], gain_Cn, now_n)
        for i in range(n):
            if now_n[i] == last_n[i]:
                continue
            # At a tie the lower class wins, so it has the candidate that is right on the crossing.
            if next_n[i] > now_n[i]:
                k = np.searchsorted(share_K, cross_n[i], "right")
            else:
                k = np.searchsorted(share_K, cross_n[i], "left")
            # Rounding may put a crossing before the one just passed; the walk only goes on.
            k = max(k, since_n[i])
            if k >= len(share_K):
                last_n[i] = now_n[i]
                continue
            # From candidate k on one pixel fewer of the old winner, one more of the new: sums over
            # k turn the notes into counts.
            note_CCK[truth_n[i], now_n[i], k] -= 1
            note_CCK[truth_n[i], next_n[i], k] += 1
            now_n[i], since_n[i] = next_n[i], k
            going |= now_n[i] != last_n[i]


@compiled
def _next_crossing(
    cross_n: Array,
    next_n: NDArray[np.int32],
    start_Cn: Array,
    gain_Cn: Array,
    now_n: NDArray[np.int32],
) -> None:
    """Where a line of larger gain first crosses that of `now_n`, and which; inf if none does."""
    C, n = start_Cn.shape
    own_start_n, own_gain_n = np.empty_like(cross_n), np.empty_like(cross_n)
    for i in range(n):
        own_start_n[i], own_gain_n[i] = start_Cn[now_n[i], i], gain_Cn[now_n[i], i]
    cross_n[:] = np.inf
    next_n[:] = now_n
    for c in range(C):
        for i in range(n):
            gain = gain_Cn[c, i] - own_gain_n[i]
            cross = (own_start_n[i] - start_Cn[c, i]) / gain
            sooner = (gain > 0) & (cross < cross_n[i])
            cross_n[i] = cross if sooner else cross_n[i]
            next_n[i] = np.int32(c) if sooner else next_n[i]
