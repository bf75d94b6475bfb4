"""The end of a run and of a blend: submission, error atlas, summary."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from engine.frames.decode import Sample
from engine.report.atlas import MaskOf, complete_atlas
from engine.report.atlas_report import AtlasFrames
from engine.report.summary import Summary
from engine.rundir import RunDir
from engine.runtime.device import peak_memory_mib
from engine.views.store import MasksFrom, forget_progress, write_submission


class SubmissionFrames(NamedTuple):
    """What a submission is of."""

    samples: Sequence[Sample]
    masks: MasksFrom
    """Predicts them; not called if the submission stands."""


def finish(
    run: RunDir,
    summary: Summary,
    frames: AtlasFrames,
    open_masks: Callable[[], MaskOf],
    test: SubmissionFrames | None,
) -> None:
    """Write submission and atlas, unless they stand, then the summary.

    Args:
        run: the folder of a run or a blend.
        summary: of the stages so far; `seconds` of the rest and the peak memory are added.
        frames: the training frames.
        open_masks: opens their stored out-of-fold predictions.
        test: the test frames; None leaves the submission for a later call.
    """
    seconds = dict(summary.seconds)
    if test is not None:
        submission_s = write_submission(test.masks, test.samples, run, summary.key)
        if submission_s is not None:
            seconds["submission"] = submission_s
    seconds["atlas"] = complete_atlas(run, summary.key, frames, open_masks).elapsed_s
    seconds["total"] = round(sum(seconds.values()), 3)
    added = {"seconds": seconds, "peak_memory_mib": round(peak_memory_mib())}
    summary.model_copy(update=added).write(run.summary)
    forget_progress(run)
