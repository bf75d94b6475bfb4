"""NYU Depth v2: class names, depth range and the units used on disk.

Source: Silberman, Hoiem, Kohli and Fergus, "Indoor Segmentation and Support Inference from RGBD
Images", ECCV 2012; the 13 classes are those of Couprie et al., "Indoor Semantic Segmentation using
depth information", ICLR 2013.
"""

_COLOURS = {
    "bed": (214, 39, 40),
    "books": (188, 189, 34),
    "ceiling": (199, 199, 199),
    "chair": (255, 127, 14),
    "floor": (140, 86, 75),
    "furniture": (44, 160, 44),
    "objects": (227, 119, 194),
    "picture": (148, 103, 189),
    "sofa": (31, 119, 180),
    "table": (152, 223, 138),
    "tv": (23, 190, 207),
    "wall": (127, 127, 127),
    "window": (174, 199, 232),
}
"""Each class, in the order of its index, and its RGB colour."""

CLASSES: tuple[str, ...] = tuple(_COLOURS)
"""Class names; a class's index is its position."""

PALETTE: tuple[tuple[int, int, int], ...] = tuple(_COLOURS.values())
"""RGB colour of each class in pictures of masks."""

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
