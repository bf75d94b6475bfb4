"""Where an epoch's time goes: `engine.train --profile`. Trains nothing that stays."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from rich.table import Table
from torch.profiler import ProfilerActivity

from engine.rundir import Record, RunDir
from engine.runtime.device import DevicePolicy
from engine.runtime.progress import track
from engine.training.loop import FoldTask, FoldTraining
from engine.training.phases import PhaseClock
from engine.training.step import learning_rate

WARM_STEPS, STEPS, TRACED_STEPS = 5, 20, 3
"""Steps that are not counted (libraries choose their kernels, a GPU's step is recorded), that are,
and that are traced: a trace of more is huge."""

SLOWEST = 12
"""Operations that are shown."""

NETWORK = ("forward", "backward", "replay")
"""Phases that are the network's own; on a GPU the replay holds the loss and the update too."""


class PhaseReport(Record):
    """`profile/phases.json`: where an epoch of a fold spends its time."""

    step_s: dict[str, float]
    """Median seconds by phase of a step, the slowest first."""
    checkpoint_s: float
    validation_s: float
    epoch_s: dict[str, float]
    """Seconds by phase of an epoch; validation by its share of the epochs."""
    largest: str
    """The phase with most of them."""
    network_share: float
    """Of a step, what the network's own passes take."""
    operation_s: dict[str, float]
    """Seconds a step by PyTorch's name of an operation, of a GPU's kernel there: its own, without
    those that it calls, the slowest first; traced, and therefore slower than the phases."""


def profile_fold(task: FoldTask, policy: DevicePolicy, folder: Path) -> PhaseReport:
    """Time the phases of some steps, a checkpoint and a validation of a fold.

    Writes `phases.json`, what this returns, and `trace.json.gz` of a few steps more, for
    https://ui.perfetto.dev, into `folder`; nothing else stays.
    """
    with tempfile.TemporaryDirectory(prefix="roomsmith-profile-") as scratch:
        fold = FoldTraining(replace(task, run=RunDir(Path(scratch))), policy)
        step_s, operation_s = _steps(fold, folder)
        checkpoint_s = _seconds(fold.save)
        fold.files.finish()
        validation_s = _seconds(lambda: fold.validate(1))
    epoch_s = {phase: seconds * task.steps_per_epoch for phase, seconds in step_s.items()}
    epoch_s["checkpoint"] = checkpoint_s
    epoch_s["validation"] = validation_s / task.config.training.validate_every
    report = PhaseReport(
        step_s=step_s,
        checkpoint_s=checkpoint_s,
        validation_s=validation_s,
        epoch_s=epoch_s,
        largest=max(epoch_s, key=lambda phase: epoch_s[phase]),
        network_share=sum(step_s.get(phase, 0.0) for phase in NETWORK) / sum(step_s.values()),
        operation_s=operation_s,
    )
    report.write(folder / "phases.json")
    return report


def _seconds(act: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    act()
    return time.perf_counter() - start_s


def _steps(fold: FoldTraining, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each phase and of each operation, the slowest first; writes the trace."""
    task, clock = fold.task, PhaseClock(fold.policy.device)
    source = fold.open_source()
    training, total = fold.config.training, WARM_STEPS + STEPS + TRACED_STEPS
    # As many epochs as that takes, where they are short.
    epochs = (source.batches(fold.draws(epoch, 0)) for epoch in itertools.count())
    batches = itertools.chain.from_iterable(epochs)
    clock.attach(fold.step)
    taken: list[dict[str, float]] = []
    activities = [ProfilerActivity.CPU]
    if fold.policy.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    # There is one cycle only; without the flag PyTorch 2.11 warns of what others would lose.
    trace = torch.profiler.profile(activities=activities, acc_events=True)
    with track("profile", total) as advance, ExitStack() as traced:
        for number in range(total):
            if number == WARM_STEPS + STEPS:
                traced.enter_context(trace)
            clock.start()
            batch = next(batches)
            clock.mark("data wait")
            rate = learning_rate(training, number, task.steps_per_epoch)
            fold.step(batch, rate, number, number)
            clock.mark("other")
            taken.append(clock.seconds)
            advance(1)
    folder.mkdir(parents=True, exist_ok=True)
    trace.export_chrome_trace(str(folder / "trace.json.gz"))
    measured = taken[WARM_STEPS : WARM_STEPS + STEPS]
    phases = {
        phase: statistics.median(seconds.get(phase, 0.0) for seconds in measured)
        for phase in set().union(*measured)
    }
    return _slowest_first(phases), _slowest_first(_operations(trace, fold.policy.device))


def _operations(trace: torch.profiler.profile, device: torch.device) -> dict[str, float]:
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    found = {event.key: getattr(event, own) / 1e6 / TRACED_STEPS for event in trace.key_averages()}
    return {name: seconds for name, seconds in found.items() if seconds > 0}


def _slowest_first(seconds: dict[str, float]) -> dict[str, float]:
    return dict(sorted(seconds.items(), key=lambda pair: -pair[1]))


def profile_tables(report: PhaseReport) -> tuple[Table, Table]:
    """The phases, what a step and an epoch spend in them; the slowest operations of a step."""
    return _phase_table(report), _operation_table(report)


def _operation_table(report: PhaseReport) -> Table:
    whole, count = sum(report.operation_s.values()), len(report.operation_s)
    told = f"the slowest of {count} operations, by {TRACED_STEPS} traced steps"
    table = Table(caption=told, caption_justify="left")
    for column in ("operation", "a step", "share"):
        table.add_column(column, justify="left" if column == "operation" else "right")
    for name, seconds in itertools.islice(report.operation_s.items(), SLOWEST):
        table.add_row(name[:60], f"{1000 * seconds:.2f} ms", f"{seconds / whole:.1%}")
    return table


def _phase_table(report: PhaseReport) -> Table:
    step_s, epoch_s = report.step_s, report.epoch_s
    table = Table(
        caption=f"{report.largest} is the largest; {report.network_share:.0%} of a step "
        "are the network's own passes",
        caption_justify="left",
    )
    for column in ("phase", "a step", "an epoch", "share"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase, seconds in sorted(epoch_s.items(), key=lambda pair: -pair[1]):
        one = f"{1000 * step_s[phase]:.2f} ms" if phase in step_s else ""
        share = seconds / sum(epoch_s.values())
        table.add_row(phase, one, f"{seconds:.2f} s", f"{share:.1%}")
    return table
