"""python -m engine.prepare: check a dataset folder, or render the embedded one.

check ROOT    every fault of every file, or a summary: frames, sizes, class shares, depth, folds
rooms DIR     render the procedural rooms into DIR
"""

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli import load_config, run_main
from engine.config import DataConfig

if TYPE_CHECKING:
    from rich.table import Table

    from engine.data.folds import Folds
    from engine.frames.index import Dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.prepare",
        description="Check a dataset folder, or render the embedded one.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="name every fault of a dataset folder, or summarise it",
        description="Decode every file of ROOT/train/{image,depth,label}, ROOT/test/{image,depth} "
        "and ROOT/scenes.csv. Faults are all named at once (exit code 2); a sound dataset is "
        "summarised.",
    )
    check.add_argument("root", type=Path, metavar="ROOT", help="dataset folder")
    check.add_argument(
        "--config",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="experiment whose classes and folds apply (default: the 13 of NYUv2, 5 folds)",
    )
    check.add_argument("--depth", action="store_true", help="a frame without depth is a fault")
    rooms = commands.add_parser("rooms", help="render the procedural rooms into DIR")
    rooms.add_argument("root", type=Path, metavar="DIR", help="folder to create")
    rooms.add_argument("--scenes", type=int, default=48, help="rooms (default: 48)")
    rooms.add_argument("--frames", type=int, default=13, help="views of each (default: 13)")
    rooms.add_argument("--hw", type=int, nargs=2, default=(120, 160), metavar=("H", "W"))
    rooms.add_argument("--seed", type=int, default=0, help="another seed, other rooms (default: 0)")
    options = parser.parse_args(arguments)
    if options.command == "rooms":
        return render(
            options.root,
            scenes=options.scenes,
            frames=options.frames,
            hw=tuple(options.hw),
            seed=options.seed,
        )
    config = load_config(options.config)
    return check_root(
        options.root,
        config.data,
        need_depth=options.depth or config.model.input == "rgbd",
        workers=config.runtime.workers,
    )


def check_root(root: Path, config: DataConfig, *, need_depth: bool, workers: int) -> int:
    """Check a dataset folder and print its summary; returns the exit code.

    Args:
        root: dataset folder.
        config: its classes and how it would be cut into folds; `config.root` is not read.
        need_depth: whether a frame without depth is a fault.
        workers: decoding threads.

    Raises:
        DatasetError: naming every fault.
    """
    from rich.console import Console

    from engine.frames.index import load_dataset
    from engine.runtime.progress import track_total

    with track_total("checking files") as progress:
        dataset = load_dataset(
            root,
            config.classes,
            config.small_classes,
            need_depth=need_depth,
            workers=workers,
            progress=progress,
        )
    kinds = _all_folds(dataset, config)
    chosen = kinds[config.fold_kind]
    console = Console()
    console.print(_frame_table(root, dataset))
    console.print(
        _class_table(dataset, config.classes, None if isinstance(chosen, str) else chosen)
    )
    console.print(_fold_table(kinds))
    return 0


def render(root: Path, *, scenes: int, frames: int, hw: tuple[int, int], seed: int) -> int:
    """Render the procedural rooms into a folder; returns the exit code.

    Args:
        root: folder to create; left alone where it holds these very rooms.
        scenes: number of rooms.
        frames: views of each room.
        hw: height and width of a view, pixels.
        seed: another seed gives other rooms.

    Raises:
        ValueError: an argument is out of range, or `root` holds something else.
    """
    from engine.rooms.dataset import render_rooms
    from engine.runtime.progress import track_total

    with track_total("rendering rooms") as progress:
        render_rooms(root, scenes=scenes, frames=frames, hw=hw, seed=seed, progress=progress)
    print(f"{root}: {scenes} rooms of {frames} views of {hw[0]} x {hw[1]} pixels")
    return 0


def _all_folds(dataset: "Dataset", config: DataConfig) -> "dict[str, Folds | str]":
    """Return the folds of each kind, or why there are none."""
    from engine.data.folds import KINDS, make_folds

    kinds: dict[str, Folds | str] = {}
    for kind in KINDS:
        try:
            kinds[kind] = make_folds(
                dataset.train.samples, kind, config.folds, config.fold_seed, config.blocks_per_fold
            )
        except ValueError as error:
            kinds[kind] = str(error)
    return kinds


def _frame_table(root: Path, dataset: "Dataset") -> "Table":
    from rich.table import Table

    table = Table("split", "frames", "scenes", "height x width", "no depth", title=str(root))
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        sizes = Counter(sample.hw for sample in split.samples)
        shown = [
            f"{h} x {w}" + (f" ({n})" if len(sizes) > 1 else "")
            for (h, w), n in sizes.most_common(5)
        ]
        shown += [f"and {len(sizes) - len(shown)} more sizes"] if len(sizes) > len(shown) else []
        scenes = {sample.scene for sample in split.samples} - {None}
        missing = dataset.statistics.missing_depth[name]
        has_depth = len(missing) > 0 and not math.isnan(missing.mean())
        table.add_row(
            name,
            str(len(split.samples)),
            str(len(scenes)) if scenes else "-",
            ", ".join(shown) or "-",
            _percent(float(missing.mean())) if has_depth else "-",
        )
    table.caption = f"fingerprint {dataset.fingerprint[:16]}"
    return table


def _class_table(dataset: "Dataset", classes: Sequence[str], folds: "Folds | None") -> "Table":
    from rich.table import Table

    pixels_NC = dataset.statistics.class_pixels_NC
    ignored = int(dataset.statistics.ignored_pixels_N.sum())
    labelled = int(pixels_NC.sum())
    table = Table("class", title="labelled training pixels")
    for heading in ("share", "frames", "lowest fold", "highest fold"):
        table.add_column(heading, justify="right")
    by_fold = []
    if folds is not None:
        sums = [pixels_NC[folds.validation(fold)].sum(0) for fold in range(folds.count)]
        by_fold = [counts / max(1, counts.sum()) for counts in sums]
    for index, name in enumerate(classes):
        shares = [float(share[index]) for share in by_fold]
        table.add_row(
            name,
            _percent(float(pixels_NC[:, index].sum()) / labelled),
            str(int((pixels_NC[:, index] > 0).sum())),
            _percent(min(shares)) if shares else "-",
            _percent(max(shares)) if shares else "-",
        )
    table.caption = f"{_percent(ignored / (ignored + labelled))} of all pixels carry no label"
    return table


def _fold_table(kinds: "dict[str, Folds | str]") -> "Table":
    from rich.table import Table

    title = "folds; leakage = validation frames with a neighbour in training"
    table = Table("kind", "leakage", "frames in each", title=title)
    for kind, folds in kinds.items():
        if isinstance(folds, str):
            table.add_row(kind, "-", folds)
        else:
            sizes = [str(len(folds.validation(fold))) for fold in range(folds.count)]
            table.add_row(kind, _percent(folds.leakage), " ".join(sizes))
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


if __name__ == "__main__":
    run_main(main)
