"""How alike frames look: thumbnails compared with each other at small shifts.

Alike is 1 less the share of two pictures' variation in which they differ, where they overlap best:
1 for the same picture, about 0 for two that have nothing in common. What every indoor view shares
(light from above, dark corners) is taken out beforehand, so that unrelated ones stay below 0.7.

N: frames. P: pairs.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.runtime.progress import track

NOTED = 0.5
"""Pairs that are less alike are not kept: hundreds of them fall on each that is more."""

_BLUR_CELLS = 1.5  # coarser than this is lighting and layout, which strangers share
REACH_YX = (2, 4)  # cells, down and across: two views overlap in two thirds of their width, or more
NOISE = 1.0  # grey levels squared, of a cell: rounding, and what is left of a sensor's noise
_BLOCK = 256  # frames compared with all others at a time: tens of MB
_DRAWN = 1_000_000  # pairs that stand for all of them

_Product = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


class Likeness(NamedTuple):
    """How alike N frames are.

    Attributes:
        pair_P2: (P, 2) pairs that are at least `NOTED`, lower frame first.
        alike_P: (P,) how alike they are.
        nearest_N: (N,) how alike each frame's nearest is.
        drawn_K2: (K, 2) all pairs, or evenly some of them.
        drawn_K: (K,) how alike they are.
    """

    pair_P2: NDArray[np.int64]
    alike_P: NDArray[np.float64]
    nearest_N: NDArray[np.float64]
    drawn_K2: NDArray[np.int64]
    drawn_K: NDArray[np.float64]


def likeness(thumbnail_NHW3: NDArray[np.uint8]) -> Likeness:
    """Compare every frame with every other; the time grows with the square of N.

    In float64: rounding, which depends on the machine, must not decide which pairs are alike.
    """
    picture_NHWK, count = prepared(thumbnail_NHW3), len(thumbnail_NHW3)
    flat = thumbnail_NHW3.reshape(count, -1)
    same_N = np.unique(flat, axis=0, return_inverse=True)[1].reshape(-1)
    nearest_N, skip = np.full(count, -1.0), max(1, count * (count - 1) // 2 // _DRAWN)
    pairs, alikes, drawn_pairs, drawn = [], [], [], []
    for start in _blocks(count):
        rows, rest = slice(start, start + _BLOCK), slice(start, count)
        alike = _best(picture_NHWK[rows], picture_NHWK[rest], lambda a, b: a @ b.T)
        # Of pictures without any contrast too: it is the same picture.
        alike[same_N[rows, None] == same_N[None, rest]] = 1.0
        first, second = np.nonzero(np.triu(np.ones(alike.shape, bool), 1))
        alike_K = alike[first, second]
        pair_K2 = np.stack([first, second], axis=1) + start
        np.maximum.at(nearest_N, pair_K2[:, 0], alike_K)
        np.maximum.at(nearest_N, pair_K2[:, 1], alike_K)
        noted = alike_K >= NOTED
        pairs.append(pair_K2[noted])
        alikes.append(alike_K[noted])
        drawn_pairs.append(pair_K2[::skip])
        drawn.append(alike_K[::skip])
    return Likeness(
        np.concatenate(pairs),
        np.concatenate(alikes),
        nearest_N,
        np.concatenate(drawn_pairs),
        np.concatenate(drawn),
    )


def _blocks(count: int) -> Iterator[int]:
    """Where each block of frames starts, which is compared with all that follow; tells of it."""
    with track("comparing pairs of frames", count * (count + 1) // 2) as advance:
        for start in range(0, count, _BLOCK):
            yield start
            rows = min(_BLOCK, count - start)
            advance(rows * (2 * (count - start) - rows + 1) // 2)


def alike_pairs(
    thumbnail_NHW3: NDArray[np.uint8], pair_P2: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(P,) how alike the frames of some pairs are."""
    first_PHW3, second_PHW3 = (thumbnail_NHW3[pair_P2[:, side]] for side in (0, 1))
    pictures = prepared(first_PHW3), prepared(second_PHW3)
    alike_P = _best(*pictures, lambda a, b: np.einsum("pd,pd->p", a, b)[:, None])[:, 0]
    alike_P[(first_PHW3 == second_PHW3).all(axis=(1, 2, 3))] = 1.0
    return alike_P


def _best(
    first_NHWK: NDArray[np.float64], second_NHWK: NDArray[np.float64], product: _Product
) -> NDArray[np.float64]:
    """How alike, at the best of all shifts; of all pairs or of each with its like, by `product`."""
    best: NDArray[np.float64] | None = None
    for shift_y in range(-REACH_YX[0], REACH_YX[0] + 1):
        for shift_x in range(-REACH_YX[1], REACH_YX[1] + 1):
            first_ND, spread_N = _part(first_NHWK, shift_y, shift_x)
            second_ND, other_N = _part(second_NHWK, -shift_y, -shift_x)
            # 2 a b - a's own and b's own: their tints' squared distance is in the product.
            alike = product(first_ND, np.concatenate([second_ND[:, :-2], second_ND[:, :-3:-1]], 1))
            ones_N, ones = np.ones_like(spread_N), np.ones_like(other_N)
            sides = np.stack([spread_N, ones_N], axis=1), np.stack([ones, other_N], axis=1)
            alike /= product(*sides)
            best = alike if best is None else np.maximum(best, alike, out=best)
    assert best is not None
    return best


def _part(
    picture_NHWK: NDArray[np.float64], y: int, x: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The part that overlaps with a picture shifted by -y, -x: (N, D) features, (N,) energies."""
    height, width = picture_NHWK.shape[1:3]
    part = picture_NHWK[:, max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]
    count, cells = len(part), part.shape[1] * part.shape[2]
    mean_NK = part.mean(axis=(1, 2))
    detail_ND = (part[..., :3] - mean_NK[:, None, None, :3]).reshape(count, -1)
    tint_N2 = mean_NK[:, 3:] * np.sqrt(cells)
    energy_N = np.einsum("nd,nd->n", detail_ND, detail_ND) + 3 * cells * NOISE
    tint_N1 = np.einsum("nc,nc->n", tint_N2, tint_N2)[:, None]
    twice = np.sqrt(2)
    parts = [twice * detail_ND, twice * tint_N2, -tint_N1, np.ones_like(tint_N1)]
    return np.concatenate(parts, axis=1), energy_N


def prepared(thumbnail_NHW3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, H, W, 5): each cell against its surroundings, and its red and blue against its grey.

    The latter tell pictures of another colour apart. Grey is left out: light changes.
    """
    picture_NHW3 = thumbnail_NHW3.astype(np.float64)
    down, across = (_blur(size) for size in picture_NHW3.shape[1:3])
    blurred_NHW3 = np.einsum("yh,nhwc,xw->nyxc", down, picture_NHW3, across, optimize=True)
    tint_NHW2 = picture_NHW3[..., ::2] - picture_NHW3.mean(axis=3, keepdims=True)
    return np.concatenate([picture_NHW3 - blurred_NHW3, tint_NHW2], axis=3)


def _blur(size: int) -> NDArray[np.float64]:
    """(size, size) matrix of a Gaussian, of the cells that there are at a border."""
    steps = np.subtract.outer(np.arange(size), np.arange(size))
    weights = np.exp(-0.5 * (steps / _BLUR_CELLS) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
