"""The block of temperatures: mIoU and calibration at each, and which is preferred by which."""

from typing import NamedTuple

from markupsafe import Markup

from engine.report.page import plots
from engine.report.page.plots import Bins
from engine.selection.calibration import Calibration, TemperatureCalibration
from engine.selection.records import AT_LABELS, TemperatureChoice


class HeatRow(NamedTuple):
    """A temperature; what was not measured is None."""

    temperature: float | None
    miou: float | None
    pixel_acc: float | None
    nll: float | None
    ece: float | None
    chosen: bool


class HeatBlock(NamedTuple):
    """What is shown of temperatures."""

    told: str
    plot: Markup | None
    reliability: Markup | None
    rows: list[HeatRow]


def heat_block(choice: TemperatureChoice) -> HeatBlock:
    """The block of what `temperature.json` holds."""
    found = choice.calibration
    rows = []
    for one in choice.scores:
        at = None if found is None else found.at(one.temperature)
        nll, ece = (None, None) if at is None else (at.nll, at.ece)
        chosen = one.temperature == choice.best
        rows.append(HeatRow(one.temperature, one.miou, one.pixel_acc, nll, ece, chosen))
    why = "the config says so" if choice.chosen_by == "config" else f"its {AT_LABELS} is the best"
    told = f"Probabilities are softmax(logits / T). T = {choice.best:g} is in use: {why}. "
    told += _calibration_told(found, choice.best)
    points = [
        (one.temperature, row.miou, row.nll) for one, row in zip(choice.scores, rows, strict=True)
    ]
    plot = plots.temperatures(points, choice.best, "heat") if len(rows) > 1 else None
    return HeatBlock(told, plot, reliability(found, choice.best), rows)


def reliability(found: Calibration | None, chosen: float | None) -> Markup | None:
    """Reliability at the temperature in use and, if it is another, at that of the lowest NLL."""
    if found is None:
        return None
    shown = [found.at(chosen)]
    if found.best_nll != chosen:
        shown.append(found.at(found.best_nll))
    return plots.reliability([_bins(one) for one in shown], "reliability")


def _calibration_told(found: Calibration | None, chosen: float) -> str:
    if found is None:
        return "Calibration (NLL, ECE): not measured."
    told = f"NLL and ECE are of {found.pixels:,} sampled pixels. "
    if found.best_nll is None or found.best_nll == chosen:
        return f"{told}NLL prefers the same temperature."
    best, used = found.at(found.best_nll), found.at(chosen)
    return (
        f"{told}NLL prefers T = {found.best_nll:g}: {best.nll:.4f} there, {used.nll:.4f} at "
        f"T = {chosen:g}."
    )


def _bins(found: TemperatureCalibration) -> Bins:
    temperature = "" if found.temperature is None else f"T = {found.temperature:g}, "
    return Bins(
        f"{temperature}ECE {found.ece:.3f}",
        [one.count for one in found.bins],
        [one.confidence for one in found.bins],
        [one.accuracy for one in found.bins],
    )
