"""How far a step is from float32: its loss and gradient, and what it makes of its own gradient.

A form's gradient is read from where every form of AdamW leaves it: after the first step of a fresh
optimiser its first moment is (1 - beta1) times the gradient, clipped if the config clips. From that
gradient follow the weights after the step, and from the weights their average, whatever rounded
before: these are held to their formulas.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.data.batch import Batch
from engine.training.step import EpochSums, Learner, TrainStep

Weights = Mapping[str, Tensor]
"""A network's state, by name."""

FACTOR = 1.5
"""Errors are allowed to be this much larger than the plain form's."""

FLOORS = {torch.bfloat16: 2.0**-8, torch.float32: 1e-4}
"""Relative errors that are always allowed, by the type of the products: a rounding of bfloat16;
float32 sums of a million terms, in any order."""

_FORMULA = 1e-3
"""Relative error that update and average are allowed: float32, but weights of 1 move by `_LR`."""

_LR = 1e-2
"""Learning rate of the check: high, so that a step's weights are not those before it."""

_SMALL = 1e-2
"""A tensor's gradient counts as at least this share of the whole one's, by their root mean squares:
of a bias before a norm it is 0, and all that is computed of it is rounding."""


_TINY = 1e-38
"""In the place of 0, to divide by."""


class Passed(NamedTuple):
    """What a step made of one batch."""

    loss: float
    gradients: Weights


class Errors(NamedTuple):
    """How far a step is from float32 over all batches, relative; the last two from its formulas."""

    loss: float
    gradient: float
    tensors: Mapping[str, float]
    """By name, of the gradient."""
    update: float
    average: float
    digest: str = ""
    """Of all weights and averages afterwards; on a CPU only."""

    @property
    def worst(self) -> tuple[str, float]:
        """The tensor whose gradient is furthest off, and how far."""
        return max(self.tensors.items(), key=lambda pair: pair[1])


def whole_step(step: TrainStep, batch: Batch, lr: float, number: int) -> None:
    """Train on a batch, and wait until the device has."""
    step(batch, lr, number, number)
    if step.policy.device.type == "cuda":
        torch.cuda.synchronize(step.policy.device)


def passed(step: TrainStep, batches: Sequence[Batch], start: Weights) -> list[Passed]:
    """What a step makes of each batch, from the same start; gradients on the CPU."""
    taken = (_take(step, batch, start).passed for batch in batches)
    return [
        Passed(loss, {name: gradient.cpu() for name, gradient in gradients.items()})
        for loss, gradients in taken
    ]


def errors(
    step: TrainStep, batches: Sequence[Batch], start: Weights, truth: Sequence[Passed]
) -> Errors:
    """Hold a step to what float32 made of the same batches from the same start.

    The step's learner is afterwards as after the last of them.
    """
    far = {name: _Far() for name in truth[0].gradients}
    losses, updates, averages, digest = [], [], [], hashlib.sha256()
    for batch, true in zip(batches, truth, strict=True):
        taken = _take(step, batch, start)
        losses.append((taken.passed.loss - true.loss) / max(abs(true.loss), _TINY))
        updates.append(taken.update)
        averages.append(taken.average)
        for name, gradient in true.gradients.items():
            found = taken.passed.gradients[name]
            far[name].add(found, gradient.to(found.device))
        if step.policy.device.type == "cpu":
            digest.update(_bytes(step.learner))
    squares = {name: each.squares() for name, each in far.items()}
    away, size = (sum(each) for each in zip(*squares.values(), strict=True))
    numbers = {name: gradient.numel() for name, gradient in truth[0].gradients.items()}
    least = size * _SMALL**2 / sum(numbers.values())
    return Errors(
        loss=math.sqrt(sum(loss**2 for loss in losses) / len(losses)),
        gradient=math.sqrt(away / max(size, _TINY)),
        tensors={
            name: math.sqrt(away / max(size, least * numbers[name], _TINY))
            for name, (away, size) in squares.items()
        },
        update=max(updates),
        average=max(averages),
        digest=digest.hexdigest() if step.policy.device.type == "cpu" else "",
    )


