"""A dataset folder, listed and checked: every file decoded once at most, all faults named at once.

ROOT/train/{image,depth,label}  ROOT/test/{image,depth[,label]}  [ROOT/scenes.csv]
"""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.frames.cache import FrameKeeper, keeping
from engine.frames.dataset import ENCODED, SHARDS, Dataset, DatasetSpec, Progress, Split
from engine.frames.decode import Frame, FrameFiles, Sample, check_frame, in_order
from engine.frames.faults import DatasetError, label_hint
from engine.frames.files import FrameList, files_in, split_name
from engine.frames.findings import Findings
from engine.frames.kinds import KINDS, Fault, FrameReport
from engine.frames.listing import images_apart, listing_faults
from engine.frames.reading import AS_STORED, Reading
from engine.frames.remembered import CheckMemory
from engine.frames.samples import Samples, SmallPixels
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
    remembered = memory.recall(root, (train, test), key, len(spec.classes))
    train_found, test_found = remembered.findings
    # All training frames make one cache: where one has to be read, another cache is due.
    limit = 0 if faults or train_found.known.all() else memory.frame_bytes
    with keeping(memory.folder, len(train), limit) as keeper:
        wanted = np.arange(len(train)) if keeper.frames else np.flatnonzero(~train_found.known)
        others = np.flatnonzero(~test_found.known)
        told = _Told(progress, len(wanted) + len(others))
        try:
            _read(wanted, check, train_found, workers, told, keeper)
            _read(others, check, test_found, workers, told)
        finally:
            if len(wanted) + len(others):
                remembered.save()
        for found in remembered.findings:
            faults += [fault for report in found.odd.values() for fault in report.faults]
        if not faults and not _is_labelled(train_found):
            faults.append(Fault("train/label", "no labelled pixel at all", "class indices"))
        if faults:
            reports = chain(*remembered.findings)
            hint = "" if reading.labels else label_hint(reports, spec.classes)
            raise DatasetError(root, faults, hint)
        if (root / ENCODED).exists():
            from engine.frames.encoded import originals_of

            originals = originals_of(root)
            for found in remembered.findings:
                found.replace(originals)
        split = _split(train_found, scenes, reading)
        keeper.keep(split.samples)
    _tell(root, remembered.findings)
    fingerprint = _fingerprint(root, {"train": train_found, "test": test_found}, reading)
    return Dataset(split, _split(test_found, scenes, reading), fingerprint)


class Listing(NamedTuple):
    """The files of a dataset folder, none of which was read but scenes.csv."""

    train: FrameList
    test: FrameList
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
    if (root / SHARDS).is_file() or not (root / "train").exists():
        from engine.frames.shards import list_dataset_in_shards

        if lists := list_dataset_in_shards(root, faults, need_depth=need_depth):
            return Listing(lists["train"], lists["test"], scenes, faults)
    splits = {"train": ("image", "depth", "label"), "test": ("image", "depth")}
    listed = {"test": FrameList({})}
    for name, kinds in splits.items():
        if name == "train" or (root / name).is_dir():
            folders = {kind: root / name / kind for kind in kinds}
            if not need_depth and not folders["depth"].is_dir():
                del folders["depth"]
            listed[name] = _listed(root, folders, faults)[0]
    return Listing(listed["train"], listed["test"], scenes, faults)


class Asked(NamedTuple):
    """Frames that a command is asked to look at, none of which was read."""

    shown: Path
    """What was asked for."""
    root: Path
    """What names in faults are relative to."""
    frames: Sequence[FrameFiles]
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
) -> Sequence[Sample]:
    """Check frames to look at, their labels by `classes` if they have any; as `load_dataset`."""
    check = partial(check_frame, asked.root, classes=len(classes), small=(), reading=reading)
    found = Findings.empty(asked.root, asked.frames, len(classes), 0)
    count = len(asked.frames)
    _read(np.arange(count), check, found, workers, _Told(progress, count))
    faults = asked.faults + [fault for report in found.odd.values() for fault in report.faults]
    if faults:
        plain = classes and not reading.labels
        raise DatasetError(asked.root, faults, label_hint(found, classes) if plain else "")
    _tell(asked.shown, [found])
    return _split(found, asked.scenes, reading).samples


def list_frames(images: Path, depth: Path | None = None, *, quiet: bool = False) -> Asked:
    """List a folder of frames to look at, each with a map if `depth` is a folder.

    Other files are passed over. They, and images that share a stem, are told, unless `quiet`. Loads
    nothing that takes long.
    """
    folders = {"image": images.resolve()} | ({"depth": depth.resolve()} if depth else {})
    root = Path(os.path.commonpath([folder.parent for folder in folders.values()]))
    faults: list[Fault] = []
    tell = None if quiet else _log.info
    return Asked(images, root, _listed(root, folders, faults, strays=True, tell=tell)[1], faults)


