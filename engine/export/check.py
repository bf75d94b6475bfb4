"""Whether a form of a graph gives the engine's masks.

Axes: H W pixels of a frame.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from engine.data.arrays import array_frame, frame_batch
from engine.export.form import Frames
from engine.export.records import Agreement
from engine.export.sizes import Size
from engine.frames.decode import Frame, Sample, read_frame
from engine.frames.reading import AS_STORED
from engine.views.masks import System

LEAST = 0.9995
"""Share of pixels whose class has to be the engine's; what is left is ties, by rounding."""

CHECKED = 6
"""Training frames that are looked at, spread evenly."""

_PARTS = ((1.0, 1.0), (0.79, 0.64))
"""Of a frame's height and width: frames of other sizes and shapes are parts of it."""


class Asked(NamedTuple):
    """A frame, and the engine's mask of it."""

    frame: tuple[NDArray[Any], ...]
    """What a form is called with."""
    mask_HW: NDArray[np.uint8]


def asked_frames(
    system: System, samples: Sequence[Sample], hw: Size | None, *, depth: bool
) -> list[Asked]:
    """Some training frames at their own size and cut, or all of `hw`, and what the engine sees.

    Args:
        system: the engine's, of the same runs and views as the graph.
        samples: to choose from.
        hw: the one size of frames that the graph takes.
        depth: whether it takes depth.
    """
    places = np.linspace(0, len(samples) - 1, min(CHECKED, len(samples))).round().astype(int)
    asked = []
    for sample in (samples[place] for place in places):
        whole = read_frame(sample)
        for frame in cuts(whole, hw):
            given: tuple[NDArray[Any], ...] = (frame.image_HW3,)
            if depth:
                assert frame.depth_HW is not None, "checked when it was listed"
                given = (frame.image_HW3, frame.depth_HW)
            asked.append(Asked(given, engine_mask(system, given)))
    return asked


def cuts(frame: Frame, hw: Size | None) -> Iterator[Frame]:
    """A frame and a part of it; for frames of one size a part of that, mirrored beyond the rim."""
    height, width = frame.image_HW3.shape[:2]
    sizes = [hw] if hw else [(max(int(height * y), 2), max(int(width * x), 2)) for y, x in _PARTS]
    for rows, columns in sizes:
        beyond = (0, max(rows - height, 0)), (0, max(columns - width, 0))
        image = np.pad(frame.image_HW3, (*beyond, (0, 0)), "symmetric")[:rows, :columns]
        depth = frame.depth_HW
        if depth is not None:
            depth = np.ascontiguousarray(np.pad(depth, beyond, "symmetric")[:rows, :columns])
        yield Frame(np.ascontiguousarray(image), depth, None)


def engine_mask(system: System, frame: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """(H, W) classes of a frame as the engine has them."""
    image_HW3, *depth = frame
    # What is missing is 0 already, and the networks know what a unit is.
    held = array_frame(image_HW3, depth[0] if depth else None, AS_STORED, need_depth=bool(depth))
    with torch.inference_mode():
        batch = frame_batch([held], system.policy.device)
        argmax = system.policy.operations.resized_argmax
        mask_1HW = torch.cat([argmax(*rows) for rows in system.rows(batch)], dim=1)
    mask_HW: NDArray[np.uint8] = mask_1HW[0].cpu().numpy()
    return mask_HW


def agreement(run: Frames, asked: Sequence[Asked]) -> Agreement:
    """How many pixels of frames have the class that the engine gives them."""
    equal, pixels = 0, 0
    for frame, mask_HW in asked:
        found_HW, _ = run(*frame)
        if found_HW.shape == mask_HW.shape:
            equal += int((found_HW == mask_HW).sum())
        pixels += mask_HW.size
    sizes = sorted({each.mask_HW.shape[:2] for each in asked})
    return Agreement(
        frames=len(asked), sizes=[(h, w) for h, w in sizes], pixels=pixels, equal=equal
    )
