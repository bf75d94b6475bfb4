"""Which source that decodes files for each batch is fastest on this machine, measured in turns."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch

from engine.data.batch import Draws, Source
from engine.data.file_source import file_source
from engine.data.inputs import InputSpec, Normalisation, whole_frame_draws
from engine.frames.decode import Sample

_ROWS, _BATCHES = 8, 6
"""Of an epoch that is measured: several batches, for what is prepared ahead shows from the third
on; 48 frames are decoded in a tenth of a second where that is slow."""

_ROUNDS = 3
"""Epochs of each, for a median, after a first one that builds and compiles."""


@lru_cache(maxsize=1)  # every fold asks, with the same samples
def measured_rates(
    samples: Sequence[Sample], device: torch.device, workers: int
) -> Mapping[str, float]:
    """Frames a second that `dali` and `torch` turn into batches on the device, whole frames each.

    `samples` can be hashed. DALI has to be installed. Waits for the device. Raises RuntimeError for
    a file that cannot be read, and where DALI does not run on the device.
    """
    step = max(1, len(samples) // (_ROWS * _BATCHES))
    some = samples[::step][: _ROWS * _BATCHES]
    channels = 4 if all(sample.depth for sample in some) else 3
    spec = InputSpec(channels, Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    sources = {
        kind: file_source(kind)(some, some[0].hw, spec, device, workers)
        for kind in ("dali", "torch")
    }
    return rates(sources, some, device)


def rates(
    sources: Mapping[str, Source], samples: Sequence[Sample], device: torch.device
) -> dict[str, float]:
    """Frames a second of each source of the samples, on the device."""
    taken_s: dict[str, list[float]] = {kind: [] for kind in sources}
    for turn in range(1 + _ROUNDS):
        for kind, source in sources.items():
            start_s = time.perf_counter()
            for _ in source.batches(_epoch(samples)):
                pass
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                taken_s[kind].append(time.perf_counter() - start_s)
    return {kind: len(samples) / statistics.median(each) for kind, each in taken_s.items()}


def _epoch(samples: Sequence[Sample]) -> Iterator[Draws]:
    hw_N2 = np.array([sample.hw for sample in samples])
    for start in range(0, len(samples), _ROWS):
        yield whole_frame_draws(np.arange(start, min(start + _ROWS, len(samples))), hw_N2)
