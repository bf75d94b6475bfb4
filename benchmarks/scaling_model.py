"""python -m benchmarks.scaling_model: what 1 to 64 GPUs, and machines that vanish, would come to.

Nothing is measured here: constants that were measured elsewhere, and assumptions with their date,
go through a model of a step, and through the loop that runs real sweeps, on a virtual clock.
"""

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.command import parser, write_json
from engine.command import run_main
from engine.owner import STILL_S
from engine.sweep.driver import Driver, Ended, Handle, Patience, State
from engine.sweep.plan import Command, Plan

GRADIENT_MB = 359.0
"""Of the largest published network, in float32."""

STEP_MS = {"replayed": 42.3, "compiled": 29.4}
"""Measured: exp093_5, batch 4, bf16, on one H100 (docs/limits.md)."""

FIXED_MS = 3.0
"""Assumed, November 2026: of a step what its frames do not change: optimiser, launches."""

FRAMES = 4
"""Of such a step."""

HOST_GPUS = 8
NVLINK_GB_S = 360.0
"""Assumed, November 2026: bus bandwidth of an all-reduce in a host of eight H100s."""

LINKS = {"NVLink only": math.inf, "100 Gb/s": 100.0, "25 Gb/s": 25.0}
"""Gigabits a second between hosts; the first: as if all GPUs were in one."""

LINK_SHARE = 0.9
"""Assumed: of a link's rate that an all-reduce gets."""

HOP_MS = 0.03
"""Assumed: latency of a round between two hosts."""

BACKWARD = 2 / 3
"""Share of a step in which gradients become ready one after another, to be sent meanwhile."""


