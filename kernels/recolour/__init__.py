"""Mixes the colours of crops, in place."""

from kernels.recolour.op import recolour

__all__ = ["recolour"]
