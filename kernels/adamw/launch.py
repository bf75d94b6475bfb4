"""How the Triton kernels of this folder are launched: tables, grids and constants.

Axes: T tensors, N chunks, K rows of the table; see triton.py.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.adamw.reference import CLIP_EPSILON, Constants, State

LAUNCH = {"num_warps": 4}
BLOCK = 1024
"""Values that a program moves at a time: eight a thread, two accesses of 128 bits an array."""
CHUNK = 4 * BLOCK
"""Values of a program: for 90 M parameters some 22,000 programs, twenty turns of an H100."""
LANES = 128
"""Tensors that a program of `count_step` prepares."""
SUMS, SUMS_LAUNCH = 4096, {"num_warps": 16}
"""Partial sums that the one program of `finish_norm` reads at a time, and its launch."""

_GRADIENT = 1
"""Row of the table that is written anew by every call."""


class Tables(NamedTuple):
    """Where everything lies; made once for tensors that stay where they are."""

    table_KT: Tensor
    chunk_N2: Tensor
    decay_T: Tensor


def make_tables(state: State, lr: Sequence[Tensor], decay: Sequence[float]) -> Tables:
    """Tables for these very tensors, which must outlive them; here the host waits for the GPU."""
    parameter, device = state.parameter, state.parameter[0].device
    none = [0] * len(parameter)
    rows = [
        [tensor.data_ptr() for tensor in parameter],
        none,
        *([tensor.data_ptr() for tensor in kind] for kind in state[1:]),
        [tensor.data_ptr() for tensor in lr],
        [tensor.numel() for tensor in parameter],
    ]
    chunks = [(t, k) for t, p in enumerate(parameter) for k in range(-(-p.numel() // CHUNK))]
    return Tables(
        torch.tensor(rows, dtype=torch.int64, device=device),
        torch.tensor(chunks, dtype=torch.int32, device=device).reshape(-1, 2),
        torch.tensor(decay, dtype=torch.float32, device=device),
    )


def update(
    gradient: Sequence[Tensor], average_weight: Tensor, constants: Constants, tables: Tables
) -> Tensor:
    """As `reference.update`; gradients begin at multiples of 16 bytes and lie as parameters do."""
    from kernels.adamw import triton

    table_KT, chunk_N2, decay_T = tables
    T, N = table_KT.shape[1], len(chunk_N2)
    _note_addresses(table_KT[_GRADIENT], gradient)
    partial_N, norm_2 = decay_T.new_empty(N), decay_T.new_empty(2)
    scale_3T = decay_T.new_empty((3, T))
    clips, per_chunk = constants.clip_norm > 0, (table_KT, chunk_N2, partial_N)
    triton.count_step[(-(-T // LANES),)](
        table_KT, decay_T, scale_3T, T, **step_constants(constants), **LAUNCH
    )
    if clips and N:
        triton.sum_squares[(N,)](*per_chunk, T, CHUNK=CHUNK, BLOCK=BLOCK, **LAUNCH)
    if clips:
        _finish_norm(partial_N, norm_2, constants)
    if N:
        triton.update_weights[(N,)](
            *per_chunk, scale_3T, norm_2, average_weight, T, **update_constants(constants), **LAUNCH
        )
    if not clips:
        _finish_norm(partial_N, norm_2, constants)
    return norm_2[0]


def step_constants(constants: Constants) -> dict[str, Any]:
    """Of `count_step`; a beta of 0 has no logarithm, and its smallest neighbour acts as it does."""
    log_beta1, log_beta2 = (
        math.log(max(beta, 1e-300)) for beta in (constants.beta1, constants.beta2)
    )
    return {"LOG_BETA1": log_beta1, "LOG_BETA2": log_beta2, "LANES": LANES}


def update_constants(constants: Constants) -> dict[str, Any]:
    """Of `update_weights`."""
    return {
        "BETA1": constants.beta1,
        "BETA2": constants.beta2,
        "EPSILON": constants.epsilon,
        "CLIP": constants.clip_norm > 0,
        "CHUNK": CHUNK,
        "BLOCK": BLOCK,
    }


def norm_constants() -> dict[str, Any]:
    """Of `finish_norm`."""
    return {"CLIP_EPSILON": CLIP_EPSILON, "BLOCK": SUMS}


def _finish_norm(partial_N: Tensor, norm_2: Tensor, constants: Constants) -> None:
    from kernels.adamw.triton import finish_norm

    arguments = (partial_N, norm_2, len(partial_N), constants.clip_norm)
    finish_norm[(1,)](*arguments, **norm_constants(), **SUMS_LAUNCH)


def _note_addresses(row_T: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write where tensors lie into an int64 row, without memory of the host.

    Gradients lie elsewhere in every eager step, and in every recording. The addresses travel as
    arguments of PyTorch's multi-tensor addition, some hundred a launch, so that a recording holds
    them itself: a copy from the host would read, at a replay, what the host's memory then holds.
    """
    row_T.zero_()
    torch._foreach_add_(list(row_T.unbind()), [tensor.data_ptr() for tensor in tensors])
