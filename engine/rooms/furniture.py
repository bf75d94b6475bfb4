"""Random furniture: each item is a few boxes with a class and a look.

An item is built around the origin of its own floor plan, its back towards -y, then turned by a yaw
and moved to its place. All lengths are metres. Every draw comes from one generator, in the order in
which the code reads.
"""

import colorsys
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, SupportsIndex

from numpy.random import Generator

from engine.rooms.scene import UNLABELLED, Box, Colour, Surface, Vector

Place = tuple[float, float, float]
"""x, y and the yaw of an item in its room."""

Ends = tuple[float, float]
"""The ends of what a number is drawn from."""


class Item(NamedTuple):
    """Furniture around its own origin: half its floor plan, and its parts."""

    half_x: float
    half_y: float
    parts: list[Box]


Maker = Callable[[Generator], Item]
"""Draws an item."""

_CLOTHS = ("plaid", "fabric")
"""Patterns of covers and cushions."""

_ANY_VALUE = (0.25, 0.85)
"""HSV values where none is asked for: neither black nor glaring."""


def colour(
    random: Generator, hue: Ends = (0, 1), saturation: Ends = (0.15, 0.7), value: Ends = _ANY_VALUE
) -> Colour:
    """Draw a colour within ranges of hue, saturation and value."""
    h, s, v = (random.uniform(*ends) for ends in (hue, saturation, value))
    return colorsys.hsv_to_rgb(h % 1, s, v)


wood = partial(colour, hue=(0.03, 0.13), saturation=(0.25, 0.65), value=(0.2, 0.8))
"""Draws a brown."""

_vivid = partial(colour, saturation=(0.4, 0.95))
"""Draws the colour of a thing that was made to be seen."""


def surface(
    random: Generator, pattern: str, first: Colour | None = None, scale: float = 0.2
) -> Surface:
    """Draw a look; a colour that is not given is any."""
    return Surface(pattern, first or colour(random), colour(random), scale)


def front(random: Generator, kind: str) -> Surface:
    """Draw the look of what hangs on a wall: a window, a picture or a tv."""
    if kind == "window":
        pattern = "blinds" if random.random() < 0.3 else "window"
        return surface(random, pattern, (0.9, 0.9, 0.88), random.uniform(0.05, 0.08))
    if kind == "picture":
        return surface(random, "picture", scale=random.uniform(0.1, 0.3))
    return _dark_screen(random)


def placed(parts: Sequence[Box], place: Place, item: int) -> Iterator[Box]:
    """Turn parts by the yaw of a place about the origin and move them there, as one item."""
    x, y, yaw = place
    cos, sin = math.cos(yaw), math.sin(yaw)
    for part in parts:
        px, py, pz = part.centre
        centre = (x + cos * px - sin * py, y + sin * px + cos * py, pz)
        yield part._replace(centre=centre, yaw=part.yaw + yaw, item=item)


def either(first: Maker, probability: float, second: Maker) -> Maker:
    """Return what draws the first with this probability, else the second."""
    return lambda random: (first if random.random() < probability else second)(random)


def nothing(_: Generator) -> Item:
    """Return an item without parts."""
    return Item(0, 0, [])


def bed(random: Generator) -> Item:
    """Draw a bed with cover and pillows."""
    x, y, top = random.uniform(0.5, 0.9), random.uniform(0.95, 1.05), random.uniform(0.4, 0.55)
    frame = surface(random, "plain", wood(random))
    cover = surface(random, _CLOTHS[random.integers(2)], scale=0.3)
    white = colour(random, saturation=(0.0, 0.15), value=(0.75, 0.95))
    sheet, head = surface(random, "fabric", white), random.uniform(0.75, 1.1) / 2
    mattress = (x - 0.03, y - 0.03, (top - 0.28) / 2)
    parts = [
        Box((0, 0, 0.14), (x, y, 0.14), "bed", frame),
        Box((0, 0, (top + 0.28) / 2), mattress, "bed", sheet),
        Box((0, 0.3, top - 0.06), (x + 0.03, y - 0.27, 0.1), "bed", cover),
        Box((0, -y, head), (x + 0.03, 0.04, head), "bed", frame),
        *_pair((0.5 * x, -y + 0.3, top + 0.07), (0.4 * x, 0.2, 0.07), "bed", sheet),
    ]
    return Item(x + 0.05, y + 0.05, parts)


