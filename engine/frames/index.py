"""A dataset folder, listed and checked: every file decoded once at most, all faults named at once.

    ROOT/train/{image,depth,label}  ROOT/test/{image,depth}  [ROOT/scenes.csv]

N: frames of a split. C: classes. K: kept small-class pixels of a frame.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.frames.cache import CheckMemory, FrameKeeper, keeping
from engine.frames.decode import (
    KINDS,
    Fault,
    Frame,
    FrameFiles,
    FrameReport,
    Sample,
    check_frame,
    in_order,
)

__all__ = ["CheckMemory", "Fault", "Sample"]  # with what is defined here

Progress = Callable[[int, int], None]
"""Is told, from the thread that asked, (frames read, frames to read)."""


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset must be."""

    classes: Sequence[str]
    """Names by label value."""
    small_classes: Sequence[str]
    """Those of `classes` whose pixels are kept for class-aware crops."""
    need_depth: bool = False
    """Whether a frame without depth is a fault. Where it is not, a split without a `depth` folder
    has samples without depth; a folder that is there must be complete."""


@dataclass(frozen=True, eq=False)
class Split:
    """The frames of `train` or `test`."""

    samples: tuple[Sample, ...]
    """N samples, sorted by stem."""
    small_pixels: tuple[NDArray[np.int32], ...]
    """N arrays (K, 2): row and column of pixels of the small classes; K = 0 without labels."""
    class_pixels_NC: NDArray[np.int64]
    """Labelled pixels by class; C = 0 without labels."""
    ignored_pixels_N: NDArray[np.int64]
    """Unlabelled pixels."""
    missing_depth_N: NDArray[np.float64]
    """Share of pixels without depth, 0..1; NaN: no map."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset folder that passed every check."""

    train: Split
    test: Split
    has_depth: bool
    """Every training frame has a depth map."""
    fingerprint: str
    """SHA-256 over the relative name and content of every file."""


class DatasetError(ValueError):
    """A dataset that cannot be trained on; `str()` names every fault."""

    def __init__(self, root: Path, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.file, fault.found)))
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        super().__init__("\n  ".join([f"{count} in {root}:", *map(str, self.faults)]))


def load_dataset(
    root: Path,
    spec: DatasetSpec,
    *,
    workers: int = 2,
    progress: Progress | None = None,
    memory: CheckMemory | None = None,
) -> Dataset:
    """List and check a dataset folder; files are decoded completely, unless they are remembered.

    Args:
        root: the folder.
        spec: what it must be.
        workers: decoding threads; the dataset is the same for any number.
        progress: not called where nothing has to be read.
        memory: what is known of the files and where decoded frames go; by default nothing.

    Raises:
        DatasetError: naming every fault of every file.
    """
    if not root.is_dir():
        expected = "a folder with train/image and train/label"
        raise DatasetError(root, [Fault(str(root), "no such folder", expected)])
    faults: list[Fault] = []
    scenes: dict[str, str] = {}
    if (root / "scenes.csv").exists():
        from engine.frames.scenes import read_scenes

        scenes = read_scenes(root / "scenes.csv", faults)
    train = _list_split(root, "train", ("image", "depth", "label"), spec, faults)
    has_test = (root / "test").is_dir()
    test = _list_split(root, "test", ("image", "depth"), spec, faults) if has_test else []
    frames = [*train, *test]
    small = [list(spec.classes).index(name) for name in spec.small_classes]
    check = partial(check_frame, root, classes=len(spec.classes), small=small)
    memory = memory or CheckMemory()
    remembered = memory.recall(root, frames, f"{len(spec.classes)} {small}")
    reports = remembered.reports
    unread = set(frames) - reports.keys()
    # All training frames make one cache: where one has to be read, another cache is due.
    limit = 0 if faults or unread.isdisjoint(train) else memory.frame_bytes
    with keeping(memory.folder, train, limit) as keeper:
        wanted = [files for files in frames if files in unread or files in keeper.frames]
        try:
            faults += _read(wanted, check, reports, keeper, workers, progress)
        finally:
            if wanted:
                remembered.save()
        if not faults and not any(any(reports[files].class_pixels) for files in train):
            faults.append(Fault("train/label", "no labelled pixel at all", "class indices"))
        if faults:
            raise DatasetError(root, faults)
        dataset = Dataset(
            train=_split(train, reports, scenes),
            test=_split(test, reports, scenes),
            has_depth=all(files.depth is not None for files in train),
            fingerprint=_fingerprint(root, reports.values()),
        )
        keeper.keep(dataset.train.samples)
    return dataset


