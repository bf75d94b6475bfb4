"""What is asked of a GPU before a run, round a step, and of how long a run must be.

`torch.backends.cudnn.benchmark` stays off but for a step that was tuned so. Which convolution wins
its race, and so how sums are rounded, may differ from run to run; every size of view would be raced
for anew; and on an H100 nothing was gained: a full-size step took 42.6 ms with it and 42.3 without
(`benchmarks/results/full_size_h100.json`).

With `runtime.deterministic` two equal training steps leave the same bytes. What orders a GPU's sums
anew in each run: cuDNN's weight gradients, unless it is told; bilinear upsampling's backward pass,
see `kernels.upsample`; and what else PyTorch lists under `torch.use_deterministic_algorithms`, of
which the engine's networks use nothing (a test walks their operations). Kernels of our own add in a
fixed order. On a CPU nothing is to be done.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
import torch.utils.deterministic

from engine.config import Config

_log = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

COMPILE_S, SAVED_S = 67.5, 0.0130
"""Seconds that compiling took and that each replayed step was shorter by (42.34 -> 29.36 ms):
exp093_5 at full size on an H100, `benchmarks/results/full_size_h100.json`."""

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED = ":4096:8"
"""Eight buffers of 4 MiB, one of the two settings with which cuBLAS is deterministic whatever runs
on other streams (cuBLAS manual, "Results reproducibility"): 32 MiB, PyTorch's own sum on Hopper."""


def set_up_gpu(device: torch.device, *, deterministic: bool) -> None:
    """Make a GPU that is named by number the thread's own, before anything is asked of any."""
    if device.index is not None:
        # Triton launches, and recordings and streams are made, on the thread's GPU: the first.
        torch.cuda.set_device(device)
    if deterministic:
        # PyTorch and cuBLAS look at it with the process's first product.
        os.environ.setdefault(_WORKSPACE, _FIXED)
        _log.info("gradients deterministic: asked for")


def compiling_pays(config: Config, frames: int) -> bool:
    """What `runtime.compile = "auto"` comes to for replayed steps, on so many training frames.

    All folds' steps count, for they share what is compiled: PyTorch keeps it by the code and the
    form of what it is given, and a later process finds it on disk.
    """
    folds, training = config.data.folds, config.training
    labelled = training.batch_size - config.unlabelled
    a_fold = max(1, frames * (folds - 1) // folds // labelled)
    steps = config.networks * training.epochs * a_fold
    saved_s = steps * SAVED_S
    pays = saved_s > COMPILE_S
    told = "steps %s: by exp093_5 on an H100, %d save %.0f s, and compiling takes %.0f s"
    _log.info(told, "compiled" if pays else "not compiled", steps, saved_s, COMPILE_S)
    return pays


def deterministically(act: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`act`, in each call of which PyTorch uses deterministic algorithms; afterwards as before.

    An operation that has none warns: an encoder of timm may hold one, and it then is what differs.
    """

    def call(*inputs: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        with _deterministic_algorithms():
            return act(*inputs, **named)

    return call


def raced(act: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`act`, in each call of which cuDNN tries its convolutions; afterwards as before."""

    def call(*inputs: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        # The process's: autograd's threads see it too.
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            return act(*inputs, **named)
        finally:
            torch.backends.cudnn.benchmark = before

    return call


@contextmanager
def true_float32() -> Iterator[None]:
    """Convolutions in float32 throughout, which by default round their inputs to TF32 on a GPU."""
    backend: Any = torch.backends.cudnn
    convolution = backend.conv
    before = convolution.fp32_precision
    convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision = before


@contextmanager
def _deterministic_algorithms() -> Iterator[None]:
    # All three are the process's, not the thread's: autograd's threads see them too.
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module with a property
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    # Nothing here reads memory that nobody wrote, so filling it would be a kernel for nothing.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warned)
        torch.backends.cudnn.deterministic = before[1]
        memory.fill_uninitialized_memory = filled
