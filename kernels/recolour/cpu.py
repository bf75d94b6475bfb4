"""Colours of crops mixed on the CPU: one pass over the region of each row.

Axes: see reference.py.
"""

import numba
import numpy as np

from kernels.cpu import FAST, Array


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def recolour(image_BHWC: Array, region_B4: Array, mix_B43: Array, ends_23: Array) -> None:
    """See `reference.recolour`."""
    for b in range(image_BHWC.shape[0]):
        top, bottom, left, right = region_B4[b]
        mix_43 = mix_B43[b]
        for y in range(top, bottom):
            line_w = image_BHWC[b, y, left:right]
            for x in range(np.uintp(line_w.shape[0])):
                red, green, blue = line_w[x, 0], line_w[x, 1], line_w[x, 2]
                for c in range(np.uintp(3)):
                    value = red * mix_43[0, c] + green * mix_43[1, c]
                    value += blue * mix_43[2, c] + mix_43[3, c]
                    line_w[x, c] = min(max(value, ends_23[0, c]), ends_23[1, c])
