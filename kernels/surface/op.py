"""`append_cells` by device: Numba on the CPU, plain PyTorch elsewhere.

Axes: see reference.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.surface import cpu, reference


def append_cells(
    image_BCHW: Tensor,
    depth_BHW: Tensor,
    cells: Sequence[Tensor],
    row_BH: Tensor,
    column_BW: Tensor,
    sign_BK: Tensor,
) -> Tensor:
    """`reference.append_cells`; does not wait for a GPU, raises as that does."""
    reference.check_arguments(image_BCHW, depth_BHW, cells, row_BH, column_BW, sign_BK)
    if image_BCHW.device.type != "cpu":
        return reference.append_cells(image_BCHW, depth_BHW, cells, row_BH, column_BW, sign_BK)
    (B, C, H, W), K = image_BCHW.shape, sign_BK.shape[1]
    whole_BHWD = torch.empty(B, H, W, C + K)
    image_BHWC = image_BCHW.permute(0, 2, 3, 1).contiguous().numpy()
    depth, rows, columns = depth_BHW.contiguous().numpy(), row_BH.numpy(), column_BW.numpy()
    for b in range(B):
        one = image_BHWC[b], depth[b], reference.bytes_of(cells[b]).numpy(), (rows[b], columns[b])
        cpu.append_row(*one, sign_BK[b].numpy(), whole_BHWD[b].numpy())
    return whole_BHWD.permute(0, 3, 1, 2)
