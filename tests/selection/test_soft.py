"""SLSQP on the soft mIoU with its own gradient, and on the mIoU itself."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import check_grad

from engine.selection.pixels import OofPixels, shared
from engine.selection.soft import maximise_plainly, maximise_soft, soft_miou

MakePixels = Callable[..., OofPixels]


def sums(models: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Soft counts of models over four classes, the last of which has no pixel."""
    rng = np.random.default_rng(seed)
    truth_C = np.array([40, 100, 7, 0])
    hit_MC = truth_C * rng.uniform(0.3, 0.9, (models, 4))
    return np.stack([hit_MC, hit_MC + rng.uniform(1, 30, (models, 4))]), truth_C


@pytest.mark.parametrize("models", [2, 4])
def test_the_gradient_is_that_of_the_soft_miou(models: int) -> None:
    total_2MC, truth_C = sums(models)
    weight_M = np.random.default_rng(1).dirichlet(np.ones(models))
    error = check_grad(
        lambda w: soft_miou(w, total_2MC, truth_C)[0],
        lambda w: soft_miou(w, total_2MC, truth_C)[1],
        weight_M,
    )
    assert error < 1e-6


def test_the_maximum_is_that_of_a_grid() -> None:
    for seed in range(5):
        total_2MC, truth_C = sums(2, seed)
        found = soft_miou(maximise_soft(total_2MC, truth_C), total_2MC, truth_C)[0]
        grid = [
            soft_miou(np.array([1 - t, t]), total_2MC, truth_C)[0] for t in np.linspace(0, 1, 101)
        ]
        assert found >= max(grid) - 1e-6


def test_plain_slsqp_does_not_leave_equal_weights_and_says_so(
    make_pixels: MakePixels, brute_miou: Callable[..., float]
) -> None:
    pixels = make_pixels(0, frames=2, sizes=((2, 3), (4, 6)))
    found = maximise_plainly(pixels)
    assert found.weights == [0.5, 0.5]
    assert found.evaluations > 1
    expected = brute_miou(pixels, shared(np.array([0.5, 0.5]), pixels.classes))
    assert found.miou == pytest.approx(expected, abs=1e-12)
