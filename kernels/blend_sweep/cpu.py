"""The crossings of one frame on the CPU: Numba, compiled without the interpreter's lock.

A pixel whose four neighbouring cells have the same winner at both ends of the line has it
everywhere on the line, because all its scores are convex combinations of theirs. Only the other
pixels, a few in a hundred of a good pair of models, are interpolated and walked.

Axes: M models, C class, h w pixels of the probabilities, R W labels of some rows, E crossings, n
the pixels of a row that are not settled; 2 the ends of the line, or the rows above and below.
"""

from typing import NamedTuple

import numba
import numpy as np

from kernels.cpu import Array, Bytes, Doubles, Integers, Taps, find_winners

TINY = float(np.nextafter(0.0, 1.0))
"""The smallest share beyond the start, at which the first winner has every tie already."""

compiled = numba.njit(cache=True, nogil=True, error_model="numpy")


class Crossings(NamedTuple):
    """Where along a line of blends the winners of a frame's pixels change.

    Attributes:
        count_CC: (C, C) int64: pixels by truth and winner at the start.
        share_E: (E,) float64 in (0, 1]: the first number of that precision at which the new winner
            wins; of equal scores the lower class wins. In the order of pixels, not of shares.
        kind_E3: (E, 3) uint8: the pixel's truth, its winner before and from there on.
    """

    count_CC: Integers
    share_E: Doubles
    kind_E3: Bytes


@compiled
def crossings(
    prob_MChw: Array, end_2MC: Doubles, label_RW: Bytes, down_R: Taps, across_W: Taps
) -> Crossings:
    """Count the start of the line and list the crossings along it.

    Args:
        prob_MChw: float32 or float64.
        end_2MC: weights at both ends.
        label_RW: labels; values from C on do not count.
        down_R: taps of the rows.
        across_W: taps of the columns.
    """
    _, C, _, w = prob_MChw.shape
    R, W = label_RW.shape
    score_22Cw, winner_2w = np.empty((2, 2, C, w)), np.empty((2, w), np.int64)
    held_2, at_W = np.full(2, -1), np.empty(W, np.int64)
    score_2CW, end_2W, largest_W = np.empty((2, C, W)), np.empty((2, W), np.int64), np.empty(W)
    share_E, kind_E3 = np.empty(1024), np.empty((1024, 3), np.uint8)
    count_CC, found = np.zeros((C, C), np.int64), 0
    for y in range(R):
        if label_RW[y].min() >= C:
            continue
        for row in (down_R.first[y], down_R.second[y]):
            # Neighbouring rows differ in parity, so that neither takes the other's place.
            if held_2[row % 2] != row:
                held_2[row % 2] = row
                _mix_row(score_22Cw[row % 2], winner_2w[row % 2], prob_MChw, end_2MC, row)
        above, below = down_R.first[y] % 2, down_R.second[y] % 2
        n = _settle(count_CC, at_W, label_RW[y], winner_2w[above], winner_2w[below], across_W)
        at_n, part = at_W[:n], down_R.part[y]
        upper, lower = score_22Cw[above], score_22Cw[below]
        for end in range(2):
            for c in range(C):
                _interpolate(score_2CW[end, c], upper[end, c], lower[end, c], part, at_n, across_W)
            find_winners(end_2W[end, :n], largest_W, score_2CW[end])
        if found + n * C > len(share_E):
            more = 2 * (found + n * C) - len(share_E)
            share_E = np.concatenate((share_E, np.empty(more)))
            kind_E3 = np.concatenate((kind_E3, np.empty((more, 3), np.uint8)))
        for i in range(n):
            truth, now, last = label_RW[y, at_n[i]], end_2W[0, i], end_2W[1, i]
            count_CC[truth, now] += 1
            if now != last:
                found = _walk(share_E, kind_E3, found, score_2CW[:, :, i], truth, end_2W[:, i])
    return Crossings(count_CC, share_E[:found].copy(), kind_E3[:found].copy())


