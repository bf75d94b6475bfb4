"""`frames.npy`: the (N, C, C) counts of each frame, truth by prediction, read back."""

import numpy as np
from numpy.typing import NDArray

from engine.mistakes import ConfigError
from engine.report.atlas_report import Atlas
from engine.rundir import RunDir
from engine.sums import check


def read_counts(run: RunDir, atlas: Atlas) -> NDArray[np.uint32]:
    """The counts of a run's or a blend's frames, (N, C, C), memory-mapped.

    Raises:
        ConfigError: they are damaged, or not of the frames and classes that the atlas is of.
    """
    again = "delete it and run engine.train again"
    check(run.frame_counts)
    try:
        count_NCC: NDArray[np.uint32] = np.load(run.frame_counts, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ConfigError(f"{run.frame_counts} is damaged ({error}); {again}") from error
    expected = (len(atlas.groups.of), len(atlas.classes), len(atlas.classes))
    if count_NCC.shape != expected:
        raise ConfigError(
            f"{run.frame_counts} holds {count_NCC.shape}, {run.atlas.name} says {expected}; {again}"
        )
    return count_NCC
