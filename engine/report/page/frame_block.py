"""The frames of a page: which ones, what they were counted as, and their pictures.

Axes: N frames, C class (truth by prediction).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from engine.report.atlas import MaskOf
from engine.report.atlas_report import Atlas
from engine.report.page import plots
from engine.report.page.frames import (
    Reader,
    ShownFrame,
    ShownFrames,
    frame_scores,
    pictures,
    shown_frame,
)


class FrameBlock(NamedTuple):
    """Frames by kind, and what is to be said of them."""

    told: str
    histogram: Markup | None
    kinds: list[tuple[str, list[ShownFrame]]]
    notes: list[str]

    @property
    def shown(self) -> bool:
        """Whether any frame has pictures."""
        return any(frame.pictures for _, frames in self.kinds for frame in frames)


class FrameSource(NamedTuple):
    """Where the frames of a page are from.

    Attributes:
        stems: N names.
        fold_of: the fold of each; None where there are none.
        classes: C names.
        reader: reads them.
        masks: by system, what opens its predictions; empty where `why_not` says why.
        why_not: why there are no pictures at all, else empty.
    """

    stems: Sequence[str]
    fold_of: Sequence[int] | None
    classes: Sequence[str]
    reader: Reader
    masks: Mapping[str, MaskOf]
    why_not: str = ""


def frame_block(count_NCC: NDArray[np.uint32], source: FrameSource) -> FrameBlock:
    """The worst, typical and best frames by their (N, C, C) counts."""
    miou_N = frame_scores(count_NCC)
    chosen = ShownFrames.of(miou_N)
    marks = {name: miou_N[found].tolist() for name, found in chosen._asdict().items()}
    labelled, median = int(np.isfinite(miou_N).sum()), float(np.nanmedian(miou_N))
    told = (
        f"mIoU of a frame is over the classes in its truth or prediction; of {labelled} labelled "
        f"frames the median is {median:.3f}."
    )
    titles = ("The worst", "Typical: around the median", "The best")
    kinds = [
        (title, [_frame(n, count_NCC[n], source) for n in found])
        for title, found in zip(titles, chosen, strict=True)
    ]
    histogram = plots.histogram(miou_N, marks, "histogram")
    return FrameBlock(told, histogram, kinds, notes(source))


def frames_apart(
    a_NCC: NDArray[np.uint32], b_NCC: NDArray[np.uint32], source: FrameSource, count: int = 5
) -> FrameBlock:
    """The frames in which two systems differ by most, by their (N, C, C) counts."""
    gain_N = frame_scores(a_NCC) - frame_scores(b_NCC)
    labelled = np.flatnonzero(np.isfinite(gain_N))
    order = labelled[np.argsort(-gain_N[labelled], kind="stable")].tolist()
    better = [n for n in order[:count] if gain_N[n] > 0]
    worse = [n for n in order[::-1][:count] if gain_N[n] < 0]

    def frame(n: int) -> ShownFrame:
        found = _frame(n, a_NCC[n], source)
        return found._replace(change=f"A {gain_N[n]:+.3f} on B", mistake=None)

    kinds = [
        ("Where A gains most", [frame(n) for n in better]),
        ("Where B gains most", [frame(n) for n in worse]),
    ]
    even = int((gain_N[labelled] == 0).sum())
    told = (
        f"A is better in {int((gain_N > 0).sum())} of {len(labelled)} labelled frames, B in "
        f"{int((gain_N < 0).sum())}, both are even in {even}. mIoU and accuracy are A's."
    )
    return FrameBlock(told, None, kinds, notes(source))


def notes(source: FrameSource) -> list[str]:
    """What is to be said of frames that have no pictures; after all were asked for."""
    why = source.why_not or source.reader.why_not
    found = [f"No pictures of frames: {why}."] if why else []
    return found + [
        f"Frame {stem} is not shown: {told}." for stem, told in source.reader.unread.items()
    ]


def _frame(n: int, count_CC: NDArray[np.uint32], source: FrameSource) -> ShownFrame:
    fold = None if source.fold_of is None else source.fold_of[n]
    found = shown_frame(source.stems[n], fold, count_CC, source.classes)
    if source.why_not:
        return found
    frame = source.reader.frame(found.stem, count_CC.sum(axis=1, dtype=np.int64))
    if frame is None or frame.label_HW is None:
        return found
    hw = frame.label_HW.shape[0], frame.label_HW.shape[1]
    masks = {system: mask_of(n, hw) for system, mask_of in source.masks.items()}
    return found._replace(pictures=pictures(frame, masks))


def named_frames(atlas: Atlas, count_NCC: NDArray[np.uint32], why: str) -> FrameBlock:
    """The worst frames as the atlas names them, without pictures, which `why` says."""
    worst = [
        ShownFrame(one.stem, one.fold, one.miou, one.pixel_acc, None, {})
        for one in atlas.worst_frames
    ]
    histogram = plots.histogram(frame_scores(count_NCC), {}, "histogram")
    note = f"No pictures of frames: {why}."
    return FrameBlock("", histogram, [("The worst", worst)], [note])
