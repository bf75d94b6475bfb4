"""Where and how the network runs: device, precision, kernels; each choice logged with a reason."""

import ctypes
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TypeVar

import torch
from torch import Tensor

from engine.config import RuntimeConfig
from engine.runtime.graphs import Replayed
from kernels.crop_resize import Crops, Encoding, Frames

_Output = TypeVar("_Output")

_log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of two parameters of glibc's mallopt, by its malloc.h."""

_KEEP_BYTES = 1 << 30
"""Size in bytes below which blocks come from the heap, and what of it stays there when freed: more
than any activation of a step takes."""


@dataclass(frozen=True)
class Operations:
    """The functions of `kernels` under their own names, all fused or all references."""

    boundary_ce: Callable[..., Tensor]
    tta_accumulate: Callable[..., None]
    resized_argmax: Callable[..., Tensor]
    probability_confusion: Callable[..., Tensor]
    crop_resize: Callable[[Frames, Tensor, tuple[int, int], Encoding], Crops]


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

    def autocast(self) -> torch.autocast:
        """The context that a forward pass runs in."""
        dtype = self.autocast_dtype
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def evaluation(self, network: Callable[[Tensor], _Output]) -> Callable[[Tensor], _Output]:
        """The network's forward pass for use in inference mode.

        What it returns is overwritten by its next call, where it is replayed.
        """
        forward = torch.compile(network, fullgraph=True) if self.compile else network

        def predict(image_BCHW: Tensor) -> _Output:
            with self.autocast():
                return forward(image_BCHW)

        return Replayed(predict) if self.replay else predict


def set_up_device(config: RuntimeConfig) -> DevicePolicy:
    """Resolve the `auto` settings, set the CPU's threads and have glibc keep freed memory.

    Raises:
        ValueError: the device is not one torch knows.
        RuntimeError: a CUDA device was asked for and there is none.
    """
    device = _device(config.device)
    on_gpu = device.type == "cuda"
    if config.threads:
        torch.set_num_threads(config.threads)
    if not on_gpu:
        why = "asked for" if config.threads else "torch's choice"
        _log.info("%d CPU threads: %s", torch.get_num_threads(), why)
        if _keep_freed_memory():
            _log.info(
                "freed memory is kept: returning it costs a page fault for every 4 KiB reused"
            )

    precision, why = config.precision, "asked for"
    if precision == "auto":
        precision, why = "fp32", "bf16 is emulated on most CPUs"
        if on_gpu:
            precision, why = "bf16", "tensor cores"
    _log.info("precision %s: %s", precision, why)

    why = "asked for"
    if config.compile == "auto":
        why = "convolutions dominate, nothing to fuse"
        if on_gpu:
            why = "a replay leaves less to gain than compiling takes"
    compiled, replay = config.compile == "on", on_gpu and config.cuda_graphs != "off"
    form = ("compiled" if compiled else "eager") + (", replayed as CUDA graphs" if replay else "")
    _log.info("network %s, channels-last: %s", form, why)
    operations = choose_operations(config.kernels, device)
    dtype = torch.bfloat16 if precision == "bf16" else None
    return DevicePolicy(device, dtype, compiled, operations, replay)


def choose_operations(kind: str, device: torch.device) -> Operations:
    """Those of a kind: "fused" is Triton on a GPU and Numba on a CPU, "reference" plain PyTorch."""
    form = ""
    if kind == "reference":
        form = ".reference"
        _log.info("kernels: PyTorch references, asked for")
    else:
        backend = "Triton" if device.type == "cuda" else "Numba"
        _log.info("kernels: %s, the fused form on %s", backend, device.type)
    return Operations(
        boundary_ce=resolve_name(f"kernels.boundary_ce{form}:boundary_ce"),
        tta_accumulate=resolve_name(f"kernels.tta_accumulate{form}:tta_accumulate"),
        resized_argmax=resolve_name(f"kernels.confusion{form}:resized_argmax"),
        probability_confusion=resolve_name(f"kernels.confusion{form}:probability_confusion"),
        crop_resize=resolve_name(f"kernels.crop_resize{form}:crop_resize"),
    )


def _device(name: str) -> torch.device:
    """The device of that name; `auto`: a GPU where there is one."""
    has_cuda, why = torch.cuda.is_available(), "asked for"
    if name == "auto":
        name, why = ("cuda", "a GPU is present") if has_cuda else ("cpu", "no GPU is present")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"runtime.device = {name!r}: {error}; use auto, cpu or cuda") from error
    if device.type == "cuda" and not has_cuda:
        raise RuntimeError(f"runtime.device = {name!r}, but torch finds no GPU; use cpu")
    _log.info("device %s: %s", device, why)
    return device


def _keep_freed_memory() -> bool:
    """Let glibc reuse activations instead of unmapping them; whether it could be told so.

    A step allocates and frees the same large blocks each time. By default glibc maps and unmaps
    each one, and the kernel zeroes every page again.
    """
    libc, thresholds = ctypes.CDLL(None), (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)
    return hasattr(libc, "mallopt") and all(libc.mallopt(t, _KEEP_BYTES) for t in thresholds)
