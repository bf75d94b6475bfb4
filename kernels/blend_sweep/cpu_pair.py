"""The crossings of a frame from one model alone to another: as in cpu.py, from half precision.

At its ends the line is one of the models, so nothing has to be mixed to know which class a cell
has there, nor even converted: numbers of half precision that are not negative stand in the order
of their bits, and many are compared at a time. Of a pixel that is not settled only those classes
are looked at that can win: one whose eight values, of four cells and two models, are all below the
eight values of another is below it all along the line, by at least the gap between two numbers of
half precision, far more than float64 rounds. What is calculated is calculated as in cpu.py, in
float64, so the result has the same bits.

Axes: C class, h w pixels of the probabilities, R W labels of some rows, E crossings; 2 the models,
or the rows above and below; V classes of a row's quads that can win, one quad after another; 4 the
cells of a quad (above left, below left, above right, below right). Quad q is cells q and q + 1 of
two rows.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.blend_sweep.cpu import TINY, Crossings, compiled
from kernels.cpu import Bytes, Doubles, Integers, Taps

Halves = NDArray[np.uint16]

NOT_FINITE = 0x7C00
"""Bits of infinity in half precision; beyond it are what is no number, and all that is negative."""

SMALLEST_NORMAL = 0x0400
SUBNORMAL_UNIT = 2.0**-24
MANTISSA_SHIFT = np.uint64(52 - 10)
EXPONENT_GAP = np.uint64((1023 - 15) << 52)

OPEN = np.uint16(0xFFFF)
"""Of a quad whose winner is not settled."""

TABLES = 4
"""Neighbouring pixels are often of one pair; in four tables they do not wait for one another."""


class _Row(NamedTuple):
    """What is known of two rows of cells, the even one and the odd one."""

    winner_22w: Halves
    """By row and model."""
    high_2Cw: Halves
    """The largest of a class's values at cells q and q + 1 in both models."""
    low_2Cw: Halves


class _Quads(NamedTuple):
    """The quads between two rows."""

    settled_w: Halves
    """The class that wins all along the line, or OPEN."""
    begin_w1: Integers
    """Where in V a quad's classes begin."""
    class_V: Bytes
    value_V42: Doubles
    side_V22: Doubles
    """What they have left and right of the pixels of a row."""


class _Columns(NamedTuple):
    """How the pixels of a row lie between cells: their `Taps.part`, and where each quad's begin."""

    part_W: Doubles
    from_w1: Integers


class _Changing(NamedTuple):
    """The pixels of a row whose winner changes, and room for one more.

    Their truth and quad, and among its classes their winners and scores at both ends.
    """

    truth_W: Bytes
    quad_W: Integers
    end_W2: Integers
    score_WC2: Doubles


class _Found(NamedTuple):
    """Room for crossings."""

    share_E: Doubles
    kind_E3: Bytes


@compiled
def pair_crossings(
    first_Chw: Halves, second_Chw: Halves, label_RW: Bytes, down_R: Taps, across_W: Taps
) -> tuple[bool, Crossings]:
    """Count the start of the line and list the crossings along it, as `cpu.crossings` does.

    Args:
        first_Chw: the bits of half precision of the model at the start.
        second_Chw: those of the model at the end.
        label_RW: labels; values from C on do not count.
        down_R: taps of the rows.
        across_W: taps of the columns.

    Returns:
        Whether all that was read is finite and not negative; if not, the rest means nothing.
    """
    C, _, w = first_Chw.shape
    R, W = label_RW.shape
    rows = _Row(
        np.empty((2, 2, w), np.uint16),
        np.empty((2, C, w), np.uint16),
        np.empty((2, C, w), np.uint16),
    )
    quads = _Quads(
        np.empty(w, np.uint16),
        np.zeros(w + 1, np.int64),
        np.empty(w * C + 1, np.uint8),
        np.empty((w * C, 4, 2)),
        np.empty((w * C, 2, 2)),
    )
    changing = _Changing(
        np.empty(W + 1, np.uint8),
        np.empty(W + 1, np.int64),
        np.empty((W + 1, 2), np.int64),
        np.empty((W + 1, C, 2)),
    )
    columns = _Columns(across_W.part, _first_pixels(across_W.first, w))
    held_2, pair_2 = np.full(2, -1), np.full(2, -1)
    count_TCL = np.zeros((TABLES, C, 256), np.int64)  # L a label of any value
    share_E, kind_E3, found = np.empty(1024), np.empty((1024, 3), np.uint8), 0
    for y in range(R):
        if label_RW[y].min() >= C:
            continue
        above, below = np.int64(down_R.first[y]), np.int64(down_R.second[y])
        for row in (above, below):
            # Neighbouring rows differ in parity, so that neither takes the other's place.
            if held_2[row % 2] != row:
                held_2[row % 2] = row
                if not _read_row(rows, first_Chw, second_Chw, row):
                    return False, Crossings(np.zeros((C, C), np.int64), share_E, kind_E3)
        if pair_2[0] != above or pair_2[1] != below:
            pair_2[0], pair_2[1] = above, below
            _find_open(quads, rows, first_Chw, second_Chw, pair_2)
        if found + W * C > len(share_E):
            more = 2 * (found + W * C) - len(share_E)
            share_E = np.concatenate((share_E, np.empty(more)))
            kind_E3 = np.concatenate((kind_E3, np.empty((more, 3), np.uint8)))
        _count_settled(count_TCL, label_RW[y], quads.settled_w, columns.from_w1)
        _mix_rows(quads, down_R.part[y])
        changes = _interpolate_open(changing, count_TCL[0], label_RW[y], quads, columns)
        found = _walk(_Found(share_E, kind_E3), found, changing, changes, quads)
    count_CC = count_TCL.sum(axis=0)[:, :C].T.copy()
    return True, Crossings(count_CC, share_E[:found].copy(), kind_E3[:found].copy())


