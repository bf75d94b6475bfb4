"""How a confusion matrix changes along a line of blends: every crossing of every pixel."""

from kernels.blend_sweep.op import (
    Crossings,
    add_to_bins,
    edge_values,
    frame_crossings,
    soft_counts,
    widest_peak,
)

__all__ = [
    "Crossings",
    "add_to_bins",
    "edge_values",
    "frame_crossings",
    "soft_counts",
    "widest_peak",
]
