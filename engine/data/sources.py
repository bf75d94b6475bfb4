"""Draws and frames to batches: what a source is, and which one runs.

`resident` keeps decoded frames on the device and crops them by a fused operation; `dali` lets
NVIDIA DALI decode and crop; `torch` is the reference, in plain PyTorch. For the same draws all give
the same labels and depths, and images within rounding.

B: rows of a batch. C: channels. H W: pixels of the crop.
"""

import functools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import RuntimeConfig
from engine.data.augment import Draws
from engine.data.inputs import InputSpec
from engine.data.resident import (
    CropResize,
    ResidentFrames,
    crop_frames,
    memory_limit,
    misfit,
    open_resident,
)
from engine.frames.check import cache_folder
from engine.frames.listing import Sample
from engine.runtime.device import DevicePolicy

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's input and targets, on the device that the source was made for."""

    image_BCHW: Tensor
    """(B, C, H, W) float32, channels-last: normalised RGB (and inverse depth)."""
    depth_BHW: Tensor
    """(B, H, W) float32 metres as stored, 0 = missing; all 0 if the dataset has no depth."""
    label_BHW: Tensor
    """(B, H, W) uint8, 255 = ignore; all 255 if the samples have no labels."""
    index: NDArray[np.int64]
    """(B,) which samples they are."""

    def parts(self, count: int) -> list["Batch"]:
        """At most `count` batches of (nearly) equal size, in order, that share its memory."""
        size = -(-len(self.index) // count)
        rows = [slice(start, start + size) for start in range(0, len(self.index), size)]
        return [
            Batch(self.image_BCHW[r], self.depth_BHW[r], self.label_BHW[r], self.index[r])
            for r in rows
        ]


class Source(Protocol):
    """Whatever turns draws into batches."""

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """One batch for each `Draws`, in order; where files are read, the next are in preparation.

        Args:
            draws: consumed a few batches ahead; none may have more rows than the first one.

        Yields:
            Batches on the source's device. Closing the iterator early ends its threads.

        Raises:
            RuntimeError: a file cannot be read; the message names the sample's stem.
        """
        ...


@dataclass(frozen=True, eq=False)
class ResidentSource:
    """Crops of frames that stay on the device; see `Source`, other arguments as of `make_source`.

    Batches are made when they are asked for. On a GPU that is a kernel launch, which the host does
    not wait for; on a CPU another thread would only take cores from the network.
    """

    resident: ResidentFrames
    crop_hw: tuple[int, int]
    spec: InputSpec
    crop: CropResize

    def batches(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """See `Source.batches`."""
        frames = self.resident.frames
        for rows in draws:
            yield Batch(*crop_frames(frames, rows, self.crop_hw, self.spec, self.crop), rows.index)


def make_source(
    samples: Sequence[Sample],
    crop_hw: tuple[int, int],
    spec: InputSpec,
    policy: DevicePolicy,
    runtime: RuntimeConfig,
) -> Source:
    """Make a source of batches; `auto` takes the first that fits of `resident`, `dali`, `torch`.

    Args:
        samples: the split; `Draws.index` counts in it. Their depth or label files are read for
            all samples or, if none has one, not at all.
        crop_hw: size of the crops, pixels.
        spec: of the network's input.
        policy: where the batches are made and which crop operation `resident` calls.
        runtime: its `source`, `workers` (decoding threads) and `cache`.

    Raises:
        ValueError: only some samples have a depth or label file, or four channels are asked for
            and there is no depth.
        RuntimeError: `dali` is asked for and cannot be imported, or `resident` cannot read a file
            or has no room.
    """
    _check(samples, spec)
    device, workers = policy.device, runtime.workers
    chosen, why = choose_source(runtime, samples, device)
    _announce(chosen, why, str(device), workers)
    if chosen == "resident":
        resident = open_resident(samples, device, cache_folder(runtime.cache), workers)
        return ResidentSource(resident, crop_hw, spec, policy.operations.crop_resize)
    if chosen == "torch":
        from engine.data.torch_source import TorchSource

        return TorchSource(samples, crop_hw, spec, device, workers)
    from engine.data.dali_source import DaliSource

    return DaliSource(samples, crop_hw, spec, device, workers)


def resident_limit(runtime: RuntimeConfig, device: torch.device) -> int:
    """Bytes of decoded frames that `make_source` would keep on the device; 0 if it decodes anew."""
    if runtime.source == "auto":
        return memory_limit(device, runtime.memory_gib)
    return sys.maxsize if runtime.source == "resident" else 0


def choose_source(
    runtime: RuntimeConfig, samples: Sequence[Sample], device: torch.device
) -> tuple[str, str]:
    """Which source runs, and why.

    Raises:
        RuntimeError: `dali` is asked for and cannot be imported.
    """
    kind = runtime.source
    if kind == "dali" and (missing := _dali_fault()):
        raise RuntimeError(
            f"runtime.source = 'dali', but DALI cannot be imported: {missing}; install "
            "nvidia-dali-cuda130 (Linux x86-64 only) or set runtime.source to 'torch'"
        )
    if kind != "auto":
        return kind, "as configured"
    too_large = misfit(samples, device, runtime.memory_gib)
    if too_large is None:
        return "resident", "the decoded frames fit"
    if missing := _dali_fault():
        return "torch", f"{too_large}; DALI cannot be imported: {missing}"
    return "dali", f"{too_large}; DALI is installed"


def _check(samples: Sequence[Sample], spec: InputSpec) -> None:
    for name in ("depth", "label"):
        have = sum(getattr(sample, name) is not None for sample in samples)
        if have not in (0, len(samples)):
            raise ValueError(
                f"{have} of {len(samples)} samples have a {name} file; need all or none"
            )
    if spec.has_depth and any(sample.depth is None for sample in samples):
        raise ValueError(
            "4 input channels need depth, but the dataset has no depth maps; use 'rgb'"
        )


def _dali_fault() -> str:
    """Why DALI cannot be imported; empty if it can."""
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        return str(error)
    return ""


@functools.cache
def _announce(kind: str, why: str, device: str, workers: int) -> None:
    _log.info("data source: %s (%s), batches on %s, %d threads", kind, why, device, workers)
