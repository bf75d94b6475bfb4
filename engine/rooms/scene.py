"""What a room is: boxes with a class and a surface, a light, and where cameras stand in it.

World coordinates are metres: x and y along the floor, z up.
"""

from typing import NamedTuple

Colour = tuple[float, float, float]
Vector = tuple[float, float, float]

UNLABELLED = "unlabelled"
"""The label of a box that annotators left out."""


class Surface(NamedTuple):
    """How a box looks: a pattern of `engine.rooms.texture` in two colours (linear RGB, 0..1).

    Its scale is in metres.
    """

    pattern: str
    colour: Colour
    second: Colour
    scale: float


class Box(NamedTuple):
    """An upright box with a yaw."""

    centre: Vector
    half: Vector
    """Half its size along its own axes."""
    label: str
    """A class of `engine.nyuv2.CLASSES`, or `UNLABELLED`."""
    surface: Surface
    yaw: float = 0.0
    item: int = 0
    """Boxes of one piece of furniture share it."""


class Camera(NamedTuple):
    """A pinhole camera; yaw turns from +x towards +y, pitch is positive upwards, both radians."""

    position: Vector
    yaw: float
    pitch: float


class Scene(NamedTuple):
    """A room from (0, 0, 0) to `size`, its light and its cameras."""

    size: Vector
    shell: tuple[Surface, ...]
    """Surfaces of the walls x = 0, x = max, y = 0, y = max, the floor and the ceiling."""
    boxes: tuple[Box, ...]
    light: Vector
    ambient: float
    cameras: tuple[Camera, ...]
