"""Random furniture: each item is a few boxes with a class and a look.

An item is built around the origin of its own floor plan, its back towards -y, then turned by a yaw
and moved to its place. All lengths are metres.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from engine.rooms.scene import UNLABELLED, Box, Colour, Surface, Vector

Place = tuple[float, float, float]
"""x, y and the yaw of an item in its room."""


class Item(NamedTuple):
    """Furniture around its own origin: half its floor plan, and its parts."""

    half_x: float
    half_y: float
    parts: list[Box]


class Maker:
    """Random furniture; every draw comes from one generator."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random

    def between(self, low: float, high: float) -> float:
        """Return a number between two others."""
        return float(self.random.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return bool(self.random.random() < probability)

    def colour(
        self,
        hue: tuple[float, float] = (0.0, 1.0),
        saturation: tuple[float, float] = (0.15, 0.7),
        value: tuple[float, float] = (0.25, 0.85),
    ) -> Colour:
        """Return a colour within ranges of hue, saturation and value."""
        return colorsys.hsv_to_rgb(
            self.between(*hue) % 1, self.between(*saturation), self.between(*value)
        )

    def wood(self) -> Colour:
        """Return a brown."""
        return self.colour((0.03, 0.13), (0.25, 0.65), (0.2, 0.8))

    def surface(self, pattern: str, colour: Colour | None = None, scale: float = 0.2) -> Surface:
        """Return a look; a colour that is not given is any."""
        return Surface(pattern, colour or self.colour(), self.colour(), scale)

    def dark_screen(self) -> Surface:
        """Return the look of a screen that is off."""
        return self.surface("screen", self.colour(value=(0.03, 0.12)), 0.03)

    def bed(self) -> Item:
        """Return a bed with cover and pillows."""
        x, y, top = self.between(0.5, 0.9), self.between(0.95, 1.05), self.between(0.4, 0.55)
        wood = self.surface("plain", self.wood())
        cover = self.surface(str(self.random.choice(["plaid", "fabric"])), scale=0.3)
        sheet = self.surface("fabric", self.colour(saturation=(0.0, 0.15), value=(0.75, 0.95)))
        head = self.between(0.75, 1.1) / 2
        parts = [
            Box((0, 0, 0.14), (x, y, 0.14), "bed", wood),
            Box((0, 0, (top + 0.28) / 2), (x - 0.03, y - 0.03, (top - 0.28) / 2), "bed", sheet),
            Box((0, 0.3, top - 0.06), (x + 0.03, y - 0.27, 0.1), "bed", cover),
            Box((0, -y, head), (x + 0.03, 0.04, head), "bed", wood),
        ]
        pillows = [(side * x, -y + 0.3, top + 0.07) for side in (-0.5, 0.5)]
        parts += [Box(place, (0.4 * x, 0.2, 0.07), "bed", sheet) for place in pillows]
        return Item(x + 0.05, y + 0.05, parts)

    def sofa(self) -> Item:
        """Return a sofa, perhaps with cushions."""
        x, y, seat = self.between(0.7, 1.1), self.between(0.4, 0.5), self.between(0.38, 0.46)
        cloth = self.surface("fabric", scale=0.6)
        cushion = self.surface(str(self.random.choice(["plaid", "fabric"])), scale=0.12)
        parts = [
            Box((0, 0, seat / 2 + 0.03), (x, y, seat / 2 - 0.03), "sofa", cloth),
            Box((0, -y + 0.1, 0.43), (x, 0.12, 0.42), "sofa", cloth),
            *(Box((arm, 0, 0.31), (0.1, y, 0.3), "sofa", cloth) for arm in (-x + 0.1, x - 0.1)),
        ]
        for place in self.random.uniform(-0.6, 0.6, int(self.random.integers(0, 3))):
            centre = (float(place) * x, -y + 0.3, seat + 0.15)
            parts.append(Box(centre, (0.17, 0.07, 0.15), "sofa", cushion))
        return Item(x, y, parts)

    def chair(self) -> Item:
        """Return a chair with slats or a back rest."""
        side, seat = self.between(0.2, 0.26), self.between(0.42, 0.48)
        frame = self.surface("plain", self.wood() if self.chance(0.6) else None)
        pad = self.surface("fabric") if self.chance(0.5) else frame
        parts = _legs((side, side, seat), 0.025, "chair", frame)
        parts.append(Box((0, 0, seat), (side, side, 0.035), "chair", pad))
        back, y = self.between(0.2, 0.3), -side + 0.02
        for x in (-0.8 * side, 0.8 * side):
            parts.append(Box((x, y, seat + back), (0.025, 0.02, back), "chair", frame))
        # Three slats or one pad: their heights and half their size, in halves of the back.
        heights, rise = ((0.7, 1.3, 1.9), 0.2) if self.chance(0.5) else ((1.25,), 0.7)
        for height in heights:
            slat = (side, 0.02, back * rise)
            parts.append(Box((0, y, seat + height * back), slat, "chair", pad))
        return Item(side, side, parts)

    def table(self, height: tuple[float, float] = (0.7, 0.78)) -> Item:
        """Return a table with things on it, its height within a range."""
        x, y = self.between(0.5, 0.85), self.between(0.3, 0.45)
        top = self.between(*height)
        look = self.surface("planks" if self.chance(0.5) else "plain", self.wood(), 0.15)
        parts = _legs((x - 0.04, y - 0.04, top), 0.035, "table", look)
        parts.append(Box((0, 0, top), (x, y, 0.03), "table", look))
        parts += self.small_things(x, y, top + 0.03, int(self.random.integers(1, 5)))
        return Item(x, y, parts)

    def low_table(self) -> Item:
        """Return a table to sit at on a sofa."""
        return self.table(height=(0.38, 0.48))

    def desk(self) -> Item:
        """Return a table with a screen on it."""
        table = self.table()
        screen = placed(self.screen(0.78), (0.0, -0.1, 0.0), item=0)
        return table._replace(parts=table.parts + screen)

    def table_with_chairs(self) -> Item:
        """Return a table with up to two chairs on each long side."""
        table, chair = self.table(), self.chair()
        parts = list(table.parts)
        reach = table.half_y + self.between(0.1, 0.3)
        for side, facing in ((-1, 0.0), (1, math.pi)):
            for seat in (-0.5, 0.5):
                if self.chance(0.85):
                    yaw = facing + self.between(-0.3, 0.3)
                    parts += placed(chair.parts, (seat * table.half_x, side * reach, yaw), item=0)
        return Item(table.half_x + 0.1, reach + 0.25, parts)

    def cabinet(self, height: tuple[float, float] = (0.5, 1.0)) -> Item:
        """Return a cabinet with things on it, its height within a range."""
        x, y, half = self.between(0.3, 0.7), self.between(0.2, 0.3), self.between(*height) / 2
        look = self.surface("drawers", self.wood(), self.between(0.2, 0.45))
        parts = [Box((0, 0, half), (x, y, half), "furniture", look)]
        parts += self.small_things(x, y, 2 * half, int(self.random.integers(0, 4)))
        return Item(x, y, parts)

    def wardrobe(self) -> Item:
        """Return a cabinet as high as a person."""
        return self.cabinet(height=(1.5, 2.1))

    def shelf(self) -> Item:
        """Return a shelf, mostly full of books."""
        x, y, rows = self.between(0.35, 0.6), 0.16, int(self.random.integers(3, 6))
        wood = self.surface("plain", self.wood())
        step = 0.36
        half = (rows * step + 0.04) / 2
        parts = [Box((0, -y + 0.01, half), (x, 0.01, half), "furniture", wood)]
        parts += [Box((side, 0, half), (0.02, y, half), "furniture", wood) for side in (-x, x)]
        boards = [row * step + 0.02 for row in range(rows + 1)]
        parts += [Box((0, 0, z), (x, y, 0.02), "furniture", wood) for z in boards]
        for row in range(rows):
            width = x * self.between(0.4, 0.97)
            left, rise = self.between(-x + width, x - width), self.between(0.11, 0.14)
            if self.chance(0.85):
                spines = self.surface("spines", scale=self.between(0.03, 0.05))
                centre = (left, -0.02, row * step + 0.04 + rise)
                parts.append(Box(centre, (width, 0.11, rise), "books", spines))
            else:
                parts += self.small_things(x * 0.7, y, row * step + 0.04, 2)
        return Item(x + 0.02, y, parts)

    def television(self) -> Item:
        """Return a low cabinet with a television on it."""
        x, y, half = self.between(0.5, 0.7), self.between(0.2, 0.25), self.between(0.2, 0.35)
        body = replace(self.cabinet().parts[0], centre=(0, 0, half), half=(x, y, half))
        return Item(x, y, [body, *self.screen(2 * half)])

    def screen(self, z: float) -> list[Box]:
        """Return a screen that stands at height `z`."""
        x = self.between(0.32, 0.55)
        y, look = 0.62 * x, self.dark_screen()
        stand = Box((0, 0, z + 0.03), (0.3 * x, 0.1, 0.03), "tv", look)
        return [stand, Box((0, 0, z + 0.06 + y), (x, 0.035, y), "tv", look)]

    def small_things(self, half_x: float, half_y: float, z: float, count: int) -> list[Box]:
        """Return `count` things on a top of the given half size at height `z`."""
        parts: list[Box] = []
        for _ in range(count):
            x, y = self.between(-0.8, 0.8) * half_x, self.between(-0.6, 0.6) * half_y
            kind = self.random.random()
            if kind < 0.3:
                rise = self.between(0.03, 0.08)
                spines = self.surface("spines", scale=0.03)
                half = (self.between(0.1, 0.15), self.between(0.08, 0.12), rise)
                parts.append(Box((x, y, z + rise), half, "books", spines))
            elif kind < 0.5:
                shade, pole = self.surface("fabric", scale=0.05), self.surface("plain")
                parts.append(Box((x, y, z + 0.13), (0.02, 0.02, 0.13), "objects", pole))
                parts.append(Box((x, y, z + 0.33), (0.11, 0.11, 0.09), "objects", shade))
            else:
                half = (self.between(0.04, 0.13), self.between(0.04, 0.1), self.between(0.05, 0.17))
                vivid = self.colour(saturation=(0.4, 0.95), value=(0.4, 0.95))
                look = self.surface("plain", vivid, 0.05)
                parts.append(Box((x, y, z + half[2]), half, "objects", look))
        return parts

    def floor_thing(self) -> Item:
        """Return a box, a bin or a plant; some carry no label."""
        x, y, rise = self.between(0.12, 0.28), self.between(0.12, 0.28), self.between(0.1, 0.35)
        vivid = self.colour(saturation=(0.4, 0.95), value=(0.3, 0.9))
        # Part of the clutter carries no label, as in recorded data.
        label = UNLABELLED if self.chance(0.3) else "objects"
        parts = [Box((0, 0, rise), (x, y, rise), label, self.surface("plain", vivid, 0.08))]
        if self.chance(0.4):
            leaves = self.surface("carpet", self.colour((0.22, 0.4), (0.4, 0.9), (0.2, 0.6)), 0.05)
            centre = (0.0, 0.0, 2 * rise + 0.2)
            parts.append(Box(centre, (1.2 * x, 1.2 * y, 0.2), label, leaves, yaw=0.6))
        return Item(1.3 * x, 1.3 * y, parts)


def _legs(size: Vector, half: float, label: str, look: Surface) -> list[Box]:
    """Return four legs under a top of half size x, y at a height."""
    x, y, height = size
    places = [(sx * (x - half), sy * (y - half)) for sx in (-1, 1) for sy in (-1, 1)]
    return [Box((*p, height / 2), (half, half, height / 2), label, look) for p in places]


def placed(parts: Sequence[Box], place: Place, item: int) -> list[Box]:
    """Turn parts by the yaw of a place about the origin and move them there, as one item."""
    x, y, yaw = place
    cos, sin = math.cos(yaw), math.sin(yaw)
    moved = []
    for part in parts:
        px, py, pz = part.centre
        centre = (x + cos * px - sin * py, y + sin * px + cos * py, pz)
        moved.append(replace(part, centre=centre, yaw=part.yaw + yaw, item=item))
    return moved