@compiled
def _first_pixels(left_W: NDArray[np.uint32], w: int) -> Integers:
    """(w + 1,): where the pixels of each quad begin."""
    from_w1 = np.empty(w + 1, np.int64)
    x = 0
    for q in range(w + 1):
        while x < len(left_W) and left_W[x] < q:
            x += 1
        from_w1[q] = x
    return from_w1


@compiled
def _read_row(rows: _Row, first_Chw: Halves, second_Chw: Halves, row: np.int64) -> bool:
    """Winners and bounds of a row of cells; whether all is finite and not negative."""
    C, _, w = first_Chw.shape
    winner_2w, high_Cw, low_Cw = (
        rows.winner_22w[row % 2],
        rows.high_2Cw[row % 2],
        rows.low_2Cw[row % 2],
    )
    proper = _find_winners(winner_2w[0], first_Chw, row)
    proper &= _find_winners(winner_2w[1], second_Chw, row)
    for c in range(C):
        a_w, b_w, high_w, low_w = first_Chw[c, row], second_Chw[c, row], high_Cw[c], low_Cw[c]
        for x in range(w):
            high_w[x] = max(a_w[x], b_w[x])
            low_w[x] = min(a_w[x], b_w[x])
        for x in range(w - 1):
            high_w[x] = max(high_w[x], high_w[x + 1])
            low_w[x] = min(low_w[x], low_w[x + 1])
    return proper


@compiled
def _find_winners(winner_w: Halves, prob_Chw: Halves, row: np.int64) -> bool:
    w = len(winner_w)
    largest_w = prob_Chw[0, row].copy()
    winner_w[:] = 0
    for c in range(1, prob_Chw.shape[0]):
        value_w, own = prob_Chw[c, row], np.uint16(c)
        for x in range(w):
            larger = value_w[x] > largest_w[x]
            largest_w[x] = value_w[x] if larger else largest_w[x]
            winner_w[x] = own if larger else winner_w[x]
    return bool(largest_w.max() < NOT_FINITE)


@compiled
def _find_open(
    quads: _Quads, rows: _Row, first_Chw: Halves, second_Chw: Halves, pair_2: Integers
) -> None:
    """Which quads between two rows are settled; of the others, the classes that can win."""
    C, _, w = first_Chw.shape
    upper, lower = pair_2 % 2
    _settle(quads.settled_w, rows.winner_22w[upper], rows.winner_22w[lower])
    high_2Cw, low_2Cw = rows.high_2Cw, rows.low_2Cw
    settled_w, begin_w1, class_V, value_V42, _ = quads
    floor_w = np.zeros(w, np.uint16)
    for c in range(C):
        for q in range(w):
            floor_w[q] = max(floor_w[q], min(low_2Cw[upper, c, q], low_2Cw[lower, c, q]))
    v = 0
    for q in range(w):
        begin_w1[q] = v
        if settled_w[q] != OPEN:
            continue
        right = min(q + 1, w - 1)
        for c in range(C):
            class_V[v] = c
            v += max(high_2Cw[upper, c, q], high_2Cw[lower, c, q]) >= floor_w[q]
        for i in range(begin_w1[q], v):
            c = class_V[i]
            for row in range(2):
                value_V42[i, row, 0] = _double(first_Chw[c, pair_2[row], q])
                value_V42[i, row, 1] = _double(second_Chw[c, pair_2[row], q])
                value_V42[i, row + 2, 0] = _double(first_Chw[c, pair_2[row], right])
                value_V42[i, row + 2, 1] = _double(second_Chw[c, pair_2[row], right])
    begin_w1[w] = v


