"""Furnish a room: which items it has, where they stand, what hangs on its walls, who looks."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from engine.rooms import furniture
from engine.rooms.furniture import Item, Maker, Place, colour, placed, surface, wood
from engine.rooms.scene import Box, Camera, Scene

_STATIONS = 4
"""Places a room is seen from; the frames of one station are near-duplicates, as in a recording."""

_ATTEMPTS = 40
"""Draws of a place for an item before it is left out: most find one, a full room stays quick."""

_HANGING_M = {"window": (0.65, 0.6), "picture": (0.4, 0.34), "tv": (0.5, 0.3)}
"""Half the usual width and height in metres of what hangs on walls, by class."""

_SHIFT = np.array([0.12, 0.12, 0.06, 0.22, 0.08])
"""How far a frame's camera is from its station at most: x, y, z, metres; yaw and pitch, radians."""


def build_scene(random: np.random.Generator, kind: int, frames: int) -> Scene:
    """Invent a room.

    Args:
        random: where every draw comes from.
        kind: 0 bedroom, 1 living room, 2 office, 3 dining room (modulo 4).
        frames: number of cameras.

    Returns:
        A scene in which no camera stands inside a box.
    """
    room = _Room(random)
    for number, makers in enumerate(furniture.ROOMS[kind % len(furniture.ROOMS)]):
        room.stand(makers, room.free if number % 2 else room.at_wall)
    room.hang()
    room.stand([furniture.floor_thing] * int(random.integers(3, 6)), room.free)
    return room.scene(frames)


