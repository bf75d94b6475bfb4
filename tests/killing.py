"""Run engine.train several times on one folder, each time killed by SIGKILL at a given moment.

    python tests/killing.py '[["step", 3], ["write last.pt", 1], null]' TRAIN-ARGUMENTS

A moment is an event and how often it has happened in that call; null lets the call end. The events:

    step          a training step is done
    fold K        training of fold K is about to begin
    write NAME    a new version of NAME is half on disk, under its temporary name
    renamed NAME  a new version of NAME has just appeared
    pwrite        half of a map or mask of predictions is on disk
    unlink        a file is about to be removed
    lease         an entry of a lease, or what it holds, is about to get another name, or just has
    any           each of these, and each sync to disk; such a call may also end before its count

With "full" behind its count, from the moment on no file can grow, as on a full disk; such a call
has to end by saying so, or without having written anything more.

Every call after the first has --resume. Each is a fork of one process that has imported
everything, which spares the imports' seconds; torch has computed nothing before the fork, but for
what a pass on the meta device takes, which loads SymPy.
"""

import json
import os
import resource
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

import engine.experiment
import engine.train
from engine.command import start_logging
from engine.full_disk import DiskFullError
from engine.runtime.device import DevicePolicy
from engine.runtime.memory import pass_bytes
from engine.training.loop import FoldTask, FoldTraining
from engine.training.step import TrainStep

pass_bytes(nn.Conv2d(3, 4, 3), 3)  # each fork would load SymPy

TRACE = "KILLING_TRACE"
"""The file that events are noted in, one a line; for whoever wants to see them."""


class Killer:
    """Ends the process, or fills the disk, when the event has happened `count` times."""

    def __init__(self, event: str, count: int, ending: str = "kill") -> None:
        self.event, self.count, self.ending = event, count, ending
        self.seen: Counter[str] = Counter()

    def happens(self, event: str) -> bool:
        """Whether the process should die of this event."""
        self.seen[event] += 1
        self.seen["any"] += 1
        if trace := os.environ.get(TRACE):
            with Path(trace).open("a", encoding="utf-8") as stream:
                stream.write(f"{event}\n")
        now = any(self.seen[e] == self.count for e in {event, "any"} & {self.event})
        if now and self.ending == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return now and self.ending == "kill"

    def kill(self) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")


def install(killer: Killer) -> None:
    """Let the events pass the killer."""
    train_step, replace, unlink = TrainStep.__call__, Path.replace, Path.unlink
    rename = Path.rename
    pwrite, fsync, begin_fold = os.pwrite, os.fsync, FoldTraining.__init__

    def killing_fold(
        self: FoldTraining, task: FoldTask, policy: DevicePolicy, **named: Any
    ) -> None:
        if killer.happens(f"fold {task.fold}"):
            killer.kill()
        begin_fold(self, task, policy, **named)

    def killing_step(self: TrainStep, *arguments: Any, **named: Any) -> None:
        train_step(self, *arguments, **named)
        if killer.happens("step"):
            killer.kill()

    def killing_replace(self: Path, target: Path) -> Path:
        if killer.happens(f"write {target.name}"):
            if self.suffix == ".tmp":  # others were whole and synced before they got this name
                os.truncate(self, self.stat().st_size // 2)
            killer.kill()
        result = replace(self, target)
        if killer.happens(f"renamed {target.name}"):
            killer.kill()
        return result

    def killing_rename(self: Path, target: Path) -> Path:
        if killer.happens("lease"):
            killer.kill()
        result = rename(self, target)
        if killer.happens("lease"):
            killer.kill()
        return result

    def killing_unlink(self: Path, missing_ok: bool = False) -> None:
        if self.exists() and killer.happens("unlink"):
            killer.kill()
        unlink(self, missing_ok=missing_ok)

    def killing_pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if killer.happens("pwrite"):
            pwrite(descriptor, data[: len(data) // 2], offset)
            killer.kill()
        return pwrite(descriptor, data, offset)

    def killing_fsync(descriptor: int) -> None:
        if killer.happens("fsync"):
            killer.kill()
        fsync(descriptor)

    FoldTraining.__init__ = killing_fold  # type: ignore[method-assign]
    TrainStep.__call__ = killing_step  # type: ignore[method-assign]
    Path.replace = killing_replace  # type: ignore[method-assign, assignment]
    Path.rename = killing_rename  # type: ignore[method-assign, assignment]
    Path.unlink = killing_unlink  # type: ignore[method-assign]
    os.pwrite = killing_pwrite  # type: ignore[assignment]
    os.fsync = killing_fsync  # type: ignore[assignment]


def call(moment: list[Any] | None, arguments: list[str]) -> int:
    """Run the command in a fork; its exit code, or minus the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        install(Killer(*(moment or ("never", 0))))
        start_logging()
        code = engine.train.main(arguments)
        sys.stdout.flush()
    except DiskFullError as error:
        sys.stdout.write(f"error: {error}\n")
        sys.stdout.flush()
        code = 1
    finally:
        os._exit(code)


def main() -> None:
    moments, arguments = json.loads(sys.argv[1]), sys.argv[2:]
    for number, moment in enumerate(moments):
        code = call(moment, arguments + ["--resume"] * (number > 0))
        if code == 0 and moment and moment[0] == "any":
            return
        is_full = bool(moment) and moment[2:] == ["full"]
        wanted = (1, 0) if is_full else (-signal.SIGKILL,) if moment else (0,)
        if code not in wanted:
            raise SystemExit(f"call {number} until {moment} ended with {code}, not {wanted}")


if __name__ == "__main__":
    main()
