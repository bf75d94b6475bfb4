"""Which frames show the same place, by their pictures and by the order of their names.

Two frames are linked if they are more alike (`engine.data.likeness`) than chance makes strangers:
of the linked frames, one in twenty may be linked by chance. Names say more where frames beside each
other in their natural order are more alike than others: there, every such pair is linked that is
more likely of one place than not.

N: training frames. P: linked pairs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.alike_index import EXACT, alike_of, indexed_likeness
from engine.data.leakage import BY_INDEX, ContentLeakage
from engine.data.likeness import Likeness, alike_pairs, likeness
from engine.frames.dataset import Split
from engine.frames.findings import thumbnails
from engine.frames.samples import stems_of

_CERTAIN = 0.7
"""No less is ever linked: unrelated frames of NYU Depth v2, of rendered rooms and of a dozen kinds
of drawn pictures reach it in 1 of 10,000 pairs; views that share two thirds exceed it."""

_BY_CHANCE = 0.05  # share of the linked frames, at most (Benjamini and Hochberg 1995)
_TAIL = (0.8, 0.98)  # quantiles of unrelated pairs; beyond them their number falls exponentially
_ORDER_SIGMA = 4.0  # how far the order of names must be from saying nothing: 1 in 30,000
_LOW = 0.3  # below this quantile of random pairs, neighbours in the order are strangers
_BLANK = 3  # grey levels between the cells of a picture: fewer are rounding


@dataclass(frozen=True, eq=False)
class Alike:
    """Which of N frames show the same place."""

    direct_P2: NDArray[np.int64]
    """(P, 2) direct neighbours: about two a frame, as in a video, and all copies of it."""
    group_N: NDArray[np.int64]
    """(N,) 0, 1, ...: frames of two groups are not linked."""
    found: Likeness
    method: str | None
    """How it was found; None: it was not, because no picture shows anything."""

    def leakage(self, fold_of: NDArray[np.int64], stems: Sequence[str]) -> ContentLeakage:
        """Across folds; `stems` are the frames'."""
        if self.method is None:
            return ContentLeakage(share=None, method="the pictures are blank")
        across_P2 = self.direct_P2[np.not_equal(*fold_of[self.direct_P2.T])]
        share = len(np.unique(across_P2)) / len(fold_of)
        pair_P2, alike_P = self.found.pair_P2, self.found.alike_P
        apart = np.not_equal(*fold_of[pair_P2.T])
        if not apart.any():
            return ContentLeakage(share=share, method=self.method)
        best = np.flatnonzero(apart)[alike_P[apart].argmax()]
        first, second = (stems[frame] for frame in pair_P2[best])
        alike = round(float(alike_P[best]), 4)
        return ContentLeakage(share=share, method=self.method, closest=(first, second), alike=alike)


def alike_frames(split: Split, *, exact: bool = False, folder: Path | None = None) -> Alike | None:
    """What `find_alike` finds in checked frames with labels; None if there are fewer than two.

    Of more than `alike_index.EXACT` frames it is kept in a cache `folder`, if there is one.
    """
    if len(split.samples) < 2:
        return None
    pictures, stems = thumbnails(split.reports), stems_of(split.samples)
    if folder is None or len(stems) <= EXACT:
        return find_alike(pictures, stems, exact=exact)
    from engine.data.alike_kept import kept_alike

    return kept_alike(folder, pictures, stems, exact=exact)


def find_alike(
    thumbnail_NHW3: NDArray[np.uint8], stems: Sequence[str], *, exact: bool = False
) -> Alike:
    """Compare at least two frames with all others.

    Beyond `alike_index.EXACT` frames, unless it is to be `exact`, with those that an index finds:
    the time of all pairs grows with the square of the number of frames.
    """
    count = len(stems)
    exact |= count <= EXACT
    order = natural_order(stems)
    found = likeness(thumbnail_NHW3) if exact else indexed_likeness(thumbnail_NHW3, order)
    lowest = _lowest_linked(found)
    linked = found.alike_P >= lowest
    pair_P2, alike_P = found.pair_P2[linked], found.alike_P[linked]
    next_K2 = np.sort(np.stack([order[:-1], order[1:]], axis=1), axis=1)
    alike_K = (alike_pairs if exact else alike_of)(thumbnail_NHW3, next_K2)
    beside_K2 = _beside(next_K2, alike_K, found)
    run_N = _components(beside_K2, count)
    # Within a run the names say which frames are direct neighbours: pictures that hardly differ
    # would only guess.
    apart = np.not_equal(*run_N[pair_P2.T])
    direct_P2 = _chained(pair_P2[apart], alike_P[apart], count)
    pictures = f"pictures at least {lowest:.2f} alike" if lowest < 1 else "no two pictures alike"
    said = f"{len(beside_K2)} of {count - 1} neighbours in the order of names"
    method = f"{pictures}{'' if exact else BY_INDEX}; "
    method += said if len(beside_K2) else "the order of names says nothing"
    blank = int(np.ptp(thumbnail_NHW3.reshape(count, -1, 3), axis=1).max()) < _BLANK
    links_P2 = np.concatenate([pair_P2, beside_K2])
    direct_P2 = np.concatenate([direct_P2, beside_K2])
    groups = _components(links_P2, count)
    return Alike(direct_P2, groups, found, None if blank else method)


