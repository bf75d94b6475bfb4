"""The training loss: boundary-weighted cross-entropy plus auxiliary depth L1.

Axes: B batch, P parts of a batch, C class, H W pixels, h w stride-4 cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import Config
from engine.data.batch import Batch
from engine.model.network import Prediction
from engine.nyuv2 import DEPTH_MAX_M, DEPTH_MIN_M
from engine.runtime.operations import Operations
from kernels.boundary_ce.reference import EPSILON, pixel_weights


class Losses(NamedTuple):
    """Scalars on the device; `total` carries the gradient."""

    total: Tensor
    segmentation: Tensor
    depth: Tensor


class Shares(NamedTuple):
    """What a part of a batch counts in the batch's losses: scalars that sum to 1 over the parts."""

    segmentation: Tensor | float = 1.0
    depth: Tensor | float = 1.0


WHOLE = Shares()
"""A batch that is not cut."""


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
    shares: Shares = WHOLE,
) -> Losses:
    """Segmentation loss + `training.depth_weight` x depth L1; no host synchronisation.

    Args:
        prediction: of the network for `batch`.
        batch: a whole batch, or a part of one.
        config: of the experiment.
        class_weight_C: as `class_weights` gives them.
        align_corners: how logits and depth are upsampled.
        operations: fused or reference.
        shares: factors of the two losses; those of a part add up to the batch's.
    """
    segmentation = operations.boundary_ce(
        prediction.logits_BChw,
        batch.label_BHW,
        class_weight_C,
        config.training.boundary_weight,
        align_corners=align_corners,
        ignored_edges=config.training.ignored_edges,
    )
    segmentation = segmentation * shares.segmentation
    depth = depth_l1(prediction.depth_Bhw, batch.depth_BHW, align_corners) * shares.depth
    return Losses(segmentation + config.training.depth_weight * depth, segmentation, depth)


def part_shares(parts: Sequence[Batch], config: Config) -> list[Shares]:
    """How much each part of a batch counts, so that their losses add up to the batch's.

    Both losses are means over what is counted, labelled pixels by weight and pixels of known
    depth; a part's mean counts by its own sum of weights. No host synchronisation.
    """
    boundary, ignored = config.training.boundary_weight, config.training.ignored_edges
    # In float64 the sums of millions of weights are exact.
    labelled_P = torch.stack(
        [pixel_weights(part.label_BHW, boundary, ignored, torch.float64).sum() for part in parts]
    )
    known_P = torch.stack([(part.depth_BHW > 0).sum(dtype=torch.float64) for part in parts])
    # What each mean divides by: as `boundary_ce` and `depth_l1` do, so that nothing counted is 0.
    segmentation_P = (labelled_P + EPSILON) / (labelled_P.sum() + EPSILON)
    depth_P = known_P.clamp(min=1.0) / known_P.sum().clamp(min=1.0)
    return [
        Shares(segmentation.float(), depth.float())
        for segmentation, depth in zip(segmentation_P, depth_P, strict=True)
    ]


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
