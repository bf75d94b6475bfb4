"""A sweep on the terminal: its plan before it runs, and what became of it."""

import shlex
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from engine.exits import MISTAKE
from engine.runtime.progress import duration
from engine.sweep.driver import Outcome
from engine.sweep.table import results

if TYPE_CHECKING:
    from engine.sweep.command import Sweep


def show_plan(sweep: "Sweep", *, measured: bool) -> None:
    """Print runs, commands, dependencies and, if they are `measured`, core-hours."""
    console = Console(highlight=False)
    costs = None
    if measured:
        from engine.sweep.cost import costs_of

        costs = costs_of(sweep.runs, sweep.root, sweep.threads)
    shown = Table(title=f"{sweep.root}: {len(sweep.runs)} runs", title_justify="left")
    for column in ("run", "folds", "epochs", "core-hours"):
        shown.add_column(column, overflow="fold")
    for number, run in enumerate(sweep.runs):
        told = "not measured"
        if costs is not None:
            told = f"{costs[number].hours:.3g}" + (
                " GPU-hours" if not costs[number].threads else ""
            )
        folds = " ".join(map(str, run.folds))
        shown.add_row(run.name, folds, str(run.config.training.epochs), told)
    console.print(shown)
    for command in sweep.plan:
        after = f"  # after {', '.join(command.after)}" if command.after else ""
        line = f"{command.name}:{after}\n    python -m engine {shlex.join(command.argv)}"
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"{len(sweep.plan)} commands in {len(sweep.plan.stages())} stages")
    if costs is None:
        console.print("core-hours: not measured")
        return
    for kind, some in (
        ("core-hours", [cost for cost in costs if cost.threads]),
        ("GPU-hours", [cost for cost in costs if not cost.threads]),
    ):
        if some:
            alone = duration(sum(cost.seconds for cost in some))
            total = f"{sum(cost.hours for cost in some):.3g} {kind} in all"
            note = "by steps and views measured here, without checking files, atlas and blends"
            ends = sweep.asked.halving or any(run.config.training.patience for run in sweep.runs)
            note += "; no run stopped early" if ends else ""
            console.print(f"{total}, {alone} one after another: {note}", soft_wrap=True)


def show_outcome(sweep: "Sweep", outcome: Outcome) -> None:
    """Print the figures of finished runs, and what was given up, with the end of its log."""
    console = Console(highlight=False)
    table = results([(run.name, sweep.root / run.name) for run in sweep.runs])
    if table is not None:
        console.print(table)
    for name, end in outcome.failed.items():
        why = "a mistake" if end.code == MISTAKE else f"code {end.code}"
        console.print(f"given up: {name} ({why}): {end.told}", markup=False, soft_wrap=True)
    if outcome.blocked:
        told = f"not run, as they depend on these: {', '.join(outcome.blocked)}"
        console.print(told, markup=False, soft_wrap=True)
    done = f"{len(outcome.done)} commands done, {len(outcome.before)} had been before"
    again = f", {outcome.retried} tries again" if outcome.retried else ""
    console.print(f"{sweep.root}: {done}{again}", soft_wrap=True)
