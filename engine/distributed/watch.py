"""Ends all processes of a training soon after one of them fails, and says once why.

Each process has a thread that beats in the store that torchrun keeps, by a connection of its own,
and looks at the others' beats. A process that fails says so in the store; one that was killed is
missed by the others at once, on its own machine; else as one that stands still, after `STILL_S`.
The training thread may wait for a dead process inside a collective, where no exception reaches it;
the thread then ends the process itself. That loses no more than a kill does, which is what was not
saved: a lease whose owner is gone is taken over.
"""

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from engine.distributed.process import Process
from engine.exits import SIGNALLED
from engine.interrupts import SIGNALS, Stopped

BEAT_S = 1.0
"""Seconds between two beats."""

STILL_S = 20.0
"""Seconds without a beat after which a process is given up. Compilation and a slow file server keep
a thread from beating for less; with what follows, all ends within 30 s."""

LEAVE_S = 3.0
"""Seconds that the training thread has to notice by itself that others have gone."""

_END_S = 8.0
"""Seconds from then on that it has to clean up."""

_GO_ON = "--resume goes on with what was saved last"


@dataclass(frozen=True)
class Fault:
    """What ends a training; the first one counts."""

    rank: int
    told: str
    code: int
    """That processes end with: 2 if it is the user's mistake."""


