"""Encoders made otherwise than timm has them: dilated, or with stochastic depth."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
import torch

from engine.model.refusals import INSTEAD, Create


def dilated(name: str, create: Create, strides: Sequence[int]) -> Create:
    """What `create` creates, with features at `strides`, the last of which is the output stride.

    At 16, as DeepLabV3+ reads it, the last stage keeps the size of the stage before it, and its
    convolutions are dilated instead; the weights have the same shapes.

    Raises:
        ValueError: the encoder `name` cannot trade stride for dilation.
    """
    create = partial(create, output_stride=strides[-1])
    try:
        with torch.device("meta"):
            found = create().feature_info.reduction()
        why = f"its features have strides {found}"
    # timm has no one way to say it: an unexpected argument, or an assertion on its value.
    except (TypeError, AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
        found, why = [], str(error) or type(error).__name__
    if found != list(strides):
        raise ValueError(
            f"encoder {name!r} cannot be dilated to stride {strides[-1]} in timm "
            f"{timm.__version__} ({why}); choose model.decoder = 'fpn', or another encoder, "
            f"{INSTEAD}"
        )
    return create


def with_drop_path(name: str, create: Create, rate: float) -> Create:
    """What `create` creates, its blocks left out at random in training, the deepest at `rate`.

    A ValueError tells, when it is created, that the encoder `name` has no stochastic depth.
    """

    def created(in_chans: int) -> Any:
        try:
            return create(in_chans=in_chans, drop_path_rate=rate)
        except TypeError as error:
            if "drop_path_rate" not in str(error):
                raise
            raise ValueError(
                f"encoder {name!r} has no stochastic depth; set model.drop_path to 0"
            ) from error

    return created
