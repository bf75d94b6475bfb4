"""A sweep on a Ray cluster under storm: nodes vanish, freeze and come, the driver is killed.

    python -m tests.cluster_storm FOLDER                  two experiments, three folds, two seeds
    python -m tests.cluster_storm FOLDER --small          one experiment, two folds, one seed

On rendered rooms. First the sweep runs on this machine, one command after another; then on a local
cluster of three nodes of one core while nodes are killed, frozen (SIGSTOP of all their processes),
woken and added at random, and the driver is killed once and started again. Weights, stores,
submissions and blends have to have the same bytes, and no process may be left. A node that stands
still is given up after some seconds rather than a minute: `--still`. Prints what it did.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.cli import load_config, to_toml
from engine.rooms.dataset import render_rooms
from engine.sweep.build import plan_of
from engine.sweep.done import state_of
from engine.sweep.driver import Driver, Patience
from engine.sweep.local import LocalWorkers
from engine.sweep.ray_cluster import ray_cluster
from engine.sweep.ray_workers import RayWorkers
from engine.sweep.runs import runs_of
from engine.sweep.sweep_file import read_sweep
from tests.conftest import TINY, run_content
from tests.ray_nodes import Nodes, left_over, ray_nodes

ROOT = Path(__file__).resolve().parent.parent

NODES = 3

_LAST_S = 1800.0
"""Seconds after which a sweep has hung."""

_HASTY = (
    "import sys; from engine import owner; owner.STILL_S, owner.BEAT_S = {still}, 0.5; "
    "from engine.sweep import ray_workers as w; w.STILL_S = {still}; "
)
"""What makes a process give up sooner."""


@dataclass
class Storm:
    """A folder with rooms, a sweep file, what a calm sweep left, and one under storm."""

    root: Path
    rng: random.Random
    still_s: float
    small: bool
    did: Counter[str] = field(default_factory=Counter)

    def prepare(self) -> None:
        """Render rooms, write configs and the sweep file."""
        render_rooms(self.root / "rooms", scenes=6, frames=3, hw=(48, 64))
        folds = 2 if self.small else 3
        data = {**TINY["data"], "root": str(self.root / "rooms"), "folds": folds}
        runtime = {**TINY["runtime"], "cache": str(self.root / "cache"), "source": "resident"}
        experiments: dict[str, dict[str, Any]] = {"one": {}, "two": {"segmentation_channels": 32}}
        for name, model in list(experiments.items())[: 1 if self.small else 2]:
            training = {**TINY["training"], "epochs": 2 if self.small else 3}
            config = {
                **TINY,
                "data": data,
                "training": training,
                "runtime": runtime,
                "model": {**TINY["model"], **model},
            }
            text = to_toml(load_config([], config))
            (self.root / f"{name}.toml").write_text(text, encoding="utf-8")
        names = ["one"] if self.small else ["one", "two"]
        files = ", ".join(f"'{self.root / f'{name}.toml'}'" for name in names)
        lines = [f"experiments = [{files}]", f"seeds = [0{'' if self.small else ', 1'}]"]
        if not self.small:
            lines += ["", "[[blends]]", "name = 'all'", "method = 'equal'"]
        (self.root / "sweep.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def sweep(self, side: str, *words: str) -> subprocess.Popen[str]:
        """Start a driver, in a folder of its own: what it makes names no other."""
        folder = self.root / side
        folder.mkdir(exist_ok=True)
        hasty = _HASTY.format(still=self.still_s)
        child = f"{hasty} from engine.verbs import run; run()"
        driver = (
            f"{hasty} w.ENGINE = (sys.executable, '-c', {child!r}); "
            "from engine.command import run_main; from tests.cluster_storm import drive; "
            "run_main(drive)"
        )
        log = (folder / "driver.log").open("a", encoding="utf-8")
        return subprocess.Popen(
            [sys.executable, "-c", driver, str(self.root / "sweep.toml"), *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *_also()])},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def calm(self) -> None:
        """One command after another, on this machine."""
        start_s = time.monotonic()
        code = self.sweep("calm").wait(_LAST_S)
        assert code == 0, self.said("calm")
        self.seconds = time.monotonic() - start_s
        self.did["seconds of the calm sweep"] = round(self.seconds)

    def said(self, side: str) -> str:
        """The last lines of a driver."""
        text = (self.root / side / "driver.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-60:])

    def pass_over(self) -> None:
        """The same on a cluster that is not left in peace, until the sweep is done."""
        with ray_nodes(NODES) as nodes:
            start_s = time.monotonic()
            driver = self.sweep("storm", nodes.address)
            to_kill = self.rng.uniform(0.2, 0.6) * self.seconds
            frozen = list[tuple[float, list[psutil.Process], Any]]()
            strike_s = time.monotonic() + self.rng.uniform(10, 15)
            while driver.poll() is None:
                now_s = time.monotonic()
                assert now_s - start_s < _LAST_S, self.said("storm")
                if to_kill and now_s - start_s > to_kill:
                    driver.kill()
                    driver.wait()
                    self.did["driver killed"] += 1
                    to_kill, driver = 0, self.sweep("storm", nodes.address)
                if now_s > strike_s:
                    self.strike(nodes, frozen)
                    strike_s = now_s + self.rng.uniform(5, 15)
                for one in [one for one in frozen if one[0] < now_s]:
                    frozen.remove(one)
                    nodes.wake(one[1])
                    self.did["node woken"] += 1
                time.sleep(0.2)
            for _, processes, _ in frozen:
                nodes.wake(processes)
            assert driver.returncode == 0, self.said("storm")
            self.did["seconds of the storm"] = round(time.monotonic() - start_s)

    def strike(self, nodes: Nodes, frozen: list[tuple[float, list[psutil.Process], Any]]) -> None:
        """Do something to the cluster at random; a node at least works on."""
        asleep = [node for _, _, node in frozen]
        awake = [node for node in nodes.nodes if node not in asleep]
        choice = self.rng.choice(["kill", "freeze", "add"])
        if choice == "add" or len(awake) < 2:
            if len(nodes.nodes) < NODES + 1:
                nodes.add()
                self.did["node added"] += 1
        elif choice == "kill":
            nodes.kill(self.rng.choice(awake))
            self.did["node killed"] += 1
        else:
            node = self.rng.choice(awake)
            until_s = time.monotonic() + self.rng.uniform(0.5, 4) * self.still_s
            frozen.append((until_s, nodes.freeze(node), node))
            self.did["node frozen"] += 1

    def compare(self) -> None:
        """Hold each run and blend to the calm one's, and look for processes that are left."""
        calm, storm = self.root / "calm" / "runs", self.root / "storm" / "runs"
        runs = [path for path in sorted(calm.iterdir()) if (path / "summary.json").exists()]
        assert runs
        for run in runs:
            was, now = run_content(run), run_content(storm / run.name)
            differ = sorted(key for key in was | now if was.get(key) != now.get(key))
            assert not differ, f"{run.name} differs in {differ}"
            self.did["runs and blends of the same bytes"] += 1
        deadline_s = time.monotonic() + 60
        while (left := left_over(f"{self.root}/")) and time.monotonic() < deadline_s:
            time.sleep(0.5)
        assert not left, left
        log = (self.root / "storm" / "driver.log").read_text(encoding="utf-8", errors="replace")
        for what in ("its node is lost", "its node stands still", "it stood still", "code 75"):
            self.did[f"told: {what}"] = log.count(what)


def drive() -> int:
    """Run the sweep of a file on the cluster of an address, or here, one after another."""
    file, *address = sys.argv[1:]
    asked, root = read_sweep(Path(file)), Path("runs")
    plan = plan_of(asked, runs_of(asked, Path(file), root), root, 1)
    patience = Patience(limit=50, longest_s=5)
    if not address:
        outcome = Driver(plan, LocalWorkers(1, root / "logs"), state_of, patience=patience).run()
        return not outcome.complete
    with ray_cluster(address[0]) as ray:
        workers = RayWorkers(ray, root / "logs")
        outcome = Driver(plan, workers, state_of, patience=patience).run()
    return not outcome.complete


def _also() -> list[str]:
    """What else this process imports from."""
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def main() -> int:
    """Let the storm pass over a folder; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster_storm", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="made, and left for a look if something differs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--still", type=float, default=10.0, help="seconds (%(default)s)")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    storm = Storm(folder, random.Random(options.seed), options.still, options.small)
    try:
        storm.prepare()
        storm.calm()
        storm.pass_over()
        storm.compare()
    finally:
        for what, count in storm.did.items():
            sys.stdout.write(f"{count:4d} {what}\n")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
