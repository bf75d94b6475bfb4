"""Runs commands on a Ray cluster, which is handed words and no objects of ours.

A command is an actor of the standard library's own `subprocess.Popen` on a node that is chosen
here, a core for each of its threads: nothing of ours is pickled, and a node needs no more than the
program that the words name, on the folders that all share. Ray retries nothing: the driver does,
which reads in run folders what is done.

Who is given up, after `still_s` of this process's own seconds:

-   a node that does not answer. Ray takes it for dead at about the same time; what it ran is run
    elsewhere, and where it wakes its lease is gone (`engine.lease`);
-   a command whose node answers and whose heart stands (`engine.owner`), after twice that: it is
    killed, which a frozen process does not mind. Before it holds a lease it has no heart.
"""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine import exits
from engine.lease import Place
from engine.owner import STILL_S, beat_of
from engine.rundir import RunDir
from engine.sweep.driver import Ended, Handle
from engine.sweep.kept import words
from engine.sweep.local import last_line, log_file
from engine.sweep.plan import Command

_log = logging.getLogger(__name__)

ENGINE = (sys.executable, "-m", "engine")
"""What comes before the words of a command; the interpreter is at the same path on all nodes."""

_GRACE_S = 30.0
"""Seconds in which what still runs at the end may save."""

_ASK_S = 1.0
"""Seconds between two questions to a node whether a command has ended."""


@dataclass
class _Running:
    """A command on a node."""

    command: Command
    node: str
    actor: Any
    """Of `subprocess.Popen`."""
    asked: Any
    """The reference of the question that is open: has it ended?"""
    heard_s: float
    """When its node last answered, or was first asked."""
    begun: bool = False
    """Whether its node ever answered."""
    beat: object = None
    beat_s: float | None = None
    """What its heart last left, and when that was seen to change."""


