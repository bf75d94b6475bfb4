"""Adds one test-time view to the class probabilities of every temperature."""

from kernels.tta_accumulate.op import tta_accumulate
from kernels.tta_accumulate.reference import zero_total

__all__ = ["tta_accumulate", "zero_total"]
