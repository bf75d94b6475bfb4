"""A network that timm knows once this is imported: small enough to commit its trained weights."""

from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from timm.models.efficientnet import test_efficientnet as efficientnet

default_cfgs = generate_default_cfgs(
    {"test_efficientnet_quarter.untrained": {"mean": (0.5,) * 3, "std": (0.5,) * 3}}
)


@register_model
def test_efficientnet_quarter(pretrained: bool, **options: Any) -> torch.nn.Module:
    """The `test_efficientnet` of timm at a quarter of its width."""
    network: torch.nn.Module = efficientnet(pretrained, channel_multiplier=0.25, **options)
    return network
