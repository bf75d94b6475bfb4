"""How a sweep stands, while it runs: a live table on a terminal, plain lines elsewhere.

All of it is read from run folders, whoever works on them: epochs from `metrics.jsonl`, machines
from the leases.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from engine.lease import Place
from engine.owner import read_owner
from engine.rundir import RunDir
from engine.runtime.progress import PLAIN_INTERVAL_S, duration
from engine.sweep.done import epochs_to_train, training_of
from engine.sweep.driver import Driver
from engine.sweep.plan import Command

_RECENT = 3
"""Epochs by which those to come are judged, as `engine.training.time_left` does."""

_LIVE_S = 1.0
"""Seconds between two looks into run folders for the live table."""

_ROWS = 20
"""Commands that are shown at once; of more, those that began last are counted."""


class Stand(NamedTuple):
    """How far a fold is."""

    epoch: int
    epochs: int | None
    """None: nobody has begun the run."""
    miou: float | None
    """The last one measured."""
    left_s: float | None
    """By its last epochs; None before there is one."""
    at_most: bool = False
    """Whether `training.patience` may end it earlier."""


def stand_of(run: RunDir, fold: int) -> Stand:
    """How far a fold is, by its lines; a line that cannot be read is left out."""
    lines = []
    with suppress(OSError):
        for text in run.metrics(fold).read_bytes().splitlines():
            with suppress(ValueError):
                lines.append(json.loads(text))
    epochs, training = epochs_to_train(run, fold), training_of(run)
    scored = [line["miou"] for line in lines if line.get("miou") is not None]
    recent, left_s = lines[-_RECENT:], None
    if recent and epochs is not None:
        each_s = sum(line["train_s"] + line["validation_s"] for line in recent) / len(recent)
        left_s = each_s * (epochs - len(lines))
    at_most = training is not None and training.patience > 0 and bool(left_s)
    return Stand(len(lines), epochs, scored[-1] if scored else None, left_s, at_most)


def node_of(place: Place) -> str:
    """The machine of who works there; empty if nobody does."""
    with suppress(OSError):
        for entry in place.path.iterdir():
            if (entry / "owner.json").exists():
                return read_owner(entry).host
    return ""


@dataclass
class Watch:
    """Shows a driver's commands, each time that it looks."""

    console: Console
    live: Live | None
    shown_s: float = 0.0
    said: int = 0
    """Commands that were told of as done."""

    def __call__(self, driver: Driver) -> None:
        """Show how the sweep stands, if there is news or some time has passed."""
        now_s = time.monotonic()
        if self.live is not None:
            if now_s - self.shown_s >= _LIVE_S:
                self.shown_s = now_s
                self.live.update(table(driver), refresh=True)
            return
        done = driver.outcome.done
        for name in done[self.said :]:
            self._say(f"{name}: {_end(driver.plan[name])}")
        self.said = len(done)
        if now_s - self.shown_s >= PLAIN_INTERVAL_S:
            self.shown_s = now_s
            self._say(count(driver))
            for command in driver.running.values():
                self._say(f"  {', '.join(filter(None, row(command)))}")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def watching() -> Iterator[Watch]:
    """Yield what shows a sweep while it runs."""
    console = Console()
    if not console.is_terminal:
        yield Watch(console, None, shown_s=time.monotonic())
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Watch(console, live)


def table(driver: Driver) -> Table:
    """What runs at present, a row each, and how much there is."""
    shown = Table(caption=count(driver), caption_justify="left")
    for column in ("run", "fold", "epoch", "mIoU", "node", "left"):
        shown.add_column(column, no_wrap=column != "run")
    running = list(driver.running.values())
    for command in running[:_ROWS]:
        shown.add_row(*row(command))
    if len(running) > _ROWS:
        shown.add_row(f"and {len(running) - _ROWS} more")
    return shown


def row(command: Command) -> Sequence[str]:
    """Run, fold, epoch, mIoU, node and time left of a command, as words."""
    name, _, part = command.name.rpartition("/")
    if command.run is None:
        return command.name, "", "", "", "", ""
    run = RunDir(command.run)
    if command.fold is None:
        return name, part, "", "", node_of(run.results), ""
    found = stand_of(run, command.fold)
    return (
        name,
        str(command.fold),
        f"{found.epoch}/{'?' if found.epochs is None else found.epochs}",
        "" if found.miou is None else f"{found.miou:.4f}",
        node_of(run.training(command.fold)),
        "" if found.left_s is None else "at most " * found.at_most + duration(found.left_s),
    )


def count(driver: Driver) -> str:
    """How many commands are done, run, wait and failed, in a line."""
    outcome = driver.outcome
    done = len(outcome.before) + len(outcome.done)
    parts = [f"{done} of {len(driver.plan)} commands done", f"{len(driver.running)} running"]
    parts += [f"{len(driver.waiting)} to be tried again"] * bool(driver.waiting)
    parts += [f"{len(outcome.failed)} given up"] * bool(outcome.failed)
    parts += [f"{len(outcome.blocked)} behind them"] * bool(outcome.blocked)
    parts += ["no worker is free: none is there"] * (not driver.workers.slots)
    return ", ".join(parts)


def _end(command: Command) -> str:
    """What a command that is done came to."""
    if command.leaves is not None:
        return str(command.leaves)
    if command.run is None or command.fold is None:
        return "done"
    found = stand_of(RunDir(command.run), command.fold)
    return "trained" + ("" if found.miou is None else f", mIoU {found.miou:.4f}")


def results(plan_runs: Sequence[tuple[str, Path]]) -> Table | None:
    """The figures of all runs that are finished; None if none is."""
    rows = []
    for name, root in plan_runs:
        with suppress(OSError, ValueError, KeyError, TypeError):
            summary = json.loads(RunDir(root).summary.read_bytes())
            rows.append((summary["oof"]["miou"], summary["oof"]["pixel_acc"], name))
    if not rows:
        return None
    title = "finished runs, out-of-fold at label resolution"
    shown = Table("run", "mIoU", "pixel accuracy", title=title, title_justify="left")
    for miou, accuracy, name in sorted(rows, key=lambda one: -one[0]):
        shown.add_row(name, f"{miou:.4f}", f"{accuracy:.4f}")
    return shown