@compiled
def _settle(
    count_CC: Integers,
    at_W: Integers,
    label_W: Bytes,
    above_w: Integers,
    below_w: Integers,
    across_W: Taps,
) -> int:
    """Count the labelled pixels whose four cells agree; list the others and return how many."""
    left_W, right_W, _ = across_W
    n = 0
    for x in range(len(label_W)):
        truth = label_W[x]
        if truth >= len(count_CC):
            continue
        winner = above_w[left_W[x]]
        settled = (winner == above_w[right_W[x]]) & (winner >= 0)
        settled &= (winner == below_w[left_W[x]]) & (winner == below_w[right_W[x]])
        if settled:
            count_CC[truth, winner] += 1
        else:
            at_W[n] = x
            n += 1
    return n


@compiled
def _mix_row(
    score_2Cw: Doubles, winner_w: Integers, prob_MChw: Array, end_2MC: Doubles, row: int
) -> None:
    """A row of cells at both ends of the line; its winners, -1 where the ends differ."""
    M, C, _, w = prob_MChw.shape
    for end in range(2):
        for c in range(C):
            score_w = score_2Cw[end, c]
            for x in range(w):
                score_w[x] = end_2MC[end, 0, c] * prob_MChw[0, c, row, x]
            for m in range(1, M):
                for x in range(w):
                    score_w[x] += end_2MC[end, m, c] * prob_MChw[m, c, row, x]
    other_w, largest_w = np.empty(w, np.int64), np.empty(w)
    find_winners(winner_w, largest_w, score_2Cw[0])
    find_winners(other_w, largest_w, score_2Cw[1])
    for x in range(w):
        winner_w[x] = winner_w[x] if winner_w[x] == other_w[x] else -1


@compiled
def _interpolate(
    out_n: Array, above_w: Array, below_w: Array, down: float, at_n: Integers, across_W: Taps
) -> None:
    left_W, right_W, part_W = across_W
    for i in range(len(at_n)):
        x = at_n[i]
        left = (1 - down) * above_w[left_W[x]] + down * below_w[left_W[x]]
        right = (1 - down) * above_w[right_W[x]] + down * below_w[right_W[x]]
        out_n[i] = (1 - part_W[x]) * left + part_W[x] * right


@compiled
def _walk(
    share_E: Doubles, kind_E3: Bytes, found: int, score_2C: Array, truth: int, end_2: Integers
) -> int:
    """Follow the upper envelope of one pixel's lines between two winners; new number found.

    The line on top is left where it is first crossed by a steeper one (Och 2003).
    """
    C, passed, share = score_2C.shape[1], 0.0, TINY
    now, last = end_2
    while now != last:
        gain_now = score_2C[1, now] - score_2C[0, now]
        cross, following = np.inf, -1
        for c in range(C):
            gain = score_2C[1, c] - score_2C[0, c] - gain_now
            if gain > 0:
                at = (score_2C[0, now] - score_2C[0, c]) / gain
                if at < cross:
                    cross, following = at, c
        # Rounding must not turn the walk back.
        passed = max(passed, cross)
        # Right on the crossing the two tie, and the lower class wins.
        share = max(passed if following < now else np.nextafter(passed, np.inf), share)
        if following < 0 or share > 1:
            break
        share_E[found] = share
        kind_E3[found, 0], kind_E3[found, 1], kind_E3[found, 2] = truth, now, following
        found += 1
        now = following
    return found


@compiled
def soft_counts(prob_MChw: Array, label_RW: Bytes, down_R: Taps, across_W: Taps) -> Doubles:
    """(2, M, C): each model's probability of class c, over the pixels of class c and over all."""
    M, C = prob_MChw.shape[:2]
    R, W = label_RW.shape
    above_R, below_R, part_R = down_R
    prob_W, total_2MC = np.empty(W), np.zeros((2, M, C))
    for y in range(R):
        at_n = np.nonzero(label_RW[y] < C)[0]
        for m in range(M):
            for c in range(C):
                above_w, below_w = prob_MChw[m, c, above_R[y]], prob_MChw[m, c, below_R[y]]
                _interpolate(prob_W, above_w, below_w, part_R[y], at_n, across_W)
                for i in range(len(at_n)):
                    total_2MC[1, m, c] += prob_W[i]
                    if label_RW[y, at_n[i]] == c:
                        total_2MC[0, m, c] += prob_W[i]
    return total_2MC
