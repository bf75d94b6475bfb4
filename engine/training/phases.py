"""Where the time of a training step goes, by marks between its parts."""

import time

import torch

from engine.model.network import Prediction


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

    def watch(self, prediction: Prediction) -> None:
        """End the forward pass here, and the loss where gradients reach the prediction."""
        self.mark("forward")
        for part in prediction:
            part.register_hook(lambda _: self.mark("loss"))  # type: ignore[no-untyped-call]
