"""The page of an evaluation: `engine.evaluate` on labelled frames of any folder."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.frames.decode import Sample
from engine.report.atlas import MaskOf
from engine.report.counts import read_counts
from engine.report.evaluation import Evaluation
from engine.report.page.blocks import (
    KeyFigure,
    class_block,
    colours_of,
    interval_told,
    parts,
)
from engine.report.page.frame_block import FrameBlock, FrameSource, frame_block, named_frames
from engine.report.page.frames import SampleReader
from engine.report.page.heat import HeatBlock, HeatRow, reliability
from engine.report.page.render import render
from engine.rundir import RunDir
from engine.runtime.progress import duration
from engine.selection.statistics import Intervals

_SECTIONS = (
    ("what", "What was evaluated"),
    ("classes", "Classes"),
    ("calibration", "Calibration"),
    ("errors", "Errors"),
    ("frames", "Frames"),
    ("commands", "Commands"),
)


def evaluation_page(
    out: RunDir, samples: Sequence[Sample] = (), mask_of: MaskOf | None = None
) -> str:
    """The HTML of an evaluation.

    Args:
        out: its folder.
        samples: the frames, in the order of `frames.npy`.
        mask_of: what was predicted of them; None where nobody knows any more, as predictions are
            not kept: then frames have no pictures.

    Raises:
        ValueError: a file is damaged.
    """
    found = Evaluation.read(out.evaluation)
    atlas, classes = found.atlas, tuple(found.atlas.classes)
    count_NCC = read_counts(out, atlas)
    intervals = Intervals(found.miou, found.pixel_acc, list(found.iou.values()))
    if mask_of is None:
        frames = named_frames(atlas, count_NCC, "predictions are not kept")
    else:
        frames = _frames(count_NCC, samples, mask_of, classes)
    miou = found.miou
    ends = f"95 %: {miou.low:.3f} .. {miou.high:.3f}" if miou.low is not None else "no interval"
    figures = [
        KeyFigure("mIoU", f"{miou.value:.4f}", ends),
        KeyFigure("pixel accuracy", f"{100 * found.pixel_acc.value:.1f} %"),
        KeyFigure("frames", str(len(found.stems))),
    ]
    if atlas.boundary_miou is not None:
        reach = f"within {atlas.boundary_reach_px} px of another class"
        figures.insert(1, KeyFigure("boundary mIoU", f"{atlas.boundary_miou:.4f}", reach))
    return render(
        "evaluation.html",
        title=Path(found.data).name or found.data,
        eyebrow="Roomsmith evaluation",
        lead=f"{', '.join(found.subject.runs)} on {len(found.stems)} frames of {found.data}.",
        sections=_SECTIONS,
        figures=figures,
        what=_what(found),
        seen_told=_seen_told(found),
        classes=class_block(
            f"mIoU at label resolution. {interval_told(intervals)}",
            atlas.classes,
            intervals,
            count_NCC.sum(axis=0, dtype=np.int64),
            atlas.boundary_miou,
            atlas.confusions,
        ),
        heat=_heat(found),
        parts=parts(atlas),
        has_depth=atlas.depth is not None,
        frames=frames,
        commands=_commands(found, out),
        colours=colours_of(classes),
    )


def _frames(
    count_NCC: NDArray[np.uint32],
    samples: Sequence[Sample],
    mask_of: MaskOf,
    classes: Sequence[str],
) -> FrameBlock:
    stems = [sample.stem for sample in samples]
    source = FrameSource(stems, None, classes, SampleReader(samples), {"": mask_of})
    return frame_block(count_NCC, source)


def _what(found: Evaluation) -> list[tuple[str, str]]:
    subject = found.subject
    which = [("fold", str(subject.fold))] if subject.fold is not None else []
    temperatures = ", ".join(f"{each:g}" for each in subject.temperatures)
    views = ", ".join(f"{name}: {value}" for name, value in subject.views.items())
    return [
        ("runs", ", ".join(subject.runs)),
        *which,
        ("frames", f"{len(found.stems)} of {found.data}"),
        ("temperatures", temperatures),
        ("views", views),
        ("time to predict and count", duration(found.atlas.elapsed_s)),
    ]


def _seen_told(found: Evaluation) -> str:
    seen = found.seen
    told = "None of the frames is one that the networks were trained on."
    if seen.frames:
        told = (
            f"{seen.frames} of the {len(found.stems)} frames are among those that the networks "
            "were trained on: what is said of new frames is too good by them."
        )
    if seen.unknown:
        told = f"{told} Not known of {', '.join(seen.unknown)}: the training images are gone."
    return told


def _heat(found: Evaluation) -> HeatBlock:
    calibration = found.calibration
    if calibration is None:
        told = "Calibration (NLL, ECE): not measured, as no sampled pixel has a label."
        return HeatBlock(told, None, None, [])
    (one,) = calibration.temperatures
    row = HeatRow(
        one.temperature, found.miou.value, found.pixel_acc.value, one.nll, one.ece, chosen=True
    )
    told = f"NLL and ECE are of {calibration.pixels:,} sampled pixels."
    return HeatBlock(told, None, reliability(calibration, one.temperature), [row])


def _commands(found: Evaluation, out: RunDir) -> list[tuple[str, str]]:
    runs = " ".join(shlex.quote(run) for run in found.subject.runs)
    fold = "" if found.subject.fold is None else f" --fold {found.subject.fold}"
    root, data = shlex.quote(str(out.root)), shlex.quote(found.data)
    return [("Evaluate again", f"python -m engine.evaluate {runs} {data} --out {root}{fold}")]
