"""Ray-cast a room in NumPy: colour, depth and label of one camera's view.

H W: pixels. P: pixels of the view, flat. B: boxes. All lengths are metres until depth is stored.
"""

import math

import numpy as np
from numpy.typing import NDArray

from engine.nyuv2 import CLASSES, IGNORE_INDEX, MILLIMETRES_PER_METRE
from engine.rooms.scene import UNLABELLED, Box, Camera, Scene
from engine.rooms.texture import GLOW, PATTERNS, Floats, Numbers, Table, paint

_FIELD_OF_VIEW = 1.1
"""Horizontal, radians: about that of the NYUv2 sensor (57 degrees), a little wider."""
_NEAR_M = 0.05
"""Metres before the camera that show nothing: a box that reaches nearer has no projection."""
_SHELL = ("wall", "wall", "wall", "wall", "floor", "ceiling")
"""Classes of the first surfaces, which are the room's own, in the order of `Scene.shell`."""
_TINY = np.float32(1e-6)
"""Stands for a ray component of 0, to divide by."""
_LABEL = {name: index for index, name in enumerate(CLASSES)} | {UNLABELLED: IGNORE_INDEX}
"""The value of a label in an image of labels."""
_SURFACE = np.dtype([
    ("centre", "3f4"), ("half", "3f4"), ("cos", "f4"), ("sin", "f4"), ("label", "u1"),
    ("item", "i4"), ("pattern", "i4"), ("colour", "3f4"), ("second", "3f4"), ("scale", "f4"),
    ("glow", "f4"), ("glass", "?"),
])  # fmt: skip
"""What is known of a surface: place, yaw, class, thing, pattern by number and its look."""
_SENSOR_MIN_M = 0.5
"""Nearer surfaces have no depth, like those of a structured-light sensor."""


def render(
    scene: Scene, camera: Camera, hw: tuple[int, int], random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint8]]:
    """Render one view.

    Args:
        scene: the room.
        camera: where it is seen from.
        hw: height and width, pixels.
        random: where the sensor noise comes from.

    Returns:
        Image (H, W, 3) uint8; depth along the optical axis (H, W) uint16 in millimetres, 0 =
        missing; label (H, W) uint8, 255 = unlabelled.
    """
    table, rays = _table(scene), _rays(camera, hw)
    depth, surface = _cast(table, camera, np.array(scene.size, np.float32), rays)
    flat, flat_rays = surface.reshape(-1), rays.reshape(3, -1)
    points = np.array(camera.position, np.float32)[:, None] + depth.reshape(-1) * flat_rays
    normal, where = _on_surface(table, points, flat)
    shade = np.maximum(_shade(scene, points, normal), table["glow"][flat])
    image = _expose((paint(table, flat, where) * shade).reshape(3, *hw), random)
    facing = -(normal * flat_rays).sum(0).reshape(hw) / np.sqrt((rays**2).sum(0))
    depth = _measure(depth, facing, table["glass"][surface], random)
    return image, depth, _labels(table["label"][surface], table["item"][surface])


def _table(scene: Scene) -> Table:
    """Return place, look and class of each surface."""
    width, depth, height = scene.size
    middle = (width / 2, depth / 2, height / 2)
    # The room itself is a box six times over. The walls are one thing, by their class: no
    # unlabelled line runs down a corner of the room.
    looks = zip(_SHELL, scene.shell, strict=True)
    boxes = [Box(middle, middle, label, look, item=-1 - _LABEL[label]) for label, look in looks]
    boxes += scene.boxes
    rows = []
    for box in boxes:
        pattern, *look = box.surface
        place = (box.centre, box.half, math.cos(box.yaw), math.sin(box.yaw))
        names = (_LABEL[box.label], box.item, PATTERNS.index(pattern))
        # The depth sensor looks through glass.
        shine = (GLOW.get(pattern, 0.0), pattern in {"window", "screen"})
        rows.append((*place, *names, *look, *shine))
    return np.array(rows, _SURFACE)


