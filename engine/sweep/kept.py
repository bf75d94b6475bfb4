"""python -m engine.sweep.kept LOG THREADS PROGRAM ...: a command that ends with who started it.

On another machine nobody else would end it: its starter, a worker of a cluster, dies with its node,
by SIGKILL. The system then sends this process SIGTERM, at which every command saves and ends.
"""

import ctypes
import os
import signal
import sys

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl.h


def main(arguments: list[str]) -> None:
    """Become the program: its process, and its output at the end of a file."""
    log, threads, *program = arguments
    starter = os.getppid()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):  # Linux
        libc.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != starter or starter == 1:  # it died before it could be asked for
        raise SystemExit("whoever started this command is gone")
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(target, stream)
    # Of as many threads on every node, whatever it would choose: rounding follows from them.
    os.environ["OMP_NUM_THREADS"] = threads
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
