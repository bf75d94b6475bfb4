"""Encoders whose last stages are dilated instead of strided, as DeepLabV3+ reads them."""

from collections.abc import Sequence
from functools import partial

import timm
import torch

from engine.model.refusals import INSTEAD, Create


def dilated(name: str, create: Create, strides: Sequence[int]) -> Create:
    """What `create` creates, with features at `strides`, the last of which is the output stride.

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