class RayWorkers:
    """`Workers` of a Ray cluster.

    Args:
        ray: the module, connected; see `ray_cluster`.
        logs: folder for what commands say, a file each; shared by all nodes.
        threads: of a command, and cores that it takes.
        gpus: that it takes.
        program: what comes before its words; empty = `ENGINE`.

    Attributes:
        still_s: seconds after which what stands still is given up.
    """

    def __init__(
        self,
        ray: Any,
        logs: Path,
        *,
        threads: int = 1,
        gpus: int = 0,
        program: Sequence[str] = (),
    ) -> None:
        self._ray, self._logs, self._program = ray, logs.absolute(), tuple(program or ENGINE)
        self._threads, self._gpus = threads, gpus
        self.still_s, self._now = STILL_S, time.monotonic
        self._running: dict[int, _Running] = {}
        self._silent: dict[str, list[_Running]] = {}
        """Nodes that were given up, each with what it ran; they have not answered yet."""
        self._number = 0
        self._logs.mkdir(parents=True, exist_ok=True)

    @property
    def slots(self) -> int:
        """Commands that all nodes together have room for, but for those that do not answer."""
        return sum(self._rooms().values())

    def node_of(self, handle: Handle) -> str:
        """The name of the machine that a command runs on."""
        node = self._running[_number_of(handle)].node
        return next(
            (n["NodeManagerHostname"] for n in self._ray.nodes() if n["NodeID"] == node), ""
        )

    def start(self, command: Command) -> Handle:
        """Run a command on the node that has most room; returns at once."""
        self._number += 1
        self._running[self._number] = self._place(command)
        return self._number

    def poll(self) -> Sequence[Ended]:
        """Commands that ended, were lost with their node, or given up; each once."""
        self._hear_the_silent()
        ended = []
        for handle, running in list(self._running.items()):
            found = self._look(handle, running)
            if found is not None:
                del self._running[handle]
                ended.append(found)
        return ended

    def stop(self, handle: Handle) -> None:
        """Ask a command to end at its next checkpoint."""
        self._running[_number_of(handle)].actor.terminate.remote()

    def close(self) -> None:
        """End what still runs: it may save first."""
        for handle in self._running:
            self.stop(handle)
        deadline_s = self._now() + _GRACE_S
        while self._running and self._now() < deadline_s:
            self.poll()
            time.sleep(min(_ASK_S, self.still_s) / 4)
        silent = [running for given_up in self._silent.values() for running in given_up]
        for running in (*self._running.values(), *silent):
            self._ray.kill(running.actor)
        self._running.clear()

    @cached_property
    def _popen(self) -> Any:
        # Ray asks each member for its signature, which this one has not (Ray 2.60, Python 3.11).
        body = {"__module__": subprocess.__name__, "__class_getitem__": None}
        return self._ray.remote(type("Popen", (subprocess.Popen,), body))

    def _rooms(self) -> dict[str, int]:
        """How many commands each node has room for, by its id."""
        rooms = {}
        for node in self._ray.nodes():
            if node["Alive"] and node["NodeID"] not in self._silent:
                has = node["Resources"]
                room = int(has.get("CPU", 0) // self._threads)
                if self._gpus:
                    room = min(room, int(has.get("GPU", 0) // self._gpus))
                rooms[node["NodeID"]] = room
        return rooms

    def _place(self, command: Command) -> _Running:
        """Have a node begin a command."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        rooms = self._rooms()
        for running in self._running.values():
            if running.node in rooms:
                rooms[running.node] -= 1
        # No node at all: the next look says so, and the driver tries again.
        node = max(rooms, key=lambda each: rooms[each], default="0" * 56)
        log = log_file(self._logs, command)
        actor = self._popen.options(
            num_cpus=self._threads,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote(
            words(log, self._threads, [*self._program, *command.argv]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=str(Path.cwd()),
            start_new_session=True,
        )
        beat = _beat(command)
        return _Running(command, node, actor, actor.poll.remote(), self._now(), beat=beat)

    def _look(self, handle: int, running: _Running) -> Ended | None:
        """How a command ended, or why it is given up; None while it runs."""
        now_s = self._now()
        ready, _ = self._ray.wait([running.asked], timeout=0)
        if not ready:
            # A worker of Ray takes seconds to begin, and one on a busy machine many.
            still_s = self.still_s if running.begun else max(self.still_s, STILL_S)
            if now_s - running.heard_s < still_s:
                return None
            return self._give_up_node(handle, running)
        if running.begun and now_s - running.heard_s < min(_ASK_S, self.still_s / 4):
            return None
        ended, heard = self._answered(handle, running)
        if ended is not None:
            self._ray.kill(running.actor)
            return ended
        running.asked = running.actor.poll.remote()
        if not heard:
            late = now_s - running.heard_s > self.still_s
            return self._give_up_node(handle, running) if late else None
        running.begun, running.heard_s = True, now_s
        return self._listen(handle, running)

    def _listen(self, handle: int, running: _Running) -> Ended | None:
        """Look at the heart of a command whose node answers."""
        now_s, beat = self._now(), _beat(running.command)
        if beat is None or beat != running.beat:
            running.beat, running.beat_s = beat, now_s
            return None
        # Until it changes it is what an earlier owner left, which its successor takes in time.
        late = running.beat_s is not None and now_s - running.beat_s > 2 * self.still_s
        return self._give_up_command(handle, running) if late else None

    def _answered(self, handle: int, running: _Running) -> tuple[Ended | None, bool]:
        """What a node says of a command, or that it is no more, None: it runs; whether it spoke."""
        try:
            code = self._ray.get(running.asked)
        except self._ray.exceptions.ActorUnavailableError:  # the network's, and may pass
            return None, False
        except self._ray.exceptions.RayError as error:
            told = f"its node is lost: {_first_line(error)}"
            return Ended(handle, exits.TROUBLE, told), True
        if code is None:
            return None, True
        log = log_file(self._logs, running.command)
        return Ended(handle, code, f"{last_line(log)} ({log})" if code else ""), True

    def _give_up_node(self, handle: int, running: _Running) -> Ended:
        # Not killed: Ray would at once answer in its place. It is when the node wakes.
        self._silent.setdefault(running.node, []).append(running)
        told = "%s: its node has not answered for %.0f s, and gets nothing to do until it does"
        _log.warning(told, running.command.name, self.still_s)
        return Ended(handle, exits.LOST, "its node stands still")

    def _give_up_command(self, handle: int, running: _Running) -> Ended:
        told = "%s: its heart has not beaten for %.0f s, and it is killed"
        _log.warning(told, running.command.name, 2 * self.still_s)
        self._ray.wait([running.actor.send_signal.remote(signal.SIGUSR1)], timeout=_GRACE_S)
        self._ray.kill(running.actor)
        return Ended(handle, exits.LOST, "it stood still")

    def _hear_the_silent(self) -> None:
        """Give nodes that answer again something to do, once what they ran is ended.

        Of one that Ray took for dead meanwhile, Ray answers.
        """
        for node, given_up in list(self._silent.items()):
            for running in list(given_up):
                if self._ray.wait([running.asked], timeout=0)[0]:
                    self._ray.kill(running.actor)
                    given_up.remove(running)
            if not given_up:
                del self._silent[node]


def place_of(command: Command) -> Place | None:
    """What a command leases while it works; None where it leases nothing."""
    if command.run is None:
        return None
    run = RunDir(command.run)
    return run.results if command.fold is None else run.training(command.fold)


def _beat(command: Command) -> object:
    place = place_of(command)
    return None if place is None else beat_of(place.path)


def _number_of(handle: Handle) -> int:
    assert isinstance(handle, int), "one of ours"
    return handle


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
