"""How a cost grows with its work: seconds = startup + constant * work ** exponent."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize

_FEWEST_FOR_STARTUP = 4
"""Three numbers are fitted; from three points they could not be told from noise."""

_EXPONENTS = np.arange(0.0, 3.0001, 0.005)


class PowerLaw(NamedTuple):
    """A fitted cost.

    Attributes:
        exponent: 1 = linear.
        constant_s: seconds of one unit of work, beyond the start-up.
        startup_s: seconds that do not depend on the work; 0 where there were too few points.
        worst: largest relative distance of a point from the curve.
    """

    exponent: float
    constant_s: float
    startup_s: float
    worst: float

    def seconds(self, work: float) -> float:
        """Cost of some work by the curve."""
        power: float = work**self.exponent
        return self.startup_s + self.constant_s * power


def fit_power_law(work: Sequence[float], seconds: Sequence[float]) -> PowerLaw:
    """Fit by least squares of the relative errors.

    For a given exponent the model is linear in the other two, neither of them negative, so every
    exponent in steps of 0.005 is tried, and no start value can lead astray.

    Args:
        work: positive and different from one another, at least two.
        seconds: positive.

    Raises:
        ValueError: there are fewer than two points, or one is not positive.
    """
    if len(work) < 2 or len(set(work)) < len(work):
        raise ValueError(f"a fit needs two or more different amounts of work, got {list(work)}")
    if min(work) <= 0 or min(seconds) <= 0:
        raise ValueError(f"work and seconds must be positive, got {list(work)} and {list(seconds)}")
    x, y = np.asarray(work, float), np.asarray(seconds, float)
    with_startup = len(x) >= _FEWEST_FOR_STARTUP
    tried = []
    for exponent in _EXPONENTS.tolist():
        power = x**exponent / y
        # Without growth the start-up and the constant would be the same thing.
        startup = 1 / y if with_startup and exponent > 0 else np.zeros_like(y)
        found, residual = scipy.optimize.nnls(np.stack([power, startup], axis=1), np.ones_like(y))
        # Rounded, so that of exponents that fit alike the smallest is taken.
        tried.append((round(float(residual), 12), exponent, *found.tolist()))
    _, exponent, constant_s, startup_s = min(tried)
    law = PowerLaw(exponent, constant_s, startup_s, 0.0)
    worst = max(abs(law.seconds(a) / b - 1) for a, b in zip(x, y, strict=True))
    return law._replace(worst=float(worst))
