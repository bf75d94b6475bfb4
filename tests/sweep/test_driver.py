"""The loop that runs a plan, on a virtual clock with commands that only pretend."""

import errno
import itertools
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from engine import exits
from engine.damage import DamageError
from engine.full_disk import DiskFullError
from engine.interrupts import Stopped, heeded
from engine.lease import HeldError, LostError
from engine.mistakes import ConfigError
from engine.sweep.driver import Driver, Ended, Handle, Outcome, Patience, State
from engine.sweep.plan import Command, Plan


class VirtualClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += max(seconds, 1e-3)


class Pretended:
    """Workers whose commands take 10 s and end with the codes that a test says, then with 0.

    A command that ends with 0 is done; each try that ends with another code brings it as many
    epochs further as `gains` says.
    """

    def __init__(
        self, codes: dict[str, list[int]] | None = None, slots: int = 2, gains: int = 0
    ) -> None:
        self.codes, self.free, self.gains = codes or {}, slots, gains
        self.clock = VirtualClock()
        self.started: list[tuple[float, str]] = []
        self.stopped: list[str] = []
        self.closed = 0
        self.marks: dict[str, int] = {}
        self.finished: set[str] = set()
        self.most = 0
        self._running: dict[int, tuple[Command, float]] = {}

    @property
    def slots(self) -> int:
        return self.free

    def start(self, command: Command) -> Handle:
        self.started.append((self.clock.now(), command.name))
        self._running[len(self.started)] = command, self.clock.now() + 10
        self.most = max(self.most, len(self._running))
        return len(self.started)

    def poll(self) -> Sequence[Ended]:
        ended = []
        for number, (command, end_s) in list(self._running.items()):
            if end_s <= self.clock.now():
                del self._running[number]
                codes = self.codes.get(command.name, [])
                code = codes.pop(0) if codes else 0
                if code == 0:
                    self.finished.add(command.name)
                self.marks[command.name] = self.marks.get(command.name, 0) + self.gains
                ended.append(Ended(number, code, "told"))
        return ended

    def stop(self, handle: Handle) -> None:
        assert isinstance(handle, int)
        command, _ = self._running[handle]
        self.stopped.append(command.name)
        self.codes[command.name] = [143]
        self._running[handle] = command, self.clock.now() + 1

    def close(self) -> None:
        self.closed += 1

    def state(self, command: Command) -> State:
        return State(command.name in self.finished, self.marks.get(command.name, 0))


def two_runs() -> Plan:
    commands = []
    for run in "ab":
        folds = tuple(f"{run}/fold{fold}" for fold in range(2))
        commands += [Command(name, ("train",)) for name in folds]
        commands.append(Command(f"{run}/finish", ("train",), after=folds))
    commands.append(Command("leaderboard", ("report",), after=("a/finish", "b/finish")))
    return Plan(commands)


def drive(
    workers: Pretended,
    watch: Callable[[Driver], None] = lambda _: None,
    limit: int = 5,
    first_s: float = 2,
    longest_s: float = 300,
) -> Outcome:
    patience = Patience(limit, first_s, longest_s, poll_s=1.0)
    driver = Driver(
        two_runs(), workers, workers.state, clock=workers.clock, watch=watch, patience=patience
    )
    outcome = driver.run()
    assert workers.closed == 1
    assert not driver.running
    return outcome


def names(workers: Pretended) -> list[str]:
    return [name for _, name in workers.started]


def test_a_plan_refuses_a_name_twice_and_a_dependency_that_is_not_before() -> None:
    with pytest.raises(ValueError, match="two commands are called a"):
        Plan([Command("a", ()), Command("a", ())])
    with pytest.raises(ValueError, match="a depends on b, which is not before it"):
        Plan([Command("a", (), after=("b",)), Command("b", ())])


def test_stages_hold_what_may_run_at_once_and_dependents_are_found_through_others() -> None:
    plan = two_runs()
    stages = [[command.name for command in stage] for stage in plan.stages()]
    assert stages == [
        ["a/fold0", "a/fold1", "b/fold0", "b/fold1"],
        ["a/finish", "b/finish"],
        ["leaderboard"],
    ]
    assert plan.dependents("a/fold1") == ["a/finish", "leaderboard"]
    assert plan.dependents("leaderboard") == []


def test_everything_is_done_once_after_what_it_depends_on_and_no_slot_is_left_empty() -> None:
    workers = Pretended(slots=2)
    outcome = drive(workers)
    assert outcome.complete
    assert sorted(names(workers)) == sorted(command.name for command in two_runs())
    starts = {name: start_s for start_s, name in workers.started}
    for command in two_runs():
        assert all(starts[name] + 10 <= starts[command.name] for name in command.after)
    assert workers.most == 2
    # Five rounds of 10 s: a's folds; its end, b's first; b's second; its end; the leaderboard.
    assert workers.clock.seconds == pytest.approx(50, abs=1)


