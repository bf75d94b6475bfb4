"""Masks come back from their files as they were, whatever reader opens them."""

import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine.views.pictures import write_coloured, write_mask

CLASSES = (2, 3, 13, 14, 16, 17, 20, 100, 255)
"""Counts at which Pillow would choose other bits a pixel, and the ends."""


def mask_of(classes: int) -> NDArray[np.uint8]:
    mask_HW = np.random.default_rng(classes).integers(0, classes, (20, 30), np.uint8)
    mask_HW.flat[:classes] = np.arange(classes)
    return mask_HW


def read_by_pillow(path: Path) -> NDArray[Any]:
    with Image.open(path) as opened:
        return np.array(opened)


@pytest.mark.parametrize("classes", CLASSES)
def test_pillow_and_opencv_read_a_mask_as_it_was(classes: int, tmp_path: Path) -> None:
    mask_HW = mask_of(classes)
    write_mask(tmp_path / "mask.png", mask_HW)
    np.testing.assert_array_equal(read_by_pillow(tmp_path / "mask.png"), mask_HW)
    for flag in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_GRAYSCALE):
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "mask.png"), flag), mask_HW)
    header = (tmp_path / "mask.png").read_bytes()[24:26]
    assert header == bytes([8, 0]), "8 bits, grey"


@pytest.mark.skipif(
    not (sys.platform == "linux" and os.uname().machine == "x86_64"),
    reason="DALI exists for Linux x86-64 only",
)
def test_dali_reads_masks_as_they_were(tmp_path: Path) -> None:
    from nvidia.dali import fn, pipeline_def, types

    paths, masks_N = [], [mask_of(classes) for classes in CLASSES]
    for number, mask_HW in enumerate(masks_N):
        paths.append(tmp_path / f"{number}.png")
        write_mask(paths[-1], mask_HW)

    def decode() -> Any:
        files = fn.external_source(
            lambda: [np.frombuffer(path.read_bytes(), np.uint8) for path in paths], batch=True
        )
        return fn.decoders.image(files, output_type=types.ANY_DATA)

    pipeline = pipeline_def(decode)(batch_size=len(paths), num_threads=1, device_id=None)
    pipeline.build()
    (found,) = pipeline.run()
    for number, mask_HW in enumerate(masks_N):
        np.testing.assert_array_equal(np.array(found[number])[..., 0], mask_HW)


@pytest.mark.parametrize("classes", CLASSES)
def test_a_coloured_mask_keeps_its_indices_in_8_bits(classes: int, tmp_path: Path) -> None:
    write_coloured(tmp_path / "mask.png", mask_of(classes))
    np.testing.assert_array_equal(read_by_pillow(tmp_path / "mask.png"), mask_of(classes))
    assert (tmp_path / "mask.png").read_bytes()[24:26] == bytes([8, 3]), "8 bits, indexed"
