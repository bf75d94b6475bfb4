"""A linear layer as autocast runs it.

Axes: N rows of the input, whatever axes they are; C inputs, D outputs of the layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x_NC: Tensor, weight_DC: Tensor, bias_D: Tensor, dtype: torch.dtype) -> Tensor:
    """Return W x + b, all made in `dtype`, to which the parameters are cast for it.

    Args:
        x_NC: (..., C), floating.
        weight_DC: (D, C), floating.
        bias_D: (D,), floating.
        dtype: floating.

    Returns:
        (..., D) of `dtype`.
    """
    return F.linear(x_NC.to(dtype), weight_DC.to(dtype), bias_D.to(dtype))
