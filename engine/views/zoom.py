"""How large views of a frame are, by the zoom that training gives it or by another."""

import math

import numpy as np

from engine.config import DataConfig, InferenceConfig
from engine.data.inputs import training_hw
from engine.model.encoder import STRIDES


def base_hw(data: DataConfig, inference: InferenceConfig, hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width that the views of a frame of `hw` are scaled from and averaged at.

    For `inference.base_hw = "training"` they are those of `training_hw`, each to the nearest
    multiple of the encoder's last stride, the smaller of two, so that the view of scale 1 is as
    near to what was trained on as a view can be.
    """
    if inference.base_hw == "own":
        return hw
    if inference.base_hw != "training":
        return inference.base_hw
    stride, ((height, width),) = STRIDES[-1], training_hw(data, np.array([hw])).tolist()
    rows, columns = (max(math.ceil(side / stride - 0.5), 1) for side in (height, width))
    return rows * stride, columns * stride


def view_hw(hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """A view of base size `hw`: floor(side * scale / 32) * 32, at least 32, the last stride."""
    stride = STRIDES[-1]
    height, width = (max(int(side * scale + 1e-6) // stride, 1) * stride for side in hw)
    return height, width
