"""A run under storm: killed, opened twice, frozen; each time it ends with the same bytes.

    python -m tests.storm FOLDER --kills 100 --openings 20 --sleepers 10 --pairs 2 --copies 20

kills      SIGKILL at random moments of training and blending, by time or by event (`killing`),
           from the first check of the files to the last one of the blend; each call on another
           day, some before the last call's. A run has about ten.
openings   a second process on the same folder while the first one works; then either is killed
sleepers   as over a file system without locks: stopped at a random moment, taken over, woken
pairs      two processes on the two folds of one run, at the same time
copies     two copies of one fold at once, as a scheduler that delivers twice starts them; one is
           frozen at a random moment, with its lock, given up by the other, and woken

Each call is a fork of one process that has imported everything. The data folder is read-only, and
looked at after all. Prints what it did; whatever differs is an AssertionError.
"""

import argparse
import errno
import fcntl
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

import engine.blend
import engine.experiment
import engine.report.show
import engine.selection.blend_search
import engine.train
from engine import exits, owner
from engine.cli import load_config, to_toml
from engine.command import run_main
from engine.frames.prune import prune
from engine.owner import read_owner
from tests.conftest import TINY, run_content, write_tiny
from tests.killing import Killer, install

STILL_S = 0.5
"""Of a sleeper: short, for a test."""


