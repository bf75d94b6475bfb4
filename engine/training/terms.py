"""Loss terms on the stride-4 logits, added to the cross-entropy where a config gives them weight.

Labels come to the cells by nearest pixel; unlabelled cells count nowhere. Sums are over the cells
of what passes the network together: over a part's, where batches pass in parts (`accumulate`,
`parts`), and each part's term counts by the part's share in the cross-entropy.

Axes: B batch, C class, H W pixels, h w cells of stride 4, y x cells of stride 8, N cells of the
batch, K bins of errors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import TrainingConfig
from engine.data.batch import Batch
from engine.model.network import Prediction, Supervised
from kernels.boundary_ce.reference import IGNORE_INDEX

BINS = 1 << 12
"""Of errors, in `lovasz_softmax`: its value is as far from the exact one as a bin is wide, at most.
"""


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of a config, each times its weight, added up: a loss term as users write theirs."""

    config: TrainingConfig

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """() float32; 0, and no gradient, where no cell has a label."""
        logits_BChw, config = prediction.logits_BChw.to(torch.float32), self.config
        label_N = cell_labels(batch.label_BHW, logits_BChw.shape[-2:]).flatten()
        logits_CN = logits_BChw.transpose(0, 1).flatten(1)
        log_CN = torch.log_softmax(logits_CN, 0)
        total = log_CN.new_zeros(())
        if config.dice_weight or config.lovasz_weight:
            prob_CN = log_CN.exp()
            if config.dice_weight:
                total = total + config.dice_weight * dice(prob_CN, label_N)
            if config.lovasz_weight:
                total = total + config.lovasz_weight * lovasz_softmax(prob_CN, label_N)
        if config.focal_weight:
            total = total + config.focal_weight * focal(log_CN, label_N, config.focal_gamma)
        if config.label_smoothing:
            total = total + config.label_smoothing * uniform_ce(log_CN, label_N)
        return total


@dataclass(frozen=True, eq=False)
class Supervision:
    """Cross-entropy of the auxiliary head, a loss term, over the cells of stride 8.

    Source: Lee, Xie, Gallagher, Zhang and Tu, "Deeply-supervised nets", AISTATS 2015; Zhao, Shi,
    Qi, Wang and Jia, "Pyramid scene parsing network", CVPR 2017.
    """

    class_weight_C: Tensor

    def __call__(self, prediction: Supervised, batch: Batch) -> Tensor:
        """() float32: sum k [-log p] / cells, k the class weight of a labelled cell."""
        logits_BCyx = prediction.auxiliary_BCyx.to(torch.float32)
        label_N = cell_labels(batch.label_BHW, logits_BCyx.shape[-2:]).flatten()
        log_CN = torch.log_softmax(logits_BCyx.transpose(0, 1).flatten(1), 0)
        own_N, log_N = _of_labels(log_CN, label_N)
        loss_N = -self.class_weight_C.index_select(0, own_N) * log_N
        return _mean_of_labelled(loss_N, label_N != IGNORE_INDEX)


