"""Reading what `benchmarks.rows.shared` made, without the libraries that made it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rows.job import Job
from engine.frames.index import Sample


def store_file(job: Job, number: int) -> Path:
    """The store of a run: float16 (N, C, h, w)."""
    return job.shared / f"prob{number}.npy"


def read_labels(samples: Sequence[Sample]) -> list[NDArray[np.uint8]]:
    """N labels (H, W), 255 = ignore."""
    labels = []
    for sample in samples:
        assert sample.label is not None, "training frames have labels"
        with Image.open(sample.label) as image:
            labels.append(np.array(image))
    return labels