def _rays(camera: Camera, hw: tuple[int, int]) -> Floats:
    """Return (3, H, W) world directions whose component along the optical axis is 1."""
    focal = np.float32(_focal(hw[1]))
    down, right = ((np.arange(side, dtype=np.float32) + 0.5 - side / 2) / focal for side in hw)
    axis, side, up = _axes(camera)[:, :, None, None]
    rays: Floats = axis + side * right - up * down[:, None]
    return rays


def _focal(width: int) -> float:
    """Return the focal length in pixels of a view this wide."""
    return width / 2 / math.tan(_FIELD_OF_VIEW / 2)


def _axes(camera: Camera) -> Floats:
    """Return the optical axis, the right and the up of a camera, a row each."""
    cos_yaw, sin_yaw = math.cos(camera.yaw), math.sin(camera.yaw)
    cos_pitch, sin_pitch = math.cos(camera.pitch), math.sin(camera.pitch)
    axis = (cos_pitch * cos_yaw, cos_pitch * sin_yaw, sin_pitch)
    up = (-sin_pitch * cos_yaw, -sin_pitch * sin_yaw, cos_pitch)
    return np.array([axis, (sin_yaw, -cos_yaw, 0.0), up], np.float32)


def _cast(table: Table, camera: Camera, size: Floats, rays: Floats) -> tuple[Floats, Numbers]:
    """Return depth (H, W) and the surface hit: 0..5 the shell, 6.. the boxes in order."""
    origin = np.array(camera.position, np.float32)
    outward = np.where(rays > 0, size[:, None, None], np.float32(0)) - origin[:, None, None]
    leave = outward / np.where(np.abs(rays) < _TINY, _TINY, rays)
    axis = leave.argmin(0)
    depth: Floats = np.take_along_axis(leave, axis[None], 0)[0]
    positive = np.take_along_axis(rays, axis[None], 0)[0] > 0
    surface = (2 * axis + positive).astype(np.int32)
    for number, (top, bottom, left, right) in enumerate(_windows(table, camera, rays.shape[1:])):
        if number < len(_SHELL) or top >= bottom or left >= right:
            continue
        cos, sin, half = table["cos"][number], table["sin"][number], table["half"][number]
        from_centre = _turn(origin - table["centre"][number], cos, sin)
        ray = _turn(rays[:, top:bottom, left:right], cos, sin)
        inverse = 1 / np.where(np.abs(ray) < _TINY, _TINY, ray)
        middle = -from_centre[:, None, None] * inverse
        reach = half[:, None, None] * np.abs(inverse)
        enter = (middle - reach).max(0)
        behind = depth[top:bottom, left:right]
        hit = (enter <= (middle + reach).min(0)) & (enter > _NEAR_M) & (enter < behind)
        behind[hit] = enter[hit]
        surface[top:bottom, left:right][hit] = number
    return depth, surface


def _turn(vectors: Floats, cos: Floats | np.float32, sin: Floats | np.float32) -> Floats:
    """Turn (3, ...) world vectors into the frame of a box with that yaw; back with minus `sin`."""
    x, y, z = vectors
    return np.stack([cos * x + sin * y, cos * y - sin * x, z])


def _windows(table: Table, camera: Camera, hw: tuple[int, ...]) -> list[list[int]]:
    """Return top, bottom, left and right of what each surface can cover in the view.

    Casting no rays outside these windows is most of the speed.
    """
    height, width = hw
    signs = np.indices((2, 2, 2), np.float32).reshape(3, 1, 8) * 2 - 1
    corners = table["half"].T[:, :, None] * signs
    corners = _turn(corners, table["cos"][:, None], -table["sin"][:, None])
    corners += (table["centre"] - np.array(camera.position, np.float32)).T[:, :, None]
    ahead, across, above = np.tensordot(_axes(camera), corners, 1)
    focal = _focal(width)
    # A box that reaches behind the camera has no bounded projection: it gets every ray.
    partly = ahead.min(1) < _NEAR_M
    ahead = np.maximum(ahead, _NEAR_M)
    u, v = width / 2 + focal * across / ahead, height / 2 - focal * above / ahead
    # One pixel more on each side, against rounding.
    first = np.where(partly, 0, np.floor([v.min(1), u.min(1)]) - 1)
    last = np.where(partly, np.inf, np.ceil([v.max(1), u.max(1)]) + 1)
    ends = np.clip(np.stack([first, last]), 0, np.array(hw)[:, None])
    bounds: list[list[int]] = ends.transpose(2, 1, 0).reshape(-1, 4).astype(np.int64).tolist()
    return bounds