def sofa(random: Generator) -> Item:
    """Draw a sofa, perhaps with cushions."""
    x, y, seat = random.uniform(0.7, 1.1), random.uniform(0.4, 0.5), random.uniform(0.38, 0.46)
    cloth = surface(random, "fabric", scale=0.6)
    cushion = surface(random, _CLOTHS[random.integers(2)], scale=0.12)
    parts = [
        Box((0, 0, seat / 2 + 0.03), (x, y, seat / 2 - 0.03), "sofa", cloth),
        Box((0, -y + 0.1, 0.43), (x, 0.12, 0.42), "sofa", cloth),
        *_pair((x - 0.1, 0, 0.31), (0.1, y, 0.3), "sofa", cloth),
    ]
    for along in random.uniform(-0.6, 0.6, random.integers(0, 3)).tolist():
        centre = (along * x, -y + 0.3, seat + 0.15)
        parts.append(Box(centre, (0.17, 0.07, 0.15), "sofa", cushion))
    return Item(x, y, parts)


def chair(random: Generator) -> Item:
    """Draw a chair with slats or a back rest."""
    side, seat = random.uniform(0.2, 0.26), random.uniform(0.42, 0.48)
    frame = surface(random, "plain", wood(random) if random.random() < 0.6 else None)
    pad = surface(random, "fabric") if random.random() < 0.5 else frame
    parts = _legs((side, side, seat), 0.025, "chair", frame)
    parts.append(Box((0, 0, seat), (side, side, 0.035), "chair", pad))
    back, y = random.uniform(0.2, 0.3), -side + 0.02
    parts += _pair((0.8 * side, y, seat + back), (0.025, 0.02, back), "chair", frame)
    # Three slats or one pad: their heights and half their size, in halves of the back.
    heights, rise = ((0.7, 1.3, 1.9), 0.2) if random.random() < 0.5 else ((1.25,), 0.7)
    slat = (side, 0.02, back * rise)
    parts += [Box((0, y, seat + height * back), slat, "chair", pad) for height in heights]
    return Item(side, side, parts)


def table(random: Generator, height: Ends = (0.7, 0.78)) -> Item:
    """Draw a table with things on it, its height within a range."""
    x, y, top = random.uniform(0.5, 0.85), random.uniform(0.3, 0.45), random.uniform(*height)
    pattern = "planks" if random.random() < 0.5 else "plain"
    look = surface(random, pattern, wood(random), 0.15)
    parts = _legs((x - 0.04, y - 0.04, top), 0.035, "table", look)
    parts.append(Box((0, 0, top), (x, y, 0.03), "table", look))
    return Item(x, y, [*parts, *_things(random, (x, y, top + 0.03), random.integers(1, 5))])


low_table = partial(table, height=(0.38, 0.48))
"""Draws a table to sit at on a sofa."""


def desk(random: Generator) -> Item:
    """Draw a table with a screen on it."""
    bare = table(random)
    screen = placed(_screen(random, 0.78), (0, -0.1, 0), item=0)
    return bare._replace(parts=[*bare.parts, *screen])


def table_with_chairs(random: Generator) -> Item:
    """Draw a table with up to two chairs on each long side."""
    middle, seat = table(random), chair(random)
    parts, reach = middle.parts, middle.half_y + random.uniform(0.1, 0.3)
    for side, facing in ((-1, 0.0), (1, math.pi)):
        for x in (-0.5 * middle.half_x, 0.5 * middle.half_x):
            if random.random() < 0.85:
                yaw = facing + random.uniform(-0.3, 0.3)
                parts += placed(seat.parts, (x, side * reach, yaw), item=0)
    return Item(middle.half_x + 0.1, reach + 0.25, parts)


def cabinet(random: Generator, height: Ends = (0.5, 1.0)) -> Item:
    """Draw a cabinet with things on it, its height within a range."""
    x, y, top = random.uniform(0.3, 0.7), random.uniform(0.2, 0.3), random.uniform(*height)
    look = surface(random, "drawers", wood(random), random.uniform(0.2, 0.45))
    body = Box((0, 0, top / 2), (x, y, top / 2), "furniture", look)
    return Item(x, y, [body, *_things(random, (x, y, top), random.integers(0, 4))])


wardrobe = partial(cabinet, height=(1.5, 2.1))
"""Draws a cabinet as high as a person."""


def television(random: Generator) -> Item:
    """Draw a low cabinet with a television on it."""
    x, y, half = random.uniform(0.5, 0.7), random.uniform(0.2, 0.25), random.uniform(0.2, 0.35)
    body = cabinet(random).parts[0]._replace(centre=(0, 0, half), half=(x, y, half))
    return Item(x, y, [body, *_screen(random, 2 * half)])


def shelf(random: Generator) -> Item:
    """Draw a shelf, mostly full of books."""
    x, y, rows, step = random.uniform(0.35, 0.6), 0.16, int(random.integers(3, 6)), 0.36
    look, half = surface(random, "plain", wood(random)), (rows * step + 0.04) / 2
    parts = [Box((0, -y + 0.01, half), (x, 0.01, half), "furniture", look)]
    parts += _pair((x, 0, half), (0.02, y, half), "furniture", look)
    boards = [row * step + 0.02 for row in range(rows + 1)]
    parts += [Box((0, 0, z), (x, y, 0.02), "furniture", look) for z in boards]
    for row in range(rows):
        width = x * random.uniform(0.4, 0.97)
        left, rise = random.uniform(-x + width, x - width), random.uniform(0.11, 0.14)
        if random.random() < 0.85:
            spines = surface(random, "spines", scale=random.uniform(0.03, 0.05))
            centre = (left, -0.02, row * step + 0.04 + rise)
            parts.append(Box(centre, (width, 0.11, rise), "books", spines))
        else:
            parts += _things(random, (x * 0.7, y, row * step + 0.04), 2)
    return Item(x + 0.02, y, parts)


