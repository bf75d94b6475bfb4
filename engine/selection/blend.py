"""The weights of a blend: the exact optimum for two runs, exact line searches for more.

Every line search ends at the highest mIoU of its whole line, so a climb never goes down, and a line
through a vertex of the simplex ends no lower than that run alone.

Axes: M models, C class, F folds; 2 the ends of a line.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.selection.pixels import OofPixels, shared
from engine.selection.soft import maximise_soft
from engine.selection.sweep import Peak, Sweep, sweep

Array = NDArray[np.float64]
Method = Literal["exact", "slsqp", "equal"]
Line = Callable[[Array], Array | None]
"""From (M, C) weights to the (2, M, C) ends of a line through them; None if it has no length."""

_log = logging.getLogger(__name__)

EXPLORED_PIXELS = 1 << 25
"""Number of pixels on which the starts of a climb are compared, about a hundred frames of NYU Depth
v2: they tell good starts from bad ones, and the best is climbed on with all pixels."""

LEAST_GAIN = 1e-6
"""The mIoU that a line has to gain for a climb to go on: a hundredth of what tables show."""

MOST_CLASS_WEIGHT = 2.0
"""The most that a class of a run may weigh: twice what it does in that run alone."""


@dataclass(frozen=True, eq=False)
class Fit:
    """What was found.

    Attributes:
        weight_MC: (M, C) weights.
        honest_FMC: (F, M, C) for each fold, weights found without it.
        curve: for two runs with shared weights, mIoU along the share of the second.
        soft_M: (M,) what SLSQP found on the soft mIoU, where it was asked.
    """

    weight_MC: Array
    honest_FMC: Array
    curve: Sweep | None = None
    soft_M: Array | None = None


def fit_weights(
    pixels: OofPixels, method: Method, *, per_class: bool = False, seed: int = 0
) -> Fit:
    """Find the weights with the best mIoU, and for each fold those without it.

    Args:
        pixels: of two runs or more.
        method: "exact"; "slsqp": the exact searches start at the maximum of the soft mIoU alone;
            "equal": no search.
        per_class: then weight each class of each run, never worse than the shared weights.
        seed: of the random directions.
    """
    M, C, F = pixels.models, pixels.classes, pixels.folds
    soft_M = None
    if method == "slsqp" or (method == "exact" and M > 2):
        soft_M = _soft_maximum(pixels.thinned(EXPLORED_PIXELS))
    curve = None
    if method == "equal":
        weight_MC = shared(np.full(M, 1 / M), C)
        honest_FMC = np.repeat(weight_MC[None], F, axis=0)
    elif M == 2:
        weight_MC, honest_FMC, curve = _fit_pair(pixels)
    else:
        weight_MC = _fit_many(pixels, method, soft_M, seed)
        honest_FMC = np.stack([_explore_without(pixels, fold, method, seed) for fold in range(F)])
    if per_class:
        weight_MC = _fit_classes(pixels, weight_MC)
        curve = None
        honest_FMC = np.stack(
            [
                _climb_classes(pixels.without(fold).thinned(EXPLORED_PIXELS), honest_FMC[fold])[0]
                for fold in range(F)
            ]
        )
    return Fit(weight_MC, honest_FMC, curve, soft_M)


def _fit_pair(pixels: OofPixels) -> tuple[Array, Array, Sweep]:
    """The optimum of two runs with all folds and with all but each, in one sweep."""
    C, F = pixels.classes, pixels.folds
    ends_2MC = np.stack([shared(end_M, C) for end_M in np.eye(2)])
    # Crossings do not depend on what is counted, so one sweep gives all curves: of every fold, and
    # of all but each.
    use_GF = np.concatenate([np.ones((1, F), bool), ~np.eye(F, dtype=bool)])
    found = sweep(pixels, ends_2MC, use_GF)
    weights = [shared(np.array([1 - peak.share, peak.share]), C) for peak in found.peaks]
    return weights[0], np.stack(weights[1:]), found


def _soft_maximum(pixels: OofPixels) -> Array:
    equal_MC = shared(np.full(pixels.models, 1 / pixels.models), pixels.classes)
    truth_C = np.zeros(pixels.classes, np.int64)
    for _, found in pixels.sweep(np.stack([equal_MC, equal_MC]), "truth"):
        truth_C += found.count_CC.sum(axis=1)
    return maximise_soft(pixels.soft_counts(), truth_C)


def _fit_many(pixels: OofPixels, method: Method, soft_M: Array | None, seed: int) -> Array:
    """Climb from every start on some of the pixels, then from the best with all of them."""
    M = pixels.models
    starts = [] if soft_M is None else [soft_M]
    if method == "exact":
        starts += [np.full(M, 1 / M), *np.eye(M)]
    thinned = pixels.thinned(EXPLORED_PIXELS)
    climbed = [
        _climb_simplex(thinned, start_M, seed, f"start {n}") for n, start_M in enumerate(starts)
    ]
    best_M, value = max(climbed, key=lambda found: found[1])
    if thinned.step > 1:
        best_M, value = _climb_simplex(pixels, best_M, seed, "all pixels")
    _log.info("best of %d starts: mIoU %.4f at %s", len(starts), value, best_M.round(4).tolist())
    return shared(best_M, pixels.classes)


def _explore_without(pixels: OofPixels, fold: int, method: Method, seed: int) -> Array:
    """Weights that `fold` had no part in: one climb, on some of the pixels."""
    rest = pixels.without(fold).thinned(EXPLORED_PIXELS)
    start_M = _soft_maximum(rest) if method == "slsqp" else np.full(rest.models, 1 / rest.models)
    return shared(_climb_simplex(rest, start_M, seed, f"without fold {fold}")[0], rest.classes)


def _climb_simplex(pixels: OofPixels, weight_M: Array, seed: int, name: str) -> tuple[Array, float]:
    """Climb from shared weights along lines of shared weights; the (M,) weights and their mIoU."""
    rng = np.random.default_rng(seed)

    def line(direction: Callable[[Array], Array], weight_MC: Array) -> Array | None:
        weight_M = weight_MC[:, 0]
        ends = _clip(weight_M, direction(weight_M))
        return None if ends is None else np.stack([shared(end_M, pixels.classes) for end_M in ends])

    # Towards and away from every run, then as many directions at random.
    towards = [partial(_towards, m) for m in range(pixels.models)]
    lines = [partial(line, way) for way in (*towards, *[partial(_random, rng)] * pixels.models)]
    weight_MC, value = _climb(pixels, shared(weight_M, pixels.classes), -np.inf, lines, name)
    return weight_MC[:, 0], value


def _climb(
    pixels: OofPixels, weight_MC: Array, value: float, lines: Sequence[Line], name: str
) -> tuple[Array, float]:
    """Search lines through the weights until none gains; the weights and their mIoU.

    Args:
        pixels: what is counted.
        weight_MC: where the climb starts.
        value: mIoU there; -inf if unknown, as the first line goes through the start.
        lines: searched in turn.
        name: for the progress.
    """
    gained = True
    while gained:
        gained = False
        for line in lines:
            ends_2MC = line(weight_MC)
            if ends_2MC is None:
                continue
            peak = _peak(pixels, ends_2MC, name)
            if peak.miou > value:
                gained |= peak.miou > value + LEAST_GAIN
                weight_MC = (1 - peak.share) * ends_2MC[0] + peak.share * ends_2MC[1]
                value = peak.miou
    return weight_MC, value


def _towards(model: int, weight_M: Array) -> Array:
    return np.asarray(np.eye(len(weight_M))[model] - weight_M)


def _random(rng: np.random.Generator, weight_M: Array) -> Array:
    direction_M = rng.standard_normal(len(weight_M))
    # A weight of 0 can only grow; the sum stays.
    direction_M = np.where(weight_M > 0, direction_M, np.abs(direction_M))
    share_M = np.where(weight_M > 0, weight_M, 0)
    return np.asarray(direction_M - share_M / share_M.sum() * direction_M.sum())


def _clip(weight_M: Array, direction_M: Array) -> tuple[Array, Array] | None:
    """Where the line leaves the simplex on both sides; None if it has no length."""
    # The line ends where the first weight that falls reaches 0: after -weight / direction.
    falls = direction_M < -1e-12
    rises = direction_M > 1e-12
    if not (falls.any() and rises.any()):
        return None
    after = (weight_M[falls] / -direction_M[falls]).min()
    before = (weight_M[rises] / direction_M[rises]).min()
    # Rounding may leave the simplex by a last bit.
    ends = [np.clip(weight_M + t * direction_M, 0, None) for t in (-before, after)]
    return ends[0] / ends[0].sum(), ends[1] / ends[1].sum()


def _fit_classes(pixels: OofPixels, weight_MC: Array) -> Array:
    """Weights of every class, at least as good as `weight_MC`."""
    thinned = pixels.thinned(EXPLORED_PIXELS)
    climbed_MC, value = _climb_classes(thinned, weight_MC)
    if thinned.step == 1:
        return climbed_MC
    # What is best on some pixels need not be better on all.
    before, value = _score(pixels, weight_MC), _score(pixels, climbed_MC)
    climbed_MC, value = _climb_classes(pixels, climbed_MC if value > before else weight_MC)
    _log.info("weights by class: mIoU %.4f, shared weights %.4f", value, before)
    return climbed_MC


def _climb_classes(pixels: OofPixels, weight_MC: Array) -> tuple[Array, float]:
    def line(m: int, c: int, weight_MC: Array) -> Array:
        ends_2MC = np.stack([weight_MC, weight_MC])
        ends_2MC[:, m, c] = 0, MOST_CLASS_WEIGHT
        return ends_2MC

    lines = [partial(line, m, c) for m, c in np.ndindex(weight_MC.shape)]
    return _climb(pixels, weight_MC, _score(pixels, weight_MC), lines, "weights by class")


def _score(pixels: OofPixels, weight_MC: Array) -> float:
    return _peak(pixels, np.stack([weight_MC, weight_MC]), "shared weights").miou


def _peak(pixels: OofPixels, ends_2MC: Array, name: str) -> Peak:
    return sweep(pixels, ends_2MC, name=name).peaks[0]
