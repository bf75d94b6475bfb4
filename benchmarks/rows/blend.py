"""The weights of a blend of stored out-of-fold probabilities.

Axes: M runs, K candidate weights, N frames, C classes, h w stored pixels.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows.job import Job
from benchmarks.rows.shared_files import store_file
from benchmarks.rows.work import counting_flops
from benchmarks.sides import Prepared
from benchmarks.timing import Work

if TYPE_CHECKING:
    from benchmarks.plain.recipe import Recipe

CANDIDATES = 101
"""Weights that are tried: every hundredth for two runs."""

_FRAMES_AT_ONCE = 16
"""Their maps are in memory together."""


def ours(job: Job) -> Prepared:
    """Our search, see `search`."""
    stores_M, labels_N = _inputs(job)

    def run() -> dict[str, Any]:
        weight_M, miou = search(stores_M, labels_N)
        return _facts(labels_N, weight_M, miou)

    return Prepared(run)


def plain(job: Job, recipe: "Recipe") -> Prepared:  # noqa: ARG001 - as all sides
    """The recipe's grid: 101 weights of two runs, or as many random ones of more."""
    from benchmarks.plain.selection import blend_counts, grid_weights, mean_iou

    stores_M, labels_N = _inputs(job)
    weight_KM = candidates(len(stores_M))

    def run() -> dict[str, Any]:
        if len(stores_M) == 2:
            return _facts(labels_N, *grid_weights(stores_M, labels_N))
        mious = [mean_iou(count_CC) for count_CC in blend_counts(stores_M, labels_N, weight_KM)]
        best = int(np.argmax(mious))
        return _facts(labels_N, weight_KM[best], mious[best])

    return Prepared(run)


def plain_slsqp(job: Job, recipe: "Recipe") -> Prepared:  # noqa: ARG001
    """The published search: quick, because it does not leave equal weights."""
    from benchmarks.plain.selection import slsqp_weights

    stores_M, labels_N = _inputs(job)
    return Prepared(lambda: _facts(labels_N, *slsqp_weights(stores_M, labels_N)))


def search(
    stores_M: list[NDArray[np.float16]], labels_N: list[NDArray[np.uint8]]
) -> tuple[NDArray[np.float64], float]:
    """The best weights that ours finds, (M,), and their mIoU.

    Of two runs the exact optimum, as `engine.blend` has it; of more, as the plain search does, the
    best of the candidates, all in one pass.
    """
    import torch

    from kernels.confusion import blend_confusion, mean_iou

    if len(stores_M) == 2:
        return _optimum(stores_M, labels_N)
    weight_KM = candidates(len(stores_M))
    classes = stores_M[0].shape[1]
    count_KCC = np.zeros((len(weight_KM), classes, classes), np.int64)
    for first in range(0, len(labels_N), _FRAMES_AT_ONCE):
        part = slice(first, first + _FRAMES_AT_ONCE)
        count_KCC += blend_confusion(
            [torch.from_numpy(np.array(store[part])) for store in stores_M],
            torch.from_numpy(weight_KM).float(),
            torch.from_numpy(np.stack(labels_N[part])),
        ).numpy()
    mious = [mean_iou(count_CC) for count_CC in count_KCC]
    best = int(np.argmax(mious))
    return weight_KM[best], mious[best]


def _optimum(
    stores_M: list[NDArray[np.float16]], labels_N: list[NDArray[np.uint8]]
) -> tuple[NDArray[np.float64], float]:
    from engine.selection.blend import fit_weights
    from engine.selection.pixels import OofPixels

    frames_N = np.arange(len(labels_N))
    pixels = OofPixels(tuple(stores_M), labels_N.__getitem__, np.zeros_like(frames_N), frames_N)
    fit = fit_weights(pixels, "exact")
    assert fit.curve is not None
    return fit.weight_MC[:, 0], fit.curve.peaks[0].miou


def candidates(models: int) -> NDArray[np.float64]:
    """(K, M) weights: a grid for two runs, else evenly distributed on the simplex."""
    if models == 2:
        second_K = np.linspace(0, 1, CANDIDATES)
        return np.stack([1 - second_K, second_K], axis=1)
    return np.random.default_rng(0).dirichlet(np.ones(models), CANDIDATES)


def work(job: Job) -> Work:
    """Stores and labels are read once, every map is resized once, every candidate compared."""
    samples = job.dataset.train.samples
    hw, classes = samples[0].hw, len(job.config.data.classes)
    stored = sum(store_file(job, m).stat().st_size for m in range(job.models))
    flops = counting_flops(len(samples), hw, classes, job.models)
    return Work(stored + len(samples) * hw[0] * hw[1], flops, job.threads)


def check(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Ours is not worse, but for pixels that tie to the last bit."""
    assert ours["miou"] > theirs["miou"] - 1e-4, f"mIoU: {ours['miou']} and {theirs['miou']}"


def _inputs(job: Job) -> tuple[list[NDArray[np.float16]], list[NDArray[np.uint8]]]:
    """Stores as a run keeps them, and labels in memory."""
    from benchmarks.rows.shared_files import read_labels

    stores_M = [np.load(store_file(job, m), mmap_mode="r") for m in range(job.models)]
    return stores_M, read_labels(job.dataset.train.samples)


def _facts(
    labels_N: list[NDArray[np.uint8]], weight_M: NDArray[np.float64], miou: float
) -> dict[str, Any]:
    return {
        "frames": len(labels_N),
        "miou": miou,
        "weights": [round(float(w), 4) for w in weight_M],
    }
