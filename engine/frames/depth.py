"""How the values of a depth map are spread: what tells the unit that it counts in.

H W: pixels of a frame.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAR_M, FAR_M = 0.3, 10.0
"""Indoors hardly a pixel is nearer or farther: no sensor measures nearer, few rooms are longer."""

_MOST = 65535  # what a sensor or a conversion clips to

_SAMPLED = 1 << 14
"""Pixels of a map that are looked at, at least: the spread of all, in a tenth of the time."""


@dataclass(frozen=True)
class DepthSpread:
    """The spread of a map's values, of a regular part of its pixels."""

    known: int
    """Pixels with a depth."""
    near: int
    """Of them, nearer than 0.3 m."""
    far: int
    """Of them, beyond 10 m."""
    low: int
    """Value with a twentieth of the known pixels below it; 0 where none is known, as what follows.
    """
    middle: int
    """The median."""
    high: int
    """Value with a twentieth of the known pixels above it."""
    most: int
    """The largest."""
    at_most: int
    """Pixels that have it."""
    distinct: int
    """Number of values, 0 not among them."""
    divisor: int
    """The largest number that divides all values below 65535."""


def spread_of(depth_HW: NDArray[np.uint16], scale_m: float) -> DepthSpread:
    """How a map's values are spread, of units of `scale_m` metres; 0 is missing."""
    step = max(1, math.isqrt(depth_HW.size // _SAMPLED))
    sorted_P = np.sort(depth_HW[::step, ::step], axis=None)
    sorted_P = sorted_P[np.searchsorted(sorted_P, 1) :]
    known = len(sorted_P)
    if not known:
        return DepthSpread(*[0] * 10)
    values_K = sorted_P[np.flatnonzero(np.diff(sorted_P, prepend=np.uint16(0)))]
    near = np.searchsorted(sorted_P, NEAR_M / scale_m)
    far = known - np.searchsorted(sorted_P, FAR_M / scale_m, side="right")
    low, middle, high = (int(sorted_P[known * part // 20]) for part in (1, 10, 19))
    divisor = int(np.gcd.reduce(values_K[values_K < _MOST], initial=0))
    at_most = known - int(np.searchsorted(sorted_P, sorted_P[-1]))
    spread = low, middle, high, int(sorted_P[-1]), at_most, len(values_K), divisor
    return DepthSpread(known, int(near), int(far), *spread)
