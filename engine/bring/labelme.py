"""labelme's JSON: shapes with a label, a file an image. https://github.com/wkentaro/labelme."""

import base64
import binascii
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from engine.bring.opened import read_json, refuse
from engine.bring.rasters import ellipse, polygon
from engine.bring.source import Frame, Pixels, states
from engine.frames.images import decode_image
from engine.frames.kinds import UnfitError
from engine.labels import unknown_class
from engine.mistakes import ConfigError
from engine.nyuv2 import IGNORE_INDEX

IGNORED = "__ignore__"
"""labelme's own name for what is no class."""

_NEEDED = "labelme's JSON with shapes, imagePath, imageHeight and imageWidth"


class Labelme:
    """A folder of such files as a `Source`: images are copied, or taken out of the JSON.

    Shapes are drawn in their order, later ones over earlier, as labelme's own exporter does. Lines
    and points cover nothing and are passed over.
    """

    def __init__(self, folder: Path, classes: Sequence[str], background: str) -> None:
        """Read all files.

        Args:
            folder: of JSON files.
            classes: names by index; none: the labels that there are, sorted, behind `background`.
            background: class of what no shape covers; empty: that is unlabelled.

        Raises:
            ConfigError: a file is another one, or lacks its image; a label is no class.
        """
        paths = sorted(folder.glob("*.json"))
        if not paths:
            raise ConfigError(f"{folder} holds no JSON; needed: {_NEEDED}")
        self._told = {path: _checked(path) for path in paths}
        self._paths, self._passed = paths, Counter[str]()
        found: dict[str, Path] = {}
        for path, told in self._told.items():
            for shape in told["shapes"]:
                found.setdefault(str(shape["label"]), path)
                if _is_thin(shape):
                    self._passed[str(shape.get("shape_type"))] += 1
        found.pop(IGNORED, None)
        first = [background] if background else []
        names = list(classes) or [*first, *sorted(found.keys() - set(first))]
        for name, path in found.items():
            if name not in names:
                raise ConfigError(str(unknown_class(str(path), name, names)))
        if background and background not in names:
            raise ConfigError(str(unknown_class("--background", background, names)))
        if not 2 <= len(names) <= IGNORE_INDEX:
            raise ConfigError(
                f"{folder} has {len(names)} classes ({', '.join(names[:3])}); at least two are "
                "needed: name what no shape covers, as in --background background"
            )
        self._index = {name: index for index, name in enumerate(names)} | {IGNORED: IGNORE_INDEX}
        self._ground = self._index[background] if background else IGNORE_INDEX
        self.frames = [Frame(path.stem) for path in paths]
        self.made_of: Mapping[str, JsonValue] = {
            "files": states(paths),
            "classes": list(names),
            "background": background,
        }
        self.data: Mapping[str, JsonValue] = {"classes": list(names)}

    def read(self, number: int) -> Pixels:
        """The image and the label of a frame; ConfigError for a fault."""
        path = self._paths[number]
        told = self._told[path]
        hw = int(told["imageHeight"]), int(told["imageWidth"])
        label_HW = np.full(hw, self._ground, np.uint8)
        for shape in told["shapes"]:
            if not _is_thin(shape):
                label_HW[_mask(path, shape, hw)] = self._index[str(shape["label"])]
        return Pixels(_image(path, told), None, label_HW)

    def notes(self) -> list[str]:
        """What covers nothing, and what is unlabelled."""
        notes = [f"{n} shapes passed over: a {kind}" for kind, n in sorted(self._passed.items())]
        if self._ground == IGNORE_INDEX:
            notes.append("what no shape covers is unlabelled, 255; else give --background NAME")
        return notes


def _checked(path: Path) -> dict[str, Any]:
    told = read_json(path, _NEEDED)
    try:
        sizes = int(told["imageHeight"]), int(told["imageWidth"])
        whole = min(sizes) > 0 and isinstance(told["imagePath"], str)
        for shape in told["shapes"]:
            whole &= "label" in shape and len(shape["points"]) > 0
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        refuse(path, "JSON of another form", _NEEDED)
    kept: dict[str, Any] = told
    # Of a large folder the images alone would fill memory: they are read again.
    kept["imageData"] = bool(kept.get("imageData"))
    return kept


def _is_thin(shape: Mapping[str, Any]) -> bool:
    return shape.get("shape_type", "polygon") in ("point", "points", "line", "linestrip")


def _mask(path: Path, shape: Mapping[str, Any], hw: tuple[int, int]) -> NDArray[np.bool_]:
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    try:
        if kind == "polygon" and len(points) > 2:
            return polygon(points, hw)
        if kind == "rectangle" and len(points) == 2:
            (x0, y0), (x1, y1) = points
            return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], hw)
        if kind == "circle" and len(points) == 2:
            (x, y), edge = points
            radius = math.dist((x, y), edge)
            return ellipse((x - radius, y - radius, x + radius, y + radius), hw)
    except (TypeError, ValueError):
        pass
    return refuse(path, f"of a {kind} of {len(points)} points", "polygons, rectangles and circles")


def _image(path: Path, told: Mapping[str, Any]) -> Path | NDArray[np.uint8]:
    beside: Path = path.parent / told["imagePath"].replace("\\", "/")
    if beside.is_file():
        return beside
    data = read_json(path, _NEEDED).get("imageData")
    if not data:
        raise ConfigError(f"{path} names the image {told['imagePath']!r}: no such file")
    try:
        return decode_image(base64.b64decode(data), turn=False)[0]
    except (binascii.Error, TypeError, UnfitError) as error:
        refuse(path, f"of an image that cannot be read ({error})", _NEEDED)
