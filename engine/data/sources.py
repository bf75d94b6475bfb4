"""Draws and files to batches: what a source is, and which one runs.

`resident` keeps decoded frames on the device and crops them by a fused operation; `dali` lets
NVIDIA DALI decode and crop; `torch` is the reference, in plain PyTorch. For the same draws all give
the same labels and depths, and images within rounding.
"""

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch

from engine.data.augment import Draws
from engine.data.batch import Batch
from engine.data.normalisation import Normalisation
from engine.data.resident_source import CropResize, ResidentSource, misfit, open_resident
from engine.data.torch_source import TorchSource
from engine.frames.cache import cache_folder
from engine.frames.index import Sample
from kernels.crop_resize import crop_resize

_LOG = logging.getLogger(__name__)


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


def make_source(
    kind: Literal["auto", "resident", "dali", "torch"],
    samples: Sequence[Sample],
    crop_hw: tuple[int, int],
    normalisation: Normalisation,
    in_channels: int,
    device: torch.device,
    workers: int,
    *,
    cache: str = "",
    crop: CropResize = crop_resize,
) -> Source:
    """Make a source of batches; `auto` takes the first that fits of `resident`, `dali`, `torch`.

    Args:
        kind: as `runtime.source`.
        samples: the split; `Draws.index` counts in it. Their depth or label files are read for
            all samples or, if none has one, not at all.
        crop_hw: size of the crops, pixels.
        normalisation: of the encoder.
        in_channels: 3, or 4 with inverse depth.
        device: where the batches are made; with CUDA, `dali` crops on the GPU.
        workers: decoding threads, >= 1.
        cache: folder of decoded frames, as `runtime.cache`; empty = the user's cache folder.
        crop: the operation that `resident` crops with.

    Raises:
        ValueError: only some samples have a depth or label file, or four channels are asked for
            and there is no depth.
        RuntimeError: `dali` is asked for and cannot be imported, or `resident` cannot read a file
            or has no room.
    """
    _check(samples, in_channels)
    chosen, why = _choose(kind, samples, device)
    _announce(chosen, why, str(device), workers)
    if chosen == "resident":
        folder = Path(cache).expanduser() if cache else cache_folder()
        resident = open_resident(samples, device, folder, workers)
        return ResidentSource(resident, crop_hw, normalisation, in_channels, crop)
    if chosen == "torch":
        return TorchSource(samples, crop_hw, normalisation, in_channels, device, workers)
    from engine.data.dali_source import DaliSource

    return DaliSource(samples, crop_hw, normalisation, in_channels, device, workers)


def _choose(
    kind: Literal["auto", "resident", "dali", "torch"],
    samples: Sequence[Sample],
    device: torch.device,
) -> tuple[str, str]:
    """Which source runs, and why."""
    if kind == "dali" and (missing := _dali_fault()):
        raise RuntimeError(
            f"runtime.source = 'dali', but DALI cannot be imported: {missing}; install "
            "nvidia-dali-cuda130 (Linux x86-64 only) or set runtime.source to 'torch'"
        )
    if kind != "auto":
        return kind, "as configured"
    too_large = misfit(samples, device)
    if too_large is None:
        return "resident", "the decoded frames fit"
    if missing := _dali_fault():
        return "torch", f"{too_large}; DALI cannot be imported: {missing}"
    return "dali", f"{too_large}; DALI is installed"


def _check(samples: Sequence[Sample], in_channels: int) -> None:
    for name in ("depth", "label"):
        have = sum(getattr(sample, name) is not None for sample in samples)
        if have not in (0, len(samples)):
            raise ValueError(
                f"{have} of {len(samples)} samples have a {name} file; need all or none"
            )
    if in_channels == 4 and any(sample.depth is None for sample in samples):
        raise ValueError(
            "4 input channels need depth, but the dataset has no depth maps; use 'rgb'"
        )


@functools.cache
def _dali_fault() -> str:
    """Why DALI cannot be imported; empty if it can."""
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        return str(error)
    return ""


@functools.cache
def _announce(kind: str, why: str, device: str, workers: int) -> None:
    _LOG.info("data source: %s (%s), batches on %s, %d threads", kind, why, device, workers)
