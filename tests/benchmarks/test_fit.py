"""The fitted cost is the one that the points were made by."""

import pytest

from benchmarks.fit import PowerLaw, fit_power_law

_FRAMES = (50, 100, 200, 400, 795)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("startup_s", [0.0, 3.0])
def test_exponent_constant_and_startup_are_found(exponent: float, startup_s: float) -> None:
    law = PowerLaw(exponent, 0.04, startup_s, 0.0)
    found = fit_power_law(_FRAMES, [law.seconds(n) for n in _FRAMES])
    assert found.exponent == pytest.approx(exponent, abs=0.006)
    assert found.constant_s == pytest.approx(0.04, rel=0.05)
    assert found.startup_s == pytest.approx(startup_s, abs=0.1)
    assert found.worst < 0.01


def test_noise_of_two_per_cent_moves_the_exponent_by_little() -> None:
    noise = (1.02, 0.98, 1.01, 0.99, 1.02)
    seconds = [(2 + 0.1 * n) * wrong for n, wrong in zip(_FRAMES, noise, strict=True)]
    found = fit_power_law(_FRAMES, seconds)
    assert found.exponent == pytest.approx(1.0, abs=0.1)
    assert 0.005 < found.worst < 0.04


def test_three_points_have_no_startup() -> None:
    found = fit_power_law([1, 2, 4], [3.0, 6.0, 12.0])
    assert found.startup_s == 0.0
    assert found.exponent == pytest.approx(1.0, abs=0.006)


def test_a_cost_that_does_not_grow_has_exponent_zero() -> None:
    assert fit_power_law(_FRAMES, [2.0] * 5).exponent == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("work", "seconds", "message"),
    [([1], [1], "two or more"), ([1, 1], [1, 2], "different"), ([1, 2], [0, 1], "positive")],
)
def test_points_that_say_nothing_are_refused(
    work: list[float], seconds: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_power_law(work, seconds)
