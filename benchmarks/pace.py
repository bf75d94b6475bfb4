"""The time that a command may take, shared among its parts, and a line that tells how far it is."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from benchmarks.figures import Limit, say
from engine.runtime.progress import duration


class Pace(AbstractContextManager["Pace"]):
    """Shares a budget among the parts that are left; without one it only tells.

    What a part leaves of its share the later ones have; what it takes beyond it they lack, and one
    that finds nothing left is not begun. Within `with` the last line of a terminal says what is
    being done; elsewhere each message is a line of its own.
    """

    def __init__(
        self,
        budget_s: float = math.inf,
        parts: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock.

        Args:
            budget_s: seconds of all parts together.
            parts: names, in the order in which they begin.
            clock: seconds.
        """
        self._parts, self._clock = list(parts), clock
        self._end_s = self._share_end_s = clock() + budget_s
        # Drawn when told, not by a thread, whose time would be the sides'. What goes to a file
        # stays there.
        to_terminal = sys.stderr.isatty()
        self._line = Live(
            console=Console(), auto_refresh=False, transient=True, redirect_stderr=to_terminal
        )

    def __enter__(self) -> Self:
        if self._line.console.is_terminal:
            self._line.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._line.stop()

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left, at least 0."""
        return max(0.0, self._end_s - self._clock())

    def begin(self, part: str) -> bool:
        """Begin a part, which has an equal share of what is left; False: nothing is left for it."""
        share_s = self.left_s / len(self._parts) if part in self._parts else self.left_s
        self._share_end_s = self._clock() + share_s
        if part in self._parts:
            self._parts.remove(part)
        if not share_s:
            say(f"{part}: left out, the time is spent; give it a longer --budget-s")
        return share_s > 0

    def limit(self, rounds: int, sides: int) -> Limit:
        """How often each of so many sides is called in what is left of the part's share."""
        return Limit(rounds, max(0.0, self._share_end_s - self._clock()) / sides)

    def tell(self, words: str) -> None:
        """Say what is being done, and how long it takes at most."""
        if math.isfinite(self.left_s):
            words = f"{words}; at most {duration(self.left_s)} left"
        if self._line.is_started:
            self._line.update(Text(words), refresh=True)
        else:
            say(words)