def cell_labels(label_BHW: Tensor, cells_hw: tuple[int, ...]) -> Tensor:
    """(B, h, w) labels of the pixels nearest to cells whose corners are the image's corners."""
    for dim, cells in zip((1, 2), cells_hw, strict=True):
        last, steps = label_BHW.shape[dim] - 1, max(cells - 1, 1)
        cell_h = torch.arange(cells, device=label_BHW.device)
        label_BHW = label_BHW.index_select(dim, (2 * cell_h * last + steps) // (2 * steps))
    return label_BHW


def dice(prob_CN: Tensor, label_N: Tensor) -> Tensor:
    """Mean of 1 - 2 sum(p y) / (sum(p) + sum(y)) over the classes that there are in the labels.

    Source: Milletari, Navab and Ahmadi, "V-Net: fully convolutional neural networks for volumetric
    medical image segmentation", 3DV 2016, without its squares, over several classes as Sudre et
    al., "Generalised Dice overlap as a deep learning loss function", DLMIA 2017.
    """
    own_CN = _own(prob_CN, label_N).to(prob_CN.dtype)
    labelled_N = (label_N != IGNORE_INDEX).to(prob_CN.dtype)
    pixels_C = own_CN.sum(1)
    both_C, predicted_C = (prob_CN * own_CN).sum(1), (prob_CN * labelled_N).sum(1)
    # Where a class is in the labels the divisor is above 1.
    dice_C = 2 * both_C / (predicted_C + pixels_C).clamp(min=1.0)
    return _mean_of_present(1 - dice_C, pixels_C)


def lovasz_softmax(prob_CN: Tensor, label_N: Tensor) -> Tensor:
    """Lovasz extension of the Jaccard loss, mean over the classes that there are in the labels.

    The extension sorts a class's errors |y - p| and weighs each by what it adds to the Jaccard loss
    of those before it. Here errors are not sorted but counted in `BINS` bins, and those of a bin
    weigh the mean of what they add: sorting alone takes longer on a CPU, and which of equal
    errors comes first would be the device's choice.

    Source: Berman, Rannen Triki and Blaschko, "The Lovasz-Softmax loss: a tractable surrogate for
    the optimization of the intersection-over-union measure in neural networks", CVPR 2018.
    """
    with torch.no_grad():
        own_CN, labelled_N = _own(prob_CN, label_N), label_N != IGNORE_INDEX
        # The largest errors are in the first bin.
        right_CN = torch.where(own_CN, prob_CN, 1 - prob_CN)
        bin_CN = (right_CN * BINS).to(torch.int64).clamp_(0, BINS - 1)
        own_CK = _count(bin_CN, own_CN)
        other_CK = _count(bin_CN, labelled_N.expand_as(own_CN)) - own_CK
        missed_CK, wrong_CK = own_CK.cumsum(1), other_CK.cumsum(1)
        pixels_C1 = missed_CK[:, -1:]
        jaccard_CK = (missed_CK + wrong_CK).double() / (pixels_C1 + wrong_CK).clamp(min=1)
        added_CK = jaccard_CK.diff(dim=1, prepend=torch.zeros_like(jaccard_CK[:, :1]))
        each_CK = (added_CK / (own_CK + other_CK).clamp(min=1)).to(prob_CN.dtype)
        weight_CN = each_CK.gather(1, bin_CN) * labelled_N
        slope_CN = torch.where(own_CN, -weight_CN, weight_CN)
        whole_C = (weight_CN * own_CN).sum(1)
    # With the weights held, the sum of weight x error is linear in p.
    return _mean_of_present(whole_C + (slope_CN * prob_CN).sum(1), pixels_C1[:, 0])


def focal(log_CN: Tensor, label_N: Tensor, gamma: float) -> Tensor:
    """Mean of -(1 - p) ** gamma log p over the labelled cells, p of the label's class.

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017.
    """
    log_N = _of_labels(log_CN, label_N)[1]
    loss_N = -((-torch.expm1(log_N)) ** gamma) * log_N
    return _mean_of_labelled(loss_N, label_N != IGNORE_INDEX)


def uniform_ce(log_CN: Tensor, label_N: Tensor) -> Tensor:
    """Mean of -log p over all classes and the labelled cells: what smoothed labels add.

    Source: Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016.
    """
    return _mean_of_labelled(-log_CN.mean(0), label_N != IGNORE_INDEX)


def _own(prob_CN: Tensor, label_N: Tensor) -> Tensor:
    """(C, N) bool, whether a cell's label is that class."""
    return label_N == torch.arange(len(prob_CN), device=label_N.device)[:, None]


def _of_labels(log_CN: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) each label's class, 0 where it has none, and what there is of that class."""
    own_N = label_N.where(label_N != IGNORE_INDEX, 0).to(torch.int64)
    return own_N, log_CN.gather(0, own_N[None])[0]


def _count(bin_CN: Tensor, counted_CN: Tensor) -> Tensor:
    """(C, K) int32, how many are counted in each bin."""
    C, first_C1 = len(bin_CN), BINS * torch.arange(len(bin_CN), device=bin_CN.device)[:, None]
    # In one dimension, where a GPU adds up in a fixed order if it is asked to.
    count_M = torch.zeros(C * BINS, dtype=torch.int32, device=bin_CN.device)
    count_M.scatter_add_(0, (bin_CN + first_C1).flatten(), counted_CN.flatten().to(torch.int32))
    return count_M.view(C, BINS)


def _mean_of_present(loss_C: Tensor, pixels_C: Tensor) -> Tensor:
    present_C = (pixels_C > 0).to(loss_C.dtype)
    return (loss_C * present_C).sum() / present_C.sum().clamp(min=1.0)


def _mean_of_labelled(loss_N: Tensor, labelled_N: Tensor) -> Tensor:
    count = labelled_N.sum().clamp(min=1)
    return torch.where(labelled_N, loss_N, 0.0).sum() / count
