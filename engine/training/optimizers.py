"""Optimisers beside AdamW: Muon, whose steps are orthogonal matrices, and Lion, whose are signs.

Both keep one number a weight where AdamW keeps two. Learning rates may be tensors on the device and
nothing is read back, so a step can be recorded.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from engine.config import TrainingConfig

_PRODUCTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5 in a Newton-Schulz iteration: Jordan's, steep at 0."""

_ITERATIONS = 5

_RMS = 0.2
"""Root mean square of a step of AdamW, about, at learning rate 1 (Liu et al. 2025)."""

_ADAMW_STEP: Callable[[torch.optim.AdamW], Any] = inspect.unwrap(torch.optim.AdamW.step)
"""Without the hooks, which are called once, for the whole step."""


def make_other(
    network: nn.Module, config: TrainingConfig, settings: dict[str, Any]
) -> torch.optim.Optimizer:
    """The optimiser that a config names, if it is not AdamW.

    Args:
        network: on its device.
        config: the training section; `lr_of` and `layer_decay` hold for all kinds.
        settings: of `torch.optim.AdamW`, for what Muon leaves to it; `lr` and `weight_decay` for
            all.
    """
    rates = None
    if config.lr_of or config.layer_decay != 1:
        from engine.training.parts import rates_of

        rates = rates_of(network, config)
    chosen = muon_weights(network) if config.optimizer == "muon" else frozenset()
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        rate = 1.0 if rates is None else rates[name]
        group = groups.setdefault((name in chosen, rate), {"params": []})
        group["params"].append(parameter)
        if rates is not None:
            group["rate"] = rate
            group["lr"] = settings["lr"] * rate
        if config.optimizer == "muon":
            group["orthogonal"] = name in chosen
    if config.optimizer == "muon":
        return Muon([*groups.values()], **settings)
    return Lion([*groups.values()], settings["lr"], settings["weight_decay"])


def muon_weights(network: nn.Module) -> frozenset[str]:
    """Names of the weights whose steps Muon makes: matrices between hidden features.

    Those of convolutions and linear layers, without the encoder's first, the heads, which Jordan
    leaves to AdamW, and depthwise ones, whose filters share no inputs.
    """
    found = [
        (f"{path}.weight", module.weight)
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    first = next((name for name, _ in found if name.startswith("encoder.")), "")
    heads = ("segmentation_head.", "depth_head.", "auxiliary_head.")
    return frozenset(
        name
        for name, weight in found
        if name != first and not name.startswith(heads) and weight.shape[1] > 1
    )


def orthogonalised(matrix_MN: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T, float32; of a matrix of zeros, zeros.

    Five iterations leave singular values of about 0.7 to 1.2, but for those that were near 0.
    """
    a, b, c = _PRODUCTS
    x = matrix_MN.T if matrix_MN.shape[0] > matrix_MN.shape[1] else matrix_MN
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if matrix_MN.shape[0] > matrix_MN.shape[1] else x


class Muon(torch.optim.AdamW):
    """AdamW, but in groups marked `orthogonal` the momentum of each weight, made orthogonal.

    A convolution's weight is a matrix, a row for each output channel. A step is scaled by 0.2
    sqrt(its longer side), to the size of AdamW's: learning rate and weight decay mean what they
    mean there. The products take time: for an EfficientNet-Lite0 with an FPN of the default widths
    170 ms of a core a step, whatever the batch.

    Sources: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the
    scale: Liu et al., "Muon is scalable for LLM training", 2025.
    """

    momentum = 0.95
    """Of the gradients, Nesterov's."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Not Adam's, which looks for a step count in every state: Muon's have none.
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step; `closure` is none. Parameters without a gradient stay."""
        assert closure is None
        mine = [group for group in self.param_groups if group["orthogonal"]]
        gradients = [(p, p.grad) for group in mine for p in group["params"]]
        for group in mine:
            self._move(group)
        for parameter, _ in gradients:
            parameter.grad = None  # without one AdamW passes it over
        _ADAMW_STEP(self)
        for parameter, gradient in gradients:
            parameter.grad = gradient

    def _move(self, group: dict[str, Any]) -> None:
        there = _with_gradients(group["params"])
        if not there:
            return
        parameters, gradients = map(list, zip(*there, strict=True))
        momenta = [_momentum(self.state[p], p, "momentum_buffer") for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
        lr, ahead = group["lr"], torch._foreach_lerp(gradients, momenta, self.momentum)
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        for parameter, update in zip(parameters, ahead, strict=True):
            step_MN = orthogonalised(update.flatten(1))
            scale = _RMS * math.sqrt(max(step_MN.shape))
            parameter.sub_((step_MN * (lr * scale)).reshape(parameter.shape))


class Lion(torch.optim.Optimizer):
    """Steps are signs of a momentum, all of one size: it wants 1/3 to 1/10 of AdamW's rate.

    Source: Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023.
    """

    betas = (0.9, 0.99)
    """Of the step's momentum, and of the one that is kept."""

    def __init__(self, parameters: Iterable[Any], lr: float | Tensor, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step; `closure` is none. Parameters without a gradient stay."""
        assert closure is None
        now, kept = self.betas
        for group in self.param_groups:
            there = _with_gradients(group["params"])
            if not there:
                continue
            parameters, gradients = map(list, zip(*there, strict=True))
            momenta = [_momentum(self.state[p], p, "exp_avg") for p in parameters]
            updates = torch._foreach_lerp(momenta, gradients, 1 - now)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(updates, group["lr"])
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_sub_(parameters, updates)
            torch._foreach_lerp_(momenta, gradients, 1 - kept)


def _with_gradients(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    return [(p, p.grad) for p in parameters if p.grad is not None]


def _momentum(state: dict[str, Any], parameter: Tensor, name: str) -> Tensor:
    """What the optimiser keeps for a parameter; zeros at its first step."""
    if name not in state:
        state[name] = torch.zeros_like(parameter)
    momentum: Tensor = state[name]
    return momentum