def fault(found: Errors, plain: Errors, products: torch.dtype) -> str | None:
    """What of a form is further from float32 than the plain one allows; None if nothing is."""
    floor = FLOORS[products]

    def beyond(what: str, error: float, allowed: float) -> str | None:
        # Not `error > allowed`: one that is not a number is no small one.
        return None if error <= allowed else f"{what} is {error:#.3g} off, {allowed:#.3g} allowed"

    told = [beyond("its loss", found.loss, max(FACTOR * plain.loss, floor))]
    for name, error in sorted(found.tensors.items(), key=lambda pair: -_number(pair[1])):
        # Of few values, a tensor's error is a matter of luck: it may be the whole gradient's.
        allowed = max(FACTOR * max(plain.tensors[name], plain.gradient), floor)
        told.append(beyond(f"its gradient of {name}", error, allowed))
    told += [
        beyond("its gradient", found.gradient, max(FACTOR * plain.gradient, floor)),
        beyond("its update of the weights", found.update, _FORMULA),
        beyond("its weight average", found.average, _FORMULA),
    ]
    return next((each for each in told if each is not None), None)


class _Taken(NamedTuple):
    passed: Passed
    update: float
    average: float


def _take(step: TrainStep, batch: Batch, start: Weights) -> _Taken:
    """One batch from the start, by an optimiser without a past and an average of zeros."""
    learner = step.learner
    _reset(learner, start)
    named = dict(learner.network.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    whole_step(step, batch, _LR, 0)
    group = learner.optimizer.param_groups[0]
    beta, eps, decay = group["betas"][0], group["eps"], group["weight_decay"]
    groups = learner.optimizer.param_groups
    rate = {part: each.get("rate", 1.0) for each in groups for part in each["params"]}
    gradients, update = {}, _Far()
    for name, parameter in named.items():
        state = learner.optimizer.state.get(parameter)
        if not state:  # the loss does not depend on it
            continue
        gradient = state["exp_avg"] / (1 - beta)
        gradients[name] = gradient
        # AdamW's first step, both its moments freed of their bias (Loshchilov and Hutter 2019).
        moved = -_LR * rate[parameter] * (gradient / (gradient.abs() + eps) + decay * before[name])
        update.add(parameter.detach() - before[name], moved)
    return _Taken(
        Passed(learner.sums.means().loss, gradients), update.relative(), _average_error(learner)
    )


def _reset(learner: Learner, start: Weights) -> None:
    """In place: a recorded step goes on with these very tensors."""
    learner.network.load_state_dict(start)
    learner.sums = EpochSums(learner.sums.sums.device)
    for state in learner.optimizer.state.values():
        for part in state.values():
            if isinstance(part, Tensor):
                part.zero_()
    with torch.no_grad():
        for tensor in learner.ema.network.state_dict().values():
            tensor.zero_()


def _average_error(learner: Learner) -> float:
    """How far the average is from one of zeros that saw the present weights once."""
    ema, far = learner.ema, _Far()
    decay = min(ema.decay, 1 / 10) if ema.warmup else ema.decay
    averaged = ema.network.state_dict()
    frozen: frozenset[str] = getattr(learner.network, "frozen", frozenset())
    for name, now in learner.network.state_dict().items():
        if name in frozen:
            continue
        expected = (1 - decay) * now.double() if now.is_floating_point() else now.double()
        far.add(averaged[name].double(), expected)
    return far.relative()


class _Far:
    """A relative L2 distance, part by part; the host waits when it is asked for."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, found: Tensor, expected: Tensor) -> None:
        far = (found.double() - expected.double()).square().sum()
        self._parts.append(torch.stack([far, expected.double().square().sum()]))

    def squares(self) -> tuple[float, float]:
        """Of the distance, and of what was expected."""
        far, size = torch.stack(self._parts).sum(dim=0).tolist()
        return far, size

    def relative(self) -> float:
        far, size = self.squares()
        return math.sqrt(far / max(size, _TINY))


def _number(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _bytes(learner: Learner) -> bytes:
    digest = hashlib.sha256()
    for network in (learner.network, learner.ema.network):
        for tensor in network.state_dict().values():
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.digest()
