"""Where the time of a training step goes, by marks between its parts."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine.model.network import Prediction
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

    def attach(self, step: TrainStep) -> None:
        """Let every call of `step` mark its phases; what it computes stays the same."""
        forward, average, replays = step.forward, step.learner.ema, step.policy.replay

        def marked(act: Callable[..., Any], phase: str) -> Callable[..., Any]:
            def call(*inputs: Any) -> Any:
                self.mark("other")
                done = act(*inputs)
                self.mark(phase)
                return done

            return call

        def marked_forward(image_BCHW: Tensor) -> Prediction:
            # Every part of a batch but the first comes after the backward pass of another.
            self.mark("backward" if "loss" in self.seconds else "other")
            prediction = forward(image_BCHW)
            self.mark("forward")
            for part in prediction:
                part.register_hook(lambda _: self.mark("loss"))  # type: ignore[no-untyped-call]
            return prediction

        step.update = marked(step.update, "replay" if replays else "other")
        average.update = marked(average.update, "average")  # type: ignore[method-assign]
        # Within a replay no clock can be read.
        if not replays:
            step.forward = marked_forward
            step.learner.optimizer.register_step_pre_hook(lambda *_: self.mark("backward"))
            step.learner.optimizer.register_step_post_hook(lambda *_: self.mark("optimizer"))
