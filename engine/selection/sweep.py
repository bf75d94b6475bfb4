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

Axes: K bins, J = K + 1 edges, E crossings, G curves, F folds, C class; 4 the notes of a bin:
right predictions that come and go, wrong ones that come and go.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.selection.pixels import OofPixels
from kernels.blend_sweep import Bins, add_to_bins, edge_values, widest_peak
from kernels.blend_sweep.cpu_curve import LISTED, SINGLE, SKIPPED

BINS = 1000
"""Number of bins of the first pass, so that the curve has the shares 0, 0.001 .. 1."""

MOST_CROSSINGS = 1 << 22
"""Number of crossings that are listed and sorted at most: they take about 100 MiB."""


@dataclass(frozen=True)
class Peak:
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


@dataclass(frozen=True, eq=False)
class Sweep:
    """The curve along a line.

    Attributes:
        share_J: (J,) even shares from 0 to 1.
        miou_J: (J,) exact mIoU of the first curve at these shares.
        peaks: the exact peak of each curve.
    """

    share_J: NDArray[np.float64]
    miou_J: NDArray[np.float64]
    peaks: tuple[Peak, ...]


def sweep(
    pixels: OofPixels,
    end_2MC: NDArray[np.float64],
    use_GF: NDArray[np.bool_] | None = None,
    name: str = "sweep",
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
    notes = _Notes(even_J, pixels.folds, pixels.classes)
    listed = notes.read(pixels, end_2MC, name, MOST_CROSSINGS)
    first = _Curve.of(notes, use_GF[0])
    # Too many crossings to keep. The bins' notes bound what mIoU can reach inside of each bin, so
    # only the few that may hold a peak are read again; where even those have too many, their edges
    # move closer together first. Every pass narrows the bins, until a pass lists what is left.
    while listed is None:
        wanted_K = np.any(
            [_Curve.of(notes, use_F).bins.state_K == LISTED for use_F in use_GF], axis=0
        )
        if notes.crossings()[wanted_K].sum() <= MOST_CROSSINGS:
            listed = _list(pixels, end_2MC, notes, wanted_K, name)
        else:
            notes = _Notes(_cut_finer(notes, wanted_K), pixels.folds, pixels.classes)
            listed = notes.read(pixels, end_2MC, f"{name}, refined", 0)
    peaks = tuple(_Curve.of(notes, use_F).peak(listed, use_F) for use_F in use_GF)
    return Sweep(even_J, first.value_J, peaks)


@dataclass(frozen=True, eq=False)
class _Listed:
    """Single crossings, by ascending share."""

    share_E: NDArray[np.float64]
    kind_E3: NDArray[np.uint8]
    fold_E: NDArray[np.int16]

    @classmethod
    def of(cls, parts: list[tuple[int, NDArray[np.float64], NDArray[np.uint8]]]) -> "_Listed":
        share_E = np.concatenate([np.empty(0), *(part[1] for part in parts)])
        kind_E3 = np.concatenate([np.empty((0, 3), np.uint8), *(part[2] for part in parts)])
        folds = [np.full(len(part[1]), part[0], np.int16) for part in parts]
        fold_E = np.concatenate([np.empty(0, np.int16), *folds])
        # A pixel may change twice at one share; a stable order keeps its winners in turn.
        order_E = np.argsort(share_E, kind="stable")
        return cls(share_E[order_E], kind_E3[order_E], fold_E[order_E])


class _Notes:
    """What a pass notes of every fold: counts at the start, and the bins' notes."""

    def __init__(self, edge_J: NDArray[np.float64], folds: int, classes: int) -> None:
        bins = len(edge_J) - 1
        self.edge_J = edge_J
        self.count_FCC = np.zeros((folds, classes, classes), np.int64)
        self.note_FK4C = np.zeros((folds, bins, 4, classes), np.int64)
        self.low_K, self.high_K = np.full(bins, np.inf), np.full(bins, -np.inf)

    def crossings(self) -> NDArray[np.int64]:
        """How many crossings each bin has: each makes one prediction vanish."""
        count_K: NDArray[np.int64] = self.note_FK4C[:, :, [1, 3]].sum(axis=(0, 2, 3))
        return count_K

    def read(
        self, pixels: OofPixels, end_2MC: NDArray[np.float64], name: str, most: int
    ) -> _Listed | None:
        """Note every frame; list the crossings as well while there are at most `most`."""
        parts: list[tuple[int, NDArray[np.float64], NDArray[np.uint8]]] | None = []
        total = 0
        for fold, found in pixels.sweep(end_2MC, name):
            self.count_FCC[fold] += found.count_CC
            add_to_bins(self.note_FK4C[fold], self.low_K, self.high_K, self.edge_J, found)
            total += len(found.share_E)
            parts = None if total > most or parts is None else parts
            if parts is not None:
                parts.append((fold, found.share_E, found.kind_E3))
        return None if parts is None else _Listed.of(parts)


@dataclass(frozen=True, eq=False)
class _Curve:
    """One curve at the edges, and what is known of the bins between them."""

    bins: Bins
    value_J: NDArray[np.float64]

    @classmethod
    def of(cls, notes: _Notes, use_F: NDArray[np.bool_]) -> "_Curve":
        count_CC = notes.count_FCC[use_F].sum(axis=0)
        note_K4C = notes.note_FK4C[use_F].sum(axis=0)
        # mIoU needs three numbers a class: pixels won that are the class's own (hit), pixels won
        # that are not (miss), and its pixels (truth). The notes are what each bin adds to and takes
        # from the first two, in the order hit +, hit -, miss +, miss -.
        hit_C = np.diagonal(count_CC)
        hit_JC = _running(hit_C, note_K4C[:, 0] - note_K4C[:, 1])
        miss_JC = _running(count_CC.sum(axis=0) - hit_C, note_K4C[:, 2] - note_K4C[:, 3])
        truth_C = count_CC.sum(axis=1)
        value_J = edge_values(hit_JC, miss_JC, truth_C)
        bound_K = _bound(hit_JC[:-1], miss_JC[:-1], truth_C, note_K4C)
        # Other curves' folds may change something in a bin where these do not.
        low_K = np.where(note_K4C.any(axis=(1, 2)), notes.low_K, np.inf)
        # All of a bin's crossings at one share: a single step, whose height the bin's end tells.
        single_K = low_K >= notes.high_K
        may_K = (bound_K >= value_J.max()) | (single_K & (value_J[1:] >= value_J.max()))
        state_K = np.where(may_K, np.where(single_K, SINGLE, LISTED), SKIPPED).astype(np.uint8)
        return cls(Bins(notes.edge_J, state_K, low_K, hit_JC, miss_JC, truth_C), value_J)

    def peak(self, listed: _Listed, use_F: NDArray[np.bool_]) -> Peak:
        """The highest stretch; `listed` has at least the crossings of this curve's LISTED bins."""
        bin_E = np.searchsorted(self.bins.edge_J, listed.share_E) - 1
        used_E = use_F[listed.fold_E] & (self.bins.state_K[bin_E] == LISTED)
        return Peak(*widest_peak(self.bins, listed.share_E[used_E], listed.kind_E3[used_E]))


def _running(start_C: NDArray[np.int64], change_KC: NDArray[np.int64]) -> NDArray[np.int64]:
    """(J, C): the start and its running sums."""
    return np.concatenate([start_C[None], start_C + np.cumsum(change_KC, axis=0)])


def _bound(
    hit_KC: NDArray[np.int64],
    miss_KC: NDArray[np.int64],
    truth_C: NDArray[np.int64],
    note_K4C: NDArray[np.int64],
) -> NDArray[np.float64]:
    """(K,) what mIoU cannot exceed inside of each bin."""
    # The best order that the bin's changes could come in: all hits gained and all misses lost
    # before anything that lowers the curve. No order does better, so no share in the bin does.
    hit_KC = hit_KC + note_K4C[:, 0]
    miss_KC = miss_KC - note_K4C[:, 3]
    # A class without pixels of its own counts nothing and may be absent; one whose bound is
    # beyond 1 is right everywhere.
    return edge_values(np.minimum(hit_KC, truth_C + miss_KC), miss_KC, truth_C)


def _cut_finer(notes: _Notes, wanted_K: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The edges and, in the wanted bins, BINS more by their crossings, at least three a bin."""
    crossings_K = notes.crossings()
    total = int(crossings_K[wanted_K].sum())
    edges = [notes.edge_J]
    for k in np.flatnonzero(wanted_K):
        cuts = 3 + BINS * int(crossings_K[k]) // total
        edges.append(np.linspace(notes.low_K[k], notes.high_K[k], cuts))
    return np.unique(np.concatenate(edges))


def _list(
    pixels: OofPixels,
    end_2MC: NDArray[np.float64],
    notes: _Notes,
    wanted_K: NDArray[np.bool_],
    name: str,
) -> _Listed:
    """Every crossing of the wanted bins."""
    parts: list[tuple[int, NDArray[np.float64], NDArray[np.uint8]]] = []
    if not wanted_K.any():
        return _Listed.of(parts)
    for fold, found in pixels.sweep(end_2MC, f"{name}, refined"):
        bin_E = np.searchsorted(notes.edge_J, found.share_E) - 1
        at_E = np.flatnonzero(wanted_K[bin_E])
        parts.append((fold, found.share_E[at_E], found.kind_E3[at_E]))
    return _Listed.of(parts)