class FaultError(RuntimeError):
    """Another process of the training failed; its exit code is this one's."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.told)
        self.exit_code = fault.code


class Silent(SystemExit):
    """This process ends, and another one says why."""


class Watch:
    """See the module; begun by `start`, and ended by `finish` or, once, by `failed`."""

    def __init__(  # noqa: PLR0913 - what differs between a process and a test
        self,
        store: Store,
        rank: int,
        size: int,
        says: Callable[[BaseException], tuple[str, int]],
        tell: Callable[[str], None],
        *,
        beat_s: float = BEAT_S,
        still_s: float = STILL_S,
    ) -> None:
        """Make a watch.

        Args:
            store: of this object alone.
            rank: of this process.
            size: how many there are.
            says: the message and the exit code of a command that an error ends.
            tell: says what ended the training, where nobody else does.
            beat_s: seconds between two beats.
            still_s: seconds without one after which a process is given up.
        """
        self.rank, self.size, self._says, self._tell = rank, size, says, tell
        self._store, self._beat_s, self._still_s = store, beat_s, still_s
        self._here = Process.this()
        self._who = dict[int, Process]()
        self._beats, self._missed = dict[int, int](), dict.fromkeys(range(size), 0)
        self._silence, self._is_deaf = 0, False
        self._fault: Fault | None = None
        self._known, self._ending, self._done = (threading.Event() for _ in range(3))

    def start(self) -> None:
        """Begin to beat and to look."""
        self._store.set(f"who/{self.rank}", self._here.to_json())
        for name, work in (("beats", self._beat), ("watch", self._guard)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def finish(self) -> None:
        """Stop: this process is done, as it should be."""
        with suppress(RuntimeError):  # the store may have ended with the first process
            self._store.set(f"done/{self.rank}", "")
        self._done.set()

    def failed(self, error: BaseException) -> BaseException:
        """What to raise in place of an error that ends this process; others are told of it.

        Of many errors one is told: by the first process, or where that one is gone by another.
        Waits up to `STILL_S` where the error only says that others do not answer.
        """
        for number in SIGNALS:  # torchrun ends all that are left by one, which is not what is told
            signal.signal(number, signal.SIG_IGN)
        told, code = self._says(error)
        told = f"rank {self.rank} of {self.size} ({self._here}): {told.removeprefix('error: ')}"
        own = Fault(self.rank, told, code)
        follows, stopped = _follows(error), isinstance(error, Stopped)
        if follows or stopped:
            # A signal may be torchrun's, which ends those that are left.
            self._known.wait(self._still_s + 3 * self._beat_s if follows else 2 * self._beat_s)
        if self._fault is None:
            self._publish(own)
        fault = self._fault or own
        # All were asked to stop, or this process has a message of its own.
        if (stopped and fault.code > SIGNALLED) or not (self.rank or follows or stopped):
            fault = own
        self._ending.set()
        # At its end the interpreter would wait for collectives that nobody answers.
        atexit.register(_leave, fault.code)
        if (self.rank and not self._is_gone(0)) or not self._claims():
            return Silent(fault.code)
        self._end(fault)
        if self.rank:
            self._tell(fault.told)
            return Silent(fault.code)
        if fault is own:
            return error
        return FaultError(fault)

    def _beat(self) -> None:
        with suppress(RuntimeError):  # the guard notices that it is silent
            while not self._done.wait(self._beat_s):
                self._store.add(f"beat/{self.rank}", 1)
                self._look()
                self._silence = 0

    def _look(self) -> None:
        if self._store.check(["fault"]):
            self._learn(Fault(**json.loads(self._store.get("fault"))))
            return
        for rank in range(self.size):
            if rank == self.rank or self._store.check([f"done/{rank}"]):
                continue
            if rank not in self._who:
                if not self._store.check([f"who/{rank}"]):
                    continue  # it is still on its way here: whoever starts it waits for that
                self._who[rank] = Process.parse(self._store.get(f"who/{rank}"))
            beats = self._store.add(f"beat/{rank}", 0)
            # Beats of this process's own clock: after it slept itself, nobody is to blame.
            still = beats == self._beats.get(rank)
            self._missed[rank] = self._missed[rank] + 1 if still else 0
            self._beats[rank] = beats
            if told := self._wrong_with(rank):
                self._publish(Fault(rank, told, 1))
                return

    def _wrong_with(self, rank: int) -> str | None:
        process, named = self._who[rank], f"rank {rank} of {self.size} ({self._who[rank]})"
        if process.is_gone():
            if self._store.check([f"done/{rank}"]) or self._store.check(["fault"]):
                return None
            return f"{named} is gone: killed, perhaps for memory, or crashed; {_GO_ON}"
        if self._missed[rank] * self._beat_s < self._still_s:
            return None
        why = "it is stopped" if process.is_stopped() else "it, its machine or the network"
        return f"{named} has given no sign of life for {self._still_s:.0f} s: {why}; {_GO_ON}"

    def _guard(self) -> None:
        """End this process where its training thread does not."""
        while not self._known.wait(self._beat_s):
            if self._done.is_set():
                return
            self._silence += 1
            if self._silence * self._beat_s > self._still_s + self._beat_s:
                self._is_deaf = True
                told = f"rank 0 of {self.size} keeps the store and does not answer; {_GO_ON}"
                self._learn(Fault(0, told, 1))
        if not self._ending.wait(LEAVE_S):
            fault = self._fault
            assert fault is not None  # it is known
            # In turn, if the first process is gone: one tells.
            if self.rank and self._done.wait(self.rank * self._beat_s):
                return
            if self._claims():
                self._end(fault)
                self._tell(fault.told)
            _leave(fault.code)
        if not self._done.wait(_END_S):
            _leave(self._fault.code if self._fault else 1)

    def _end(self, fault: Fault) -> None:
        """End the process that a fault is of, where it stands still and can be ended from here."""
        process = self._who.get(fault.rank)
        if fault.rank != self.rank and process is not None and process.is_stopped():
            process.kill()

    def _publish(self, fault: Fault) -> None:
        """Let others know of a fault, unless one of theirs was first."""
        if self._is_deaf:
            return
        told = json.dumps(asdict(fault))
        with suppress(RuntimeError):
            told = self._store.compare_set("fault", "", told).decode()
        self._learn(Fault(**json.loads(told)))

    def _learn(self, fault: Fault) -> None:
        if self._fault is None:
            self._fault = fault
            self._known.set()

    def _claims(self) -> bool:
        """Whether it is this process that tells."""
        if self._is_deaf:
            return self.rank == 1
        try:
            return bool(self._store.add("told", 1) == 1)
        except RuntimeError:  # the store is gone, with whoever kept it
            return True

    def _is_gone(self, rank: int) -> bool:
        process = self._who.get(rank)
        still = self._missed[rank] * self._beat_s >= self._still_s / 2
        return still or (process is not None and process.is_gone())


@contextmanager
def watched(
    rank: int,
    size: int,
    says: Callable[[BaseException], tuple[str, int]],
    tell: Callable[[str], None],
    *,
    beat_s: float = BEAT_S,
    still_s: float = STILL_S,
) -> Iterator[None]:
    """Watch the processes that torchrun started, this one among them, while something runs.

    Arguments as of `Watch`. An error within becomes what `Watch.failed` says.
    """
    watch = Watch(_connect(), rank, size, says, tell, beat_s=beat_s, still_s=still_s)
    watch.start()
    try:
        yield
    except BaseException as error:
        raised = watch.failed(error)
        if raised is error:
            raise
        raise raised from error
    watch.finish()


def _connect() -> Store:
    """A connection to torchrun's store, for names of this attempt's own."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(  # type: ignore[attr-defined] # it is, but in no list
        host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=STILL_S)
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"watch/{attempt}", store)


def _follows(error: BaseException | None) -> bool:
    """Whether an error says no more than that other processes do not answer."""
    while error is not None:
        if isinstance(error, dist.DistError) or (
            isinstance(error, RuntimeError) and "gloo" in str(error).lower()
        ):
            return True
        error = error.__cause__
    return False


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
