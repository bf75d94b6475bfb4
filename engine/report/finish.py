"""The end of a run and of a blend: the summary, once submission and error atlas stand."""

import numpy as np

from engine.damage import DamageError
from engine.report.atlas import MaskOf, complete_atlas, stored_masks
from engine.report.atlas_report import Atlas, AtlasFrames
from engine.report.environment import peak_memory_mib
from engine.report.summary import Summary
from engine.rundir import RunDir
from engine.runtime.device import DevicePolicy
from engine.views.store import forget_progress, open_store
from kernels.compiling import COMPILING


def is_finished(run: RunDir, key: str, *, holds_out: bool = True) -> bool:
    """Whether an earlier call finished the run; an atlas that is missing since is to be made anew.

    One that `holds_out` no frame has no store. Without one of its other files a run is not
    finished: the stages that write them run again. Raises DamageError if the store is damaged.
    """
    files = [run.summary, run.config, run.environment, run.folds, run.temperature]
    files += [run.manifest, run.store] if holds_out else []
    if not all(path.exists() for path in files):
        return False
    try:
        summary = Summary.read(run.summary)
    except DamageError:  # it follows from the rest, and is made again
        return False
    is_lost = "submission" in summary.seconds and not run.submission_zip.exists()
    if summary.key != key or is_lost:
        return False
    if holds_out:
        open_store(run.oof, key)
    return True


def run_atlas(run: RunDir, key: str, frames: AtlasFrames, policy: DevicePolicy) -> Atlas:
    """The atlas of a run's own out-of-fold predictions, see `complete_atlas`."""

    def open_masks() -> MaskOf:
        prob_NChw = open_store(run.oof, key).prob_NChw
        return stored_masks([prob_NChw], np.ones((1, prob_NChw.shape[1])), policy)

    return complete_atlas(run, key, frames, open_masks)


def finish(
    run: RunDir, summary: Summary, submission_s: float | None, atlas_s: float | None
) -> None:
    """Write the summary, with the seconds of all stages and the peak memory.

    Args:
        run: the folder of a run or a blend.
        summary: of the stages before submission and atlas.
        submission_s: seconds; None if there is no submission, or a later call makes it.
        atlas_s: seconds; None if there is none, as nothing was held out.
    """
    seconds = dict(summary.seconds)
    if submission_s is not None:
        seconds["submission"] = submission_s
    if atlas_s is not None:
        seconds["atlas"] = atlas_s
    # Of this call: what an earlier one compiled, and this one found, is in no file.
    seconds["compiling"] = round(COMPILING.seconds(), 3)
    seconds["total"] = round(sum(seconds.values()), 3)
    added = {"seconds": seconds, "peak_memory_mib": round(peak_memory_mib())}
    summary.model_copy(update=added).write(run.summary)
    forget_progress(run)
