"""What a depth map says of surfaces: their normals, and crops of channels made of them."""

from kernels.surface.cpu import surface_normals
from kernels.surface.op import append_cells

__all__ = ["append_cells", "surface_normals"]
