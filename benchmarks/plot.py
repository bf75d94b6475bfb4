"""The curves as a picture: cost against work, both sides, on logarithmic axes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks.fit import PowerLaw
from engine.rundir import whole_file

_SIZE, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 90, 30, 60, 70
"""Of one panel: side and margins, pixels."""

_OURS, _RIVAL, _INK, _GRID = (0, 102, 204), (204, 85, 0), (40, 40, 40), (220, 220, 220)
_LINE_POINTS = 60


def draw_curves(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw one panel a curve, side by side, as PNG; whole or not at all.

    Args:
        curves: of the published JSON, at least one.
        path: the file.
    """
    image = Image.new("RGB", (_SIZE * len(curves), _SIZE), "white")
    draw = ImageDraw.Draw(image)
    for position, curve in enumerate(curves):
        _Panel(draw, position * _SIZE, curve).draw()
    with whole_file(path) as temporary:
        image.save(temporary, format="PNG")


class _Panel:
    def __init__(self, draw: ImageDraw.ImageDraw, left: int, curve: dict[str, Any]) -> None:
        self.pen, self.left, self.curve = draw, left, curve
        self.font = ImageFont.load_default(size=14)
        self.work = [point["work"] for point in curve["points"]]
        seconds = [p[key] for p in curve["points"] for key in ("median_s", "rival_median_s")]
        self.low_s, self.high_s = 0.7 * min(seconds), 1.4 * max(seconds)

    def draw(self) -> None:
        """Axes, both sides' points and laws, a legend."""
        self._axes()
        for row, (key, fit, colour, name) in enumerate(
            (
                ("rival_median_s", "rival_fit", _RIVAL, self.curve["rival"]),
                ("median_s", "fit", _OURS, "ours"),
            )
        ):
            law = PowerLaw(**self.curve[fit])
            self._law(law, colour)
            for point in self.curve["points"]:
                x, y = self._at(point["work"], point[key])
                self.pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
            text = f"{name}: {law.startup_s:.2g} s + {law.constant_s:.2g} s x^{law.exponent:.2f}"
            self._text(self.left + _LEFT + 8, _TOP + 6 + 20 * row, text, colour)

    def _axes(self) -> None:
        title = f"{self.curve['row']}: seconds against {self.curve['unit']}"
        self._text(self.left + _LEFT, 24, title, _INK)
        right, bottom = self.left + _SIZE - _RIGHT, _SIZE - _BOTTOM
        self.pen.rectangle((self.left + _LEFT, _TOP, right, bottom), outline=_INK)
        for amount in self.work:
            x, _ = self._at(amount, self.low_s)
            self.pen.line((x, _TOP, x, bottom), fill=_GRID)
            self._text(x - 8, bottom + 8, str(amount), _INK)
        for seconds in _round_values(self.low_s, self.high_s):
            _, y = self._at(self.work[0], seconds)
            self.pen.line((self.left + _LEFT, y, right, y), fill=_GRID)
            self._text(self.left + 20, y - 8, f"{seconds:g} s", _INK)

    def _law(self, law: PowerLaw, colour: tuple[int, int, int]) -> None:
        first, last = math.log(min(self.work)), math.log(max(self.work))
        steps = [first + (last - first) * i / _LINE_POINTS for i in range(_LINE_POINTS + 1)]
        self.pen.line(
            [self._at(math.exp(step), law.seconds(math.exp(step))) for step in steps],
            fill=colour,
            width=2,
        )

    def _at(self, work: float, seconds: float) -> tuple[float, float]:
        right = _share(work, min(self.work), max(self.work))
        up = _share(seconds, self.low_s, self.high_s)
        x = self.left + _LEFT + 20 + right * (_SIZE - _LEFT - _RIGHT - 40)
        return x, _SIZE - _BOTTOM - up * (_SIZE - _TOP - _BOTTOM)

    def _text(self, x: float, y: float, text: str, colour: tuple[int, int, int]) -> None:
        self.pen.text((x, y), text, fill=colour, font=self.font)


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [value for value in values if low <= value <= high]
