"""Pairs of frames that look alike, found by an index: the time grows with N, not with its square.

A picture is cut into fifteen windows, one of which lies on the same part of the scene in any two
pictures that overlap as far as `engine.data.likeness` shifts them. Each window has a signature: on
which side of random planes it lies (Charikar, "Similarity estimation techniques from rounding
algorithms", STOC 2002). Windows that agree in some bits of it, in one of several tables, are
candidates; those whose whole signatures are near are compared as any pair is. So what is found is
as exact as ever; what is missed is told in docs/scale.md, for kinds of pairs.

Always compared: copies, each frame with the next few in the order of names, and frames that are
both alike to a third.

N: frames. W: windows. B: bytes of a signature. P: pairs.
"""

import numpy as np
from numpy.typing import NDArray

from engine.data.likeness import NOISE, NOTED, REACH_YX, Likeness, prepared
from engine.runtime.progress import track

EXACT = 2048
"""Frames up to which every pair is compared: about as long as the index takes for as many."""

_BITS, _TABLES = 256, 32
_BESIDE = 8
"""Frames behind each in the order of names that it is compared with."""

_CROWD = 8
"""Entries of a bucket behind each that it is held against: what is common is in many tables."""

_FAR = 0.3
"""Share of bits in which a candidate's signatures differ at most: windows of a correlation of 0.7
differ in a quarter, by chance in 0.33 at most once in a thousand; strangers in a half."""

_DRAWN_EACH = 4
"""Pairs, for each frame, that stand for all of them."""

_BLOCK = 2048
_PAIRS = 1024
_RETRIED = 6
"""Nearest neighbours of a frame whose neighbours it is compared with."""


def indexed_likeness(thumbnail_NHW3: NDArray[np.uint8], order: NDArray[np.int64]) -> Likeness:
    """As `engine.data.likeness.likeness`, of the pairs that the index finds.

    Args:
        thumbnail_NHW3: (N, 9, 12, 3) of the frames.
        order: (N,) the frames in the order of their names.
    """
    count = len(thumbnail_NHW3)
    flat = np.ascontiguousarray(thumbnail_NHW3).reshape(count, -1)
    rows = flat.view(np.dtype((np.void, flat.shape[1]))).reshape(-1)
    _, first_U, same_N = np.unique(rows, return_index=True, return_inverse=True)
    same_N = same_N.reshape(-1)
    # Copies in a row, each with the next: their pairs would be the square of their number.
    by_picture = np.argsort(same_N, kind="stable")
    copies = same_N[by_picture[1:]] == same_N[by_picture[:-1]]
    copy_P2 = np.stack([by_picture[:-1], by_picture[1:]], axis=1)[copies]
    found = [copy_P2]
    alikes = [np.ones(len(copy_P2))]
    known = _keys(copy_P2, count)
    with track("comparing frames that may be alike", 3) as advance:
        beside = [np.stack([order[:-n], order[n:]], axis=1) for n in range(1, _BESIDE + 1)]
        by_index = first_U[_candidates(thumbnail_NHW3[first_U])]
        for pair_P2 in (np.concatenate(beside), by_index, None):
            asked_P2 = _of_a_third(found, alikes, count) if pair_P2 is None else pair_P2
            keys = np.setdiff1d(_keys(asked_P2, count), known)
            known = np.union1d(known, keys)
            new_P2 = np.stack(np.divmod(keys, count), axis=1)
            alike_P = alike_of(thumbnail_NHW3, new_P2)
            found.append(new_P2[alike_P >= NOTED])
            alikes.append(alike_P[alike_P >= NOTED])
            advance(1)
    pair_P2, alike_P = np.concatenate(found), np.concatenate(alikes)
    pair_P2 = np.sort(pair_P2, axis=1)
    by_pair = np.lexsort((pair_P2[:, 1], pair_P2[:, 0]))
    pair_P2, alike_P = pair_P2[by_pair], alike_P[by_pair]
    drawn_K2 = _drawn(count)
    nearest_N = np.full(count, -1.0)
    for side in (0, 1):
        np.maximum.at(nearest_N, pair_P2[:, side], alike_P)
    return Likeness(pair_P2, alike_P, nearest_N, drawn_K2, alike_of(thumbnail_NHW3, drawn_K2))


