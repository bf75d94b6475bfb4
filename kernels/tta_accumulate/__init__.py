"""Adds test-time views to the class probabilities of every temperature."""

from kernels.tta_accumulate.op import tta_accumulate
from kernels.tta_accumulate.reference import View, zero_total

__all__ = ["View", "tta_accumulate", "zero_total"]