def _listed(
    root: Path,
    folders: Mapping[str, Path],
    faults: list[Fault],
    *,
    strays: bool = False,
    tell: Callable[[str], None] | None = None,
) -> tuple[FrameList, Sequence[FrameFiles]]:
    """The frames of folders by kind, sorted by stem; then, with `strays`, each image of a stem.

    Arguments as of `listing_faults`. What is odd but no fault goes to `tell`.
    """
    fit_of, entries = dict[str, list[str]](), 0
    for kind, folder in folders.items():
        suffixes = KINDS[kind].suffixes
        with suppress(OSError):  # `listing_faults` says what is wrong with the folder
            found = files_in(folder)
            fit = [n for n, is_file in found.items() if is_file and _ending(n) in suffixes]
            fit_of[kind] = fit
            entries += len(found)
            if tell and len(fit) < len(found):
                from engine.frames.told import skipped

                tell(skipped(folder, [*found], fit))
    frames = FrameList.of(folders, fit_of)
    taken = sum(map(frames.count, folders))
    each: Sequence[FrameFiles] = frames
    images = fit_of.get("image", [])
    if strays and frames.count("image") < len(images):
        each = images_apart(list(frames), [folders["image"] / name for name in images], tell)
    if not frames or not taken == entries == len(frames) * len(folders):
        faults += listing_faults(root, folders, each, strays=strays)
    return frames, each


def _ending(name: str) -> str:
    return split_name(name)[1].lower()


class _Told:
    """Tells of frames that are read, over several parts of a dataset."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def advance(self) -> None:
        """One more is read."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _read(
    wanted: NDArray[np.intp],
    check: Callable[[FrameFiles], tuple[FrameReport, Frame | None]],
    found: Findings,
    workers: int,
    told: _Told,
    keeper: FrameKeeper | None = None,
) -> None:
    """Check the wanted frames; what was decoded goes to a keeper, which may want it no longer."""

    def read(files: FrameFiles) -> tuple[FrameReport, Frame | None]:
        report, frame = check(files)
        return report, frame if keeper and keeper.frames else None  # given back before it is taken

    frames = (found.frames[number] for number in wanted.tolist())
    with closing(in_order(read, frames, workers)) as results:
        for number, (report, frame) in zip(wanted.tolist(), results, strict=True):
            found.put(number, report)
            if keeper is not None:
                keeper.put(frame)
            told.advance()


def _tell(root: Path, parts: Sequence[Findings]) -> None:
    """Say what images went through, where that is anything."""
    if any(len(found.origins) > 1 or found.odd for found in parts):
        from engine.frames.told import image_lines

        origins = (found.origin(n) for found in parts for n in range(len(found)))
        for line in image_lines(origins):
            _log.info("%s: %s", root, line)


def _is_labelled(found: Findings) -> bool:
    if any(any(report.class_pixels) for report in found.odd.values()):
        return True
    return bool(found.rows["class_pixels"].any())


def _split(found: Findings, scenes: Mapping[str, str], reading: Reading) -> Split:
    samples = Samples(found, scenes, reading, range(len(found)))
    return Split(samples, found, SmallPixels(found))


def _fingerprint(root: Path, parts: Mapping[str, Findings], reading: Reading) -> str:
    """SHA-256 over names and digests of files, sorted by name, but for labels of test frames."""
    scenes, total = root / "scenes.csv", hashlib.sha256()
    if scenes.is_file():
        content = hashlib.sha256(scenes.read_bytes()).digest()
        total.update(scenes.name.encode() + b"\0" + content)  # before train and test
    for part, found in sorted(parts.items()):
        assert isinstance(found.frames, FrameList)
        for kind in sorted(KINDS):
            if part == "test" and kind == "label":
                continue
            names = [found.frames.name(kind, n) or "" for n in range(len(found))]
            order: Sequence[int] = range(len(names))
            if any(one > next_ for one, next_ in pairwise(names)):  # mostly stems are in order
                order = sorted(order, key=names.__getitem__)
            for n in order:
                if not names[n]:
                    continue
                digest = found.digest(n, kind)
                assert digest is not None, "it has no fault"
                total.update(f"{part}/{kind}/{names[n]}".encode() + b"\0" + digest)
    # Depth is no part of what runs must share to be blended: what is missing, `data` says.
    if reading.labels:
        total.update(repr(reading.labels).encode())
    return total.hexdigest()
