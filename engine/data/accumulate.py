"""A batch that passes the network part by part, and what each part counts.

Axes: P parts of a batch, B images, H W pixels.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.config import TrainingConfig
from engine.data.batch import Batch
from kernels.boundary_ce.reference import EPSILON, pixel_weights


class Shares(NamedTuple):
    """What a part of a batch counts in the batch's losses: scalars that sum to 1 over the parts."""

    segmentation: Tensor | float = 1.0
    depth: Tensor | float = 1.0


WHOLE = Shares()
"""Shares of a batch that is not cut."""


def accumulated(
    batch: Batch,
    config: TrainingConfig,
    backward: Callable[[Batch, Shares], Tensor],
    least: int = 1,
) -> Tensor:
    """Add the gradient of a batch's loss, part by part.

    The parts' losses add up to the batch's, whatever share of each is labelled. What differs from
    one pass over all: rounding, the order of dropout's draws, and that a batch norm sees one part
    at a time.

    Args:
        batch: cut into `config.accumulate` parts.
        config: the training section.
        backward: adds the gradient of a part that counts so much; returns its (3,) losses.
        least: images that a part has to have.

    Returns:
        The (3,) losses of the batch.
    """
    parts = parts_of(batch, part_sizes(len(batch.index), config.accumulate, least))
    shares = [WHOLE] if len(parts) == 1 else shares_of(*weight_sums(parts, config))
    losses = [backward(*part) for part in zip(parts, shares, strict=True)]
    return torch.stack(losses).sum(dim=0)


def parts_of(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    """Batches of so many images, in order, that share the batch's memory."""
    ends = itertools.accumulate(sizes, initial=0)
    rows = [slice(*pair) for pair in itertools.pairwise(ends)]
    return [
        Batch(batch.image_BCHW[r], batch.depth_BHW[r], batch.label_BHW[r], batch.index[r])
        for r in rows
    ]


def part_sizes(images: int, count: int, least: int = 1) -> list[int]:
    """Images in each of at most `count` parts: what would be left over joins the part before it."""
    size = max(-(-images // count), least)
    starts = list(range(0, images, size))
    if len(starts) > 1 and images - starts[-1] < least:
        starts.pop()
    return [end - start for start, end in itertools.pairwise([*starts, images])]


def weight_sums(parts: Sequence[Batch], config: TrainingConfig) -> tuple[Tensor, Tensor]:
    """(P,) float64: what each part's losses divide by, weights of labels and pixels of depth.

    In float64 the sums of millions of weights are exact. No host synchronisation.
    """
    edges = config.boundary_weight, config.ignored_edges
    labelled_P = torch.stack(
        [pixel_weights(part.label_BHW, *edges, torch.float64).sum() for part in parts]
    )
    known_P = torch.stack([(part.depth_BHW > 0).sum(dtype=torch.float64) for part in parts])
    return labelled_P, known_P


def shares_of(labelled_P: Tensor, known_P: Tensor) -> list[Shares]:
    """How much each part of a batch counts, so that their losses add up to the batch's.

    Both losses are means over what is counted, labelled pixels by weight and pixels of known depth;
    a part's mean counts by its own sum of weights (`weight_sums`). No host synchronisation.
    """
    # What each mean divides by: as `boundary_ce` and `depth_l1` do, so nothing counted is 0.
    segmentation_P = (labelled_P + EPSILON) / (labelled_P.sum() + EPSILON)
    depth_P = known_P.clamp(min=1.0) / known_P.sum().clamp(min=1.0)
    return list(map(Shares, segmentation_P.float(), depth_P.float()))
