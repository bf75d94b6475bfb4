"""The training loss: boundary-weighted cross-entropy plus auxiliary depth L1.

Axes: B batch, P parts of a batch, C class, H W pixels, h w stride-4 cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import TrainingConfig
from engine.data.sources import Batch
from engine.model.network import Network, Prediction
from engine.nyuv2 import DEPTH_MAX_M, DEPTH_MIN_M
from engine.runtime.device import Operations
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
"""Shares of a batch that is not cut."""


@dataclass(frozen=True, eq=False)
class TrainingLoss:
    """Segmentation loss + `depth_weight` x depth L1; no host synchronisation.

    Attributes:
        config: weights of the loss's parts.
        class_weight_C: as `class_weights` gives them.
        operations: fused or reference.
    """

    config: TrainingConfig
    class_weight_C: Tensor
    operations: Operations

    def __call__(self, prediction: Prediction, batch: Batch, shares: Shares = WHOLE) -> Losses:
        """The losses of a batch, or of a part of one that counts by `shares` in the batch's."""
        segmentation = self.operations.boundary_ce(
            prediction.logits_BChw,
            batch.label_BHW,
            self.class_weight_C,
            self.config.boundary_weight,
            align_corners=Network.align_corners,
            ignored_edges=self.config.ignored_edges,
        )
        segmentation = segmentation * shares.segmentation
        depth = depth_l1(prediction.depth_Bhw, batch.depth_BHW) * shares.depth
        return Losses(segmentation + self.config.depth_weight * depth, segmentation, depth)

    def shares(self, parts: Sequence[Batch]) -> list[Shares]:
        """How much each part of a batch counts, so that their losses add up to the batch's.

        Both losses are means over what is counted, labelled pixels by weight and pixels of known
        depth; a part's mean counts by its own sum of weights. No host synchronisation.
        """
        if len(parts) == 1:
            return [WHOLE]
        edges = self.config.boundary_weight, self.config.ignored_edges
        # In float64 the sums of millions of weights are exact.
        labelled_P = torch.stack(
            [pixel_weights(part.label_BHW, *edges, torch.float64).sum() for part in parts]
        )
        known_P = torch.stack([(part.depth_BHW > 0).sum(dtype=torch.float64) for part in parts])
        # What each mean divides by: as `boundary_ce` and `depth_l1` do, so nothing counted is 0.
        segmentation_P = (labelled_P + EPSILON) / (labelled_P.sum() + EPSILON)
        depth_P = known_P.clamp(min=1.0) / known_P.sum().clamp(min=1.0)
        return [
            Shares(segmentation.float(), depth.float())
            for segmentation, depth in zip(segmentation_P, depth_P, strict=True)
        ]


def class_weights(config: TrainingConfig, classes: Sequence[str], device: torch.device) -> Tensor:
    """(C,) float32 loss weights in class order, 1 where the config names none."""
    weights = [config.class_weights.get(name, 1.0) for name in classes]
    return torch.tensor(weights, dtype=torch.float32, device=device)


def depth_l1(depth_Bhw: Tensor, depth_m_BHW: Tensor) -> Tensor:
    """Mean |upsampled prediction - (d - 0.71) / 9.29| over pixels whose depth is known.

    Args:
        depth_Bhw: (B, h, w) normalised depth that the head predicts; upsampled as the logits are.
        depth_m_BHW: (B, H, W) float32 metres, 0 = missing.

    Returns:
        Scalar float32; 0, with gradient 0, if no depth is known.
    """
    predicted_BHW = F.interpolate(
        depth_Bhw[:, None].to(torch.float32),
        size=depth_m_BHW.shape[1:],
        mode="bilinear",
        align_corners=Network.align_corners,
    )[:, 0]
    known_BHW = (depth_m_BHW > 0).to(torch.float32)
    clipped_BHW = depth_m_BHW.clamp(DEPTH_MIN_M, DEPTH_MAX_M)
    target_BHW = (clipped_BHW - DEPTH_MIN_M) / (DEPTH_MAX_M - DEPTH_MIN_M)
    error = ((predicted_BHW - target_BHW).abs() * known_BHW).sum()
    return error / known_BHW.sum().clamp(min=1.0)
