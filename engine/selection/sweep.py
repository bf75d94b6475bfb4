"""The exact curve of mIoU along a line of blends, and its highest point (Och 2003).

Along the line a pixel's winner changes at a few crossings, and the confusion matrix at nothing
else. One pass notes them all in bins, which gives mIoU exactly at the bins' edges. Inside a bin it
has a bound. Let I be the right and W the wrong predictions of a class at the left edge, T its
pixels, g the right predictions that come into being in the bin and l the wrong ones that vanish.
Anywhere in the bin the class has at most I + g right predictions (each one more is one of the g)
and at least W - l wrong ones (each one less is one of the l), so

    IoU = right / (T + wrong) <= min(1, (I + g) / (T + W - l)),

and the mean over the classes that occur is at most the sum of these bounds over the number of
classes that surely occur, those with T + W - l > 0: a class with T = 0 adds 0 to the sum, and
counting one class less makes the mean no smaller. Every step of the bound's arithmetic is monotone
under rounding and the same as that of the value, so the computed bound is at least the computed
value. Hence a bin whose bound is below the best edge holds no peak. The crossings of the other bins
are listed and sorted in a second pass; if they are too many, those bins are cut finer first. A bin
in which everything changes at one share has no state but those of its edges.

Ties count: right on a crossing the lower class wins, so a share of 0.5 alone may be better than
both sides of it. A crossing therefore stands at the first float64 at which its new winner wins, and
the peak is that over all float64 shares.

Axes: K bins, J = K + 1 edges, E crossings, G curves, F folds, C class; 4 the notes of a bin: right
predictions that come and go, wrong ones that come and go.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.selection.pixels import OofPixels
from kernels.blend_sweep import Bins, Crossings, add_to_bins, edge_values, inside, widest_peak
from kernels.blend_sweep.cpu_curve import LISTED, SINGLE, SKIPPED
from kernels.cpu import Doubles

Flags = NDArray[np.bool_]

BINS = 1000
"""Number of bins of the first pass, so that the curve has the shares 0, 0.001 .. 1."""

MOST_CROSSINGS = 1 << 22
"""Number of crossings that are listed and sorted at most: they take about 100 MiB."""


class Peak(NamedTuple):
    """The best stretch of a curve.

    Attributes:
        miou: the highest mIoU on the line.
        low: first share of the widest stretch that has it.
        high: its end.
    """

    miou: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """The middle of the stretch; if that rounds to a share beyond it, its start."""
        middle = (self.low + self.high) / 2
        return middle if middle < self.high else self.low


class Sweep(NamedTuple):
    """The curve along a line.

    Attributes:
        share_J: (J,) even shares from 0 to 1.
        miou_J: (J,) exact mIoU of the first curve at these shares.
        peaks: the exact peak of each curve.
    """

    share_J: Doubles
    miou_J: Doubles
    peaks: tuple[Peak, ...]


def sweep(
    pixels: OofPixels, end_2MC: Doubles, use_GF: Flags | None = None, name: str = "sweep"
) -> Sweep:
    """Follow mIoU from the weights `end_2MC[0]` to `end_2MC[1]`.

    Args:
        pixels: what is counted.
        end_2MC: (2, M, C) weights at both ends.
        use_GF: (G, F) for each curve, the folds that it counts; None = one curve, all folds.
        name: for the progress.
    """
    if use_GF is None:
        use_GF = np.ones((1, pixels.folds), bool)
    even_J = np.linspace(0.0, 1.0, BINS + 1)
    notes = _Notes(pixels, end_2MC, even_J, name)
    bins_G, wanted_K = notes.curves(use_GF)
    miou_J = edge_values(bins_G[0].hit_JC, bins_G[0].miss_JC, bins_G[0].truth_C)
    # Too many crossings to keep. The bins' notes bound what mIoU can reach inside of each bin, so
    # only the few that may hold a peak are read again; where even those have too many, their edges
    # move closer together first. Every pass narrows the bins, until a pass lists what is left.
    found: Iterable[tuple[int, Crossings]] | None = notes.listed
    while found is None:
        if notes.crossings_K[wanted_K].sum() <= MOST_CROSSINGS:
            found = pixels.sweep(end_2MC, f"{name}, refined") if wanted_K.any() else ()
        else:
            notes = _Notes(pixels, end_2MC, _cut_finer(notes, wanted_K), f"{name}, refined")
            bins_G, wanted_K = notes.curves(use_GF)
    listed = [(fold, inside(frame, notes.edge_J, wanted_K)) for fold, frame in found]
    peaks = [
        _peak(bins, [frame for fold, frame in listed if use_F[fold]])
        for bins, use_F in zip(bins_G, use_GF, strict=True)
    ]
    return Sweep(even_J, miou_J, tuple(peaks))


class _Notes:
    """What one pass notes by fold: counts at the start, the bins' notes, crossings if not many."""

    def __init__(self, pixels: OofPixels, end_2MC: Doubles, edge_J: Doubles, name: str) -> None:
        F, K, C = pixels.folds, len(edge_J) - 1, pixels.classes
        self.edge_J = edge_J
        self.count_FCC = np.zeros((F, C, C), np.int64)
        self.note_FK4C = np.zeros((F, K, 4, C), np.int64)
        self.low_K, self.high_K = np.full(K, np.inf), np.full(K, -np.inf)
        listed: list[tuple[int, Crossings]] = []
        total = 0
        for fold, found in pixels.sweep(end_2MC, name):
            self.count_FCC[fold] += found.count_CC
            add_to_bins(self.note_FK4C[fold], self.low_K, self.high_K, edge_J, found)
            listed.append((fold, found))
            total += len(found.share_E)
            if total > MOST_CROSSINGS:
                listed.clear()
        self.listed = listed if total <= MOST_CROSSINGS else None
        # Each crossing makes one prediction vanish.
        self.crossings_K = self.note_FK4C[:, :, [1, 3]].sum(axis=(0, 2, 3))

    def curves(self, use_GF: Flags) -> tuple[list[Bins], Flags]:
        """Every curve, and (K,) the bins in which any of them may have its peak."""
        bins_G = [self._bins(use_F) for use_F in use_GF]
        return bins_G, np.any([bins.state_K == LISTED for bins in bins_G], axis=0)

    def _bins(self, use_F: Flags) -> Bins:
        """The curve of some folds at the edges, and what is known of the bins between them."""
        count_CC = self.count_FCC[use_F].sum(axis=0)
        note_K4C = self.note_FK4C[use_F].sum(axis=0)
        # mIoU needs three numbers a class: pixels won that are the class's own (hit), pixels won
        # that are not (miss), and its pixels (truth). The notes are what each bin adds to and takes
        # from the first two.
        truth_C, hit_C = count_CC.sum(axis=1), np.diagonal(count_CC)
        more_hit_KC, less_hit_KC, more_miss_KC, less_miss_KC = note_K4C.swapaxes(0, 1)
        hit_JC = np.vstack((hit_C, more_hit_KC - less_hit_KC)).cumsum(axis=0)
        miss_C = count_CC.sum(axis=0) - hit_C
        miss_JC = np.vstack((miss_C, more_miss_KC - less_miss_KC)).cumsum(axis=0)
        value_J = edge_values(hit_JC, miss_JC, truth_C)
        # The best order that a bin's changes could come in: all hits gained and all misses lost
        # before anything that lowers the curve. No order does better, so no share in the bin does.
        # A class without pixels of its own counts nothing and may be absent; one whose bound is
        # beyond 1 is right everywhere.
        miss_KC = miss_JC[:-1] - less_miss_KC
        hit_KC = np.minimum(hit_JC[:-1] + more_hit_KC, truth_C + miss_KC)
        bound_K = edge_values(hit_KC, miss_KC, truth_C)
        # Other curves' folds may change something in a bin where these do not.
        low_K = np.where(note_K4C.any(axis=(1, 2)), self.low_K, np.inf)
        # All of a bin's crossings at one share: a single step, whose height the bin's end tells.
        single_K = low_K >= self.high_K
        may_K = (bound_K >= value_J.max()) | (single_K & (value_J[1:] >= value_J.max()))
        state_K = np.where(may_K, np.where(single_K, SINGLE, LISTED), SKIPPED).astype(np.uint8)
        return Bins(self.edge_J, state_K, low_K, hit_JC, miss_JC, truth_C)


def _peak(bins: Bins, listed: list[Crossings]) -> Peak:
    """The highest stretch; `listed` has at least the crossings of the LISTED bins."""
    parts = [inside(found, bins.edge_J, bins.state_K == LISTED) for found in listed]
    share_E = np.concatenate([np.empty(0), *(part.share_E for part in parts)])
    kind_E3 = np.concatenate([np.empty((0, 3), np.uint8), *(part.kind_E3 for part in parts)])
    # A pixel may change twice at one share; a stable order keeps its winners in turn.
    order_E = np.argsort(share_E, kind="stable")
    return Peak(*widest_peak(bins, share_E[order_E], kind_E3[order_E]))


def _cut_finer(notes: _Notes, wanted_K: Flags) -> Doubles:
    """The edges and, in the wanted bins, BINS more by their crossings, at least three a bin."""
    total = int(notes.crossings_K[wanted_K].sum())
    edges = [notes.edge_J]
    for k in np.flatnonzero(wanted_K):
        cuts = 3 + BINS * int(notes.crossings_K[k]) // total
        edges.append(np.linspace(notes.low_K[k], notes.high_K[k], cuts))
    return np.unique(np.concatenate(edges))