def load_frames(
    images: Path, depth: Path | None = None, *, workers: int = 2, progress: Progress | None = None
) -> tuple[Sample, ...]:
    """List and check a folder of images, with or without depth maps: frames to predict.

    Args:
        images: folder of JPEG or PNG images; other files in it are passed over.
        depth: folder of depth maps, one for each image; None for images alone.
        workers: as for `load_dataset`, which this raises as.
        progress: as for `load_dataset`.

    Returns:
        The samples, sorted by stem, without labels.
    """
    folders = {"image": images.resolve()} | ({"depth": depth.resolve()} if depth else {})
    root = Path(os.path.commonpath([folder.parent for folder in folders.values()]))
    faults: list[Fault] = []
    frames = _list_frames(root, folders, faults, strays=True)
    check = partial(check_frame, root, classes=0, small=())
    reports: dict[FrameFiles, FrameReport] = {}
    faults += _read(frames, check, reports, FrameKeeper(), workers, progress)
    if faults:
        raise DatasetError(root, faults)
    return _split(frames, reports, {}).samples


def _list_split(
    root: Path, name: str, kinds: Sequence[str], spec: DatasetSpec, faults: list[Fault]
) -> list[FrameFiles]:
    folders = {kind: root / name / kind for kind in kinds}
    if not spec.need_depth and not folders["depth"].is_dir():
        del folders["depth"]
    return _list_frames(root, folders, faults)


def _list_frames(
    root: Path, folders: Mapping[str, Path], faults: list[Fault], *, strays: bool = False
) -> list[FrameFiles]:
    """The frames of some folders, by kind, sorted by stem; a missing partner is a fault.

    Files of other types are passed over with `strays`, and otherwise faults. Names in `faults`,
    which is extended, are relative to `root`.
    """
    paths_of: dict[str, dict[str, Path]] = {}
    entries = 0
    for kind, folder in folders.items():
        # Finder and file-sharing services leave files that begin with a dot.
        there = folder.iterdir() if folder.is_dir() else ()
        paths = sorted(path for path in there if not path.name.startswith("."))
        suffixes, entries = KINDS[kind].suffixes, entries + len(paths)
        fit = [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
        paths_of[kind] = {path.stem: path for path in reversed(fit)}  # the first of each stem
    frames = [
        FrameFiles(stem, *(paths_of.get(kind, {}).get(stem) for kind in KINDS))
        for stem in sorted(set().union(*paths_of.values()))
    ]
    taken = sum(map(len, paths_of.values()))
    if not frames or not taken == entries == len(frames) * len(folders):
        from engine.frames.faults import listing_faults

        faults += listing_faults(root, folders, frames, strays=strays)
    return frames


def _read(
    frames: Sequence[FrameFiles],
    check: Callable[[FrameFiles], tuple[FrameReport, Frame | None]],
    reports: dict[FrameFiles, FrameReport],
    keeper: FrameKeeper,
    workers: int,
    progress: Progress | None,
) -> list[Fault]:
    """Check the frames, add what is found to `reports` and what was decoded to `keeper`."""

    def read(files: FrameFiles) -> tuple[FrameReport, Frame | None]:
        report, frame = check(files)
        return report, frame if files in keeper.frames else None  # given back before it is taken

    with closing(in_order(read, frames, workers)) as results:
        for number, (files, (report, frame)) in enumerate(zip(frames, results, strict=True)):
            reports[files] = report
            keeper.put(files, frame)
            if progress is not None:
                progress(number + 1, len(frames))
    return [fault for files in frames for fault in reports[files].faults]


def _split(
    files_N: Sequence[FrameFiles],
    report_of: Mapping[FrameFiles, FrameReport],
    scenes: Mapping[str, str],
) -> Split:
    samples, reports = [], [report_of[files] for files in files_N]
    for files, report in zip(files_N, reports, strict=True):
        content = b"".join(bytes.fromhex(digest) for _, digest in report.digests)
        digest, scene = hashlib.sha256(content).hexdigest(), scenes.get(files.stem)
        samples.append(Sample(**vars(files), hw=report.hw, scene=scene, digest=digest))
    small = (np.array(report.small_pixels, np.int32).reshape(-1, 2) for report in reports)
    return Split(
        tuple(samples),
        tuple(small),
        np.array([report.class_pixels for report in reports], np.int64),
        np.array([report.ignored_pixels for report in reports], np.int64),
        np.array([report.missing_depth for report in reports], np.float64),
    )


def _fingerprint(root: Path, reports: Iterable[FrameReport]) -> str:
    digests = [pair for report in reports for pair in report.digests]
    scenes = root / "scenes.csv"
    if scenes.is_file():
        digests.append((scenes.name, hashlib.sha256(scenes.read_bytes()).hexdigest()))
    parts = (name.encode() + b"\0" + bytes.fromhex(digest) for name, digest in sorted(digests))
    return hashlib.sha256(b"".join(parts)).hexdigest()
