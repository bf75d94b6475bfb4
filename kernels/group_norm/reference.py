"""Group normalisation, as PyTorch computes it.

Axes: B batch, C channel, h w cells.
"""

import torch
from torch import Tensor


def group_norm(x_BChw: Tensor, weight_C: Tensor, bias_C: Tensor, groups: int, eps: float) -> Tensor:
    """Normalise each image's groups of channels, then multiply and move each channel.

    Source: Wu and He, "Group Normalization", ECCV 2018.

    Args:
        x_BChw: floating; a group may have one value, which becomes its bias.
        weight_C: floating.
        bias_C: of its dtype.
        groups: divides C.
        eps: added to a group's variance.

    Returns:
        (B, C, h, w) of the dtype of `x_BChw`.

    Raises:
        RuntimeError: the shapes do not fit together.
    """
    # Not of `torch.nn.functional`, which refuses groups of one value.
    return torch.group_norm(x_BChw, groups, weight_C, bias_C, eps)
