"""A command on another machine that ends with who started it.

    python -c "from engine.sweep.kept import main; main()" LOG THREADS PROGRAM...

On another machine nobody else would end it: its starter, a worker of a cluster, dies with its node,
by SIGKILL, and may take its children with it (Ray's workers do, 2.60). So it runs below this
keeper, and the system sends it SIGTERM when that is gone, at which every command saves and ends.

The keeper passes SIGTERM on, and at SIGUSR1 kills the command, which a frozen one does not mind.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from engine.exits import SIGNALLED
from engine.sweep.child import end_with


def words(log: Path, threads: int, program: Sequence[str]) -> list[str]:
    """What to execute for a program of so many threads, whose output goes to the end of a file."""
    keep = "from engine.sweep.kept import main; main()"
    return [sys.executable, "-c", keep, str(log), str(threads), *program]


def main() -> NoReturn:
    """Keep the program that the command line names, and end with its exit code."""
    log, threads, *program = sys.argv[1:]
    starter = os.getppid()
    if starter == 1:
        raise SystemExit("whoever started this command is gone")
    end_with(starter)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(target, stream)
    # Of as many threads on every node, whatever it would choose: rounding follows from them.
    os.environ["OMP_NUM_THREADS"] = threads
    keeper, child = os.getpid(), 0

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL if number == signal.SIGUSR1 else number)

    passed = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, passed)  # until there is somebody to pass them on to
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
        end_with(keeper)
        os.execvp(program[0], program)
    for number in passed:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(code if code >= 0 else SIGNALLED - code)
