"""Whether frames are some that networks were trained on: by the bytes of their image files."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from engine.config import Config, data_root
from engine.data.folds import FoldsFile
from engine.frames.decode import Sample
from engine.frames.kinds import KINDS
from engine.identity import file_hash
from engine.rundir import RunDir


def seen_stems(
    config: Config, run: RunDir, folds: Sequence[int], samples: Sequence[Sample]
) -> set[str] | None:
    """Stems of those samples that the networks of these folds of a run were trained on.

    Only files of one size are read. None: the folder of training images is not where it was, or
    the run says of no frame which fold validates it.
    """
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
