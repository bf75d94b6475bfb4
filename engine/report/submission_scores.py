"""The submission of labelled test frames, scored: nothing was chosen on these frames.

Axes: C class (truth by prediction), H W pixels of a frame.
"""

import hashlib
import io
import logging
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.frames.decode import Sample, read_label
from engine.nyuv2 import IGNORE_INDEX
from engine.report.summary import Summary
from engine.rundir import RunDir
from engine.selection.records import SubmissionScores
from engine.selection.scores import by_class, score
from kernels.metrics import class_iou

_log = logging.getLogger(__name__)


def score_submission(run: RunDir, samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Put into the summary what the submission reaches on those test frames that have labels.

    What stands there is kept where it is of the same labels, and goes where there are none now.
    """
    labelled = {sample for sample in samples if sample.label is not None}
    summary = Summary.read(run.summary)
    if not labelled:
        if summary.test is not None:
            summary.model_copy(update={"test": None}).write(run.summary)
        return
    digests = "".join(sample.digest for sample in samples if sample in labelled)
    labels = hashlib.sha256(f"{summary.key}{digests}".encode()).hexdigest()
    if summary.test is not None and summary.test.labels == labels:
        return
    count_CC = np.zeros((len(classes), len(classes)), np.int64)
    for sample, mask_HW in zip(samples, _masks(run, samples), strict=True):
        if sample in labelled:
            count_CC += _count(mask_HW, read_label(sample), len(classes))
    found = SubmissionScores(
        **dict(score(count_CC)),
        frames=len(labelled),
        iou=by_class(classes, class_iou(count_CC)),
        labels=labels,
    )
    told = "submission on %d labelled test frames: mIoU %.4f, pixel accuracy %.4f"
    _log.info(told, found.frames, found.miou, found.pixel_acc)
    summary.model_copy(update={"test": found}).write(run.summary)


def _masks(run: RunDir, samples: Sequence[Sample]) -> Iterator[NDArray[np.uint8]]:
    """The submission's (H, W) masks, in order."""
    if run.submission.exists():
        yield from np.load(run.submission, mmap_mode="r")
        return
    with zipfile.ZipFile(run.submission_zip) as archive:
        for sample in samples:
            yield np.array(Image.open(io.BytesIO(archive.read(f"{sample.stem}.png"))))


def _count(
    mask_HW: NDArray[np.uint8], label_HW: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    labelled_HW = label_HW != IGNORE_INDEX
    pair = label_HW[labelled_HW].astype(np.int64) * classes + mask_HW[labelled_HW]
    return np.bincount(pair, minlength=classes**2).reshape(classes, classes)
