"""How a confusion matrix changes along a line of blends: every crossing of every pixel."""

from kernels.blend_sweep.cpu import Crossings
from kernels.blend_sweep.cpu_curve import Bins, add_to_bins, edge_values, inside, widest_peak
from kernels.blend_sweep.op import frame_crossings, soft_counts

__all__ = [
    "Bins",
    "Crossings",
    "add_to_bins",
    "edge_values",
    "frame_crossings",
    "inside",
    "soft_counts",
    "widest_peak",
]
