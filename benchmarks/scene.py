"""Inputs that look like rooms: large regions, thin borders, unlabelled patches."""

import torch
from torch import Tensor

IGNORE_INDEX = 255


def blocky_labels(shape_BHW: tuple[int, int, int], classes: int, seed: int = 0) -> Tensor:
    """(B, H, W) uint8 labels in rectangles of 24 x 32 pixels, a tenth of them unlabelled.

    NYU Depth v2 has about as many label edges: a tenth of the pixels lie beside one.
    """
    batch, height, width = shape_BHW
    generator = torch.Generator().manual_seed(seed)
    rows, columns = -(-height // 24), -(-width // 32)
    coarse = torch.randint(classes, (batch, rows, columns), generator=generator)
    coarse[torch.rand(coarse.shape, generator=generator) < 0.1] = IGNORE_INDEX
    label = coarse.repeat_interleave(24, dim=1).repeat_interleave(32, dim=2)
    return label[:, :height, :width].to(torch.uint8).contiguous()


def smooth_probabilities(shape_BChw: tuple[int, int, int, int], seed: int = 0) -> Tensor:
    """(B, C, h, w) float32 softmax of smooth random logits: few classes compete at a pixel."""
    batch, classes, height, width = shape_BChw
    generator = torch.Generator().manual_seed(seed)
    coarse = 4 * torch.randn(batch, classes, height // 16, width // 16, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return torch.softmax(logits, dim=1)
