"""Weights of a blend: never worse than a run, a start or the shared weights; by SLSQP as well."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import check_grad

from engine.selection import blend as module
from engine.selection.blend import (
    Method,
    fit_weights,
    maximise_plainly,
    maximise_soft,
    soft_miou,
)
from engine.selection.pixels import OofPixels, shared

MakePixels = Callable[..., OofPixels]
Miou = Callable[..., float]

SMALL = {"frames": 3, "sizes": ((2, 3), (4, 6)), "folds": 3}


def alone(pixels: OofPixels, brute_miou: Miou) -> float:
    """The best single run."""
    runs = np.eye(pixels.models)
    return max(brute_miou(pixels, shared(one_M, pixels.classes)) for one_M in runs)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 2))])
@pytest.mark.parametrize("models", [2, 3])
@pytest.mark.parametrize("method", ["exact", "slsqp"])
def test_a_blend_is_at_least_as_good_as_every_run_alone(
    make_pixels: MakePixels, brute_miou: Miou, models: int, method: Method, seed: int
) -> None:
    pixels = make_pixels(seed, models=models, **SMALL)
    fit = fit_weights(pixels, method)
    weight_M = fit.weight_MC[:, 0]
    assert (fit.weight_MC == weight_M[:, None]).all()
    assert weight_M.min() >= 0
    assert weight_M.sum() == pytest.approx(1)
    assert brute_miou(pixels, fit.weight_MC) >= alone(pixels, brute_miou) - 1e-12


def test_of_three_runs_the_climb_ends_above_every_grid_point(
    make_pixels: MakePixels, brute_miou: Miou
) -> None:
    pixels = make_pixels(5, models=3, **SMALL)
    grid = [shared(np.array([a, b, 10 - a - b]) / 10, 3) for a in range(11) for b in range(11 - a)]
    best = max(brute_miou(pixels, weight_MC) for weight_MC in grid)
    assert brute_miou(pixels, fit_weights(pixels, "exact").weight_MC) >= best


@pytest.mark.parametrize("models", [2, 3])
def test_weights_by_class_are_at_least_as_good_as_shared_ones(
    make_pixels: MakePixels, brute_miou: Miou, models: int
) -> None:
    gains = []
    for seed in range(3):
        pixels = make_pixels(seed, models=models, **SMALL)
        together, apart = (
            fit_weights(pixels, "exact", per_class=value).weight_MC for value in (False, True)
        )
        gains.append(brute_miou(pixels, apart) - brute_miou(pixels, together))
    assert min(gains) >= 0
    assert max(gains) > 0.01


def test_weights_by_class_found_on_some_pixels_are_no_worse_on_all(
    make_pixels: MakePixels, brute_miou: Miou, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = make_pixels(1, **SMALL)
    together = fit_weights(pixels, "exact").weight_MC
    monkeypatch.setattr(module, "EXPLORED_PIXELS", 24)
    apart = fit_weights(pixels, "exact", per_class=True).weight_MC
    assert brute_miou(pixels, apart) >= brute_miou(pixels, together)


@pytest.mark.parametrize(
    ("models", "per_class"), [(2, False), (2, True), (3, False)], ids=["2", "2 by class", "3"]
)
def test_a_folds_honest_weights_do_not_depend_on_its_frames(
    make_pixels: MakePixels, models: int, per_class: bool
) -> None:
    pixels = make_pixels(4, models=models, **SMALL)
    before = fit_weights(pixels, "exact", per_class=per_class)
    for prob_NChw in pixels.prob_MNChw:
        prob_NChw[1] = prob_NChw[1, ::-1].copy()  # frame 1 is all of fold 1
    after = fit_weights(pixels, "exact", per_class=per_class)
    assert np.array_equal(before.honest_FMC[1], after.honest_FMC[1])
    assert not np.array_equal(before.honest_FMC, after.honest_FMC)


def test_equal_weights_are_equal_everywhere(make_pixels: MakePixels) -> None:
    pixels = make_pixels(0, models=3, **SMALL)
    fit = fit_weights(pixels, "equal")
    assert (fit.weight_MC == 1 / 3).all()
    assert (fit.honest_FMC == 1 / 3).all()
    assert fit.honest_FMC.shape == (3, 3, 3)


def test_the_same_call_finds_the_same_weights(make_pixels: MakePixels) -> None:
    pixels = make_pixels(2, models=3, **SMALL)
    first, second = (fit_weights(pixels, "exact") for _ in range(2))
    assert np.array_equal(first.weight_MC, second.weight_MC)
    assert np.array_equal(first.honest_FMC, second.honest_FMC)


@pytest.mark.parametrize(
    ("weights", "direction", "expected"),
    [
        ([0.5, 0.5], [1, -1], ([0, 1], [1, 0])),
        ([0.5, 0.25, 0.25], [0.5, -0.25, -0.25], ([0, 0.5, 0.5], [1, 0, 0])),
        ([1, 0, 0], [-1, 1, 0], ([1, 0, 0], [0, 1, 0])),
        ([1, 0], [0, 0], None),
    ],
)
def test_a_line_ends_where_it_leaves_the_simplex(
    weights: Sequence[float],
    direction: Sequence[float],
    expected: tuple[list[float], list[float]] | None,
) -> None:
    found = module._clip(np.array(weights, float), np.array(direction, float))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("weights", [[0.2, 0.3, 0.5], [0, 0.4, 0.6], [1, 0, 0]])
def test_a_random_direction_stays_in_the_simplex(weights: list[float]) -> None:
    for seed in range(20):
        direction_M = module._random(np.random.default_rng(seed), np.array(weights, float))
        assert direction_M.sum() == pytest.approx(0, abs=1e-12)
        assert all(d >= 0 for d, w in zip(direction_M, weights, strict=True) if w == 0)
        ends = module._clip(np.array(weights, float), direction_M)
        assert ends is not None
        assert min(map(np.min, ends)) >= 0


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
