"""Whether training and inference see frames in different zooms."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from engine.config import Config
from engine.rundir import Record


class ZoomGap(Record):
    """Frames whose view of scale 1 is of another size than they are trained at."""

    frames: int
    """how many, of all training frames"""
    frame_hw: tuple[int, int]
    """the commonest size of theirs, pixels"""
    training_hw: tuple[int, int]
    """what training brings it to, before any random scale"""
    view_hw: tuple[int, int]
    """its view of scale 1"""

    def told(self) -> str:
        """The gap in one line."""
        sizes = self.frame_hw, self.training_hw, self.view_hw
        frame, training, view = ("{} x {}".format(*hw) for hw in sizes)
        return (
            f"zooms differ for {self.frames} training frames: {frame} is {training} in training, "
            f'{view} in views of scale 1; inference.base_hw = "training" makes them one'
        )


def zoom_gap(config: Config, sizes_hw: Iterable[Sequence[int]]) -> ZoomGap | None:
    """What differs between training and inference for frames of these sizes.

    None if no side is a whole stride of the encoder apart: rounding explains less.
    """
    # Not to show a finished run: they load PyTorch.
    from engine.data.inputs import training_hw
    from engine.model.encoder import STRIDES
    from engine.views.zoom import base_hw, view_hw

    gaps = []
    for hw, frames in Counter((hw[0], hw[1]) for hw in sizes_hw).most_common():
        ((height, width),) = training_hw(config.data, np.array([hw])).tolist()
        view = view_hw(base_hw(config.data, config.inference, hw), 1.0)
        if max(abs(view[0] - height), abs(view[1] - width)) >= STRIDES[-1]:
            gaps.append((frames, hw, (round(height), round(width)), view))
    if not gaps:
        return None
    _, hw, trained, view = gaps[0]
    frames = sum(gap[0] for gap in gaps)
    return ZoomGap(frames=frames, frame_hw=hw, training_hw=trained, view_hw=view)
