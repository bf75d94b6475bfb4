"""COCO's JSON: panoptic (masks in PNGs), and stuff or instances (run lengths, polygons).

https://cocodataset.org/#format-data
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import JsonValue

from engine.bring.opened import read_json, refuse
from engine.bring.rasters import from_runs, polygon, uncompressed
from engine.bring.source import Frame, Pixels, state, states
from engine.mistakes import ConfigError
from engine.nyuv2 import IGNORE_INDEX

_NEEDED = "COCO's JSON with images, annotations and categories"


class Coco:
    """Such a file as a `Source`: images are copied, labels are the index of the category.

    Classes are in the order of their ids. What no region covers is 255; where regions lie over each
    other, the smaller is on top.
    """

    def __init__(self, path: Path, images: Path, masks: Path | None) -> None:
        """Read the JSON and look whether all files are there.

        Args:
            path: the JSON.
            images: folder of its images.
            masks: folder of panoptic PNGs; None: beside the JSON, under its name without `.json`.

        Raises:
            ConfigError: the file is another one, has a fault, or names a file that is not there.
        """
        held = read_json(path, _NEEDED)
        keys = ("images", "annotations", "categories")
        if not isinstance(held, dict) or not all(isinstance(held.get(key), list) for key in keys):
            refuse(path, "JSON of another form", _NEEDED)
        self._path, self._images = path, images
        self._masks = masks or path.with_suffix("")
        try:
            self._take(held)
        except (KeyError, TypeError) as error:
            refuse(path, f"JSON of another form ({type(error).__name__}: {error})", _NEEDED)
        self.made_of: Mapping[str, JsonValue] = {
            "json": state(path),
            "images": states(images / image["file_name"] for image, _ in self._entries),
        }
        self._lock, self._counts = threading.Lock(), Counter[str]()

    def read(self, number: int) -> Pixels:
        """The image and the label of a frame; ConfigError for a fault."""
        image, regions = self._entries[number]
        hw = int(image["height"]), int(image["width"])
        try:
            label_HW = (
                self._panoptic(regions[0], hw) if self._panoptics else self._drawn(regions, hw)
            )
        except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
            if isinstance(error, ConfigError):
                raise
            told = f"of a region that cannot be read, of image {image['file_name']} ({error})"
            refuse(self._path, told, _NEEDED)
        with self._lock:
            self._counts["pixels"] += label_HW.size
            self._counts["unlabelled"] += int((label_HW == IGNORE_INDEX).sum())
        return Pixels(self._images / image["file_name"], None, label_HW)

    def notes(self) -> list[str]:
        """Images without a region, and pixels without a class."""
        notes = []
        if self._passed:
            notes.append(f"{self._passed} images without an annotation passed over")
        if self._counts["pixels"]:
            share = 100 * self._counts["unlabelled"] / self._counts["pixels"]
            notes.append(f"{share:.1f} % of the pixels read are in no region: 255")
        return notes

    def _take(self, held: Mapping[str, Any]) -> None:
        categories = sorted(held["categories"], key=lambda each: each["id"])
        names = [str(each["name"]) for each in categories]
        if not 2 <= len(names) <= IGNORE_INDEX:
            refuse(self._path, f"of {len(names)} categories", f"2 to {IGNORE_INDEX}")
        if len(set(names)) < len(names):
            names = [f"{name} {each['id']}" for name, each in zip(names, categories, strict=True)]
        self.data: Mapping[str, JsonValue] = {"classes": list(names)}
        self._index = {each["id"]: index for index, each in enumerate(categories)}
        of_image = defaultdict[Any, list[Mapping[str, Any]]](list)
        for each in held["annotations"]:
            of_image[each["image_id"]].append(each)
        self._panoptics = any("segments_info" in each for each in held["annotations"])
        chosen = [image for image in held["images"] if of_image[image["id"]]]
        self._passed = len(held["images"]) - len(chosen)
        self._entries = [(image, of_image[image["id"]]) for image in chosen]
        if not chosen:
            refuse(self._path, "without an annotation of an image", _NEEDED)
        for image, regions in self._entries:
            needed = [self._images / image["file_name"]]
            if self._panoptics:
                needed.append(self._masks / regions[0]["file_name"])
            if lost := next((one for one in needed if not one.is_file()), None):
                flag = "--masks" if lost.parent == self._masks else "--images"
                raise ConfigError(f"{self._path} names {lost}: no such file; type {flag} FOLDER")
        names_of = [Path(image["file_name"]) for image in chosen]
        stems = [path.stem for path in names_of]
        if len(set(stems)) < len(stems):
            stems = ["_".join([*path.parts[:-1], path.stem]) for path in names_of]
        self.frames = [Frame(stem) for stem in stems]

    def _panoptic(self, told: Mapping[str, Any], hw: tuple[int, int]) -> NDArray[np.uint8]:
        with Image.open(self._masks / told["file_name"]) as opened:
            colours_HW3 = np.asarray(opened.convert("RGB")).astype(np.int64)
        ids_HW = colours_HW3 @ np.array([1, 256, 65536])
        if ids_HW.shape != hw:
            raise ConfigError(f"{told['file_name']}: {ids_HW.shape}, the JSON says {hw}")
        found, inverse = np.unique(ids_HW, return_inverse=True)
        class_of = {each["id"]: self._index[each["category_id"]] for each in told["segments_info"]}
        if strange := [one for one in found.tolist() if one and one not in class_of]:
            raise ConfigError(f"{told['file_name']} holds segment {strange[0]}, the JSON does not")
        classes = np.array([class_of.get(one, IGNORE_INDEX) for one in found.tolist()], np.uint8)
        return classes[inverse.reshape(hw)]

    def _drawn(self, regions: list[Mapping[str, Any]], hw: tuple[int, int]) -> NDArray[np.uint8]:
        label_HW = np.full(hw, IGNORE_INDEX, np.uint8)
        masks = [(_mask(each["segmentation"], hw), each) for each in regions]
        for mask_HW, each in sorted(masks, key=lambda pair: -int(pair[0].sum())):
            label_HW[mask_HW] = self._index[each["category_id"]]
        return label_HW


def _mask(told: Any, hw: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) what a region covers: polygons, or run lengths as a list or as text."""
    if isinstance(told, dict):
        counts = told["counts"]
        if tuple(told["size"]) != hw:
            raise ValueError(f"run lengths of {told['size']}, the image is of {list(hw)}")
        return from_runs(uncompressed(counts) if isinstance(counts, str) else counts, hw)
    mask_HW = np.zeros(hw, np.bool_)
    for flat in told:
        mask_HW |= polygon(np.reshape(flat, (-1, 2)).tolist(), hw)
    return mask_HW
