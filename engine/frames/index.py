"""A dataset folder, listed and checked: every file decoded once at most, all faults named at once.

ROOT/train/{image,depth,label}  ROOT/test/{image,depth}  [ROOT/scenes.csv]
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
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
from engine.frames.faults import DatasetError

__all__ = ["CheckMemory", "DatasetError", "Fault", "Sample"]  # with what is defined here

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
    """The N frames of `train` or `test`, sorted by stem."""

    samples: tuple[Sample, ...]
    reports: tuple[FrameReport, ...]

    @cached_property
    def small_pixels(self) -> list[NDArray[np.int32]]:
        """N arrays (K, 2): row and column of pixels of the small classes; K = 0 without labels."""
        pixels = (np.array(report.small_pixels, np.int32) for report in self.reports)
        return [pixels_K.reshape(-1, 2) for pixels_K in pixels]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset folder that passed every check."""

    train: Split
    test: Split
    fingerprint: str
    """SHA-256 over the relative name and content of every file."""


def load_dataset(
    root: Path,
    spec: DatasetSpec,
    *,
    workers: int = 2,
    progress: Progress | None = None,
    memory: CheckMemory | None = None,
) -> Dataset:
    """List and check a dataset folder; files are decoded completely, unless they are remembered.

    The dataset is the same for any number of decoding threads, `workers`; by default nothing is
    remembered and kept. Raises DatasetError, which names every fault of every file.
    """
    if not root.is_dir():
        expected = "a folder with train/image and train/label"
        raise DatasetError(root, [Fault(str(root), "no such folder", expected)])
    faults: list[Fault] = []
    scenes: dict[str, str] = {}
    if (root / "scenes.csv").exists():
        from engine.frames.scenes import read_scenes

        scenes = read_scenes(root / "scenes.csv", faults)
    splits = {"train": ("image", "depth", "label"), "test": ("image", "depth")}
    listed: dict[str, list[FrameFiles]] = {"test": []}
    for name, kinds in splits.items():
        if name == "train" or (root / name).is_dir():
            folders = {kind: root / name / kind for kind in kinds}
            if not spec.need_depth and not folders["depth"].is_dir():
                del folders["depth"]
            listed[name] = _list_frames(root, folders, faults)
    train, test = listed["train"], listed["test"]
    small = [list(spec.classes).index(name) for name in spec.small_classes]
    check = partial(check_frame, root, classes=len(spec.classes), small=small)
    memory = memory or CheckMemory()
    remembered = memory.recall(root, [*train, *test], f"{len(spec.classes)} {small}")
    reports = remembered.reports
    unread = {*train, *test} - reports.keys()
    # All training frames make one cache: where one has to be read, another cache is due.
    limit = 0 if faults or unread.isdisjoint(train) else memory.frame_bytes
    with keeping(memory.folder, train, limit) as keeper:
        wanted = [files for files in (*train, *test) if files in unread or files in keeper.frames]
        try:
            faults += _read(wanted, check, reports, keeper, workers, progress)
        finally:
            if wanted:
                remembered.save()
        if not faults and not any(any(reports[files].class_pixels) for files in train):
            faults.append(Fault("train/label", "no labelled pixel at all", "class indices"))
        if faults:
            raise DatasetError(root, faults)
        split = _split(train, reports, scenes)
        keeper.keep(split.samples)
    return Dataset(split, _split(test, reports, scenes), _fingerprint(root, reports.values()))


def load_frames(
    images: Path, depth: Path | None = None, *, workers: int = 2, progress: Progress | None = None
) -> tuple[Sample, ...]:
    """List and check frames to predict, without labels; raises as `load_dataset`.

    Files that are neither JPEG nor PNG are passed over in both folders; of `depth` each image needs
    a map.
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


def _list_frames(
    root: Path, folders: Mapping[str, Path], faults: list[Fault], *, strays: bool = False
) -> list[FrameFiles]:
    """The frames of some folders, by kind, sorted by stem; a missing partner is a fault.

    Files of other types are passed over with `strays`, and otherwise faults.
    """
    paths_of: dict[str, dict[str, Path]] = {}
    entries = 0
    for kind, folder in folders.items():
        # Finder and file-sharing services leave files that begin with a dot.
        paths = sorted(folder.glob("[!.]*"))
        suffixes, entries = KINDS[kind].suffixes, entries + len(paths)
        fit = [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
        paths_of[kind] = {path.stem: path for path in reversed(fit)}  # the first of each stem
    stems = sorted(set().union(*paths_of.values()))
    frames = [
        FrameFiles(stem, *(paths_of.get(kind, {}).get(stem) for kind in KINDS)) for stem in stems
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
    return Split(tuple(samples), tuple(reports))


def _fingerprint(root: Path, reports: Iterable[FrameReport]) -> str:
    digests = [pair for report in reports for pair in report.digests]
    scenes = root / "scenes.csv"
    if scenes.is_file():
        digests.append((scenes.name, hashlib.sha256(scenes.read_bytes()).hexdigest()))
    parts = (name.encode() + b"\0" + bytes.fromhex(digest) for name, digest in sorted(digests))
    return hashlib.sha256(b"".join(parts)).hexdigest()
