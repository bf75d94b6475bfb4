"""Furnish a room: which items it has, where they stand, what hangs on its walls, who looks."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from engine.rooms.furniture import Item, Maker, Place, placed
from engine.rooms.scene import Box, Camera, Scene, Surface, Vector

_STATIONS = 4
"""Places a room is seen from; the frames of one station are near-duplicates, as in a recording."""

_ATTEMPTS = 40
"""Draws of a place for an item before it is left out: most find one, a full room stays quick."""

_HANGING_M = {"window": (0.65, 0.6), "picture": (0.4, 0.34), "tv": (0.5, 0.3)}
"""Half the usual width and height in metres of what hangs on walls, by class."""


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
    (room.bedroom, room.living_room, room.office, room.dining_room)[kind % 4]()
    room.hang()
    room.stand_free(*[room.make.floor_thing] * int(random.integers(3, 6)))
    return room.scene(frames)


class _Room:
    """A room being furnished."""

    def __init__(self, random: np.random.Generator) -> None:
        self.make = make = Maker(random)
        self.random = random
        self.size: Vector = (make.between(3.2, 4.4), make.between(3.2, 4.4), make.between(2.4, 2.8))
        self.boxes: list[Box] = []
        self.taken: list[tuple[float, float, float, float]] = []
        self.items = 0

    def bedroom(self) -> None:
        """Furnish a bedroom."""
        make = self.make
        self.stand_at_walls(make.bed, make.cabinet, make.wardrobe)
        self.stand_at_walls(make.television if make.chance(0.6) else make.shelf)
        self.stand_at_walls(make.table if make.chance(0.7) else make.cabinet)
        self.stand_free(make.chair)

    def living_room(self) -> None:
        """Furnish a living room."""
        make = self.make
        self.stand_at_walls(make.sofa, make.television, make.shelf)
        if make.chance(0.5):
            self.stand_at_walls(make.sofa)
        self.stand_free(make.low_table)
        self.stand_at_walls(make.wardrobe if make.chance(0.5) else make.cabinet)
        self.stand_free(make.chair)

    def office(self) -> None:
        """Furnish an office."""
        make = self.make
        self.stand_at_walls(make.desk, make.shelf, make.shelf)
        self.stand_at_walls(make.wardrobe if make.chance(0.5) else make.cabinet)
        self.stand_free(make.chair)
        self.stand_free(make.table if make.chance(0.5) else make.chair)

    def dining_room(self) -> None:
        """Furnish a dining room."""
        make = self.make
        self.stand_free(make.table_with_chairs)
        self.stand_at_walls(make.cabinet)
        self.stand_at_walls(make.sofa if make.chance(0.5) else make.wardrobe)
        self.stand_at_walls(make.bed if make.chance(0.25) else make.shelf)
        self.stand_at_walls(make.television if make.chance(0.5) else make.cabinet)

    def stand_at_walls(self, *makers: Callable[[], Item]) -> None:
        """Make items and put each with its back to some wall, if there is room."""
        for make in makers:
            item = make()
            for _ in range(_ATTEMPTS):
                wall, length = self._wall()
                if length < 2 * item.half_x + 0.2:
                    continue
                along = self.make.between(item.half_x + 0.05, length - item.half_x - 0.05)
                if self._stand(item, self._at_wall(wall, along, item.half_y + 0.03)):
                    break

    def stand_free(self, *makers: Callable[[], Item]) -> None:
        """Make items and put each anywhere with any yaw, if there is room."""
        for make in makers:
            item = make()
            for _ in range(_ATTEMPTS):
                x, y = (self.make.between(0.3, side - 0.3) for side in self.size[:2])
                if self._stand(item, (x, y, self.make.between(-math.pi, math.pi))):
                    break

    def hang(self) -> None:
        """Hang windows, pictures and sometimes a television on the walls."""
        make = self.make
        kinds = ["window"] * int(self.random.integers(1, 3))
        kinds += ["picture"] * int(self.random.integers(3, 7))
        kinds += ["tv"] * int(make.chance(0.3))
        hung: list[tuple[int, float, float]] = []
        for kind in kinds:
            half_x, half_z = (side * make.between(0.6, 1.2) for side in _HANGING_M[kind])
            wall, length = self._wall()
            along = make.between(half_x + 0.1, length - half_x - 0.1)
            # Nothing overlaps on a wall: two coplanar fronts would fight for each pixel.
            if any(w == wall and abs(a - along) < half_x + h + 0.05 for w, a, h in hung):
                continue
            hung.append((wall, along, half_x))
            z = min(make.between(1.4, 1.75), self.size[2] - half_z - 0.1)
            front = Box((0, 0, z), (half_x, 0.03, half_z), kind, self._front(kind))
            self._place([front], self._at_wall(wall, along, 0.02))

    def scene(self, frames: int) -> Scene:
        """Return the finished room with its light and `frames` cameras."""
        make = self.make
        plaster = make.colour(saturation=(0.02, 0.35), value=(0.55, 0.92))
        walls = [make.surface("plain", plaster, 0.5)] * 4
        if make.chance(0.3):
            walls[int(self.random.integers(4))] = make.surface("plain", scale=0.5)
        pattern = str(self.random.choice(["planks", "tiles", "carpet"]))
        ground = make.wood() if pattern == "planks" else make.colour(saturation=(0.05, 0.4))
        floor = make.surface(pattern, ground, make.between(0.1, 0.35))
        white = make.colour(saturation=(0.0, 0.08), value=(0.8, 0.97))
        light = tuple(side * make.between(0.3, 0.7) for side in self.size[:2])
        return Scene(
            self.size,
            (*walls, floor, make.surface("plain", white, 1.0)),
            tuple(self.boxes),
            (light[0], light[1], self.size[2] - 0.25),
            make.between(0.3, 0.5),
            self._cameras(frames),
        )

    def _front(self, kind: str) -> Surface:
        make = self.make
        if kind == "window":
            pattern = "blinds" if make.chance(0.3) else "window"
            return make.surface(pattern, (0.9, 0.9, 0.88), make.between(0.05, 0.08))
        if kind == "picture":
            return make.surface("picture", scale=make.between(0.1, 0.3))
        return make.dark_screen()

    def _wall(self) -> tuple[int, float]:
        """Return some wall and its length in metres."""
        wall = int(self.random.integers(4))
        return wall, self.size[wall % 2]

    def _at_wall(self, wall: int, along: float, out: float) -> Place:
        """Return the place `out` metres from a wall that faces the room."""
        width, depth = self.size[:2]
        return (
            (along, out, 0.0),
            (width - out, along, math.pi / 2),
            (along, depth - out, math.pi),
            (out, along, -math.pi / 2),
        )[wall]

    def _stand(self, item: Item, place: Place) -> bool:
        """Put an item there and return True, if it fits into the room and touches no other."""
        x, y, yaw = place
        cos, sin = abs(math.cos(yaw)), abs(math.sin(yaw))
        half_x = cos * item.half_x + sin * item.half_y
        half_y = sin * item.half_x + cos * item.half_y
        if not (half_x <= x <= self.size[0] - half_x and half_y <= y <= self.size[1] - half_y):
            return False
        if any(abs(x - t[0]) < half_x + t[2] and abs(y - t[1]) < half_y + t[3] for t in self.taken):
            return False
        self.taken.append((x, y, half_x, half_y))
        self._place(item.parts, place)
        return True

    def _place(self, parts: Sequence[Box], place: Place) -> None:
        self.items += 1
        self.boxes += placed(parts, place, self.items)

    def _cameras(self, frames: int) -> tuple[Camera, ...]:
        stations = [self._station() for _ in range(_STATIONS)]
        cameras = []
        for frame in range(frames):
            (x, y, z), yaw, pitch = stations[frame * _STATIONS // frames]
            shift = self.random.uniform(-1, 1, 5)
            position = (x + 0.12 * shift[0], y + 0.12 * shift[1], z + 0.06 * shift[2])
            cameras.append(Camera(position, yaw + 0.22 * shift[3], pitch + 0.08 * shift[4]))
        return tuple(cameras)

    def _station(self) -> tuple[Vector, float, float]:
        """Return a place clear of boxes, with a yaw and pitch towards something worth seeing."""
        height = self.make.between(1.2, 1.75)
        best: tuple[float, Vector, float, float] | None = None
        for _ in range(30):
            x = self.make.between(0.35, self.size[0] - 0.35)
            y = self.make.between(0.35, self.size[1] - 0.35)
            seen = self.boxes[int(self.random.integers(len(self.boxes)))].centre
            away = math.hypot(seen[0] - x, seen[1] - y)
            free = min(max(abs(x - t[0]) - t[2], abs(y - t[1]) - t[3]) for t in self.taken)
            # A clear place comes first: the frames of a station shift by up to 0.17 m.
            score = min(away, 3.0) + 100 * min(free, 0.2)
            if best is None or score > best[0]:
                yaw = math.atan2(seen[1] - y, seen[0] - x)
                pitch = min(0.0, max(-0.55, math.atan2(seen[2] - height, away)))
                # Some views look up a little: without them no frame shows a ceiling.
                pitch += self.make.between(-0.2, 0.15)
                best = (score, (x, y, height), yaw, pitch)
        assert best is not None
        return best[1:]