def test_a_run_is_finished_before_the_next_begins_where_slots_are_few() -> None:
    workers = Pretended(slots=1)
    drive(workers)
    assert names(workers) == [command.name for command in two_runs()]


def test_what_is_done_is_not_done_again() -> None:
    workers = Pretended()
    workers.finished = {"a/fold0", "a/fold1", "a/finish", "b/fold1"}
    outcome = drive(workers)
    assert names(workers) == ["b/fold0", "b/finish", "leaderboard"]
    assert outcome.before == ["a/fold0", "a/fold1", "a/finish", "b/fold1"]
    again = Pretended()
    again.finished = {command.name for command in two_runs()}
    assert drive(again).complete
    assert again.started == []


def test_a_mistake_is_not_tried_again_and_blocks_only_what_depends_on_it() -> None:
    workers = Pretended({"a/fold1": [2]})
    outcome = drive(workers)
    assert names(workers).count("a/fold1") == 1
    assert list(outcome.failed) == ["a/fold1"]
    assert outcome.failed["a/fold1"].told == "told"
    assert outcome.blocked == ["a/finish", "leaderboard"]
    assert "b/finish" in outcome.done
    assert not outcome.complete


def test_trouble_is_tried_again_after_longer_and_longer_waits_up_to_a_limit() -> None:
    workers = Pretended({"b/fold0": [1] * 9})
    outcome = drive(workers, limit=3, first_s=20, longest_s=50)
    starts = [start_s for start_s, name in workers.started if name == "b/fold0"]
    waits = [later - before - 10 for before, later in itertools.pairwise(starts)]
    assert waits == [pytest.approx(20, abs=1), pytest.approx(40, abs=1), pytest.approx(50, abs=1)]
    assert list(outcome.failed) == ["b/fold0"]
    assert outcome.retried == 3


def test_failures_that_brought_something_further_do_not_count_together() -> None:
    workers = Pretended({"b/fold0": [-9] * 9}, gains=1)
    outcome = drive(workers, limit=1, first_s=1)
    assert outcome.complete
    assert names(workers).count("b/fold0") == 10


def test_what_another_process_is_at_is_tried_until_that_one_is_done() -> None:
    workers = Pretended({"b/fold0": [75] * 9})
    outcome = drive(workers, limit=1, first_s=1, longest_s=4)
    assert outcome.complete
    assert names(workers).count("b/fold0") == 10


def test_a_command_that_ends_well_and_leaves_nothing_has_failed() -> None:
    workers = Pretended()
    workers.state = lambda command: State(done=False)  # type: ignore[method-assign]
    outcome = drive(workers, limit=1, first_s=1)
    assert set(outcome.failed) == {"a/fold0", "a/fold1", "b/fold0", "b/fold1"}
    assert outcome.failed["a/fold0"].code == 0


def test_a_command_that_is_killed_after_its_last_file_is_done() -> None:
    workers = Pretended({"a/fold0": [-9]})
    workers.state = lambda command: State(  # type: ignore[method-assign]
        command.name in workers.finished or workers.marks.get(command.name) is not None
    )
    assert drive(workers).complete
    assert names(workers).count("a/fold0") == 1


def test_slots_that_come_and_go_are_used_as_they_are() -> None:
    workers = Pretended(slots=0)

    def change(driver: Driver) -> None:
        workers.free = 0 if workers.clock.now() < 100 else 4

    assert drive(workers, change).complete
    assert workers.started[0][0] >= 100
    assert workers.most == 4


def test_a_signal_stops_what_runs_waits_for_its_end_and_starts_nothing_more() -> None:
    workers = Pretended(slots=2)

    def interrupt(driver: Driver) -> None:
        if workers.clock.now() > 12 and not workers.stopped:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped), heeded():
        drive(workers, interrupt)
    assert workers.stopped == ["a/finish", "b/fold0"]
    assert len(workers.started) == 4
    assert workers.closed == 1
    assert workers.poll() == []  # nothing runs any more


def test_what_another_process_holds_or_took_over_is_tried_again_without_end() -> None:
    workers = Pretended({"a/fold0": [75] * 8 + [76] * 4})
    outcome = drive(workers, limit=1)
    assert outcome.complete
    assert names(workers).count("a/fold0") == 13


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a mistake"), 2),
        (FileNotFoundError("in our words"), 2),
        (FileNotFoundError(errno.ENOENT, "gone", "a temporary name"), 1),
        (OSError(errno.EIO, "the disk", "a file"), 1),
        (DiskFullError("no room"), 1),
        (DamageError(Path("file"), "torn"), 1),
        (RuntimeError("the world"), 1),
        (HeldError("held"), 75),
        (LostError("lost"), 76),
    ],
)
def test_only_a_mistake_ends_with_the_code_that_is_not_tried_again(
    error: BaseException, code: int
) -> None:
    assert exits.code_of(error) == code
    assert exits.is_retried(code) == (code != 2)
