"""Masks of the test frames go into the submission, which resumes as the store does."""

import csv
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from engine import interrupts, sums
from engine.frames.decode import Sample
from engine.frames.samples import hw_of, stems_of
from engine.lease import attempt_folder
from engine.rundir import RunDir
from engine.runtime.progress import track
from engine.views import records
from engine.views.pictures import write_mask_zip
from engine.views.resumable import ResumableArray, forget, forget_sums, noted
from engine.whole import announce, discard, sync_folder, whole_file
from kernels.compiling import work_s

_log = logging.getLogger(__name__)


def write_submission(
    masks: Callable[[int], Iterator[tuple[int, NDArray[np.uint8]]]],
    samples: Sequence[Sample],
    run: RunDir,
    key: str,
) -> float | None:
    """Predict the test frames into `submission.npy`, `.zip` and `.csv`, in stem order; resumes.

    Where their sizes differ the masks go into the zip as PNGs, and there is no array. `masks` makes
    of the number of frames to pass over positions of a first frame and (B, H, W) masks; it is not
    called if the submission of what `key` stands for is there. Returns the seconds of prediction,
    over all calls; None, with a warning, where there are no test frames. Raises DamageError if what
    an earlier call predicted is not what stands there.
    """
    if not samples:
        _log.warning("no submission of the test frames: there are none")
        return None
    folder = attempt_folder(run.root)
    partial, note = folder / ".submission.npy.partial", folder / records.SUBMISSION_NOTE
    state = noted(records.SubmissionProgress, note, key)
    if not partial.exists():
        if state.done == len(samples) and is_submitted(run):
            return state.elapsed_s
        state = records.SubmissionProgress(key=key)
    if not state.done:
        # The note first: it may be another key's, which must not find an array of this one.
        sums.remove(note)
        forget(partial)
    sizes_N2 = hw_of(samples)
    one_size, most = len(np.unique(sizes_N2, axis=0)) == 1, int(sizes_N2.prod(axis=1).max())
    # Masks of several sizes lie in rows as long as the largest.
    shape = len(samples), *(samples[0].hw if one_size else (most,))
    with closing(ResumableArray(partial, shape, np.uint8)) as array:
        array.recall(range(state.done), state.noted)
        array.recall_digits(range(state.done), state.crc32)
        if state.crc32:
            state = state.model_copy(update={"noted": array.noted(range(state.done))})
        if state.done < len(samples):
            start_s = work_s() - state.elapsed_s
            with (
                interrupts.at_checkpoints(),
                track("test frames", len(samples), state.done) as advance,
            ):
                for first, mask_BHW in masks(state.done):
                    array.write(first, mask_BHW if one_size else _rows(mask_BHW, most))
                    array.sync()
                    done, elapsed_s = first + len(mask_BHW), round(work_s() - start_s, 3)
                    noted_crc = array.noted(range(first, done), state.noted or 0)
                    state = records.SubmissionProgress(
                        key=key, done=done, elapsed_s=elapsed_s, noted=noted_crc
                    )
                    state.write(note)
                    advance(len(mask_BHW))
                    interrupts.checkpoint()
        expected = array.finish()
    write_rows(run, samples)
    # The partial file goes last: without it, the others are whole.
    if one_size:
        write_zip(run, partial.read_bytes())
        announce(run.submission, expected)
        forget_sums(partial)
        partial.replace(run.submission)
    else:
        write_mask_zip(run, samples, np.load(partial, mmap_mode="r"))
        discard(run.submission)
        forget(partial)
    sync_folder(run.root)
    return state.elapsed_s


def is_submitted(run: RunDir) -> bool:
    """Whether the masks of a submission are there."""
    if not run.submission_zip.is_file():  # to open a pipe may take for ever
        return False
    try:
        with zipfile.ZipFile(run.submission_zip) as archive:
            return run.submission.exists() or archive.namelist() != [run.submission.name]
    except zipfile.BadZipFile:
        return False


def write_rows(run: RunDir, samples: Sequence[Sample]) -> None:
    """Write `submission.csv`, which says which frame is which row."""
    with (
        whole_file(run.submission_csv, summed=True) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerows([("row", "stem"), *enumerate(stems_of(samples))])


def write_zip(run: RunDir, array: bytes) -> None:
    """Write `submission.zip`, which holds the bytes of `submission.npy`."""
    with (
        whole_file(run.submission_zip, summed=True) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        # An entry's time is 1980 unless it is told another: equal masks give equal bytes.
        archive.writestr(zipfile.ZipInfo(run.submission.name), array, zipfile.ZIP_DEFLATED)


def _rows(mask_BHW: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """(B, most): masks and zeros."""
    mask_BP = mask_BHW.reshape(len(mask_BHW), -1)
    return np.pad(mask_BP, ((0, 0), (0, most - mask_BP.shape[1])))


def is_submission_begun(run: RunDir) -> bool:
    """Whether an earlier call was stopped between a submission's first mask and its summary."""
    return (attempt_folder(run.root) / records.SUBMISSION_NOTE).exists()
