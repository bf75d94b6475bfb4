"""Where the time of a training step goes, by marks between its parts."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine.training.step import TrainStep


class PhaseClock:
    """Adds up seconds by phase from `start` on.

    Phases of a step: `forward`; `loss`, from predictions to their gradients; `backward`, through
    the network, and clipping; `optimizer`; `average`; on a GPU that replays the step, `replay` in
    place of the first four. Marks of a CUDA device wait for it, so phases add up to a step without
    overlap.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._last_s = 0.0

    def start(self) -> None:
        """Begin a step."""
        self.seconds = {}
        self._last_s = time.perf_counter()

    def mark(self, phase: str) -> None:
        """What happened since the last mark was `phase`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now_s = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now_s - self._last_s
        self._last_s = now_s

    def watch_step(self, step: TrainStep) -> None:
        """Mark the phases of the engine's step."""
        if step.policy.replay:  # one launch, within which no clock can be read
            step.update = self.around("replay", step.update)
        else:
            step.forward = self.forward(step.forward)
            self.watch_optimizer(step.optimizer)
        average = self.around("average", step.ema.update)
        step.ema.update = average  # type: ignore[method-assign]

    def forward(self, network: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        """`network`, timed; gradients that reach its predictions end the loss."""

        def timed(image_BCHW: Tensor) -> Any:
            self.mark("other")
            prediction = network(image_BCHW)
            self.watch(prediction)
            return prediction

        return timed

    def watch(self, prediction: Any) -> None:
        """End the forward pass here, and the loss where gradients reach these tensors."""
        self.mark("forward")
        for part in prediction:
            part.register_hook(lambda _: self.mark("loss"))

    def around(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, timed as `phase`."""

        def timed(*arguments: Any) -> Any:
            self.mark("other")
            result = call(*arguments)
            self.mark(phase)
            return result

        return timed

    def watch_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Time its steps; what came before them was the backward pass."""
        optimizer.register_step_pre_hook(lambda *_: self.mark("backward"))
        optimizer.register_step_post_hook(lambda *_: self.mark("optimizer"))
