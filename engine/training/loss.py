"""The training loss: boundary-weighted cross-entropy plus auxiliary depth L1.

Axes: B batch, C class, H W pixels, h w stride-4 cells.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import Config
from engine.data.batch import Batch
from engine.model.network import Prediction
from engine.nyuv2 import DEPTH_MAX_M, DEPTH_MIN_M
from engine.operations import Operations


class Losses(NamedTuple):
    """Scalars on the device; `total` carries the gradient."""

    total: Tensor
    segmentation: Tensor
    depth: Tensor


def class_weights(config: Config, device: torch.device) -> Tensor:
    """(C,) float32 loss weights in class order, 1 where the config names none."""
    weights = [config.training.class_weights.get(name, 1.0) for name in config.data.classes]
    return torch.tensor(weights, dtype=torch.float32, device=device)


def training_loss(
    prediction: Prediction,
    batch: Batch,
    config: Config,
    class_weight_C: Tensor,
    align_corners: bool,
    operations: Operations,
) -> Losses:
    """Segmentation loss + `training.depth_weight` x depth L1; no host synchronisation."""
    segmentation = operations.boundary_ce(
        prediction.logits_BChw,
        batch.label_BHW,
        class_weight_C,
        config.training.boundary_weight,
        align_corners=align_corners,
        ignored_edges=config.training.ignored_edges,
    )
    depth = depth_l1(prediction.depth_Bhw, batch.depth_BHW, align_corners)
    return Losses(segmentation + config.training.depth_weight * depth, segmentation, depth)


def depth_l1(depth_Bhw: Tensor, depth_m_BHW: Tensor, align_corners: bool) -> Tensor:
    """Mean |upsampled prediction - (d - 0.71) / 9.29| over pixels whose depth is known.

    Args:
        depth_Bhw: (B, h, w) normalised depth that the head predicts.
        depth_m_BHW: (B, H, W) float32 metres, 0 = missing.
        align_corners: how the prediction is upsampled, as the logits are.

    Returns:
        Scalar float32; 0, with gradient 0, if no depth is known.
    """
    predicted_BHW = F.interpolate(
        depth_Bhw[:, None].to(torch.float32),
        size=depth_m_BHW.shape[1:],
        mode="bilinear",
        align_corners=align_corners,
    )[:, 0]
    known_BHW = (depth_m_BHW > 0).to(torch.float32)
    clipped_BHW = depth_m_BHW.clamp(DEPTH_MIN_M, DEPTH_MAX_M)
    target_BHW = (clipped_BHW - DEPTH_MIN_M) / (DEPTH_MAX_M - DEPTH_MIN_M)
    error = ((predicted_BHW - target_BHW).abs() * known_BHW).sum()
    return error / known_BHW.sum().clamp(min=1.0)
