"""Joins a Ray cluster, or starts one here that nobody else can reach."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.mistakes import ConfigError, to_install

_log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

_KNOCK_S = 10.0
"""Seconds in which a cluster's head has to take a connection."""

_QUIET = {
    # Nothing is told to anybody, and no event is exported.
    "RAY_USAGE_STATS_ENABLED": "0",
    # CUDA_VISIBLE_DEVICES of a command without a GPU is left as it is (what Ray will do anyway).
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

ALONE = {
    # By this switch, made for laptops' firewalls, Ray takes the loopback address for its node's:
    # its servers listen on all interfaces unless that is the node's (Ray 2.60, `services.py`).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""Environment of a cluster of one machine, for its processes and for who joins it."""


@contextmanager
def ray_cluster(address: str | None, cpus: int | None = None) -> Iterator[Any]:
    """Yield the module `ray`, connected; at the end what this process started is gone.

    Args:
        address: `HOST:PORT` of a cluster, "auto" for the one of this machine; None starts one here,
            which listens on the loopback address alone.
        cpus: cores of a cluster that is started; None = all.

    Raises:
        ConfigError: there is no cluster at the address.
        RuntimeError: Ray is not installed.
    """
    os.environ.update(_QUIET)
    if address is None or address.partition(":")[0] in (LOOPBACK, "localhost"):
        os.environ.update(ALONE)  # before it is imported
    try:
        import ray
    except ModuleNotFoundError as error:
        raise RuntimeError(f"--on ray needs Ray: {to_install('ray')}") from error
    if address not in (None, "auto"):
        _knock(str(address))
    # Ray ends a driver by SIGTERM at once; ours lets what runs come to a checkpoint.
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    common = {"log_to_driver": False, "logging_level": logging.WARNING, "namespace": "roomsmith"}
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                _node_ip_address=LOOPBACK,
                **common,
            )
        else:
            ray.init(address=address, **common)
    except (ConnectionError, ValueError) as error:
        raise _nobody(str(address)) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        told = "Ray %s: %s, %d nodes, %g cores"
        alive = [node for node in ray.nodes() if node["Alive"]]
        cores = sum(node["Resources"].get("CPU", 0.0) for node in alive)
        where = "a cluster of this process" if address is None else f"joined {address}"
        _log.info(told, ray.__version__, where, len(alive), cores)
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Refuse an address where nobody listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise _nobody(address) from error


def _nobody(address: str) -> ConfigError:
    needed = "name HOST:PORT of `ray start --head`, or leave --address out to start one here"
    return ConfigError(f"--address {address}: no Ray cluster answers there; {needed}")
