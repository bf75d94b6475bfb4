"""One optimisation step: forward, loss, backward, update, average; no host synchronisation."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engine.data.sources import Batch
from engine.model.network import Network, Prediction
from engine.runtime.device import DevicePolicy
from engine.runtime.graphs import Replayed
from engine.training.loss import Shares, TrainingLoss
from engine.training.optim import Ema, set_learning_rate
from engine.training.phases import PhaseClock


class MeanLosses(NamedTuple):
    """Losses of an epoch, so far, as the epoch line names them."""

    loss: float
    segmentation_loss: float
    depth_loss: float


class EpochSums:
    """Sums over the steps of an epoch, on the device until someone asks.

    Attributes:
        sums: (4,) float64: total, segmentation and depth loss, and the number of steps.
        first_bad_step: () int64, the first step of the epoch whose loss or gradient was not
            finite, or -1.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    def add(self, losses: Tensor, gradient_norm: Tensor, step: int) -> None:
        """Add the (3,) losses of `step`; device work only."""
        self.sums[:3] += losses
        self.sums[3] += 1
        # Noted on the device and asked for rarely: a question at every step would make the host
        # wait for the GPU, which then has nothing queued.
        bad = ~(torch.isfinite(losses[0]) & torch.isfinite(gradient_norm))
        self.first_bad_step = torch.where(
            bad & (self.first_bad_step < 0), step, self.first_bad_step
        )

    def means(self) -> MeanLosses:
        """Mean losses so far; synchronises with the device."""
        total, segmentation, depth, steps = self.sums.tolist()
        steps = max(steps, 1.0)
        return MeanLosses(total / steps, segmentation / steps, depth / steps)


@dataclass(eq=False)
class Learner:
    """What a step changes, and a checkpoint holds."""

    network: Network
    ema: Ema
    optimizer: torch.optim.Optimizer
    sums: EpochSums
    """Of the present epoch."""


class TrainStep:
    """Applies batches to a learner.

    Attributes:
        clock: told where the phases of a step end; None outside of a profile.
    """

    def __init__(
        self, learner: Learner, loss: TrainingLoss, policy: DevicePolicy, fold: int
    ) -> None:
        self.learner, self.loss, self.policy, self.fold = learner, loss, policy, fold
        # The compiled callable stands beside the network: wrapping it would prefix its keys
        # with `_orig_mod.`, and the average and the checkpoints would silently miss them.
        self.forward: Callable[[Tensor], Prediction] = (
            torch.compile(learner.network, fullgraph=True) if policy.compile else learner.network
        )
        self.parameters = [p for p in learner.network.parameters() if p.requires_grad]
        self.update = Replayed(self._update) if policy.replay else self._update
        self.clock: PhaseClock | None = None

    def __call__(self, batch: Batch, lr: float, step: int, global_step: int) -> None:
        """Train on one batch.

        Args:
            batch: network input and targets, on the policy's device.
            lr: learning rate of this step.
            step: position in the epoch, for the report of a fault.
            global_step: position in the fold, from 0; seeds dropout.
        """
        # Dropout is a pure function of the step, so a resumed run draws what it would have.
        torch.manual_seed(step_seed(self.loss.config.seed, self.fold, global_step))
        set_learning_rate(self.learner.optimizer, lr)
        self._mark("other")
        losses, gradient_norm = self.update(batch.image_BCHW, batch.depth_BHW, batch.label_BHW)
        self._mark("replay" if self.policy.replay else "other")
        self.learner.ema.update(global_step)
        self._mark("average")
        self.learner.sums.add(losses, gradient_norm, step)

    def _update(
        self, image_BCHW: Tensor, depth_BHW: Tensor, label_BHW: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradient and optimiser: the (3,) losses and the gradient's norm before clipping."""
        # The losses do not ask which samples they are of.
        positions = np.arange(len(image_BCHW))
        losses = self._accumulate(Batch(image_BCHW, depth_BHW, label_BHW, positions))
        # The norm is measured even if nothing is clipped: it tells of a gradient gone bad.
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        gradient_norm = nn.utils.get_total_norm(gradients, foreach=True)
        if self.loss.config.clip_norm:
            nn.utils.clip_grads_with_norm_(
                self.parameters, self.loss.config.clip_norm, gradient_norm, foreach=True
            )
        self._mark("backward", recorded=True)
        self.learner.optimizer.step()
        self._mark("optimizer", recorded=True)
        self.learner.optimizer.zero_grad(set_to_none=True)
        return losses, gradient_norm

    def _accumulate(self, batch: Batch) -> Tensor:
        """Add the gradient of the batch's loss, part by part; returns the (3,) losses.

        The parts' losses add up to the batch's, whatever share of each is labelled. What differs
        from one pass over all: rounding, the order of dropout's draws, and that a batch norm sees
        one part at a time.
        """
        parts = batch.parts(self.loss.config.accumulate)
        losses = [self._backward(*p) for p in zip(parts, self.loss.shares(parts), strict=True)]
        return torch.stack(losses).sum(dim=0)

    def _backward(self, part: Batch, shares: Shares) -> Tensor:
        with self.policy.autocast():
            prediction = self.forward(part.image_BCHW)
        if self.clock is not None and not self.policy.replay:
            self.clock.watch(prediction)
        losses = self.loss(prediction, part, shares)
        losses.total.backward()  # type: ignore[no-untyped-call]
        return torch.stack(losses).detach()

    def _mark(self, phase: str, *, recorded: bool = False) -> None:
        """Tell the clock, if there is one; within a replay no clock can be read."""
        if self.clock is not None and not (recorded and self.policy.replay):
            self.clock.mark(phase)


def step_seed(seed: int, fold: int, step: int) -> int:
    """A 63-bit seed that depends on its three arguments and nothing else."""
    digest = hashlib.sha256(f"{seed}/{fold}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
