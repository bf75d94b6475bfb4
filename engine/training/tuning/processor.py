"""What a processor could do faster in bfloat16, measured: offered, never taken by itself."""

import logging
import statistics
from collections.abc import Callable

import torch

from engine.runtime.forms import PLAIN
from engine.training.tuning.tuner import GAIN, MEASURING_S, TIMED, Workshop

_log = logging.getLogger(__name__)


def bf16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 (AMX or AVX-512-BF16)."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def offer_bf16(plain: Workshop, bf16: Workshop, clock: Callable[[], float]) -> str:
    """The line that says what bfloat16 would save of a step; each is timed for half the budget."""
    seconds = []
    for workshop in (plain, bf16):
        begun_s = clock()
        trial = workshop.prepare(PLAIN)
        if clock() - begun_s > MEASURING_S / 4:
            return f"bf16 was not measured: a step would take more than {MEASURING_S / 4:.0f} s"
        taken = [_time(trial.run, clock)]
        while len(taken) < TIMED and sum(taken) + taken[-1] < MEASURING_S / 2:
            taken.append(_time(trial.run, clock))
        seconds.append(statistics.median(taken))
        del trial
    share = seconds[1] / seconds[0]
    if share > 1 - GAIN:
        return f"bf16 would gain nothing: {share:.2f} of a float32 step's time"
    return f"bf16 would take {share:.2f} of a step's time: --runtime.precision bf16"


def _time(act: Callable[[], None], clock: Callable[[], float]) -> float:
    begun_s = clock()
    act()
    return clock() - begun_s
