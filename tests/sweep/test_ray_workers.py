"""Commands on a Ray cluster: plain words, nodes that die and freeze, nothing left over."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine import exits

if find_spec("ray") is None:
    pytest.skip("needs Ray: pip install '.[ray]'", allow_module_level=True)

from engine.sweep.driver import Ended
from engine.sweep.plan import Command
from engine.sweep.ray_cluster import ray_cluster
from engine.sweep.ray_workers import RayWorkers
from tests.ray_nodes import Nodes, left_over, listening, ray_nodes

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at by /proc"),
]

STILL_S = 4.0
"""Seconds without an answer after which a node of a test is given up."""

PROGRAM = """
import os, signal, sys, time
folder, name, seconds = sys.argv[1:]
note = os.path.join(folder, name)
def save(*_):
    open(note + ".saved", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("begun", os.environ["OMP_NUM_THREADS"], os.environ.get("SECRET"), flush=True)
open(note + f".begun-{os.getpid()}", "w").close()
time.sleep(float(seconds))
print("the last word", file=sys.stderr)
sys.exit(int(name[-1]))
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes(2) as cluster, ray_cluster(cluster.address):
        yield cluster


@pytest.fixture
def workers(nodes: Nodes, tmp_path: Path) -> Iterator[RayWorkers]:
    program = (sys.executable, "-c", PROGRAM, str(tmp_path))
    import ray  # not before `ray_nodes`, by which all of it stays on this machine

    made = RayWorkers(ray, tmp_path / "logs", program=program)
    made.still_s = STILL_S
    yield made
    made.close()
    wait_for(lambda: not left_over(str(tmp_path)))


def wait_for(holds: Callable[[], Any], seconds: float = 60) -> Any:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def ends(workers: RayWorkers, count: int) -> dict[Any, Ended]:
    found: list[Ended] = []

    def all_ended() -> bool:
        found.extend(workers.poll())
        return len(found) >= count

    wait_for(all_ended)
    return {ended.handle: ended for ended in found}


def begun(folder: Path, name: str) -> list[int]:
    return [int(path.suffix.removeprefix(".begun-")) for path in folder.glob(f"{name}.begun-*")]


def test_words_are_run_with_so_many_threads_and_codes_and_last_words_come_back(
    workers: RayWorkers, tmp_path: Path
) -> None:
    assert workers.slots == 2
    handles = [workers.start(Command(f"a/{name}", (name, "0"))) for name in ("run0", "run2")]
    ended = ends(workers, 2)
    assert [ended[handle].code for handle in handles] == [0, 2]
    assert ended[handles[1]].told.startswith("the last word (")
    log = (tmp_path / "logs" / "a-run0.log").read_text(encoding="utf-8")
    assert log == "begun 1 None\nthe last word\n"


def test_all_of_ray_listens_on_the_loopback_address_alone(workers: RayWorkers) -> None:
    assert listening() == []


def test_a_command_that_is_stopped_saves(workers: RayWorkers, tmp_path: Path) -> None:
    handle = workers.start(Command("run0", ("run0", "600")))
    wait_for(lambda: begun(tmp_path, "run0"))
    workers.stop(handle)
    assert ends(workers, 1)[handle].code == 143
    assert (tmp_path / "run0.saved").exists()


def test_a_node_that_vanishes_ends_its_command_which_saves_and_is_told(
    workers: RayWorkers, nodes: Nodes, tmp_path: Path
) -> None:
    handle = workers.start(Command("run0", ("run0", "600")))
    (pid,) = wait_for(lambda: begun(tmp_path, "run0"))
    workers.poll()
    node = next(n for n in nodes.nodes if any(p.pid == pid for p in nodes.processes(n)))
    nodes.kill(node)
    ended = ends(workers, 1)[handle]
    assert ended.code in (exits.TROUBLE, exits.LOST), "Ray may be slower to tell than a test waits"
    assert ended.told.startswith("its node ")
    wait_for((tmp_path / "run0.saved").exists)
    wait_for(lambda: not left_over(str(tmp_path)))
    import ray

    wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)  # with the head
    nodes.add()
    wait_for(lambda: workers.slots == 2)


def test_a_node_that_is_frozen_is_given_up_gets_nothing_and_ends_its_command_when_it_wakes(
    workers: RayWorkers, nodes: Nodes, tmp_path: Path
) -> None:
    handle = workers.start(Command("run0", ("run0", "600")))
    (pid,) = wait_for(lambda: begun(tmp_path, "run0"))
    workers.poll()
    node = next(n for n in nodes.nodes if any(p.pid == pid for p in nodes.processes(n)))
    frozen = nodes.freeze(node)
    ended = ends(workers, 1)[handle]
    assert (ended.code, ended.told) == (exits.LOST, "its node stands still")
    assert workers.slots == 1
    for code in (3, 4):
        other = workers.start(Command(f"run{code}", (f"run{code}", "1")))
        found = ends(workers, 1)[other]
        assert found.code == code, found
    nodes.wake(frozen)
    wait_for(lambda: workers.poll() or (tmp_path / "run0.saved").exists())


def test_a_driver_that_is_killed_leaves_no_command(nodes: Nodes, tmp_path: Path) -> None:
    driver = (
        "import sys, time; from pathlib import Path\n"
        "from engine.sweep.plan import Command\n"
        "from engine.sweep.ray_cluster import ray_cluster\n"
        "from engine.sweep.ray_workers import RayWorkers\n"
        "address, folder, program = sys.argv[1:]\n"
        "with ray_cluster(address) as ray:\n"
        "    words = (sys.executable, '-c', program, folder)\n"
        "    workers = RayWorkers(ray, Path(folder) / 'logs', program=words)\n"
        "    workers.start(Command('run0', ('run0', '600')))\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", driver, nodes.address, str(tmp_path), PROGRAM]
    with subprocess.Popen(command, cwd=ROOT) as process:
        wait_for(lambda: begun(tmp_path, "run0"))
        process.kill()
    wait_for((tmp_path / "run0.saved").exists)
    wait_for(lambda: not left_over(str(tmp_path)))


def test_ctrl_c_stops_commands_at_a_checkpoint_and_leaves_nothing_of_a_cluster_of_its_own(
    tmp_path: Path,
) -> None:
    """Nor does it listen where others could reach it, while it is there."""
    driver = (
        "import sys; from pathlib import Path\n"
        "from engine.command import run_main\n"
        "from engine.sweep.driver import Driver, State\n"
        "from engine.sweep.plan import Command, Plan\n"
        "from engine.sweep.ray_cluster import ray_cluster\n"
        "from engine.sweep.ray_workers import RayWorkers\n"
        "def main():\n"
        "    with ray_cluster(None, 1) as ray:\n"
        "        words = (sys.executable, '-c', sys.argv[2], sys.argv[1])\n"
        "        workers = RayWorkers(ray, Path(sys.argv[1]) / 'logs', program=words)\n"
        "        plan = Plan([Command('run0', ('run0', '600'))])\n"
        "        Driver(plan, workers, lambda _: State(done=False)).run()\n"
        "    return 0\n"
        "run_main(main)\n"
    )
    command = [sys.executable, "-c", driver, str(tmp_path), PROGRAM]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stderr=pipe, text=True) as process:
        wait_for(lambda: begun(tmp_path, "run0"))
        started = psutil.Process(process.pid).children(recursive=True)
        assert listening() == []
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
    assert "stopped by SIGINT; to go on, run the same command again" in said
    assert (tmp_path / "run0.saved").exists()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