@compiled
def _settle(settled_w: Halves, above_2w: Halves, below_2w: Halves) -> None:
    w = len(settled_w)
    for q in range(w):
        winner = above_2w[0, q]
        same = (winner == above_2w[1, q]) & (winner == below_2w[0, q]) & (winner == below_2w[1, q])
        settled_w[q] = winner if same else OPEN
    for q in range(w - 1):
        settled_w[q] = settled_w[q] if settled_w[q] == settled_w[q + 1] else OPEN


@compiled
def _double(bits: np.uint16) -> float:
    """A number of half precision that is finite and not negative."""
    normal = np.uint64((np.uint64(bits) << MANTISSA_SHIFT) + EXPONENT_GAP).view(np.float64)
    return bits * SUBNORMAL_UNIT if bits < SMALLEST_NORMAL else normal


@compiled
def _count_settled(
    count_TCL: Integers, label_W: Bytes, settled_w: Halves, from_w1: Integers
) -> None:
    w, q = len(settled_w), 0
    while q < w:
        winner, first = settled_w[q], q
        while q < w and settled_w[q] == winner:
            q += 1
        if winner != OPEN:
            for x in range(from_w1[first], from_w1[q]):
                count_TCL[x % TABLES, winner, label_W[x]] += 1


@compiled
def _mix_rows(quads: _Quads, down: float) -> None:
    """What the classes of all open quads have on their left and right at one row of pixels."""
    value_V42, side_V22 = quads.value_V42, quads.side_V22
    for v in range(quads.begin_w1[-1]):
        for end in range(2):
            side_V22[v, 0, end] = (1 - down) * value_V42[v, 0, end] + down * value_V42[v, 1, end]
            side_V22[v, 1, end] = (1 - down) * value_V42[v, 2, end] + down * value_V42[v, 3, end]


@compiled
def _interpolate_open(
    changing: _Changing, count_CL: Integers, label_W: Bytes, quads: _Quads, columns: _Columns
) -> int:
    """Count the open pixels of a row at the start; list those that change, return how many."""
    C = len(count_CL)
    side_V22, begin_w1, class_V = quads.side_V22, quads.begin_w1, quads.class_V
    part_W, from_w1 = columns
    truth_W, quad_W, end_W2, score_WC2 = changing
    changes = 0
    for q in range(len(begin_w1) - 1):
        begin, n = begin_w1[q], begin_w1[q + 1] - begin_w1[q]
        if n == 0:
            continue
        for x in range(from_w1[q], from_w1[q + 1]):
            truth, part = label_W[x], part_W[x]
            if truth >= C:
                continue
            now, last, largest_0, largest_1 = 0, 0, -1.0, -1.0
            for i in range(n):
                v = begin + i
                start = (1 - part) * side_V22[v, 0, 0] + part * side_V22[v, 1, 0]
                stop = (1 - part) * side_V22[v, 0, 1] + part * side_V22[v, 1, 1]
                score_WC2[changes, i, 0], score_WC2[changes, i, 1] = start, stop
                now = i if start > largest_0 else now
                largest_0 = start if start > largest_0 else largest_0
                last = i if stop > largest_1 else last
                largest_1 = stop if stop > largest_1 else largest_1
            count_CL[class_V[begin + now], truth] += 1
            truth_W[changes], quad_W[changes] = truth, q
            end_W2[changes, 0], end_W2[changes, 1] = now, last
            changes += now != last
    return changes


@compiled
def _walk(out: _Found, found: int, changing: _Changing, changes: int, quads: _Quads) -> int:
    """`cpu._walk` of the listed pixels, among the classes that can win; new number found."""
    share_E, kind_E3 = out
    truth_W, quad_W, end_W2, score_WC2 = changing
    begin_w1, class_V = quads.begin_w1, quads.class_V
    for j in range(changes):
        begin, n = begin_w1[quad_W[j]], begin_w1[quad_W[j] + 1] - begin_w1[quad_W[j]]
        passed, share = 0.0, TINY
        now, last = end_W2[j]
        while now != last:
            own, gain_now = score_WC2[j, now, 0], score_WC2[j, now, 1] - score_WC2[j, now, 0]
            cross, following = np.inf, -1
            for i in range(n):
                gain = score_WC2[j, i, 1] - score_WC2[j, i, 0] - gain_now
                at = (own - score_WC2[j, i, 0]) / gain
                sooner = (gain > 0) & (at < cross)
                cross = at if sooner else cross
                following = i if sooner else following
            if following < 0:
                break
            passed = max(passed, cross)
            share = max(passed if following < now else _next_double(passed), share)
            if share > 1:
                break
            share_E[found], kind_E3[found, 0] = share, truth_W[j]
            kind_E3[found, 1], kind_E3[found, 2] = class_V[begin + now], class_V[begin + following]
            found += 1
            now = following
    return found


@compiled
def _next_double(x: float) -> float:
    """The next number after one that is finite and not negative."""
    return np.int64(np.float64(x).view(np.int64) + 1).view(np.float64)
