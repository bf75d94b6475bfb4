"""The one loop that runs a plan: by processes here, by a cluster, or simulated on a virtual clock.

A command is started when all that it depends on is done and a slot is free, those that stand first
in the plan first. What is done is told by run folders alone (`State`), so a second driver goes on
where the first one was killed. Every command may be started twice: the run folder's lease fences.
"""

import heapq
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from engine import exits, interrupts
from engine.sweep.plan import Command, Plan

_log = logging.getLogger(__name__)

Handle = Hashable
"""What `Workers` calls a command that it runs."""


class Ended(NamedTuple):
    """A command that is no longer running."""

    handle: Handle
    code: int
    """Its exit code, minus a signal's number, or anything but 0 and 2 for a worker that is lost."""
    told: str = ""
    """What it said at its end, in a line."""


class Workers(Protocol):
    """What runs commands."""

    @property
    def slots(self) -> int:
        """How many commands may run at once, at present."""

    def start(self, command: Command) -> Handle:
        """Run a command; returns at once."""

    def poll(self) -> Sequence[Ended]:
        """Commands that ended since the last call, each once."""

    def stop(self, handle: Handle) -> None:
        """Ask a command to end at its next checkpoint (SIGTERM); it is polled as any other."""

    def close(self) -> None:
        """Give back what was taken; what still runs is ended."""


class Clock(Protocol):
    """Time, real or virtual."""

    def now(self) -> float:
        """Seconds since any moment."""

    def sleep(self, seconds: float) -> None:
        """Let them pass."""


class RealClock:
    """That of the machine."""

    def now(self) -> float:
        """Seconds since any moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class State(NamedTuple):
    """How far a command got, as the files that it leaves tell."""

    done: bool
    mark: int = 0
    """Grows as it gets on: epochs of a fold."""


@dataclass(frozen=True)
class Patience:
    """How often a command that failed is run again, and when.

    Attributes:
        limit: failures in a row that bring it no further, after which it is given up.
        first_s: seconds before the first retry, doubled with each further one.
        longest_s: at most.
        poll_s: seconds between two looks at what runs.
    """

    limit: int = 5
    first_s: float = 2.0
    longest_s: float = 300.0
    poll_s: float = 0.5

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after so many failures, at least one."""
        return float(min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 60)))


@dataclass
class Tries:
    """What has become of a command so far."""

    started: int = 0
    failures: int = 0
    """In a row, without getting further."""
    held: int = 0
    """Times in a row that another process was at it."""
    mark: int = 0


@dataclass
class Outcome:
    """What became of a plan, by names of commands in the order in which it happened."""

    before: list[str] = field(default_factory=list)
    """Done already when the loop began."""
    done: list[str] = field(default_factory=list)
    failed: dict[str, Ended] = field(default_factory=dict)
    """Given up, with the last end of each."""
    blocked: list[str] = field(default_factory=list)
    """Never run, since something that they depend on was given up."""
    retried: int = 0

    @property
    def complete(self) -> bool:
        """Whether everything is done."""
        return not self.failed and not self.blocked


