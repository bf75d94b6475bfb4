"""Frames that the processes of one training look at in turns, batch by batch.

The batches are those of one process, and so are the bytes that come of them. Counts are added as
integers; losses, which are not, in the order of the batches.

Axes: B batch, C class, h w half-scale pixels, N batches.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.data.sources import FrameReader, equal_size_groups
from engine.distributed.turns import Results, hand, in_order, stop_together
from engine.distributed.world import World
from engine.frames.decode import Sample
from engine.runtime.progress import track
from engine.views.behind import fetch
from engine.views.masks import System, found_masks
from engine.views.predictor import Predictor
from engine.views.sampled import loss_sum
from engine.views.store import counts_and_halves


def validate(
    predictor: Predictor, samples: Sequence[Sample], world: World
) -> tuple[NDArray[np.int64], float | None]:
    """`Predictor.validate`, by all processes at once; each gets the same."""
    batches, C = _batches(predictor.reader, samples, 0), len(predictor.data.classes)
    mine = range(world.rank, batches, world.size)
    count_CC = torch.zeros(C, C, dtype=torch.int64)
    loss_N2 = torch.zeros(len(mine), 2, dtype=torch.float64)
    turn = world.rank, world.size
    looked = predictor.predict(samples, label=True, turn=turn)
    with track("validation", len(samples)) as advance:
        for number in range(math.ceil(batches / world.size)):
            if number < len(mine):
                frames, prob_BTCHW = next(looked)
                assert frames.label_BHW is not None, "asked for"
                count_CC += predictor.counts(frames, prob_BTCHW[:, :1])[0].cpu()
                loss_N2[number] = loss_sum(prob_BTCHW[:, 0], frames.label_BHW)
                advance(min(len(frames.index) * world.size, len(samples)))
            stop_together(world)
    counts = [len(range(rank, batches, world.size)) for rank in range(world.size)]
    all_N2 = torch.empty(batches, 2, dtype=torch.float64)
    for rank, part in enumerate(torch.split(world.gather(loss_N2, counts), counts)):
        all_N2[rank :: world.size] = part
    loss, pixels = all_N2.sum(dim=0).tolist()
    summed_CC = world.gather(count_CC[None], [1] * world.size).sum(dim=0)
    return summed_CC.numpy(), loss / pixels if pixels else None


def fold_in_order(
    predictor: Predictor, samples: Sequence[Sample], start: int, hw: tuple[int, int], world: World
) -> Iterator[tuple[Results, bool]]:
    """What `fetch` gives of `counts_and_halves`, of all batches; by the first process."""
    own = _here(predictor, counts_and_halves(predictor, samples, start, hw, _turn(world)))
    batches = _batches(predictor.reader, samples, start)
    for number, results in enumerate(in_order(world, own, batches)):
        yield results, predictor.policy.device.type == "cpu" or number == batches - 1


def hand_fold(
    predictor: Predictor, samples: Sequence[Sample], start: int, hw: tuple[int, int], world: World
) -> None:
    """This process's part of that."""
    hand(world, _here(predictor, counts_and_halves(predictor, samples, start, hw, _turn(world))))


def masks_in_order(
    system: System, samples: Sequence[Sample], start: int, world: World
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """`engine.views.masks.masks`, by all processes; for the first."""
    own = _here(system, found_masks(system, samples, start, _turn(world)))
    for (mask_BHW,) in in_order(world, own, _batches(system.reader, samples, start)):
        yield start, mask_BHW.numpy()
        start += len(mask_BHW)


def hand_masks(system: System, samples: Sequence[Sample], start: int, world: World) -> None:
    """This process's part of that."""
    hand(world, _here(system, found_masks(system, samples, start, _turn(world))))


def _here(system: System, results: Iterator[tuple[Tensor, ...]]) -> Iterator[Results]:
    """Results on the CPU."""
    return (tensors for tensors, _ in fetch(system.policy.device, results))


def _batches(reader: FrameReader, samples: Sequence[Sample], start: int) -> int:
    return len(equal_size_groups(samples, reader.batch_size, start))


def _turn(world: World) -> tuple[int, int]:
    return world.rank, world.size
