"""The losses of the recipe, on predictions at the labels' own resolution.

Axes: B batch, C class, H W pixels.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import Config
from engine.nyuv2 import DEPTH_MAX_M, DEPTH_MIN_M, IGNORE_INDEX


class RecipeLoss:
    """Segmentation loss plus weighted depth L1, as the config asks."""

    def __init__(self, config: Config, device: str) -> None:
        training = config.training
        weights = [training.class_weights.get(name, 1.0) for name in config.data.classes]
        self.depth_weight = training.depth_weight
        if not training.class_weights and training.boundary_weight == 1:
            self.segmentation = partial(F.cross_entropy, ignore_index=IGNORE_INDEX)
        else:
            self.segmentation = partial(
                boundary_cross_entropy,
                weight_C=torch.tensor(weights, device=device),
                boundary_weight=training.boundary_weight,
                ignored_edges=training.ignored_edges,
            )

    def __call__(
        self, logits_BCHW: Tensor, depth_BHW: Tensor, label_BHW: Tensor, depth_m_BHW: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Total, segmentation and depth loss.

        Args:
            logits_BCHW: (B, C, H, W) upsampled logits.
            depth_BHW: (B, H, W) upsampled normalised depth.
            label_BHW: (B, H, W) int64, 255 = ignore.
            depth_m_BHW: (B, H, W) metres, 0 = missing.
        """
        segmentation = self.segmentation(logits_BCHW, label_BHW)
        depth = depth_l1(depth_BHW, depth_m_BHW)
        return segmentation + self.depth_weight * depth, segmentation, depth


def boundary_cross_entropy(
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    weight_C: Tensor,
    boundary_weight: float,
    *,
    ignored_edges: bool = False,
) -> Tensor:
    """Cross-entropy whose pixels beside another label count `boundary_weight` times.

    Every step stores a full-resolution tensor, as a training script does.
    """
    loss_BHW = F.cross_entropy(
        logits_BCHW, label_BHW, weight=weight_C, ignore_index=IGNORE_INDEX, reduction="none"
    )
    valid_BHW = label_BHW != IGNORE_INDEX
    value_B1HW = label_BHW[:, None].float()
    # An ignored neighbour is class 0, or no neighbour at all.
    for_highest, for_lowest = (0.0, 0.0) if ignored_edges else (-1.0, 1000.0)
    ignored_B1HW = ~valid_BHW[:, None]
    highest = F.max_pool2d(value_B1HW.masked_fill(ignored_B1HW, for_highest), 3, 1, 1)
    lowest = -F.max_pool2d(-value_B1HW.masked_fill(ignored_B1HW, for_lowest), 3, 1, 1)
    edge_BHW = (highest != lowest)[:, 0]
    weight_BHW = torch.where(edge_BHW, boundary_weight, 1.0) * valid_BHW
    return (loss_BHW * weight_BHW).sum() / (weight_BHW.sum() + 1e-6)


def depth_l1(depth_BHW: Tensor, depth_m_BHW: Tensor) -> Tensor:
    """Mean absolute error over pixels whose depth is known; 0 if none is."""
    nearer_m_BHW = depth_m_BHW.clamp(DEPTH_MIN_M, DEPTH_MAX_M) - DEPTH_MIN_M
    target_BHW = nearer_m_BHW / (DEPTH_MAX_M - DEPTH_MIN_M)
    known_BHW = (depth_m_BHW > 0).float()
    error_BHW = F.l1_loss(depth_BHW.float(), target_BHW, reduction="none") * known_BHW
    return error_BHW.sum() / known_BHW.sum().clamp(min=1)