def all_reduce_ms(gpus: int, link_gbit_s: float) -> float:
    """Milliseconds to add the gradients of so many GPUs, eight in a host, and give all the sum.

    Within a host by reduce-scatter and all-gather, between hosts a ring of each GPU's eighth over
    the host's one link (Patarasuk and Yuan 2009).
    """
    inside = min(gpus, HOST_GPUS)
    hosts = -(-gpus // HOST_GPUS)
    if math.isinf(link_gbit_s):
        inside, hosts = gpus, 1
    spent_ms = 2 * (inside - 1) / inside * GRADIENT_MB / NVLINK_GB_S
    if hosts > 1:
        link_mb_ms = link_gbit_s / 8 * LINK_SHARE
        spent_ms += 2 * (hosts - 1) / hosts * GRADIENT_MB / link_mb_ms
        spent_ms += 2 * (hosts - 1) * HOP_MS
    return spent_ms


def step_ms(one_ms: float, gpus: int, link_gbit_s: float, *, frames: float, overlap: bool) -> float:
    """Milliseconds of a step of `frames` a GPU, whose gradients are sent behind or while made."""
    work_ms = FIXED_MS + (one_ms - FIXED_MS) * frames / FRAMES
    sent_ms = all_reduce_ms(gpus, link_gbit_s)
    return work_ms + max(0.0, sent_ms - BACKWARD * work_ms if overlap else sent_ms)


class Row(NamedTuple):
    """A step on so many GPUs over a link."""

    step: str
    link: str
    gpus: int
    all_reduce_ms: float
    weak: float
    """Efficiency, 0..1, with four frames a GPU, gradients sent while they are made."""
    weak_behind: float
    """Likewise, sent when all are there: `training.reduce = "tree"` and replayed graphs."""
    strong: float
    """Speed-up of a global batch of 64, sent while they are made; ideal: the number of GPUs."""


def scaling() -> list[Row]:
    """Every row, predicted."""
    rows = []
    for step, one_ms in STEP_MS.items():
        for link, gbit_s in LINKS.items():
            for gpus in (1, 2, 4, 8, 16, 32, 64):
                whole_ms = FIXED_MS + (one_ms - FIXED_MS) * 64 / FRAMES
                weak, behind = (
                    one_ms / step_ms(one_ms, gpus, gbit_s, frames=FRAMES, overlap=overlap)
                    for overlap in (True, False)
                )
                share_ms = step_ms(one_ms, gpus, gbit_s, frames=64 / gpus, overlap=True)
                sent_ms = all_reduce_ms(gpus, gbit_s)
                rows.append(Row(step, link, gpus, sent_ms, weak, behind, whole_ms / share_ms))
    return rows


VANISH_AN_HOUR = 0.05
MACHINES, RUNS, FOLDS = 100, 1000, 5
FOLD_S, FINISH_S = 3600.0, 300.0
"""Assumed: of a fold's training, and of what follows all folds of a run."""

START_S = 90.0
"""Assumed: until a command that goes on trains: imports, frames, 68 s to compile."""

BACK_S = 300.0
"""Assumed: until a machine that vanished is replaced."""


class VirtualClock:
    """Time that passes when it is waited for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        """Seconds since the beginning."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Go on to then."""
        self.seconds += seconds


class Vanishing:
    """Machines that vanish at a rate, by a generator of their own, and are replaced.

    A command saves every so many seconds of training; with 0 at the moment when its machine is told
    to go, and gives its lease back. Without, whoever goes on watches the lease for `STILL_S` first,
    as `engine.lease` does: this is how it enters, for its files have real times.
    """

    def __init__(self, clock: VirtualClock, saves_s: float, machines: int, seed: int = 0) -> None:
        import numpy as np

        self.clock, self.saves_s = clock, saves_s
        self.trained_s: dict[str, float] = {}
        self.busy_s = self.lost_s = 0.0
        self.vanished = 0
        self._drawn = np.random.default_rng(seed)
        self._machines, self._gone = machines, list[float]()
        self._ends: list[tuple[float, int, str, float | None]] = []
        self._torn: set[str] = set()
        self._started = 0

    @property
    def slots(self) -> int:
        """Machines that are there."""
        while self._gone and self._gone[0] <= self.clock.now():
            heapq.heappop(self._gone)
        return self._machines - len(self._gone)

    def start(self, command: Command) -> Handle:
        """Run it until it is done or its machine vanishes."""
        needed_s = _needed_s(command) - self.trained_s.get(command.name, 0.0)
        before_s = START_S + (STILL_S if command.name in self._torn else 0.0)
        lasts_s = float(self._drawn.exponential(3600 / VANISH_AN_HOUR))
        self._started += 1
        done = lasts_s >= before_s + needed_s
        ran_s = before_s + needed_s if done else lasts_s
        trained_s = None if done else max(0.0, lasts_s - before_s)
        end = self.clock.now() + ran_s, self._started, command.name, trained_s
        heapq.heappush(self._ends, end)
        self.busy_s += ran_s
        return self._started

    def poll(self) -> Sequence[Ended]:
        """What ended until now."""
        ended = []
        while self._ends and self._ends[0][0] <= self.clock.now():
            at_s, handle, name, trained_s = heapq.heappop(self._ends)
            if trained_s is None:
                self.trained_s[name] = math.inf
                ended.append(Ended(handle, 0))
                continue
            kept_s = trained_s
            if self.saves_s:
                kept_s -= math.fmod(trained_s, self.saves_s)
                self._torn.add(name)
            self.trained_s[name] = self.trained_s.get(name, 0.0) + kept_s
            self.lost_s += trained_s - kept_s
            self.vanished += 1
            heapq.heappush(self._gone, at_s + BACK_S)
            ended.append(Ended(handle, -9 if self.saves_s else 143, "its machine vanished"))
        return ended

    def stop(self, handle: Handle) -> None:
        """Nobody stops this sweep."""
        raise NotImplementedError(f"{handle} cannot be stopped")

    def close(self) -> None:
        """Nothing was taken."""

    def state(self, command: Command) -> State:
        """As a run folder tells it: minutes of training that are kept."""
        trained_s = self.trained_s.get(command.name, 0.0)
        done = math.isinf(trained_s)
        return State(done, 0 if done else int(trained_s // 60))


class Loss(NamedTuple):
    """What vanishing machines cost a sweep."""

    saves_s: float
    """Seconds between two savings; 0: at once."""
    vanished: int
    overhead: float
    """Processors' time beyond that of an undisturbed sweep, 0..1."""
    expected: float
    """The same by hand: rate times what each vanishing costs."""
    trained_anew_s: float
    """Of training that was lost, each time a machine vanished."""
    hours: float
    """From the first command to the last."""


def vanish(saves_s: float, runs: int = RUNS, machines: int = MACHINES, seed: int = 0) -> Loss:
    """Simulate a sweep; raises RuntimeError if the loop gives a command up."""
    plan = sweep_plan(runs)
    clock = VirtualClock()
    workers = Vanishing(clock, saves_s, machines, seed)
    driver = Driver(plan, workers, workers.state, clock=clock, patience=Patience(poll_s=10.0))
    outcome = driver.run()
    if not outcome.complete:
        raise RuntimeError(f"{len(outcome.failed)} commands were given up")
    undisturbed_s = sum(START_S + _needed_s(command) for command in plan)
    overhead = workers.busy_s / undisturbed_s - 1
    # A lease is watched and a start is repeated each time, and half a span of training is lost.
    each_s = START_S + (saves_s / 2 + STILL_S if saves_s else 0.0)
    rate = VANISH_AN_HOUR / 3600
    expected = rate * each_s / (1 - rate * each_s)
    anew_s = workers.lost_s / max(workers.vanished, 1)
    return Loss(saves_s, workers.vanished, overhead, expected, anew_s, clock.seconds / 3600)


def sweep_plan(runs: int) -> Plan:
    """Each run's folds, and what follows them."""
    commands = []
    for run in range(runs):
        folds = [Command(f"run{run}/fold{fold}", ("train",), fold=fold) for fold in range(FOLDS)]
        end = Command(f"run{run}/end", ("train",), after=tuple(one.name for one in folds))
        commands += [*folds, end]
    return Plan(commands)


def _needed_s(command: Command) -> float:
    return FINISH_S if command.fold is None else FOLD_S


SAVES_S = (0.0, 8.46, 240.0, 1800.0)
"""At once; every 200 steps of 42.3 ms, and of 1.2 s; every half an hour."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables."""
    command = parser("scaling_model", __doc__)
    command.add_argument("--runs", type=int, default=RUNS, help="of the sweep (default: 1000)")
    options = command.parse_args(arguments)
    import logging

    from rich.console import Console
    from rich.table import Table

    logging.getLogger("engine").setLevel(logging.ERROR)  # each vanishing is a warning
    names = ("step", "between hosts", "GPUs", "all-reduce ms", "weak", "weak, behind", "strong")
    table, rows = Table(*names, title="predicted"), scaling()
    for row in rows:
        numbers = f"{row.all_reduce_ms:.1f}", f"{row.weak:.2f}", f"{row.weak_behind:.2f}"
        table.add_row(row.step, row.link, str(row.gpus), *numbers, f"{row.strong:.1f}")
    Console().print(table)
    losses = [vanish(saves_s, options.runs) for saves_s in SAVES_S]
    heads = ("saves every s", "vanished", "overhead %", "by hand %", "trained anew s", "hours")
    table = Table(*heads, title=f"{options.runs} runs on {MACHINES} machines, simulated")
    for loss in losses:
        shares = f"{100 * loss.overhead:.2f}", f"{100 * loss.expected:.2f}"
        saves = f"{loss.saves_s:g}" if loss.saves_s else "at once"
        lost = f"{loss.trained_anew_s:.1f}", f"{loss.hours:.1f}"
        table.add_row(saves, str(loss.vanished), *shares, *lost)
    Console().print(table)
    if options.json is not None:
        found = {"scaling": [row._asdict() for row in rows]}
        write_json(options.json, found | {"sweep": [loss._asdict() for loss in losses]})
    return 0


if __name__ == "__main__":
    run_main(main)
