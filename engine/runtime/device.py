"""What the engine runs on: device, precision and kernels, chosen and logged; the memory there."""

import ctypes
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TypeVar

import torch
from torch import Tensor

from engine.config import RuntimeConfig
from engine.runtime.forms import PLAIN, StepForm
from engine.runtime.gpu import set_up_gpu
from engine.runtime.graphs import replayed_pass
from kernels.crop_resize import Crops, Encoding, Frames

_Output = TypeVar("_Output")

_log = logging.getLogger(__name__)

CGROUP = Path("/sys/fs/cgroup")
"""What limits a container: https://docs.kernel.org/admin-guide/cgroup-v2.html."""

_KEEP_BYTES = 1 << 30
"""Blocks below it come from the heap and stay there when freed: more than any activation takes."""


@dataclass(frozen=True)
class Operations:
    """The functions of `kernels` under their own names, all fused or all references."""

    boundary_ce: Callable[..., Tensor]
    tta_accumulate: Callable[..., None]
    resized_argmax: Callable[..., Tensor]
    probability_confusion: Callable[..., Tensor]
    crop_resize: Callable[[Frames, Tensor, tuple[int, int], Encoding, torch.dtype], Crops]


@dataclass(frozen=True)
class DevicePolicy:
    """Device, precision and kernels; the memory format is channels-last."""

    device: torch.device
    """of the network and of the decoded frames"""
    autocast_dtype: torch.dtype | None
    """of a forward pass; None = float32"""
    compile: bool
    """whether the network goes through torch.compile; a replayed view has no launches to save"""
    operations: Operations
    replay: bool = False
    """whether steps and views are CUDA graphs, see `engine.runtime.graphs`"""
    deterministic: bool = False
    """whether a GPU's gradients are to be the same bytes every time, as a CPU's always are"""
    form: StepForm = PLAIN
    """how a training step is computed; untuned, `compile` alone says whether it is compiled"""
    own_layers: bool = False
    """whether layers of the network train in kernels of ours, see `engine.model.on_cpu`"""

    def formed(self, form: StepForm) -> "DevicePolicy":
        """The same, its training steps in a form."""
        return replace(self, compile=form.compile != "off", form=form)

    @property
    def input_dtype(self) -> torch.dtype:
        """Of a network's input: on a GPU what autocast would round it to, which is the same bits.

        Half the bytes, and no cast of them in every pass.
        """
        if self.device.type != "cuda" or self.autocast_dtype is None:
            return torch.float32
        return self.autocast_dtype

    def autocast(self) -> torch.autocast:
        """The context that a forward pass runs in."""
        dtype = self.autocast_dtype
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def evaluation(self, network: Callable[[Tensor], _Output]) -> Callable[[Tensor], _Output]:
        """The forward pass for inference mode; if replayed, a call overwrites any last result."""
        if self.replay:
            return replayed_pass(self.eager(network))
        return self.eager(torch.compile(network, fullgraph=True) if self.compile else network)

    def eager(self, network: Callable[[Tensor], _Output]) -> Callable[[Tensor], _Output]:
        """The forward pass as it is written."""

        def predict(image_BCHW: Tensor) -> _Output:
            with self.autocast():
                return network(image_BCHW)

        return predict


def set_up_device(config: RuntimeConfig) -> DevicePolicy:
    """Resolve the `auto` settings, set the CPU's threads and have glibc keep freed memory.

    Raises:
        ValueError: the device is not one torch knows, or is not there.
    """
    device = _device(config.device)
    on_gpu = device.type == "cuda"
    if config.threads:
        torch.set_num_threads(config.threads)
    if on_gpu:
        set_up_gpu(device, deterministic=config.deterministic)
    else:
        why = "asked for" if config.threads else "torch's choice"
        # See `engine.command`.
        sleep = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
        why += "; those that wait sleep" if sleep else ""
        _log.info("%d CPU threads: %s", torch.get_num_threads(), why)
        keep_freed_memory()
    fast = ("bf16", "tensor cores") if on_gpu else ("fp32", "bf16 is emulated on most CPUs")
    precision, why = _resolved(config.precision, *fast)
    _log.info("precision %s: %s", precision, why)
    if precision == "bf16" and not on_gpu and not multiplies_bf16():
        _log.warning(
            "this processor has no instructions for bfloat16: PyTorch multiplies it by plain "
            "loops there, and a step takes many times as long as in float32; type "
            "--runtime.precision fp32"
        )
    why = "convolutions dominate, nothing to fuse"
    if on_gpu:
        why = "where steps are replayed, their number will tell whether compiling pays"
    form, why = _resolved(config.compile, "off", why)
    compiled, replay = form == "on", on_gpu and config.cuda_graphs != "off"
    form = ("compiled" if compiled else "eager") + (", replayed as CUDA graphs" if replay else "")
    _log.info("network %s, channels-last: %s", form, why)
    operations = choose_operations(config.kernels, device)
    dtype = torch.bfloat16 if precision == "bf16" else None
    deterministic = on_gpu and config.deterministic
    own_layers = _own_layers(config, on_gpu=on_gpu, compiled=compiled)
    policy = DevicePolicy(device, dtype, compiled, operations, replay, deterministic)
    return replace(policy, own_layers=own_layers)


