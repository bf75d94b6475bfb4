"""NYU Depth v2: class names, depth range and the units used on disk.

Source: Silberman, Hoiem, Kohli and Fergus, "Indoor Segmentation and Support Inference from RGBD
Images", ECCV 2012; the 13 classes are those of Couprie et al., "Indoor Semantic Segmentation using
depth information", ICLR 2013.
"""

CLASSES: tuple[str, ...] = (
    "bed",
    "books",
    "ceiling",
    "chair",
    "floor",
    "furniture",
    "objects",
    "picture",
    "sofa",
    "table",
    "tv",
    "wall",
    "window",
)
"""Class names; a class's index is its position."""

SMALL_CLASSES: tuple[str, ...] = ("books", "chair", "objects", "picture", "tv")
"""Classes that cover few pixels: what a class-aware crop is centred on."""

IGNORE_INDEX = 255
"""Label of a pixel without a class."""

DEPTH_MIN_M = 0.71
"""Nearest depth that the sensor measures, metres."""

DEPTH_MAX_M = 10.0
"""Farthest depth that the sensor measures, metres."""

MILLIMETRES_PER_METRE = 1000.0
"""Depth maps on disk count millimetres; 0 means missing."""

PALETTE: tuple[tuple[int, int, int], ...] = (
    (214, 39, 40),
    (188, 189, 34),
    (199, 199, 199),
    (255, 127, 14),
    (140, 86, 75),
    (44, 160, 44),
    (227, 119, 194),
    (148, 103, 189),
    (31, 119, 180),
    (152, 223, 138),
    (23, 190, 207),
    (127, 127, 127),
    (174, 199, 232),
)
"""RGB colour of each class in the indexed masks that `engine.predict` writes."""