@dataclass
class Storm:
    """One folder: data, a cache, an undisturbed run and its blend, and runs under storm."""

    root: Path
    rng: random.Random
    did: Counter[str] = field(default_factory=Counter)
    """How often what happened."""
    logs: dict[int, Path] = field(default_factory=dict)
    """What calls that go on say, by their process number."""

    def prepare(self) -> None:
        """Make data, config and what undisturbed calls leave."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_tiny(self.root / "data")
        runtime = {"source": "resident", "cache": str(self.root / "cache")}
        config = {
            **TINY,
            "data": {**TINY["data"], "root": str(self.root / "data")},
            "training": {**TINY["training"], "epochs": 1},
            "runtime": {**TINY["runtime"], **runtime},
        }
        text = to_toml(load_config([], config))
        (self.root / "tiny.toml").write_text(text, encoding="utf-8")
        for path in [self.root / "data", *(self.root / "data").rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        self.data = self.look_at_data()
        start_s = time.monotonic()
        self.finish("calm", blend=True)
        self.seconds = time.monotonic() - start_s
        self.calm = run_content(self.root / "calm"), run_content(self.root / "calm-blend")

    def look_at_data(self) -> list[tuple[str, int, int]]:
        """What writing to the data folder would change, by whoever may."""
        paths = [self.root / "data", *sorted((self.root / "data").rglob("*"))]
        return [(str(path), path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in paths]

    def train(self, name: str, *more: str) -> list[str]:
        """The arguments of a call."""
        config, out = str(self.root / "tiny.toml"), str(self.root / name)
        return ["--config", config, "--out", out, "--resume", *more]

    def blend(self, name: str) -> list[str]:
        """The arguments of a blend, always of the same runs."""
        runs = [str(self.root / "one"), str(self.root / "two")]
        return [*runs, "--out", str(self.root / f"{name}-blend"), "--method", "equal"]

    def finish(self, name: str, *, blend: bool = False) -> None:
        """Let a run end, undisturbed, and its blend."""
        code, said = self.wait(self.start(engine.train.main, self.train(name)))
        assert code == 0, said
        if not blend:
            return
        for other in ("one", "two"):
            if not (self.root / other).exists():
                shutil.copytree(self.root / name, self.root / other)
        code, said = self.wait(self.start(engine.blend.main, self.blend(name)))
        assert code == 0, said

    def start(
        self,
        main: Callable[[list[str]], int],
        arguments: list[str],
        *before: Callable[[], None],
    ) -> int:
        """Begin a call in a fork, after `before`; its process number."""
        log = self.root / f".log-{time.monotonic_ns()}"
        sys.stdout.flush()
        child = os.fork()
        if child:
            self.logs[child] = log
            return child
        code = 70
        try:
            target = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(target, 1)
            os.dup2(target, 2)
            for act in before:
                act()
            run_main(lambda: main(arguments))
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            if sys.exc_info()[1] is not None:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, child: int) -> tuple[int, str]:
        """The exit code of a call, minus a signal's number, and what it said."""
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log = self.logs.pop(child)
        said = log.read_text(encoding="utf-8") if log.exists() else ""
        log.unlink(missing_ok=True)
        assert code in (0, exits.HELD, exits.LOST, -signal.SIGKILL), f"{code}: {said}"
        assert "Traceback" not in said, said
        return code, said

    def compare(self, name: str) -> None:
        """Hold a run, its blend, if there is one, and the cache to the calm ones; forget them."""
        for part, calm in zip((name, f"{name}-blend"), self.calm, strict=True):
            if not (self.root / part).exists():
                continue
            now = run_content(self.root / part)
            differ = sorted(key for key in calm | now if calm.get(key) != now.get(key))
            assert not differ, f"{part} differs in {differ}"
            shutil.rmtree(self.root / part)
        prune(self.root / "cache", None, None, wait=True)
        left = [path.name for path in (self.root / "cache").iterdir() if ".part" in path.name]
        assert not left, left
        shutil.rmtree(self.root / "cache")
        assert self.look_at_data() == self.data, "something was written beside the data"
        self.did["runs compared"] += 1

    def kill(self, name: str, main: Callable[[list[str]], int], arguments: list[str]) -> bool:
        """Start a call and kill it at a random moment; whether it ended before."""
        by_event, day_s = self.rng.random() < 0.6, self.rng.uniform(-10, 10) * 86_400
        event = ("any", self.rng.randint(1, 45)) if by_event else ("never", 0)
        child = self.start(main, arguments, lambda: shift_clock(day_s), lambda: strike(*event))
        if not by_event:
            time.sleep(self.rng.uniform(0, 0.6 * self.seconds))
            os.kill(child, signal.SIGKILL)
        code, said = self.wait(child)
        assert code in (0, -signal.SIGKILL), said
        self.did[f"killed: {name}"] += code != 0
        return code == 0

    def kills(self, count: int) -> None:
        """Kill at least so many calls; runs that end are compared."""
        done = 0
        while done < count:
            for name, main, arguments in (
                ("train", engine.train.main, self.train("storm")),
                ("blend", engine.blend.main, self.blend("storm")),
            ):
                while not self.kill(name, main, arguments):
                    done += 1
            self.compare("storm")

    def opening(self) -> None:
        """Open a run twice, at random moments; the second is refused, or waits for the first."""
        start_s = self.rng.uniform(0, 0.8 * self.seconds)
        first = self.start(engine.train.main, self.train("twice"))
        time.sleep(start_s)
        second = self.start(engine.train.main, self.train("twice"))
        time.sleep(self.rng.uniform(0.1, 0.5 * self.seconds))
        if self.rng.random() < 0.5:
            os.kill(self.rng.choice([first, second]), signal.SIGKILL)
        for child in (first, second):
            code, said = self.wait(child)
            if code == exits.HELD:
                assert "is held by another process: " in said, said
                assert ", which loses nothing" in said, said
            refused = "refused" if code == exits.HELD else "waited" * ("waiting: " in said)
            self.did["opened twice: " + (refused or ("killed" if code else "ended"))] += 1
        self.finish("twice")
        self.compare("twice")

    def sleeper(self) -> None:
        """Stop a call at a random moment, take its leases, wake it."""
        first = self.start(engine.train.main, self.train("sleep"), lock_nothing("first"))
        time.sleep(self.rng.uniform(0.1, 0.9 * self.seconds))
        os.kill(first, signal.SIGSTOP)
        second = self.start(engine.train.main, self.train("sleep"), lock_nothing("second"))
        time.sleep(self.rng.uniform(0, 1.2 * self.seconds + STILL_S))
        os.kill(first, signal.SIGCONT)
        codes = list[int]()
        for child in (first, second):
            code, said = self.wait(child)
            lost, held = "was taken over from this process" in said, "is held by" in said
            assert code == 0 or lost or held, said
            outcome = "lost its lease" if lost else "was refused" if held else "ended"
            self.did[f"sleeper, {'second' if codes else 'first'}: {outcome}"] += 1
            codes.append(code)
        self.finish("sleep")
        self.compare("sleep")

    def copies(self) -> None:
        """Train one fold by two processes at once; one is frozen, the other goes on when it may."""
        name, arguments = "copies", self.train("copies", "--folds", "0")
        both = [self.start(engine.train.main, arguments, hasten) for _ in range(2)]
        time.sleep(self.rng.uniform(0, 0.6 * self.seconds))
        owners = [read_owner(entry).pid for entry in (self.root / name).glob(".fold0.lease/*")]
        frozen = next((child for child in both if child in owners), self.rng.choice(both))
        os.kill(frozen, signal.SIGSTOP)
        (other,) = [child for child in both if child != frozen]
        code, said = self.wait(other)
        while code:  # as who retries does: a second copy finds the lease held
            assert code == exits.HELD, said
            self.did["copies: held, tried again"] += 1
            time.sleep(0.1)
            code, said = self.wait(self.start(engine.train.main, arguments, hasten))
        self.did["copies: a frozen owner given up"] += "its owner stands still" in said
        content = run_content(self.root / name)
        os.kill(frozen, signal.SIGCONT)
        code, said = self.wait(frozen)
        ends = {0: "ended", exits.HELD: "was refused", exits.LOST: "lost its lease"}
        self.did[f"copies, the frozen one: {ends[code]}"] += 1
        if code == exits.LOST:
            assert "was taken over from this process" in said, said
            assert run_content(self.root / name) == content, "the one that woke wrote something"
        self.finish(name)
        self.compare(name)

    def pair(self) -> None:
        """Train both folds of a run at the same time."""
        pair = [self.start(engine.train.main, self.train("pair", "--folds", fold)) for fold in "01"]
        for child in pair:
            code, said = self.wait(child)
            assert code == 0, said
        assert (self.root / "pair" / "seal.json").exists(), "whoever ends last completes the run"
        self.did["pairs"] += 1
        self.finish("pair")
        self.compare("pair")