@contextmanager
def own_threads() -> Iterator[None]:
    """Set back, at the end, the number of CPU threads that something within sets for its work."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _own_layers(config: RuntimeConfig, *, on_gpu: bool, compiled: bool) -> bool:
    suits = not on_gpu and not compiled and config.kernels == "fused"
    if config.layers == "fused" and not suits:
        _log.info("layers by PyTorch: ours are for an eager network on a CPU")
    return suits and config.layers != "torch"


def choose_operations(kind: str, device: torch.device) -> Operations:
    """Those of a kind: "fused" is Triton on a GPU and Numba on a CPU, "reference" plain PyTorch."""
    backend = "Triton" if device.type == "cuda" else "Numba"
    told = f"{backend}, the fused form on {device.type}"
    _log.info("kernels: %s", "PyTorch references, asked for" if kind == "reference" else told)
    return operations_of(kind)


def operations_of(kind: str) -> Operations:
    """Those of a kind, for any device; see `choose_operations`."""
    form = ".reference" if kind == "reference" else ""
    return Operations(
        boundary_ce=resolve_name(f"kernels.boundary_ce{form}:boundary_ce"),
        tta_accumulate=resolve_name(f"kernels.tta_accumulate{form}:tta_accumulate"),
        resized_argmax=resolve_name(f"kernels.confusion{form}:resized_argmax"),
        probability_confusion=resolve_name(f"kernels.confusion{form}:probability_confusion"),
        crop_resize=resolve_name(f"kernels.crop_resize{form}:crop_resize"),
    )


def total_bytes(device: torch.device) -> int:
    """Memory of the device; of a CPU, what a container may use of it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(total, container_bytes() or total)


def multiplies_bf16() -> bool:
    """Whether PyTorch has products in bfloat16 on this processor that are no plain loops.

    Many desktops have AVX2 alone, and such loops; by AVX-512 oneDNN emulates them at least.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def container_bytes() -> int | None:
    """Memory that the container may use; None if there is no limit."""
    path = CGROUP / "memory.max"
    allowed = path.read_text("ascii").strip() if path.exists() else "max"
    return int(allowed) if allowed.isdigit() else None


def _resolved(asked: str, chosen: str, why: str) -> tuple[str, str]:
    """What a setting comes to, and the reason: what was chosen for it if `auto` was asked for."""
    return (chosen, why) if asked == "auto" else (asked, "asked for")


def keep_freed_memory() -> None:
    """Have the allocator of a process on the CPU reuse what was freed, where it is glibc's.

    A step allocates and frees the same large blocks each time. By default glibc maps and unmaps
    each one, and the kernel zeroes every page again.
    """
    libc = ctypes.CDLL(None)
    thresholds = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's malloc.h
    if hasattr(libc, "mallopt") and all(libc.mallopt(t, _KEEP_BYTES) for t in thresholds):
        _log.info("freed memory is kept: returning it costs a page fault for every 4 KiB reused")


def _device(asked: str) -> torch.device:
    has_cuda = torch.cuda.is_available()
    found = ("cuda", "a GPU is present") if has_cuda else ("cpu", "no GPU is present")
    name, why = _resolved(asked, *found)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"runtime.device = {name!r}: {error}; use auto, cpu or cuda") from error
    if device.type == "cuda" and not has_cuda:
        raise ValueError(f"runtime.device = {name!r}, but torch finds no GPU; use cpu or auto")
    if device.type == "cuda" and (number := name.partition(":")[2]):
        count = torch.cuda.device_count()
        if int(number) >= count:
            named = f"runtime.device = {name!r}, but the last of {count} GPUs is cuda:{count - 1}"
            raise ValueError(f"{named}; use one that is there")
    _log.info("device %s: %s", device, why)
    return device
