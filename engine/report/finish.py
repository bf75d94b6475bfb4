"""The end of a run and of a blend: the summary, once submission and error atlas stand."""

from engine.report.environment import peak_memory_mib
from engine.report.summary import Summary
from engine.rundir import RunDir
from engine.views.store import forget_progress


def finish(run: RunDir, summary: Summary, submission_s: float | None, atlas_s: float) -> None:
    """Write the summary, with the seconds of all stages and the peak memory.

    Args:
        run: the folder of a run or a blend.
        summary: of the stages before submission and atlas.
        submission_s: seconds; None if there is no submission, or a later call makes it.
        atlas_s: seconds.
    """
    seconds = dict(summary.seconds)
    if submission_s is not None:
        seconds["submission"] = submission_s
    seconds["atlas"] = atlas_s
    seconds["total"] = round(sum(seconds.values()), 3)
    added = {"seconds": seconds, "peak_memory_mib": round(peak_memory_mib())}
    summary.model_copy(update=added).write(run.summary)
    forget_progress(run)
