"""AdamW with a weight average and the gradient's norm, as an operation of PyTorch.

Triton on a GPU; elsewhere the reference, for the engine has PyTorch's own fused AdamW there.

Axes: T tensors.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import gpu
from kernels.adamw import launch, reference
from kernels.adamw.reference import Constants, State

_ALIGNED = 16
"""Bytes that an access of 128 bits needs its address to be a multiple of."""


class Update:
    """`reference.update` of tensors that stay where they are, each read and written once.

    Without clipping the norm costs no memory traffic; with it gradients are read twice. The same
    bytes every time. Does not wait for the device and may be recorded as a CUDA graph, once it has
    been called outside of one; making it does wait.
    """

    def __init__(self, state: State, lr: Sequence[Tensor], constants: Constants) -> None:
        """Lay out what is known before the gradients are.

        Args:
            state: float32 tensors without holes that begin at multiples of 16 bytes, as PyTorch's
                allocator gives them; off the GPU of any floating dtype.
            lr: learning rate of each parameter, a scalar tensor that a caller may fill anew; one
                may stand for several.
            constants: see there.

        Raises:
            ValueError: there is no tensor, or one is not as said; the numbers of tensors differ.
        """
        self.state, self.lr, self.constants = state, list(lr), constants
        self._triton = bool(state.parameter) and gpu.uses_triton(state.parameter[0])
        _check(state, self.lr, constants, self._triton)
        tables = launch.make_tables(state, self.lr, constants.decay) if self._triton else ()
        self._tables: list[Tensor] = list(tables)

    def __call__(self, gradient: Sequence[Tensor], average_weight: Tensor) -> Tensor:
        """Take a step; returns the norm of all gradients before clipping, a scalar.

        Args:
            gradient: of each parameter; one that does not lie as its parameter does is copied.
            average_weight: as the reference; a scalar float32 tensor on the device.

        Raises:
            ValueError: a gradient has not its parameter's shape and dtype.
        """
        given = [_like(g, p) for g, p in zip(gradient, self.state.parameter, strict=True)]
        kinds = [list(kind) for kind in self.state]
        named = self.constants._asdict()
        decay = list(named.pop("decay"))
        norm: Tensor = _update(
            *kinds, given, self.lr, average_weight, self._tables, decay, *named.values()
        )
        return norm


@torch.library.custom_op(
    "roomsmith::adamw", mutates_args=("parameter", "first", "second", "average", "step", "tables")
)
def _update(  # noqa: PLR0913 - an operator's schema knows no types of ours
    parameter: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    average: Sequence[Tensor],
    step: Sequence[Tensor],
    gradient: Sequence[Tensor],
    lr: Sequence[Tensor],
    average_weight: Tensor,
    tables: Sequence[Tensor],
    decay: Sequence[float],
    beta1: float,
    beta2: float,
    epsilon: float,
    clip_norm: float,
) -> Tensor:
    """`tables` are those of `launch.make_tables`; without any the reference runs."""
    constants = Constants(decay, beta1, beta2, epsilon, clip_norm)
    if tables:
        return launch.update(gradient, average_weight, constants, launch.Tables(*tables))
    state = State(parameter, first, second, average, step)
    return reference.update(state, gradient, lr, average_weight, constants)


@_update.register_fake
def _norm_shape(parameter: Sequence[Tensor], *_: object) -> Tensor:
    return parameter[0].new_empty(())


def _like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient, or a copy of it that lies as the parameter does."""
    if gradient.shape != parameter.shape or gradient.dtype != parameter.dtype:
        came, needed = _described(gradient), _described(parameter)
        raise ValueError(f"a gradient is {came}, its parameter {needed}; both must be the same")
    if _strides(gradient) == _strides(parameter) and gradient.data_ptr() % _ALIGNED == 0:
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _check(state: State, lr: Sequence[Tensor], constants: Constants, on_gpu: bool) -> None:
    counts = {len(kind) for kind in (*state, lr, constants.decay)}
    if counts in ({0}, set()) or len(counts) > 1:
        raise ValueError(f"needs one tensor or more and as many of each kind, got {counts}")
    allowed = (torch.float32,) if on_gpu else (torch.float32, torch.float64)
    for parameter, *others in zip(*state[:4], strict=True):
        dense = _strides(torch.empty_like(parameter, device="meta")) == _strides(parameter)
        if parameter.dtype not in allowed or not dense:
            raise ValueError(f"a parameter is {_described(parameter)}; float32 without holes works")
        for tensor in others:
            if _described(tensor) != _described(parameter):
                came, needed = _described(tensor), _described(parameter)
                raise ValueError(
                    f"a state is {came}, its parameter {needed}; both must be the same"
                )
        if on_gpu and any(tensor.data_ptr() % _ALIGNED for tensor in (parameter, *others)):
            raise ValueError(f"a tensor does not begin at a multiple of {_ALIGNED} bytes; clone it")


def _described(tensor: Tensor) -> str:
    shape = tuple(tensor.shape)
    return f"{tensor.dtype}, {shape} with strides {_strides(tensor)}, on {tensor.device}"


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Of the axes longer than 1: the others' say nothing, and differ by who made a tensor."""
    return tuple(s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1)
