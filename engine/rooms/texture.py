"""Procedural textures: the colour of a surface at the metric coordinates of one of its faces.

P: pixels. Only arithmetic that rounds the same everywhere is used: no sine, power or logarithm.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
"""float32 throughout."""

Table = NDArray[np.void]
"""Looks and places of surfaces, to be gathered by pixel."""

Numbers = NDArray[np.int32]
"""Surfaces by pixel."""


class _Spot:
    """Pixels of one pattern: where they are on their faces, and the looks of their surfaces."""

    def __init__(self, table: Table, surface: Numbers, where: Floats) -> None:
        self.u, self.v, self.half_u, self.half_v = where
        self.colour, self.second = table["colour"][surface].T, table["second"][surface].T
        self.scale, self.seed = table["scale"][surface], surface.astype(np.uint32)
        # In units of the scale, from which most patterns repeat.
        self.times_u, self.times_v = self.u / self.scale, self.v / self.scale
        # Metres to the nearest edge of the face.
        self.edge = np.minimum(self.half_u - np.abs(self.u), self.half_v - np.abs(self.v))

    def noise(self, along_u: float | Floats, along_v: float | Floats, layer: int = 0) -> Floats:
        """Return (P,) smooth noise in 0..1 with cells of the given sizes in metres.

        It is bilinear between random values of the cells' corners, eased; another layer has others.
        """
        x, y, seed = self.u / along_u, self.v / along_v, self.seed + np.uint32(layer)
        left, low = np.floor(x), np.floor(y)
        in_x, in_y = (part * part * (3 - 2 * part) for part in (x - left, y - low))
        bottom, top = (
            _hash(left, row, seed) * (1 - in_x) + _hash(left + 1, row, seed) * in_x
            for row in (low, low + 1)
        )
        value: Floats = bottom * (1 - in_y) + top * in_y
        return value

    def random(self, row: Floats, column: Floats | float = 0.0) -> Floats:
        """Return (P,) uniform in 0..1, one number for each cell of the face."""
        return _hash(row, np.broadcast_to(np.float32(column), row.shape), self.seed)


def paint(table: Table, surface: Numbers, where: Floats) -> Floats:
    """Colour every pixel.

    Args:
        table: looks by surface: fields pattern (a place in `PATTERNS`), colour, second and scale.
        surface: (P,) surface of each pixel.
        where: (4, P) in metres: u and v from the middle of the face (v is upwards on upright
            faces), and half the size of the face along u and v.

    Returns:
        Albedo (3, P) in 0..1.
    """
    albedo = np.empty((3, len(surface)), np.float32)
    pattern = table["pattern"][surface]
    for number, painter in enumerate(_PAINTERS.values()):
        place = np.flatnonzero(pattern == number)
        if len(place):
            albedo[:, place] = painter(_Spot(table, surface[place], where[:, place]))
    return np.clip(albedo, 0, 1, out=albedo)


def _plain(spot: _Spot) -> Floats:
    return spot.colour * (0.88 + 0.24 * spot.noise(spot.scale, spot.scale))


def _planks(spot: _Spot) -> Floats:
    row, length = np.floor(spot.times_v), 6 * spot.scale
    tone = spot.random(row, np.floor((spot.u + length * spot.random(row)) / length))
    seam = np.abs(spot.times_v - row - 0.5) > 0.46
    return spot.colour * (0.65 + 0.3 * tone + 0.2 * spot.noise(0.3, 0.012)) * np.where(seam, 0.6, 1)


def _tiles(spot: _Spot) -> Floats:
    row, column = np.floor(spot.times_v), np.floor(spot.times_u)
    in_u, in_v = spot.times_u - column, spot.times_v - row
    grout = np.maximum(np.abs(in_u - 0.5), np.abs(in_v - 0.5)) > 0.465
    tone = 0.85 + 0.15 * spot.random(row, column) - 0.12 * ((row + column) % 2)
    return np.where(grout, np.float32(0.45), spot.colour * tone)


def _carpet(spot: _Spot) -> Floats:
    return spot.colour * (0.6 + 0.55 * spot.noise(0.025, 0.025) + 0.15 * spot.noise(0.4, 0.4))


def _drawers(spot: _Spot) -> Floats:
    rows = np.maximum(1, np.rint(2 * spot.half_v / spot.scale))
    height = (spot.v / spot.half_v + 1) / 2 * rows
    # Metres from the middle line of the drawer.
    off = np.abs(height - np.floor(height) - 0.5) * 2 * spot.half_v / rows
    groove = (off > spot.half_v / rows - 0.012) | (np.abs(spot.u) > spot.half_u - 0.015)
    handle = (np.abs(spot.u) < 0.06) & (off < 0.014)
    wood = spot.colour * (0.85 + 0.25 * spot.noise(0.25, 0.02))
    return np.where(handle, spot.second, wood * np.where(groove, 0.5, 1))


def _spines(spot: _Spot) -> Floats:
    # A stack lies flat: its spines run along the shorter side of a face.
    flat = (spot.half_u > 3 * spot.half_v) & (spot.half_v < 0.085)
    along = np.where(flat, spot.v, spot.u)
    across = np.where(flat, spot.u / spot.half_u, spot.v / spot.half_v)
    book = np.floor(along / spot.scale)
    inside = along / spot.scale - book
    *rgb, tone, title, page = (spot.random(book, trait) for trait in range(6))
    colour = 0.08 + 0.84 * np.stack(rgb) * (0.4 + 0.6 * tone)
    titled = np.abs(across - 0.2) < 0.22 * title
    gap = (np.abs(inside - 0.5) > 0.42) | (across > 0.6 + 0.8 * page)
    return np.where(gap, 0.04, np.where(titled, 0.25 + 0.7 * colour[::-1], colour))


def _plaid(spot: _Spot) -> Floats:
    mix = 0.5 * (spot.times_u % 1 < 0.35) + 0.5 * (spot.times_v % 1 < 0.35)
    cloth: Floats = spot.colour * (1 - mix) + spot.second * mix
    return cloth * (0.9 + 0.2 * spot.noise(0.03, 0.03))


def _picture(spot: _Spot) -> Floats:
    ground = spot.noise(spot.scale, spot.scale)
    detail = spot.noise(0.05, 0.05, layer=99)
    third = spot.second[::-1] * (0.5 + 0.7 * detail)
    scene = np.where(ground > 0.55, spot.colour * (0.7 + 0.5 * detail), third)
    scene = np.where(detail * ground > 0.45, 0.9 - 0.5 * spot.colour, scene)
    mat = np.where(spot.edge < 0.09, np.float32(0.9), scene)
    return np.where(spot.edge < 0.035, spot.second * 0.4, mat)


def _screen(spot: _Spot) -> Floats:
    sheen = np.clip(0.5 + 0.5 * spot.u / spot.half_u + 0.4 * spot.v / spot.half_v, 0, 1)
    glass = 0.02 + 0.09 * sheen + 0.3 * spot.colour
    return np.where(spot.edge < spot.scale, np.float32(0.012), glass)


def _window(spot: _Spot) -> Floats:
    bar = (spot.edge < spot.scale) | (np.minimum(np.abs(spot.u), np.abs(spot.v)) < 0.02)
    height = 0.5 + 0.5 * spot.v / spot.half_v
    sky = np.array([[0.62], [0.78], [0.98]], np.float32) * (0.75 + 0.3 * height)
    trees = np.array([[0.2], [0.36], [0.15]], np.float32) * (0.5 + spot.noise(0.08, 0.08))
    view = np.where(spot.noise(0.3, 0.3) * 0.6 > height, trees, sky)
    return np.where(bar, spot.colour * 0.75, view)


def _blinds(spot: _Spot) -> Floats:
    return spot.colour * np.where(spot.edge < 0.03, 0.6, 0.65 + 0.35 * (spot.times_v % 1))


def _fabric(spot: _Spot) -> Floats:
    seam = np.abs(np.abs(spot.times_u % 1 - 0.5) - 0.5) * spot.scale < 0.012
    weave = 0.78 + 0.3 * spot.noise(0.02, 0.02) + 0.12 * spot.noise(0.15, 0.15)
    return spot.colour * weave * np.where(seam, 0.65, 1)


_PAINTERS: dict[str, Callable[[_Spot], Floats]] = {
    "plain": _plain, "planks": _planks, "tiles": _tiles, "carpet": _carpet, "drawers": _drawers,
    "spines": _spines, "plaid": _plaid, "picture": _picture, "screen": _screen, "window": _window,
    "blinds": _blinds, "fabric": _fabric,
}  # fmt: skip
"""How each pattern is painted: albedo (3, P) of a spot, not yet clipped."""

PATTERNS = tuple(_PAINTERS)
"""Names of the procedural textures, by number."""

GLOW = {"window": 1.0, "blinds": 0.8, "screen": 0.5}
"""The least shade of the patterns that shine, as a share of full light: seen in a dark room too."""


def _hash(x: Floats, y: Floats, seed: NDArray[np.uint32]) -> Floats:
    """Return (P,) uniform in 0..1 from whole numbers: a multiply-xorshift mix."""
    mixed = x.astype(np.int32).view(np.uint32) * np.uint32(0x9E3779B1)
    mixed ^= y.astype(np.int32).view(np.uint32) * np.uint32(0x85EBCA77)
    mixed ^= seed * np.uint32(0xC2B2AE3D)
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(15)
    return (mixed >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
