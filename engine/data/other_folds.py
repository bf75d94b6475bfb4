"""Folds that are not blocked: drawn at random, or made of whole scenes. N: training frames."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.frames.decode import Sample

KINDS = ("random", "blocked", "scene")
"""Values of `data.fold_kind`."""


def other_folds(samples: Sequence[Sample], kind: str, folds: int, seed: int) -> NDArray[np.int64]:
    """(N,) the fold that each frame validates; arguments and errors as of `make_folds`."""
    if kind == "random":
        return _at_random(len(samples), folds, seed)
    if kind == "scene":
        return _by_scene(samples, folds)
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
    fold_of: dict[str, int] = {}
    filled = [0] * folds
    # The largest scene first, each to the fold that is emptiest then.
    for scene in sorted(size, key=lambda name: (-size[name], name)):
        fold_of[scene] = filled.index(min(filled))
        filled[fold_of[scene]] += size[scene]
    return np.array([fold_of[str(sample.scene)] for sample in samples], np.int64)
