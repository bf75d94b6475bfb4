"""AdamW that moves the weight average and takes the gradients' norm in its own pass, on a GPU."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.adamw import Constants, State, Update


class OnePassAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` with clipping and weight average, by `kernels.adamw`.

    Its state is laid out and named as PyTorch's, so either loads the other's; hooks run as there.
    A step whose gradients are not finite changes what PyTorch's changes: whoever trains reads
    `gradient_norm` and stops. May be recorded as a CUDA graph once it has taken a step outside.
    """

    def __init__(
        self,
        parameters: Sequence[Any],
        averages: Sequence[Tensor],
        lr: Tensor,
        weight_decay: float,
        *,
        clip_norm: float,
    ) -> None:
        """One group of parameters, or several; `add_param_group` adds others.

        Args:
            parameters: float32, on a GPU; or groups of such, as torch takes them. One that needs no
                gradient stays, and so does its average.
            averages: of the parameters, and of those of groups added later, in order.
            lr: scalar float32 on the device, filled anew by whoever sets the learning rate.
            weight_decay: of this group.
            clip_norm: limit of the norm of all gradients; 0 = none.
        """
        # `capturable`: step counts are tensors on the device, also once a state was loaded.
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True, capturable=True)
        self.clip_norm = clip_norm
        self.average_weight = torch.ones((), device=lr.device)
        """What the new weights count in their average; to be filled before each step."""
        self.gradient_norm = torch.zeros((), device=lr.device)
        """Of the last step, before clipping; a recorded step overwrites it."""
        self._averages = list(averages)
        self._update: Update | None = None
        self._laid_out: list[tuple[Tensor, int]] = []

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step; parameters without a gradient stay, and their average moves towards them.

        Raises:
            ValueError: a closure was given, or the groups' betas or epsilons differ.
        """
        if closure is not None:
            raise ValueError("the gradients must be there already; call it without a closure")
        entries = [(p, group) for group in self.param_groups for p in group["params"]]
        moving, gradients = list[_Entry](), list[Tensor]()
        for (parameter, group), average in zip(entries, self._averages, strict=True):
            if not parameter.requires_grad:  # frozen: a lerp would turn -0.0 into 0.0
                continue
            if parameter.grad is None:
                average.lerp_(parameter, self.average_weight)
            else:
                moving.append((parameter, average, group))
                gradients.append(parameter.grad)
        if moving:
            self.gradient_norm = self._prepared(moving)(gradients, self.average_weight)
        else:
            self.gradient_norm = torch.zeros_like(self.gradient_norm)

    def _prepared(self, moving: "list[_Entry]") -> Update:
        """The update of these parameters; the last one's where all lies as it did."""
        states = [self._state_of(parameter) for parameter, *_ in moving]
        first, second, step = zip(*states, strict=True)
        parameters, averages, groups = zip(*moving, strict=True)
        state = State(parameters, first, second, averages, step)
        lr = [group["lr"] for group in groups]
        laid_out = [(tensor, tensor.data_ptr()) for kind in (*state, lr) for tensor in kind]
        same = len(laid_out) == len(self._laid_out) and all(
            one is other and at == was
            for (one, at), (other, was) in zip(laid_out, self._laid_out, strict=True)
        )
        if self._update is None or not same:
            decay = [group["weight_decay"] for group in groups]
            shared = {(*group["betas"], group["eps"]) for group in groups}
            if len(shared) > 1:
                raise ValueError(f"all groups must share betas and eps, got {sorted(shared)}")
            beta1, beta2, epsilon = shared.pop()
            constants = Constants(decay, beta1, beta2, epsilon, self.clip_norm)
            self._update, self._laid_out = Update(state, lr, constants), laid_out
        return self._update

    def _state_of(self, parameter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Moments and step count, made where there are none, and laid out as the parameter is."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(state[name])
        return state["exp_avg"], state["exp_avg_sq"], state["step"]


_Entry = tuple[Tensor, Tensor, dict[str, Any]]
"""Parameter, its average, its group."""
