"""One of two processes that wait for each other, one of which fails: for test_watch.py.

python -m tests.distributed.failing KIND RUN, in the environment that torchrun sets
"""

import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist

from engine.command import run_main
from engine.distributed import watch
from engine.interrupts import at_checkpoints
from engine.mistakes import ConfigError
from engine.run_log import logged, message_and_code, tell_end
from engine.rundir import RunDir

BEAT_S, STILL_S = 0.1, 2.0


def main() -> int:
    """Add up until something happens; rank 1 fails by KIND, rank 0 by 0KIND."""
    kind, run = sys.argv[1], RunDir(Path(sys.argv[2]))
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    with (
        logged(run) if rank == 0 else nullcontext(),
        watch.watched(
            rank,
            2,
            message_and_code,
            lambda told: tell_end(run, told),
            beat_s=BEAT_S,
            still_s=STILL_S,
        ),
    ):
        work(rank, kind)
    dist.destroy_process_group()
    return 0


def work(rank: int, kind: str) -> None:
    """Steps of a training."""
    number = torch.ones(1)
    with at_checkpoints():
        for step in range(4 if kind == "busy" else 100000):
            if step == 3 and rank == int(kind.startswith("0")) ^ 1:
                (Path(sys.argv[2]) / "failed").touch()
                fail(kind.removeprefix("0"))
            dist.all_reduce(number)
            time.sleep(0.01)


def fail(kind: str) -> None:
    """Fail so."""
    if kind == "raise":
        raise RuntimeError("the loss or its gradient is not finite")
    if kind == "mistake":
        raise ConfigError("training.parts = 3; type another")
    if kind == "unforeseen":
        raise KeyError("nobody foresaw")
    if kind == "busy":  # a thread that has the interpreter beats on
        end_s = time.monotonic() + 2 * STILL_S
        while time.monotonic() < end_s:
            sum(range(10000))
        return
    os.kill(os.getpid(), {"lost": signal.SIGKILL, "frozen": signal.SIGSTOP}[kind])
    time.sleep(60)


if __name__ == "__main__":
    run_main(main, several=True)
