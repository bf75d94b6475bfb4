"""Write docs/predicted.webp from a run of the demo: `python -m tools.predicted_picture RUN`.

Image, truth and prediction of four frames, each by the fold that did not train on it: of all
labelled frames those whose mIoU is nearest the median, one of a scene. Rendered rooms only, which
are the project's own.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import roomsmith
from engine.config import ROOMS, data_root
from engine.data.folds import FoldsFile
from engine.report.atlas_report import Atlas
from engine.rundir import RunDir
from engine.views.pictures import class_colours
from kernels.metrics import mean_iou

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "predicted.webp"

FRAMES = 4

_LARGER = 2
_GAP = 6
"""Pixels between pictures."""
_UNLABELLED = (40, 40, 40)


def typical_frames(run: RunDir) -> list[tuple[str, int]]:
    """Stem and fold of the frames nearest the median mIoU, one of a scene, in their order."""
    folds, atlas = FoldsFile.read(run.folds), Atlas.read(run.atlas)
    counts_NCC = np.load(run.frame_counts, allow_pickle=False)
    score_N = np.array([mean_iou(count_CC) for count_CC in counts_NCC])
    nearest = np.argsort(np.abs(score_N - np.nanmedian(score_N)), kind="stable")
    group_of, chosen = atlas.groups.of, list[int]()
    for frame in nearest.tolist():
        if group_of[frame] not in {group_of[other] for other in chosen}:
            chosen.append(frame)
    found = list(folds.fold_of.items())
    return [found[frame] for frame in sorted(chosen[:FRAMES])]


def picture(root: Path) -> Image.Image:
    """The picture of a run in a folder; ValueError if it is of other frames than rendered rooms."""
    run, opened = RunDir(root), roomsmith.Run.open(root)
    if opened.config.data.root != ROOMS:
        needed = "name a run of the demo, whose frames are the project's own"
        raise ValueError(f"{root} is of {opened.config.data.root}; {needed}")
    train = data_root(opened.config) / "train"
    columns = []
    for stem, fold in typical_frames(run):
        image, depth, label = (
            np.array(Image.open(next((train / kind).glob(f"{stem}.*"))))
            for kind in ("image", "depth", "label")
        )
        found = opened.predictor(fold).predict(image, depth.astype(np.uint16))
        columns.append([image, _coloured(label), _coloured(found.mask)])
    return _sheet(columns, opened.config.data.classes)


def _coloured(mask_HW: NDArray[Any]) -> NDArray[np.uint8]:
    colours_C3 = class_colours()
    colours_C3[255] = _UNLABELLED
    coloured_HW3: NDArray[np.uint8] = colours_C3[mask_HW]
    return coloured_HW3


def _sheet(columns: list[list[NDArray[np.uint8]]], classes: tuple[str, ...]) -> Image.Image:
    """Pictures of a frame below each other, frames side by side, the classes' colours below all."""
    height, width = (side * _LARGER for side in columns[0][0].shape[:2])
    lines = 2
    size = (
        len(columns) * (width + _GAP) - _GAP,
        len(columns[0]) * (height + _GAP) + lines * 26,
    )
    sheet = Image.new("RGB", size, "white")
    for x, column in enumerate(columns):
        for y, pixels in enumerate(column):
            larger = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(larger, (x * (width + _GAP), y * (height + _GAP)))
    draw, step = ImageDraw.Draw(sheet), size[0] // -(-len(classes) // lines)
    below = len(columns[0]) * (height + _GAP)
    for index, name in enumerate(classes):
        x, y = index // lines * step, below + index % lines * 26
        colour = tuple(class_colours()[index].tolist())
        draw.rectangle((x, y + 4, x + 18, y + 22), fill=colour, outline="black")
        draw.text((x + 26, y + 13), name, fill="black", anchor="lm", font_size=16)
    return sheet


def main() -> None:
    """Write the picture of the run that the first word names."""
    picture(Path(sys.argv[1])).save(PICTURE, "WEBP", lossless=True, method=6)


if __name__ == "__main__":
    main()