def floor_thing(random: Generator) -> Item:
    """Draw a box, a bin or a plant; some carry no label."""
    x, y, rise = random.uniform(0.12, 0.28), random.uniform(0.12, 0.28), random.uniform(0.1, 0.35)
    vivid = _vivid(random, value=(0.3, 0.9))
    # Part of the clutter carries no label, as in recorded data.
    label = UNLABELLED if random.random() < 0.3 else "objects"
    parts = [Box((0, 0, rise), (x, y, rise), label, surface(random, "plain", vivid, 0.08))]
    if random.random() < 0.4:
        green = colour(random, (0.22, 0.4), (0.4, 0.9), (0.2, 0.6))
        leaves, half = surface(random, "carpet", green, 0.05), (1.2 * x, 1.2 * y, 0.2)
        parts.append(Box((0.0, 0.0, 2 * rise + 0.2), half, label, leaves, yaw=0.6))
    return Item(1.3 * x, 1.3 * y, parts)


ROOMS: tuple[tuple[tuple[Maker, ...], ...], ...] = (
    ((bed, cabinet, wardrobe, either(television, 0.6, shelf), either(table, 0.7, cabinet)),
     (chair,)),
    ((sofa, television, shelf, either(sofa, 0.5, nothing)), (low_table,),
     (either(wardrobe, 0.5, cabinet),), (chair,)),
    ((desk, shelf, shelf, either(wardrobe, 0.5, cabinet)), (chair, either(table, 0.5, chair))),
    ((), (table_with_chairs,), (cabinet, either(sofa, 0.5, wardrobe), either(bed, 0.25, shelf),
     either(television, 0.5, cabinet))),
)  # fmt: skip
"""Bedroom, living room, office and dining room: what stands at walls, then free, at walls, ..."""


def _dark_screen(random: Generator) -> Surface:
    """Draw the look of a screen that is off."""
    return surface(random, "screen", colour(random, value=(0.03, 0.12)), 0.03)


def _screen(random: Generator, z: float) -> list[Box]:
    """Draw a screen that stands at height `z`."""
    x = random.uniform(0.32, 0.55)
    y, look = 0.62 * x, _dark_screen(random)
    stand = Box((0, 0, z + 0.03), (0.3 * x, 0.1, 0.03), "tv", look)
    return [stand, Box((0, 0, z + 0.06 + y), (x, 0.035, y), "tv", look)]


def _things(random: Generator, top: Vector, count: SupportsIndex) -> Iterator[Box]:
    """Draw `count` things on a top: half its size along x and y, and its height."""
    for _ in range(count):
        x, y, z = random.uniform(-0.8, 0.8) * top[0], random.uniform(-0.6, 0.6) * top[1], top[2]
        kind = random.random()
        if kind < 0.3:
            rise, spines = random.uniform(0.03, 0.08), surface(random, "spines", scale=0.03)
            half = (random.uniform(0.1, 0.15), random.uniform(0.08, 0.12), rise)
            yield Box((x, y, z + rise), half, "books", spines)
        elif kind < 0.5:
            shade, pole = surface(random, "fabric", scale=0.05), surface(random, "plain")
            yield Box((x, y, z + 0.13), (0.02, 0.02, 0.13), "objects", pole)
            yield Box((x, y, z + 0.33), (0.11, 0.11, 0.09), "objects", shade)
        else:
            half_x, half_y = random.uniform(0.04, 0.13), random.uniform(0.04, 0.1)
            half = (half_x, half_y, random.uniform(0.05, 0.17))
            look = surface(random, "plain", _vivid(random, value=(0.4, 0.95)), 0.05)
            yield Box((x, y, z + half[2]), half, "objects", look)


def _legs(size: Vector, half: float, label: str, look: Surface) -> list[Box]:
    """Return four legs under a top of half size x, y at a height."""
    x, y, height = size
    places = [(sx * (x - half), sy * (y - half)) for sx in (-1, 1) for sy in (-1, 1)]
    return [Box((*p, height / 2), (half, half, height / 2), label, look) for p in places]


def _pair(right: Vector, half: Vector, label: str, look: Surface) -> list[Box]:
    """Return two equal boxes, left and right of the middle."""
    x, y, z = right
    return [Box((-x, y, z), half, label, look), Box((x, y, z), half, label, look)]
