"""One step of training: loss, gradient, update, average; the host waits for the device nowhere.

Axes: B batch, C class, H W pixels, h w cells of stride 4.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from engine.config import TrainingConfig
from engine.data.accumulate import WHOLE, Shares, accumulated
from engine.data.batch import Batch
from engine.model.network import Network, Prediction
from engine.nyuv2 import DEPTH_MAX_M, DEPTH_MIN_M
from engine.runtime.device import DevicePolicy, Operations
from engine.runtime.forms import PLAIN, StepForm
from engine.runtime.gpu import deterministically, raced
from engine.runtime.graphs import Replayed
from engine.training.one_pass import OnePassAdamW
from engine.training.records import Losses, MeanLosses
from kernels.upsample import upsample

if TYPE_CHECKING:
    # Not to train in one process, on batches of one part.
    from engine.distributed.exchange import Exchange
    from engine.distributed.shards import Shards


@dataclass(frozen=True, eq=False)
class TrainingLoss:
    """Boundary-weighted cross-entropy + `depth_weight` x depth L1, classes by `class_weights`.

    Of the cross-entropy the total has 1 - `label_smoothing`; what replaces the rest is a term.
    """

    config: TrainingConfig
    class_weight_C: Tensor
    operations: Operations
    terms: Sequence[tuple[float, Callable[[Any, Batch], Tensor]]] = ()
    """Others, each with its weight; they count as the cross-entropy's share does."""

    def __call__(self, prediction: Prediction, batch: Batch, shares: Shares = WHOLE) -> Losses:
        """The losses of a batch, or of a part of one that counts by `shares` in the batch's."""
        segmentation = shares.segmentation * self.operations.boundary_ce(
            prediction.logits_BChw,
            batch.label_BHW,
            self.class_weight_C,
            self.config.boundary_weight,
            align_corners=Network.align_corners,
            ignored_edges=self.config.ignored_edges,
        )
        depth = depth_l1(prediction.depth_Bhw, batch.depth_BHW) * shares.depth
        total = segmentation + self.config.depth_weight * depth
        if self.config.label_smoothing:
            total = total - self.config.label_smoothing * segmentation
        for weight, term in self.terms:
            total = total + weight * shares.segmentation * term(prediction, batch)
        return Losses(total, segmentation, depth)


def class_weights(config: TrainingConfig, classes: Sequence[str], device: torch.device) -> Tensor:
    """(C,) float32 loss weights in class order, 1 where the config names none."""
    weights = [config.class_weights.get(name, 1.0) for name in classes]
    return torch.tensor(weights, dtype=torch.float32, device=device)


def depth_l1(depth_Bhw: Tensor, depth_m_BHW: Tensor) -> Tensor:
    """Mean |upsampled prediction - (d - 0.71) / 9.29| over the pixels of known depth d, float32.

    `depth_m_BHW` is metres, 0 = missing; where all is, the result and its gradient are 0.
    """
    H, W = depth_m_BHW.shape[1:]
    predicted_BHW = upsample(
        depth_Bhw[:, None].to(torch.float32), (H, W), align_corners=Network.align_corners
    )[:, 0]
    known_BHW = (depth_m_BHW > 0).to(torch.float32)
    clipped_BHW = depth_m_BHW.clamp(DEPTH_MIN_M, DEPTH_MAX_M)
    target_BHW = (clipped_BHW - DEPTH_MIN_M) / (DEPTH_MAX_M - DEPTH_MIN_M)
    error = ((predicted_BHW - target_BHW).abs() * known_BHW).sum()
    return error / known_BHW.sum().clamp(min=1.0)