def _on_surface(table: Table, points: Floats, surface: Numbers) -> tuple[Floats, Floats]:
    """Return normals (3, P), and (4, P): u and v on the face and half its sizes."""
    cos, sin = table["cos"][surface], table["sin"][surface]
    local = _turn(points - table["centre"][surface].T, cos, sin)
    half = np.ascontiguousarray(table["half"][surface].T)
    shell = surface < len(_SHELL)
    face = np.where(shell, surface // 2, (np.abs(local) / half).argmax(0))
    flat = np.arange(len(surface))
    normal = np.zeros_like(local)
    # The room is seen from inside, a box from outside.
    normal[face, flat] = np.where(shell, -1, 1) * np.sign(local[face, flat])
    along = np.stack([np.where(face == 0, 1, 0), np.where(face == 2, 1, 2)])
    return _turn(normal, cos, -sin), np.concatenate([local[along, flat], half[along, flat]])


def _shade(scene: Scene, points: Floats, normal: Floats) -> Floats:
    """Return (P,): Lambert from one lamp with falloff, and ambient."""
    towards = np.array(scene.light, np.float32)[:, None] - points
    square = (towards**2).sum(0)
    lambert = np.maximum(0, (normal * towards).sum(0)) / np.sqrt(square + 1e-6)
    # Light from the ceiling: faces that look down are darker than those that look up.
    ambient = scene.ambient * (0.85 + 0.15 * normal[2])
    shade: Floats = ambient + np.float32(1.1) * lambert / (1 + square / 6)
    return shade


def _expose(lit: Floats, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8: soft lens, white balance, exposure, noise, gamma."""
    padded = np.pad(lit, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    soft = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    balance = random.uniform(0.93, 1.07, (3, 1, 1)).astype(np.float32)
    balance *= np.float32(random.uniform(0.9, 1.25))
    # A square root is close to the usual gamma of 2.2, and exact on every machine.
    value = np.sqrt(np.clip(soft * balance, 0, 1))
    value += np.float32(0.02) * random.standard_normal(value.shape, np.float32)
    image: NDArray[np.uint8] = (np.clip(value, 0, 1) * 255 + 0.5).astype(np.uint8)
    return image.transpose(1, 2, 0)


def _measure(
    depth: Floats, facing: Floats, glass: NDArray[np.bool_], random: np.random.Generator
) -> NDArray[np.uint16]:
    """Return (H, W) millimetres with the noise and the holes of a structured-light sensor."""
    noisy = depth * (1 + 0.0015 * depth * random.standard_normal(depth.shape, np.float32))
    lost = random.random(depth.shape, np.float32)
    jump = np.zeros(depth.shape, np.bool_)
    # The projector stands beside the camera: a near edge shadows what lies left of it.
    jump[:, :-1] = depth[:, :-1] > 1.08 * depth[:, 1:]
    missing = (jump & (lost < 0.8)) | (facing < 0.2 * lost) | (glass & (lost < 0.4))
    missing |= (depth < _SENSOR_MIN_M) | (lost > 0.998)
    return np.where(missing, 0, np.rint(noisy * MILLIMETRES_PER_METRE)).astype(np.uint16)


def _labels(label: NDArray[np.uint8], item: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return (H, W) classes, with a thin unlabelled border between things, as annotators leave."""
    border = np.zeros(label.shape, np.bool_)
    border[:, :-1] = (label[:, :-1] != label[:, 1:]) & (item[:, :-1] != item[:, 1:])
    border[:-1] |= (label[:-1] != label[1:]) & (item[:-1] != item[1:])
    return np.where(border, np.uint8(IGNORE_INDEX), label)
