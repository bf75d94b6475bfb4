"""Any file of a frame by each of the libraries that decode faster than OpenCV.

Each takes a file and returns what its pixels hold, without turning it: (H, W, 3) uint8 RGB of an
image, (H, W) of a depth map or label in greys.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8 | np.uint16]


def by_imagecodecs(file: Path) -> Pixels:
    """Imagecodecs: libjpeg-turbo and libpng."""
    import imagecodecs

    decode = imagecodecs.png_decode if file.suffix == ".png" else imagecodecs.jpeg8_decode
    pixels: Pixels = decode(file.read_bytes())
    return pixels


def by_pyspng(file: Path) -> Pixels:
    """Pyspng's libspng for PNG; simplejpeg's libjpeg-turbo for the JPEG that it has no decoder for.

    It gives greys of 16 bits an opacity, which is dropped.
    """
    import pyspng
    import simplejpeg

    content = file.read_bytes()
    pixels: Pixels = (
        pyspng.load(content) if file.suffix == ".png" else simplejpeg.decode_jpeg(content)
    )
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 2 else pixels
