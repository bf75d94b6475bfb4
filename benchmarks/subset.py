"""Some frames of a dataset as a dataset folder of its own, made of links."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from engine.config import ROOMS, Config
from engine.data.folds import Folds, make_folds
from engine.frames.frame_check import Fault, FrameFiles
from engine.frames.index import Dataset, DatasetError, load_dataset
from engine.frames.listing import list_split, read_scenes
from engine.rooms.dataset import render_rooms

_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Subset:
    """An experiment on some of its frames.

    Attributes:
        config: with `data.root` at the folder of links.
        dataset: the checked frames.
        folds: the split of the training frames.
    """

    config: Config
    dataset: Dataset
    folds: Folds

    def configured(self, config: Config) -> "Subset":
        """The same frames under another config, split as it says."""
        folds = _split(self.dataset, config)
        data = config.data.model_copy(update={"root": self.config.data.root})
        return replace(self, config=config.model_copy(update={"data": data}), folds=folds)


def open_subset(config: Config, frames: int, folder: Path) -> Subset:
    """Link `frames` training frames, evenly spread, and their share of the test frames.

    Args:
        config: the experiment; `data.root` "rooms" is rendered first, as `engine.train` does.
        frames: how many; more than there are means all.
        folder: new folder of the links.

    Raises:
        DatasetError: the dataset or one of the frames has faults.
        ValueError: the frames are too few for the folds.
    """
    root = Path(config.data.root)
    if config.data.root == ROOMS:
        root = Path("data") / ROOMS
        render_rooms(root)
    train, test, scenes = _list(root, config)
    chosen = evenly(train, frames)
    chosen_test = evenly(test, round(len(test) * len(chosen) / len(train)))
    for split, files in (("train", chosen), ("test", chosen_test)):
        for frame in files:
            _link(frame, folder / split)
    if scenes:
        kept = {frame.stem for frame in (*chosen, *chosen_test)}
        lines = [f"{stem},{scene}\n" for stem, scene in scenes.items() if stem in kept]
        (folder / "scenes.csv").write_text("stem,scene\n" + "".join(lines), encoding="utf-8")
    dataset = load_dataset(
        folder,
        config.data.classes,
        config.data.small_classes,
        need_depth=config.model.input == "rgbd",
        workers=config.runtime.workers,
    )
    data = config.data.model_copy(update={"root": str(folder)})
    config = config.model_copy(update={"data": data})
    return Subset(config, dataset, _split(dataset, config))


def evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """`count` items spread evenly over the sequence, in order; all of them if there are fewer."""
    count = min(count, len(items))
    return [items[position * len(items) // count] for position in range(count)]


def _split(dataset: Dataset, config: Config) -> Folds:
    """The experiment's folds, of fewer blocks where the frames do not fill as many."""
    data, samples = config.data, dataset.train.samples
    blocks = max(1, min(data.blocks_per_fold, len(samples) // data.folds))
    return make_folds(samples, data.fold_kind, data.folds, data.fold_seed, blocks)


def _list(root: Path, config: Config) -> tuple[list[FrameFiles], list[FrameFiles], dict[str, str]]:
    faults: list[Fault] = []
    need_depth = config.model.input == "rgbd"
    if not root.is_dir():
        expected = "a folder with train/image and train/label; give --data.root"
        raise DatasetError(root, [Fault(str(root), "no such folder", expected)])
    scenes = read_scenes(root, faults)
    train = list_split(root, "train", ("image", "label"), need_depth, faults)
    test = []
    if (root / "test").is_dir():
        test = list_split(root, "test", ("image",), need_depth, faults)
    if faults:
        raise DatasetError(root, faults)
    return train, test, scenes


def _link(frame: FrameFiles, folder: Path) -> None:
    for kind in ("image", "depth", "label"):
        file: Path | None = getattr(frame, kind)
        if file is not None:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / file.name).symlink_to(file.resolve())