def alike_of(thumbnail_NHW3: NDArray[np.uint8], pair_P2: NDArray[np.int64]) -> NDArray[np.float64]:
    """(P,) as `engine.data.likeness.alike_pairs`, within rounding, of however many pairs."""
    parts = [pair_P2[start : start + _PAIRS] for start in range(0, len(pair_P2), _PAIRS)]
    return np.concatenate([np.zeros(0), *(_alike(thumbnail_NHW3, part_P2) for part_P2 in parts)])


def _alike(thumbnail_NHW3: NDArray[np.uint8], pair_P2: NDArray[np.int64]) -> NDArray[np.float64]:
    """(P,) how alike the frames of some pairs are.

    What depends on one frame only is made once for each, and no part of a picture is copied.
    """
    frame_M, of_pair = np.unique(pair_P2, return_inverse=True)
    first_P, second_P = of_pair.reshape(-1, 2).T
    picture_MHW5 = prepared(thumbnail_NHW3[frame_M])
    height, width = picture_MHW5.shape[1:3]
    # Sums over any part of a picture by those from its corner on (Crow 1984): of five channels,
    # and of the squares of the first three.
    square_MHW1 = (picture_MHW5[..., :3] ** 2).sum(axis=-1, keepdims=True)
    total_MYX6 = np.zeros((len(frame_M), height + 1, width + 1, 6))
    total_MYX6[:, 1:, 1:] = np.concatenate([picture_MHW5, square_MHW1], axis=3)
    total_MYX6 = total_MYX6.cumsum(axis=1).cumsum(axis=2)
    # Columns and colours in one axis: its parts are contiguous.
    detail_MHD = picture_MHW5[..., :3].reshape(len(frame_M), height, -1)
    one_PHD, other_PHD = detail_MHD[first_P], detail_MHD[second_P]
    best_P = np.full(len(pair_P2), -np.inf)
    for y in range(-REACH_YX[0], REACH_YX[0] + 1):
        for x in range(-REACH_YX[1], REACH_YX[1] + 1):
            cells = (height - abs(y)) * (width - abs(x))
            sides = []
            for part_PHD, frame_P, sign in ((one_PHD, first_P, 1), (other_PHD, second_P, -1)):
                top, bottom = max(sign * y, 0), height + min(sign * y, 0)
                left, right = max(sign * x, 0), width + min(sign * x, 0)
                sum_M6 = total_MYX6[:, bottom, right] - total_MYX6[:, top, right]
                sum_M6 += total_MYX6[:, top, left] - total_MYX6[:, bottom, left]
                mean_M5 = sum_M6[:, :5] / cells
                energy_M = sum_M6[:, 5] - cells * (mean_M5[:, :3] ** 2).sum(axis=1)
                seen_PHD = part_PHD[:, top:bottom, 3 * left : 3 * right]
                sides.append((seen_PHD, mean_M5[frame_P], energy_M[frame_P] + 3 * cells * NOISE))
            (one, mean_P5, energy_P), (two, other_P5, others_P) = sides
            alike_P = np.einsum("phd,phd->p", one, two)
            alike_P -= cells * np.einsum("pc,pc->p", mean_P5[:, :3], other_P5[:, :3])
            tint_P = ((mean_P5[:, 3:] - other_P5[:, 3:]) ** 2).sum(axis=1)
            alike_P = (2 * alike_P - cells * tint_P) / (energy_P + others_P)
            np.maximum(best_P, alike_P, out=best_P)
    best_P[(thumbnail_NHW3[pair_P2[:, 0]] == thumbnail_NHW3[pair_P2[:, 1]]).all(axis=(1, 2, 3))] = 1
    return best_P


