"""How far probabilities are what they say: calibration, on a fixed sample of labelled pixels.

Of the probabilities that are used for prediction, the mean over views and networks, at the labels'
resolution; the sample is that of `engine.views.sampled`. Two figures: NLL, the mean of -log p of
the label; and ECE, the expected calibration error, the mean over pixels of the distance between
confidence and accuracy of their bin (Naeini et al., "Obtaining Well Calibrated Probabilities Using
Bayesian Binning", AAAI 2015).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from engine.rundir import Record
from engine.views.records import CalibrationCounts


class Bin(Record):
    """The sampled pixels whose prediction's probability is in one of equal parts of 0 .. 1."""

    count: int
    confidence: float | None
    """Their mean probability of the predicted class; None without pixels."""
    accuracy: float | None
    """The share of them that is right; a tie with the label's class is."""


class TemperatureCalibration(Record):
    """What one temperature reaches."""

    temperature: float | None
    """None for a blend of runs that have different ones."""
    nll: float
    """Nats a pixel; a probability below 1.2e-38 counts as that."""
    ece: float
    bins: list[Bin]
    """15, from confidence 0 to 1; each with its upper end."""


class Calibration(Record):
    """The calibration at each temperature."""

    pixels: int
    """Sampled pixels that have a label."""
    best_nll: float | None
    """The temperature of the lowest NLL, the first of equals; None as above."""
    temperatures: list[TemperatureCalibration]

    def at(self, temperature: float | None) -> TemperatureCalibration:
        """That of one of the temperatures."""
        return next(one for one in self.temperatures if one.temperature == temperature)


def calibration_of(
    temperatures: Sequence[float | None], parts: Sequence[CalibrationCounts | None]
) -> Calibration | None:
    """The calibration of all parts together, such as folds, each counted at T temperatures.

    None, "not measured", if one of them was not counted, by an older release, or if no sampled
    pixel has a label.
    """
    counted = [part for part in parts if part is not None]
    pixels = sum(part.pixels for part in counted)
    if len(counted) < len(parts) or not pixels:
        return None
    loss_T = np.sum([part.loss for part in counted], axis=0)
    count_TK = np.sum([part.count for part in counted], axis=0)
    right_TK = np.sum([part.right for part in counted], axis=0)
    confidence_TK = np.sum([part.confidence for part in counted], axis=0)
    found = []
    for t, temperature in enumerate(temperatures):
        rows = zip(count_TK[t].tolist(), confidence_TK[t], right_TK[t], strict=True)
        bins = [
            Bin(count=n, confidence=float(c / n) if n else None, accuracy=r / n if n else None)
            for n, c, r in rows
        ]
        ece = float(np.abs(confidence_TK[t] - right_TK[t]).sum() / pixels)
        nll = float(loss_T[t] / pixels)
        found.append(TemperatureCalibration(temperature=temperature, nll=nll, ece=ece, bins=bins))
    best = min(found, key=lambda one: one.nll).temperature
    return Calibration(pixels=pixels, best_nll=best, temperatures=found)


def why_not(counts: Mapping[int, CalibrationCounts | None]) -> str:
    """Why `calibration_of` these counts, by fold, is None."""
    before = " ".join(str(fold) for fold, part in counts.items() if part is None)
    if not before:
        return "no sampled pixel has a label"
    return f"an older release predicted, or began, folds {before}"
