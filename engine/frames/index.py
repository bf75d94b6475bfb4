"""A dataset folder, listed and checked: every file decoded once at most, all faults named at once.

ROOT/train/{image,depth,label}  ROOT/test/{image,depth[,label]}  [ROOT/scenes.csv]
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.frames.cache import FrameKeeper, keeping
from engine.frames.dataset import ENCODED, Dataset, DatasetSpec, Progress, Reports, Split
from engine.frames.decode import Frame, FrameFiles, Sample, check_frame, in_order
from engine.frames.faults import DatasetError, label_hint
from engine.frames.kinds import AS_IT_IS, KINDS, Fault, FrameReport, is_hidden
from engine.frames.listing import images_apart, listing_faults
from engine.frames.reading import AS_STORED, Reading
from engine.frames.remembered import CheckMemory
from engine.frames.scenes import read_scenes

# With what others need to call what is defined here.
__all__ = ["CheckMemory", "Dataset", "DatasetError", "DatasetSpec", "Fault", "Sample"]
__all__ += ["Asked", "Listing", "list_dataset", "list_frames", "load_dataset", "load_frames"]


_log = logging.getLogger(__name__)


def load_dataset(
    root: Path,
    spec: DatasetSpec,
    *,
    workers: int = 2,
    progress: Progress | None = None,
    memory: CheckMemory | None = None,
) -> Dataset:
    """List and check a dataset folder; files are decoded, by `workers` threads, or remembered.

    By default nothing is remembered and kept. Raises DatasetError, which names every fault.
    """
    train, test, scenes, faults = list_dataset(root, need_depth=spec.need_depth)
    if (root / "test" / "label").is_dir():
        from engine.frames.labelled import with_labels

        test = with_labels(root / "test" / "label", test)
    small = [list(spec.classes).index(name) for name in spec.small_classes]
    reading = spec.reading
    check = partial(check_frame, root, classes=len(spec.classes), small=small, reading=reading)
    memory = memory or CheckMemory()
    key = f"{len(spec.classes)} {small}{reading.reports}"
    remembered = memory.recall(root, [*train, *test], key)
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
            hint = "" if reading.labels else label_hint(reports.values(), spec.classes)
            raise DatasetError(root, faults, hint)
        if (root / ENCODED).exists():
            from engine.frames.encoded import as_originals, originals_of

            reports = as_originals(reports, originals_of(root))
        split = _split(train, reports, scenes, reading)
        keeper.keep(split.samples)
    _tell(root, reports)
    fingerprint = _fingerprint(root, reports.values(), reading)
    return Dataset(split, _split(test, reports, scenes, reading), fingerprint)


class Listing(NamedTuple):
    """The files of a dataset folder, none of which was read but scenes.csv."""

    train: list[FrameFiles]
    test: list[FrameFiles]
    scenes: dict[str, str]
    """By stem."""
    faults: list[Fault]


def list_dataset(root: Path, *, need_depth: bool) -> Listing:
    """List a dataset folder, without labels of test frames; DatasetError if there is none.

    Loads nothing that takes long.
    """
    if not root.is_dir():
        expected = "a folder with train/image and train/label (data.root)"
        raise DatasetError(root, [Fault(str(root), "no such folder", expected)])
    faults: list[Fault] = []
    table = root / "scenes.csv"
    scenes = read_scenes(table, faults) if os.path.lexists(table) else {}
    splits = {"train": ("image", "depth", "label"), "test": ("image", "depth")}
    listed: dict[str, list[FrameFiles]] = {"test": []}
    for name, kinds in splits.items():
        if name == "train" or (root / name).is_dir():
            folders = {kind: root / name / kind for kind in kinds}
            if not need_depth and not folders["depth"].is_dir():
                del folders["depth"]
            listed[name] = _list_frames(root, folders, faults)
    return Listing(listed["train"], listed["test"], scenes, faults)


class Asked(NamedTuple):
    """Frames that a command is asked to look at, none of which was read."""

    shown: Path
    """What was asked for."""
    root: Path
    """What names in faults are relative to."""
    frames: list[FrameFiles]
    faults: list[Fault]
    scenes: Mapping[str, str] = {}
    """By stem."""


def load_frames(
    asked: Asked,
    *,
    classes: Sequence[str] = (),
    reading: Reading = AS_STORED,
    workers: int = 2,
    progress: Progress | None = None,
) -> tuple[Sample, ...]:
    """Check frames to look at, their labels by `classes` if they have any; as `load_dataset`."""
    check = partial(check_frame, asked.root, classes=len(classes), small=(), reading=reading)
    reports: Reports = {}
    faults = asked.faults + _read(asked.frames, check, reports, FrameKeeper(), workers, progress)
    if faults:
        plain = classes and not reading.labels
        raise DatasetError(
            asked.root, faults, label_hint(reports.values(), classes) if plain else ""
        )
    _tell(asked.shown, reports)
    return _split(asked.frames, reports, asked.scenes, reading).samples


def list_frames(images: Path, depth: Path | None = None, *, quiet: bool = False) -> Asked:
    """List a folder of frames to look at, each with a map if `depth` is a folder.

    Other files are passed over. They, and images that share a stem, are told, unless `quiet`. Loads
    nothing that takes long.
    """
    folders = {"image": images.resolve()} | ({"depth": depth.resolve()} if depth else {})
    root = Path(os.path.commonpath([folder.parent for folder in folders.values()]))
    faults: list[Fault] = []
    tell = None if quiet else _log.info
    return Asked(images, root, _list_frames(root, folders, faults, strays=True, tell=tell), faults)


def _list_frames(
    root: Path,
    folders: Mapping[str, Path],
    faults: list[Fault],
    *,
    strays: bool = False,
    tell: Callable[[str], None] | None = None,
) -> list[FrameFiles]:
    """The frames of folders by kind, sorted by stem; arguments as of `listing_faults`.

    What is odd but no fault goes to `tell`.
    """
    paths_of: dict[str, dict[str, Path]] = {kind: {} for kind in KINDS}
    listed, entries = dict[str, list[Path]](), 0
    for kind, folder in folders.items():
        suffixes = KINDS[kind].suffixes
        with suppress(OSError):  # `listing_faults` says what is wrong with the folder
            paths = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
            fit = [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
            paths_of[kind] = {path.stem: path for path in reversed(fit)}  # the first of each stem
            entries += len(paths)
            listed[kind] = fit
            if tell and len(fit) < len(paths):
                from engine.frames.told import skipped

                tell(skipped(folder, paths, fit))
    stems = sorted(set().union(*paths_of.values()))
    frames = [FrameFiles(stem, *(paths_of[kind].get(stem) for kind in KINDS)) for stem in stems]
    taken = sum(map(len, paths_of.values()))
    if strays and len(paths_of["image"]) < len(listed.get("image", ())):
        frames = images_apart(frames, listed["image"], tell)
    if not frames or not taken == entries == len(frames) * len(folders):
        faults += listing_faults(root, folders, frames, strays=strays)
    return frames


def _read(
    frames: Sequence[FrameFiles],
    check: Callable[[FrameFiles], tuple[FrameReport, Frame | None]],
    reports: Reports,
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


def _tell(root: Path, reports: Reports) -> None:
    """Say what images went through, where that is anything."""
    if any(report.origin != AS_IT_IS for report in reports.values()):
        from engine.frames.told import image_lines

        for line in image_lines(report.origin for report in reports.values()):
            _log.info("%s: %s", root, line)


def _split(
    files_N: Sequence[FrameFiles], found: Reports, scenes: Mapping[str, str], reading: Reading
) -> Split:
    samples, reports = [], [found[files] for files in files_N]
    for files, report in zip(files_N, reports, strict=True):
        content = b"".join(bytes.fromhex(digest) for _, digest in report.digests)
        digest = hashlib.sha256(content + reading.stores).hexdigest()
        scene, hw, origin = scenes.get(files.stem), report.hw, report.origin
        found_in = vars(files) | {"hw": hw, "scene": scene, "digest": digest}
        samples.append(Sample(**found_in, reading=reading, origin=origin))
    pixels = (np.array(report.small_pixels, np.int32) for report in reports)
    return Split(tuple(samples), tuple(reports), [pixels_K.reshape(-1, 2) for pixels_K in pixels])


def _is_input(name: str) -> bool:
    return not name.startswith("test/label/")


def _fingerprint(root: Path, reports: Iterable[FrameReport], reading: Reading) -> str:
    digests = [pair for report in reports for pair in report.digests if _is_input(pair[0])]
    scenes = root / "scenes.csv"
    if scenes.is_file():
        digests.append((scenes.name, hashlib.sha256(scenes.read_bytes()).hexdigest()))
    parts = (name.encode() + b"\0" + bytes.fromhex(digest) for name, digest in sorted(digests))
    # Depth is no part of what runs must share to be blended: what is missing, `data` says.
    labels = repr(reading.labels).encode() if reading.labels else b""
    return hashlib.sha256(b"".join(parts) + labels).hexdigest()
