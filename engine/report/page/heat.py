"""The block of temperatures: mIoU and calibration at each, and which is preferred by which."""

from typing import NamedTuple

from markupsafe import Markup

from engine.report.page import plots
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
    rows = [
        HeatRow(
            one.temperature, one.miou, one.pixel_acc, None, None, one.temperature == choice.best
        )
        for one in choice.scores
    ]
    why = "the config says so" if choice.chosen_by == "config" else f"its {AT_LABELS} is the best"
    told = f"Probabilities are softmax(logits / T). T = {choice.best:g} is in use: {why}. "
    told += "Calibration (NLL, ECE): not measured."
    points = [
        (one.temperature, row.miou, row.nll) for one, row in zip(choice.scores, rows, strict=True)
    ]
    plot = plots.temperatures(points, choice.best, "heat") if len(rows) > 1 else None
    return HeatBlock(told, plot, None, rows)
