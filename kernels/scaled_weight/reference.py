"""Scale folded into a linear layer's weights, written as the mathematics reads.

Axes: C outputs, D inputs of the layer.
"""

import torch
from torch import Tensor


def scaled_weight(
    weight_CD: Tensor, bias_C: Tensor, gamma_C: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return gamma W and gamma b, by which `linear` gives gamma (W x + b).

    So the scale after the second product of a ConvNeXt block's MLP ("A ConvNet for the 2020s", Liu
    et al. 2022) costs no pass over the cells. Products are made in the parameters' own dtype, and
    rounded to `dtype` once; so are their gradients, from those in `dtype`.

    Args:
        weight_CD: (C, D), floating, no side empty.
        bias_C: (C,), of the same dtype.
        gamma_C: (C,), of the same dtype.
        dtype: floating, that the layer's product is made in.

    Returns:
        (C, D) and (C,), contiguous, of `dtype`.

    Raises:
        ValueError: shapes or dtypes do not fit together.
    """
    check(weight_CD, bias_C, gamma_C, dtype)
    return (gamma_C[:, None] * weight_CD).to(dtype).contiguous(), (gamma_C * bias_C).to(dtype)


def check(weight_CD: Tensor, bias_C: Tensor, gamma_C: Tensor, dtype: torch.dtype) -> None:
    """Raise the ValueErrors of `scaled_weight`."""
    if weight_CD.ndim != 2 or not weight_CD.numel():
        raise ValueError(f"weights must be (C, D), no side empty, got {tuple(weight_CD.shape)}")
    C = len(weight_CD)
    for name, vector in (("bias", bias_C), ("gamma", gamma_C)):
        if vector.shape != (C,) or vector.dtype != weight_CD.dtype:
            came = f"{tuple(vector.shape)} {vector.dtype}"
            raise ValueError(f"{name} must be ({C},) {weight_CD.dtype}, got {came}")
    if not (weight_CD.is_floating_point() and dtype.is_floating_point):
        raise ValueError(f"both dtypes must be floating, got {weight_CD.dtype} and {dtype}")
