"""Masks as pictures: 8 bits a pixel, whatever reader opens them."""

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.frames.decode import Sample
from engine.nyuv2 import PALETTE
from engine.rundir import RunDir
from engine.whole import whole_file


def write_mask(path: Path, mask_HW: NDArray[np.uint8]) -> None:
    """Write a grey PNG whose pixels are the class indices; whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(mask_png(mask_HW))


def mask_png(mask_HW: NDArray[np.uint8]) -> bytes:
    """The bytes of a grey PNG whose pixels are the class indices."""
    stream = io.BytesIO()
    Image.fromarray(mask_HW).save(stream, "PNG")
    return stream.getvalue()


def write_mask_zip(run: RunDir, samples: Sequence[Sample], mask_NP: NDArray[np.uint8]) -> None:
    """Write `submission.zip` of masks of several sizes: STEM.png each.

    Args:
        run: whose submission it is.
        samples: the N test frames.
        mask_NP: a row for each, which its mask begins.
    """
    with (
        whole_file(run.submission_zip, summed=True) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        for sample, mask_P in zip(samples, mask_NP, strict=True):
            mask_HW = mask_P[: math.prod(sample.hw)].reshape(sample.hw)
            # An entry's time is 1980 unless it is told another: equal masks give equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{sample.stem}.png"), mask_png(mask_HW))


def write_coloured(path: Path, mask_HW: NDArray[np.uint8]) -> None:
    """Write an indexed PNG, its indices the class indices; whole or not at all.

    The colours are those of `engine.nyuv2.PALETTE`, which repeat, darker each time.
    """
    image = Image.fromarray(mask_HW).convert("P")
    image.putpalette(class_colours().ravel().tolist())
    with whole_file(path) as temporary:
        # Of few colours Pillow would make fewer bits.
        image.save(temporary, "PNG", bits=8)


def class_colours() -> NDArray[np.uint8]:
    """(256, 3) RGB colours by class index, no two alike."""
    colours_C3 = np.array(PALETTE, np.float64)
    rounds = -(-256 // len(colours_C3))
    darker = np.linspace(1, 0.2, rounds)[:, None, None] * colours_C3
    return darker.round().astype(np.uint8).reshape(-1, 3)[:256]
