"""`evaluation.json`: what trained runs reach on labelled frames of any folder.

    OUT/ evaluation.json    the figures
         frames.npy         (N, C, C) uint32, truth by prediction, of each frame
         worst.png          the worst frames: image, truth, prediction
         report.html        all of it to look at, if the run's report.page says so

Axes: N frames, C class (truth by prediction), B batch, H W pixels of a frame, R S the sampled ones.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from engine import interrupts
from engine.frames.decode import Sample
from engine.report.atlas import map_errors
from engine.report.atlas_report import Atlas, AtlasFrames
from engine.report.page.write import write_evaluation
from engine.rundir import Record, RunDir
from engine.selection.calibration import Calibration, calibration_of
from engine.selection.records import Interval
from engine.selection.statistics import bootstrap
from engine.views.behind import fetch
from engine.views.masks import Rows, System
from engine.views.pictures import mask_png
from engine.views.sampled import (
    CalibrationSum,
    SampledPixels,
    read_sample,
    sample_grid,
    sample_pixels,
)


class Subject(Record):
    """What is evaluated, and how it looks at frames."""

    runs: list[str]
    """Folders of runs, or the one of a blend."""
    fold: int | None = None
    """The one whose networks look alone; left out where all do."""
    temperatures: list[float]
    """Of each run that looks: more than `runs` if that is a blend."""
    views: dict[str, JsonValue]
    """Base size, scales, flip and tiles."""


class Seen(Record):
    """Frames that the networks were trained on, by the bytes of their image files."""

    frames: int
    """Those of the evaluated: what is told of new frames is too good by them."""
    unknown: list[str]
    """Runs whose training images are not where they were, of which this is not known."""


class Evaluation(Record):
    """`evaluation.json`."""

    subject: Subject
    data: str
    """The folder of the frames."""
    labels: str
    """Hash of the frames' files, the labels among them."""
    stems: list[str]
    """The N frames, in the order of `frames.npy`."""
    seen: Seen
    miou: Interval
    pixel_acc: Interval
    iou: dict[str, Interval | None]
    """By class; None for one in neither truth nor prediction."""
    confusion: list[list[int]]
    """(C, C) pixels, truth by prediction."""
    calibration: Calibration | None
    """None where no sampled pixel has a label."""
    atlas: Atlas
    """Boundary IoU, where the errors are, the worst frames; `elapsed_s` is that of predicting and
    counting all frames."""


class Labelled(NamedTuple):
    """N frames that are scored."""

    data: str
    """Their folder."""
    samples: Sequence[Sample]
    """Each has a label file."""
    classes: Sequence[str]
    """C names."""
    seen: Seen


def evaluate_frames(
    system: System, subject: Subject, frames: Labelled, out: RunDir, *, page: bool
) -> Evaluation:
    """Predict and score frames by a system, which is the `subject`; writes the files into `out`.

    With a `page`, `report.html` is one of them.
    """
    data, samples, classes, seen = frames
    calibration = CalibrationSum(1)
    masks = _InOrder(_predicted(system, samples, calibration))
    labels = hashlib.sha256("".join(sample.digest for sample in samples).encode()).hexdigest()
    errors = AtlasFrames(samples, [None] * len(samples), classes)
    atlas, count_NCC = map_errors(out, labels, errors, masks, "evaluation")
    groups = atlas.groups
    found = bootstrap(count_NCC, np.array(groups.of), groups_of=groups.kind)
    # Runs of several temperatures have no common one.
    temperature = subject.temperatures[0] if len({*subject.temperatures}) == 1 else None
    evaluation = Evaluation(
        subject=subject,
        data=data,
        labels=labels,
        stems=[sample.stem for sample in samples],
        seen=seen,
        miou=found.miou,
        pixel_acc=found.pixel_acc,
        iou=dict(zip(classes, found.by_class, strict=True)),
        confusion=count_NCC.sum(axis=0, dtype=np.int64).tolist(),
        calibration=calibration_of([temperature], [calibration.counts()]),
        atlas=atlas,
    )
    evaluation.write(out.evaluation)
    if page:
        write_evaluation(out, samples, masks)
    return evaluation


class _InOrder:
    """Masks of frames that are asked for in order; any that was asked for may be asked for again.

    These are kept as PNGs, a few KB each.
    """

    def __init__(self, masks: Iterator[NDArray[np.uint8]]) -> None:
        self._masks, self._pictures = masks, list[bytes]()

    def __call__(self, index: int, _: tuple[int, int]) -> NDArray[np.uint8]:
        if index < len(self._pictures):
            with Image.open(io.BytesIO(self._pictures[index])) as picture:
                return np.array(picture)
        mask_HW = next(self._masks)
        self._pictures.append(mask_png(mask_HW))
        return mask_HW


def _predicted(
    system: System, samples: Sequence[Sample], calibration: CalibrationSum
) -> Iterator[NDArray[np.uint8]]:
    """(H, W) classes of each frame, whose sampled pixels are added to the calibration."""
    for (mask_BHW, *pixels), _ in fetch(system.policy.device, _looked_at(system, samples)):
        calibration.add(pixels)
        interrupts.checkpoint()
        yield from mask_BHW.numpy()


def _looked_at(system: System, samples: Sequence[Sample]) -> Iterator[tuple[Tensor, ...]]:
    """(B, H, W) classes of each batch, and the parts of its `SampledPixels`."""
    argmax = system.policy.operations.resized_argmax
    for frames in system.reader.batches(samples, label=True):
        assert frames.label_BHW is not None, "asked for"
        masks, parts, top = [], [], 0
        for rows in system.rows(frames):
            masks.append(argmax(*rows))
            parts.append(_sampled(rows, top, frames.label_BHW))
            top += rows.hw[0]
        # Of (B, T, R, S) and (B, R, S), along the rows.
        pixels = (torch.cat(each, dim=-2) for each in zip(*parts, strict=True))
        yield torch.cat(masks, dim=1), *pixels


def _sampled(rows: Rows, top: int, label_BHW: Tensor) -> SampledPixels:
    """The sampled pixels of a frame that lie in rows which begin at `top`."""
    if rows.hw == tuple(label_BHW.shape[1:]):
        return sample_pixels(rows.prob_BChw[:, None], label_BHW)
    row_R, column_S = sample_grid(label_BHW)
    row_R = row_R[(row_R >= top) & (row_R < top + rows.hw[0])]
    prob_BCRS = rows.at_size()[:, :, (row_R - top)[:, None], column_S]
    return read_sample(prob_BCRS[:, None], label_BHW[:, row_R[:, None], column_S])
