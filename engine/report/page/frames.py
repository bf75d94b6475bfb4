"""The frames that a page shows: the worst, those around the median and the best, as pictures.

Pictures are read from the dataset as it is now. A frame is shown only if its label still is the one
that was counted; why others are not is said.

Axes: N frames, C class (truth by prediction), S systems, H W pixels of a frame.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.frames.decode import Frame, FrameFiles, Sample, check_frame, read_frame
from engine.frames.index import DatasetError, list_dataset
from engine.frames.reading import Reading
from engine.report.tiles import class_picture, error_picture
from engine.selection.scores import score

BOX_HW = (240, 320)
"""Pixels that a picture is fitted into: half of NYU Depth v2's, so that fourteen frames of noise,
which nothing compresses, stay within 4 MB."""

WORST, TYPICAL, BEST = 6, 4, 4
"""Frames of each kind, at most: of few frames a third each."""


_RELABELLED = "its label is not the one that was counted"


class Mistake(NamedTuple):
    """The commonest mistake in a frame."""

    truth: str
    prediction: str
    share: float
    """Of its labelled pixels."""


class ShownFrame(NamedTuple):
    """A frame on the page."""

    stem: str
    fold: int | None
    miou: float
    pixel_acc: float
    mistake: Mistake | None
    pictures: Mapping[str, str]
    """Data URIs by what they show; empty where the frame cannot be shown."""
    change: str | None = None
    """How two systems differ in it."""


class Reader(Protocol):
    """Reads frames by stem, few of many."""

    why_not: str
    """Why no frame at all can be read; empty if they can."""
    unread: dict[str, str]
    """Why single frames could not be, by stem."""

    def frame(self, stem: str, truth_C: NDArray[np.integer] | None = None) -> Frame | None:
        """A frame decoded, or None, and `unread` says why.

        Args:
            stem: its name.
            truth_C: (C,) labelled pixels by class that were counted; None asks for nothing.
        """


class SampleReader:
    """Reads frames that were checked just now; see `Reader`."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        """Of these frames."""
        self.why_not, self.unread = "", dict[str, str]()
        self._samples = {sample.stem: sample for sample in samples}

    def frame(self, stem: str, truth_C: NDArray[np.integer] | None = None) -> Frame | None:
        """A frame decoded, or None; RuntimeError if a file of it is another now."""
        frame = read_frame(self._samples[stem])
        if truth_C is None or _holds(frame, truth_C):
            return frame
        self.unread[stem] = _RELABELLED
        return None


class FrameReader:
    """Reads frames of a training split as it is now; see `Reader`."""

    def __init__(self, root: Path, reading: Reading, classes: int) -> None:
        """List the dataset at `root`; a frame is decoded when it is asked for."""
        self._root, self._reading, self._classes = root, reading, classes
        self._files: dict[str, FrameFiles] = {}
        self.why_not, self.unread = "", dict[str, str]()
        try:
            listed = list_dataset(root, need_depth=False).train
        except (DatasetError, OSError):
            self.why_not = f"the dataset folder {root} is not there"
            return
        # Depth maps are not shown.
        self._files = {files.stem: replace(files, depth=None) for files in listed}

    def frame(self, stem: str, truth_C: NDArray[np.integer] | None = None) -> Frame | None:
        """A frame decoded, or None, and `unread` says why."""
        if self.why_not:
            return None
        if (files := self._files.get(stem)) is None or files.image is None:
            self.unread[stem] = "it is no longer in the dataset"
            return None
        report, frame = check_frame(self._root, files, self._classes, (), self._reading)
        if frame is None:
            told = report.faults[0].found if report.faults else "it has no image"
            self.unread[stem] = f"it cannot be read ({told})"
        elif truth_C is not None and not _holds(frame, truth_C):
            self.unread[stem] = _RELABELLED
            return None
        return frame


class ShownFrames(NamedTuple):
    """Frames by kind."""

    worst: list[int]
    typical: list[int]
    """Around the median."""
    best: list[int]

    @classmethod
    def of(cls, miou_N: NDArray[np.float64]) -> "ShownFrames":
        """Positions of frames by their mIoU, NaN where nothing is labelled; none comes twice."""
        labelled = np.flatnonzero(np.isfinite(miou_N))
        order = labelled[np.argsort(miou_N[labelled], kind="stable")].tolist()
        third = -(-len(order) // 3)
        worst = order[: min(WORST, third)]
        best = order[len(worst) :][::-1][: min(BEST, third)]
        between = order[len(worst) : len(order) - len(best)]
        count = min(TYPICAL, len(between))
        start = len(order) // 2 - count // 2 - len(worst)
        start = min(max(start, 0), len(between) - count)
        return cls(worst, between[start : start + count], best)


def frame_scores(count_NCC: NDArray[np.uint32]) -> NDArray[np.float64]:
    """(N,) mIoU of each frame over the classes in its truth or prediction, NaN without labels."""
    scores = (
        score(count_CC.astype(np.int64)).miou if count_CC.any() else np.nan
        for count_CC in count_NCC
    )
    return np.fromiter(scores, np.float64, len(count_NCC))


def shown_frame(
    stem: str, fold: int | None, count_CC: NDArray[np.uint32], classes: Sequence[str]
) -> ShownFrame:
    """A frame by its (C, C) counts, without pictures."""
    pixels_CC = count_CC.astype(np.int64)
    wrong_CC = pixels_CC * (1 - np.eye(len(count_CC), dtype=np.int64))
    truth, prediction = divmod(int(wrong_CC.argmax()), len(count_CC))
    pixels, total, found = int(wrong_CC.max()), int(pixels_CC.sum()), score(pixels_CC)
    mistake = Mistake(classes[truth], classes[prediction], pixels / total) if pixels else None
    return ShownFrame(stem, fold, found.miou, found.pixel_acc, mistake, {})


def pictures(frame: Frame, masks: Mapping[str, NDArray[np.uint8]]) -> dict[str, str]:
    """Image, truth, and of each system its prediction and error.

    Args:
        frame: decoded, with a label.
        masks: (H, W) predicted classes by system; a lone one is called "".

    Returns:
        Data URIs of WebP pictures by what they show.
    """
    label_HW = frame.label_HW
    assert label_HW is not None
    made = {"image": photo(frame.image_HW3), "truth": _flat(class_picture(label_HW))}
    for system, mask_HW in masks.items():
        behind = f" {system}" if system else ""
        # What nobody labelled is no error, and is told apart in the error alone.
        made[f"prediction{behind}"] = _flat(class_picture(mask_HW))
        error_HW3 = error_picture(frame.image_HW3, label_HW, mask_HW)
        made[f"error{behind}"] = _uri(_fitted(error_HW3, Image.Resampling.NEAREST), quality=70)
    return made


def photo(image_HW3: NDArray[np.uint8]) -> str:
    """An image as a data URI."""
    return _uri(_fitted(image_HW3, Image.Resampling.LANCZOS), quality=75)


def _holds(frame: Frame, truth_C: NDArray[np.integer]) -> bool:
    """Whether the label of a frame has so many pixels of each class."""
    if frame.label_HW is None:
        return False
    pixels_C = np.bincount(frame.label_HW.ravel(), minlength=256)[: len(truth_C)]
    return np.array_equal(pixels_C, truth_C)


def _flat(pixels_HW3: NDArray[np.uint8]) -> str:
    """Colours of classes do not mix, neither where they are resized nor where they are packed."""
    return _uri(_fitted(pixels_HW3, Image.Resampling.NEAREST), quality=None)


def _fitted(pixels_HW3: NDArray[np.uint8], how: Image.Resampling) -> Image.Image:
    image = Image.fromarray(pixels_HW3)
    if image.height <= BOX_HW[0] and image.width <= BOX_HW[1]:
        return image
    return ImageOps.contain(image, BOX_HW[::-1], how)


def _uri(image: Image.Image, quality: int | None) -> str:
    stream = io.BytesIO()
    if quality is None:
        image.save(stream, "WEBP", lossless=True, quality=80, method=4)
    else:
        image.save(stream, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
