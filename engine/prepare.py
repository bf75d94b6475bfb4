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
from engine.config import DataConfig, RuntimeConfig

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
        return _render(options)
    config = load_config(options.config)
    need_depth = options.depth or config.model.needs_depth
    return _check(options.root, config.data, config.runtime, need_depth=need_depth)


def _check(root: Path, data: DataConfig, runtime: RuntimeConfig, *, need_depth: bool) -> int:
    """Read every file anew, print a summary and remember what was found."""
    from rich.console import Console

    from engine.frames.cache import cache_folder
    from engine.frames.index import CheckMemory, DatasetSpec, load_dataset
    from engine.runtime.progress import track_total

    spec = DatasetSpec(data.classes, data.small_classes, need_depth)
    memory = CheckMemory(cache_folder(runtime.cache), anew=True)
    with track_total("checking files") as progress:
        dataset = load_dataset(
            root, spec, workers=runtime.workers, progress=progress, memory=memory
        )
    folds = _all_folds(dataset, data)
    console = Console()
    console.print(_frame_table(root, dataset))
    console.print(_class_table(dataset, data.classes, folds[data.fold_kind]))
    console.print(_fold_table(folds))
    return 0


def _render(options: argparse.Namespace) -> int:
    from engine.rooms.dataset import render_rooms
    from engine.runtime.progress import track_total

    root, seed = options.root, options.seed
    scenes, frames, (height, width) = options.scenes, options.frames, options.hw
    with track_total("rendering rooms") as progress:
        render_rooms(
            root, scenes=scenes, frames=frames, hw=(height, width), seed=seed, progress=progress
        )
    print(f"{root}: {scenes} rooms of {frames} views of {height} x {width} pixels")
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
        frames, missing_N = str(len(split.samples)), split.missing_depth_N
        sizes = Counter(sample.hw for sample in split.samples)
        shown = [
            f"{h} x {w}" + (f" ({n})" if len(sizes) > 1 else "")
            for (h, w), n in sizes.most_common(5)
        ]
        shown += [f"and {len(sizes) - len(shown)} more sizes"] if len(sizes) > len(shown) else []
        scenes = str(len({sample.scene for sample in split.samples} - {None}) or "-")
        share = float(missing_N.mean()) if len(missing_N) else math.nan
        no_depth = "-" if math.isnan(share) else _percent(share)
        table.add_row(name, frames, scenes, ", ".join(shown) or "-", no_depth)
    table.caption = f"fingerprint {dataset.fingerprint[:16]}"
    return table


def _class_table(dataset: "Dataset", classes: Sequence[str], folds: "Folds | str") -> "Table":
    from rich.table import Table

    pixels_NC = dataset.train.class_pixels_NC
    ignored = int(dataset.train.ignored_pixels_N.sum())
    labelled = int(pixels_NC.sum())
    table = Table("class", title="labelled training pixels")
    for heading in ("share", "frames", "lowest fold", "highest fold"):
        table.add_column(heading, justify="right")
    sums = []
    if not isinstance(folds, str):
        sums = [pixels_NC[folds.validation(fold)].sum(0) for fold in range(folds.count)]
    for index, name in enumerate(classes):
        shares = [float(counts[index] / max(1, counts.sum())) for counts in sums]
        extremes = [_percent(min(shares)), _percent(max(shares))] if shares else ["-", "-"]
        share = _percent(float(pixels_NC[:, index].sum()) / labelled)
        table.add_row(name, share, str(int((pixels_NC[:, index] > 0).sum())), *extremes)
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
