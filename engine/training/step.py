"""One optimisation step: forward, loss, backward, update, average; no host synchronisation."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import Config
from engine.data.batch import Batch
from engine.model.network import Network, Prediction
from engine.runtime.device import DevicePolicy
from engine.runtime.graphs import Replayed
from engine.training.ema import Ema
from engine.training.loss import WHOLE, Shares, class_weights, part_shares, training_loss
from engine.training.optim import set_learning_rate


@dataclass
class Statistics:
    """Sums over the steps of an epoch, on the device until someone asks.

    Attributes:
        sums: (4,) float64: total, segmentation and depth loss, and the number of steps.
        first_bad_step: () int64, the first step of the epoch whose loss or gradient was not
            finite, or -1.
    """

    device: torch.device
    sums: Tensor = field(init=False)
    first_bad_step: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=self.device)

    def add(self, losses: Tensor, gradient_norm: Tensor, step: int) -> None:
        """Add the (3,) losses of `step`; device work only."""
        self.sums[:3] += losses
        self.sums[3] += 1
        bad = ~(torch.isfinite(losses[0]) & torch.isfinite(gradient_norm))
        self.first_bad_step = torch.where(
            bad & (self.first_bad_step < 0), step, self.first_bad_step
        )

    def means(self) -> dict[str, float]:
        """Mean losses so far; synchronises with the device."""
        total, segmentation, depth, steps = self.sums.tolist()
        steps = max(steps, 1.0)
        return {
            "loss": total / steps,
            "segmentation_loss": segmentation / steps,
            "depth_loss": depth / steps,
        }


class TrainStep:
    """Applies batches to a network, its optimiser and its weight average."""

    def __init__(
        self,
        network: Network,
        optimizer: torch.optim.Optimizer,
        ema: Ema,
        config: Config,
        policy: DevicePolicy,
        fold: int,
    ) -> None:
        self.network, self.optimizer, self.ema = network, optimizer, ema
        self.config, self.policy, self.fold = config, policy, fold
        # The compiled callable stands beside the network: wrapping it would prefix its keys
        # with `_orig_mod.`, and the average and the checkpoints would silently miss them.
        self.forward: Callable[[Tensor], Prediction] = (
            torch.compile(network, fullgraph=True) if policy.compile else network
        )
        self.class_weight_C = class_weights(config, policy.device)
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.update = Replayed(self._update) if policy.replay else self._update

    def __call__(
        self, batch: Batch, lr: float, step: int, global_step: int, statistics: Statistics
    ) -> None:
        """Train on one batch.

        Args:
            batch: network input and targets, on the policy's device.
            lr: learning rate of this step.
            step: position in the epoch, for the report of a fault.
            global_step: position in the fold, from 0; seeds dropout.
            statistics: receives the losses.
        """
        # Dropout is a pure function of the step, so a resumed run draws what it would have.
        torch.manual_seed(step_seed(self.config.training.seed, self.fold, global_step))
        set_learning_rate(self.optimizer, lr)
        losses, gradient_norm = self.update(batch.image_BCHW, batch.depth_BHW, batch.label_BHW)
        self.ema.update(global_step)
        statistics.add(losses, gradient_norm, step)

    def _update(
        self, image_BCHW: Tensor, depth_BHW: Tensor, label_BHW: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradient and optimiser: the (3,) losses and the gradient's norm before clipping."""
        # The losses do not ask which samples they are of.
        positions = np.arange(len(image_BCHW))
        losses = self._accumulate(Batch(image_BCHW, depth_BHW, label_BHW, positions))
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        gradient_norm = nn.utils.get_total_norm(gradients, foreach=True)
        if self.config.training.clip_norm:
            nn.utils.clip_grads_with_norm_(
                self.parameters, self.config.training.clip_norm, gradient_norm, foreach=True
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses, gradient_norm

    def _accumulate(self, batch: Batch) -> Tensor:
        """Add the gradient of the batch's loss, part by part; returns the (3,) losses.

        The parts' losses add up to the batch's, whatever share of each is labelled. What differs
        from one pass over all: rounding, the order of dropout's draws, and that a batch norm sees
        one part at a time.
        """
        parts = batch.parts(self.config.training.accumulate)
        shares = part_shares(parts, self.config) if len(parts) > 1 else [WHOLE]
        losses = [self._backward(*pair) for pair in zip(parts, shares, strict=True)]
        return torch.stack(losses).sum(dim=0)

    def _backward(self, part: Batch, shares: Shares) -> Tensor:
        with self.policy.autocast():
            prediction = self.forward(part.image_BCHW)
        losses = training_loss(
            prediction,
            part,
            self.config,
            self.class_weight_C,
            self.network.align_corners,
            self.policy.operations,
            shares,
        )
        losses.total.backward()  # type: ignore[no-untyped-call]
        return torch.stack(losses).detach()


def step_seed(seed: int, fold: int, step: int) -> int:
    """A 63-bit seed that depends on its three arguments and nothing else."""
    digest = hashlib.sha256(f"{seed}/{fold}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