def _candidates(thumbnail_NHW3: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(P, 2) pairs whose signatures are near in some window."""
    signature_NWB = _signatures(thumbnail_NHW3)
    count, windows, _ = signature_NWB.shape
    # Strangers share a bucket with each entry about twice, however many there are.
    bits = max(8, round(np.log2(max(count * windows / 2, 2))))
    flat_EB = signature_NWB.reshape(count * windows, -1)
    drawn = np.random.default_rng(0)
    keys = np.zeros(0, np.int64)
    for _ in range(_TABLES):
        chosen = drawn.choice(_BITS, bits, replace=False)
        key_E = np.zeros(len(flat_EB), np.uint32)
        for bit in chosen.tolist():
            key_E = (key_E << np.uint32(1)) | (flat_EB[:, bit // 8] >> (bit % 8) & 1)
        order_E = np.argsort(key_E, kind="stable")
        near = [_near(flat_EB, key_E, order_E, step, windows) for step in range(1, _CROWD + 1)]
        keys = np.union1d(keys, _keys(np.concatenate(near), count))
    return np.stack(np.divmod(keys, count), axis=1)


def _near(
    flat_EB: NDArray[np.uint8],
    key_E: NDArray[np.uint32],
    order_E: NDArray[np.intp],
    step: int,
    windows: int,
) -> NDArray[np.int64]:
    """(P, 2) frames of entries that lie `step` behind each other in a bucket, and are near."""
    found = []
    for start in range(0, len(order_E) - step, 1 << 16):
        first_P = order_E[start : min(start + (1 << 16), len(order_E) - step)]
        second_P = order_E[start + step : start + step + len(first_P)]
        met = key_E[first_P] == key_E[second_P]
        met &= first_P // windows != second_P // windows
        first_P, second_P = first_P[met], second_P[met]
        differ_P = np.bitwise_count(flat_EB[first_P] ^ flat_EB[second_P]).sum(axis=1)
        near = differ_P <= _FAR * _BITS
        found.append(np.stack([first_P[near] // windows, second_P[near] // windows], axis=1))
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def _signatures(thumbnail_NHW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, W, B) on which side of random planes each window lies."""
    height, width = thumbnail_NHW3.shape[1:3]
    reach_y, reach_x = REACH_YX
    size_y, size_x = height - reach_y, width - reach_x
    planes = np.random.default_rng(1).standard_normal((size_y * size_x * 3, _BITS), np.float32)
    parts = []
    for start in range(0, len(thumbnail_NHW3), _BLOCK):
        detail_NHW3 = prepared(thumbnail_NHW3[start : start + _BLOCK])[..., :3].astype(np.float32)
        cut = []
        for y, x in np.ndindex(reach_y + 1, reach_x + 1):
            window = detail_NHW3[:, y : y + size_y, x : x + size_x]
            window = window - window.mean(axis=(1, 2), keepdims=True)
            side = window.reshape(len(window), -1) @ planes > 0
            cut.append(np.packbits(side, axis=1, bitorder="little"))
        parts.append(np.stack(cut, axis=1))
    return np.concatenate(parts)


def _of_a_third(
    found: list[NDArray[np.int64]], alikes: list[NDArray[np.float64]], count: int
) -> NDArray[np.int64]:
    """(P, 2) pairs of frames that are both among the nearest of a third."""
    pair_P2, alike_P = np.concatenate(found), np.concatenate(alikes)
    both_P2, alike = np.concatenate([pair_P2, pair_P2[:, ::-1]]), np.tile(alike_P, 2)
    both_P2 = both_P2[np.lexsort((both_P2[:, 1], -alike, both_P2[:, 0]))]
    start_N = np.searchsorted(both_P2[:, 0], np.arange(count))
    rank_P = np.arange(len(both_P2)) - start_N[both_P2[:, 0]]
    near_P2 = both_P2[rank_P < _RETRIED]
    pairs = []
    for step in range(1, _RETRIED):
        same = near_P2[:-step, 0] == near_P2[step:, 0]
        pairs.append(np.stack([near_P2[:-step, 1], near_P2[step:, 1]], axis=1)[same])
    return np.concatenate(pairs)


def _drawn(count: int) -> NDArray[np.int64]:
    """(K, 2) pairs that stand for all of them, lower frame first."""
    first, second = np.random.default_rng(2).integers(0, count, (2, _DRAWN_EACH * count))
    pair_K2 = np.sort(np.stack([first, second], axis=1), axis=1)
    return pair_K2[pair_K2[:, 0] < pair_K2[:, 1]]


def _keys(pair_P2: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(P,) a number for each different pair, ascending; none for a frame with itself."""
    low_P, high_P = pair_P2.min(axis=1, initial=count), pair_P2.max(axis=1, initial=-1)
    keys: NDArray[np.int64] = np.unique((low_P * count + high_P)[low_P < high_P])
    return keys
