"""One step of AdamW and of the weight average, in plain PyTorch: the specification.

Sources: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, as
`torch.optim.AdamW(fused=True)` computes it; clipping as `torch.nn.utils.clip_grad_norm_`.

Axes: T tensors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CLIP_EPSILON = 1e-6
"""Added to the norm that the limit is divided by, as PyTorch does."""


class State(NamedTuple):
    """What a step changes: T tensors of each kind, those of one t with the same shape and strides.

    All on one device and of one dtype. `step` counts the steps taken: scalars of that dtype.
    """

    parameter: Sequence[Tensor]
    first: Sequence[Tensor]
    """moving mean of the gradient, PyTorch's `exp_avg`"""
    second: Sequence[Tensor]
    """moving mean of its square, `exp_avg_sq`"""
    average: Sequence[Tensor]
    """of the parameter: moves towards its new value"""
    step: Sequence[Tensor]


class Constants(NamedTuple):
    """What stays the same over all steps; `decay` has one weight decay for each tensor."""

    decay: Sequence[float]
    beta1: float
    beta2: float
    epsilon: float
    clip_norm: float
    """limit of the norm of all gradients together; 0 = none"""


def update(
    state: State,
    gradient: Sequence[Tensor],
    lr: Sequence[Tensor],
    average_weight: Tensor,
    constants: Constants,
) -> Tensor:
    """Take a step in place; a value that is not finite spreads as in PyTorch.

    Args:
        state: changed in place.
        gradient: of each parameter, left as it is.
        lr: learning rate of each parameter, scalars.
        average_weight: of the new parameter in its average, in 0 .. 1; a scalar.
        constants: see there.

    Returns:
        The norm of all gradients before clipping, a scalar.
    """
    norm: Tensor = torch.stack([part.norm() for part in gradient]).norm()
    factor = (constants.clip_norm / (norm + CLIP_EPSILON)).clamp(max=1.0)
    for t, grad in enumerate(gradient):
        clipped = grad * factor if constants.clip_norm else grad
        parameter, first, second, average, step = (kind[t] for kind in state)
        step += 1
        parameter -= lr[t] * constants.decay[t] * parameter
        first.lerp_(clipped, 1 - constants.beta1)
        second.mul_(constants.beta2).addcmul_(clipped, clipped, value=1 - constants.beta2)
        # In float64: 1 - 0.999 has five digits in float32.
        taken = step.double()
        of_first, of_second = 1 - constants.beta1**taken, 1 - constants.beta2**taken
        root = second.sqrt() / of_second.sqrt().to(second.dtype) + constants.epsilon
        parameter -= (lr[t] / of_first).to(first.dtype) * first / root
        average.lerp_(parameter, average_weight.to(average.dtype))
    return norm
