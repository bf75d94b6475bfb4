"""Progress of long work: a live bar on a terminal, plain lines elsewhere, time left on both.

The time left is told by what was done lately, as the machine may be busier now than before; the
clock stands still while kernels are compiled.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich import progress as rich
from rich.console import Console

from kernels.compiling import work_s

PLAIN_INTERVAL_S = 20.0
"""Seconds between two plain lines: a log of an hour stays readable."""

RECENT_S = 60.0
"""Seconds by whose work the time left is told: three plain lines."""


@contextmanager
def track(description: str, total: int | None, done: int = 0) -> Iterator["Advance"]:
    """Show the progress of `total` units of work, of which `done` were done before."""
    behind = rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeElapsedColumn()
    ahead = "left", rich.TimeRemainingColumn(), "{task.fields[note]}"
    columns = "{task.description}", *behind, *ahead
    bar = rich.Progress(
        *columns,
        console=Console(),
        transient=True,
        get_time=work_s,
        speed_estimate_period=RECENT_S,
    )
    bar.add_task(description, total=total, completed=done, visible=total is not None, note="")
    # A bar that was not started counts all the same.
    with bar if bar.console.is_terminal else nullcontext():
        yield Advance(bar)


@contextmanager
def track_total(description: str) -> Iterator[Callable[[int, int], None]]:
    """As `track`, for work that learns its total later and tells (units done, units in all)."""
    with track(description, None) as advance:
        yield lambda done, total: advance(done - advance.task.completed, total=total)


class Advance:
    """Tells the progress that more is done."""

    def __init__(self, bar: rich.Progress) -> None:
        self._bar, (self.task,) = bar, bar.tasks
        self._shown_s = work_s()
        # Seconds and units: of the last second and of each before it, as far as `RECENT_S` goes.
        self._recent = deque([(self._shown_s, self.task.completed)])

    def __call__(self, count: float, note: str = "", total: int | None = None) -> None:
        """Advance by `count`, with a short note on the state; a bar keeps the last one."""
        task, now_s = self.task, work_s()
        note_shown = note or task.fields["note"]
        self._bar.update(task.id, total=total, advance=count, visible=True, note=note_shown)
        if now_s - self._recent[-1][0] >= 1:
            self._recent.append((now_s, task.completed))
            while len(self._recent) > 2 and now_s - self._recent[1][0] >= RECENT_S:
                self._recent.popleft()
        if self._bar.console.is_terminal or now_s - self._shown_s < PLAIN_INTERVAL_S:
            return
        self._shown_s = now_s
        then_s, before = self._recent[0]
        parts = [f"{task.completed}/{task.total}"]
        if task.completed > before:
            seconds_each = (now_s - then_s) / (task.completed - before)
            parts += [f"{duration((task.remaining or 0) * seconds_each)} left"]
        parts += [note] if note else []
        print(f"{task.description}: {', '.join(parts)}", flush=True)


def duration(seconds: float) -> str:
    """`7.2 s`, `3 min 05 s` or `1 h 02 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
