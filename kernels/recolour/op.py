"""`recolour` by device: Numba on the CPU, plain PyTorch elsewhere.

Axes: see reference.py.
"""

from torch import Tensor

from kernels.recolour import cpu, reference


def recolour(image_BCHW: Tensor, region_B4: Tensor, mix_B43: Tensor, ends_23: Tensor) -> None:
    """`reference.recolour`; raises as that does."""
    if image_BCHW.device.type != "cpu":
        reference.recolour(image_BCHW, region_B4, mix_B43, ends_23)
        return
    reference.check_arguments(image_BCHW, region_B4, mix_B43, ends_23)
    image_BHWC = image_BCHW.permute(0, 2, 3, 1).numpy()
    numbers = (part.contiguous().numpy() for part in (region_B4, mix_B43, ends_23))
    cpu.recolour(image_BHWC, *numbers)
