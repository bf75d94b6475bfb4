"""Furnish a room: which items it has, where they stand, what hangs on its walls, who looks."""

import math

import numpy as np

from engine.rooms.scene import (
    PICTURE,
    TV,
    WINDOW,
    Box,
    Camera,
    Item,
    Maker,
    Scene,
    Surface,
    Vector,
    placed,
)

_STATIONS = 4
"""Places a room is seen from; the frames of one station are near-duplicates, as in a recording."""


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
    for _ in range(int(random.integers(3, 6))):
        room.stand_free(room.make.floor_thing())
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
        self.stand_at_wall(make.bed())
        self.stand_at_wall(make.cabinet())
        self.stand_at_wall(make.cabinet(tall=True))
        self.stand_at_wall(self.with_television() if make.chance(0.6) else make.shelf())
        self.stand_at_wall(make.table() if make.chance(0.7) else make.cabinet())
        self.stand_free(make.chair())

    def living_room(self) -> None:
        """Furnish a living room."""
        make = self.make
        self.stand_at_wall(make.sofa())
        self.stand_at_wall(self.with_television())
        self.stand_at_wall(make.shelf())
        if make.chance(0.5):
            self.stand_at_wall(make.sofa())
        self.stand_free(make.table(low=True))
        self.stand_at_wall(make.cabinet(tall=make.chance(0.5)))
        self.stand_free(make.chair())

    def office(self) -> None:
        """Furnish an office."""
        make = self.make
        desk = make.table()
        screen = placed(make.television(0.78), 0.0, -0.1, 0.0, 0)
        self.stand_at_wall(Item(desk.half_x, desk.half_y, desk.parts + screen))
        for _ in range(2):
            self.stand_at_wall(make.shelf())
        self.stand_at_wall(make.cabinet(tall=make.chance(0.5)))
        self.stand_free(make.chair())
        self.stand_free(make.table() if make.chance(0.5) else make.chair())

    def dining_room(self) -> None:
        """Furnish a dining room."""
        make = self.make
        table, chair = make.table(), make.chair()
        parts = list(table.parts)
        reach = table.half_y + make.between(0.1, 0.3)
        for side in (-1, 1):
            for place in (-0.5, 0.5):
                if make.chance(0.85):
                    yaw = (0.0 if side < 0 else math.pi) + make.between(-0.3, 0.3)
                    parts += placed(chair.parts, place * table.half_x, side * reach, yaw, 0)
        self.stand_free(Item(table.half_x + 0.1, reach + 0.25, parts))
        self.stand_at_wall(make.cabinet())
        self.stand_at_wall(make.sofa() if make.chance(0.5) else make.cabinet(tall=True))
        self.stand_at_wall(make.bed() if make.chance(0.25) else make.shelf())
        self.stand_at_wall(self.with_television() if make.chance(0.5) else make.cabinet())

    def with_television(self) -> Item:
        """Return a low cabinet with a television on it."""
        make = self.make
        half = (make.between(0.5, 0.7), make.between(0.2, 0.25), make.between(0.2, 0.35))
        cabinet = make.cabinet().parts[0]
        body = Box((0, 0, half[2]), half, cabinet.label, cabinet.surface)
        return Item(half[0], half[1], [body, *make.television(2 * half[2])])

    def stand_at_wall(self, item: Item) -> None:
        """Put an item with its back to some wall, if there is room."""
        for _ in range(40):
            wall = int(self.random.integers(4))
            length = self.size[0] if wall % 2 == 0 else self.size[1]
            if length < 2 * item.half_x + 0.2:
                continue
            along = self.make.between(item.half_x + 0.05, length - item.half_x - 0.05)
            x, y, yaw = self._at_wall(wall, along, item.half_y + 0.03)
            if self._stand(item, x, y, yaw):
                return

    def stand_free(self, item: Item) -> None:
        """Put an item anywhere with any yaw, if there is room."""
        for _ in range(40):
            x = self.make.between(0.3, self.size[0] - 0.3)
            y = self.make.between(0.3, self.size[1] - 0.3)
            if self._stand(item, x, y, self.make.between(-math.pi, math.pi)):
                return

    def hang(self) -> None:
        """Hang windows, pictures and sometimes a television on the walls."""
        make = self.make
        kinds = ["window"] * int(self.random.integers(1, 3))
        kinds += ["picture"] * int(self.random.integers(3, 7))
        kinds += ["screen"] * int(make.chance(0.3))
        hung: list[tuple[int, float, float]] = []
        for kind in kinds:
            wide, tall = {"window": (0.65, 0.6), "picture": (0.4, 0.34), "screen": (0.5, 0.3)}[kind]
            half_x, half_z = wide * make.between(0.6, 1.2), tall * make.between(0.6, 1.2)
            wall = int(self.random.integers(4))
            length = self.size[0] if wall % 2 == 0 else self.size[1]
            along = make.between(half_x + 0.1, length - half_x - 0.1)
            # Nothing overlaps on a wall: two coplanar fronts would fight for each pixel.
            if any(w == wall and abs(a - along) < half_x + h + 0.05 for w, a, h in hung):
                continue
            hung.append((wall, along, half_x))
            label = {"window": WINDOW, "picture": PICTURE, "screen": TV}[kind]
            x, y, yaw = self._at_wall(wall, along, 0.02)
            z = min(make.between(1.4, 1.75), self.size[2] - half_z - 0.1)
            front = Box((0, 0, z), (half_x, 0.03, half_z), label, self._front(kind))
            self.items += 1
            self.boxes += placed([front], x, y, yaw, self.items)

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
        if kind == "window":
            pattern = "blinds" if self.make.chance(0.3) else "window"
            return self.make.surface(pattern, (0.9, 0.9, 0.88), self.make.between(0.05, 0.08))
        if kind == "picture":
            return self.make.surface("picture", scale=self.make.between(0.1, 0.3))
        return self.make.surface("screen", self.make.colour(value=(0.03, 0.12)), 0.03)

    def _at_wall(self, wall: int, along: float, out: float) -> tuple[float, float, float]:
        """Return x, y and the yaw that faces the room, `out` metres from a wall."""
        width, depth = self.size[:2]
        return (
            (along, out, 0.0),
            (width - out, along, math.pi / 2),
            (along, depth - out, math.pi),
            (out, along, -math.pi / 2),
        )[wall]

    def _stand(self, item: Item, x: float, y: float, yaw: float) -> bool:
        cos, sin = abs(math.cos(yaw)), abs(math.sin(yaw))
        half_x = cos * item.half_x + sin * item.half_y
        half_y = sin * item.half_x + cos * item.half_y
        if not (half_x <= x <= self.size[0] - half_x and half_y <= y <= self.size[1] - half_y):
            return False
        if any(
            abs(x - other_x) < half_x + other_half_x and abs(y - other_y) < half_y + other_half_y
            for other_x, other_y, other_half_x, other_half_y in self.taken
        ):
            return False
        self.taken.append((x, y, half_x, half_y))
        self.items += 1
        self.boxes += placed(item.parts, x, y, yaw, self.items)
        return True

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
