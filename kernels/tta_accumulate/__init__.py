"""Adds one test-time view to the class probabilities of every temperature."""

from kernels.tta_accumulate.reference import tta_accumulate, zero_total

__all__ = ["tta_accumulate", "zero_total"]