class Driver:
    """Runs a plan to its end, once.

    Args:
        plan: what is to be done.
        workers: who does it; closed at the end, whatever that is.
        state: how far a command got; asked before it is started and after it ended.
        clock: real or virtual.
        patience: with what failed.
        watch: called after each look at the workers, with this driver.
    """

    def __init__(
        self,
        plan: Plan,
        workers: Workers,
        state: Callable[[Command], State],
        *,
        clock: Clock | None = None,
        patience: Patience | None = None,
        watch: Callable[["Driver"], None] = lambda _: None,
    ) -> None:
        self.plan, self.workers, self.clock = plan, workers, clock or RealClock()
        self.outcome = Outcome()
        self.running: dict[Handle, Command] = {}
        self.tries: dict[str, Tries] = {}
        self._state, self._patience, self._watch = state, patience or Patience(), watch
        self._place = {command.name: at for at, command in enumerate(plan)}
        self._missing = {command.name: set(command.after) for command in plan}
        self._dependents: dict[str, list[str]] = {command.name: [] for command in plan}
        for command in plan:
            for name in command.after:
                self._dependents[name].append(command.name)
        self._ready: list[int] = []
        """Places in the plan, a heap."""
        self._later: list[tuple[float, int]] = []
        """When what failed may be tried again, and its place, a heap."""

    @property
    def waiting(self) -> Mapping[str, float]:
        """Commands that failed and are to be tried again, and in how many seconds."""
        now = self.clock.now()
        names = [(self.plan.commands[at].name, when) for when, at in self._later]
        return {name: max(0.0, when - now) for name, when in names}

    def run(self) -> Outcome:
        """Do all that is not done and can be; Ctrl-C stops what runs at a checkpoint.

        Raises `engine.interrupts.Stopped` then, once everything has ended.
        """
        try:
            with interrupts.at_checkpoints():
                self._begin()
                try:
                    while self.running or self._ready or self._later:
                        interrupts.checkpoint()
                        self._turn()
                except interrupts.Stopped:
                    self._stop()
                    raise
        finally:
            self.workers.close()
        return self.outcome

    def _begin(self) -> None:
        """Find what is done; a command is, only if all that it depends on is."""
        for command in self.plan:
            if self._missing[command.name]:
                continue
            if self._state(command).done:
                self.outcome.before.append(command.name)
                self._finish(command, ready=False)
            else:
                heapq.heappush(self._ready, self._place[command.name])

    def _turn(self) -> None:
        for ended in self.workers.poll():
            self._end(ended)
        now = self.clock.now()
        while self._later and self._later[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._later)[1])
        free = self.workers.slots - len(self.running)
        while self._ready and free > 0:
            free -= self._start(self.plan.commands[heapq.heappop(self._ready)])
        self._watch(self)
        if self.running or (self._ready and free <= 0):
            self.clock.sleep(self._patience.poll_s)
        elif self._later and not self._ready:
            self.clock.sleep(
                min(self._patience.poll_s, max(0.0, self._later[0][0] - self.clock.now()))
            )

    def _start(self, command: Command) -> bool:
        """Start a command, unless it proves to be done; whether a slot is taken."""
        state, tries = self._state(command), self.tries.setdefault(command.name, Tries())
        if state.done:
            self.outcome.done.append(command.name)
            self._finish(command)
            return False
        tries.started += 1
        tries.mark = max(tries.mark, state.mark)
        self.running[self.workers.start(command)] = command
        return True

    def _end(self, ended: Ended) -> None:
        command = self.running.pop(ended.handle)
        tries, state = self.tries[command.name], self._state(command)
        if state.done:
            self.outcome.done.append(command.name)
            self._finish(command)
            return
        if ended.code == 0:
            ended = ended._replace(told=ended.told or "it left nothing")
        if state.mark > tries.mark:
            tries.failures = 0
        # While another process is at it there is nothing that this one fails at.
        is_held = ended.code in (exits.HELD, exits.LOST)
        tries.failures += not is_held
        tries.held = tries.held + 1 if is_held else 0
        if ended.code == exits.MISTAKE or tries.failures > self._patience.limit:
            self._give_up(command, ended)
            return
        wait_s = self._patience.wait_s(tries.held or tries.failures)
        self.outcome.retried += 1
        _log.warning("%s %s; again in %.0f s", command.name, _how(ended), wait_s)
        heapq.heappush(self._later, (self.clock.now() + wait_s, self._place[command.name]))

    def _finish(self, command: Command, *, ready: bool = True) -> None:
        for name in self._dependents[command.name]:
            self._missing[name].discard(command.name)
            if ready and not self._missing[name]:
                heapq.heappush(self._ready, self._place[name])

    def _give_up(self, command: Command, ended: Ended) -> None:
        self.outcome.failed[command.name] = ended
        known = {*self.outcome.blocked}
        self.outcome.blocked += [
            name for name in self.plan.dependents(command.name) if name not in known
        ]
        why = "a mistake, not tried again" if ended.code == exits.MISTAKE else "given up"
        _log.warning("%s %s: %s", command.name, _how(ended), why)

    def _stop(self) -> None:
        """Let what runs end at a checkpoint, and wait for it."""
        if self.running:
            _log.info("waiting for %d commands to save and end", len(self.running))
        for handle in self.running:
            self.workers.stop(handle)
        while self.running:
            for ended in self.workers.poll():
                self.running.pop(ended.handle, None)
            self._watch(self)
            if self.running:
                self.clock.sleep(self._patience.poll_s)


def _how(ended: Ended) -> str:
    told = f": {ended.told}" if ended.told else ""
    return f"ended with code {ended.code}{told}"
