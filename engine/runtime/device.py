"""Where and how the network runs: one policy, every choice logged with its reason."""

import ctypes
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from engine.config import RuntimeConfig
from engine.runtime.graphs import Replayed
from engine.runtime.operations import Operations, choose_operations

_Output = TypeVar("_Output")

_log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt (malloc.h)."""

_KEEP_BYTES = 1 << 30
"""Blocks below this size come from the heap, and as much stays there when it is freed."""


@dataclass(frozen=True)
class DevicePolicy:
    """Device, autocast type, compilation and kernels; the memory format is channels-last.

    Attributes:
        device: of the network and of the decoded frames.
        autocast_dtype: of a forward pass; None = float32.
        compile: whether the network goes through torch.compile.
        operations: fused or reference.
        replay: whether steps and views are CUDA graphs, see `engine.runtime.graphs`.
    """

    device: torch.device
    autocast_dtype: torch.dtype | None
    compile: bool
    operations: Operations
    replay: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        """The context that a forward pass runs in."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def evaluation(self, network: Callable[[Tensor], _Output]) -> Callable[[Tensor], _Output]:
        """The network's forward pass for use in inference mode.

        What it returns is overwritten by its next call, where it is replayed.
        """
        forward = torch.compile(network, fullgraph=True) if self.compile else network

        def predict(image_BCHW: Tensor) -> _Output:
            with self.autocast():
                return forward(image_BCHW)

        return Replayed(predict) if self.replay else predict


def choose_device(config: RuntimeConfig) -> DevicePolicy:
    """Resolve the `auto` settings, set the CPU thread count and log each choice.

    Raises:
        ValueError: the device is not one torch knows.
        RuntimeError: a CUDA device was asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    name = config.device
    why = "asked for"
    if name == "auto":
        name, why = ("cuda", "a GPU is present") if has_cuda else ("cpu", "no GPU is present")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"runtime.device = {name!r}: {error}; use auto, cpu or cuda") from error
    if device.type == "cuda" and not has_cuda:
        raise RuntimeError(f"runtime.device = {name!r}, but torch finds no GPU; use cpu or auto")
    _log.info("device %s: %s", device, why)

    on_gpu = device.type == "cuda"
    if config.threads:
        torch.set_num_threads(config.threads)
    if not on_gpu:
        why = "asked for" if config.threads else "torch's choice"
        _log.info("%d CPU threads: %s", torch.get_num_threads(), why)

    if not on_gpu and _keep_freed_memory():
        _log.info("freed memory is kept: returning it costs a page fault for every 4 KiB reused")

    precision, why = config.precision, "asked for"
    if precision == "auto":
        precision = "bf16" if on_gpu else "fp32"
        why = "tensor cores" if on_gpu else "bf16 is emulated on most CPUs"
    _log.info("precision %s: %s", precision, why)

    compiled, why = config.compile == "on", "asked for"
    if config.compile == "auto":
        why = "a replay leaves less to gain than compiling takes"
        if not on_gpu:
            why = "convolutions dominate, nothing to fuse"
    replay = on_gpu and config.cuda_graphs != "off"
    form = ("compiled" if compiled else "eager") + (", replayed as CUDA graphs" if replay else "")
    _log.info("network %s, channels-last: %s", form, why)
    operations = choose_operations(config.kernels, device)
    dtype = torch.bfloat16 if precision == "bf16" else None
    return DevicePolicy(device, dtype, compiled, operations, replay)


def _keep_freed_memory() -> bool:
    """Let glibc reuse activations instead of unmapping them; whether it could be told so.

    A step allocates and frees the same large blocks each time. By default glibc maps and unmaps
    each one, and the kernel zeroes every page again.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES))