class _Room:
    """A room being furnished."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random, self.between = random, random.uniform
        self.size = (self.between(3.2, 4.4), self.between(3.2, 4.4), self.between(2.4, 2.8))
        self.boxes: list[Box] = []
        self.taken: list[tuple[float, float, float, float]] = []

    def stand(self, makers: Sequence[Maker], draw: Callable[[Item], Place | None]) -> None:
        """Make items and put each where `draw` says, if there is room."""
        for make in makers:
            item = make(self.random)
            for _ in range(_ATTEMPTS if item.parts else 0):
                place = draw(item)
                if place is not None and self._fits(item, place):
                    self.boxes += placed(item.parts, place, item=len(self.boxes) + 1)
                    break

    def at_wall(self, item: Item) -> Place | None:
        """Draw a place with the back to some wall; None if that is too short."""
        wall, length = self._wall()
        if length < 2 * item.half_x + 0.2:
            return None
        along = self.between(item.half_x + 0.05, length - item.half_x - 0.05)
        return self._before(wall, along, item.half_y + 0.03)

    def free(self, _: Item) -> Place:
        """Draw any place and yaw."""
        x, y = (self.between(0.3, side - 0.3) for side in self.size[:2])
        return x, y, self.between(-math.pi, math.pi)

    def hang(self) -> None:
        """Hang windows, pictures and sometimes a television on the walls."""
        kinds = ["window"] * int(self.random.integers(1, 3))
        kinds += ["picture"] * int(self.random.integers(3, 7))
        kinds += ["tv"] * (self.random.random() < 0.3)
        hung: list[tuple[int, float, float]] = []
        for kind in kinds:
            half_x, half_z = (side * self.between(0.6, 1.2) for side in _HANGING_M[kind])
            wall, length = self._wall()
            along = self.between(half_x + 0.1, length - half_x - 0.1)
            # Nothing overlaps on a wall: two coplanar fronts would fight for each pixel.
            if any(w == wall and abs(a - along) < half_x + h + 0.05 for w, a, h in hung):
                continue
            hung.append((wall, along, half_x))
            z = min(self.between(1.4, 1.75), self.size[2] - half_z - 0.1)
            look = furniture.front(self.random, kind)
            hanging = Box((0, 0, z), (half_x, 0.03, half_z), kind, look)
            place = self._before(wall, along, 0.02)
            self.boxes += placed([hanging], place, item=len(self.boxes) + 1)

    def scene(self, frames: int) -> Scene:
        """Return the finished room with its light and `frames` cameras."""
        random = self.random
        plaster = colour(random, saturation=(0.02, 0.35), value=(0.55, 0.92))
        walls = [surface(random, "plain", plaster, 0.5)] * 4
        if random.random() < 0.3:
            walls[random.integers(4)] = surface(random, "plain", scale=0.5)
        pattern = ("planks", "tiles", "carpet")[random.integers(3)]
        ground = wood(random) if pattern == "planks" else colour(random, saturation=(0.05, 0.4))
        floor = surface(random, pattern, ground, self.between(0.1, 0.35))
        white = colour(random, saturation=(0.0, 0.08), value=(0.8, 0.97))
        x, y = (side * self.between(0.3, 0.7) for side in self.size[:2])
        shell = (*walls, floor, surface(random, "plain", white, 1.0))
        light, ambient = (x, y, self.size[2] - 0.25), self.between(0.3, 0.5)
        cameras = tuple(self._cameras(frames))
        return Scene(self.size, shell, tuple(self.boxes), light, ambient, cameras)

    def _wall(self) -> tuple[int, float]:
        """Draw a wall; return it and its length in metres."""
        wall = int(self.random.integers(4))
        return wall, self.size[wall % 2]

    def _before(self, wall: int, along: float, out: float) -> Place:
        """Return the place `out` metres from a wall that faces the room."""
        width, depth = self.size[:2]
        front, right = (along, out, 0.0), (width - out, along, math.pi / 2)
        back, left = (along, depth - out, math.pi), (out, along, -math.pi / 2)
        return (front, right, back, left)[wall]

    def _fits(self, item: Item, place: Place) -> bool:
        """Take the place and return True if the item lies in the room and touches no other."""
        x, y, yaw = place
        cos, sin = abs(math.cos(yaw)), abs(math.sin(yaw))
        half_x = cos * item.half_x + sin * item.half_y
        half_y = sin * item.half_x + cos * item.half_y
        if not (half_x <= x <= self.size[0] - half_x and half_y <= y <= self.size[1] - half_y):
            return False
        if any(abs(x - t[0]) < half_x + t[2] and abs(y - t[1]) < half_y + t[3] for t in self.taken):
            return False
        self.taken.append((x, y, half_x, half_y))
        return True

    def _cameras(self, frames: int) -> Iterator[Camera]:
        stations = [self._station() for _ in range(_STATIONS)]
        for frame in range(frames):
            shift = _SHIFT * self.random.uniform(-1, 1, 5)
            x, y, z, yaw, pitch = (shift + stations[frame * _STATIONS // frames]).tolist()
            yield Camera((x, y, z), yaw, pitch)

    def _station(self) -> tuple[float, ...]:
        """Draw x, y and z clear of boxes, with a yaw and pitch towards something worth seeing."""
        height, best, station = self.between(1.2, 1.75), -math.inf, (0.0,) * 5
        for _ in range(30):
            x, y = (self.between(0.35, side - 0.35) for side in self.size[:2])
            seen = self.boxes[self.random.integers(len(self.boxes))].centre
            away = math.hypot(seen[0] - x, seen[1] - y)
            free = min(max(abs(x - t[0]) - t[2], abs(y - t[1]) - t[3]) for t in self.taken)
            # A clear place comes first: the frames of a station shift by up to 0.17 m.
            score = min(away, 3.0) + 100 * min(free, 0.2)
            if score > best:
                yaw = math.atan2(seen[1] - y, seen[0] - x)
                pitch = min(0.0, max(-0.55, math.atan2(seen[2] - height, away)))
                # Some views look up a little: without them no frame shows a ceiling.
                best, station = score, (x, y, height, yaw, pitch + self.between(-0.2, 0.15))
        return station
