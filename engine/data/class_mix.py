"""ClassMix: classes of one sample of a batch pasted over another (Olsson et al., WACV 2021).

B: rows of a batch. C: channels, or classes. H W: pixels of a crop.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.data.batch import Batch
from engine.nyuv2 import IGNORE_INDEX
from kernels import gpu


def mix_classes(batch: Batch, key_BC: NDArray[np.float64], pasted_B: NDArray[np.bool_]) -> None:
    """Paste half of the classes of the next row over each row that is said, in place.

    The next of the last row is the first. It gives its pixels as they came, with their input, label
    and depth; of an odd number of classes the smaller half, of one none, and never what is
    unlabelled. Does not wait for a GPU.

    Args:
        batch: of two rows or more.
        key_BC: random numbers in [0, 1): of the C classes in the row, the half with the lowest
            keys is taken.
        pasted_B: which rows are pasted over.
    """
    parts = batch.image_BCHW, batch.depth_BHW, batch.label_BHW
    rows = np.flatnonzero(pasted_B).tolist()
    # Every other row's next one is still as it came when its turn comes.
    first = [part[0].clone() for part in parts] if rows and rows[-1] == len(key_BC) - 1 else []
    for row in rows:
        following = first if row == len(key_BC) - 1 else [part[row + 1] for part in parts]
        chosen = _half(following[2], key_BC[row])[following[2].long()]
        for part, other in zip(parts, following, strict=True):
            part[row].copy_(torch.where(chosen, other, part[row]))


def _half(label_HW: Tensor, key_C: NDArray[np.float64]) -> Tensor:
    """By value of a label, whether its class is among the half that is taken."""
    classes = len(key_C)
    present = torch.zeros(IGNORE_INDEX + 1, dtype=torch.bool, device=label_HW.device)
    present[label_HW.flatten().long()] = True
    key = gpu.upload(torch.from_numpy(key_C.astype(np.float32)), label_HW.device)
    key = torch.where(present[:classes], key, torch.inf)
    taken = torch.zeros_like(present)
    taken[:classes] = key.argsort(stable=True).argsort() < present[:classes].sum() // 2
    return taken
