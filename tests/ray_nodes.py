"""A Ray cluster of several nodes on this machine, whose nodes can be killed, frozen and woken."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from engine.sweep.ray_cluster import ALONE, LOOPBACK

os.environ.update(ALONE, RAY_USAGE_STATS_ENABLED="0")  # Ray looks once, when it is imported

STORE = 80 << 20
"""Bytes of a node's object store: nothing is put there."""


class Nodes:
    """The cluster; its head has no cores."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.own = {"node_ip_address": LOOPBACK, "object_store_memory": STORE}
        head = {**self.own, "num_cpus": 0, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        """What a driver joins it by."""
        return str(self.cluster.address)

    def add(self) -> Any:
        """A node of one core."""
        node = self.cluster.add_node(num_cpus=1, **self.own)
        self.nodes.append(node)
        return node

    def kill(self, node: Any) -> None:
        """Let a node vanish, with all that it runs, as a machine does."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def freeze(self, node: Any) -> list[psutil.Process]:
        """Stop all processes of a node; returns them, for `wake`."""
        found = self.processes(node)
        for process in found:
            process.send_signal(signal.SIGSTOP)
        return found

    def wake(self, processes: list[psutil.Process]) -> None:
        """Let stopped processes go on, those that still are."""
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGCONT)

    def processes(self, node: Any) -> list[psutil.Process]:
        """The raylet of a node and all that it has started, first the raylet."""
        (info,) = node.all_processes["raylet"]
        raylet = psutil.Process(info.process.pid)
        return [raylet, *raylet.children(recursive=True)]

    def close(self) -> None:
        """End the cluster."""
        self.cluster.shutdown()


@contextmanager
def ray_nodes(count: int) -> Iterator[Nodes]:
    """A cluster with so many nodes of one core."""
    nodes = Nodes()
    try:
        for _ in range(count):
            nodes.add()
        yield nodes
    finally:
        nodes.close()


def left_over(word: str) -> list[str]:
    """Processes of this machine whose command line has a word, such as a folder's name."""
    here = os.getpid()
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if word in line and process.pid != here:
            found.append(f"{process.pid} {line}")
    return found


def listening() -> list[tuple[str, str]]:
    """Addresses that processes of Ray on this machine listen on, other than the loopback's."""
    found = []
    for connection in psutil.net_connections("inet"):
        if connection.status != psutil.CONN_LISTEN or connection.pid is None:
            continue
        try:
            name = " ".join(psutil.Process(connection.pid).cmdline()[:1])
        except psutil.NoSuchProcess:  # it ended after the list was made
            continue
        if "ray" in name and connection.laddr.ip not in (LOOPBACK, "::ffff:127.0.0.1", "::1"):
            found.append((name, f"{connection.laddr.ip}:{connection.laddr.port}"))
    return found
