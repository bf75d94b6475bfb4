"""The verbs of `prepare` that write a folder from another form, and their flags."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Not for --help: it loads NumPy.
    from engine.bring.source import Source

Open = Callable[[argparse.Namespace], "Source"]


def add_forms(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add a command for each form."""
    file = commands.add_parser(
        "nyuv2",
        help="write a folder from the official file of NYU Depth v2",
        description="Write the frames of nyu_depth_v2_labeled.mat as PNGs: images without loss, "
        "depth in millimetres, labels by the published tables, unlabelled pixels 255, and "
        "scenes.csv. Stopped at any moment, the same command goes on.",
    )
    add = file.add_argument
    add("file", type=Path, metavar="FILE.mat", help="the official file, MATLAB 7.3")
    add("--splits", type=Path, metavar="FILE", help="splits.mat (default: the official split)")
    add("--classes", type=int, choices=(13, 40, 894), default=13, help="default: 13")
    add(
        "--depth",
        choices=("filled", "raw"),
        default="filled",
        help="in-filled depth, or the sensor's (default: filled)",
    )
    add(
        "--mapping",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="classMapping40.mat or class13Mapping.mat, in the place of the published tables",
    )
    _finish(file, _nyuv2, "nyuv2")
    folder = commands.add_parser(
        "cityscapes",
        help="write a folder from leftImg8bit and gtFine, as Cityscapes has them",
        description="Write ROOT/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png with the labels "
        "ROOT/gtFine/SPLIT/CITY/NAME_gtFine_labelTrainIds.png, or labelIds. Frames of val stand in "
        "splits.csv; cities are scenes.",
    )
    folder.add_argument("root", type=Path, metavar="ROOT", help="holds leftImg8bit and gtFine")
    add_classes(folder, "which label values then are (default: the 19 of Cityscapes)")
    _finish(folder, _cityscapes, "cityscapes")
    coco = commands.add_parser(
        "coco",
        help="write a folder from COCO's panoptic, stuff or instances JSON",
        description="Write the images of a COCO JSON with a label each: the index of the category "
        "in the order of ids, 255 where there is none.",
    )
    coco.add_argument("file", type=Path, metavar="FILE.json")
    coco.add_argument("--images", type=Path, required=True, metavar="DIR", help="their folder")
    coco.add_argument("--masks", type=Path, metavar="DIR", help="panoptic PNGs (default: FILE)")
    _finish(coco, _coco, "coco")
    labelme = commands.add_parser(
        "labelme",
        help="write a folder from labelme's JSON files",
        description="Write the image of each JSON of a folder with its shapes drawn as a label.",
    )
    labelme.add_argument("folder", type=Path, metavar="FOLDER", help="of JSON files")
    add_classes(labelme, "in this order (default: the labels that there are, sorted)")
    labelme.add_argument(
        "--background", default="", metavar="NAME", help="class of what no shape covers"
    )
    _finish(labelme, _labelme, "labelme")
    table = commands.add_parser(
        "csv",
        help="write a folder from a CSV of paths",
        description="Copy the files that a CSV names: image, and any of depth, label, split "
        "(train, validation, test), scene, fold and stem. Paths are relative to the CSV.",
    )
    table.add_argument("file", type=Path, metavar="FILE.csv")
    add_classes(table, "which label values are")
    table.add_argument(
        "--depth-code",
        choices=("plain", "sunrgbd"),
        default="plain",
        help="sunrgbd: depth is turned by three bits, as SUN RGB-D stores it (default: plain)",
    )
    _finish(table, _csv, "brought")


def add_classes(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the flag that names classes."""
    told = f"class names, or a text file with one a line, {what}"
    parser.add_argument("--classes", type=_names, default=[], metavar="A,B,...", help=told)


def _names(text: str) -> list[str]:
    """Class names, of a file or as they stand there."""
    path = Path(text)
    words = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    names = [word.strip() for word in words if word.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError("two names at least, no two alike")
    return names


def _finish(parser: argparse.ArgumentParser, opener: Open, name: str) -> None:
    """What all forms take."""
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", default=Path("data") / name, help="folder to create")
    parser.set_defaults(run=_write, opener=opener)


def _write(options: argparse.Namespace) -> None:
    from engine.bring.folder import DATASET, write_folder
    from engine.runtime.progress import track_total

    source, out = options.opener(options), options.out
    with track_total("writing frames") as progress:
        written = write_folder(source, out, workers=os.cpu_count() or 1, progress=progress)
    if written is None:
        print(f"{out} is complete; nothing to do")
        return
    frames = source.frames
    counts = ", ".join(
        f"{sum(frame.split == split for frame in frames)} {split}" for split in ("train", "test")
    )
    scenes = len({frame.scene for frame in frames} - {""})
    shown = f"{counts} frames" + (f", {scenes} scenes" if scenes else "")
    print(f"{out}: {shown}, {written.size / 1e6:.1f} MB")
    if written.kept or written.spoilt:
        spoilt = f", {written.spoilt} were damaged and made again" if written.spoilt else ""
        print(f"{written.kept} frames of an earlier call were whole and kept{spoilt}")
    for note in source.notes():
        print(note)
    known = f"{out / DATASET} " if (out / DATASET).is_file() else ""
    print(f"to train: roomsmith train CONFIG {known}--data.root {out}")


def _nyuv2(options: argparse.Namespace) -> "Source":
    from engine.bring.nyuv2_file import Nyuv2File

    return Nyuv2File(options.file, options.classes, options.depth, options.splits, options.mapping)


def _cityscapes(options: argparse.Namespace) -> "Source":
    from engine.bring.cityscapes import Cityscapes

    return Cityscapes(options.root, options.classes)


def _coco(options: argparse.Namespace) -> "Source":
    from engine.bring.coco import Coco

    return Coco(options.file, options.images, options.masks)


def _labelme(options: argparse.Namespace) -> "Source":
    from engine.bring.labelme import Labelme

    return Labelme(options.folder, options.classes, options.background)


def _csv(options: argparse.Namespace) -> "Source":
    from engine.bring.paths_table import PathsTable

    return PathsTable(options.file, options.classes, options.depth_code)
