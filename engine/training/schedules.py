"""Learning rates over the steps of a fold that are neither `cosine_epoch` nor `warmup_cosine`."""

import math

from engine.config import TrainingConfig

_FROM, _TO = 1 / 25, 1 / 250_000
"""Where `one_cycle` starts and ends, as shares of its peak: torch's."""


def share_of_peak(config: TrainingConfig, step: int, steps: int) -> float:
    """What step `step` of `steps`, counted from 0, has of the peak, above 0 and at most 1.

    `linear` rises over the first `warmup` of the steps and falls to 0 after the last, both in
    straight lines. `one_cycle` rises and falls by half a cosine each, as
    `torch.optim.lr_scheduler.OneCycleLR` does; momentum stays as it is.

    Source: Smith and Topin, "Super-convergence: very fast training of neural networks using large
    learning rates", 2019.
    """
    if config.schedule == "linear":
        warmup = round(config.warmup * steps)
        if step < warmup:
            return (step + 1) / warmup
        return 1 - (step - warmup) / max(steps - warmup, 1)
    last = steps - 1
    top = min(max(config.warmup * steps - 1, 0.0), last)
    if step < top:
        return _by_cosine(_FROM, 1.0, step / top)
    return _by_cosine(1.0, _TO, (step - top) / max(last - top, 1.0))


def _by_cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))
