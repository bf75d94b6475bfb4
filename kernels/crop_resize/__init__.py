"""Cuts crops out of decoded frames: resized, mirrored, lit, normalised, in one pass."""

from kernels.crop_resize.op import crop_resize
from kernels.crop_resize.reference import DRAW_COLUMNS, Crops, Encoding, Frames

__all__ = ["DRAW_COLUMNS", "Crops", "Encoding", "Frames", "crop_resize"]
