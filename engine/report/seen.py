"""Whether frames are some that networks were trained on: by the bytes of their image files."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from engine.config import Config, data_root
from engine.data.folds import Folds, FoldsFile, images_of
from engine.frames.dataset import Dataset
from engine.frames.decode import Sample
from engine.frames.kinds import KINDS
from engine.identity import file_hash
from engine.mistakes import ConfigError
from engine.origin import Origin, RunSource, SeenFrames, find_source, origin_of, sources_of
from engine.rundir import RunDir

_log = logging.getLogger(__name__)


def seen_stems(
    config: Config, run: RunDir, folds: Sequence[int], samples: Sequence[Sample]
) -> set[str] | None:
    """Stems of those samples that the networks of these folds of a run were trained on.

    Only files of one size are read; those that a run was trained on from which it started count,
    too. None: the folder of training images is not where it was, or the run says of no frame which
    fold validates it.
    """
    seen, origin = _seen_here(config, run, folds, samples), origin_of(config, run)
    for fold in {origin.folds[k].fold for k in folds} if origin and origin.folds else ():
        source = _source(f"run:{origin.run}#{fold}") if origin else None
        before = seen_stems(source.config, source.run, [fold], samples) if source else None
        seen = None if seen is None or before is None else seen | before
    return seen


def _seen_here(
    config: Config, run: RunDir, folds: Sequence[int], samples: Sequence[Sample]
) -> set[str] | None:
    images = data_root(config) / "train" / "image"
    if not (images.is_dir() and run.folds.exists()):
        return None
    fold_of = FoldsFile.read(run.folds).fold_of
    # A frame is held out of the network of the fold that it validates, and seen by all others.
    held_out = folds[0] if len(folds) == 1 else None
    of_size = defaultdict[int, list[Path]](list)
    for path in images.iterdir():
        is_image = path.suffix.lower() in KINDS["image"].suffixes and path.is_file()
        if is_image and fold_of.get(path.stem, held_out) != held_out:
            of_size[path.stat().st_size].append(path)
    hashes: dict[int, set[str]] = {}
    seen = set[str]()
    for sample in samples:
        size = sample.image.stat().st_size
        if size in of_size:
            if size not in hashes:
                hashes[size] = {file_hash(path) for path in of_size[size]}
            if file_hash(sample.image) in hashes[size]:
                seen.add(sample.stem)
    return seen


def seen_by_source(config: Config, dataset: Dataset, folds: Folds) -> SeenFrames:
    """How many of a run's frames the weights that its folds start from were trained on."""
    sources, train, test = sources_of(config), dataset.train, dataset.test
    fold_of, images = folds.fold_of.tolist(), images_of(train)
    validated, unknown, in_test = 0, False, set[int]()
    shown = images_of(test)
    for fold, source in enumerate(sources):
        trained = _trained_on(source)
        if trained is None:
            unknown = True
            continue
        validated += sum(
            1 for k, image in zip(fold_of, images, strict=True) if k == fold and image in trained
        )
        in_test |= {n for n, image in enumerate(shown) if image in trained}
    told = {"unknown": True} if unknown else {}
    return SeenFrames(validated=validated, test=len(in_test), **told)


def tell_origin(origin: Origin, frames: int) -> None:
    """Say which folds start from which, and what they have seen of this run's frames."""
    numbers = [each.fold for each in origin.folds]
    by_fold = ", ".join(f"fold {k} from its fold {n}" for k, n in enumerate(numbers))
    if len(set(numbers)) == 1:
        by_fold = f"every fold from its fold {numbers[0]}"
    _log.info("starting from %s: %s", origin.run, by_fold)
    seen = origin.seen
    if seen is None:
        return
    if seen.validated or seen.test:
        _log.warning(
            "%d of %d training frames are validated by a fold whose starting weights were trained "
            "on them, and %d test frames were, too (the same image files): what is found there is "
            "too good for new frames",
            *(seen.validated, frames, seen.test),
        )
    if seen.unknown:
        _log.warning(
            "whether %s was trained on some of these frames is not known: it has no folds.json, or "
            "one of an older release, or started from a run that is gone",
            origin.run,
        )


def _trained_on(source: RunSource) -> set[str] | None:
    """Digests of the images that a fold's network was trained on; None where that is not known."""
    if not source.run.folds.is_file():
        return None
    file = FoldsFile.read(source.run.folds)
    if not file.image_of:
        return None
    found = {file.image_of[stem] for stem, fold in file.fold_of.items() if fold != source.fold}
    origin = origin_of(source.config, source.run)
    if origin is not None and origin.folds:
        before = _source(f"run:{origin.run}#{origin.folds[source.fold].fold}")
        earlier = None if before is None else _trained_on(before)
        return None if earlier is None else found | earlier
    return found


def _source(weights: str) -> RunSource | None:
    """What a run started from; None where that is gone."""
    try:
        return find_source(weights)
    except (ConfigError, FileNotFoundError):
        return None
