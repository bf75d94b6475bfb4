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
from engine.frames.samples import count_files
from engine.identity import file_hash
from engine.mistakes import ConfigError
from engine.origin import Origin, RunSource, SeenFrames, find_source, origin_of, sources_of
from engine.rules import FIRST
from engine.rundir import RunDir
from engine.teacher import Teacher, find_teacher, nothing_to_label

_log = logging.getLogger(__name__)


def seen_stems(
    config: Config, run: RunDir, folds: Sequence[int], samples: Sequence[Sample]
) -> set[str] | None:
    """Stems of those samples that the networks of these folds of a run were trained on.

    Only files of one size are read; those that a run was trained on from which it started count,
    too, and test frames that a teacher labelled for it. None: the folder of training images is not
    where it was, or the run says of no frame which fold validates it.
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
    # A frame is held out of the networks of the fold that it validates, and seen by all others.
    of = {network % config.data.folds for network in folds}
    held_out = of.pop() if len(of) == 1 else None
    paths = [path for path in images.iterdir() if fold_of.get(path.stem, held_out) != held_out]
    labelled = data_root(config) / "test" / "image"
    taught = any(config.of_network(network).training.teacher for network in folds)
    if taught and labelled.is_dir():
        paths += labelled.iterdir()
    of_size = defaultdict[int, list[Path]](list)
    for path in paths:
        if path.suffix.lower() in KINDS["image"].suffixes and path.is_file():
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
            1
            for k, image in zip(fold_of, images, strict=True)
            if k == folds.of(fold) and image in trained
        )
        in_test |= {n for n, image in enumerate(shown) if image in trained}
    told = {"unknown": True} if unknown else {}
    return SeenFrames(validated=validated, test=len(in_test), **told)


def judged_origin(
    origin: Origin | None, config: Config, run: RunDir, dataset: Dataset, folds: Folds
) -> Origin | None:
    """What a run is begun with, once it is told, and judged where it is not begun yet.

    Raises ConfigError for a teacher that may not teach it.
    """
    new = not run.origin.exists()
    if origin is not None and origin.folds:
        if new:
            origin = origin.model_copy(update={"seen": seen_by_source(config, dataset, folds)})
        tell_origin(origin, len(dataset.train.samples))
    if config.taught_by_run and new:
        check_taught(config, dataset, folds)
    elif config.training.teacher and not run.config.exists():
        _tell_taught(dataset, *told_inside(config))
    return origin


def told_inside(config: Config) -> tuple[str, str]:
    """Which networks of each fold label the test frames of a run that teaches itself, and whose."""
    if config.training.teacher == FIRST:
        return "the first network of each fold", "for its others"
    return "the earlier networks of each fold", "for its later ones"


def check_taught(config: Config, dataset: Dataset, folds: Folds) -> None:
    """Refuse a teacher whose fold K was trained on a frame that fold K is to hold out; tell of it.

    It must have been trained on the same folds of the same image files, and whatever it started
    from on none that they hold out. Raises ConfigError; else as `find_teacher`.
    """
    teacher, test = find_teacher(config), dataset.test.samples
    if not len(test):
        raise nothing_to_label(config)
    if teacher.config.needs_depth and count_files(test, "depth") < len(test):
        raise ConfigError(f"{teacher.told} sees depth, and test frames have none; give them maps")
    if config.holds_out:
        _check_held_out(teacher, dataset, folds)
    who = "fold k by fold k" if config.holds_out else f"{teacher.config.networks} networks together"
    _tell_taught(dataset, teacher.run.root, who)


def _tell_taught(dataset: Dataset, teacher: object, who: str) -> None:
    _log.info(
        "%d test frames are labelled by %s (%s) and trained on: whatever is scored on them is not "
        "of new frames",
        *(len(dataset.test.samples), teacher, who),
    )


def _check_held_out(teacher: Teacher, dataset: Dataset, folds: Folds) -> None:
    run, told = teacher.run, teacher.told
    file = FoldsFile.read(run.folds) if run.folds.is_file() else None
    if file is None or not file.image_of:
        why = "does not tell on which frames it was trained: it has no folds.json, or an older one"
        raise ConfigError(f"{told} {why}; train it once more")
    images = images_of(dataset.train)
    ours = set(zip(images, folds.fold_of.tolist(), strict=True))
    theirs = {(file.image_of[stem], fold) for stem, fold in file.fold_of.items()}
    if ours != theirs:
        apart = len(ours - theirs)
        raise ConfigError(
            f"{told} has other folds: {apart} of {len(images)} frames here are of another fold "
            f"there, or not there, and {len(theirs - ours)} of {len(theirs)} there; fold k may "
            "learn only from what saw none of its validation frames: use the same frames and "
            "data.folds, data.fold_kind, data.fold_seed, data.blocks_per_fold, data.splits"
        )
    for network in range(teacher.config.networks):
        trained, of = _trained_before(RunSource(run, network, teacher.config)), folds.of(network)
        if trained is None or any(image in trained for image, k in ours if k == of):
            seen = "may have been" if trained is None else "were"
            raise ConfigError(
                f"{told} started from weights that {seen} trained on frames which fold {of} "
                "holds out; name a run that was not"
            )


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
    of = source.fold % source.config.data.folds
    found = {file.image_of[stem] for stem, fold in file.fold_of.items() if fold != of}
    earlier = _trained_before(source)
    return None if earlier is None else found | earlier


def _trained_before(source: RunSource) -> set[str] | None:
    """The same of the weights that it started from; none where those are of no run."""
    origin = origin_of(source.config, source.run)
    if origin is None or not origin.folds:
        return set()
    before = _source(f"run:{origin.run}#{origin.folds[source.fold].fold}")
    return None if before is None else _trained_on(before)


def _source(weights: str) -> RunSource | None:
    """What a run started from; None where that is gone."""
    try:
        return find_source(weights)
    except (ConfigError, FileNotFoundError):
        return None
