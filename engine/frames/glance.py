"""What a dataset folder holds, by a glance at a few of its files: before PyTorch is loaded."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from engine.frames.decode import FrameFiles
from engine.frames.images import BROKEN
from engine.labels import likely_table
from engine.nyuv2 import CLASSES, IGNORE_INDEX
from kernels.png import PngHeader

FEW, MORE = 4, 100
"""Labels that are looked at, and where those hold what is no class: a few ms each."""


def foreign_labels(root: Path, train: Sequence[FrameFiles], classes: Sequence[str]) -> str:
    """What to type where labels hold values that are no classes; empty where a few hold none.

    A guess by some of the files, read as they are; a check reads all.
    """
    sound = _sound(classes)
    if set().union(*label_values(train, FEW).values()) <= sound:
        return ""
    seen = label_values(train, MORE)
    found = set[int]().union(*seen.values())
    shown = ", ".join(map(str, sorted(found)[:12])) + (", ..." if len(found) > 12 else "")
    told = f"{root}: {len(seen)} of {len(train)} labels hold {shown} for {len(classes)} classes"
    told += " (NYU Depth v2's)" if tuple(classes) == CLASSES else ""
    strange = next(path for path, values in seen.items() if not values <= sound)
    told += f", {min(seen[strange] - sound)} in {strange.name}"
    # As a flag, which can be pasted into a shell.
    typed = re.sub(
        r"(data\.\w+) = (\{.*?\}|\[.*?\])", r"--\1 '\2'", likely_table(found, classes), count=1
    )
    return f"{told}; if they are sound, type {typed}"


def label_values(train: Sequence[FrameFiles], most: int) -> dict[Path, set[int]]:
    """Values in each of at most so many labels, spread evenly over the frames.

    Only PNGs of 8 or 16 bits, grey or indexed, are looked at: what others hold, a check tells.
    """
    labels = [files.label for files in train if files.label is not None]
    chosen = [labels[n * len(labels) // most] for n in range(most)] if labels[most:] else labels
    seen: dict[Path, set[int]] = {}
    for path in chosen:
        try:
            content = path.read_bytes()
            header = PngHeader.of(content)
            if header is None or header.bits < 8 or header.colour not in (0, 3):
                continue
            with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
                seen[path] = set(np.unique(np.asarray(opened)).tolist())
        except BROKEN:
            continue
    return seen


def image_hw(train: Sequence[FrameFiles]) -> tuple[int, int] | None:
    """Height and width of the first image that says them, as stored."""
    for files in train[:FEW]:
        if files.image is not None:
            try:
                with Image.open(io.BytesIO(files.image.read_bytes())) as opened:
                    return opened.height, opened.width
            except BROKEN:
                continue
    return None


def _sound(classes: Sequence[str]) -> set[int]:
    return {*range(len(classes)), IGNORE_INDEX}
