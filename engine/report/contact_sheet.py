"""A picture of a few frames: image, truth and prediction side by side."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from engine.frames.decode import Sample, read_frame
from engine.nyuv2 import PALETTE

TILE_HW = (180, 240)
"""Box that a picture is fitted into: NYU Depth v2's shape; a sheet of 12 frames is 1440 wide."""

CAPTION = 14
"""Height of a line of Pillow's built-in font, with a little air, pixels."""

COLUMNS = 2
"""Number of frames side by side: each is three tiles wide, so two fill a screen."""


def contact_sheet(samples: Sequence[Sample], masks: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Draw frames, two a row, each with its stem above.

    Args:
        samples: labelled frames.
        masks: the predicted classes of each, (H, W).

    Returns:
        An RGB picture; classes in the colours of `engine.nyuv2.PALETTE`, which repeat after the
        13th, unlabelled pixels black. One empty line if there are no frames.
    """
    height, width = TILE_HW[0] + CAPTION, 3 * TILE_HW[1]
    rows = -(-len(samples) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, max(rows * height, 1)))
    draw = ImageDraw.Draw(sheet)
    for position, (sample, mask_HW) in enumerate(zip(samples, masks, strict=True)):
        top, left = position // COLUMNS * height, position % COLUMNS * width
        draw.text((left + 2, top + 1), sample.stem)
        frame = read_frame(sample, label=True)
        assert frame.label_HW is not None, "the caller has labelled frames"
        pictures = (
            Image.fromarray(frame.image_HW3),
            _coloured(frame.label_HW),
            _coloured(mask_HW),
        )
        for number, picture in enumerate(pictures):
            # Nearest, as colours of classes do not mix.
            fitted = ImageOps.contain(picture, TILE_HW[::-1], Image.Resampling.NEAREST)
            sheet.paste(fitted, (left + number * TILE_HW[1], top + CAPTION))
    return sheet


def _coloured(class_HW: NDArray[np.uint8]) -> Image.Image:
    colours = np.zeros((256, 3), np.uint8)
    colours[:255] = np.resize(np.array(PALETTE, np.uint8), (255, 3))
    return Image.fromarray(colours[class_HW])
