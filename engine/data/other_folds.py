"""Folds that are not blocked: drawn at random, or made of scenes or of frames that are alike.

N: training frames.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.data.alike import Alike
from engine.frames.decode import Sample

KINDS = ("random", "blocked", "scene", "content")
"""Values of `data.fold_kind`."""


def other_folds(
    samples: Sequence[Sample], kind: str, folds: int, seed: int, alike: Alike | None = None
) -> NDArray[np.int64]:
    """(N,) the fold that each frame validates; arguments and errors as of `make_folds`."""
    if kind == "random":
        return _at_random(len(samples), folds, seed)
    if kind == "scene":
        return _by_scene(samples, folds)
    if kind == "content" and alike is not None:
        return _by_content(alike, folds, seed)
    raise ValueError(f"data.fold_kind must be one of {', '.join(KINDS)}, got {kind!r}")


def _at_random(count: int, folds: int, seed: int) -> NDArray[np.int64]:
    # The legacy generator, because the published experiments' folds came from scikit-learn's.
    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    fold_of = np.empty(count, np.int64)
    for fold, validated in enumerate(np.array_split(order, folds)):
        fold_of[validated] = fold
    return fold_of


def _by_scene(samples: Sequence[Sample], folds: int) -> NDArray[np.int64]:
    lost = [sample.stem for sample in samples if sample.scene is None]
    if len(lost) == len(samples):
        raise ValueError("no frame has a scene: add scenes.csv, or use data.fold_kind blocked")
    if lost:
        raise ValueError(
            f"scenes.csv names no scene for {len(lost)} of {len(samples)} training frames, such "
            f"as {', '.join(lost[:3])}; add them, or use data.fold_kind blocked"
        )
    size = Counter(str(sample.scene) for sample in samples)
    if len(size) < folds:
        raise ValueError(f"{len(size)} scenes cannot fill {folds} folds; lower data.folds")
    # The largest scene first; of those of one size the first by name.
    order = sorted(size, key=lambda name: (-size[name], name))
    fold_of = dict(zip(order, _dealt([size[scene] for scene in order], folds), strict=True))
    return np.array([fold_of[str(sample.scene)] for sample in samples], np.int64)


def _by_content(alike: Alike, folds: int, seed: int) -> NDArray[np.int64]:
    sizes = np.bincount(alike.group_N)
    if len(sizes) < folds:
        raise ValueError(
            f"{len(sizes)} groups of frames that are alike cannot fill {folds} folds: the largest "
            f"holds {sizes.max()} of {len(alike.group_N)} frames; lower data.folds, or use "
            "data.fold_kind blocked, which cuts through them"
        )
    # The largest group first; of those of one size any.
    drawn = np.random.RandomState(seed).permutation(len(sizes))
    order = drawn[np.argsort(-sizes[drawn], kind="stable")]
    fold_of = np.empty(len(sizes), np.int64)
    fold_of[order] = _dealt(sizes[order].tolist(), folds)
    return fold_of[alike.group_N]


def _dealt(sizes: Sequence[int], folds: int) -> list[int]:
    """The fold of each group, in the order given, each to the fold that is emptiest then."""
    fold_of, filled = [], [0] * folds
    for size in sizes:
        fold_of.append(filled.index(min(filled)))
        filled[fold_of[-1]] += size
    return fold_of
