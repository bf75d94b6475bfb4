"""The submission: masks of the test frames, in stem order, as `.npy` and `.zip`."""

import logging
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.frames.decode import Sample
from engine.rundir import Record, RunDir, sync_folder, whole_file
from engine.runtime.progress import track
from engine.views.store import ResumableArray

_log = logging.getLogger(__name__)

MasksFrom = Callable[[int], Iterator[tuple[int, NDArray[np.uint8]]]]
"""From the number of frames to pass over to (position of the first frame, (B, H, W) masks)."""

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Time stamp inside the zip, the format's earliest: equal masks give equal bytes."""


class Progress(Record):
    """`.submission.json`: how many frames are predicted, for what `key` stands for."""

    key: str
    done: int = 0
    elapsed_s: float = 0.0


def frame_size(samples: Sequence[Sample]) -> tuple[int, int] | None:
    """The one size of all frames, or None if there are no frames or they differ."""
    sizes = {sample.hw for sample in samples}
    return sizes.pop() if len(sizes) == 1 else None


def write_submission(
    masks: MasksFrom, samples: Sequence[Sample], run: RunDir, key: str
) -> float | None:
    """Predict the test frames into `submission.npy` and `submission.zip`, resuming.

    Args:
        masks: predicts; not called if the masks are already there.
        samples: test frames.
        run: where to write.
        key: hash of everything the masks are made from.

    Returns:
        Seconds spent on predicting, over all calls; None, and the log says why, where one array
        cannot hold the masks: there are no frames, or their sizes differ.
    """
    hw = frame_size(samples)
    if hw is None:
        why = "their sizes differ; engine.predict writes a mask each"
        _log.warning("no submission of the test frames: %s", why if samples else "there are none")
        return None
    partial, noted = run.root / ".submission.npy.partial", _progress_path(run)
    progress = Progress(key=key)
    if noted.exists() and (found := Progress.read(noted)).key == key:
        progress = found
    if progress.done == len(samples) and run.submission_zip.exists() and not partial.exists():
        return progress.elapsed_s
    if not partial.exists() or not progress.done:
        partial.unlink(missing_ok=True)
        progress = Progress(key=key)
    array = ResumableArray(partial, (len(samples), *hw), np.uint8)
    if progress.done < len(samples):
        progress = _predict(masks, array, progress, noted)
    array.close()
    # The partial file goes last: without it, both others are whole.
    with whole_file(run.submission_zip) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        entry = zipfile.ZipInfo(run.submission.name, ZIP_TIME)
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, partial.read_bytes())
    partial.replace(run.submission)
    sync_folder(run.root)
    return progress.elapsed_s


def forget_progress(run: RunDir) -> None:
    """Remove the note on how far the submission is, once the summary stands."""
    _progress_path(run).unlink(missing_ok=True)


def _progress_path(run: RunDir) -> Path:
    return run.root / ".submission.json"


def _predict(masks: MasksFrom, array: ResumableArray, progress: Progress, noted: Path) -> Progress:
    """Predict the frames that are missing; what stands afterwards."""
    before, start_s = progress, time.monotonic()
    with track("test frames", array.shape[0], before.done) as advance:
        for first, mask_BHW in masks(before.done):
            array.write(first, mask_BHW)
            array.sync()
            elapsed_s = round(before.elapsed_s + time.monotonic() - start_s, 3)
            progress = Progress(key=before.key, done=first + len(mask_BHW), elapsed_s=elapsed_s)
            progress.write(noted)
            advance(len(mask_BHW))
    return progress
