"""What a dataset must be, and what one holds that passed every check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.frames.decode import Sample
from engine.frames.kinds import FrameReport
from engine.frames.reading import AS_STORED, Reading

ENCODED = "encoded.json"
"""In the folder of a copy by `engine.prepare encode`: see `engine.frames.encoded`."""

SHARDS = "shards.json"
"""In the folder of a dataset in shards: see `engine.frames.shards`."""

Progress = Callable[[int, int], None]
"""Is told, from the thread that asked, (frames read, frames to read)."""


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset must be."""

    classes: Sequence[str]
    """Names by label value."""
    small_classes: Sequence[str]
    """Those of `classes` whose pixels are kept for class-aware crops."""
    need_depth: bool = False
    """Whether a frame without depth is a fault. Where it is not, a split without a `depth` folder
    has samples without depth; a folder that is there must be complete."""
    reading: Reading = AS_STORED
    """What the values in label files and depth maps stand for."""


@dataclass(frozen=True, eq=False)
class Split:
    """The N frames of `train` or `test`, sorted by stem."""

    samples: Sequence[Sample]
    reports: Sequence[FrameReport]
    small_pixels: Sequence[NDArray[np.int32]]
    """N arrays (K, 2): row and column of pixels of the small classes; K = 0 without labels."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset folder that passed every check."""

    train: Split
    test: Split
    fingerprint: str
    """SHA-256 over the relative name of every file and what its pixels depend on: its content, and
    how it was read where that is not as it is. Labels of test frames, which change no prediction,
    have no part in it."""
