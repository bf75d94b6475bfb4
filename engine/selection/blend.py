"""The weights of a blend: the exact optimum for two runs, exact line searches for more.

Every line search ends at the highest mIoU of its whole line, so a climb never goes down, and a line
through a vertex of the simplex ends no lower than that run alone.

Axes: M models, C class, F folds, K systems; 2 the ends of a line.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize

from engine.rundir import Record
from engine.selection.pixels import OofPixels, frame_confusions, shared
from engine.selection.sweep import Sweep, sweep
from kernels.metrics import mean_iou

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


class Fit(NamedTuple):
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

    @property
    def systems(self) -> Array:
        """(F, M + 2, M, C): each run alone, the blend and, by fold, the honest blend."""
        alone_MMC = shared(np.eye(len(self.weight_MC)), self.weight_MC.shape[1])
        systems = [[*alone_MMC, self.weight_MC, honest_MC] for honest_MC in self.honest_FMC]
        return np.array(systems)


class PlainSearch(Record):
    """What SciPy ended with on the mIoU itself."""

    weights: list[float]
    """Of M models."""
    miou: float
    evaluations: int
    """Passes over the pixels."""
    message: str


def fit_weights(pixels: OofPixels, method: Method, *, per_class: bool = False) -> Fit:
    """Find the weights with the best mIoU, and for each fold those without it.

    Args:
        pixels: of two runs or more.
        method: "exact"; "slsqp": the exact searches start at the maximum of the soft mIoU alone;
            "equal": no search.
        per_class: then weight each class of each run, never worse than the shared weights.
    """
    if method == "equal":
        weight_MC = shared(_equal(pixels), pixels.classes)
        fit = Fit(weight_MC, np.stack([weight_MC] * pixels.folds))
    else:
        fit = (_fit_pair if pixels.models == 2 else _fit_many)(pixels, method)
    if not per_class:
        return fit
    weight_MC = _fit_classes(pixels, fit.weight_MC)
    honest = [
        _climb_classes(pixels.without(fold).thinned(EXPLORED_PIXELS), honest_MC)[0]
        for fold, honest_MC in enumerate(fit.honest_FMC)
    ]
    return Fit(weight_MC, np.stack(honest), soft_M=fit.soft_M)


def maximise_plainly(pixels: OofPixels) -> PlainSearch:
    """SLSQP on the mIoU itself, with SciPy's finite differences, from equal weights.

    Each evaluation is a pass over the pixels. The mIoU is piecewise constant, so its differences
    over a step of 1e-8 are almost always 0.
    """

    def miou(weight_M: Array) -> float:
        weight_1MC = shared(weight_M, pixels.classes)[None]
        return mean_iou(frame_confusions(pixels, np.stack([weight_1MC] * pixels.folds)).sum(1)[0])

    best_M, found = _slsqp(lambda weight_M: -miou(weight_M), pixels.models)
    passes, said = found.nfev + 1, found.message
    return PlainSearch(weights=best_M.tolist(), miou=miou(best_M), evaluations=passes, message=said)


def soft_miou(weight_M: Array, total_2MC: Array, truth_C: NDArray[np.int64]) -> tuple[float, Array]:
    """Mean IoU of probabilities instead of winners, and its gradient.

    The soft intersection of a class is the blended probability summed over its pixels, its soft
    prediction that summed over all pixels. Both are linear in the weights, so a pass over the
    pixels is needed only for `total_2MC`.

    Args:
        weight_M: (M,) weights.
        total_2MC: what `OofPixels.soft_counts` gives.
        truth_C: (C,) pixels by true class, likewise; classes without any do not count.

    Returns:
        The soft mIoU and its (M,) derivatives.
    """
    present_C = truth_C > 0
    hit_MC, all_MC = total_2MC[:, :, present_C]
    hit_C, all_C = weight_M @ hit_MC, weight_M @ all_MC
    union_C = truth_C[present_C] + all_C - hit_C
    gradient_MC = (hit_MC * union_C - hit_C * (all_MC - hit_MC)) / union_C**2
    return float((hit_C / union_C).mean()), gradient_MC.mean(axis=1)


def maximise_soft(total_2MC: Array, truth_C: NDArray[np.int64]) -> Array:
    """(M,) weights on the simplex by SLSQP with the analytic gradient, from equal weights."""

    def negative(weight_M: Array) -> list[float | Array]:
        return [-part for part in soft_miou(weight_M, total_2MC, truth_C)]

    return _slsqp(negative, total_2MC.shape[1], jac=True)[0]


def _slsqp(
    negative: Callable[[Array], Any], models: int, *, jac: bool = False
) -> tuple[Array, OptimizeResult]:
    start_M, ends = np.full(models, 1 / models), [(0.0, 1.0)] * models
    unit_sum = {"type": "eq", "fun": lambda weight_M: weight_M.sum() - 1, "jac": np.ones_like}
    found = minimize(
        negative, start_M, jac=jac or None, method="SLSQP", bounds=ends, constraints=unit_sum
    )
    weight_M = np.clip(found.x, 0, 1)
    return weight_M / weight_M.sum(), found


def _equal(pixels: OofPixels) -> Array:
    return np.full(pixels.models, 1 / pixels.models)


def _fit_pair(pixels: OofPixels, method: Method) -> Fit:
    """The optimum of two runs with all folds and with all but each, in one sweep."""
    C, F = pixels.classes, pixels.folds
    soft_M = None
    if method == "slsqp":
        soft_M = maximise_soft(*pixels.thinned(EXPLORED_PIXELS).soft_counts())
    # Crossings do not depend on what is counted, so one sweep gives all curves: of every fold, and
    # of all but each.
    use_GF = np.concatenate([np.ones((1, F), bool), ~np.eye(F, dtype=bool)])
    found = sweep(pixels, shared(np.eye(2), C), use_GF)
    weight_GMC = shared(np.array([[1 - peak.share, peak.share] for peak in found.peaks]), C)
    return Fit(weight_GMC[0], weight_GMC[1:], found, soft_M)


def _fit_many(pixels: OofPixels, method: Method) -> Fit:
    """Climb from every start on some of the pixels, then from the best with all of them.

    Weights that a fold had no part in take one climb, on some of the pixels.
    """
    thinned = pixels.thinned(EXPLORED_PIXELS)
    soft_M = maximise_soft(*thinned.soft_counts())
    starts = [soft_M]
    if method == "exact":
        starts += [_equal(pixels), *np.eye(pixels.models)]
    climbed = [_climb_simplex(thinned, start_M, f"start {n}") for n, start_M in enumerate(starts)]
    best_M, value = max(climbed, key=itemgetter(1))
    if thinned is not pixels:
        best_M, value = _climb_simplex(pixels, best_M, "all pixels")
    _log.info("best of %d starts: mIoU %.4f at %s", len(starts), value, best_M.round(4).tolist())
    honest = []
    for fold in range(pixels.folds):
        rest = pixels.without(fold).thinned(EXPLORED_PIXELS)
        start_M = maximise_soft(*rest.soft_counts()) if method == "slsqp" else _equal(rest)
        honest.append(_climb_simplex(rest, start_M, f"without fold {fold}")[0])
    C = pixels.classes
    return Fit(shared(best_M, C), shared(np.stack(honest), C), soft_M=soft_M)


def _climb_simplex(pixels: OofPixels, weight_M: Array, name: str) -> tuple[Array, float]:
    """Climb from shared weights along lines of shared weights; the (M,) weights and their mIoU."""
    rng, M = np.random.default_rng(0), pixels.models

    def line(towards: int | None, weight_MC: Array) -> Array | None:
        weight_M = weight_MC[:, 0]
        way_M = _random(rng, weight_M) if towards is None else np.eye(M)[towards] - weight_M
        end_2M = _clip(weight_M, way_M)
        return None if end_2M is None else shared(end_2M, pixels.classes)

    # Towards and away from every run, then as many directions at random.
    lines = [partial(line, towards) for towards in [*range(M), *[None] * M]]
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
            end_2MC = line(weight_MC)
            if end_2MC is None:
                continue
            peak = sweep(pixels, end_2MC, name=name).peaks[0]
            if peak.miou > value:
                gained |= peak.miou > value + LEAST_GAIN
                weight_MC = (1 - peak.share) * end_2MC[0] + peak.share * end_2MC[1]
                value = peak.miou
    return weight_MC, value


def _random(rng: np.random.Generator, weight_M: Array) -> Array:
    direction_M = rng.standard_normal(len(weight_M))
    # A weight of 0 can only grow; the sum stays.
    direction_M = np.where(weight_M > 0, direction_M, np.abs(direction_M))
    return np.asarray(direction_M - weight_M / weight_M.sum() * direction_M.sum())


def _clip(weight_M: Array, direction_M: Array) -> Array | None:
    """(2, M) where the line leaves the simplex on both sides; None if it has no length."""
    # The line ends where the first weight that falls reaches 0: after -weight / direction.
    falls = direction_M < -1e-12
    rises = direction_M > 1e-12
    if not (falls.any() and rises.any()):
        return None
    after = (weight_M[falls] / -direction_M[falls]).min()
    before = (weight_M[rises] / direction_M[rises]).min()
    # Rounding may leave the simplex by a last bit.
    ends = [np.clip(weight_M + t * direction_M, 0, None) for t in (-before, after)]
    return np.stack([end_M / end_M.sum() for end_M in ends])


def _fit_classes(pixels: OofPixels, weight_MC: Array) -> Array:
    """Weights of every class, at least as good as `weight_MC`."""
    thinned = pixels.thinned(EXPLORED_PIXELS)
    climbed_MC, _ = _climb_classes(thinned, weight_MC)
    if thinned is pixels:
        return climbed_MC
    # What is best on some pixels need not be better on all.
    before, value = _score(pixels, weight_MC), _score(pixels, climbed_MC)
    climbed_MC, value = _climb_classes(pixels, climbed_MC if value > before else weight_MC)
    _log.info("weights by class: mIoU %.4f, shared weights %.4f", value, before)
    return climbed_MC


def _climb_classes(pixels: OofPixels, weight_MC: Array) -> tuple[Array, float]:
    def line(m: int, c: int, weight_MC: Array) -> Array:
        end_2MC = np.stack([weight_MC, weight_MC])
        end_2MC[:, m, c] = 0, MOST_CLASS_WEIGHT
        return end_2MC

    lines = [partial(line, m, c) for m, c in np.ndindex(weight_MC.shape)]
    return _climb(pixels, weight_MC, _score(pixels, weight_MC), lines, "weights by class")


def _score(pixels: OofPixels, weight_MC: Array) -> float:
    return sweep(pixels, np.stack([weight_MC, weight_MC]), name="shared weights").peaks[0].miou
