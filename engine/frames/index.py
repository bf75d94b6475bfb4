"""A dataset folder, listed and checked: every file decoded once, all faults reported at once.

    ROOT/train/{image,depth,label}  ROOT/test/{image,depth}  [ROOT/scenes.csv]

N: frames of a split. C: classes. K: kept small-class pixels of a frame.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.frames.frame_check import Fault, FrameFiles, FrameReport, check_frame
from engine.frames.listing import join_stems, list_folder, list_split, read_scenes

__all__ = [
    "Dataset",
    "DatasetError",
    "Fault",
    "Sample",
    "Split",
    "Statistics",
    "load_dataset",
    "load_frames",
]


@dataclass(frozen=True)
class Sample:
    """One frame on disk."""

    stem: str
    image: Path
    depth: Path | None
    label: Path | None
    hw: tuple[int, int]
    """Height and width of its files, pixels (as stored: EXIF rotation is ignored)."""
    scene: str | None
    """From scenes.csv; None where that has no line for the stem."""
    digest: str = ""
    """SHA-256 over the content of its files; empty where nobody has read them all."""


@dataclass(frozen=True, eq=False)
class Split:
    """The frames of `train` or `test`."""

    samples: tuple[Sample, ...]
    """N samples, sorted by stem."""
    small_pixels: tuple[NDArray[np.int32], ...]
    """N arrays (K, 2): row and column of pixels of the small classes; K = 0 without labels."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the frames hold, for reports."""

    class_pixels_NC: NDArray[np.int64]
    """Labelled pixels of each training frame by class."""
    ignored_pixels_N: NDArray[np.int64]
    """Unlabelled pixels of each training frame."""
    missing_depth: dict[str, NDArray[np.float64]]
    """Share of pixels without depth, 0..1, of each frame of "train" and "test"; NaN: no map."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset folder that passed every check."""

    train: Split
    test: Split
    has_depth: bool
    """Every training frame has a depth map."""
    fingerprint: str
    """SHA-256 over the relative name and content of every file."""
    statistics: Statistics


class DatasetError(ValueError):
    """A dataset that cannot be trained on; `str()` names every fault."""

    def __init__(self, root: Path, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.file, fault.found)))
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        super().__init__("\n  ".join([f"{count} in {root}:", *map(str, self.faults)]))


def load_dataset(
    root: Path,
    classes: Sequence[str],
    small_classes: Sequence[str],
    *,
    need_depth: bool,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """List and check a dataset folder; every file is decoded completely, nothing decoded is kept.

    Args:
        root: folder with `train` and, optionally, `test` and `scenes.csv`.
        classes: class names by label value.
        small_classes: those of `classes` whose pixels are kept for class-aware crops.
        need_depth: whether a frame without depth is a fault. Where it is not, a split without a
            `depth` folder has samples without depth; a folder that is there must be complete.
        workers: decoding threads.
        progress: called from this thread with (frames done, frames in all).

    Returns:
        The dataset; the same for any number of workers.

    Raises:
        DatasetError: naming every fault of every file.
    """
    if not root.is_dir():
        found, expected = "no such folder", "a folder with train/image and train/label"
        raise DatasetError(root, [Fault(str(root), found, expected)])
    faults: list[Fault] = []
    scenes = read_scenes(root, faults)
    train = list_split(root, "train", ("image", "label"), need_depth, faults)
    test: list[FrameFiles] = []
    if (root / "test").is_dir():
        test = list_split(root, "test", ("image",), need_depth, faults)
    small = [list(classes).index(name) for name in small_classes]
    check = partial(check_frame, root, classes=len(classes), small=small)
    reports = _check_all(check, [*train, *test], faults, workers, progress)
    train_reports, test_reports = reports[: len(train)], reports[len(train) :]
    if not faults and not any(report.class_pixels.sum() for report in train_reports):
        faults.append(Fault("train/label", "no labelled pixel at all", "class indices"))
    if faults:
        raise DatasetError(root, faults)
    return Dataset(
        train=_split(train, train_reports, scenes),
        test=_split(test, test_reports, scenes),
        has_depth=all(files.depth is not None for files in train),
        fingerprint=_fingerprint(root, reports),
        statistics=Statistics(
            np.stack([report.class_pixels for report in train_reports]),
            np.array([report.ignored_pixels for report in train_reports], np.int64),
            {
                "train": np.array([report.missing_depth for report in train_reports]),
                "test": np.array([report.missing_depth for report in test_reports]),
            },
        ),
    )


def load_frames(
    images: Path,
    depth: Path | None = None,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Sample, ...]:
    """List and check a folder of images, with or without depth maps: frames to predict.

    Args:
        images: folder of JPEG or PNG images; other files in it are passed over.
        depth: folder of depth maps, one for each image; None for images alone.
        workers: decoding threads.
        progress: as for `load_dataset`.

    Returns:
        The samples, sorted by stem, without labels.

    Raises:
        DatasetError: naming every fault of every file.
    """
    folders = {"image": images.resolve()} | ({"depth": depth.resolve()} if depth else {})
    root = Path(os.path.commonpath([folder.parent for folder in folders.values()]))
    faults: list[Fault] = []
    listed = {
        kind: list_folder(root, folder, kind, faults, strays=True)
        for kind, folder in folders.items()
    }
    frames = join_stems(root, folders, listed, faults)
    reports = _check_all(
        partial(check_frame, root, classes=0, small=()), frames, faults, workers, progress
    )
    if faults:
        raise DatasetError(root, faults)
    return _split(frames, reports, {}).samples


def _check_all(
    check: Callable[[FrameFiles], FrameReport],
    frames: Sequence[FrameFiles],
    faults: list[Fault],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[FrameReport]:
    reports: list[FrameReport] = []
    with ThreadPoolExecutor(workers) as pool:
        for report in pool.map(check, frames):
            faults += report.faults
            reports.append(report)
            if progress is not None:
                progress(len(reports), len(frames))
    return reports


def _split(
    frames: Sequence[FrameFiles], reports: Sequence[FrameReport], scenes: dict[str, str]
) -> Split:
    samples = []
    for files, report in zip(frames, reports, strict=True):
        assert files.image is not None, "a frame without image is a fault"
        scene = scenes.get(files.stem)
        digest = hashlib.sha256(b"".join(digest for _, digest in report.digests)).hexdigest()
        samples.append(
            Sample(files.stem, files.image, files.depth, files.label, report.hw, scene, digest)
        )
    return Split(tuple(samples), tuple(report.small_pixels for report in reports))


def _fingerprint(root: Path, reports: Iterable[FrameReport]) -> str:
    digests = [pair for report in reports for pair in report.digests]
    scenes = root / "scenes.csv"
    if scenes.is_file():
        digests.append((scenes.name, hashlib.sha256(scenes.read_bytes()).digest()))
    total = hashlib.sha256()
    for name, digest in sorted(digests):
        total.update(name.encode() + b"\0" + digest)
    return total.hexdigest()
