"""Commands as processes of this machine."""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engine.mistakes import ConfigError
from engine.sweep import child
from engine.sweep.driver import Ended, Handle
from engine.sweep.plan import Command

_GPUS = Path("/proc/driver/nvidia/gpus")
"""Where Linux lists NVIDIA's, a folder each."""

_TAIL_BYTES = 4096
"""Of a log, within which its last line is looked for."""


class LocalWorkers:
    """So many processes at once; each writes to a log of its own.

    They stand in process groups of their own: Ctrl-C reaches this process alone, which asks them to
    stop. They end with it, see `engine.sweep.child`. Where there are GPUs, they take turns.

    Args:
        slots: processes at once.
        logs: folder of their logs; created.
        gpus: what `CUDA_VISIBLE_DEVICES` is, by slot; empty = as it is.
    """

    def __init__(self, slots: int, logs: Path, gpus: Sequence[str] = ()) -> None:
        self.slots, self._logs, self._gpus = slots, logs, gpus
        self._running: dict[int, tuple[Command, subprocess.Popen[bytes], int]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, command: Command) -> Handle:
        """Start a process."""
        taken = {slot for _, _, slot in self._running.values()}
        slot = next(number for number in range(self.slots) if number not in taken)
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        with log_file(self._logs, command).open("ab") as log:
            process = subprocess.Popen(
                child.words(command.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
            )
        self._running[process.pid] = command, process, slot
        return process.pid

    def poll(self) -> Sequence[Ended]:
        """Those that ended since the last call."""
        ended = []
        for pid, (command, process, _) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[pid]
                log = log_file(self._logs, command)
                told = f"{last_line(log)} ({log})" if code else ""
                ended.append(Ended(pid, code, told))
        return ended

    def stop(self, handle: Handle) -> None:
        """Send SIGTERM."""
        for pid, (_, process, _) in self._running.items():
            if pid == handle:
                process.terminate()

    def close(self) -> None:
        """Kill what still runs, and wait for it."""
        for _, process, _ in self._running.values():
            process.kill()
        for _, process, _ in self._running.values():
            process.wait()
        self._running.clear()


def log_file(folder: Path, command: Command) -> Path:
    """Where a command's output goes."""
    return folder / f"{command.name.replace('/', '-')}.log"


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    with suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = stream.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return "it left no log"


def cores() -> int:
    """Of this machine, that this process may use."""
    return len(os.sched_getaffinity(0))


def visible_gpus() -> list[str]:
    """The GPUs that commands may use, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    return [str(number) for number, _ in enumerate(_GPUS.iterdir())] if _GPUS.is_dir() else []


def threads_each(workers: int) -> int:
    """CPU threads of each of so many processes; a ConfigError where there are more than cores."""
    if workers > cores():
        told = f"--workers {workers}: there are {cores()} cores"
        raise ConfigError(f"{told}, and each worker needs one; type --workers {cores()}")
    return cores() // workers
