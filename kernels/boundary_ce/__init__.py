"""Boundary-weighted cross-entropy from strided logits."""

from kernels.boundary_ce.op import boundary_ce

__all__ = ["boundary_ce"]
