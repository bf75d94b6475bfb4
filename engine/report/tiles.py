"""Classes and errors of a frame as pictures: of `worst.png` and of `report.html`.

H W: pixels of a frame.
"""

import numpy as np
from numpy.typing import NDArray

from engine.nyuv2 import IGNORE_INDEX
from engine.views.pictures import class_colours

WRONG = (232, 62, 48)
"""RGB of a wrong pixel: as light as the page's red, on grey."""

UNJUDGED = (38, 42, 50)
"""RGB of a pixel without a label: nobody knows if it is right."""


def class_picture(class_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: the classes in their colours, what is unlabelled black."""
    colours = class_colours()
    colours[IGNORE_INDEX] = 0
    return colours[class_HW]


def error_picture(
    image_HW3: NDArray[np.uint8], label_HW: NDArray[np.uint8], mask_HW: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: the image in light grey, what is wrong red over it, what is unlabelled dark.

    Args:
        image_HW3: (H, W, 3) RGB.
        label_HW: (H, W) true classes, 255 = unlabelled.
        mask_HW: (H, W) predicted classes.
    """
    grey_HW1 = 110 + 0.5 * image_HW3.mean(axis=2, keepdims=True)
    shown_HW3 = np.repeat(grey_HW1, 3, axis=2)
    labelled_HW = label_HW != IGNORE_INDEX
    wrong_HW = labelled_HW & (label_HW != mask_HW)
    # The image shows through: one sees what it is that was not known.
    shown_HW3[wrong_HW] = 0.25 * (shown_HW3[wrong_HW] - 110) + 0.92 * np.array(WRONG)
    shown_HW3[~labelled_HW] = UNJUDGED
    error_HW3: NDArray[np.uint8] = np.clip(shown_HW3, 0, 255).round().astype(np.uint8)
    return error_HW3
