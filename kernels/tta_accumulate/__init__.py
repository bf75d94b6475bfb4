"""Adds test-time views to the class probabilities of every temperature."""

from kernels.tta_accumulate.op import tta_accumulate
from kernels.tta_accumulate.reference import Band, View, needed_cells, zero_total

__all__ = ["Band", "View", "needed_cells", "tta_accumulate", "zero_total"]