def hasten() -> None:
    """Let this process watch an owner for a moment only, and its own heart beat faster."""
    owner.STILL_S, owner.BEAT_S = STILL_S, 0.05


def strike(event: str, count: int) -> None:
    """Let this process die when the event has happened so often."""
    install(Killer(event, count))


def shift_clock(seconds: float) -> None:
    """Let this process live on another day."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def lock_nothing(system: str) -> Callable[[], None]:
    """Let this process be on another machine, over a file system without locks but the cache's."""

    def act() -> None:
        lock = fcntl.flock

        def flock(stream: object, operation: int) -> None:
            if isinstance(stream, int):  # a lease's; that of the cache is a file
                raise OSError(errno.ENOLCK, "no locks available")
            lock(stream, operation)  # type: ignore[arg-type]

        fcntl.flock = flock
        owner.system = lambda: system
        hasten()

    return act


def main() -> int:
    """Let the storm pass over a folder; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="made, and left for a look if something differs")
    for name in ("kills", "openings", "sleepers", "pairs", "copies", "seed"):
        parser.add_argument(f"--{name}", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process that has threads of OpenMP cannot be forked
    storm = Storm(options.folder / "storm", random.Random(options.seed))
    options.folder.mkdir(parents=True, exist_ok=True)
    storm.prepare()
    try:
        storm.kills(options.kills)
        for _ in range(options.openings):
            storm.opening()
        for _ in range(options.sleepers):
            storm.sleeper()
        for _ in range(options.pairs):
            storm.pair()
        for _ in range(options.copies):
            storm.copies()
    finally:
        for what, count in sorted(storm.did.items()):
            sys.stdout.write(f"{count:4d} {what}\n")
    for path in (storm.root / "data").rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
