"""The embedded dataset: procedural rooms, rendered to a folder like any other dataset's.

It stands in for recorded data where there is none: all 13 classes, depth with holes, unlabelled
borders and clutter, neighbouring frames that look alike, and scenes to split by.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.full_disk import refuse_full
from engine.lease import Place, attempt_folder, clear, hold
from engine.rooms.layout import build_scene
from engine.rooms.render import render

Progress = Callable[[int, int], None]
"""Called with the number of frames rendered and of those to render."""

_VERSION = 1
"""Number of the rendering, raised whenever the same parameters give other pixels."""

_MARK = "rooms.json"
"""Name of the file that says which rooms a folder holds; it is written last."""

_SCENES_PER_TEST_SCENE = 6
"""Scenes in all for each that is a test scene: about the share that real data sets keep."""


def render_rooms(
    root: Path,
    *,
    scenes: int = 48,
    frames: int = 13,
    hw: tuple[int, int] = (120, 160),
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Render a dataset into `root`; does nothing where the same one is there already.

    The last sixth of the scenes becomes `test`, without labels. Stems are numbered through with a
    gap between scenes. The folder appears complete or not at all; of several processes one renders.
    The bytes depend on the arguments only (and on the releases of NumPy and Pillow).

    Args:
        root: folder to create; its parents are created too.
        scenes: number of rooms, at least 1.
        frames: number of views of each room, at least 1.
        hw: height and width of a frame, pixels, at least 16.
        seed: another seed gives other rooms.
        progress: called after each frame.

    Raises:
        ValueError: an argument is out of range, or `root` holds something else; nothing is written.
    """
    if min(scenes, frames) < 1 or min(hw) < 16 or seed < 0:
        raise ValueError(
            "rooms need at least 1 scene of 1 frame of 16 x 16 pixels and a seed of 0 or more, got "
            f"{scenes} scenes of {frames} frames of {hw[0]} x {hw[1]} pixels and seed {seed}"
        )
    rooms = {"version": _VERSION, "scenes": scenes, "frames": frames, "hw": hw, "seed": seed}
    mark, place = json.dumps(rooms), Place(root.parent, root.name, str(root), (root,))
    if _is_there(root, mark):
        clear(place)
        return
    with hold(place, wait=True):
        if _is_there(root, mark):
            return
        # By its suffix nobody goes on from it: it is begun anew.
        whole = attempt_folder(root) / "rooms.tmp"
        try:
            _write(whole, scenes, frames, hw, seed, progress)
        except OSError as error:
            refuse_full(error, attempt_folder(root) / "probe.tmp", root)
            raise
        (whole / _MARK).write_text(mark + "\n", encoding="utf-8")
        try:
            whole.rename(root)
        except OSError:
            # Somebody put it there meanwhile; it is as good if it is the same.
            if not _is_there(root, mark):
                raise


def _is_there(root: Path, mark: str) -> bool:
    """Tell whether `root` holds these rooms; anything else that it holds is an error."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    there = root / _MARK
    if not there.is_file():
        raise ValueError(f"{root} exists and holds no rendered rooms; name a new folder")
    found = there.read_text(encoding="utf-8").strip()
    if found != mark:
        raise ValueError(
            f"{root} holds other rooms ({found}; needed {mark}); move it away or name a new folder"
        )
    return True


def _write(
    root: Path, scenes: int, frames: int, hw: tuple[int, int], seed: int, progress: Progress | None
) -> None:
    first_test = scenes - scenes // _SCENES_PER_TEST_SCENE
    rows = ["stem,scene\n"]
    for number in range(scenes):
        split = root / ("train" if number < first_test else "test")
        kinds = ("image", "depth", "label") if number < first_test else ("image", "depth")
        for kind in kinds:
            (split / kind).mkdir(parents=True, exist_ok=True)
        random = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
        scene = build_scene(random, number, frames)
        for frame, camera in enumerate(scene.cameras):
            stem = f"{number * (frames + 1) + frame:06d}"
            rows.append(f"{stem},room{number:03d}\n")
            views: tuple[NDArray[Any], ...] = render(scene, camera, hw, random)
            for kind, pixels in zip(kinds, views, strict=False):
                # Sensor noise hardly compresses; level 1 takes half the time for 10 % more bytes.
                Image.fromarray(pixels).save(split / kind / f"{stem}.png", compress_level=1)
            if progress is not None:
                progress(number * frames + frame + 1, scenes * frames)
    (root / "scenes.csv").write_text("".join(rows), encoding="utf-8")