def natural_order(stems: Sequence[str]) -> NDArray[np.int64]:
    """(N,) the frames as a person would sort them: frame 9 before frame 10."""

    def key(frame: int) -> tuple[list[tuple[str, int]], str]:
        parts = re.findall(r"([^0-9]*)([0-9]*)", stems[frame])
        return [(text, int(number or -1)) for text, number in parts], stems[frame]

    return np.array(sorted(range(len(stems)), key=key), np.int64)


def _lowest_linked(found: Likeness) -> float:
    """How alike two frames are at least that are linked; above 1 if none are."""
    # Pairs of one place are no strangers: they would make what is seen by chance look common.
    certain = found.alike_P >= _CERTAIN
    group_N = _components(found.pair_P2[certain], count := len(found.nearest_N))
    strangers_K = found.drawn_K[np.not_equal(*group_N[found.drawn_K2.T])]
    if len(strangers_K) < 30:
        return _CERTAIN  # all frames are of one place, or they are too few to tell
    low, high = np.quantile(_stretched(strangers_K), _TAIL)
    falls = max(high - low, 0.05) / np.log((1 - _TAIL[0]) / (1 - _TAIL[1]))
    # If the k frames whose nearest are most alike were linked, at what level would so few of them
    # be linked by chance? The most that reach their own level are.
    ranks_N = np.arange(1, count + 1)
    by_chance_N = _BY_CHANCE * ranks_N / (count * (count - 1))
    level_N = high + falls * np.log((1 - _TAIL[1]) / by_chance_N)
    reached = np.flatnonzero(np.sort(_stretched(found.nearest_N))[::-1] >= level_N)
    return max(float(np.tanh(level_N[reached[-1]])), _CERTAIN) if len(reached) else np.inf


def _stretched(alike: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fisher's transformation: differences near 1 count as they should, those below 0 hardly."""
    return np.arctanh(np.clip(alike, -0.3, 0.9999))


def _beside(
    pair_K2: NDArray[np.int64], alike_K: NDArray[np.float64], found: Likeness
) -> NDArray[np.int64]:
    """(K, 2) those of frames beside each other by name that are of one place.

    None if names say nothing.
    """
    random = np.sort(found.drawn_K)
    # Where each stands among random pairs, 0..1; evenly spread if the order says nothing.
    places = [np.searchsorted(random, alike_K, side=side) for side in ("left", "right")]
    place_K = (places[0] + places[1]) / (2 * len(random))
    if (place_K.mean() - 0.5) * np.sqrt(12 * len(place_K)) < _ORDER_SIGMA:
        return pair_K2[:0]
    strangers = min(1.0, float((place_K < _LOW).mean()) / _LOW)  # share of the pairs (Storey 2002)
    # A pair is more likely of one place where pairs lie twice as densely as strangers would: from
    # the place on above which they exceed that by most.
    place_K, pair_K2 = place_K[(by := np.argsort(place_K, kind="stable"))], pair_K2[by]
    excess_K = 1 - np.arange(len(place_K)) / len(place_K) - 2 * strangers * (1 - place_K)
    return pair_K2[excess_K.argmax() :] if excess_K.max() > 0 else pair_K2[:0]


def _chained(
    pair_P2: NDArray[np.int64], alike_P: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """(K, 2) the pairs that put frames in rows, as a video has them, and those of copies.

    From the pair that is most alike on, a pair is taken unless it would give a frame a third
    neighbour, or close a ring. A frame that comes away with none keeps its nearest.
    """
    row, neighbours_N = list(range(count)), [0] * count

    def row_of(frame: int) -> int:
        while row[frame] != frame:
            row[frame] = frame = row[row[frame]]
        return frame

    pairs = pair_P2[np.argsort(-alike_P, kind="stable")].tolist()
    taken = [(first, second) for first, second in pair_P2[alike_P == 1].tolist()]
    for first, second in pairs:
        if max(neighbours_N[first], neighbours_N[second]) < 2:
            rows = row_of(first), row_of(second)
            if rows[0] != rows[1]:
                row[rows[0]] = rows[1]
                taken.append((first, second))
                neighbours_N[first] += 1
                neighbours_N[second] += 1
    for first, second in pairs:
        if min(neighbours_N[first], neighbours_N[second]) == 0:
            taken.append((first, second))
            neighbours_N[first], neighbours_N[second] = 1, 1
    return np.array(taken, np.int64).reshape(-1, 2)


def _components(pair_P2: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(N,) the number of the set of frames that are linked, one to the next."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pair_P2)), (pair_P2[:, 0], pair_P2[:, 1])), (count, count))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)