def make_optimizer(
    network: nn.Module,
    config: TrainingConfig,
    one_pass: "Ema | None" = None,
    form: StepForm = PLAIN,
    shards: "Shards | None" = None,
) -> torch.optim.Optimizer:
    """AdamW over every parameter, in torch's fused form (one pass over the weights) or another.

    Parameters that need no gradient get no state. Where rates differ by part, each group has its
    `rate`, a factor; the parameters keep their order.

    With `one_pass`, the average of this network, on a GPU: in the form that moves that average and
    takes the gradients' norm in the same pass. With `shards` a process keeps the state of its own.
    """
    parameters, decay = list(network.parameters()), config.weight_decay
    device = parameters[0].device
    on_gpu = device.type == "cuda"
    # On a GPU its learning rate and step counts are tensors, as a recorded step needs them.
    settings: dict[str, Any] = {
        "lr": torch.tensor(config.lr, device=device) if on_gpu else config.lr,
        "weight_decay": decay,
        "fused": form.optimizer == "fused",
        "foreach": True if form.optimizer == "foreach" else None,
        "capturable": on_gpu,
    }
    groups: list[Any] = parameters
    if config.lr_of or config.layer_decay != 1:
        from engine.training.parts import rate_groups

        groups = rate_groups(network, config)
        for group in groups:
            rate = config.lr * group["rate"]
            group["lr"] = torch.tensor(rate, device=device) if on_gpu else rate
    if one_pass is not None:
        lr = torch.tensor(config.lr, device=device)
        clip_norm = config.clip_norm
        return OnePassAdamW(groups, one_pass.averages, lr, decay, clip_norm=clip_norm)
    make: Callable[..., torch.optim.AdamW] = torch.optim.AdamW
    if shards is not None:
        from engine.training.sharded import ShardedAdamW

        make = partial(ShardedAdamW, shards)
    return make(groups, **settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` from now on, times the `rate` of a group that has one."""
    for group in optimizer.param_groups:
        rate = lr * group["rate"] if "rate" in group else lr
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of step `step`, counted from 0 over the whole fold.

    `cosine_epoch` holds lr (1 + cos(pi e / E)) / 2 through epoch e, as the reports do.
    `warmup_cosine` rises linearly over the first `warmup` of the steps, then falls by a cosine. For
    others see `engine.training.schedules`.
    """
    if config.schedule in ("linear", "one_cycle"):
        from engine.training.schedules import share_of_peak

        return config.lr * share_of_peak(config, step, config.epochs * steps_per_epoch)
    if config.schedule == "cosine_epoch":
        angle = math.pi * (step // steps_per_epoch) / config.epochs
    else:
        steps = config.epochs * steps_per_epoch
        warmup_steps = round(config.warmup * steps)
        if step < warmup_steps:
            return config.lr * (step + 1) / warmup_steps
        angle = math.pi * ((step - warmup_steps) / max(steps - warmup_steps, 1))
    return config.lr * 0.5 * (1.0 + math.cos(angle))


class Ema:
    """Keeps `network`, a copy in evaluation mode whose weights follow the trained ones.

    With `warmup` the decay of update t (from 0) is min(decay, (1 + t) / (10 + t)), so that a short
    run does not average its random start (as Tan and Le 2019's TensorFlow recipe).
    """

    def __init__(self, network: nn.Module, decay: float, *, warmup: bool) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.warmup = decay, warmup
        self._averaged, self._copies = _tensors(self.network)
        self._trained, self._counters = _tensors(network)
        self.averages = self._averaged[: len(list(network.parameters()))]
        """Of the parameters, in their order."""
        self._moves = moving(network)

    def weight(self, step: int) -> float:
        """What the present weights count in the average after step `step` of the fold, from 0."""
        return 1.0 - (min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the present weights after step `step` of the fold, from 0."""
        self._follow(step, first=0)

    @torch.no_grad()
    def update_buffers(self, step: int) -> None:
        """The same but for the parameters, whose `averages` somebody else has moved."""
        self._follow(step, first=len(self.averages))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have all of the average in `network`; here it always is."""
        yield

    def _follow(self, step: int, first: int) -> None:
        averaged, trained = self._averaged[first:], self._trained[first:]
        if self._moves is not None:
            averaged = list(compress(averaged, self._moves[first:]))
            trained = list(compress(trained, self._moves[first:]))
        if averaged:
            torch._foreach_lerp_(averaged, trained, self.weight(step))
        if self._counters:
            torch._foreach_copy_(self._copies, self._counters)


def _tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Floating parameters and buffers, which are averaged, and the others, which are copied."""
    tensors = [*(p.detach() for p in network.parameters()), *network.buffers()]
    return (
        [tensor for tensor in tensors if tensor.is_floating_point()],
        [tensor for tensor in tensors if not tensor.is_floating_point()],
    )


def moving(network: nn.Module) -> list[bool] | None:
    """Which of the tensors that are averaged may move; None if all may, as none is frozen."""
    frozen: frozenset[str] = getattr(network, "frozen", frozenset())
    if not frozen:
        return None
    names = [name for name, _ in network.named_parameters()]
    names += [name for name, tensor in network.named_buffers() if tensor.is_floating_point()]
    return [name not in frozen for name in names]


class EpochSums:
    """Sums over the steps of an epoch, on the device until someone asks."""

    def __init__(self, device: torch.device) -> None:
        # Total, segmentation and depth loss, and the number of steps.
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)
        # The first whose loss or gradient was not finite, or -1.
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    def add(self, losses: Tensor, gradient_norm: Tensor, step: int) -> None:
        """Add the (3,) losses of a step of the epoch."""
        self.sums[:3] += losses
        self.sums[3] += 1
        # Noted on the device and asked for rarely: a question at every step would make the host
        # wait for the GPU, which then has nothing queued.
        bad = ~(torch.isfinite(losses[0]) & torch.isfinite(gradient_norm))
        is_first = bad & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(is_first, step, self.first_bad_step)

    def means(self) -> MeanLosses:
        """Mean losses so far; here the host does wait."""
        *losses, steps = self.sums.tolist()
        return MeanLosses(*(loss / max(steps, 1.0) for loss in losses))


@dataclass(eq=False)
class Learner:
    """What a step changes, and a checkpoint holds; `sums` are of the present epoch."""

    network: Network
    ema: Ema
    optimizer: torch.optim.Optimizer
    sums: EpochSums


class TrainStep:
    """Applies batches to a learner; with an `exchange`, its rows of them."""

    def __init__(
        self,
        learner: Learner,
        loss: TrainingLoss,
        policy: DevicePolicy,
        fold: int,
        exchange: "Exchange | None" = None,
    ) -> None:
        self.learner, self.loss, self.policy, self.fold = learner, loss, policy, fold
        self.exchange = exchange
        # The compiled callable stands beside the network: wrapping it would prefix its keys
        # with `_orig_mod.`, and the average and the checkpoints would silently miss them.
        compiles = policy.compile and (exchange is None or exchange.is_traceable)
        self.forward: Callable[[Tensor], Prediction] = (
            _compiled(learner.network, policy.form) if compiles else learner.network
        )
        self.parameters = [p for p in learner.network.parameters() if p.requires_grad]
        self.spread: Callable[[], None] | None = getattr(learner.optimizer, "spread", None)
        self.parts = loss.config.accumulate * policy.form.parts
        update: Callable[..., tuple[Tensor, Tensor]] = self._update
        # What waits for other processes cannot be recorded: then what comes before and after is.
        update = Replayed(update) if policy.replay and exchange is None else update
        steady = policy.replay and exchange is not None and exchange.is_steady
        self._replayed: Callable[[], Tensor] | None = Replayed(self._apply) if steady else None
        update = raced(update) if policy.form.cudnn == "race" else update
        self.update = deterministically(update) if policy.deterministic else update

    def __call__(self, batch: Batch, lr: float, step: int, global_step: int) -> None:
        """Train on a batch on the device; `step` of the epoch is the `global_step` of the fold."""
        # Dropout is a pure function of the step, so a resumed run draws what it would have.
        seed = step_seed(self.loss.config.seed, self.fold, global_step)
        torch.manual_seed(seed)
        if self.exchange is not None:
            self.exchange.begin(seed)
        optimizer, ema = self.learner.optimizer, self.learner.ema
        set_learning_rate(optimizer, lr)
        average = ema.update
        if isinstance(optimizer, OnePassAdamW):
            optimizer.average_weight.fill_(ema.weight(global_step))
            average = ema.update_buffers
        losses, gradient_norm = self.update(batch.image_BCHW, batch.depth_BHW, batch.label_BHW)
        average(global_step)
        self.learner.sums.add(losses, gradient_norm, step)

    def _update(
        self, image_BCHW: Tensor, depth_BHW: Tensor, label_BHW: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradient and optimiser: the (3,) losses and the gradient's norm before clipping."""
        # The losses do not ask which samples they are of.
        batch = Batch(image_BCHW, depth_BHW, label_BHW, np.arange(len(image_BCHW)))
        config = self.loss.config
        if self.exchange is not None:
            losses = self.exchange.gradient(batch, self._backward)
        elif self.parts == 1:
            losses = self._backward(batch, WHOLE)
        else:
            least = self.learner.network.least_images
            cut = config.model_copy(update={"accumulate": self.parts})
            losses = accumulated(batch, cut, self._backward, least)
        gradient_norm = (self._replayed or self._apply)()
        if self.spread is not None:
            self.spread()
        return losses, gradient_norm

    def _apply(self) -> Tensor:
        """Move the weights by the gradients, and forget those; their norm before clipping."""
        config, optimizer = self.loss.config, self.learner.optimizer
        # The norm is measured even if nothing is clipped: it tells of a gradient gone bad.
        if isinstance(optimizer, OnePassAdamW):
            optimizer.step()
            gradient_norm = optimizer.gradient_norm
        else:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            gradient_norm = get_total_norm(gradients, foreach=True)
            if config.clip_norm:
                clip_grads_with_norm_(
                    self.parameters, config.clip_norm, gradient_norm, foreach=True
                )
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return gradient_norm

    def _backward(self, part: Batch, shares: Shares) -> Tensor:
        """Add the gradient of a part's loss; returns its (3,) losses."""
        with self.policy.autocast():
            prediction = self.forward(part.image_BCHW)
        losses = self.loss(prediction, part, shares)
        losses.total.backward()  # type: ignore[no-untyped-call]
        return torch.stack(losses).detach()


def _compiled(network: Network, form: StepForm) -> Callable[[Tensor], Prediction]:
    # Inductor decides by counting whether a network's convolutions are worth it.
    more: dict[str, Any] = {}
    if form.compile == "channels_last":
        more["options"] = {"force_layout_optimization": True}
    return torch.compile(network, fullgraph=True, **more)


def step_seed(seed: int, fold: int, step: int) -> int:
    """A 63-bit seed that depends on its three arguments and nothing else."""
    digest = hashlib.sha256(f"{seed}/{fold}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
